"""MaxSim, its int8 codec and the matrix product under both, against plain loops in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecolbert import InputError, maxsim
from edgecolbert.codec import QuantizedTokens, quantize
from edgecolbert.linalg import product
from edgecolbert.scoring import maxsim_packed

FloatArray = npt.NDArray[np.float32]


def _rows(seed: int, n_rows: int, dim: int) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((n_rows, dim)).astype(np.float32)
    unit: FloatArray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return unit


def _naive(query: FloatArray, document: FloatArray) -> float:
    if len(document) == 0:
        return -float(len(query))
    total = 0.0
    for token in query.astype(np.float64):
        total += max(sum(a * b for a, b in zip(token, other, strict=True)) for other in document.astype(np.float64))
    return total


SHAPES = st.tuples(st.integers(0, 10_000), st.integers(0, 6), st.integers(0, 9), st.integers(1, 20))


@given(SHAPES)
def test_maxsim_equals_the_double_loop(shape: tuple[int, int, int, int]) -> None:
    seed, n_query, n_document, dim = shape
    query, document = _rows(seed, n_query, dim), _rows(seed + 1, n_document, dim)
    expected = _naive(query, document) if n_query else 0.0
    assert maxsim(query, document) == pytest.approx(expected, abs=1e-5)


@given(seed=st.integers(0, 10_000), lengths=st.lists(st.integers(0, 9), max_size=8), n_query=st.integers(0, 5))
def test_packed_maxsim_equals_the_double_loop_for_ragged_and_empty_documents(
    seed: int, lengths: list[int], n_query: int
) -> None:
    queries = [_rows(seed, n_query, 8), _rows(seed + 1, 3, 8)]
    documents = [quantize(_rows(seed + 2 + n, length, 8)) for n, length in enumerate(lengths)]
    scores = maxsim_packed(queries, documents)
    assert scores.shape == (2, len(lengths))
    assert scores.dtype == np.float32
    for row, query in zip(scores, queries, strict=True):
        for score, document in zip(row, documents, strict=True):
            expected = _naive(query, document.to_float()) if len(query) else 0.0
            assert score == pytest.approx(expected, abs=1e-5)


def test_packed_maxsim_of_more_rows_than_a_block_equals_each_alone() -> None:
    generator = np.random.default_rng(5)
    documents = [quantize(_rows(n, int(generator.integers(0, 400)), 16)) for n in range(100)]
    queries = [_rows(900 + n, 12, 16) for n in range(3)]
    assert sum(len(document.values) for document in documents) > 2 * 8_192
    together = maxsim_packed(queries, documents)
    for row, query in enumerate(queries):
        for column in range(0, 100, 7):
            alone = maxsim_packed([query], [documents[column]])[0, 0]
            assert together[row, column] == pytest.approx(alone, abs=1e-5)
            assert alone == pytest.approx(maxsim(query, documents[column].to_float()), abs=1e-5)


@given(SHAPES)
def test_the_order_of_document_tokens_does_not_matter(shape: tuple[int, int, int, int]) -> None:
    seed, n_query, n_document, dim = shape
    query, document = _rows(seed, n_query, dim), _rows(seed + 1, n_document, dim)
    shuffled = np.random.default_rng(seed).permutation(document)
    assert maxsim(query, shuffled) == pytest.approx(maxsim(query, document), abs=1e-6)


@given(SHAPES, st.integers(0, 6))
def test_scores_of_a_querys_parts_add_up(shape: tuple[int, int, int, int], cut: int) -> None:
    seed, n_query, n_document, dim = shape
    query, document = _rows(seed, n_query, dim), _rows(seed + 1, n_document, dim)
    parts = maxsim(query[:cut], document) + maxsim(query[cut:], document)
    assert maxsim(query, document) == pytest.approx(parts, abs=1e-5)


@given(SHAPES)
def test_another_document_token_never_lowers_the_score(shape: tuple[int, int, int, int]) -> None:
    seed, n_query, n_document, dim = shape
    query, document = _rows(seed, n_query, dim), _rows(seed + 1, n_document + 1, dim)
    assert maxsim(query, document) >= maxsim(query, document[:-1]) - 1e-6


def test_a_documents_score_does_not_depend_on_its_companions() -> None:
    query = _rows(0, 7, 16)
    document = quantize(-np.abs(_rows(1, 4, 16)))
    alone = maxsim_packed([np.abs(query)], [document])[0, 0]
    assert alone < 0
    company = [quantize(_rows(n, n, 16)) for n in range(12)]
    together = maxsim_packed([np.abs(query)], [*company[:5], document, *company[5:]])[0, 5]
    assert together == pytest.approx(alone, abs=1e-6)


def test_no_documents_or_no_queries_give_an_empty_table() -> None:
    assert maxsim_packed([], []).shape == (0, 0)
    assert maxsim_packed([_rows(0, 2, 4)], []).shape == (1, 0)
    assert maxsim_packed([], [quantize(_rows(0, 2, 4))]).shape == (0, 1)


@given(
    seed=st.integers(0, 10_000),
    n_tokens=st.integers(0, 20),
    magnitude=st.sampled_from([1e-40, 1e-30, 1e-6, 1.0, 1e6, 1e30]),
)
def test_no_component_is_off_by_more_than_half_a_step(seed: int, n_tokens: int, magnitude: float) -> None:
    rows = (np.random.default_rng(seed).standard_normal((n_tokens, 8)) * magnitude).astype(np.float32)
    tokens = quantize(rows)
    assert tokens.values.dtype == np.int8
    assert tokens.scale > 0
    error = np.abs(tokens.to_float().astype(np.float64) - rows)
    assert error.max(initial=0.0) <= max(tokens.scale * 0.501, np.abs(rows).max(initial=0.0) / 253)


@given(seed=st.integers(0, 10_000), n_tokens=st.integers(0, 20), dim=st.integers(1, 20))
def test_stored_bytes_come_back_as_they_were(seed: int, n_tokens: int, dim: int) -> None:
    tokens = quantize(_rows(seed, n_tokens, dim))
    copy = QuantizedTokens.from_bytes(tokens.to_bytes(), tokens.scale, dim)
    assert np.array_equal(copy.values, tokens.values)
    assert copy.values.shape == (n_tokens, dim)
    assert np.array_equal(copy.to_float(), tokens.to_float())


def test_zero_rows_stay_zero() -> None:
    assert not quantize(np.zeros((2, 4), dtype=np.float32)).to_float().any()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_cannot_be_stored(wrong: float) -> None:
    with pytest.raises(InputError, match="token embedding that is NaN or infinite, which cannot be stored"):
        quantize(np.array([[1.0, wrong]], dtype=np.float32))


@pytest.mark.parametrize(
    "shape",
    [(0, 4, 3), (1, 1, 1), (5, 0, 3), (5, 4, 0), (2_731, 96, 1), (9_000, 96, 33), (3, 600, 900), (100, 24, 128)],
)
def test_product_equals_the_matrix_product(shape: tuple[int, int, int]) -> None:
    rows, inner, columns = shape
    generator = np.random.default_rng(1)
    left = generator.standard_normal((rows, inner)).astype(np.float32)
    right = generator.standard_normal((inner, columns)).astype(np.float32)
    result = product(left, right)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, left.astype(np.float64) @ right, rtol=1e-4, atol=1e-4)


def test_product_takes_transposed_and_sliced_matrices() -> None:
    left = _rows(0, 6_000, 64)[::2, ::2]
    right = _rows(1, 100, 64)[:, ::2].T
    np.testing.assert_allclose(product(left, right), left @ right, atol=1e-5)

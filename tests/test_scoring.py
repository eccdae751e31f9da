"""MaxSim, its int8 codec and the matrix product under both, against plain loops in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecolbert import InputError, maxsim
from edgecolbert.codec import QuantizedTokens, quantize
from edgecolbert.kernels import OnnxruntimeKernel, numpy_maxima, round_query, tile_maxima, tiles_of
from edgecolbert.linalg import product
from edgecolbert.scoring import maxsim_blocks, maxsim_packed

FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]


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


def _rounding(query: FloatArray, tokens: QuantizedTokens) -> float:
    """How far a score may be off: half a step of 1/32,512 a component for the query, and the float32 it is given in."""
    if not query.size or not len(tokens.values):
        return 0.0
    longest = np.abs(tokens.to_float().astype(np.float64)).sum(axis=1).max()
    largest = np.abs(query.astype(np.float64))
    return float(largest.max(axis=1).sum() / 65_024 * longest + largest.sum() * longest * 1e-7)


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
            assert abs(score - expected) <= _rounding(query, document)


@given(
    seed=st.integers(0, 10_000),
    dim=st.sampled_from([1, 2, 3, 48, 128]),
    query_magnitude=st.sampled_from([1e-38, 1e-20, 1.0, 1e15]),
    magnitude=st.sampled_from([1e-20, 1.0, 1e15]),
    lengths=st.lists(st.integers(0, 18), min_size=1, max_size=6),
)
def test_packed_maxsim_is_as_near_as_rounding_allows_whatever_the_lengths_of_vectors(
    seed: int, dim: int, query_magnitude: float, magnitude: float, lengths: list[int]
) -> None:
    generator = np.random.default_rng(seed)

    def rows(count: int, scale: float) -> FloatArray:
        values = generator.standard_normal((count, dim)) * scale * 10.0 ** generator.uniform(-3, 3, (count, 1))
        return values.astype(np.float32)

    query = rows(4, query_magnitude)
    query[1] = -np.abs(query[1])
    query[2] = 0
    documents = [quantize(np.abs(rows(length, magnitude))) for length in lengths]
    for score, document in zip(maxsim_packed([query], documents)[0], documents, strict=True):
        expected = _naive(query, document.to_float())
        # What float32 cannot hold is 0 or denormal.
        assert abs(float(score) - expected) <= _rounding(query, document) + 1e-44


def test_a_score_is_the_same_to_the_last_bit_in_any_company_and_order() -> None:
    generator = np.random.default_rng(5)
    documents = [quantize(_rows(n, int(generator.integers(0, 800)), 16)) for n in range(100)]
    queries = [_rows(900 + n, int(n * 3), 16) for n in range(9)]  # more columns than one group
    assert sum(len(document.values) for document in documents) > 2 * 16_384
    together = maxsim_packed(queries, documents)
    assert np.array_equal(maxsim_packed(queries, documents[::-1]), together[:, ::-1])
    assert np.array_equal(maxsim_packed(queries[::-1], documents), together[::-1])
    for column in range(0, 100, 7):
        assert np.array_equal(maxsim_packed(queries, [documents[column]])[:, 0], together[:, column])
        for row, query in enumerate(queries):
            expected = maxsim(query, documents[column].to_float())
            assert abs(together[row, column] - expected) <= _rounding(query, documents[column])


def test_documents_with_the_same_tokens_tie_exactly() -> None:
    tokens = quantize(_rows(1, 50, 96))
    shuffled = [QuantizedTokens(np.random.default_rng(n).permutation(tokens.values), tokens.scale) for n in range(5)]
    repeated = QuantizedTokens(np.concatenate([tokens.values, tokens.values[:7]]), tokens.scale)
    (scores,) = maxsim_packed([_rows(0, 32, 96)], [tokens, *shuffled, repeated])
    assert len(set(scores.tolist())) == 1


def test_a_stream_of_documents_is_scored_in_order_and_read_a_block_at_a_time() -> None:
    n_read = 0

    def stream() -> Iterator[tuple[int, QuantizedTokens]]:
        nonlocal n_read
        for number in range(40):
            n_read += 1
            yield number, quantize(_rows(number, 1_000, 8))

    query = _rows(99, 4, 8)
    keys = []
    for block, scores in maxsim_blocks([query], stream()):
        assert len(keys) + len(block) >= n_read - 1
        assert scores.shape == (1, len(block))
        keys += block
    assert keys == list(range(40))


SIGNED = [True, False]  # the second is what processors get whose signed products overflow


@pytest.mark.parametrize("signed", SIGNED)
@pytest.mark.parametrize("dim", [1, 7, 48, 64, 96, 128, 515])
@pytest.mark.parametrize("kind", ["random", "largest", "least", "mixed"])
def test_every_kernel_gives_the_same_integers(signed: bool, dim: int, kind: str) -> None:
    generator = np.random.default_rng(dim)
    values = {
        "random": generator.integers(-127, 128, (60, dim)),
        "largest": np.full((60, dim), 127),
        "least": np.full((60, dim), -128),
        "mixed": generator.choice([-128, 127], (60, dim)),
    }[kind].astype(np.int8)
    query = round_query((generator.standard_normal((33, dim)) if kind == "random" else np.ones((33, dim))) * _signs(33))
    kernel = OnnxruntimeKernel(signed=signed)
    if signed and not kernel.is_exact():
        pytest.skip("this processor's signed products overflow, and are not used")
    tiles = tiles_of([values[:1], values[1:4], values[4:12], values[12:]])
    expected = _integer_maxima(values, query.values, [0, 1, 4, 12])
    for maxima in (kernel.maxima(tiles, query), numpy_maxima(tiles, query), tile_maxima(tiles, query)):
        assert np.array_equal(np.maximum.reduceat(maxima, [0, 1, 2, 3], axis=0).astype(object), expected)


def _signs(count: int) -> FloatArray:
    return np.where(np.arange(count) % 2, np.float32(-1), np.float32(1))[:, None]


def _integer_maxima(values: Int8Array, query: npt.NDArray[np.float64], starts: list[int]) -> npt.NDArray[np.object_]:
    products = values.astype(object) @ query.astype(int).astype(object)
    ends = [*starts[1:], len(values)]
    return np.array([products[start:end].max(axis=0) for start, end in zip(starts, ends, strict=True)])


def test_vectors_too_long_for_32_bits_are_multiplied_by_numpy() -> None:
    dim = 1_024
    documents = [QuantizedTokens(np.full((9, dim), value, dtype=np.int8), 1.0) for value in (127, -127)]
    query = np.ones((2, dim), dtype=np.float32)
    assert maxsim_packed([query, -query], documents).tolist() == [[260096.0, -260096.0], [-260096.0, 260096.0]]


@given(seed=st.integers(0, 10_000), n_tokens=st.integers(0, 5), dim=st.integers(1, 20))
def test_a_querys_parts_make_its_16_bits(seed: int, n_tokens: int, dim: int) -> None:
    query = _rows(seed, n_tokens, dim)
    rounded = round_query(query)
    assert np.array_equal(255 * rounded.high.astype(int) + rounded.low, rounded.values)
    assert np.abs(rounded.values).max(initial=0) <= 32_512
    assert (np.abs(rounded.values * rounded.steps - query.T) <= rounded.steps * 0.5000001).all()


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
    assert together == alone


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

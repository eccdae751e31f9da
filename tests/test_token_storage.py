"""Ways to store token embeddings: 8 and 4 bits, and pooled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_database import raw
from word_encoder import DIM, SplittingEncoder, WordEncoder

from edgecolbert import Index, InputError, TokenSettings, maxsim, reencode
from edgecolbert.codec import QuantizedTokens, quantize, stored_bytes
from edgecolbert.errors import InputTypeError, StoreFormatError, StoreMismatchError
from edgecolbert.pooling import pool_tokens, ward_clusters

FloatArray = npt.NDArray[np.float32]

GOLDENS = Path(__file__).parent / "fixtures" / "pooling-goldens.json"
SETTINGS = [
    TokenSettings(),
    TokenSettings(bits=4),
    TokenSettings(pool_factor=2),
    TokenSettings(bits=4, pool_factor=3),
]
TEXTS = [f"red kettle number{n} of many{n % 3} on the shelf beside cup{n}" for n in range(20)]
RED = "content_id = (SELECT content_id FROM documents WHERE id = '3')"


def _rows(seed: int, n_tokens: int, dim: int) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((n_tokens, dim)).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# Bits


@pytest.mark.parametrize("bits", [8, 4])
@given(seed=st.integers(0, 1_000), n_tokens=st.integers(0, 9), dim=st.integers(1, 9), size=st.floats(1e-20, 1e20))
def test_stored_tokens_come_back_as_they_were_rounded(
    bits: int, seed: int, n_tokens: int, dim: int, size: float
) -> None:
    embeddings = np.random.default_rng(seed).standard_normal((n_tokens, dim)).astype(np.float32) * np.float32(size)
    tokens = quantize(embeddings, bits)
    content = tokens.to_bytes()
    assert len(content) == stored_bytes(n_tokens, dim, bits)
    found = QuantizedTokens.from_bytes(content, tokens.scale, dim, bits)
    assert np.array_equal(found.values, tokens.values)
    assert (found.values.dtype, found.values.shape, found.values.flags.c_contiguous) == (np.int8, (n_tokens, dim), True)
    off = np.abs(found.to_float().astype(np.float64) - embeddings)
    largest = float(np.abs(embeddings).max(initial=0.0))
    if bits == 8:
        assert off.max(initial=0.0) <= largest / 254 * 1.0001
    elif off.size:
        spread = float(np.abs(embeddings - embeddings.mean(axis=0)).max())
        assert np.sqrt((off**2).mean()) <= spread / 8 + 3 * tokens.scale
        assert tokens.scale <= 3 * largest / 126 * 1.0001


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    "embeddings", [np.zeros((3, 5)), np.full((2, 4), 1e-45), np.full((2, 4), 1e-43), np.eye(4), np.full((1, 1), -3e38)]
)
def test_extreme_tokens_are_stored(bits: int, embeddings: npt.NDArray[np.float64]) -> None:
    tokens = quantize(embeddings.astype(np.float32), bits)
    assert tokens.scale > 0
    found = tokens.to_float()
    assert np.isfinite(found).all()
    # What was largest stays largest: a one-hot row is still found by its one.
    assert np.array_equal(found.argmax(axis=1), embeddings.argmax(axis=1))


@pytest.mark.parametrize("bits", [8, 4])
def test_tokens_that_are_not_finite_are_refused(bits: int) -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        quantize(np.array([[1.0, np.nan]], dtype=np.float32), bits)


def test_four_bits_cost_one_part_in_eighty_of_normally_distributed_tokens() -> None:
    rows = _rows(0, 200, 96)
    lost = [float(np.square(quantize(rows, bits).to_float() - rows).sum(axis=1).mean()) for bits in (8, 4)]
    assert lost[0] < 0.0005
    assert lost[1] < 1 / 75


def test_a_direction_that_all_tokens_share_does_not_drown_what_they_differ_in() -> None:
    own = _rows(0, 200, 96)
    rows = own + 4 * _rows(1, 1, 96)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    differences = rows - rows.mean(axis=0)
    lost = np.square(quantize(rows, 4).to_float() - rows).sum() / np.square(differences).sum()
    assert lost < 1 / 60


def test_one_rare_large_component_does_not_make_all_others_coarse() -> None:
    rows = _rows(0, 200, 96)
    rows[7, 7] = 1.0
    assert float(np.square(quantize(rows, 4).to_float() - rows).sum(axis=1).mean()) < 1 / 60


# Pooling


def _sorted(rows: FloatArray) -> FloatArray:
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("case", json.loads(GOLDENS.read_text(encoding="utf-8")))
def test_pooled_tokens_are_pylates(case: dict[str, list[list[float]]]) -> None:
    rows, expected = (np.array(case[name], dtype=np.float32) for name in ("rows", "pooled"))
    pooled = pool_tokens(rows, case["pool_factor"])  # type: ignore[arg-type]
    assert pooled.shape == expected.shape
    assert pooled.dtype == np.float32
    assert np.array_equal(pooled[0], expected[0])
    np.testing.assert_allclose(_sorted(pooled), _sorted(expected), rtol=0, atol=1e-6)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 14), data=st.data())
def test_clusters_are_those_of_merging_the_nearest_two_again_and_again(seed: int, n: int, data: st.DataObject) -> None:
    n_clusters = data.draw(st.integers(1, n))
    rows = _rows(seed, n, 5).astype(np.float64)
    distances = 1 - rows @ rows.T
    clusters = [[item] for item in range(n)]
    between = {(a, b): distances[a, b] for a in range(n) for b in range(n)}
    while len(clusters) > n_clusters:
        _, a, b = min((between[x[0], y[0]], i, j) for i, x in enumerate(clusters) for j, y in enumerate(clusters[:i]))
        x, y = clusters.pop(a), clusters.pop(b)
        for z in clusters:
            weight = len(x) + len(y) + len(z)
            squared = (
                (len(x) + len(z)) * between[x[0], z[0]] ** 2
                + (len(y) + len(z)) * between[y[0], z[0]] ** 2
                - len(z) * between[x[0], y[0]] ** 2
            )
            between[y[0], z[0]] = between[z[0], y[0]] = (squared / weight) ** 0.5
        clusters.append(y + x)
    found = ward_clusters(distances, n_clusters)
    assert {frozenset(cluster) for cluster in clusters} == {
        frozenset(np.flatnonzero(found == number).tolist()) for number in set(found.tolist())
    }
    assert list(dict.fromkeys(found.tolist())) == list(range(n_clusters))


@pytest.mark.parametrize(("n_tokens", "pool_factor", "n_left"), [(0, 2, 0), (1, 2, 1), (2, 9, 2), (3, 2, 2), (6, 1, 6)])
def test_short_passages_are_pooled_too(n_tokens: int, pool_factor: int, n_left: int) -> None:
    rows = _rows(3, n_tokens, 7)
    pooled = pool_tokens(rows, pool_factor)
    assert pooled.shape == (n_left, 7)
    assert np.array_equal(pooled[:1], rows[:1])
    np.testing.assert_allclose(
        pooled[1:].mean(axis=0) if n_left == 2 else 0, rows[1:].mean(axis=0) if n_left == 2 else 0
    )


def test_tokens_that_repeat_become_one() -> None:
    # PyLate cannot pool such a passage where rounding makes a distance negative.
    a, b, c = _rows(1, 3, 96)
    pooled = pool_tokens(np.array([a, b, c, b, c, c]), 2)
    np.testing.assert_allclose(pooled, [a, b, c], rtol=0, atol=1e-6)


def test_a_long_passage_of_few_different_tokens_is_pooled() -> None:
    # All distances are zeros of either sign but for rounding.
    few = _rows(2, 5, 96)
    rows = few[np.random.default_rng(0).integers(0, 5, 400)]
    pooled = pool_tokens(rows, 100)
    assert len(pooled) == 4
    assert np.abs(np.linalg.norm(pool_tokens(rows, 2), axis=1) - 1).max() < 1e-5


# An index


@pytest.mark.parametrize("tokens", SETTINGS)
def test_an_index_finds_and_verifies_whatever_way_tokens_are_stored(path: Path, tokens: TokenSettings) -> None:
    with Index.open(path, model=WordEncoder(), tokens=tokens) as index:
        index.add([{"id": f"{n}", "text": text} for n, text in enumerate(TEXTS)])
    with Index.open(path, model=WordEncoder()) as index:
        index.add([{"id": "late", "text": "a latecomer with a green lid"}])
        stats = index.stats()
        assert stats.token_storage == tokens.to_json()
        n_words = [len(text.split()) for text in TEXTS] + [6]
        n_stored = sum((n - 1) // tokens.pool_factor + 1 for n in n_words)
        assert stats.tokens == n_stored
        # With 4 bits each passage has its mean beside the tokens, and one byte.
        n_beside = 21 * (DIM + 1) if tokens.bits == 4 else 0
        assert stats.token_bytes == n_stored * DIM * tokens.bits // 8 + n_beside
        assert index.verify().problems == ()
        for options in ({"exact": True}, {"n_candidates": 6}):
            assert index.search("number7 cup7", k=1, **options)[0].id == "7"  # type: ignore[arg-type]
            assert index.search("a latecomer with a green lid", k=1, **options)[0].id == "late"  # type: ignore[arg-type]
        index.tune(rebuild=True, compare=False)
        assert index.verify().problems == ()
        assert index.search("number7 cup7", k=1, n_candidates=6)[0].id == "7"


@pytest.mark.parametrize("dim", [15, 16])
def test_a_score_is_that_of_the_stored_tokens(path: Path, dim: int) -> None:
    encoder = WordEncoder(dim=dim)
    with Index.open(path, model=encoder, tokens=TokenSettings(bits=4, pool_factor=2)) as index:
        index.add(TEXTS)
        (hit,) = index.search("kettle number7 cup7", k=1)
        (query,) = encoder.encode_queries(["kettle number7 cup7"])
        stored = quantize(pool_tokens(*encoder.encode_documents([hit.text]), 2), 4).to_float()  # type: ignore[arg-type]
        assert hit.score == pytest.approx(maxsim(query, stored), abs=1e-4)


def test_passages_of_a_long_document_are_pooled_one_by_one(path: Path) -> None:
    text = ". ".join(f"Word{n} stands here with word{n} again and more" for n in range(9)) + "."
    with Index.open(path, model=SplittingEncoder(), tokens=TokenSettings(pool_factor=2)) as index:
        index.add([text])
        stats = index.stats()
        assert (stats.passages, stats.tokens) == (9, 9 * 4)


@pytest.mark.parametrize("tokens", SETTINGS)
def test_damaged_tokens_are_found_and_made_again_in_the_same_way(path: Path, tokens: TokenSettings) -> None:
    with Index.open(path, model=WordEncoder(), tokens=tokens) as index:
        index.add([{"id": f"{n}", "text": text} for n, text in enumerate(TEXTS)])
        before = index.stats()
    with raw(path) as connection:
        (blob,) = connection.execute(f"SELECT tokens FROM passages WHERE {RED}").fetchone()
        connection.execute(f"UPDATE passages SET tokens = ? WHERE {RED}", (blob[:-1] + bytes([blob[-1] ^ 16]),))
    with Index.open(path, model=WordEncoder()) as index:
        assert [problem.ids for problem in index.verify().problems] == [("3",)]
        with pytest.raises(StoreFormatError, match="embeddings of '3' are damaged"):
            index.search("kettle", exact=True)
    assert reencode(path, model=WordEncoder()) == len(TEXTS)
    with Index.open(path, model=WordEncoder(), tokens=tokens) as index:
        assert index.verify().problems == ()
        after = index.stats()
        assert (after.tokens, after.token_bytes, after.token_storage) == (
            before.tokens,
            before.token_bytes,
            before.token_storage,
        )


def test_settings_of_tokens_outlive_the_model(path: Path) -> None:
    with Index.open(path, model=WordEncoder(), tokens=TokenSettings(bits=4)) as index:
        index.add(TEXTS)
    new = WordEncoder("new", dim=13)
    reencode(path, model=new)
    with Index.open(path, model=new) as index:
        stats = index.stats()
        assert (stats.token_storage["bits"], stats.token_bytes) == (4, stats.tokens * 7 + 20 * 14)
        assert index.search("number7", k=1)[0].text == TEXTS[7]


# Settings


def test_other_settings_than_the_files_are_refused_by_name(path: Path) -> None:
    with Index.open(path, model=WordEncoder(), tokens=TokenSettings(bits=4)):
        pass
    with Index.open(path, model=WordEncoder(), tokens=TokenSettings(bits=4)) as index:
        assert len(index) == 0
    with pytest.raises(
        StoreMismatchError,
        match=r"made with tokens = \{'bits': 4, 'pool_factor': 1\}, but .*'bits': 8.* reencode --db .*index\.db "
        r"--token-bits 8 --pool-factor 1\.",
    ):
        Index.open(path, model=WordEncoder(), tokens=TokenSettings())


def test_a_setting_that_is_not_named_is_the_files(path: Path) -> None:
    with Index.open(path, model=WordEncoder(), tokens={"pool_factor": 2}) as index:
        assert index.stats().token_storage == {"bits": 8, "pool_factor": 2}
    for named in ({}, {"pool_factor": 2}, {"bits": 8}, {"bits": 8, "pool_factor": 2}):
        with Index.open(path, model=WordEncoder(), tokens=named) as index:
            assert index.stats().token_storage == {"bits": 8, "pool_factor": 2}
    for named in ({"bits": 4}, {"bits": 8, "pool_factor": 1}):
        with pytest.raises(StoreMismatchError, match=r"made with tokens = \{'bits': 8, 'pool_factor': 2\}, but "):
            Index.open(path, model=WordEncoder(), tokens=named)


def test_a_file_that_says_nothing_about_tokens_stores_all_of_them_as_int8(path: Path) -> None:
    with Index.open(path, model=WordEncoder(), tokens=TokenSettings()) as index:
        index.add(TEXTS)
    with raw(path) as connection:
        (settings,) = connection.execute("SELECT settings FROM encodings").fetchone()
    # As it was before there was a choice, so that such files and earlier versions go together.
    assert "tokens" not in json.loads(settings)
    with pytest.raises(
        StoreMismatchError, match=r"made with tokens = \{'bits': 8, 'pool_factor': 1\}, but .*'bits': 4"
    ):
        Index.open(path, model=WordEncoder(), tokens=TokenSettings(bits=4))


@pytest.mark.parametrize("found", [{"bits": 2}, {"codebook": 1}, {"bits": "4"}, 4, None])
def test_a_way_of_storing_that_is_not_known_is_refused_when_the_file_is_opened(path: Path, found: object) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        index.add(TEXTS)
    with raw(path) as connection:
        (settings,) = connection.execute("SELECT settings FROM encodings").fetchone()
        connection.execute("UPDATE encodings SET settings = ?", (json.dumps(json.loads(settings) | {"tokens": found}),))
    with pytest.raises(StoreFormatError, match=r"index\.db stores token embeddings in a way that .*Upgrade"):
        Index.open(path, model=WordEncoder())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"bits": 2}, InputError, "bits is 2, expected 8 or 4"),
        ({"bits": 4.0}, InputTypeError, r"bits is 4\.0, expected a whole number"),
        ({"pool_factor": 0}, InputError, "pool_factor is 0, expected at least 1"),
        ({"pool_factor": True}, InputTypeError, "pool_factor is True, expected a whole number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings: dict[str, int], error: type[InputError], message: str
) -> None:
    with pytest.raises(error, match=message):
        TokenSettings(**settings)


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (4, InputTypeError, "tokens is int, expected TokenSettings"),
        ({"bit": 4}, InputError, "tokens has 'bit', expected only bits and pool_factor"),
        ({"bits": 5}, InputError, "bits is 5, expected 8 or 4"),
        ({"pool_factor": None}, InputTypeError, "pool_factor is None, expected a whole number"),
    ],
)
def test_something_else_than_settings_is_refused_before_a_file_is_made(
    path: Path, tokens: Any, error: type[InputError], message: str
) -> None:
    with pytest.raises(error, match=message):
        Index.open(path, model=WordEncoder(), tokens=tokens)
    assert not path.exists()
    with pytest.raises(error, match=message):
        reencode(path, model=WordEncoder(), tokens=tokens)

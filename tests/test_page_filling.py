"""Rows of token embeddings in an order that fills the pages of the file, checked against the pages SQLite makes."""

from __future__ import annotations

import random
import sqlite3
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecolbert import Index, upkeep
from edgecolbert.encryption import PAGE_OVERHEAD
from edgecolbert.page_filling import in_filling_order, leaf_bytes

PAGE = 4_096


def _pages(path: Path, blobs: list[int]) -> int:
    """Pages of a table with one blob a row."""
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE}")
        connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, tokens BLOB)")
        connection.executemany("INSERT INTO rows (tokens) VALUES (zeroblob(?))", [(size,) for size in blobs])
        (count,) = connection.execute("PRAGMA page_count").fetchone()
    connection.close()
    return int(count)


def test_what_lies_in_the_leaf_is_what_sqlite_puts_there(tmp_path: Path) -> None:
    for size in (200, 2_000, 3_500, 4_300, 6_000, 8_200, 12_345, 23_808):
        # A second row fits beside it exactly where the rest of the page is as large as is said: header 8, and 2 bytes
        # in the list of rows, 2 of length, 1 of number and, where a part lies elsewhere, 4 of its place.
        payload = size + (4 if size * 2 + 13 < 16_384 else 5)  # length of the record's header, its three types
        local = leaf_bytes(payload, PAGE)
        taken = local + 2 + (2 if payload < 16_384 else 3) + 1 + (4 if local < payload else 0)
        room = PAGE - 8 - taken
        beside = room - 2 - 2 - 1 - 4  # a row of 128 bytes or more whose header has 4 bytes
        assert beside >= 200, size
        alone = _pages(tmp_path / f"{size}.db", [size])
        assert _pages(tmp_path / f"{size}-fits.db", [size, beside]) == alone, size
        assert _pages(tmp_path / f"{size}-more.db", [size, beside + 1]) > alone, size


def test_the_longest_row_that_lies_in_the_leaf_as_a_whole(tmp_path: Path) -> None:
    # A header of 4 bytes; one byte more, and the rest lies in a page of its own.
    assert leaf_bytes(4_057 + 4, PAGE) == 4_061
    assert leaf_bytes(4_058 + 4, PAGE) < 4_062
    assert _pages(tmp_path / "whole.db", [4_057]) + 1 == _pages(tmp_path / "cut.db", [4_058])


@given(
    st.lists(st.lists(st.integers(0, 60_000), max_size=4), max_size=40), st.sampled_from([PAGE, PAGE - PAGE_OVERHEAD])
)
@settings(max_examples=100, deadline=None)
def test_every_text_is_stored_once(sizes: list[list[int]], usable: int) -> None:
    texts = list(enumerate(sizes))
    ordered = in_filling_order(texts, lambda text: text[1], usable)
    assert sorted(ordered) == texts
    several = [number for number, of_text in ordered if len(of_text) != 1]
    assert all(first < second for first, second in pairwise(several))


def test_few_bytes_of_the_pages_stay_empty(tmp_path: Path) -> None:
    generator = random.Random(3)
    sizes = [generator.randint(1_000, 24_000) for _ in range(640)]
    ordered = [
        size
        for start in range(0, len(sizes), 64)
        for size in in_filling_order(sizes[start : start + 64], lambda size: [size], PAGE)
    ]
    least = sum(sizes) / PAGE
    before, after = _pages(tmp_path / "before.db", sizes), _pages(tmp_path / "after.db", ordered)
    assert before / least > 1.06
    assert after / least < 1.03


class _Encoder:
    """As many random tokens as a text says."""

    dim = 96

    def encode_documents(self, documents: list[str]) -> list[np.ndarray]:
        found = []
        for text in documents:
            rows = (
                np.random.default_rng(zlib.crc32(text.encode()))
                .standard_normal((int(text.split()[0]), self.dim))
                .astype(np.float32)
            )
            found.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
        return found

    def encode_queries(self, queries: list[str]) -> list[np.ndarray]:
        return self.encode_documents(queries)


@pytest.mark.parametrize("key", [None, "correct horse battery staple"])
def test_an_index_stores_texts_in_that_order(tmp_path: Path, key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # Building a first stage leaves pages empty that the next change takes; here only the rows are compared.
    monkeypatch.setattr(upkeep, "FIRST_STAGE_FROM", 1_000)
    if key is not None:
        pytest.importorskip("sqlcipher3.dbapi2")
    generator = random.Random(5)
    texts = [f"{generator.randint(10, 240)} of {number}" for number in range(256)]
    sizes = {}
    for name, batches in (("together", [texts]), ("one by one", [[text] for text in texts])):
        path = tmp_path / f"{name}.db"
        with Index.open(path, model=_Encoder(), key=key, split_documents=False) as index:
            for batch in batches:
                index.add([{"id": text, "text": text} for text in batch])
            assert [hit.id for hit in index.search(texts[7], k=1, exact=True)] == [texts[7]]
            sizes[name] = index.stats().file_bytes
            assert not index.verify().problems
    assert sizes["together"] < 0.98 * sizes["one by one"]

"""Files of every schema version, frozen as they were written: they open, read, write, verify, and can be dumped."""

from __future__ import annotations

import gzip
import sqlite3
from pathlib import Path

import pytest

from edgecolbert import Index, recover
from edgecolbert.schema import SCHEMA_VERSION

FIXTURES = Path(__file__).parent / "fixtures"
FROZEN = sorted((FIXTURES / "databases").glob("version-*.db.gz"))
MODEL = FIXTURES / "tiny-model"
# What the version that wrote the file found for "dance".
FOUND = {
    1: [("long", 14.536962509155273), ("bees", 13.77668571472168)],
    2: [("n0", 14.5101900100708), ("n6", 14.445478439331055), ("long", 14.41063117980957)],
    3: [("n0", 14.5101900100708), ("n6", 14.445478439331055), ("long", 14.41063117980957)],
    4: [("n0", 14.5101900100708), ("n6", 14.445478439331055), ("long", 14.41063117980957)],
    5: [("n0", 14.5101900100708), ("n6", 14.445478439331055), ("long", 14.41063117980957)],
}
IDS = {
    1: ["bees", "bread", "twin", "long", "empty"],
    2: ["bees", "bread", "twin", "long", "empty", *(f"n{n}" for n in range(12) if n != 3)],
    3: ["bees", "bread", "twin", "long", "empty", *(f"n{n}" for n in range(12) if n != 3)],
    4: ["bees", "bread", "twin", "long", "empty", *(f"n{n}" for n in range(12) if n != 3)],
    5: ["bees", "bread", "twin", "long", "empty", *(f"n{n}" for n in range(12) if n != 3)],
}

# A file of version 3 whose passages are made by structure, with overlap and behind their context; its documents have
# kinds and titles.
WITH_PASSAGES = FIXTURES / "databases" / "passages-3.db.gz"


@pytest.fixture(params=FROZEN, ids=[path.name.split(".")[0] for path in FROZEN])
def frozen(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, int]:
    """A file and the version it has."""
    path = tmp_path / "frozen.db"
    path.write_bytes(gzip.decompress(request.param.read_bytes()))
    return path, int(request.param.name.split(".")[0].removeprefix("version-"))


def test_there_is_a_file_of_every_version() -> None:
    assert [path.name for path in FROZEN] == [f"version-{n}.db.gz" for n in range(1, SCHEMA_VERSION + 1)]
    assert set(FOUND) == set(IDS) == set(range(1, SCHEMA_VERSION + 1))


def test_every_version_is_read_written_checked_and_dumped(frozen: tuple[Path, int], tmp_path: Path) -> None:
    path, version = frozen
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
    connection.close()
    with Index.open(path, model=MODEL) as index:
        assert index.ids() == IDS[version]
        assert index.verify().problems == ()
        assert index.verify(full=False).problems == ()
        hits = index.search("dance", k=len(FOUND[version]))
        assert [hit.id for hit in hits] == [name for name, _ in FOUND[version]]
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in FOUND[version]], abs=1e-4)
        document = index.get("bees")
        assert document is not None
        assert document.metadata == {"room": "garden", "year": 2021}
        index.dump(tmp_path / "all.jsonl")
        index.backup(tmp_path / "copy.db")
        index.add([{"id": "new", "text": "A kettle sings."}])
        assert index.verify().problems == ()
        assert index.prune("shelf", ["bees"]) == 4
        index.compact()
        assert index.verify().problems == ()
    with Index.load(tmp_path / "all.jsonl", tmp_path / "loaded.db", model=MODEL) as loaded:
        assert loaded.verify().problems == ()
        assert loaded.search("dance", k=len(FOUND[version]), exact=True) == hits
    with Index.open(tmp_path / "copy.db", model=MODEL, read_only=True) as copy:
        assert copy.ids() == IDS[version]
        assert copy.search("dance", k=len(FOUND[version]), exact=True) == hits


def test_a_damaged_file_of_every_version_is_repaired_from_what_it_is(frozen: tuple[Path, int], tmp_path: Path) -> None:
    path, version = frozen
    before = path.read_bytes()
    report = recover(path, tmp_path / "new.db", model=MODEL)
    assert report.complete
    assert (report.encoded, report.documents) == (0, len(IDS[version]))
    assert path.read_bytes() == before
    with Index.open(tmp_path / "new.db", model=MODEL) as index:
        assert index.ids() == IDS[version]
        assert index.verify().problems == ()


def test_a_file_with_kinds_and_titles_stays_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "frozen.db"
    path.write_bytes(gzip.decompress(WITH_PASSAGES.read_bytes()))
    settings = {"structure": True, "context": True, "max_tokens": 40, "min_tokens": 0, "overlap": 8}
    with Index.open(path, model=MODEL, passages=settings) as index:
        assert index.ids() == ["plain", "markdown", "titled", "nul", "code", "prose", "short", "empty", "blank"]
        assert index.verify().problems == ()
        described = [(document.kind, document.title) for document in map(index.get, index.ids()) if document]
        assert described[:5] == [
            (None, None),
            ("markdown", None),
            ("markdown", "The old kettle / its “valves”"),
            ("markdown", "Cellar\0 ☃ İ\u0308"),
            ("code", "kettle.py"),
        ]
        hits = index.search("red kettle", k=4, exact=True, group="passage")
        assert [(hit.id, hit.passage.start, hit.passage.end) for hit in hits] == [
            ("titled", 368, 388),
            ("titled", 116, 135),
            ("titled", 159, 178),
            ("titled", 202, 221),
        ]
        assert hits[0].score == pytest.approx(15.374902725219727, abs=1e-4)
        # What these documents are stored by is what it was, so nothing is encoded again.
        documents = [index.get(name) or "" for name in index.ids()]
        assert index.add(documents).unchanged == len(documents)
        assert hits[0].explain().score == pytest.approx(hits[0].score, abs=1e-4)
    assert recover(path, tmp_path / "new.db", model=MODEL).complete
    with Index.open(tmp_path / "new.db", model=MODEL) as index:
        assert index.search("red kettle", k=4, exact=True, group="passage") == hits

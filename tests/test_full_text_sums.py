"""What FTS5 keeps has no checksums: where it is not what was written, a search by words is an error, never another."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_database import raw
from word_encoder import WordEncoder

from edgecolbert import Index, full_text_sums
from edgecolbert.documents import Record
from edgecolbert.errors import StoreError, StoreFormatError
from edgecolbert.full_text_sums import FullTextSums, fill, varints
from edgecolbert.fulltext import FullText
from edgecolbert.lexical import parse_query
from edgecolbert.store import Store

FIXTURES = Path(__file__).parent / "fixtures"

_ERROR = r"index\.db: the full-text index is damaged .*unharmed: search with mode='late'.* --rebuild-lexical"
_QUERIES = ("kettle", "cup3 pot1", '"cup3 pot3"', "京都", "foo_b7", "nobody")


def _words(index: Index) -> list[list[tuple[str, float]]]:
    return [[(hit.id, hit.score) for hit in index.search(query, k=9, mode="lexical")] for query in _QUERIES]


def _small_pages(store: Store, page_bytes: int = 64, memory_bytes: int = 1_000_000) -> None:
    """Let FTS5 have as many pages, segments and merges with few texts as it has with many."""
    with store.change():
        for name, value in (("pgsz", page_bytes), ("hashsize", memory_bytes)):
            store._run("INSERT INTO lexical (lexical, rank) VALUES (?, ?)", name, value)
        store.full_text.rebuild()


def _documents(start: int, stop: int) -> list[dict[str, str]]:
    return [
        {"id": f"d{n}", "text": f"kettle cup{n % 7} pot{n % 5} 京都{n} foo_b{n}. {'tea ' * (n % 9)}"}
        for n in range(start, stop)
    ]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with several segments, many pages, lists of pages, and words that were deleted."""
    path = tmp_path_factory.mktemp("sound") / "index.db"
    with Index.open(path, model=WordEncoder()) as index:
        assert index._store is not None
        _small_pages(index._store)
        index.add(_documents(0, 90))
        for n in range(90, 96):
            index.add(_documents(n, n + 1))
        index.delete(["d3", "d40"])
        index.add([{"id": "d5", "text": "another kettle cup5"}])
    with raw(path) as connection:
        segments = connection.execute("SELECT count(DISTINCT segid) FROM lexical_idx").fetchone()
        lists = connection.execute("SELECT count(*) FROM lexical_data WHERE id & (1 << 36)").fetchone()
        assert segments[0] > 2
        assert lists[0] > 0
    return path


@pytest.fixture
def whole(sound: Path, path: Path) -> Path:
    """A copy to be damaged."""
    shutil.copy(sound, path)
    return path


_SWAP = (
    "UPDATE {table} SET {column} = CASE {key} WHEN {one} THEN (SELECT {column} FROM {table} WHERE {key} = {other}) "
    "ELSE (SELECT {column} FROM {table} WHERE {key} = {one}) END WHERE {key} IN ({one}, {other})"
)
_CHANGED = "UPDATE lexical_data SET block = flipped(block) WHERE id = "
_DAMAGES = {
    "a byte of a page": _CHANGED + "{middle}",
    "a byte of the last page": _CHANGED + "{last}",
    "a byte of a list of pages": _CHANGED + "{list}",
    "a byte of the totals": _CHANGED + "1",
    "a byte of the segments": _CHANGED + "10",
    "another cookie": "UPDATE lexical_data SET block = CAST(x'01' || substr(block, 2) AS BLOB) WHERE id = 10",
    "a page longer": "UPDATE lexical_data SET block = CAST(block || x'00' AS BLOB) WHERE id = {middle}",
    "a page of another type": "UPDATE lexical_data SET block = 7 WHERE id = {middle}",
    "a page empty": "UPDATE lexical_data SET block = NULL WHERE id = {middle}",
    "a page missing": "DELETE FROM lexical_data WHERE id = {middle}",
    "a list of pages missing": "DELETE FROM lexical_data WHERE id = {list}",
    "the totals missing": "DELETE FROM lexical_data WHERE id = 1",
    "the segments missing": "DELETE FROM lexical_data WHERE id = 10",
    "all pages missing": "DELETE FROM lexical_data WHERE id > 10",
    "pages swapped": _SWAP.format(table="lexical_data", column="block", key="id", one="{middle}", other="{last}"),
    "another word": "UPDATE lexical_idx SET term = term || x'7a' WHERE term = (SELECT max(term) FROM lexical_idx)",
    "another page of a word": "UPDATE lexical_idx SET pgno = pgno + 2 WHERE term = (SELECT max(term) FROM lexical_idx)",
    "a word missing": "DELETE FROM lexical_idx WHERE term = (SELECT max(term) FROM lexical_idx)",
    "a word too many": "INSERT INTO lexical_idx SELECT segid, x'30' || term, pgno FROM lexical_idx WHERE term != ''",
    "no words": "DELETE FROM lexical_idx",
    "pages of words swapped": (
        "UPDATE lexical_idx SET pgno = (SELECT max(pgno) + min(pgno) FROM lexical_idx WHERE segid = 1) - pgno "
        "WHERE segid = 1"
    ),
    "a length": "UPDATE lexical_docsize SET sz = x'090909' WHERE id = 8",
    "a length missing": "DELETE FROM lexical_docsize WHERE id = 8",
    "a length of another text": "UPDATE lexical_docsize SET id = 1000 WHERE id = 8",
    "lengths swapped": _SWAP.format(table="lexical_docsize", column="sz", key="id", one="{short}", other="{long}"),
    "no lengths": "DELETE FROM lexical_docsize",
    "a setting": "INSERT INTO lexical_config (k, v) VALUES ('rank', 'bm25(9, 9)')",
    "another format": "UPDATE lexical_config SET v = 5 WHERE k = 'version'",
    "no format": "DELETE FROM lexical_config",
    "a sum": "UPDATE full_text_sums SET checksum = checksum + 1 WHERE segment = 1 AND part = 0",
    "a sum missing": "DELETE FROM full_text_sums WHERE segment = 1 AND part = 0",
    "sums of lengths missing": "DELETE FROM full_text_sums WHERE segment = -1",
    "a sum too many": "INSERT INTO full_text_sums VALUES (77, 0, 1)",
    "no sums": "DELETE FROM full_text_sums",
    "a sum that is none": "UPDATE full_text_sums SET checksum = 'none' WHERE segment = 1",
    "a sum of no place": "UPDATE full_text_sums SET part = 1 << 62 WHERE segment = -1",
}


def _flipped(block: bytes) -> bytes:
    return block[:-2] + bytes([block[-2] ^ 1]) + block[-1:]


def _damaged(path: Path, statement: str) -> None:
    with raw(path) as connection:
        connection.create_function("flipped", 1, _flipped)
        (structure,) = connection.execute("SELECT block FROM lexical_data WHERE id = 10").fetchone()
        # What a merge has taken over already is read by nobody.
        segments = [segment for segment in full_text_sums._segments(structure) if segment.last]
        oldest, newest = segments[0], segments[-1]
        lists = "SELECT id FROM lexical_data WHERE id >> 36 & 1 AND id >> 37 IN ({})".format(
            ", ".join(str(segment.number) for segment in segments)
        )
        (one_list,) = connection.execute(f"{lists} LIMIT 1").fetchone() or (0,)
        by_length = [row[0] for row in connection.execute("SELECT id FROM lexical_docsize ORDER BY hex(sz)")]
        places = {
            "middle": (oldest.number << 37) + (oldest.first + oldest.last) // 2,
            "last": (newest.number << 37) + newest.last,
            "list": one_list,
            "short": by_length[0],
            "long": by_length[-1],
        }
        try:
            assert connection.execute(statement.format_map(places)).rowcount
        except sqlite3.OperationalError as error:
            pytest.skip(f"this SQLite lets nobody do it: {error}")


@pytest.mark.parametrize("name", _DAMAGES)
def test_what_is_not_as_it_was_written_is_an_error_of_every_search_by_words(whole: Path, name: str) -> None:
    with Index.open(whole, model=WordEncoder()) as index:
        right = _words(index)
        late = index.search("kettle cup3", k=9)
    _damaged(whole, _DAMAGES[name])
    for read_only in (True, False):
        with Index.open(whole, model=WordEncoder(), read_only=read_only) as index:
            for query in ("kettle", "nobody", '"cup3 pot3"'):
                for mode in ("lexical", "hybrid"):
                    with pytest.raises(StoreFormatError, match=_ERROR):
                        index.search(query, mode=mode)  # type: ignore[arg-type]
            assert index.search("kettle cup3", k=9) == late
            for full in (True, False):
                assert any("--rebuild-lexical" in problem.message for problem in index.verify(full=full).problems)
    with Index.open(whole, model=WordEncoder()) as index:
        index.rebuild_lexical()
        assert index.verify().problems == ()
        assert index.verify(full=False).problems == ()
        # The index is smaller than the one that grew; what it finds is the same.
        assert [[name for name, _ in hits] for hits in _words(index)] == [[name for name, _ in hits] for hits in right]
    with Index.open(whole, model=WordEncoder(), read_only=True) as index:
        assert _words(index)[0]


def test_repair_mends_the_full_text(whole: Path) -> None:
    _damaged(whole, _DAMAGES["pages swapped"])
    with Index.open(whole, model=WordEncoder()) as index:
        report = index.repair()
        assert report.complete
        assert "The full-text index was made again from the texts" in report.notes[0]
        assert _words(index)[0]
        assert index.verify().problems == ()
        assert index.repair().notes == ()


def test_what_somebody_else_wrote_is_compared_and_nothing_else(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    pages = full_text_sums._pages

    def counted(run: object, segment: object, first: int, last: int) -> object:
        read.append(max(0, last - first + 1))
        return pages(run, segment, first, last)  # type: ignore[arg-type]

    monkeypatch.setattr(full_text_sums, "_pages", counted)
    with raw(whole) as connection:
        (n_pages,) = connection.execute("SELECT count(*) FROM lexical_data WHERE NOT id & (1 << 36)").fetchone()
    with Index.open(whole, model=WordEncoder(), read_only=True) as reader:
        before = _words(reader)
        assert sum(read) == n_pages - 2
        assert _words(reader) == before
        assert sum(read) == n_pages - 2
        with Index.open(whole, model=WordEncoder()) as writer:
            writer.add(_documents(200, 201))
            read.clear()
            writer.add(_documents(201, 202))
            assert 0 < sum(read) < 20
            assert _words(writer) == _words(writer)
            read.clear()
            assert _words(reader) == _words(writer)
            assert 0 < sum(read) < 40
            writer.add(_documents(202, 203))
            _damaged(whole, _CHANGED + "{last}")
            with pytest.raises(StoreFormatError, match=_ERROR):
                reader.search("kettle", mode="lexical")


@pytest.mark.parametrize("damage", ["a byte of a page", "a length", "a word missing", "a sum"])
@pytest.mark.parametrize("change", ["add", "many", "delete", "compact"])
def test_a_change_does_not_vouch_for_what_was_damaged_before_it(whole: Path, damage: str, change: str) -> None:
    """A merge would copy what is damaged into new pages, whose sums would fit."""
    _damaged(whole, _DAMAGES[damage])
    changes: dict[str, Callable[[Index], object]] = {
        "add": lambda index: index.add(_documents(200, 201)),
        "many": lambda index: [index.add(_documents(n, n + 3)) for n in range(200, 290, 3)],
        "delete": lambda index: index.delete(["d7", "d9"]),
        "compact": lambda index: index.compact(),
    }
    with Index.open(whole, model=WordEncoder()) as index:
        # FTS5 itself may notice.
        with contextlib.suppress(StoreFormatError):
            changes[change](index)
        with pytest.raises(StoreFormatError, match=_ERROR):
            index.search("kettle", mode="lexical")
        assert index.search("kettle")
    with Index.open(whole, model=WordEncoder()) as index:
        with pytest.raises(StoreFormatError, match=_ERROR):
            index.search("kettle", mode="lexical")
        index.rebuild_lexical()
        assert index.verify().problems == ()
        assert _words(index)[0]


@pytest.mark.parametrize("damage", ["UPDATE lexical_data SET block = x'00' WHERE id = 10", "DELETE FROM lexical_data"])
def test_a_file_of_schema_4_is_migrated_whatever_its_full_text_is(path: Path, damage: str) -> None:
    path.write_bytes(gzip.decompress((FIXTURES / "databases" / "version-4.db.gz").read_bytes()))
    _damaged(path, damage)
    with Index.open(path, model=FIXTURES / "tiny-model") as index:
        assert index.search("dance")
        with pytest.raises(StoreFormatError, match=_ERROR):
            index.search("dance", mode="lexical")
        index.rebuild_lexical()
        assert index.search("dances", mode="lexical")
        assert index.verify().problems == ()


def _varint(number: int) -> bytes:
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))


@pytest.mark.parametrize(
    "numbers",
    [
        (1, 1, 1, 0, 1, 1, 1, 2**31 - 1),
        (1, 1, 1, 0, 1, 65_536, 1, 1),
        (1, 1, 1, 0, 1, 1, 9, 2),
        (1, 2, 1, 0, 2, 1, 1, 1, 1, 1, 1),
        (2**60, 2**60, 1, 0, 2**60, 1, 1, 1),
        (0, 0, 0),
        (),
        (0xFF, 0, 0, 1, 1),
    ],
)
@pytest.mark.parametrize("vouched", [False, True])
def test_a_list_of_segments_that_was_forged_is_an_error_at_once(
    whole: Path, numbers: tuple[int, ...], vouched: bool
) -> None:
    structure = bytes(4) + b"".join(map(_varint, numbers))
    with raw(whole) as connection:
        connection.execute("UPDATE lexical_data SET block = ? WHERE id = 10", (structure,))
        if vouched:

            def run(sql: str, *parameters: object) -> sqlite3.Cursor:
                return connection.execute(sql, parameters)

            full_text_sums._write_head(run)
    with Index.open(whole, model=WordEncoder()) as index:
        with pytest.raises(StoreFormatError, match=_ERROR):
            index.search("kettle", mode="lexical")
        # FTS5 itself may not be able to go on.
        with contextlib.suppress(StoreError):
            index.add(_documents(200, 201))
            index.delete(["d7"])
        with pytest.raises(StoreFormatError, match=_ERROR):
            index.search("kettle", mode="lexical")
        index.rebuild_lexical()
        assert index.verify().problems == ()


def _rows(store: Store) -> list[tuple[int, int, int]]:
    return store._run("SELECT segment, part, checksum FROM full_text_sums ORDER BY segment, part").fetchall()


def _made_anew(store: Store) -> list[tuple[int, int, int]]:
    """The sums as they are made from nothing; the change is not kept."""

    class NotKeptError(Exception):
        pass

    rows = []
    try:
        with store.change():
            assert fill(store._run)
            rows = _rows(store)
            raise NotKeptError
    except NotKeptError:
        return rows


def _put(store: Store, name: str, text: str) -> None:
    record = Record(name, text, "{}", hashlib.sha256(text.encode()).hexdigest())
    store.stage_content(record.hash, text)
    store.put_documents([record], None)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "delete", "many", "optimize", "rebuild", "merge"]),
        st.integers(0, 2**32),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def _sums_are_kept(changes: list[tuple[list[tuple[str, int, bool]], bool]], page_bytes: int, memory_bytes: int) -> None:
    folder = Path(tempfile.mkdtemp())
    store = Store(folder / "index.db", durability="normal")
    try:
        _small_pages(store, page_bytes, memory_bytes)
        for steps, kept in changes:
            try:
                with store.change():
                    for kind, seed, _ in steps:
                        _step(store, kind, random.Random(seed))
                    if not kept:
                        raise KeyError
            except KeyError:
                pass
            noted = _rows(store)
            assert noted == _made_anew(store)
            assert (0, 0) in {row[:2] for row in noted}
            with store.snapshot():
                store.full_text.sums.check()
            if steps[0][2]:
                store.close()
                store = Store(folder / "index.db", create=False, durability="normal")
        with store.snapshot():
            assert list(store.full_text.problems()) == []
    finally:
        store.close()
        shutil.rmtree(folder)


def _step(store: Store, kind: str, chance: random.Random) -> None:
    def text() -> str:
        return " ".join(f"w{int(chance.paretovariate(0.5)) % 3000}" for _ in range(chance.choice((1, 5, 60))))

    if kind in ("put", "many"):
        for _ in range(40 if kind == "many" else 1):
            _put(store, f"d{chance.randrange(600)}", text())
    elif kind == "delete":
        store.delete_documents([f"d{chance.randrange(600)}" for _ in range(chance.choice((1, 30)))])
    elif kind == "optimize":
        store.full_text.optimize()
    elif kind == "rebuild":
        store.full_text.rebuild()
    else:
        # Some pages of a merge that is done in steps, as FTS5 itself does at every 64th page.
        store.full_text.sums.before()
        store._run("INSERT INTO lexical (lexical, rank) VALUES ('merge', ?)", chance.choice((1, 3, 10)))


_CHANGES = st.lists(st.tuples(_STEPS, st.integers(0, 9).map(bool)), min_size=2, max_size=12)


@settings(max_examples=25)
@given(_CHANGES, st.sampled_from([64, 200]), st.sampled_from([500, 1_000_000]))
def test_sums_that_are_kept_are_those_made_from_nothing(
    changes: list[tuple[list[tuple[str, int, bool]], bool]], page_bytes: int, memory_bytes: int
) -> None:
    _sums_are_kept(changes, page_bytes, memory_bytes)


@pytest.mark.slow
@pytest.mark.parametrize("pages", [2, 4, 8])
def test_sums_are_kept_through_many_merges(pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_text_sums, "_PAGES", pages)
    kept: list[bool] = []
    of_old = FullTextSums._kept
    monkeypatch.setattr(
        FullTextSums, "_kept", lambda self, *two: (found := of_old(self, *two), kept.append(bool(found)))[0]
    )
    chance = random.Random(pages)
    kinds = ["put"] * 4 + ["many"] * 3 + ["delete", "merge"]
    for memory_bytes in (500, 1_000_000):
        changes = [
            ([(chance.choice(kinds), chance.randrange(2**32), chance.random() < 0.1)], chance.random() < 0.9)
            for _ in range(150)
        ]
        _sums_are_kept(changes, 64, memory_bytes)
    # Pages were cut off, or put behind, and the parts between them kept.
    assert any(kept)


def test_fts5_writes_what_it_has_in_memory_when_it_is_told_to(path: Path) -> None:
    store = Store(path)
    try:
        with store.change():
            store.full_text.add(7, "red kettle")
            assert store._run("SELECT count(*) FROM lexical_data WHERE id > 10").fetchone() == (0,)
            full_text_sums.flush(store._run)
            written = store._run("SELECT id, block FROM lexical_data").fetchall()
            assert len(written) == 3
        assert store._run("SELECT id, block FROM lexical_data").fetchall() == written
    finally:
        store.close()


def test_a_change_without_texts_writes_no_sums(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FullTextSums, "check", lambda self: pytest.fail("compared"))
    with Index.open(whole, model=WordEncoder()) as index:
        index.search("kettle")
        index.add([{"id": "d5", "text": "another kettle cup5", "metadata": {"n": 1}}])
        index.index_field("n")
        assert index.get("d5") is not None


def test_varints_are_read_as_fts5_writes_them() -> None:
    numbers = [0, 1, 127, 128, 16_383, 16_384, 2**31]
    assert varints(b"".join(map(_varint, numbers))) == numbers
    assert varints(None) is None


def test_the_search_by_words_of_an_index_in_memory() -> None:
    with Index.open(":memory:", model=WordEncoder()) as index:
        index.add(_documents(0, 10))
        assert len(index.search("kettle", k=20, mode="lexical")) == 10
        index.delete(["d1"])
        assert len(index.search("kettle", k=20, mode="lexical")) == 9
        assert index.verify().problems == ()


def test_full_text_is_searched_after_a_change_that_was_rolled_back(path: Path) -> None:
    store = Store(path)
    query = parse_query("kettle")
    assert query is not None
    full_text: FullText = store.full_text

    def found() -> list[int]:
        with store.snapshot():
            return full_text.matching(query.match, None)

    def put_and_fail() -> None:
        with store.change():
            _put(store, "b", "blue kettle")
            raise KeyError

    try:
        with store.change():
            _put(store, "a", "red kettle")
        assert found() == [1]
        for _ in range(2):
            with pytest.raises(KeyError):
                put_and_fail()
            assert found() == [1]
        with store.change():
            _put(store, "c", "green kettle")
        assert len(found()) == 2
    finally:
        store.close()

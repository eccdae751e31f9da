"""Every kind of change that the store knows, as a table that all checks go through.

A new operation is one more entry of `OPERATIONS`: how the file is before it, the states that it goes through, and what
is called. The states are known beforehand, so at any moment a file must be in the last state that was acknowledged or
in the one that was being made.
"""

from __future__ import annotations

import gzip
import importlib
import inspect
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from word_encoder import SplittingEncoder  # noqa: E402 - it lives with the tests

import edgecolbert.store  # noqa: E402
from edgecolbert import Index, recover, reencode, upkeep  # noqa: E402

Documents = dict[str, tuple[str, dict[str, Any]]]
NAME = "index.db"
OLD, NEW = "old", "new"
TINY_MODEL = ROOT / "tests" / "fixtures" / "tiny-model"
_VERSION_1 = ROOT / "tests" / "fixtures" / "databases" / "version-1.db.gz"


@dataclass(frozen=True)
class State:
    """What a file holds.

    Attributes:
        documents: Text and metadata of each id.
        model: Name of the model that it is searched with.
    """

    documents: Documents
    model: str = OLD


class Session:
    """One run of an operation.

    Args:
        path: The file.
        acknowledge: Told the number of each state when the library has said that it is stored.
    """

    def __init__(self, path: Path, acknowledge: Callable[[int], None]) -> None:
        self.path = path
        self.reached = 0
        self._acknowledge = acknowledge
        self.interrupted: Callable[[Index, BaseException], None] = lambda index, error: None

    def stored(self) -> None:
        """The next state was reached."""
        self.reached += 1
        self._acknowledge(self.reached)

    @contextmanager
    def index(self, model: str = OLD) -> Iterator[Index]:
        """The index, open; `interrupted` sees it still open where an exception passes."""
        with open_index(self.path, model) as index:
            try:
                yield index
            except BaseException as error:
                self.interrupted(index, error)
                raise


@dataclass(frozen=True)
class Operation:
    """One kind of change.

    Attributes:
        name: Its name.
        prepare: Makes the file as it is before.
        states: The states that it goes through; the first is the one before.
        run: Makes the change, and calls `Session.stored` each time the library says that a state is stored. Running it
            again from any state leads to the last one.
        pragmas: Settings of SQLite that every connection gets, such as a log that is folded in early.
    """

    name: str
    prepare: Callable[[Path], None]
    states: tuple[State, ...]
    run: Callable[[Session], None]
    pragmas: tuple[str, ...] = field(default=())


# --- How files are opened


_pragmas: list[str] = []
_durability: list[str] = []


@contextmanager
def settings(pragmas: tuple[str, ...] = (), durability: str = "full") -> Iterator[None]:
    """Give every connection of the library some settings of SQLite, and another durability than the default.

    Args:
        pragmas: Such as "wal_autocheckpoint = 8".
        durability: "full", "normal" or "off"; the library's own setting where it has that one.
    """
    own = durability == "normal" and "durability" in inspect.signature(Index.open).parameters
    wanted = [*pragmas, *([] if durability == "full" or own else [f"synchronous = {durability}"])]
    original = edgecolbert.store.open_connection

    def with_pragmas(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = original(*arguments, **options)
        for pragma in _pragmas:
            connection.execute(f"PRAGMA {pragma}")
        return connection

    edgecolbert.store.open_connection = with_pragmas
    _pragmas[:], _durability[:] = wanted, [durability] if own else []
    try:
        yield
    finally:
        edgecolbert.store.open_connection = original
        _pragmas.clear()
        _durability.clear()


def open_index(path: Path, model: str = OLD, **options: Any) -> Index:
    """The index, with the model of that name."""
    for durability in _durability:
        options["durability"] = durability
    return Index.open(path, model=encoder(model), **options)


def encoder(name: str) -> Any:
    """The model of that name: words have fixed directions, and texts are split into passages of five words."""
    return TINY_MODEL if name == "tiny" else SplittingEncoder(name, room=5)


def shrink_upkeep() -> None:
    """Indexes of a few documents have a first stage, several segments and merges, as large ones do."""
    for name, value in {"FIRST_STAGE_FROM": 2, "_FITTED_ENOUGH": 100, "_BUILD_STEP": 16, "_SEALED": 8}.items():
        if not hasattr(upkeep, name):
            raise RuntimeError(f"edgecolbert.upkeep has no {name} any more; the checks would pass over its parts")
        setattr(upkeep, name, value)


def preload() -> None:
    """Import what the library imports late, so that processes that are forked need not do so one by one."""
    for name in ("candidates", "fde", "ingest", "tuning", "verification", "tokenizer", "sessions"):
        importlib.import_module(f"edgecolbert.{name}")
    for name in ("sqlite_utils", "onnxruntime", "tokenizers"):
        importlib.import_module(name)


# --- Documents


def text(n: int, version: int = 0) -> str:
    """The text of a document: three passages, one word of its own, some shared."""
    return f"common word{n} one two version{version}. Four five six shared{n % 7} eight. Nine ten eleven other{n % 11}."


def documents(start: int, end: int, version: int = 0) -> Documents:
    """Some documents."""
    return {f"d{n:03}": (text(n, version), {"n": n, "version": version}) for n in range(start, end)}


def records(wanted: Documents) -> list[dict[str, Any]]:
    """The same as `Index.add` takes them."""
    return [{"id": name, "text": body, "metadata": metadata} for name, (body, metadata) in wanted.items()]


def _without(wanted: Documents, names: list[str]) -> Documents:
    return {name: value for name, value in wanted.items() if name not in names}


_BASE = documents(0, 40)
_ALL = [f"d{n:03}" for n in range(40)]


def _base(path: Path) -> None:
    with open_index(path) as index:
        index.add(records(_BASE))


def _nothing(path: Path) -> None:
    pass


# --- The operations


def _create(session: Session) -> None:
    with session.index() as index:
        index.add(records(documents(0, 10)))
        session.stored()


def _add_list(session: Session) -> None:
    # Texts are stored in steps of 64, and shown all at once.
    with session.index() as index:
        index.add(records(documents(40, 190)))
        session.stored()


def _add_stream(session: Session) -> None:
    with session.index() as index:
        new = records(documents(40, 88))
        index.add(iter(new), batch_size=6, progress=lambda done, total: session.stored())


_STREAM = tuple(State(documents(0, 40 + 6 * n)) for n in range(9))


def _add_singles(session: Session) -> None:
    with session.index() as index:
        for n in range(40, 64):
            index.add(records(documents(n, n + 1)))
            session.stored()


_SINGLES = tuple(State(documents(0, n)) for n in range(40, 65))


def _update(session: Session) -> None:
    with session.index() as index:
        index.add(records(documents(0, 30, version=1)))
        session.stored()
        index.add(iter(records(documents(20, 40, version=2))), batch_size=10, progress=lambda *_: session.stored())
        # Metadata alone: no text is encoded.
        index.add([record | {"metadata": {"n": -1}} for record in records(documents(0, 20, version=1))])
        session.stored()


def _updated() -> tuple[State, ...]:
    first = _BASE | documents(0, 30, version=1)
    second = first | documents(20, 30, version=2)
    third = second | documents(30, 40, version=2)
    fourth = third | {name: (body, {"n": -1}) for name, (body, _) in documents(0, 20, version=1).items()}
    return tuple(map(State, (_BASE, first, second, third, fourth)))


def _delete(session: Session) -> None:
    with session.index() as index:
        for start in range(0, 40, 8):
            index.delete(_ALL[start : start + 8])
            session.stored()


_DELETED = tuple(State(documents(start, 40)) for start in range(0, 41, 8))


def _base_with_sources(path: Path) -> None:
    with open_index(path) as index:
        index.add_from("shelf", records(documents(0, 25)))
        index.add_from("desk", records(documents(25, 40)))


def _prune(session: Session) -> None:
    with session.index() as index:
        index.prune("shelf", _ALL[:10])
        session.stored()
        index.prune("desk", [])
        session.stored()


_PRUNED = (State(_BASE), State(_without(_BASE, _ALL[10:25])), State(documents(0, 10)))


def _rebuild(session: Session) -> None:
    with session.index() as index:
        index.tune(["common word3", "word9 shared2 one two"], compare=False, rebuild=True)
        session.stored()


def _tune(session: Session) -> None:
    with session.index() as index:
        index.tune(["common word3", "word9 shared2 one two"])
        session.stored()


def _reencode(session: Session) -> None:
    with open_index_of_either(session.path) as index:
        done = index.stats().model == NEW
    if not done:
        reencode(session.path, model=encoder(NEW))
    session.stored()


def open_index_of_either(path: Path) -> Index:
    """The index, whether it was re-encoded already or not."""
    from edgecolbert.errors import StoreMismatchError

    try:
        return open_index(path, OLD)
    except StoreMismatchError:
        return open_index(path, NEW)


def _reencodable(path: Path) -> None:
    with open_index(path) as index:
        index.add(records(documents(0, 150)))


def _version_1(path: Path) -> None:
    path.write_bytes(gzip.decompress(_VERSION_1.read_bytes()))


def _migrate(session: Session) -> None:
    with session.index("tiny") as index:
        session.stored()
        index.add([{"id": "new", "text": "A kettle sings."}])
        session.stored()


def _migrated() -> tuple[State, ...]:
    """What the frozen file holds, read without the library."""
    import json

    content = bytearray(gzip.decompress(_VERSION_1.read_bytes()))
    content[18:20] = b"\x01\x01"  # no log: a database in memory has none
    database = sqlite3.connect(":memory:")
    database.deserialize(bytes(content))
    rows = database.execute("SELECT id, text, metadata FROM documents JOIN contents USING (content_id)")
    held = {name: (body, json.loads(metadata)) for name, body, metadata in rows}
    database.close()
    return State(held, "tiny"), State(held, "tiny"), State(held | {"new": ("A kettle sings.", {})}, "tiny")


def _full_of_holes(path: Path) -> None:
    with open_index(path) as index:
        index.add(records(documents(0, 120)))
        index.delete([f"d{n:03}" for n in range(40, 120)])
        index.delete([f"d{n:03}" for n in range(0, 40, 3)])


def _compact(session: Session) -> None:
    with session.index() as index:
        index.compact()
        session.stored()


_COMPACTED = (State({name: value for name, value in _BASE.items() if int(name[1:]) % 3}),) * 2


def _left_by_a_crash(path: Path) -> None:
    """A file whose last commits are only in the log, as after a crash."""
    model = path.with_name("model.db")
    _base(model)
    with open_index(model) as index:
        index.add(records(documents(40, 60)))
        for ending in ("", "-wal"):
            shutil.copy(f"{model}{ending}", f"{path}{ending}")
    model.unlink()


def _recover(session: Session) -> None:
    with session.index() as index:
        index.add(records(documents(60, 66)))
        session.stored()


# Copies lie beside the file. What is there under its name must be whole, whenever the process ended; a rerun makes what
# is missing.


def _backup(session: Session) -> None:
    copy = session.path.with_name("copy.db")
    with session.index() as index:
        if not copy.exists():
            index.backup(copy)
    session.stored()


def _dump_and_load(session: Session) -> None:
    dump, loaded = session.path.with_name("dump.jsonl.gz"), session.path.with_name("loaded.db")
    with session.index() as index:
        if not dump.exists():
            index.dump(dump)
    session.stored()
    if not loaded.exists():
        Index.load(dump, loaded, model=encoder(OLD)).close()
    session.stored()


def _salvage(session: Session) -> None:
    out = session.path.with_name("repaired.db")
    if not out.exists():
        recover(session.path, out, model=encoder(OLD))
    session.stored()


OPERATIONS = (
    Operation("create", _nothing, (State({}), State(documents(0, 10))), _create),
    Operation("add a list", _base, (State(_BASE), State(documents(0, 190))), _add_list),
    Operation("add a stream", _base, _STREAM, _add_stream),
    Operation("add a stream, log folded in early", _base, _STREAM, _add_stream, ("wal_autocheckpoint = 12",)),
    Operation("add one by one: seal and merge", _base, _SINGLES, _add_singles, ("wal_autocheckpoint = 40",)),
    Operation("update", _base, _updated(), _update),
    Operation("delete", _base, _DELETED, _delete, ("wal_autocheckpoint = 30",)),
    Operation("prune", _base_with_sources, _PRUNED, _prune),
    Operation("rebuild the first stage", _base, (State(_BASE),) * 2, _rebuild, ("wal_autocheckpoint = 30",)),
    Operation("tune", _base, (State(_BASE),) * 2, _tune),
    Operation("reencode", _reencodable, (State(documents(0, 150)), State(documents(0, 150), NEW)), _reencode),
    Operation("migrate from version 1", _version_1, _migrated(), _migrate),
    Operation("compact", _full_of_holes, _COMPACTED, _compact),
    Operation("backup", _base, (State(_BASE),) * 2, _backup),
    Operation("dump and load", _base, (State(_BASE),) * 3, _dump_and_load),
    Operation("repair to a new file", _base, (State(_BASE),) * 2, _salvage),
    Operation("recover from a crash", _left_by_a_crash, (State(documents(0, 60)), State(documents(0, 66))), _recover),
)


def chosen(short: bool, turn: int) -> tuple[Operation, ...]:
    """All operations, or in the short form every third, another third at each turn."""
    return OPERATIONS[turn % 3 :: 3] if short else OPERATIONS


# --- What a file is found to hold


@dataclass(frozen=True)
class Found:
    """What became of a file.

    Attributes:
        verdict: "sound": in a state that it may be in; "lost": sound, but in a state before the acknowledged one;
            "broken": anything else.
        state: Number of the last state that it equals, or -1.
        detail: What is wrong.
    """

    verdict: str
    state: int
    detail: str = ""


def look(path: Path, states: tuple[State, ...], reached: int, *, copies: bool = True) -> Found:
    """Open a file as a user would, check everything, and say in which state it is.

    Args:
        path: The file.
        states: The states of the operation.
        reached: Number of the last state that was acknowledged.
        copies: Look at the copies beside it, too. The simulated power cut cannot: they get their names by links, which
            SQLite does not make.

    Returns:
        What was found.
    """
    try:
        found = _read(path, states)
        for copy in path.parent.glob("*.db") if copies else ():
            if copy != path and _read(copy, states) != states[-1]:
                raise AssertionError(f"{copy.name} is not whole")
    except Exception as error:
        return Found("broken", -1, f"{type(error).__name__}: {error}")
    matching = [number for number, state in enumerate(states) if state == found]
    if not matching:
        return Found("broken", -1, _difference(found, states[min(reached, len(states) - 1)]))
    if any(reached <= number <= reached + 1 for number in matching):
        return Found("sound", max(number for number in matching if number <= reached + 1))
    detail = f"state {matching} where {reached} was acknowledged"
    return Found("lost" if max(matching) < reached else "broken", matching[-1], detail)


def _read(path: Path, states: tuple[State, ...]) -> State:
    from edgecolbert.errors import StoreMismatchError

    models = sorted({state.model for state in states})
    for model in models:
        try:
            index = open_index(path, model)
        except StoreMismatchError:
            if model == models[-1]:
                raise
            continue
        with index:
            problems = index.verify().problems
            if problems:
                raise AssertionError(f"verify: {problems[0].message} {problems[0].ids}")
            held: Documents = {}
            for name in index.ids():
                document = index.get(name)
                if document is None:
                    raise AssertionError(f"{name} is listed and not there")
                held[name] = (document.text, document.metadata)
            _search(index, held)
            return State(held, model)
    raise AssertionError("no state names a model")


def _search(index: Index, held: Documents) -> None:
    """Every document is found by an exact search, and some by their own words through the first stage."""
    names = list(held)
    if len(index) != len(names):
        raise AssertionError(f"{len(index)} documents are counted, {len(names)} are listed")
    hits = index.search("common", k=len(names) + 1, exact=True)
    if {hit.id: (hit.text, hit.metadata) for hit in hits} != held:
        raise AssertionError(f"an exact search finds {len(hits)} of {len(names)} documents")
    for name in names[:: max(1, len(names) // 3)]:
        if not name[1:].isdigit():
            continue
        # Its first passage, which no other document has.
        (hit,) = index.search(" ".join(held[name][0].split()[:5]), k=1, n_candidates=4)
        if hit.id != name:
            raise AssertionError(f"the first stage finds {hit.id} for the text of {name}")


def _difference(found: State, wanted: State) -> str:
    missing = sorted(set(wanted.documents) - set(found.documents))[:5]
    more = sorted(set(found.documents) - set(wanted.documents))[:5]
    changed = [n for n, value in found.documents.items() if wanted.documents.get(n, value) != value][:5]
    return f"no state has these documents: missing {missing}, more {more}, changed {changed}, model {found.model}"


def prepared(operation: Operation, folder: Path) -> Path:
    """The folder of a file as it is before an operation; made once and to be copied."""
    place = folder / "".join(letter if letter.isalnum() else "-" for letter in operation.name)
    if not place.exists():
        place.mkdir(parents=True)
        operation.prepare(place / NAME)
    return place


def fresh(place: Path, into: Path) -> Path:
    """A copy of a prepared folder; gives the path of the file in it."""
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(place, into)
    return into / NAME


def scratch() -> Path:
    """A new folder, in memory where there is such a disk: thousands of images would wear out a real one."""
    import tempfile

    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if memory.is_dir() and os.access(memory, os.W_OK) else None))

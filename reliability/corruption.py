"""Damaged files: some two hundred of them, each opened, searched and verified in a process of its own.

Each case changes a sound file in one way, and is opened both to read only and to write. Every question has its answer
from the sound file; a damaged one must give the same answer or an error of edgecolbert's own. There is one exception:
SQLite stops reading a damaged log where it is damaged, so that the file is in the state of an earlier commit.

A wrong answer that `verify` would have found is counted by itself ("wrong until verify"), and is as much a failure.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import shutil
import sqlite3
import struct
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from children import Ended, in_child, must
from operations import NAME, scratch
from word_encoder import SplittingEncoder

from edgecolbert import EdgeColbertError, Index

_QUERIES = ("common word7", "word21 shared2 one", "kettle", "long text word55", "other3 shared1 ten")
_OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "exact": {"exact": True},
    "first stage": {"n_candidates": 6},
    "filter": {"filter": {"part": 3}},
}
_PAGE = 4_096
_UNTIL_VERIFY = "wrong until verify"


@dataclass(frozen=True)
class Case:
    """One way to damage a file.

    Attributes:
        name: What is done.
        family: What it is counted under.
        damage: Does it to the file.
        log: Whether it is done to a file whose last commits are in the log.
    """

    name: str
    family: str
    damage: Callable[[Path], None]
    log: bool = False


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every case, to read and to write.

    Args:
        options: `short`: every twentieth case.

    Returns:
        Counts by family, and everything that was found.
    """
    folder = scratch()
    try:
        for name, make in (("sound", _make), ("log", _make_with_log)):
            (folder / name).mkdir()
            must(in_child(lambda make=make, path=folder / name / NAME: make(path)))
        answers = must(in_child(lambda: _ask(_copy(folder / "sound", folder / "run"), read_only=False)))
        if any("error" in answer for answer in answers.values()):
            raise RuntimeError(f"the sound file is not sound: {answers}")
        earlier = _earlier_answers(folder)
        cases = must_be_many(_cases(folder / "sound" / NAME, options.seed))
        rows = [
            _case(case, folder, earlier if case.log else [answers])
            for number, case in enumerate(cases)
            if not options.short or number % 20 == 0
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    totals: dict[str, Counter[str]] = {}
    for row in rows:
        counts = totals.setdefault(row["family"], Counter(cases=0))
        counts["cases"] += 1
        counts.update(row["outcomes"])
    names = ["cases", "error", "found by verify", "unharmed", "earlier commit", _UNTIL_VERIFY]
    names += ("untyped", "silent", "signal", "smaller", "repaired", "repair wrong")
    table = {family: {name: counts[name] for name in names} for family, counts in totals.items()}
    table["all"] = {name: sum(counts[name] for counts in totals.values()) for name in names}
    wrong = ("untyped", "silent", _UNTIL_VERIFY, "signal", "smaller", "repair wrong")
    passed = all(table["all"][name] == 0 for name in wrong) and table["all"]["error"] > 0
    return {"passed": passed, "totals": table, "rows": rows}


def must_be_many(cases: list[Case]) -> list[Case]:
    """The cases, of which there are to be two hundred: a table that was renamed must not go unnoticed."""
    if len(cases) < 200:
        raise RuntimeError(f"there are {len(cases)} cases, expected 200; was a table renamed?")
    return cases


# --- The sound file


def _encoder() -> SplittingEncoder:
    return SplittingEncoder("damage", room=300)


def _records(start: int, end: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"d{n:03}",
            "text": f"common word{n} one two shared{n % 7}. Ten other{n % 11} kettle{n % 5}."
            + " long text of many pages" * (250 if n in (5, 55) else 0),
            "metadata": {"part": n % 4, "note": f"note {n}"},
        }
        for n in range(start, end)
    ]


def _make(path: Path) -> None:
    with Index.open(path, model=_encoder()) as index:
        index.add_from("shelf", _records(0, 100))
        index.tune(["common word3"], compare=False, rebuild=True)
        index.index_field("note")
        # Leaves free pages, deleted passages in segments, and codes that no segment holds.
        index.delete([f"d{n:03}" for n in range(60, 100)])
        index.add(_records(60, 67))


def _make_with_log(path: Path) -> None:
    whole = path.with_name("whole.db")
    with Index.open(whole, model=_encoder()) as index:
        index.add(_records(0, 40))
        index.index_field("note")
    with Index.open(whole, model=_encoder()) as index:
        index.add(_records(40, 60))
        index.delete(["d003", "d004"])
        index.add(_records(60, 67))
        for ending in ("", "-wal"):
            shutil.copy(f"{whole}{ending}", f"{path}{ending}")
    whole.unlink()


def _copy(base: Path, into: Path) -> Path:
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(base, into)
    return into / NAME


def _earlier_answers(folder: Path) -> list[dict[str, Any]]:
    """The answers at every commit that the log holds, the last first, and without the log."""
    answers = []
    for end in [*_commits(folder / "log" / f"{NAME}-wal"), 0]:
        path = _copy(folder / "log", folder / "run")
        log = path.with_name(f"{NAME}-wal")
        log.write_bytes(log.read_bytes()[:end])
        answers.append(must(in_child(lambda path=path: _ask(path, read_only=False))))
    return answers[-2::-1] + answers[-1:]


def _commits(log: Path) -> list[int]:
    """Where in a log each commit ends."""
    content = log.read_bytes()
    frames = range(32, len(content) - _PAGE - 23, _PAGE + 24)
    return [start + 24 + _PAGE for start in frames if struct.unpack_from(">I", content, start + 4)[0]]


# --- Questions


def _ask(path: Path, *, read_only: bool) -> dict[str, Any]:
    """The answer to every question, or the error."""
    answers: dict[str, Any] = {}

    def ask(name: str, question: Callable[[], Any]) -> bool:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                answers[name] = {"is": question()}
        except (EdgeColbertError, UserWarning) as error:
            answers[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
        except Exception:
            answers[name] = {"error": "untyped", "untyped": traceback.format_exc()[-1_500:]}
        return "is" in answers[name]

    opened: list[Index] = []
    # Never made anew: a file that vanished must be an error.
    if not ask(
        "open",
        lambda: opened.append(Index.open(path, model=_encoder(), create=False, read_only=read_only, timeout=1.0)),
    ):
        return answers
    with opened[0] as index:
        ask("ids", index.ids)
        ask("count", lambda: len(index))
        for n in range(67):
            ask(f"get {n}", lambda n=n: _document(index, f"d{n:03}"))
        for query in _QUERIES:
            for name, options in _OPTIONS.items():
                ask(f"{name}: {query}", lambda query=query, options=options: _hits(index, query, options))
            ask(f"words: {query}", lambda query=query: _hits(index, query, {"mode": "lexical"}))
        ask("indexed", lambda: index.ids(filter={"note": {"gte": "note 3", "lt": "note 5"}}))
        ask("absent", lambda: index.get("nobody"))
        ask("verify", lambda: [problem.message[:200] for problem in index.verify().problems])
    return answers


def _document(index: Index, name: str) -> list[Any] | None:
    document = index.get(name)
    return None if document is None else [_digest(document.text), document.metadata]


def _hits(index: Index, query: str, options: dict[str, Any]) -> list[Any]:
    return [[hit.id, hit.score, _digest(hit.text), hit.metadata] for hit in index.search(query, k=10, **options)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# --- One case


def _case(case: Case, folder: Path, allowed: list[dict[str, Any]]) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    findings: list[dict[str, Any]] = []
    for read_only in (True, False):
        path = _copy(folder / ("log" if case.log else "sound"), folder / "run")
        must(in_child(lambda path=path: case.damage(path)))
        before = path.stat().st_size if path.exists() else None
        ended = in_child(lambda path=path, read_only=read_only: _ask(path, read_only=read_only))
        outcome, detail = _outcome(ended, allowed)
        after = path.stat().st_size if path.exists() else None
        if before is not None and (after is None or after < before):
            outcome, detail = "smaller", f"{before} bytes before, {after} after; {outcome}"
        outcomes[outcome] += 1
        if outcome in ("untyped", "silent", _UNTIL_VERIFY, "signal", "smaller"):
            findings.append({"read_only": read_only, "outcome": outcome, "detail": detail})
    repaired = _repaired(case, folder, allowed)
    if repaired is not None:
        outcome, detail = repaired
        outcomes[outcome] += 1
        if outcome == "repair wrong":
            findings.append({"outcome": outcome, "detail": detail})
    return {
        "case": case.name,
        "family": case.family,
        "outcomes": dict(outcomes),
        "findings": findings,
    }


def _outcome(ended: Ended, allowed: list[dict[str, Any]]) -> tuple[str, str]:
    """What became of a damaged file.

    Args:
        ended: The process that asked.
        allowed: Answers that are right; the first are those of the last commit.

    Returns:
        What it is counted as, and what is wrong.
    """
    if ended.signal or ended.late or ended.error or ended.code:
        return "signal", f"code {ended.code}, signal {ended.signal}, late {ended.late}: {ended.error}"
    answers: dict[str, Any] = ended.result
    untyped = {name: answer["untyped"] for name, answer in answers.items() if "untyped" in answer}
    if untyped:
        name = next(iter(untyped))
        return "untyped", f"{name} (and {len(untyped) - 1} more): {untyped[name]}"
    given = {name: answer for name, answer in answers.items() if "is" in answer and name != "verify"}
    problems = answers.get("verify", {}).get("is")
    # An error of verify's is a finding, too.
    noticed = bool(problems or problems is None)
    fitting = _fitting(given, allowed)
    if not fitting:
        wrong = {name: answer["is"] for name, answer in given.items() if allowed[0][name] != answer}
        name = next(iter(wrong))
        detail = f"{len(wrong)} answers differ, first {name}: {str(wrong[name])[:300]}"
        return (_UNTIL_VERIFY if noticed else "silent"), detail
    if any("error" in answer for answer in answers.values()):
        return "error", ""
    return ("found by verify" if problems else "earlier commit" if fitting[0] else "unharmed"), ""


def _fitting(given: dict[str, Any], allowed: list[dict[str, Any]]) -> list[int]:
    """Which of the answers that are right are those that were given."""
    return [n for n, right in enumerate(allowed) if all(right[name] == answer for name, answer in given.items())]


def _repaired(case: Case, folder: Path, allowed: list[dict[str, Any]]) -> tuple[str, str] | None:
    """What becomes of it by repair, where the library has that."""
    if importlib.util.find_spec("edgecolbert.repair") is None:
        return None
    path = _copy(folder / ("log" if case.log else "sound"), folder / "run")
    must(in_child(lambda: case.damage(path)))
    ended = in_child(lambda: _repair(path, path.with_name("repaired.db")))
    if ended.signal or ended.late or ended.error:
        return "repair wrong", f"signal {ended.signal}, late {ended.late}: {ended.error}"
    answers: dict[str, Any] | None = ended.result
    if answers is None:
        return "error", ""
    if answers.get("verify", {}).get("is") != []:
        return "repair wrong", f"verify of the repaired file: {answers.get('verify', answers)}"
    for name, answer in answers.items():
        # Documents may be missing, and then searches differ; what is there must be right.
        if name.startswith("get ") and answer.get("is") and not any(right[name] == answer for right in allowed):
            return "repair wrong", f"{name}: {answer}"
    return "repaired", ""


def _repair(path: Path, out: Path) -> dict[str, Any] | None:
    module: Any = importlib.import_module("edgecolbert.repair")
    try:
        module.recover(path, out, model=_encoder())
    except EdgeColbertError:
        return None
    return _ask(out, read_only=True)


# --- Damages


def _cases(sound: Path, seed: int) -> list[Case]:
    random = Random(seed)
    size = sound.stat().st_size
    pages = _pages(sound)
    return [
        *_cut_cases(size),
        *_header_cases(random),
        *_page_cases(pages, random),
        *_whole_page_cases(pages, random),
        *_tail_cases(),
        *_log_cases(random),
        *_row_cases(),
        *_full_text_cases(sound, random),
    ]


def _pages(path: Path) -> dict[str, list[int]]:
    """The pages of every table and index by name, and the free ones; roots alone where SQLite has no dbstat."""
    connection = sqlite3.connect(path)
    found: dict[str, list[int]] = {}
    try:
        try:
            rows = connection.execute("SELECT name, pageno FROM dbstat ORDER BY name, pageno").fetchall()
        except sqlite3.OperationalError:
            rows = connection.execute(
                "SELECT name, rootpage FROM sqlite_master WHERE rootpage ORDER BY name"
            ).fetchall()
        (n_pages,) = connection.execute("PRAGMA page_count").fetchone()
        for name, page in rows:
            found.setdefault(name, []).append(page)
        used = {page for pages in found.values() for page in pages}
        found["free pages"] = [page for page in range(2, n_pages + 1) if page not in used]
    finally:
        connection.close()
    return found


def _changed(start: int, change: Callable[[bytes], bytes], length: int = 1) -> Callable[[Path], None]:
    """Change some bytes of a file."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        before = bytes(content[start : start + length])
        after = change(before)
        if after == before:
            raise RuntimeError("the damage changes nothing")
        content[start : start + length] = after
        path.write_bytes(content)

    return damage


def _bit(place: int, bit: int) -> Callable[[Path], None]:
    return _changed(place, lambda before: bytes([before[0] ^ (1 << bit)]))


def _resized(size: Callable[[int], int], fill: bytes = b"") -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: size(len(content))] + fill)

    return damage


def _cut_cases(size: int) -> list[Case]:
    shares = (0, 0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)
    return [Case(f"cut to {share:.1%}", "cut", _cut_to(share)) for share in shares]


def _cut_to(share: float) -> Callable[[Path], None]:
    return _resized(lambda n: int(n * share))


def _header_cases(random: Random) -> list[Case]:
    # Magic, page size, versions, fractions, counters, sizes, free list, cookie, encoding, user version, application id.
    places = [0, 5, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 28, 30, 31, 32, 35, 36, 39, 40, 44, 47, 52, 56, 59, 60, 63]
    places += [64, 68, 70, 92, 96, 100, 101, 103, 105]
    return [
        Case(f"header: bit flipped in byte {place}", "header", _bit(place, random.randrange(8))) for place in places
    ]


def _page_cases(pages: dict[str, list[int]], random: Random) -> list[Case]:
    """Bits in the head of pages, in their lists of cells, and in what they hold; of every table and index."""
    cases = []
    for name, numbers in pages.items():
        for where, (first, last) in {
            "head": (0, 8),
            "cells": (8, 24),
            "content": (200, _PAGE),
            "end": (3_700, _PAGE),
        }.items():
            page = random.choice(numbers)
            place = (page - 1) * _PAGE + random.randrange(first, last)
            if page == 1:
                place = max(place, 100 + first)
            family = "free pages" if name == "free pages" else "pages of tables and indexes"
            cases.append(Case(f"{name}, page {page}, {where}: bit flipped", family, _bit(place, random.randrange(8))))
    return cases


def _whole_page_cases(pages: dict[str, list[int]], random: Random) -> list[Case]:
    cases = []
    numbered = [
        (name, page) for name, numbers in pages.items() for page in numbers if page > 1 and name != "free pages"
    ]
    for name, page in random.sample(numbered, 18):
        start = (page - 1) * _PAGE
        cases.append(Case(f"{name}, page {page}: zeros", "whole pages", _changed(start, lambda b: bytes(_PAGE), _PAGE)))
    for name, page in random.sample(numbered, 8):
        start, rubbish = (page - 1) * _PAGE, random.randbytes(_PAGE)
        cases.append(
            Case(f"{name}, page {page}: rubbish", "whole pages", _changed(start, lambda b, r=rubbish: r, _PAGE))
        )
    for _ in range(14):
        (one, first), (other, second) = random.sample(numbered, 2)
        cases.append(Case(f"{one} {first} and {other} {second} swapped", "whole pages", _swapped(first, second)))
    # Pages of one table: each is sound by itself.
    for name in ("passages", "contents", "documents", "cell_lists"):
        if len(pages[name]) > 2:
            first, second = pages[name][-2:]
            cases.append(Case(f"{name}: pages {first} and {second} swapped", "whole pages", _swapped(first, second)))
    return cases


def _swapped(first: int, second: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        one, other = slice((first - 1) * _PAGE, first * _PAGE), slice((second - 1) * _PAGE, second * _PAGE)
        content[one], content[other] = content[other], content[one]
        path.write_bytes(content)

    return damage


def _tail_cases() -> list[Case]:
    return [
        Case("one byte missing", "tail", _resized(lambda n: n - 1)),
        Case("a page missing", "tail", _resized(lambda n: n - _PAGE)),
        Case("half a page missing", "tail", _resized(lambda n: n - _PAGE // 2)),
        Case("a page of zeros behind the end", "tail", _resized(lambda n: n, bytes(_PAGE))),
        Case("rubbish behind the end", "tail", _resized(lambda n: n, b"\xa5" * 1_000)),
        Case("twice behind itself", "tail", _doubled),
        Case("no file", "tail", lambda path: path.unlink()),
        Case("a folder instead", "tail", _a_folder_instead),
        Case("a log of rubbish", "log", lambda path: _beside(path, "-wal", b"\xa5" * 9_000)),
        Case("an empty log", "log", lambda path: _beside(path, "-wal", b"")),
        Case("a journal of rubbish", "log", lambda path: _beside(path, "-journal", b"\xa5" * 9_000)),
        Case("shared memory of rubbish", "log", lambda path: _beside(path, "-shm", b"\xa5" * 32_768)),
    ]


def _doubled(path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


def _a_folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _beside(path: Path, ending: str, content: bytes) -> None:
    path.with_name(path.name + ending).write_bytes(content)


def _log_cases(random: Random) -> list[Case]:
    """Damage to a log that holds commits, and to the file below it."""

    def of_log(damage: Callable[[Path], None]) -> Callable[[Path], None]:
        return lambda path: damage(path.with_name(f"{path.name}-wal"))

    cases = [
        Case("log removed", "log", of_log(lambda log: log.unlink()), log=True),
        Case("log emptied", "log", of_log(_resized(lambda n: 0)), log=True),
        Case("log with rubbish behind it", "log", of_log(_resized(lambda n: n, b"\xa5" * 5_000)), log=True),
        Case("log zeroed", "log", of_log(_zeroed), log=True),
    ]
    damages = [(f"log cut to {share:.1%}", _cut_to(share)) for share in (0.01, 0.3, 0.6, 0.9, 0.999)]
    places = (0, 4, 8, 12, 16, 24, 32, 36, 40, 48)
    damages += [(f"log: bit flipped in byte {place}", _bit(place, random.randrange(8))) for place in places]
    damages += [("log: bit flipped in a page", _anywhere(random.random())) for _ in range(8)]
    return cases + [Case(name, "log", of_log(damage), log=True) for name, damage in damages]


def _anywhere(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        _bit(int(32 + share * (path.stat().st_size - 33)), 3)(path)

    return damage


def _sql(*statements: str) -> Callable[[Path], None]:
    """Change rows behind the library's back."""

    def damage(path: Path) -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            before = connection.total_changes
            for statement in statements:
                connection.execute(statement)
            if connection.total_changes == before and not any("PRAGMA" in statement for statement in statements):
                raise RuntimeError(f"nothing was changed by {statements}")
        finally:
            connection.close()

    return damage


def _null(table: str, column: str) -> Callable[[Path], None]:
    """A NULL where the schema forbids one, as a flipped bit makes it: with the rule switched off for a moment."""

    def damage(path: Path) -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        (schema,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        for sql in (schema.replace("NOT NULL", ""), schema):
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (sql, table))
            connection.execute("PRAGMA writable_schema = RESET")
            connection.close()
            connection = sqlite3.connect(path, isolation_level=None)
            if sql != schema:
                rowid = "passage_id" if table == "codes" else "key" if table == "state" else "rowid"
                connection.execute(
                    f"UPDATE {table} SET {column} = NULL WHERE {rowid} = (SELECT {rowid} FROM {table} LIMIT 1)"
                )
        connection.close()

    return damage


def _full_text_cases(sound: Path, random: Random) -> list[Case]:
    """Bits in rows of FTS5's own tables, rows that are missing, and rows that have changed places."""
    connection = sqlite3.connect(sound)
    try:
        numbers = [row[0] for row in connection.execute("SELECT id FROM lexical_data ORDER BY id")]
        segments = sorted({number >> 37 for number in numbers if number >> 37})
        texts = [row[0] for row in connection.execute("SELECT id FROM lexical_docsize ORDER BY id")]
    finally:
        connection.close()
    pages = [number for number in numbers if number >> 37]
    changes: dict[str, Callable[[Path], None]] = {}
    for n in range(24):
        number = random.choice(pages) if n else 1
        changes[f"bit {n} in block {number:x}"] = _bit_of_block(number, random.random(), random.randrange(8))
    for place in (0.0, 0.3, 0.6, 0.99):
        changes[f"bit in the list of segments at {place}"] = _bit_of_block(10, place, random.randrange(4))
    for number in (1, 10, *random.sample(pages, 3)):
        changes[f"block {number:x} missing"] = _sql(f"DELETE FROM lexical_data WHERE id = {number}")
    for n in range(3):
        one, other = random.sample(pages, 2)
        changes[f"blocks swapped {n}"] = _swapped_rows("lexical_data", "id", "block", one, other)
        one, other = random.sample(texts, 2)
        changes[f"length changed {n}"] = _sql(
            f"UPDATE lexical_docsize SET sz = x'{random.randrange(1, 99):02x}0300' WHERE id = {one}"
        )
        changes[f"length missing {n}"] = _sql(f"DELETE FROM lexical_docsize WHERE id = {other}")
    for segment in segments[-2:]:
        changes[f"words of segment {segment} missing"] = _sql(f"DELETE FROM lexical_idx WHERE segid = {segment}")
        changes[f"words of segment {segment} elsewhere"] = _sql(
            f"UPDATE lexical_idx SET pgno = pgno + 2 WHERE segid = {segment}"
        )
        changes[f"other words of segment {segment}"] = _sql(
            f"UPDATE lexical_idx SET term = term || x'7a' WHERE segid = {segment}"
        )
    changes["settings"] = _sql("INSERT INTO lexical_config (k, v) VALUES ('pgsz', 64)")
    changes["format"] = _sql("UPDATE lexical_config SET v = 5")
    return [Case(f"full text: {name}", "full text", damage) for name, damage in changes.items()]


def _bit_of_block(number: int, place: float, bit: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            (block,) = connection.execute("SELECT block FROM lexical_data WHERE id = ?", (number,)).fetchone()
            changed = bytearray(block)
            changed[int(place * len(changed))] ^= 1 << bit
            connection.execute("UPDATE lexical_data SET block = ? WHERE id = ?", (bytes(changed), number))
        finally:
            connection.close()

    return damage


def _swapped_rows(table: str, key: str, column: str, one: int, other: int) -> Callable[[Path], None]:
    there = f"WHERE {key} IN ({one}, {other})"
    found = f"(SELECT {column} FROM swapped WHERE swapped.{key} != {table}.{key})"
    return _sql(
        f"CREATE TEMP TABLE swapped AS SELECT {key}, {column} FROM {table} {there}",
        f"UPDATE {table} SET {column} = {found} {there}",
    )


_ROWS = {
    # One row of each table, so that the other documents have to be right still.
    "passages": "WHERE passage_id = (SELECT min(passage_id) + 3 FROM passages)",
    "contents": "WHERE content_id = (SELECT min(content_id) + 3 FROM contents)",
    "documents": "WHERE document_id = (SELECT min(document_id) + 3 FROM documents)",
    "codes": "WHERE passage_id = (SELECT min(passage_id) FROM codes)",
    "segments": "WHERE segment_id = (SELECT min(segment_id) FROM segments)",
    "cell_lists": "WHERE list_id = (SELECT min(list_id) FROM cell_lists)",
    "first_stages": "WHERE 1",
    "encodings": "WHERE 1",
    "state": "WHERE key = 'generation'",
}
_COLUMNS = {
    "passages": ("ordinal", "n_passages", "span_start", "span_end", "n_tokens", "scale", "checksum", "tokens"),
    "contents": ("hash", "text"),
    "documents": ("metadata", "content_id", "checksum"),
    "codes": ("code", "content_id", "checksum"),
    "segments": ("members", "n_passages", "checksum"),
    "cell_lists": ("entries", "checksum"),
    "first_stages": ("settings", "cells", "codebooks", "mean", "checksum", "measured", "fitted_on"),
    "encodings": ("settings", "dim", "fingerprint", "model_name"),
    "state": ("value",),
}
_VALUES = {
    "text": "'nonsense'",
    "a huge number": "9223372036854775807",
    "a negative number": "-9223372036854775808",
    "infinity": "9e999",
    "an empty blob": "x''",
    "wrong UTF-8": "CAST(x'ff41fe' AS TEXT)",
}


def _row_cases() -> list[Case]:
    cases = [
        Case("another application id", "rows", _sql("PRAGMA application_id = 1234")),
        Case("no application id", "rows", _sql("PRAGMA application_id = 0")),
        Case("a future version", "rows", _sql("PRAGMA user_version = 99")),
        Case("a negative version", "rows", _sql("PRAGMA user_version = -1")),
        Case("generation missing", "rows", _sql("DELETE FROM state")),
        Case("encoding missing", "rows", _sql("PRAGMA foreign_keys = OFF", "DELETE FROM encodings")),
        Case("a text missing", "rows", _sql(f"DELETE FROM contents {_ROWS['contents']}")),
        Case("passages missing", "rows", _sql(f"DELETE FROM passages {_ROWS['passages']}")),
        Case("a code missing", "rows", _sql(f"DELETE FROM codes {_ROWS['codes']}")),
        Case("a segment missing", "rows", _sql(f"DELETE FROM segments {_ROWS['segments']}")),
        Case("a table missing", "rows", _sql("PRAGMA foreign_keys = OFF", "DROP TABLE codes")),
        Case("an index missing", "rows", _sql("PRAGMA foreign_keys = OFF", "DROP INDEX passages_by_encoding")),
        Case("id not UTF-8", "rows", _sql(f"UPDATE documents SET id = CAST(x'ff41' AS TEXT) {_ROWS['documents']}")),
        Case("id a number", "rows", _sql(f"UPDATE documents SET id = 4 {_ROWS['documents']}")),
        Case("settings deeply nested", "rows", _sql(f"UPDATE encodings SET settings = '{'[' * 50_000}'")),
        Case("settings a list", "rows", _sql("UPDATE encodings SET settings = '[]'")),
        Case("settings without names", "rows", _sql("UPDATE encodings SET settings = '{}'")),
        Case(
            "settings of other types",
            "rows",
            _sql("""UPDATE encodings SET settings = '{"split_documents": [], "prompts": 7, "fde": "x"}'"""),
        ),
        Case("first stage's settings a list", "rows", _sql("UPDATE first_stages SET settings = '[]'")),
        Case("measured a list", "rows", _sql("UPDATE first_stages SET measured = '[1]'")),
        Case("measured without recall", "rows", _sql("""UPDATE first_stages SET measured = '{"recall": {}}'""")),
        Case(
            "measured of other types", "rows", _sql("""UPDATE first_stages SET measured = '{"recall": {"short": 3}}'""")
        ),
        Case("dim is huge", "rows", _sql("UPDATE encodings SET dim = 1000000000000")),
        Case("dim is 1", "rows", _sql("UPDATE encodings SET dim = 1")),
    ]
    values = list(_VALUES.items())
    for table, columns in _COLUMNS.items():
        cases += [
            # Two values for each column, all values for each table.
            Case(
                f"{table}.{column} is {name}",
                "rows",
                _sql(f"UPDATE OR IGNORE {table} SET {column} = {value} {_ROWS[table]}"),
            )
            for place, column in enumerate(columns)
            for name, value in (values[(2 * place) % len(values)], values[(2 * place + 1) % len(values)])
        ]
        cases += [
            Case(f"{table}.{column} is NULL", "rows", _null(table, column))
            for column in columns[:2]
            if table != "first_stages" or column == "settings"
        ]
    return cases

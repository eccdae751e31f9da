"""Checking a whole database: its structure, every checksum, and that all parts fit together. Nothing is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from edgecolbert.cell_lists import CellList
from edgecolbert.connection import MEMORY
from edgecolbert.documents import is_sound_text
from edgecolbert.errors import StoreError, StoreFormatError
from edgecolbert.results import Problem, VerifyReport
from edgecolbert.sqlite_errors import driver_errors, means_damage
from edgecolbert.store import PinnedEncoding, Store

_Check = Callable[[Store, PinnedEncoding], Iterator[Problem]]

_DAMAGED_FILE = "The database file is damaged"
_MEND_ENCRYPTED = "restore it from a backup"
_MEND_FILE = "`edgecolbert repair --db FILE --out NEW` keeps what can be read"
_MEND_STAGE = "No document is lost: `edgecolbert repair --db FILE` makes the first stage again."


def verify_store(store: Store, *, full: bool = True) -> VerifyReport:
    """Check what is stored.

    Args:
        store: An open database.
        full: Check everything; or only what can be checked without reading the token embeddings and the lists of the
            first stage: the structure of all other tables, counts, and whether the first stage has every passage.

    Returns:
        What was checked and what is wrong.
    """
    with store.register.not_needed(), store.snapshot():
        problems = list(_all_problems(store) if full else _quick_problems(store))
        counts: Counter[str] = Counter()
        # What cannot be counted has been named by the checks before in most cases.
        problems = list(dict.fromkeys([*problems, *_guarded(store, lambda: _count(store, counts))]))
    if any(problem.message.startswith(_DAMAGED_FILE) for problem in problems):
        problems += _affected(store)
    return VerifyReport(counts["documents"], counts["passages"], tuple(problems))


def _all_problems(store: Store) -> Iterator[Problem]:
    yield from _guarded(store, lambda: _structure_problems(store, store.integrity_messages()))
    yield from _guarded(store, lambda: _text_problems(store))
    yield from _guarded(store, lambda: _lexical_problems(store.full_text.problems()))
    yield from _guarded(store, lambda: _encoding_problems(store, (_vector_problems, first_stage_problems)))


def _quick_problems(store: Store) -> Iterator[Problem]:
    yield from _guarded(store, lambda: _structure_problems(store, store.quick_messages()))
    yield from _guarded(store, lambda: map(Problem, store.register.problems()))
    yield from _guarded(store, lambda: _lexical_problems(store.full_text.sums.problems()))
    yield from _guarded(store, lambda: _encoding_problems(store, (_missing_problems, _places_problems)))


def _encoding_problems(store: Store, checks: tuple[_Check, ...]) -> Iterator[Problem]:
    encoding = store.encoding()
    if encoding is None:
        yield Problem("The database is not pinned to a model.")
        return
    for check in checks:
        yield from _guarded(store, partial(check, store, encoding))


def _guarded(store: Store, check: Callable[[], Iterator[Problem]]) -> Iterator[Problem]:
    """The problems a check finds; where it cannot go on, that is one, and the next check is made all the same."""
    try:
        yield from check()
    except StoreFormatError as error:
        yield Problem(str(error))
    except driver_errors() as error:
        if not means_damage(error):
            raise
        yield from _structure_problems(store, [str(error)])


def _structure_problems(store: Store, messages: list[str]) -> Iterator[Problem]:
    mend = _MEND_ENCRYPTED if store.encrypted else _MEND_FILE
    for message in messages:
        yield Problem(f"{_DAMAGED_FILE}: {message}; {mend}.")


def _count(store: Store, counts: Counter[str]) -> Iterator[Problem]:
    encoding = store.encoding()
    counts["documents"] = store.count_documents()
    counts["passages"] = 0 if encoding is None else store.count_passages(encoding.encoding_id)
    yield from ()


def _affected(store: Store) -> list[Problem]:
    """The documents that SQLite cannot read any more, or not their vectors."""
    if store.path == MEMORY or store.encrypted:
        return []
    from edgecolbert.repair import unreadable_documents  # only where something is wrong

    try:
        lost, without_vectors = unreadable_documents(store.path)
    except (StoreError, OSError):
        return []
    problems = []
    if lost:
        problems.append(Problem("Documents cannot be read any more.", lost))
    if without_vectors:
        problems.append(Problem("The vectors of documents cannot be read any more; the texts can.", without_vectors))
    return problems


def _text_problems(store: Store) -> Iterator[Problem]:
    for digest, text, ids in store.contents_to_check():
        if not is_sound_text(text, digest):
            yield Problem("A stored text does not match its hash.", tuple(ids))
    damaged = tuple(store.damaged_documents())
    if damaged:
        yield Problem("The records of documents (id, metadata, or which text is theirs) are damaged.", damaged)
    yield from map(Problem, store.register.problems())
    yield from map(Problem, store.fields.problems())
    if not damaged:
        yield from map(Problem, store.fields.differences(store.metadata()))


def _lexical_problems(found: Iterator[str]) -> Iterator[Problem]:
    for problem in found:
        yield Problem(
            f"The full-text index is wrong: {problem}. Run `edgecolbert compact --rebuild-lexical --db FILE` to make "
            "it again from the texts."
        )


def _without_passages(store: Store, encoding: PinnedEncoding) -> set[str]:
    """The hashes of the texts that documents point to and that have no passages."""
    return {digest for digest, _ in store.contents_without_passages(encoding.encoding_id, limit=-1)}


def _missing_problems(store: Store, encoding: PinnedEncoding) -> Iterator[Problem]:
    yield from _missing(store, _without_passages(store, encoding))


def _missing(store: Store, without: set[str]) -> Iterator[Problem]:
    if without:
        yield Problem("Documents have no passages, so no search finds them.", tuple(store.ids_of_hashes(without)))


def _vector_problems(store: Store, encoding: PinnedEncoding) -> Iterator[Problem]:
    without = _without_passages(store, encoding)
    yield from _missing(store, without)
    for content_id in store.damaged_contents(encoding.encoding_id):
        if not without.intersection(store.hashes_of_contents([content_id])):
            names = tuple(store.ids_of_contents([content_id]).get(content_id, []))
            yield Problem("Stored token embeddings are damaged or missing; the text is unharmed.", names)


def _places_problems(store: Store, encoding: PinnedEncoding) -> Iterator[Problem]:
    return first_stage_problems(store, encoding, lists=False)


def first_stage_problems(store: Store, encoding: PinnedEncoding, *, lists: bool = True) -> Iterator[Problem]:
    """Every list and code must be sound, and every passage be in one place.

    Args:
        store: The database, inside a snapshot.
        encoding: The encoding whose first stage is to be checked.
        lists: Read the lists and the codes, too, and not only which passages have any.

    Yields:
        What is wrong. Documents are named where it is only theirs.
    """
    try:
        store.check_stage_tables(again=True)
    except StoreError as error:
        # Which passages are missed is for the rest to say.
        yield Problem(str(error))
    try:
        found = store.first_stage(encoding.encoding_id)
        if found is None:
            return
        if lists:
            places: Counter[int] = Counter(code.passage_id for code in store.codes(found.number))
        else:
            places = Counter(store.coded_passages(found.number))
        for segment in store.segments(found.number):
            passages, _ = store.segment_members(segment.segment_id)
            places.update(passages.tolist())
            entry_bytes = found.stage.lists.entry_bytes
            for cell, entries in store.segment_lists(segment.segment_id) if lists else ():
                whole = len(entries) > 0 and len(entries) % entry_bytes == 0
                members = CellList.from_bytes(entries, entry_bytes - 2).passages if whole else passages
                if not whole or cell >= len(found.stage.lists.cells) or members.max() >= len(passages):
                    yield Problem(
                        f"The list of cell {cell} in segment {segment.segment_id} of the first stage is wrong. "
                        f"{_MEND_STAGE}"
                    )
        if lists and store.lists_without_segment():
            yield Problem(f"A list of the first stage belongs to no segment. {_MEND_STAGE}")
        wrong = [number for number in store.passage_numbers(encoding.encoding_id) if places[number] != 1]
        if wrong:
            named = store.ids_of_passages(wrong)
            yield Problem(
                f"The first stage misses passages, or has them twice: {', '.join(map(str, wrong[:10]))}. {_MEND_STAGE}",
                tuple(named),
            )
    except StoreError as error:
        yield Problem(str(error))

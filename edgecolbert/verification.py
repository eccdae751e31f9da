"""Checking a whole database: its structure, every checksum, and that all parts fit together. Nothing is changed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

from edgecolbert.cell_lists import CellList
from edgecolbert.errors import StoreError, StoreFormatError
from edgecolbert.results import Problem, VerifyReport
from edgecolbert.store import PinnedEncoding, Store


def verify_store(store: Store) -> VerifyReport:
    """Check everything that is stored.

    Args:
        store: An open database.

    Returns:
        What was checked and what is wrong.
    """
    with store.snapshot():
        problems: list[Problem] = []
        try:
            # One after the other, so that those found before one that ends the search are reported, too.
            for problem in _problems(store):
                problems.append(problem)  # noqa: PERF402
        except StoreFormatError as error:
            problems.append(Problem(str(error)))
        encoding = store.encoding()
        passages = 0 if encoding is None else store.count_passages(encoding.encoding_id)
        return VerifyReport(store.count_documents(), passages, tuple(problems))


def _problems(store: Store) -> Iterator[Problem]:
    for message in store.integrity_messages():
        yield Problem(f"The database file is damaged: {message}.")
    for digest, text, ids in store.contents_to_check():
        if hashlib.sha256(text).hexdigest() != digest:
            yield Problem("A stored text does not match its hash.", tuple(ids))
    damaged = tuple(store.damaged_documents())
    if damaged:
        yield Problem("The records of documents (id, metadata, or which text is theirs) are damaged.", damaged)
    encoding = store.encoding()
    if encoding is None:
        yield Problem("The database is not pinned to a model.")
    else:
        yield from _vector_problems(store, encoding)


def _vector_problems(store: Store, encoding: PinnedEncoding) -> Iterator[Problem]:
    missing = store.contents_without_passages(encoding.encoding_id, limit=-1)
    if missing:
        names = tuple(store.ids_of_hashes(digest for digest, _ in missing))
        yield Problem("Documents have no passages, so no search finds them.", names)
    without = {digest for digest, _ in missing}
    for content_id in store.damaged_contents(encoding.encoding_id):
        names = tuple(store.ids_of_contents([content_id]).get(content_id, []))
        if not without.intersection(store.hashes_of_contents([content_id])):
            yield Problem("Stored token embeddings are damaged or missing; the text is unharmed.", names)
    yield from _first_stage_problems(store, encoding)


def _first_stage_problems(store: Store, encoding: PinnedEncoding) -> Iterator[Problem]:
    """Every list and code must be sound, and every passage be in one place."""
    try:
        found = store.first_stage(encoding.encoding_id)
        if found is None:
            return
        places: Counter[int] = Counter(code.passage_id for code in store.codes(found.number))
        for segment in store.segments(found.number):
            passages, _ = store.segment_members(segment.segment_id)
            places.update(passages.tolist())
            entry_bytes = found.stage.lists.entry_bytes
            for cell, entries in store.segment_lists(segment.segment_id):
                whole = len(entries) > 0 and len(entries) % entry_bytes == 0
                members = CellList.from_bytes(entries, entry_bytes - 2).passages if whole else passages
                if not whole or cell >= len(found.stage.lists.cells) or members.max() >= len(passages):
                    yield Problem(
                        f"The list of cell {cell} in segment {segment.segment_id} of the first stage is wrong."
                    )
        if store.lists_without_segment():
            yield Problem("A list of the first stage belongs to no segment.")
        wrong = [number for number in store.passage_numbers(encoding.encoding_id) if places[number] != 1]
        if wrong:
            yield Problem(f"The first stage misses passages, or has them twice: {', '.join(map(str, wrong[:10]))}.")
    except StoreError as error:
        yield Problem(str(error))

"""Checking a whole database: its structure, every checksum, and that all parts fit together. Nothing is changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from edgecolbert.errors import StoreError
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
        problems = tuple(_problems(store))
        encoding = store.encoding()
        passages = 0 if encoding is None else store.count_passages(encoding.encoding_id)
        return VerifyReport(store.count_documents(), passages, problems)


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
    stage_id = None
    try:
        stage = store.first_stage(encoding.encoding_id)
        if stage is not None:
            stage_id, code_bytes = stage[0], stage[1].code_bytes
    except StoreError as error:
        yield Problem(str(error))
    missing = store.contents_without_passages(encoding.encoding_id, limit=-1)
    if missing:
        names = tuple(store.ids_of_hashes(digest for digest, _ in missing))
        yield Problem("Documents have no passages, so no search finds them.", names)
    without = {digest for digest, _ in missing}
    for content_id in store.damaged_contents(encoding.encoding_id):
        names = tuple(store.ids_of_contents([content_id]).get(content_id, []))
        if not without.intersection(store.hashes_of_contents([content_id])):
            yield Problem("Stored token embeddings are damaged or missing; the text is unharmed.", names)
    if stage_id is not None:
        for passage_id, content_id, sound in store.codes_to_check(encoding.encoding_id, stage_id, code_bytes):
            if not sound:
                names = tuple(store.ids_of_contents([content_id]).get(content_id, []))
                yield Problem(f"The first stage's code of passage {passage_id} is missing or damaged.", names)

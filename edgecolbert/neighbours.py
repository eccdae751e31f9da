"""The passages around one that was found."""

from __future__ import annotations

from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.results import Hit, Passage
from edgecolbert.store import Store


def passages_around(store: Store, encoding_id: int, hit: Hit, before: int, after: int) -> list[Passage]:
    """The passages around the one that a hit is of.

    Args:
        store: The database, inside a snapshot.
        encoding_id: Which passages.
        hit: What was found.
        before: How many passages before it.
        after: How many behind it.

    Returns:
        The passages in the order of the text, the hit's own among them.

    Raises:
        InputTypeError: If a number is not a whole one, or `hit` is something else.
        InputError: If a number is negative, or the document was deleted or changed since.
    """
    if not isinstance(hit, Hit):
        raise InputTypeError(f"hit is {type(hit).__name__}, expected a Hit.")
    for name, number in (("before", before), ("after", after)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise InputTypeError(f"{name} is {number!r}, expected a whole number.")
        if number < 0:
            raise InputError(f"{name} is {number}, expected at least 0.")
    content_id, document = store.content_number(hit.id), store.document(hit.id)
    spans = (
        []
        if content_id is None
        else [(p.start, p.end) for p in store.passages(encoding_id, [content_id], complete=True)]
    )
    own = (hit.passage.start, hit.passage.end)
    if document is None or document.text != hit.text or own not in spans:
        raise InputError(
            f"The document {hit.id!r} has no passage at {own} any more: it was deleted, changed or split otherwise "
            "since it was found. Search again."
        )
    place = spans.index(own)
    around = spans[max(0, place - before) : place + after + 1]
    return [hit.passage if span == own else Passage(*span, document.text[span[0] : span[1]]) for span in around]

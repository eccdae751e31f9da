"""One search over one snapshot: choose texts, score their passages, turn the best into hits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgecolbert.damage import Skipped
from edgecolbert.errors import StoreFormatError
from edgecolbert.results import Hit, Origin, Passage, from_search
from edgecolbert.scoring import maxsim_blocks
from edgecolbert.store import Store

FloatArray = npt.NDArray[np.float32]

# Queries of fewer tokens than this are short: each of their tokens counts for more, so they need more candidates.
SHORT_QUERY = 16


class Best(NamedTuple):
    """The best passage of one text for one query.

    Attributes:
        score: Its MaxSim.
        start: Offset of its first character.
        end: Offset behind its last character.
    """

    score: float
    start: int
    end: int


def score_contents(
    store: Store,
    encoding_id: int,
    queries: Sequence[FloatArray],
    content_ids: Sequence[int] | None,
    skipped: Skipped | None = None,
) -> list[dict[int, Best]]:
    """Score every passage of some texts, exactly, and keep the best of each text.

    Args:
        store: The database, inside a snapshot.
        encoding_id: Which vectors.
        queries: Token embeddings of each query.
        content_ids: The texts, or None for all that documents point to.
        skipped: Takes note of damaged passages, which are then left out; None to raise.

    Returns:
        For each query the best passage by content number. Of equal passages the first wins.
    """
    best: list[dict[int, Best]] = [{} for _ in queries]
    damaged = None if skipped is None else skipped.contents
    passages = store.passages(encoding_id, content_ids, complete=True, damaged=damaged)
    places = (((passage.content_id, passage.start, passage.end), passage.tokens) for passage in passages)
    for block, scores in maxsim_blocks(queries, places):
        for row, found in zip(scores, best, strict=True):
            for (content_id, start, end), score in zip(block, row.tolist(), strict=True):
                known = found.get(content_id)
                if known is None or score > known.score:
                    found[content_id] = Best(score, start, end)
    return best


def ranked_documents(
    store: Store, best: Mapping[int, Best], k: int, selected: Mapping[int, Iterable[str]] | None
) -> list[tuple[str, Best]]:
    """The documents of the best texts.

    Args:
        store: The database, inside the snapshot that was scored.
        best: The best passage of each text.
        k: How many documents.
        selected: The document ids to choose from by content number, or None for all.

    Returns:
        At most `k` ids with their best passages, highest score first; equal scores in the order of the ids.
    """
    ranked = sorted(best, key=lambda content_id: -best[content_id].score)
    # Every text has at least one document, so the k best texts and those that tie with the last are enough.
    if len(ranked) > k:
        last = best[ranked[k - 1]].score
        ranked = [content_id for content_id in ranked if best[content_id].score >= last]
    ids = store.ids_of_contents(ranked) if selected is None else {number: selected[number] for number in ranked}
    pairs = sorted((-best[number].score, name, number) for number, names in ids.items() for name in names)
    return [(name, best[number]) for _, name, number in pairs[:k]]


def hits(store: Store, ranked: Sequence[tuple[str, Best]], skipped: Skipped | None = None) -> list[Hit]:
    """Hits with text and metadata for ranked documents, inside the snapshot they were ranked in.

    Args:
        store: The database.
        ranked: Ids with their best passages.
        skipped: Takes note of damaged documents, which are then left out; None to raise.

    Returns:
        A hit for each document that is not left out, in the same order.

    Raises:
        StoreFormatError: If a document is damaged and `skipped` is None.
    """
    found = []
    for identifier, best in ranked:
        try:
            document = store.document(identifier)
        except StoreFormatError:
            if skipped is None:
                raise
            skipped.documents.add(identifier)
            continue
        if document is None:
            raise StoreFormatError(
                f"{store.path}: the document {identifier!r} is listed but cannot be read. Restore the file from a "
                "backup, or run `edgecolbert verify --db FILE`."
            )
        passage = Passage(best.start, best.end, document.text[best.start : best.end])
        found.append(Hit(identifier, best.score, document.text, document.metadata, passage))
    return found


def with_ranks(found: Sequence[Hit], origin: Origin) -> list[Hit]:
    """Hits of late interaction, best first, with their ranks: 1 and how many scored higher."""
    scores = [-hit.score for hit in found]
    return [from_search(replace(hit, ranks={"late": 1 + bisect_left(scores, -hit.score)}), origin) for hit in found]

"""One search over one snapshot: choose texts, score their passages, turn the best into hits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from heapq import heappush, heapreplace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgecolbert.damage import Skipped
from edgecolbert.errors import InputError, InputTypeError, StoreFormatError
from edgecolbert.results import Hit, Origin, Passage, from_search
from edgecolbert.scoring import maxsim_blocks
from edgecolbert.store import Store
from edgecolbert.untrusted import shown

FloatArray = npt.NDArray[np.float32]

# Queries of fewer tokens than this are short: each of their tokens counts for more, so they need more candidates.
SHORT_QUERY = 16

# Which text a passage is of, and its offsets in it.
_Place = tuple[int, int, int]


class Best(NamedTuple):
    """The best passage of one text for one query.

    Attributes:
        score: What it is ranked by: its MaxSim, or what that and the words of its text make together.
        start: Offset of its first character.
        end: Offset behind its last character.
        late: Its MaxSim, or None where only words were looked for.
        others: The next best passages of the text, best first, where they are wanted.
    """

    score: float
    start: int
    end: int
    late: float | None = None
    others: tuple[Best, ...] = ()


class Grouping(NamedTuple):
    """What is ranked, and what of it is wanted.

    Attributes:
        by_passage: Passages, rather than documents.
        passages_per_document: How many of the best passages of a document, where documents are ranked.
    """

    by_passage: bool = False
    passages_per_document: int = 1

    @classmethod
    def of(cls, group: object, passages_per_document: int, mode: str) -> Grouping:
        """What a search asks for.

        Args:
            group: "document" or "passage".
            passages_per_document: Most passages of a hit, at least 1.
            mode: How the search ranks.

        Returns:
            The grouping.

        Raises:
            InputError: If there is no such grouping, each hit is a passage and is to have several, or passages are
                wanted of a search that ranks whole texts.
        """
        if group not in ("document", "passage"):
            raise InputError(f"group is {shown(group)}, expected 'document' or 'passage'.")
        if group == "passage" and passages_per_document != 1:
            raise InputError(
                f"passages_per_document is {passages_per_document}, but with group='passage' every hit is one passage. "
                "Leave one of them out."
            )
        if group == "passage" and mode == "lexical":
            raise InputError(
                "mode='lexical' ranks whole texts by their words, so group='passage' has nothing to rank. Leave it "
                "out, or use mode='hybrid'; passages_per_document gives the passages with most of the words."
            )
        return cls(group == "passage", passages_per_document)

    def keep(self, k: int) -> int:
        """How many of the best passages of a text are wanted of a search for `k` hits: all may be of one text."""
        return k if self.by_passage else self.passages_per_document


BY_DOCUMENT = Grouping()


def check_vectors(queries: Sequence[FloatArray], dim: int | None) -> None:
    """Refuse what are not the token embeddings of queries, before something else is blamed for it.

    Args:
        queries: What was given for each query.
        dim: Size of a stored token embedding, or None where nothing is stored.

    Raises:
        InputTypeError: If one is not an array of float numbers [n_query_tokens, dim].
        InputError: If one has another `dim`.
    """
    for number, vectors in enumerate(queries):
        if not isinstance(vectors, np.ndarray):
            raise InputTypeError(
                f"Query {number} is {type(vectors).__name__}, expected token embeddings as encode_queries gives "
                "them: float32 [n_query_tokens, dim]."
            )
        if vectors.ndim != 2 or vectors.dtype.kind != "f":
            raise InputTypeError(
                f"Query {number} is an array of {vectors.dtype} with shape {vectors.shape}, expected float32 "
                "[n_query_tokens, dim]. For `ranked` a single query goes in a list."
            )
        if dim is not None and vectors.shape[1] != dim:
            raise InputError(f"Query {number} has token embeddings of {vectors.shape[1]} numbers, the index of {dim}.")


def score_contents(
    store: Store,
    encoding_id: int,
    queries: Sequence[FloatArray],
    content_ids: Sequence[int] | None,
    skipped: Skipped | None = None,
    keep: int = 1,
) -> list[dict[int, Best]]:
    """Score every passage of some texts, exactly, and keep the best of each text.

    Args:
        store: The database, inside a snapshot.
        encoding_id: Which vectors.
        queries: Token embeddings of each query.
        content_ids: The texts, or None for all that documents point to.
        skipped: Takes note of damaged passages, which are then left out; None to raise.
        keep: How many passages of a text to keep, the best with the others behind it.

    Returns:
        For each query the best passage by content number. Of equal passages the first wins.
    """
    damaged = None if skipped is None else skipped.contents
    passages = store.passages(encoding_id, content_ids, complete=True, damaged=damaged)
    places = (((passage.content_id, passage.start, passage.end), passage.tokens) for passage in passages)
    blocks = maxsim_blocks(queries, places)
    if keep > 1:
        return _several(blocks, len(queries), keep)
    best: list[dict[int, Best]] = [{} for _ in queries]
    for block, scores in blocks:
        for row, found in zip(scores, best, strict=True):
            for (content_id, start, end), score in zip(block, row.tolist(), strict=True):
                known = found.get(content_id)
                if known is None or score > known.score:
                    found[content_id] = Best(score, start, end, score)
    return best


def _several(blocks: Iterable[tuple[list[_Place], FloatArray]], n_queries: int, keep: int) -> list[dict[int, Best]]:
    """The best passages of each text for each query."""
    found: list[dict[int, list[tuple[float, int, int]]]] = [{} for _ in range(n_queries)]
    for block, scores in blocks:
        for row, by_text in zip(scores, found, strict=True):
            for (content_id, start, end), score in zip(block, row.tolist(), strict=True):
                # The least is the worst; of equal passages the later one is worse.
                kept, entry = by_text.setdefault(content_id, []), (score, -start, -end)
                if len(kept) < keep:
                    heappush(kept, entry)
                elif entry > kept[0]:
                    heapreplace(kept, entry)
    return [{content_id: _first(entries) for content_id, entries in by_text.items()} for by_text in found]


def _first(entries: list[tuple[float, int, int]]) -> Best:
    best, *others = (Best(score, -start, -end, score) for score, start, end in sorted(entries, reverse=True))
    return best._replace(others=tuple(others))


def ranked_documents(
    store: Store,
    best: Mapping[int, Best],
    k: int,
    selected: Mapping[int, Iterable[str]] | None,
    grouping: Grouping = BY_DOCUMENT,
) -> list[tuple[str, Best]]:
    """The documents of the best texts, or their passages.

    Args:
        store: The database, inside the snapshot that was scored.
        best: The best passage of each text.
        k: How many documents, or passages.
        selected: The document ids to choose from by content number, or None for all.
        grouping: What is ranked.

    Returns:
        At most `k` ids with their best passages, highest score first; equal scores in the order of the ids, and within
        a document in the order of its text.
    """
    ranked = sorted(best, key=lambda content_id: -best[content_id].score)
    # Every text has at least one document, so the k best texts and those that tie with the last are enough.
    if len(ranked) > k:
        last = best[ranked[k - 1]].score
        ranked = [content_id for content_id in ranked if best[content_id].score >= last]
    ids = store.ids_of_contents(ranked) if selected is None else {number: selected[number] for number in ranked}
    if grouping.by_passage:
        # Whatever is among the k best passages is of one of the k best texts.
        passages = sorted(
            (-one.score, name, one.start, one.end, one.late)
            for number, names in ids.items()
            for name in names
            for one in (best[number], *best[number].others)
        )
        _check_ties(store, [passage[0] for passage in passages], k)
        return [(name, Best(-score, start, end, late)) for score, name, start, end, late in passages[:k]]
    pairs = sorted((-best[number].score, name, number) for number, names in ids.items() for name in names)
    _check_ties(store, [pair[0] for pair in pairs], k)
    return [(name, best[number]) for _, name, number in pairs[:k]]


def _check_ties(store: Store, scores: Sequence[float], k: int) -> None:
    """Refuse changed ids where they alone decide which of equals are left out; the records of these are not read."""
    if len(scores) > k > 0 and scores[k - 1] == scores[k]:
        store.register.check_ids()


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
        text = document.text
        passages = tuple(
            Passage(one.start, one.end, text[one.start : one.end], one.late) for one in (best, *best.others)
        )
        found.append(Hit(identifier, best.score, text, document.metadata, passages[0], passages=passages))
    return found


def with_ranks(found: Sequence[Hit], origin: Origin) -> list[Hit]:
    """Hits of late interaction, best first, with their ranks: 1 and how many scored higher."""
    scores = [-hit.score for hit in found]
    return [from_search(replace(hit, ranks={"late": 1 + bisect_left(scores, -hit.score)}), origin) for hit in found]

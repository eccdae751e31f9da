"""Lexical search, and fusing it with late interaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.fulltext import Scored
from edgecolbert.lexical import LexicalQuery, tokens
from edgecolbert.search import BY_DOCUMENT, Best, Grouping, ranked_documents
from edgecolbert.store import Store

MODES = ("late", "lexical", "hybrid")
KINDS = ("weighted", "rrf")

FloatArray = npt.NDArray[np.float64]

# What reciprocal ranks are shifted by, as in the paper that proposed them (Cormack, Clarke and Büttcher, 2009).
_RRF_SHIFT = 60


@dataclass(frozen=True)
class Fusion:
    """How two rankings become one.

    Attributes:
        kind: "weighted" adds the scores, each brought to mean 0 and deviation 1 over the candidates; "rrf" adds
            1 / (60 + rank).
        late_weight: Weight of late interaction, between 0 and 1; the lexical ranking has the rest. None for .6 of
            scores and .5 of ranks, which were measured (docs/hybrid.md).
    """

    kind: Literal["weighted", "rrf"] = "weighted"
    late_weight: float | None = None

    def __post_init__(self) -> None:
        """Refuse what has no meaning.

        Raises:
            InputError: If the kind is unknown or the weight is not between 0 and 1.
            InputTypeError: If the weight is no number.
        """
        if self.kind not in KINDS:
            raise InputError(f"fusion has kind {self.kind!r}, expected 'weighted' or 'rrf'.")
        if self.late_weight is None:
            return
        if isinstance(self.late_weight, bool) or not isinstance(self.late_weight, int | float):
            raise InputTypeError(f"fusion has late_weight {self.late_weight!r}, expected a number.")
        if not 0 <= self.late_weight <= 1:
            raise InputError(f"fusion has late_weight {self.late_weight}, expected 0 to 1.")

    def scores(self, late: FloatArray, lexical: FloatArray) -> FloatArray:
        """The scores of candidates, from both rankings.

        Args:
            late: float64 [n], MaxSim of each candidate.
            lexical: float64 [n], BM25 of each, 0 where the query's words are not there.

        Returns:
            float64 [n], higher is better.

        Examples:
            >>> Fusion("rrf").scores(np.array([3.0, 1.0]), np.array([0.0, 2.0])).round(5).tolist()
            [0.0082, 0.01626]
        """
        weight = self.late_weight
        if self.kind == "rrf":
            weight = 0.5 if weight is None else weight
            found = np.where(lexical > 0, 1 / (_RRF_SHIFT + ranks(lexical)), 0)
            return np.asarray(weight / (_RRF_SHIFT + ranks(late)) + (1 - weight) * found)
        weight = 0.6 if weight is None else weight
        return weight * _standard(late) + (1 - weight) * _standard(lexical)


def ranks(scores: FloatArray) -> npt.NDArray[np.int64]:
    """1 for the best, and for each other one more than how many are better; equals share a rank."""
    return np.asarray(1 + np.searchsorted(np.sort(-scores), -scores), dtype=np.int64)


def _standard(scores: FloatArray) -> FloatArray:
    if not len(scores):
        return scores
    deviation = scores.std()
    # Where all are equal they say nothing; rounding leaves a little of it.
    flat = not deviation > 1e-9 * max(1.0, float(np.abs(scores).max(initial=0)))
    return np.zeros_like(scores) if flat else (scores - scores.mean()) / deviation


class Found(NamedTuple):
    """A document that was found.

    Attributes:
        id: Its id.
        best: Its score and best passage.
        ranks: Its rank in each stage that has it.
    """

    id: str
    best: Best
    ranks: dict[str, int]


Selected = Mapping[int, Iterable[str]]


def lexical_search(
    store: Store,
    encoding_id: int,
    query: LexicalQuery,
    k: int,
    selected: Selected | None,
    grouping: Grouping = BY_DOCUMENT,
) -> list[Found]:
    """The documents that BM25 ranks highest.

    Args:
        store: The database, inside a snapshot.
        encoding_id: Whose passages are shown.
        query: The query.
        k: How many documents.
        selected: The document ids to choose from by content number, or None for all.
        grouping: How many passages of a document are wanted.

    Returns:
        At most `k` documents, best first; equal scores in the order of their ids. The passages are those with most of
        the query's words, the first of equals first.
    """
    scored = store.full_text.best(query.match, k, None if selected is None else list(selected))
    spans = store.passage_spans(encoding_id, [text.content_id for text in scored])
    best = {}
    for text in scored:
        wanted = _spans(store, text, spans, query)[: grouping.passages_per_document]
        first, *others = (Best(text.score, *span) for span in wanted)
        best[text.content_id] = first._replace(others=tuple(others))
    return _ranked(store, best, k, selected, {"lexical": {number: found.score for number, found in best.items()}})


def fused(
    store: Store,
    late: Mapping[int, Best],
    lexical: Mapping[int, float],
    k: int,
    selected: Selected | None,
    fusion: Fusion,
    grouping: Grouping = BY_DOCUMENT,
) -> list[Found]:
    """The documents of candidates that both rankings have scored, or their passages.

    Args:
        store: The database, inside the snapshot that was scored.
        late: The best passage of each candidate.
        lexical: BM25 of those candidates that have words of the query.
        k: How many documents.
        selected: The document ids to choose from by content number, or None for all.
        fusion: How the scores become one.
        grouping: What is ranked. A passage has the BM25 of its text, and its own MaxSim.

    Returns:
        At most `k` documents or passages, best first; equal scores in the order of their ids. Ranks are those of the
        texts.
    """
    candidates = [
        (number, one)
        for number, found in late.items()
        for one in ((found, *found.others) if grouping.by_passage else (found,))
    ]
    scores = fusion.scores(
        np.array([one.score for _, one in candidates], dtype=np.float64),
        np.array([lexical.get(number, 0.0) for number, _ in candidates], dtype=np.float64),
    )
    scored: dict[int, list[Best]] = {}
    for (number, one), score in zip(candidates, scores.tolist(), strict=True):
        scored.setdefault(number, []).append(one._replace(score=score))
    # Those of a text are best first, and stay so: its words add the same to each.
    best = {number: some[0] for number, some in scored.items()}
    if grouping.by_passage:
        best = {number: first._replace(others=tuple(scored[number][1:])) for number, first in best.items()}
    stages = {"late": {number: found.score for number, found in late.items()}, "lexical": lexical}
    return _ranked(store, best, k, selected, stages, grouping)


def _ranked(
    store: Store,
    best: Mapping[int, Best],
    k: int,
    selected: Selected | None,
    stages: Mapping[str, Mapping[int, float]],
    grouping: Grouping = BY_DOCUMENT,
) -> list[Found]:
    places = {stage: _places(scores) for stage, scores in stages.items()}
    documents = ranked_documents(store, best, k, selected, grouping)
    numbers = store.contents_of_ids([name for name, _ in documents])
    return [
        Found(name, passage, {stage: place[numbers[name]] for stage, place in places.items() if numbers[name] in place})
        for name, passage in documents
    ]


def _places(scores: Mapping[int, float]) -> dict[int, int]:
    found = ranks(np.array(list(scores.values()), dtype=np.float64))
    return dict(zip(scores, found.tolist(), strict=True))


def _spans(
    store: Store, text: Scored, spans: Mapping[int, Sequence[tuple[int, int]]], query: LexicalQuery
) -> Sequence[tuple[int, int]]:
    """The passages of a text, those with most of the query's words first."""
    found = spans.get(text.content_id, [])
    if len(found) == 1:
        return found
    content = store.text(text.content_id)
    if not found:
        return [(0, len(content))]
    return sorted(found, key=lambda span: -len(query.words.intersection(tokens(content[span[0] : span[1]]).words)))


def check_mode(mode: object, fusion: object, options: Mapping[str, Any]) -> Fusion:
    """Refuse a mode that does not exist, and options that mean nothing in it.

    Args:
        mode: As the user gave it.
        fusion: The same; None for the default.
        options: Options of late interaction by name, with their values.

    Returns:
        The fusion.

    Raises:
        InputError: If one is wrong.
        InputTypeError: If `fusion` is something else.
    """
    if mode not in MODES:
        raise InputError(f"mode is {mode!r}, expected one of {', '.join(map(repr, MODES))}.")
    if fusion is not None and mode != "hybrid":
        raise InputError(f"fusion is for mode='hybrid', and mode is {mode!r}. Leave it out.")
    given = [name for name, value in options.items() if value]
    if mode == "lexical" and given:
        raise InputError(f"mode='lexical' scores no token embeddings; leave {' and '.join(given)} out.")
    if fusion is None:
        return Fusion()
    if isinstance(fusion, str):
        return Fusion(fusion)  # type: ignore[arg-type]
    if not isinstance(fusion, Fusion):
        raise InputTypeError(f"fusion is {type(fusion).__name__}, expected 'weighted', 'rrf' or a Fusion.")
    return fusion

"""Measuring the first stage of an index on the index's own texts, and choosing its settings by what was measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecolbert.candidates import candidates_of
from edgecolbert.cell_lists import Segment, passage_scores
from edgecolbert.errors import CancelledError, InputError, StoreFormatError
from edgecolbert.fde import FdeSettings, FirstStage
from edgecolbert.scoring import maxsim_blocks
from edgecolbert.search import SHORT_QUERY
from edgecolbert.store import Store, StoredFirstStage, StoredPassage
from edgecolbert.upkeep import Upkeep

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Progress = Callable[[int, int | None], bool | None]

# Numbers of candidates at which recall is measured, and whose recall `min_recall` looks up.
WIDTHS = (25, 50, 100, 200, 400, 800, 1_600)
_TOP = 10

# Words of the two kinds of queries that are taken from the index's texts. Long ones are long for any model, also one
# that has a token for each word and puts nothing before them.
_QUERY_WORDS = {"short": 3, "long": SHORT_QUERY}
# Passages that the settings are compared on; the chosen first stage is then measured on all.
_TRIAL_PASSAGES = 3_000
_TRIAL_WIDTH = 100
# Settings that are no better than this are not worth making all codes again for; what is measured is that uncertain.
_WORTH_A_REBUILD = 0.01
_AS_IT_IS, _FITTED_AGAIN = "as it is", "cells fitted again"


@dataclass(frozen=True)
class Trial:
    """One way to set up the first stage, tried on a part of the index.

    Attributes:
        name: What is different about it.
        settings: Its settings.
        recall: Share of the exact top 10 among 100 candidates, for "short" and for "long" queries.
        bytes_per_passage: Mean size of a code.
        ms_per_query: Mean time of the first stage, one thread.
    """

    name: str
    settings: FdeSettings
    recall: dict[str, float]
    bytes_per_passage: float
    ms_per_query: float


@dataclass(frozen=True)
class TuneReport:
    """What `Index.tune` found.

    Attributes:
        trials: The settings that were compared, best first; empty where none were.
        chosen: Name of the settings that serve now.
        rebuilt: Whether all codes were made again.
        recall: For "short" and "long" queries the share of the exact top 10 among so many candidates, by that number,
            over the whole index.
        queries: How many queries were measured.
        kept_kind: The kind of first stage that the file was made with, where the other kind was not tried for that.
    """

    trials: tuple[Trial, ...]
    chosen: str
    rebuilt: bool
    recall: dict[str, dict[int, float]]
    queries: int
    kept_kind: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same as a dictionary that JSON can hold."""
        return asdict(self)


class Tuner:
    """Measures and sets up the first stage of one index.

    Args:
        store: The database.
        lock: Held while the database is used.
        upkeep: Builds first stages.
        encoding_id: Which vectors.
        encode_queries: The index's model.
        progress: Told how many steps are done; may cancel.
    """

    def __init__(
        self,
        store: Store,
        lock: threading.RLock,
        upkeep: Upkeep,
        encoding_id: int,
        encode_queries: Callable[[Sequence[str]], list[FloatArray]],
        progress: Progress | None = None,
    ) -> None:
        self._store = store
        self._lock = lock
        self._upkeep = upkeep
        self._encoding_id = encoding_id
        self._encode_queries = encode_queries
        self._progress = progress
        self._done = 0

    def run(
        self, texts: Sequence[str] | None, n_queries: int, *, compare: bool, rebuild: bool, keep_kind: bool
    ) -> TuneReport:
        """As `Index.tune` promises."""
        if rebuild:
            self._upkeep.rebuild()
            self._tell()
        queries = self._queries(texts, n_queries)
        serving = self._serving()
        if serving is None:
            self._upkeep.rebuild()
            rebuild, serving = True, self._serving()
        if serving is None:
            raise InputError(f"{self._store.path} has no documents, so there is nothing to measure.")
        trials: list[Trial] = []
        chosen = _AS_IT_IS
        # What serves, not what was pinned: somebody may have let another kind be chosen before.
        kept = serving.stage.settings.kind if compare and keep_kind else None
        if compare:
            trials = self._trials(queries, serving, _ways(serving.stage, kept))
            best = _best(trials)
            if best.name != chosen:
                self._upkeep.rebuild(best.settings)
                chosen, rebuild, serving = best.name, True, self._serving() or serving
        recall = self._curve(queries, serving)
        measured = {"recall": {kind: {str(n): value for n, value in row.items()} for kind, row in recall.items()}}
        with self._lock, self._store.change():
            self._store.set_measured(serving.number, measured)
        return TuneReport(tuple(trials), chosen, rebuild, recall, sum(map(len, queries.values())), kept)

    def _tell(self) -> None:
        self._done += 1
        if self._progress is not None and self._progress(self._done, None) is False:
            raise CancelledError("Tuning was cancelled. The first stage serves as it did before, or as far as rebuilt.")

    def _serving(self) -> StoredFirstStage | None:
        with self._lock, self._store.snapshot():
            return self._store.first_stage(self._encoding_id)

    def _queries(self, texts: Sequence[str] | None, n_queries: int) -> dict[str, list[FloatArray]]:
        """Token embeddings of short and of long queries, the user's or some from the index's own texts."""
        if texts is None:
            with self._lock, self._store.snapshot():
                own = self._store.sample_texts(n_queries)
            texts = [query for words in _QUERY_WORDS.values() for query in _excerpts(own, words)]
        kinds: dict[str, list[FloatArray]] = {"short": [], "long": []}
        for vectors in self._encode_queries(list(texts)):
            if len(vectors):
                kinds["short" if len(vectors) < SHORT_QUERY else "long"].append(vectors)
        return {kind: vectors for kind, vectors in kinds.items() if vectors}

    def _trials(
        self,
        queries: dict[str, list[FloatArray]],
        serving: StoredFirstStage,
        ways: dict[str, FdeSettings | None],
    ) -> list[Trial]:
        with self._lock, self._store.snapshot():
            numbers = _evenly_spaced(self._store.passage_numbers(self._encoding_id), _TRIAL_PASSAGES)
            passages = list(self._store.passages_by_number(self._encoding_id, numbers))
        exact = {kind: _exact_top(vectors, passages, by_content=False) for kind, vectors in queries.items()}
        documents = [passage.tokens.to_float() for passage in passages]
        trials = []
        for name, wanted in ways.items():
            stage = serving.stage
            if wanted is not None:
                stage = FirstStage.fit(wanted, documents, start=stage if stage.cells is not None else None)
            trials.append(_tried(name, stage, documents, queries, exact))
            self._tell()
        return sorted(trials, key=lambda trial: (-_worst(trial), trial.bytes_per_passage))

    def _curve(self, queries: dict[str, list[FloatArray]], serving: StoredFirstStage) -> dict[str, dict[int, float]]:
        candidates = candidates_of(serving)
        curve: dict[str, dict[int, float]] = {}
        with self._lock, self._store.snapshot():
            for kind, vectors in queries.items():
                exact = _exact_top(vectors, self._store.passages(self._encoding_id), by_content=True)
                found = [candidates.nearest_contents(self._store, query, WIDTHS[-1], None) for query in vectors]
                curve[kind] = {
                    width: round(
                        fmean(
                            len(set(top) & set(row[:width])) / len(top) for top, row in zip(exact, found, strict=True)
                        ),
                        4,
                    )
                    for width in WIDTHS
                }
                self._tell()
        return curve


def width_for(recall: dict[str, dict[str, float]], n_query_tokens: int, min_recall: float, path: str) -> int:
    """How many candidates a query needs for a recall that was measured.

    Args:
        recall: What `Index.tune` measured, as it is stored.
        n_query_tokens: Length of the query.
        min_recall: Wanted share of the exact top 10.
        path: The database, for messages.

    Returns:
        The least number of candidates with that recall, or the most that were measured where none reaches it.

    Raises:
        StoreFormatError: If what is stored cannot be read.
    """
    kind = "short" if n_query_tokens < SHORT_QUERY else "long"
    try:
        # An index that was tuned with queries of one kind only has one curve.
        curve = recall[kind] if kind in recall else next(iter(recall.values()))
        enough = [int(width) for width, value in curve.items() if value >= min_recall]
        return min(enough, default=WIDTHS[-1])
    except (StopIteration, TypeError, ValueError, AttributeError) as error:
        raise StoreFormatError(
            f"{path}: what `edgecolbert tune` measured cannot be read ({error}). Run it again."
        ) from error


def _excerpts(texts: Sequence[str], n_words: int) -> list[str]:
    """Some consecutive words of each text, from a place that is the same every time."""
    found = []
    for number, text in enumerate(texts):
        words = text.split()
        if words:
            start = np.random.default_rng(number).integers(0, max(1, len(words) - n_words + 1))
            found.append(" ".join(words[start : start + n_words]))
    return found


def _evenly_spaced(numbers: list[int], most: int) -> list[int]:
    """At most so many of the numbers."""
    if len(numbers) <= most:
        return numbers
    return [numbers[place * len(numbers) // most] for place in range(most)]


def _ways(stage: FirstStage, kind: str | None) -> dict[str, FdeSettings | None]:
    """The settings to compare, None for those that serve; of one kind only, where one is given."""
    settings, centred = stage.settings, stage.mean is not None
    cells = settings if settings.kind == "cells" else FdeSettings()
    centring = "not centred" if centred else "centred"
    of_cells = {
        _FITTED_AGAIN: cells,
        centring: replace(cells, centre=not centred),
        "short codes": replace(cells, num_subspaces=4),
        "long codes": replace(cells, num_subspaces=8, max_entries=128),
    }
    if kind == "cells":
        return {_AS_IT_IS: None, **of_cells}
    if kind == "muvera":
        return {_AS_IT_IS: None, centring: replace(settings, centre=not centred)}
    return {_AS_IT_IS: None, **of_cells, "MUVERA": replace(settings, kind="muvera")}


def _best(trials: Sequence[Trial]) -> Trial:
    """The best of them; other settings must be clearly better than what there is, and than fitting it again."""
    best = next(trial for trial in trials if trial.name == _AS_IT_IS)
    for trial in sorted(trials, key=lambda trial: trial.name != _FITTED_AGAIN):
        if _worst(trial) >= _worst(best) + _WORTH_A_REBUILD:
            best = trial
    return best


def _worst(trial: Trial) -> float:
    """Recall of the kind of query that has less."""
    return min(trial.recall.values(), default=0.0)


def _tried(
    name: str,
    stage: FirstStage,
    documents: list[FloatArray],
    queries: dict[str, list[FloatArray]],
    exact: dict[str, list[list[int]]],
) -> Trial:
    codes = stage.document_codes(documents)
    if stage.cells is not None:
        scored = _cell_scores(stage, codes)
    else:
        matrix = np.frombuffer(b"".join(codes), dtype=np.int8).reshape(len(codes), -1).astype(np.float32)

        def scored(query: FloatArray) -> FloatArray:
            scores: FloatArray = matrix @ stage.muvera_query(query).astype(np.float32)
            return scores

    recall = {}
    begin = time.perf_counter()
    for kind, vectors in queries.items():
        shares = []
        for query, top in zip(vectors, exact[kind], strict=True):
            best = np.argsort(-scored(query), kind="stable")[:_TRIAL_WIDTH]
            shares.append(len(set(top) & set(best.tolist())) / len(top))
        recall[kind] = round(fmean(shares), 4)
    ms = (time.perf_counter() - begin) * 1000 / max(1, sum(map(len, queries.values())))
    return Trial(name, stage.settings, recall, round(fmean(map(len, codes)), 1), round(ms, 3))


def _cell_scores(stage: FirstStage, codes: list[bytes]) -> Callable[[FloatArray], FloatArray]:
    encoding = stage.lists
    # A segment holds 65,536 passages at most, and a trial far fewer.
    segment = Segment(encoding.decode(codes), len(encoding.cells))
    return lambda query: passage_scores(len(codes), encoding.plan(stage.prepared(query)), [segment.list_of])


def _exact_top(queries: Sequence[FloatArray], passages: Any, *, by_content: bool) -> list[list[int]]:
    """The ten best for each query by MaxSim over a stream of passages: texts, or positions in the stream."""

    def numbered() -> Any:
        passage: StoredPassage
        for position, passage in enumerate(passages):
            yield (passage.content_id if by_content else position), passage.tokens

    best_scores = [np.empty(0, dtype=np.float32) for _ in queries]
    best_numbers: list[IntArray] = [np.empty(0, dtype=np.int64) for _ in queries]
    for numbers, scores in maxsim_blocks(queries, numbered()):
        block = np.array(numbers, dtype=np.int64)
        for row in range(len(queries)):
            joined = np.concatenate([best_scores[row], scores[row]])
            names = np.concatenate([best_numbers[row], block])
            order = np.argsort(-joined, kind="stable")
            # Of several passages of one text the best counts.
            _, first = np.unique(names[order], return_index=True)
            kept = order[np.sort(first)[:_TOP]]
            best_scores[row], best_numbers[row] = joined[kept], names[kept]
    return [numbers.tolist() for numbers in best_numbers]

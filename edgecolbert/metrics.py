"""Retrieval metrics as published scores have them: trec_eval's definitions, linear gain.

A test compares them with ir-measures on random rankings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Qrels = Mapping[str, int]


def ndcg(ranking: Sequence[str], qrels: Qrels, k: int) -> float:
    """Normalised discounted cumulative gain.

    Args:
        ranking: Document ids, best first.
        qrels: Judged documents and their grades; grades of 0 and less gain nothing.
        k: Depth of the ranking that counts.

    Returns:
        0 to 1; 0 where no document is relevant.

    Examples:
        >>> ndcg(["a", "b"], {"b": 1}, 10)
        0.6309297535714575
    """
    gains = (max(0, qrels.get(identifier, 0)) / math.log2(rank + 1) for rank, identifier in enumerate(ranking[:k], 1))
    best = sorted((grade for grade in qrels.values() if grade > 0), reverse=True)[:k]
    ideal = sum(grade / math.log2(rank + 1) for rank, grade in enumerate(best, 1))
    return sum(gains) / ideal if ideal else 0.0


def recall(ranking: Sequence[str], qrels: Qrels, k: int) -> float:
    """The share of relevant documents among the first `k`; 0 where no document is relevant."""
    relevant = {identifier for identifier, grade in qrels.items() if grade > 0}
    return len(relevant.intersection(ranking[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], qrels: Qrels, k: int) -> float:
    """One over the rank of the first relevant document among the first `k`, or 0."""
    return next((1 / rank for rank, name in enumerate(ranking[:k], 1) if qrels.get(name, 0) > 0), 0.0)

"""The exact answer: MaxSim over all documents with the unrounded embeddings, once for all systems."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

_BLOCK_ROWS = 16_384


def kept_exact_top(
    folder: Path,
    queries: Sequence[FloatArray],
    documents: Iterable[FloatArray],
    ids: Sequence[str],
    sizes: Sequence[int],
) -> dict[int, list[list[int]]]:
    """`exact_top`, kept in a file: over 200,000 documents it takes minutes.

    Args:
        folder: Where to keep it.
        queries: As in `exact_top`; a change of the model changes them, too.
        documents: As in `exact_top`.
        ids: The documents' ids, which tell collections apart.
        sizes: As in `exact_top`.

    Returns:
        As `exact_top`.
    """
    digest = hashlib.sha256("\n".join([*ids, str(list(sizes))]).encode())
    for query in queries:
        digest.update(query.tobytes())
    path = folder / f"exact-{digest.hexdigest()[:16]}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        found = exact_top(queries, documents, sizes)
        path.write_text(json.dumps(found))
    return {int(size): rows for size, rows in json.loads(path.read_text()).items()}


def exact_top(
    queries: Sequence[FloatArray], documents: Iterable[FloatArray], sizes: Sequence[int], k: int = 10
) -> dict[int, list[list[int]]]:
    """The best documents among the first so many.

    Args:
        queries: float32 [n_query_tokens, dim] of each.
        documents: float32 [n_tokens, dim] of each.
        sizes: Numbers of documents, each of which gets an answer of its own.
        k: How many documents of each query.

    Returns:
        For each size and each query the numbers of the best documents, best first; equal ones in order.
    """
    starts = np.cumsum([0, *[len(query) for query in queries]])
    columns = np.ascontiguousarray(np.concatenate(queries).T)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    numbers = np.full((len(queries), k), -1, dtype=np.int64)
    answers: dict[int, list[list[int]]] = {}
    block: list[FloatArray] = []
    first = rows = 0

    def settle() -> None:
        nonlocal scores, numbers, block, first, rows
        if not block:
            return
        # A document without tokens matches nothing.
        filled = [number for number, tokens in enumerate(block) if len(tokens)]
        sizes_of = [len(block[number]) for number in filled]
        best = np.maximum.reduceat(np.concatenate(block) @ columns, np.cumsum([0, *sizes_of[:-1]]), axis=0)
        found = np.add.reduceat(best, starts[:-1], axis=1).T
        names = np.broadcast_to(first + np.array(filled), found.shape)
        joined, named = np.concatenate([scores, found], axis=1), np.concatenate([numbers, names], axis=1)
        order = np.argsort(-joined, axis=1, kind="stable")[:, :k]
        scores, numbers = np.take_along_axis(joined, order, axis=1), np.take_along_axis(named, order, axis=1)
        first, rows, block = first + len(block), 0, []

    for number, tokens in enumerate(documents):
        block.append(tokens)
        rows += len(tokens)
        if rows >= _BLOCK_ROWS or number + 1 in sizes:
            settle()
        if number + 1 in sizes:
            answers[number + 1] = [[name for name in row if name >= 0] for row in numbers.tolist()]
    return answers

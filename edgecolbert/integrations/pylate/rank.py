"""`pylate.rank`: order documents by MaxSim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.integrations.arrays import many_arrays
from edgecolbert.integrations.encoding import check_device

FloatArray = npt.NDArray[np.float32]


class RerankResult(TypedDict):
    """A document and its score.

    Attributes:
        id: The document's id, as it was given.
        score: MaxSim; higher is better.
    """

    id: int | str
    score: float


def rerank(
    documents_ids: Sequence[Sequence[int | str]],
    queries_embeddings: Any,
    documents_embeddings: Sequence[Any],
    device: str | None = None,
) -> list[list[RerankResult]]:
    """Order the documents of each query by MaxSim.

    Args:
        documents_ids: For each query the ids of its documents.
        queries_embeddings: For each query an array [n_query_tokens, dim]; tensors and lists of numbers do as well.
        documents_embeddings: For each query the arrays [n_tokens, dim] of its documents.
        device: Changes nothing; there is a warning where it is another than the processor.

    Returns:
        For each query its documents with their scores, best first; equal scores in the order given. Scores are
        PyLate's own to float32's rounding: it fills shorter documents with zeros, which count as tokens.

    Raises:
        InputError: If the lists do not fit together. PyLate passes over what is too much.
    """
    check_device(device)
    if isinstance(documents_ids, str) or not isinstance(documents_ids, Sequence):
        raise InputTypeError(f"documents_ids is {type(documents_ids).__name__}, expected a list of lists of ids.")
    queries = many_arrays(queries_embeddings, "queries_embeddings")
    if not len(documents_ids) == len(queries) == len(documents_embeddings):
        raise InputError(
            f"There are {len(queries)} queries, ids of documents for {len(documents_ids)} and embeddings of documents "
            f"for {len(documents_embeddings)}, expected as many of each."
        )
    ranked = []
    for position, (ids, query) in enumerate(zip(documents_ids, queries, strict=True)):
        documents = many_arrays(documents_embeddings[position], f"documents_embeddings[{position}]")
        if len(ids) != len(documents):
            raise InputError(
                f"documents_ids[{position}] has {len(ids)} ids and documents_embeddings[{position}] has "
                f"{len(documents)} documents, expected as many."
            )
        scores = _scores(query, documents)
        order = np.argsort(-scores, kind="stable")
        ranked.append([RerankResult(id=ids[place], score=float(scores[place])) for place in order])
    return ranked


def _scores(query: FloatArray, documents: list[FloatArray]) -> FloatArray:
    longest = max((len(document) for document in documents), default=0)
    scores = np.zeros(len(documents), dtype=np.float32)
    for place, document in enumerate(documents):
        if not len(query) or not len(document):
            continue  # only zeros, which is what a document without tokens is to PyLate
        if document.shape[1] != query.shape[1]:
            raise InputError(
                f"A query has token embeddings of {query.shape[1]} numbers and a document of {document.shape[1]}. "
                "Encode both with the same model."
            )
        best = (query @ document.T).max(axis=1)
        if len(document) < longest:
            # PyLate pads with zeros and no mask (docs/pylate-rules.md, R43).
            best = np.maximum(best, 0)
        scores[place] = best.sum()
    return scores

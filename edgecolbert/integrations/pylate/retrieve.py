"""`pylate.retrieve`: search an index with queries that are encoded already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgecolbert.errors import InputTypeError
from edgecolbert.integrations.encoding import check_device
from edgecolbert.integrations.pylate.indexes import PLAID
from edgecolbert.integrations.pylate.rank import RerankResult


class ColBERT:
    """Searches an index.

    Args:
        index: An index of `edgecolbert.integrations.pylate.indexes`.
    """

    def __init__(self, index: PLAID) -> None:
        if not isinstance(index, PLAID):
            raise InputTypeError(
                f"index is {type(index).__name__}, expected PLAID or Voyager of "
                "edgecolbert.integrations.pylate.indexes."
            )
        self.index = index

    def retrieve(
        self,
        queries_embeddings: Any,
        k: int = 10,
        k_token: int | None = None,
        device: str | None = None,
        batch_size: int | None = None,
        subset: Sequence[Any] | None = None,
    ) -> list[list[RerankResult]]:
        """Find the documents that match queries best.

        Args:
            queries_embeddings: As in `rank.rerank`; one query's [n_query_tokens, dim] does as well.
            k: Most documents wanted for each.
            k_token: Changes nothing: candidates are chosen by the whole query, not token by token.
            device: As in `rank.rerank`.
            batch_size: Changes nothing.
            subset: Ids of the documents to search among: one list for all queries, or a list of ids for each.

        Returns:
            For each query at most `k` documents with their scores, best first.
        """
        check_device(device)
        return self.index(queries_embeddings, k=k, subset=subset)

"""`pylate.indexes`: an index of token embeddings that were made elsewhere, in one SQLite file."""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections.abc import Iterable, Sequence
from operator import index as whole_number
from pathlib import Path
from typing import Any, ClassVar, NoReturn, SupportsIndex

import numpy as np
import numpy.typing as npt

from edgecolbert import limits
from edgecolbert.errors import InputError, InputTypeError, StoreError, StoreMismatchError, StoreWarning
from edgecolbert.index import Index
from edgecolbert.integrations.arrays import many_arrays
from edgecolbert.integrations.pylate.rank import RerankResult

FloatArray = npt.NDArray[np.float32]

# The field of the metadata that has the id as it was given, for `subset`.
_ID = "id"


class _GivenEmbeddings:
    """A model that was run already: what a "text" means is looked up in what was given."""

    name = "token embeddings given by the caller"

    def __init__(self) -> None:
        self.given: dict[str, FloatArray] = {}

    def take(self, embeddings: FloatArray) -> str:
        """The name of token embeddings: equal ones have one name, and are stored once."""
        digest = hashlib.sha256(np.ascontiguousarray(embeddings).tobytes()).hexdigest()
        name = f"{len(embeddings)} token embeddings {digest}"
        self.given[name] = embeddings
        return name

    def encode_documents(self, documents: list[str]) -> list[FloatArray]:
        return [self.given[name] for name in documents]

    def encode_queries(self, queries: list[str]) -> list[FloatArray]:
        # Index.encode_queries([]) only loads the model.
        if queries:
            raise InputError("This index was made of token embeddings, and has no model that encodes queries.")
        return []


class PLAID:
    """Token embeddings by document id, with PyLate's methods, in `index_folder/index_name.db`.

    It is no PLAID but an `edgecolbert.Index`: tokens are stored as int8, a first stage puts candidates forward, and
    MaxSim over all their tokens orders them. Documents can be added, replaced and removed at any time. Close it with
    `close`, or let the program end.

    Args:
        index_folder: A folder, made if it does not exist.
        index_name: The name of the file in it.
        override: Begin with an empty index; the file of an earlier one of that name is deleted.
        **settings: Other settings of PyLate's class, such as `nbits`; they change nothing, and there is a warning.
    """

    is_end_to_end_index = True
    _SETTINGS: ClassVar[tuple[str, ...]] = (
        *("use_fast", "nbits", "kmeans_niters", "max_points_per_centroid", "n_samples_kmeans", "seed", "use_triton"),
        *("n_ivf_probe", "n_full_scores", "batch_size", "num_threads", "show_progress", "device", "low_memory"),
    )

    def __init__(
        self, index_folder: str = "indexes", index_name: str = "colbert", override: bool = False, **settings: object
    ) -> None:
        name = type(self).__name__
        if unknown := sorted(set(settings) - {*self._SETTINGS}):
            raise TypeError(f"{name}() got unexpected keyword arguments: {', '.join(unknown)}")
        # These two say nothing about what is found.
        if given := sorted(set(settings) - {"show_progress", "embedding_size"}):
            warnings.warn(
                f"{name}: {', '.join(given)} of PyLate's {name} have no counterpart here, and change nothing.",
                StoreWarning,
                stacklevel=2,
            )
        self.path = Path(index_folder) / f"{index_name}.db"
        self._model = _GivenEmbeddings()
        self._adding = threading.Lock()
        self._dim: int | None = None
        if override:
            self._delete()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.path.parent} cannot be made: {error.strerror}. Give another index_folder."
            ) from error
        self.index = Index.open(self.path, model=self._model)
        # A subset is a filter, and many ids at a time are looked up in it.
        if (_ID,) not in self.index.indexed_fields():
            self.index.index_field(_ID)

    def add_documents(
        self, documents_ids: str | Iterable[int | str], documents_embeddings: Any, batch_size: int | None = None
    ) -> PLAID:
        """Add documents, or replace those whose ids are there already; all of them or none.

        Args:
            documents_ids: The ids, strings or whole numbers.
            documents_embeddings: For each an array [n_tokens, dim]; tensors do as well.
            batch_size: Changes nothing.

        Returns:
            The index itself.

        Raises:
            InputError: If there are not as many of both, or an array cannot be stored.
            StoreMismatchError: If the index holds embeddings of another size.
        """
        ids = [documents_ids] if isinstance(documents_ids, str) else list(documents_ids)
        arrays = many_arrays(documents_embeddings, "documents_embeddings")
        if len(ids) != len(arrays):
            raise InputError(
                f"There are {len(ids)} documents_ids and {len(arrays)} documents_embeddings, expected as many."
            )
        self._check_dim(arrays)
        with self._adding:
            try:
                self.index.add(
                    [
                        {"id": _name_of(name), "text": self._model.take(array), "metadata": {_ID: _plain(name)}}
                        for name, array in zip(ids, arrays, strict=True)
                    ]
                )
            finally:
                self._model.given.clear()
        return self

    def update_documents(self, documents_ids: str | Iterable[int | str], documents_embeddings: Any) -> PLAID:
        """Replace documents, or add those that are not there; the same as `add_documents`."""
        return self.add_documents(documents_ids, documents_embeddings)

    def remove_documents(self, documents_ids: Iterable[int | str]) -> PLAID:
        """Remove documents; unknown ids are passed over.

        Args:
            documents_ids: Their ids.

        Returns:
            The index itself.
        """
        if isinstance(documents_ids, str):
            documents_ids = [documents_ids]
        self.index.delete([_name_of(identifier) for identifier in documents_ids])
        return self

    def __call__(
        self, queries_embeddings: Any, k: int = 10, subset: Sequence[Any] | None = None
    ) -> list[list[RerankResult]]:
        """Find the documents that match queries best.

        Args:
            queries_embeddings: For each query an array [n_query_tokens, dim]; one query's array does as well.
            k: Most documents wanted for each.
            subset: Ids of the documents to search among: one list for all queries, or a list of ids for each. Unknown
                ones are passed over.

        Returns:
            For each query at most `k` documents with their scores, best first. A score is MaxSim over tokens that were
            rounded to int8.

        Raises:
            InputError: If the index is empty, or there is not one list of ids for each query.
            StoreMismatchError: If the index holds embeddings of another size.
        """
        queries = many_arrays(queries_embeddings, "queries_embeddings")
        self._check_dim(queries)
        if subset is None:
            ranked = [_results(found) for found in self.index.ranked(queries, k=k)]
            if queries and not any(ranked) and len(self.index) == 0:
                raise InputError(f"{self.path} is empty. Add documents before searching.")
            return ranked
        if subset and isinstance(subset[0], list | tuple):
            if len(subset) != len(queries):
                raise InputError(f"subset has {len(subset)} lists of ids for {len(queries)} queries, expected as many.")
            each = [list(ids) for ids in subset]
        else:
            each = [list(subset)] * len(queries)
        return [self._among(query, k, ids) for query, ids in zip(queries, each, strict=True)]

    def get_documents_embeddings(self, document_ids: object) -> NoReturn:
        """Not there, as in PyLate's own PLAID: what is stored was rounded.

        Args:
            document_ids: Ids.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "The index has token embeddings that were rounded to int8. Keep those that encode() gave, where they are "
            "needed again."
        )

    def close(self) -> None:
        """Close the file."""
        self.index.close()

    def _among(self, query: FloatArray, k: int, ids: list[int | str]) -> list[RerankResult]:
        found: list[RerankResult] = []
        # A filter has a limit of values; the best of the best of all parts are the best.
        for start in range(0, len(ids), limits.FILTER_VALUES):
            some = [_plain(identifier) for identifier in ids[start : start + limits.FILTER_VALUES]]
            found += _results(self.index.ranked([query], k=k, filter={_ID: {"in": some}})[0])
        unique = {_name_of(result["id"]): result for result in found}
        return sorted(unique.values(), key=lambda result: -result["score"])[:k]

    def _check_dim(self, arrays: list[FloatArray]) -> None:
        if self._dim is None:
            self._dim = self.index.stats().dim  # None until there is a document
        for array in arrays:
            if self._dim is not None and array.shape[1] != self._dim:
                raise StoreMismatchError(
                    f"{self.path} holds token embeddings of {self._dim} numbers, and one given has {array.shape[1]}. "
                    "Use the model that the index was made with, another index_name, or override=True to begin anew."
                )

    def _delete(self) -> None:
        """What was asked for by name; but never a file that is something else."""
        if not self.path.exists():
            return
        try:
            Index.open(self.path, model=self._model, create=False).close()
        except StoreError as error:
            raise StoreError(
                f"override=True does not delete {self.path}, which is no index of this class: {error}"
            ) from error
        for name in (self.path, *(Path(f"{self.path}{end}") for end in ("-wal", "-shm", "-journal"))):
            try:
                name.unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(
                    f"{name} cannot be deleted: {error.strerror}. Close the index that has it open, or give another "
                    "index_name."
                ) from error


class Voyager(PLAID):
    """The same under the name of PyLate's other index.

    Called directly it gives ranked documents, where PyLate's gives the neighbours of each token; through
    `retrieve.ColBERT` the results have one form.

    Args:
        index_folder: As for `PLAID`.
        index_name: As for `PLAID`.
        override: As for `PLAID`.
        **settings: As for `PLAID`.
    """

    _SETTINGS: ClassVar[tuple[str, ...]] = ("embedding_size", "M", "ef_construction", "ef_search")


def _plain(identifier: object) -> int | str:
    """An id as JSON has it."""
    if isinstance(identifier, str):
        return str(identifier)
    if isinstance(identifier, bool) or not isinstance(identifier, SupportsIndex):
        raise InputTypeError(f"A document id is {identifier!r}, expected a string or a whole number.")
    return whole_number(identifier)


def _name_of(identifier: object) -> str:
    """The id in the database, where 5 and "5" are two."""
    return json.dumps(_plain(identifier), ensure_ascii=False)


def _results(found: Iterable[tuple[str, Any]]) -> list[RerankResult]:
    return [RerankResult(id=json.loads(name), score=best.score) for name, best in found]

"""PyLate's own retrieval: a Voyager graph over all tokens, then PyLate's rerank."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from pylate import indexes, retrieve

from peers import FloatArray, Peer


class _KeptMappings(indexes.Voyager):
    """Its index reads two pickled tables from disk for each query; here they are read once."""

    _kept: tuple[Any, Any] | None = None

    def _tables(self) -> tuple[Any, Any]:
        if self._kept is None:
            self._kept = (super()._load_documents_ids_to_embeddings(), super()._load_embeddings_to_documents_ids())
        return self._kept

    def _load_documents_ids_to_embeddings(self) -> Any:
        return self._tables()[0]

    def _load_embeddings_to_documents_ids(self) -> Any:
        return self._tables()[1]


class PyLateVoyager:
    """With PyLate's defaults (M 64, ef 200).

    Args:
        dim: Size of a token embedding.
    """

    name = "PyLate, Voyager"
    knobs = ("tokens found for each query token",)
    efforts = ((10,), (20,), (50,), (100,), (200,))

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._folder = Path()
        self._retriever: Any = None

    def build(self, documents: Sequence[FloatArray], folder: Path) -> None:
        """As `Peer` says."""
        self._folder = folder
        index = self._index(indexes.Voyager, override=True)
        index.add_documents([str(number) for number in range(len(documents))], list(documents))
        self._retriever = retrieve.ColBERT(index=index)

    def search(self, query: FloatArray, k: int, effort: tuple[int, ...]) -> list[int]:
        """As `Peer` says."""
        with redirect_stderr(StringIO()):  # its progress bar
            found = self._retriever.retrieve([torch.from_numpy(query)], k=k, k_token=effort[0], device="cpu")
        return [int(hit["id"]) for hit in found[0]]

    def _index(self, kind: Any, *, override: bool) -> Any:
        return kind(index_folder=str(self._folder), index_name="voyager", override=override, embedding_size=self._dim)


class PyLateKeptMappings(PyLateVoyager):
    """The same with its tables kept in memory, which is faster than PyLate as it comes.

    Args:
        dim: Size of a token embedding.
        built: The one whose files are used.
    """

    name = "PyLate, Voyager, tables kept"

    def __init__(self, dim: int, built: PyLateVoyager) -> None:
        super().__init__(dim)
        self._built = built

    def build(self, documents: Sequence[FloatArray], folder: Path) -> None:
        """As `Peer` says; nothing is built twice."""
        self._folder = self._built._folder
        self._retriever = retrieve.ColBERT(index=self._index(_KeptMappings, override=False))


def systems(dim: int, threads: int) -> list[Peer]:
    """What is measured of this peer."""
    torch.set_num_threads(threads)
    plain = PyLateVoyager(dim)
    return [plain, PyLateKeptMappings(dim, plain)]

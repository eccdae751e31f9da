"""LangChain: a vector store and a retriever over an index. Needs `edgecolbert[langchain]`, langchain-core alone.

    from edgecolbert.integrations.langchain import EdgeColbertRetriever, EdgeColbertVectorStore

docs/integrations/langchain.md shows both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NoReturn

from edgecolbert.errors import InputError, MissingExtraError
from edgecolbert.fusion import Fusion
from edgecolbert.index import Index
from edgecolbert.integrations.shared import AnyFilter, AnyIndex, as_filter, as_index, content_id
from edgecolbert.results import Hit

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import run_in_executor
    from langchain_core.vectorstores import VectorStore
    from pydantic import field_validator
except ImportError as error:
    raise MissingExtraError.of(__name__, "langchain-core", "langchain") from error

Mode = Literal["late", "lexical", "hybrid"]

# LangChain's own number of documents where nobody says one.
_K = 4


class EdgeColbertVectorStore(VectorStore):
    """An index as a vector store.

    It takes no `Embeddings`: those give one vector for a text, and late interaction keeps one for each token, which
    the index's own model makes. What needs a single vector is not there: search by vector, and maximal marginal
    relevance.

    Args:
        index: An index, or the file of one, which is made if it does not exist. Close it with `store.index.close()`.
        mode: How to search where a call does not say: "late", "lexical" or "hybrid", as in `Index.search`.
    """

    def __init__(self, index: AnyIndex, *, mode: Mode = "late") -> None:
        self.index = as_index(index)
        self.mode = mode

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        index: AnyIndex = ":memory:",
        mode: Mode = "late",
        **kwargs: Any,
    ) -> EdgeColbertVectorStore:
        """A store with these texts.

        Args:
            texts: The texts.
            embedding: None; the index's own model encodes.
            metadatas: The metadata of each text.
            ids: The id of each text.
            index: An index, or the file of one; by default one in memory, which is gone with the store.
            mode: As for the class.
            **kwargs: Nothing else is known.

        Returns:
            The store.

        Raises:
            InputError: If there is an `embedding`, or the lists differ in length.
        """
        if embedding is not None:
            raise InputError(
                f"embedding is {type(embedding).__name__}, expected None: it gives one vector for a text, and this "
                "store keeps one for each token, which the index's own model makes. Choose the model with "
                "index=Index.open(PATH, model=MODEL)."
            )
        _check_known(kwargs, "from_texts")
        store = cls(index, mode=mode)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    def from_documents(
        cls, documents: list[Document], embedding: Embeddings | None = None, **kwargs: Any
    ) -> EdgeColbertVectorStore:
        """A store with these documents.

        Args:
            documents: The documents.
            embedding: None; the index's own model encodes.
            **kwargs: `ids`, `index` and `mode`, as for `from_texts`.

        Returns:
            The store.
        """
        if kwargs.get("ids") is None:
            # Some may have an id and others none, which `from_texts` takes.
            kwargs["ids"] = [document.id for document in documents]
        texts = [document.page_content for document in documents]
        return cls.from_texts(texts, embedding, [document.metadata for document in documents], **kwargs)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts, or replace those whose ids are there already; all of them or none.

        Args:
            texts: The texts.
            metadatas: The metadata of each text: JSON values by name.
            ids: The id of each text; where it is None, it is made from text and metadata, so that the same once more
                changes nothing.
            batch_size: Changes nothing: texts of one call are added together. LangChain's own indexing gives it.
            **kwargs: Nothing else is known.

        Returns:
            The id of each text.

        Raises:
            InputError: If the lists differ in length, or a text or its metadata cannot be stored.
        """
        _check_known(kwargs, "add_texts")
        texts = list(texts)
        for name, given in (("metadatas", metadatas), ("ids", ids)):
            if given is not None and len(given) != len(texts):
                raise InputError(f"There are {len(texts)} texts and {len(given)} {name}, expected as many.")
        described = list(metadatas) if metadatas is not None else [{} for _ in texts]
        named = list(ids) if ids is not None else [None for _ in texts]
        report = self.index.add(
            [
                {"id": content_id(text, metadata) if name is None else name, "text": text, "metadata": metadata}
                for text, metadata, name in zip(texts, described, named, strict=True)
            ]
        )
        return report.ids

    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Add documents, or replace those whose ids are there already; all of them or none.

        Args:
            documents: The documents. One without an id gets one as in `add_texts`.
            **kwargs: `ids` to take instead of the documents' own, and `batch_size` as in `add_texts`.

        Returns:
            The id of each document.
        """
        if kwargs.get("ids") is None:
            kwargs["ids"] = [document.id for document in documents]
        texts = [document.page_content for document in documents]
        return self.add_texts(texts, [document.metadata for document in documents], **kwargs)

    def delete(self, ids: list[str] | None = None, *, filter: AnyFilter | None = None, **kwargs: Any) -> bool:  # noqa: A002 - LangChain's word
        """Delete documents by id, or those that a filter selects.

        Args:
            ids: Their ids; unknown ones are passed over.
            filter: Conditions on metadata, instead of ids.
            **kwargs: Nothing else is known.

        Returns:
            True: they are not there any more.

        Raises:
            InputError: If there are neither ids nor a filter. To delete everything say
                `store.delete(store.index.ids())`; a variable that happens to be None does not.
        """
        _check_known(kwargs, "delete")
        if (ids is None) == (filter is None):
            raise InputError(
                "delete takes either ids or a filter. To delete every document say store.delete(store.index.ids())."
            )
        wanted = as_filter(filter)
        if wanted is not None:
            self.index.delete_where(wanted)
        elif ids is not None:
            self.index.delete(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents with these ids, as far as they are there, in the order of the ids."""
        found = [self.index.get(name) for name in ids]
        return [
            Document(id=record.id, page_content=record.text, metadata=record.metadata)
            for record in found
            if record is not None
        ]

    def similarity_search(
        self,
        query: str,
        k: int = _K,
        *,
        filter: AnyFilter | None = None,  # noqa: A002 - LangChain's word
        **kwargs: Any,
    ) -> list[Document]:
        """The documents that match a query best.

        Args:
            query: Any text.
            k: Most documents wanted.
            filter: Conditions on metadata, in any form of docs/filters.md, the written one included.
            **kwargs: Other arguments of `Index.search`: `mode`, `fusion`, `exact`, `n_candidates`, `min_recall`.

        Returns:
            At most `k` documents, best first.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, filter=filter, **kwargs)]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = _K,
        *,
        filter: AnyFilter | None = None,  # noqa: A002 - LangChain's word
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        """The documents that match a query best, with the scores of `Index.search`: higher is better.

        Args:
            query: As in `similarity_search`.
            k: As in `similarity_search`.
            filter: As in `similarity_search`.
            **kwargs: As in `similarity_search`.

        Returns:
            At most `k` documents and scores, best first.
        """
        kwargs.setdefault("mode", self.mode)
        hits = self.index.search(query, k=k, filter=as_filter(filter), **kwargs)
        return [(_document(hit, hit.text), hit.score) for hit in hits]

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = _K, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """MaxSim is a sum of as many cosines as the query has tokens; their mean, from 0, is LangChain's relevance."""
        mode = kwargs.get("mode", self.mode)
        if mode != "late":
            raise InputError(
                f"A score of mode {mode!r} has no least and greatest value, so it is no relevance from 0 to 1. Use "
                "mode 'late', or similarity_search_with_score."
            )
        n_tokens = max(1, len(self.index.encode_queries([query])[0]))
        found = self.similarity_search_with_score(query, k, **kwargs)
        return [(document, min(1.0, max(0.0, score / n_tokens))) for document, score in found]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = _K, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return await run_in_executor(None, self._similarity_search_with_relevance_scores, query, k, **kwargs)

    def similarity_search_by_vector(self, embedding: list[float], k: int = _K, **kwargs: Any) -> NoReturn:
        """Not there: a text has a vector for each token, and one vector cannot be compared with them.

        Args:
            embedding: One vector.
            k: Most documents wanted.
            **kwargs: Anything.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "EdgeColbertVectorStore keeps a vector for each token of a text, so there is no search by one vector. Use "
            "similarity_search."
        )

    def max_marginal_relevance_search(
        self, query: str, k: int = _K, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> NoReturn:
        """Not there: MaxSim is between a query and a document, and says not how alike two documents are.

        Args:
            query: Any text.
            k: Most documents wanted.
            fetch_k: How many to choose from.
            lambda_mult: How much likeness counts.
            **kwargs: Anything.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "EdgeColbertVectorStore has no maximal marginal relevance: MaxSim is between a query and a document, and "
            "does not say how alike two documents are. Use similarity_search."
        )


class EdgeColbertRetriever(BaseRetriever):
    """An index as a retriever.

    Attributes:
        index: An index, or the file of one. Close it with `retriever.index.close()`.
        k: Most documents wanted.
        filter: Conditions on metadata, in any form of docs/filters.md, the written one included.
        mode: "late", "lexical" or "hybrid", as in `Index.search`.
        fusion: As in `Index.search`.
        passages: Give the best passage of each document, rather than the whole document, as `page_content`.
        details: Put the score, the passage's place and the ranks under "edgecolbert" into the metadata of what is
            found.
    """

    index: Index
    k: int = _K
    filter: Any = None
    mode: Mode = "late"
    fusion: Fusion | Literal["weighted", "rrf"] | None = None
    passages: bool = False
    details: bool = False

    @field_validator("index", mode="before")
    @classmethod
    def _open(cls, index: object) -> Index:
        return as_index(index)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: AnyFilter | None = None,  # noqa: A002 - the field's word
    ) -> list[Document]:
        """`retriever.invoke(query)`; `k` and `filter` there are for this one call."""
        hits = self.index.search(
            query,
            k=self.k if k is None else k,
            filter=as_filter(self.filter if filter is None else filter),
            mode=self.mode,
            fusion=self.fusion,
        )
        return [_document(hit, hit.passage.text if self.passages else hit.text, details=self.details) for hit in hits]


def _document(hit: Hit, text: str, *, details: bool = False) -> Document:
    metadata = dict(hit.metadata)
    if details:
        place = {"start": hit.passage.start, "end": hit.passage.end}
        metadata["edgecolbert"] = {"score": hit.score, "passage": place, "ranks": hit.ranks}
    return Document(id=hit.id, page_content=text, metadata=metadata)


def _check_known(kwargs: dict[str, Any], method: str) -> None:
    """LangChain's signatures take any name; a typing error has to be one."""
    if kwargs:
        raise TypeError(f"{method}() got unexpected keyword arguments: {', '.join(sorted(kwargs))}")

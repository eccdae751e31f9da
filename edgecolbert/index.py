"""`Index`: a searchable collection of documents in one SQLite file. Wiring only; the work is done elsewhere."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import index as whole_number
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import numpy as np

from edgecolbert import limits
from edgecolbert.connection import MEMORY
from edgecolbert.damage import RAISE, SKIP, Skipped, check_policy
from edgecolbert.documents import Document, check_id, check_size
from edgecolbert.encoder import Encoder, TokenEncoder
from edgecolbert.encryption import Key, KeySource
from edgecolbert.errors import InputError, InputTypeError, StoreClosedError, StoreFormatError, StoreMismatchError
from edgecolbert.filters import Filter, read_filter
from edgecolbert.filters.conditions import path_of
from edgecolbert.filters.values import value_of
from edgecolbert.fusion import Found, Fusion, check_mode, fused, lexical_search
from edgecolbert.lexical import parse_query
from edgecolbert.passage_settings import PassageSettings, check_split
from edgecolbert.passages import FloatArray, PassageEncoder
from edgecolbert.pinning import (
    Model,
    ModelIdentity,
    check_choice,
    check_pin,
    check_reference,
    find_pinned_model,
    new_encoding,
    pinned_options,
)
from edgecolbert.results import (
    AddReport,
    Facets,
    FacetValue,
    Hit,
    IndexStats,
    Origin,
    Passage,
    RepairReport,
    VerifyReport,
    from_search,
)
from edgecolbert.search import (
    BY_DOCUMENT,
    SHORT_QUERY,
    Best,
    Grouping,
    check_vectors,
    hits,
    ranked_documents,
    score_contents,
    with_ranks,
)
from edgecolbert.store import PinnedEncoding, Store
from edgecolbert.token_settings import TokenSettings
from edgecolbert.tokenizer import AS_MODEL, check_special_tokens, check_text

if TYPE_CHECKING:
    from edgecolbert.candidates import Candidates
    from edgecolbert.explanation import Explanation
    from edgecolbert.fde import FdeSettings
    from edgecolbert.tuning import TuneReport

Progress = Callable[[int, int | None], bool | None]

# Width of the first stage where nobody names one and nothing was measured, for short queries and for longer ones. Their
# recall of the exact top 10 is .97 and more on five test collections (docs/first-stage.md).
SHORT_QUERY_CANDIDATES, LONG_QUERY_CANDIDATES = 200, 100
# Where the recall was measured (`Index.tune`), the width is the one with this recall.
_DEFAULT_RECALL = 0.99


class Index:
    """A searchable collection of documents in one file. Open it with `Index.open`.

    An index may be used from several threads; calls that touch the database take turns. Several processes may read
    one file while one of them writes; each search sees one snapshot.
    """

    def __init__(
        self,
        store: Store,
        pinned: PinnedEncoding,
        encoder: TokenEncoder | None,
        *,
        named_model: str | Path | None = None,
        on_damage: str = RAISE,
    ) -> None:
        self._store = store
        self._pinned = pinned
        self._encoder = encoder
        self._named_model = named_model
        self._candidates: tuple[int, Candidates] | None = None
        self._lock = threading.RLock()
        self._closed = False
        self._in_snapshot = False
        self._checked_generation = -1
        self._counted = (-1, 0)
        self._damaged_records: frozenset[str] = frozenset()
        self._on_damage = on_damage
        _OPEN.add(self)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        model: Model = None,
        create: bool = True,
        read_only: bool = False,
        split_documents: bool | None = None,
        fde: FdeSettings | None = None,
        tokens: TokenSettings | Mapping[str, int] | None = None,
        passages: PassageSettings | Mapping[str, Any] | None = None,
        special_tokens: str | None = None,
        timeout: float = 10.0,
        durability: Literal["full", "normal"] = "full",
        key: KeySource | Key | None = None,
        on_damage: str = RAISE,
    ) -> Index:
        """Open a database file, or make one.

        Args:
            path: The file; ":memory:" for an index that is gone when closed.
            model: A built-in name, a model folder, or any object with the methods `encode_queries` and
                `encode_documents` and optionally a `name`. None means the model that the file is pinned to, and the
                starter model for a new file.
            create: Make the file if it does not exist.
            read_only: Open without the right to write; works on a read-only disk.
            split_documents: Split texts that are longer than the model's document length into passages (the default
                for a new file), or False to let the model cut them off. Pinned in the file.
            fde: Settings of the first stage of a new file; the model's own by default. Pinned in the file.
            tokens: How a new file stores token embeddings: with how many bits, and whether pooled; all of them as
                int8 by default. Pinned in the file; `reencode` changes it. A mapping such as {"bits": 4} names only
                some settings, and the others are the file's.
            passages: How documents of a new file become passages: how long, with what overlap, by their structure, and
                in what context. Pinned in the file; `reencode` changes it. A mapping names only some settings.
            special_tokens: What "[MASK]" and the like in the documents and queries of a new file become: "as-model"
                (the default) for the special token, as the checkpoint's own library does it, or "literal" for the
                tokens of the characters, so that no text can smuggle one in. Pinned in the file. An `Encoder` that is
                passed says it itself.
            timeout: Seconds to wait while another process writes.
            durability: "full": what was acknowledged survives a power cut. "normal": a power cut may take back the
                last changes that were acknowledged, and leaves the file as it was before them; writing is faster.
            key: The key of an encrypted file, or of a new one that is to be encrypted: a passphrase; 32 bytes, or as
                many in hexadecimal digits; or a function that gives one of these. It is stored nowhere.
            on_damage: What a search does that meets a damaged row: "raise" an error that names the documents, or
                "skip" it with a `StoreWarning` that names them and give the rest; a search by words, or by both, raises
                either way.

        Returns:
            The index; close it, or use it as a context manager.

        Raises:
            StoreMismatchError: If the file is pinned to another model or to other settings.
            StoreKeyError: If the key is wrong, missing, or one too many.
            StoreError: If the file cannot be used: see `edgecolbert.errors`.
            ModelError: If the model cannot be used.
            InputError: If an argument is wrong.
        """
        if not isinstance(path, str | os.PathLike):
            raise InputTypeError(f"path is {type(path).__name__}, expected a string or a path.")
        if "\0" in str(path):
            raise InputError(f"path is {str(path)!r}, which holds a NUL; no file can be called that.")
        if fde is not None:
            _check_fde(fde)
        asked_tokens, asked_passages = TokenSettings.asked_for(tokens), PassageSettings.asked_for(passages)
        check_policy(on_damage)
        # For a new file; one that is there says how it wants its model.
        wanted = AS_MODEL if special_tokens is None else check_special_tokens(special_tokens)
        identity = None if model is None else ModelIdentity.of(model, special_tokens=wanted)
        if identity is not None:
            check_choice(special_tokens, identity)
        connecting: dict[str, Any] = {"timeout": timeout, "durability": durability, "key": Key.of(key)}
        store = Store(os.fspath(path), create=create, read_only=read_only, **connecting)
        try:
            with store.snapshot():
                pinned = store.encoding()
            if pinned is None and read_only:
                raise StoreFormatError(
                    f"{store.path} is a database that was begun and never finished: it is pinned to no model, and "
                    "nothing was added. Open it once without read_only, and index something into it."
                )
            if pinned is None:
                # A new file: only now is the starter model needed.
                identity = identity or ModelIdentity.of(None, special_tokens=wanted)
                pinned = _pin(store, identity, split_documents, fde, asked_tokens, asked_passages, model)
            options = pinned_options(pinned, store.path)
            if isinstance(model, str | Path):
                # Named, not loaded: how it takes texts is the file's to say.
                identity = ModelIdentity.of(model, **options)
            if identity is not None:
                check_pin(pinned, identity, store.path)
            else:
                check_reference(pinned, store.path)
            _check_settings(pinned, store.path, split_documents, fde, asked_tokens, asked_passages, special_tokens)
        except BaseException:
            store.close()
            raise
        if model is None or isinstance(model, str | Path):
            return cls(store, pinned, None, named_model=model, on_damage=on_damage)
        return cls(store, pinned, model, on_damage=on_damage)

    def add(
        self, documents: Iterable[str | Mapping[str, Any]], *, progress: Progress | None = None, batch_size: int = 64
    ) -> AddReport:
        """Add documents, or replace those whose ids are there already.

        A list is added as a whole or not at all. Any other iterable is added in batches of `batch_size`: each batch is
        stored, and reported to `progress`, before the next is read. Texts that are stored already are not encoded
        again, so a call that was interrupted continues where it stopped, and metadata alone updates cheaply. Of
        documents with equal ids the last one stays.

        Args:
            documents: Strings, or mappings with `text` and optionally `id`, `metadata`, `title` and `kind` ("text",
                "markdown" or "code", by which the document is split where the index is to). A string's id is the
                hexadecimal SHA-256 of the text.
            progress: Called as `progress(done, total)` after each step; `total` is None where it is not known.
                Returning False stops with `CancelledError`.
            batch_size: Documents of a batch of an iterable that is not a list.

        Returns:
            What was done.

        Raises:
            InputError: If a document is wrong; nothing of its list or batch is stored.
            CancelledError: If `progress` returned False. A list is then not added; batches that were stored stay.
            StoreError: If the file cannot be written.
        """
        return self.add_from(None, documents, progress=progress, batch_size=batch_size)

    def add_from(
        self,
        source: str | None,
        documents: Iterable[str | Mapping[str, Any]],
        *,
        progress: Progress | None = None,
        batch_size: int = 64,
    ) -> AddReport:
        """Like `add`, and remember where the documents come from, so that `prune` can tell which have vanished.

        Args:
            source: Any name for the place, such as a folder's path.
            documents: As in `add`.
            progress: As in `add`.
            batch_size: As in `add`.

        Returns:
            What was done.
        """
        from edgecolbert.ingest import Ingest  # a search does without it

        self._open_store().check_writable()
        model = self._model()
        passages = PassageEncoder.pinned(model, self._pinned, self._store.path)
        ingest = Ingest(self._store, self._lock, self._pinned, passages, model, progress, source)
        return ingest.add(documents, batch_size=batch_size)

    @property
    def passage_settings(self) -> PassageSettings:
        """How documents of this index become passages."""
        return PassageSettings.pinned(self._pinned.settings, self._store.path)

    def prune(self, source: str, keep: Iterable[str]) -> int:
        """Delete the documents that came from a place and are there no longer.

        Args:
            source: As given to `add_from`; documents from elsewhere are not touched.
            keep: The ids that are still there.

        Returns:
            How many documents were deleted.
        """
        kept = set(keep)
        with self._lock, self._open_store().change():
            return self._store.delete_documents(
                identifier for identifier in self._store.ids_of_source(source) if identifier not in kept
            )

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents.

        Args:
            ids: Their ids; unknown ones are passed over.

        Returns:
            How many documents were deleted.

        Raises:
            InputTypeError: If `ids` is a string, or holds something that is not one.
        """
        if isinstance(ids, str) or not isinstance(ids, Iterable):
            raise InputTypeError(f"ids is {type(ids).__name__}, expected a list of ids.")
        checked = [check_id(identifier, f"ids[{position}]") for position, identifier in enumerate(ids)]
        with self._lock, self._open_store().change():
            return self._store.delete_documents(checked)

    def delete_where(self, filter: Mapping[Any, Any] | Filter) -> int:  # noqa: A002 - the field's word
        """Delete the documents that a filter selects, all in one change.

        Args:
            filter: As in `search`, with at least one condition.

        Returns:
            How many documents were deleted.

        Raises:
            InputError: If the filter is wrong, or has no condition, which would select every document.
        """
        wanted = read_filter(filter)
        if not wanted.conditions():
            raise InputError("filter has no condition, which selects every document. Use delete(index.ids()) for that.")
        with self._lock, self._open_store().change():
            self._check_records(wanted)
            return self._store.delete_documents(self._store.ids(wanted))

    def get(self, id: str) -> Document | None:  # noqa: A002 - the record's own word
        """The document with that id, or None.

        Args:
            id: A document id.

        Returns:
            The record as it was added.
        """
        check_id(id, "get")
        with self._reading() as store:
            return store.document(id)

    def ids(self, *, filter: Mapping[Any, Any] | Filter | None = None) -> list[str]:  # noqa: A002 - the field's word
        """Document ids, in the order the documents were first added.

        Args:
            filter: Which documents, as in `search`; all by default.

        Returns:
            Their ids.
        """
        with self._reading() as store:
            if filter is not None:
                self._check_records(filter)
            return store.ids(filter)

    def count(self, *, filter: Mapping[Any, Any] | Filter | None = None) -> int:  # noqa: A002 - the field's word
        """How many documents there are.

        Args:
            filter: Which documents to count, as in `search`; all by default.

        Returns:
            Their number.
        """
        with self._reading() as store:
            if filter is not None:
                self._check_records(filter)
            return store.count_documents(filter)

    def facets(
        self,
        field: str | Sequence[str],
        *,
        filter: Mapping[Any, Any] | Filter | None = None,  # noqa: A002 - the field's word
        k: int = 20,
    ) -> Facets:
        """Count the values of a metadata field, exactly.

        An array counts for each of its different elements; objects have no values to count.

        Args:
            field: Its name, or the names from the outside in as a list or tuple.
            filter: Which documents to count, as in `search`; all by default.
            k: Most values wanted.

        Returns:
            The most frequent values, and how many there are.

        Raises:
            InputError: If an argument is wrong.
        """
        path = path_of(field)
        k = _check_count("k", k)
        wanted = read_filter({} if filter is None else filter)
        with self._reading() as store:
            self._check_records(wanted, path)
            counts, with_field = store.facet_counts(path, wanted)
            # None, booleans, numbers and strings are kinds in this order, so values of two kinds are never compared.
            ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            values = tuple(FacetValue(value_of(*entry), count) for entry, count in ranked[:k])
            return Facets(path, store.count_documents(wanted), with_field, len(counts), values)

    def index_field(self, field: str | Sequence[str]) -> None:
        """Index a metadata field, so that conditions on it do not read the metadata of every document.

        Filters find the same with and without. Later writes keep the index up to date, each a little slower. Indexing
        a field again makes its index anew.

        Args:
            field: Its name, or the names from the outside in as a list or tuple.

        Raises:
            InputError: If the name is wrong, or there are more fields than `edgecolbert.limits` allows.
        """
        path = path_of(field)
        with self._lock, self._open_store().change():
            self._store.index_field(path)

    def unindex_field(self, field: str | Sequence[str]) -> bool:
        """Remove the index of a metadata field.

        Args:
            field: As in `index_field`.

        Returns:
            Whether there was one.
        """
        path = path_of(field)
        with self._lock, self._open_store().change():
            return self._store.fields.drop(path)

    def indexed_fields(self) -> list[tuple[str, ...]]:
        """The indexed metadata fields, each as its names from the outside in."""
        with self._reading() as store:
            return list(store.fields.numbers())

    def __len__(self) -> int:
        """Number of documents."""
        with self._reading() as store:
            return store.count_documents()

    def __contains__(self, identifier: object) -> bool:
        """Whether there is a document with that id."""
        return isinstance(identifier, str) and bool(identifier) and self.get(identifier) is not None

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        n_candidates: int | None = None,
        min_recall: float | None = None,
        exact: bool = False,
        filter: Mapping[Any, Any] | Filter | None = None,  # noqa: A002 - the field's word
        mode: Literal["late", "lexical", "hybrid"] = "late",
        fusion: Fusion | Literal["weighted", "rrf"] | None = None,
        group: Literal["document", "passage"] = "document",
        passages_per_document: int = 1,
    ) -> list[Hit]:
        """Find the documents that match a query best.

        Args:
            query: Any text.
            k: Most hits wanted.
            n_candidates: Texts that the first stage puts forward for scoring; by default a width that suits `k`.
                Collections of no more texts are scored whole, as are those too small to have a first stage yet.
            min_recall: Instead of a number, the share of the exact top 10 that the candidates must contain as measured
                by `tune`.
            exact: Score every document, without a first stage.
            filter: Conditions on metadata (docs/filters.md): `field("year") >= 2020` and the like, or a mapping such
                as {"year": {"gte": 2020}, "lang": "en"}. Documents are selected first, so a filter never loses a
                document that the unfiltered search would have ranked lower.
            mode: "late" for MaxSim of token embeddings; "lexical" for words and BM25, which needs no model; "hybrid"
                for both. In the latter two, what the query puts between double quotes has to be in the text.
            fusion: How "hybrid" makes one ranking of two: "weighted" (the default), "rrf", or a `Fusion`.
            group: "document" for one hit a document, with its best passage; "passage" for one hit a passage, so that a
                document may come several times. Words rank whole documents: with "lexical" there is no "passage".
            passages_per_document: Most passages that `Hit.passages` has, with group="document".

        Returns:
            At most `k` hits, best first; equal scores in the order of their ids, and within a document in the order of
            its text.

        Raises:
            InputError: If an argument is wrong.
            StoreError: If the file cannot be read, or is damaged where it was read.
        """
        check_text(query, "query")
        return self.search_many(
            [query],
            k=k,
            n_candidates=n_candidates,
            min_recall=min_recall,
            exact=exact,
            filter=filter,
            mode=mode,
            fusion=fusion,
            group=group,
            passages_per_document=passages_per_document,
        )[0]

    def search_many(
        self,
        queries: Sequence[str],
        *,
        k: int = 10,
        n_candidates: int | None = None,
        min_recall: float | None = None,
        exact: bool = False,
        filter: Mapping[Any, Any] | Filter | None = None,  # noqa: A002 - the field's word
        mode: Literal["late", "lexical", "hybrid"] = "late",
        fusion: Fusion | Literal["weighted", "rrf"] | None = None,
        group: Literal["document", "passage"] = "document",
        passages_per_document: int = 1,
    ) -> list[list[Hit]]:
        """Search for several queries over one snapshot; an exact search reads the documents once for all of them.

        Args:
            queries: Texts.
            k: Most hits wanted for each.
            n_candidates: As in `search`.
            min_recall: As in `search`.
            exact: As in `search`.
            filter: As in `search`.
            mode: As in `search`.
            fusion: As in `search`.
            group: As in `search`.
            passages_per_document: As in `search`.

        Returns:
            The hits of each query.

        Raises:
            InputError: If an argument is wrong.
            InputTypeError: If `queries` is not a list of strings.
        """
        if isinstance(queries, str) or not isinstance(queries, Sequence):
            raise InputTypeError(f"queries is {type(queries).__name__}, expected a list of strings.")
        for position, query in enumerate(queries):
            check_text(query, f"queries[{position}]")
            check_size(query, limits.QUERY_BYTES, f"queries[{position}]", "QUERY_BYTES")
        k = _check_count("k", k)
        grouping = Grouping.of(group, _check_count("passages_per_document", passages_per_document), mode)
        if n_candidates is not None:
            n_candidates = _check_count("n_candidates", n_candidates)
            if exact:
                raise InputError("exact=True scores every document; leave n_candidates out, or exact.")
        _check_recall(min_recall, exact=exact or n_candidates is not None)
        width: dict[str, Any] = {"exact": exact, "n_candidates": n_candidates, "min_recall": min_recall}
        how = check_mode(mode, fusion, width)
        if mode == "late":
            return self._search_late(queries, k, n_candidates, min_recall, exact, filter, grouping)
        vectors = [] if mode == "lexical" else self.encode_queries(queries)
        with self._reading() as store:
            if mode == "lexical":
                ranked = [self.ranked_by_words(query, k=k, filter=filter, grouping=grouping) for query in queries]
            else:
                ranked = [
                    self.ranked_by_both(query, vector, k=k, filter=filter, fusion=how, grouping=grouping, **width)
                    for query, vector in zip(queries, vectors, strict=True)
                ]
            answers = []
            for query, documents in zip(queries, ranked, strict=True):
                ranks = {document.id: document.ranks for document in documents}
                found = hits(store, [(document.id, document.best) for document in documents])
                here = Origin(weakref.ref(self), query)
                answers.append([from_search(replace(hit, ranks=ranks[hit.id]), here) for hit in found])
            return answers

    def _search_late(
        self,
        queries: Sequence[str],
        k: int,
        n_candidates: int | None,
        min_recall: float | None,
        exact: bool,
        filter: Mapping[Any, Any] | Filter | None,  # noqa: A002 - the field's word
        grouping: Grouping,
    ) -> list[list[Hit]]:
        vectors = self.encode_queries(queries)
        with self._reading() as store:
            skipped = Skipped() if self._on_damage == SKIP else None
            wanted = k
            while True:
                ranked = self._ranked(vectors, wanted, n_candidates, min_recall, exact, filter, skipped, grouping)
                found = [hits(store, documents, skipped)[:k] for documents in ranked]
                if all(len(some) == k or len(all_) < wanted for some, all_ in zip(found, ranked, strict=True)):
                    break
                # Damaged documents took the places of others, which are further down.
                wanted *= 2
            if skipped is not None:
                skipped.warn(store)
            return [
                with_ranks(some, Origin(weakref.ref(self), query)) for some, query in zip(found, queries, strict=True)
            ]

    def explain(self, query: str, hit: Hit | str) -> Explanation:
        """Why a document matches a query: for each query token the token that won. `Hit.explain` calls this.

        It is computed again from what is stored, and costs a search nothing.

        Args:
            query: Any text; the one of the hit's search explains its score.
            hit: What was found; or a document's id, for its best passage.

        Returns:
            The explanation. With a model object that has no `query_tokens` and `document_tokens`, its tokens have
            numbers only.

        Raises:
            InputError: If an argument is wrong, there is no such document, or it was changed since it was found.
            StoreMismatchError: If what is stored is not what the model makes of the passage.
        """
        from edgecolbert.explanation import explain  # a search does without it

        check_text(query, "query")
        check_size(query, limits.QUERY_BYTES, "query", "QUERY_BYTES")
        if isinstance(hit, str):
            check_id(hit, "explain")
        (vectors,) = self.encode_queries([query])
        with self._reading() as store:
            return explain(store, self._serving_id(), self._model(), query, vectors, hit)

    def encode_queries(self, queries: Sequence[str]) -> list[FloatArray]:
        """Token embeddings of queries, as the index's model gives them; the first call loads the model.

        Args:
            queries: Texts; an empty list only loads the model.

        Returns:
            One float32 array [n_query_tokens, dim] for each query.
        """
        return PassageEncoder(self._model(), split=False, dim=self._dim()).queries(list(queries))

    def ranked(
        self,
        queries: Sequence[FloatArray],
        *,
        k: int,
        n_candidates: int | None = None,
        min_recall: float | None = None,
        exact: bool = False,
        filter: Mapping[Any, Any] | Filter | None = None,  # noqa: A002 - the field's word
        grouping: Grouping = BY_DOCUMENT,
    ) -> list[list[tuple[str, Best]]]:
        """The search behind `search_many`, from token embeddings to ranked ids.

        Args:
            queries: float32 [n_query_tokens, dim] of each query.
            k: As in `search`.
            n_candidates: As in `search`.
            min_recall: As in `search`.
            exact: As in `search`.
            filter: As in `search`.
            grouping: What is ranked, documents or passages, and how many passages of a document are wanted.

        Returns:
            For each query at most `k` ids with the score and offsets of the best passage.

        Raises:
            InputError: If a query is not an array of that shape; see `search` for the others.
        """
        with self._reading() as store:
            check_vectors(queries, self._dim())
            skipped = Skipped() if self._on_damage == SKIP else None
            ranked = self._ranked(queries, k, n_candidates, min_recall, exact, filter, skipped, grouping)
            if skipped is not None:
                skipped.warn(store)
            return ranked

    def _ranked(
        self,
        queries: Sequence[FloatArray],
        k: int,
        n_candidates: int | None,
        min_recall: float | None,
        exact: bool,
        filter: Mapping[Any, Any] | Filter | None,  # noqa: A002 - the field's word
        skipped: Skipped | None,
        grouping: Grouping,
    ) -> list[list[tuple[str, Best]]]:
        """What `ranked` promises; `skipped` takes note of what is left out, None raises."""
        keep = grouping.keep(k)
        with self._reading() as store:
            encoding_id = self._serving_id()
            selected = None if filter is None else self._selected(filter, skipped)
            allowed = None if selected is None else np.fromiter(selected, dtype=np.int64, count=len(selected))
            n_texts = self._count_documents() if allowed is None else len(allowed)
            first_stage = None if exact else self._sound_first_stage(encoding_id, skipped)
            width_of = self._widths(encoding_id, k, n_candidates, min_recall)
            widths = [width_of(len(query)) for query in queries]
            whole = [query for query, width in zip(queries, widths, strict=True) if not first_stage or n_texts <= width]
            # Queries that score everything read it together, and nothing is read where there are none.
            chosen = None if selected is None else list(selected)
            every = iter(score_contents(store, encoding_id, whole, chosen, skipped, keep) if whole else [])
            ranked = []
            for query, width in zip(queries, widths, strict=True):
                if first_stage is None or n_texts <= width:
                    best = next(every)
                else:
                    contents: Sequence[int] | None = chosen
                    try:
                        contents = first_stage.nearest_contents(store, query, width, allowed)
                    except StoreFormatError as error:
                        if skipped is None:
                            raise
                        skipped.first_stage = str(error)
                    (best,) = score_contents(store, encoding_id, [query], contents, skipped, keep)
                ranked.append(ranked_documents(store, best, k, selected, grouping))
            return ranked

    def ranked_by_words(
        self,
        query: str,
        *,
        k: int,
        filter: Mapping[Any, Any] | Filter | None = None,  # noqa: A002 - the field's word
        grouping: Grouping = BY_DOCUMENT,
    ) -> list[Found]:
        """The search behind `search` with mode "lexical".

        Args:
            query: Any text.
            k: As in `search`.
            filter: As in `search`.
            grouping: How many passages of a document are wanted.

        Returns:
            At most `k` documents with scores, passages and ranks.
        """
        words = parse_query(query)
        with self._reading() as store:
            selected = None if filter is None else self._selected(filter, None)
            if words is None:
                return []
            return lexical_search(store, self._serving_id(), words, k, selected, grouping)

    def ranked_by_both(
        self,
        query: str,
        vectors: FloatArray,
        *,
        k: int,
        n_candidates: int | None = None,
        min_recall: float | None = None,
        exact: bool = False,
        filter: Mapping[Any, Any] | Filter | None = None,  # noqa: A002 - the field's word
        fusion: Fusion | None = None,
        grouping: Grouping = BY_DOCUMENT,
    ) -> list[Found]:
        """The search behind `search` with mode "hybrid": both put candidates forward, and both score all of them.

        Args:
            query: Any text.
            vectors: Its token embeddings, float32 [n_query_tokens, dim].
            k: As in `search`.
            n_candidates: As in `search`; as many by words again.
            min_recall: As in `search`.
            exact: As in `search`.
            filter: As in `search`.
            fusion: How the scores become one.
            grouping: What is ranked, documents or passages, and how many passages of a document are wanted.

        Returns:
            At most `k` documents with scores, passages and ranks.

        Raises:
            InputError: If `vectors` is not an array of that shape; see `search` for the others.
        """
        words = parse_query(query)
        keep = grouping.keep(k)
        with self._reading() as store:
            check_vectors([vectors], self._dim())
            encoding_id = self._serving_id()
            selected: Mapping[int, list[str]] | None = None if filter is None else self._selected(filter, None)
            if words is not None and words.required is not None:
                numbers = store.full_text.matching(words.required, None if selected is None else list(selected))
                every = store.ids_of_contents(numbers) if selected is None else selected
                selected = {number: every[number] for number in numbers}
            allowed = None if selected is None else np.fromiter(selected, dtype=np.int64, count=len(selected))
            n_texts = self._count_documents() if allowed is None else len(allowed)
            first_stage = None if exact else self._first_stage(encoding_id)
            width = self._widths(encoding_id, k, n_candidates, min_recall)(len(vectors))
            among = None if selected is None else list(selected)
            by_words = [] if words is None else store.full_text.best(words.match, width, among)
            if first_stage is None or n_texts <= width:
                (late,) = score_contents(store, encoding_id, [vectors], among, keep=keep)
                # The scores of candidates mean something beside each other, so they are the same with exact=True.
                nearest = sorted(late, key=lambda number: -late[number].score)[:width]
                late = {number: late[number] for number in [*nearest, *(text.content_id for text in by_words)]}
            else:
                nearest = first_stage.nearest_contents(store, vectors, width, allowed)
                candidates = list(dict.fromkeys([*nearest, *(text.content_id for text in by_words)]))
                (late,) = score_contents(store, encoding_id, [vectors], candidates, keep=keep)
            lexical = {} if words is None else store.full_text.scores(words.match, list(late))
            return fused(store, late, lexical, k, selected, fusion or Fusion(), grouping)

    def neighbours(self, hit: Hit, *, before: int = 1, after: int = 1) -> list[Passage]:
        """The passages around the one that a hit is of.

        Args:
            hit: A hit of this index.
            before: How many passages before it.
            after: How many behind it.

        Returns:
            The passages in the order of the text, the hit's own among them; fewer at the ends of the document.

        Raises:
            InputError: If the document was deleted or changed since it was found, or a number is negative.
        """
        from edgecolbert.neighbours import passages_around  # a search does without it

        with self._reading() as store:
            return passages_around(store, self._serving_id(), hit, before, after)

    def candidates(self, query: FloatArray, n_candidates: int) -> list[str]:
        """What the first stage alone puts forward, for measuring it.

        Args:
            query: float32 [n_query_tokens, dim].
            n_candidates: How many texts.

        Returns:
            Document ids in the order of the first stage; in that of an exact search where there is none yet.
        """
        with self._reading() as store:
            first_stage = self._first_stage(self._serving_id())
            if first_stage is None:
                return [name for name, _ in self.ranked([query], k=n_candidates, exact=True)[0]]
            contents = first_stage.nearest_contents(store, query, n_candidates, None)
            ids = store.ids_of_contents(contents)
            return [name for number in contents for name in sorted(ids[number])]

    def stats(self) -> IndexStats:
        """Counts, bytes, and what the file is pinned to."""
        with self._reading() as store:
            encoding_id = self._serving_id()
            pinned = store.encoding() or self._pinned
            first_stage = store.first_stage(encoding_id)
            return IndexStats(
                path=store.path,
                documents=store.count_documents(),
                model=pinned.model_name,
                fingerprint=pinned.fingerprint,
                dim=pinned.dim,
                token_storage=TokenSettings.pinned(pinned.settings, store.path).to_json(),
                passage_settings=PassageSettings.pinned(pinned.settings, store.path).to_json(),
                first_stage=None if first_stage is None else first_stage.stage.describe(),
                file_bytes=store.file_bytes,
                free_bytes=store.free_bytes,
                encrypted=store.encrypted,
                **store.totals(encoding_id),
            )

    def verify(self, *, full: bool = True) -> VerifyReport:
        """Check everything that is stored: the file's structure, every checksum, and that all parts fit together.

        Args:
            full: False checks only the structure, the counts, and whether the first stage has every passage, without
                reading the token embeddings: bits that changed inside them, or inside a text, are not found.

        Returns:
            A report whose `problems` is empty when all is well. Nothing is changed.
        """
        from edgecolbert.verification import verify_store  # a search does without it

        with self._lock:
            return verify_store(self._open_store(), full=full)

    def repair(self, *, progress: Progress | None = None) -> RepairReport:
        """Make damaged vectors and full text again from the texts, and a damaged first stage from vectors, in place.

        Where SQLite itself finds the file damaged, nothing is changed: `edgecolbert.recover` then makes a new file of
        what can be read.

        Args:
            progress: Called as `progress(done, total)` with numbers of texts; returning False stops.

        Returns:
            What was made again, and which documents are damaged themselves.

        Raises:
            StoreFormatError: If the file's structure is damaged.
            ModelError: If vectors must be made again and the model cannot be loaded; nothing was changed.
            InputError: If that model is an encoder of your own and was not passed; nothing was changed.
            CancelledError: If `progress` returned False; what was made again stays.
        """
        from edgecolbert.repair import repair_store  # only where something is wrong

        with self._reading():
            self._serving_id()
        self._candidates = None
        return repair_store(self._open_store(), self._lock, self._pinned, self._model, progress)

    def backup(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> int:
        """Copy the database as it is now into one new file; other processes may go on writing.

        The copy of an encrypted database is encrypted with the same key.

        Args:
            path: Where the copy is to appear, when it is whole and was checked. Nothing is ever replaced.
            progress: Called as `progress(done, total)` in bytes; returning False stops.

        Returns:
            The size of the copy in bytes.

        Raises:
            StoreError: If there is a file at `path` already, the copy cannot be written, or is not sound.
            CancelledError: If `progress` returned False; nothing is left of the copy.
        """
        from edgecolbert.backup import back_up  # a search does without it

        with self._own_connection() as store:
            return back_up(store, path, progress)

    def dump(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> int:
        """Write all documents with their token embeddings as JSON Lines that other programs can read.

        The file is plain text, also where the database is encrypted.

        Args:
            path: The new file; compressed where its name ends with .gz. Nothing is ever replaced.
            progress: Called as `progress(done, total)` in documents; returning False stops.

        Returns:
            How many documents were written.

        Raises:
            StoreFormatError: If a document or a vector is damaged.
            StoreError: If there is a file at `path` already, or it cannot be written.
            CancelledError: If `progress` returned False; nothing is left of the file.
        """
        from edgecolbert.interchange import dump_store  # a search does without it

        with self._own_connection() as store:
            return dump_store(store, path, progress)

    @classmethod
    def load(
        cls,
        dump: str | os.PathLike[str],
        path: str | os.PathLike[str],
        *,
        model: Model = None,
        reencode: bool = False,
        progress: Progress | None = None,
        key: KeySource | Key | None = None,
    ) -> Index:
        """Make a database of what `dump` wrote.

        Args:
            dump: The file that `dump` wrote, compressed or not.
            path: Where the database is to appear when it is whole. Nothing is ever replaced.
            model: The model that the vectors were made with, where it is not to be found by its name; or, with
                `reencode`, the one to make new vectors with.
            reencode: Make new vectors from the texts, with `model`.
            progress: Called as `progress(done, total)` in documents; returning False stops.
            key: The key to encrypt the new database with, as in `open`; the dump itself is never encrypted.

        Returns:
            The new index. Its searches give the same scores as those of the one that was dumped.

        Raises:
            InputError: If a line is wrong; the message names it.
            StoreMismatchError: If the model has another fingerprint and `reencode` is False.
            StoreError: If there is a file at `path` already, or it cannot be written.
            CancelledError: If `progress` returned False. What was loaded is kept under a name that says so, and the
                same call goes on from there.
        """
        from edgecolbert.interchange import load_dump

        key = Key.of(key)
        load_dump(dump, path, model=model, reencode=reencode, progress=progress, key=key)
        return cls.open(path, model=model, create=False, key=key)

    def compact(self) -> int:
        """Give back the space of deleted documents, and of texts that an interrupted `add` left behind.

        The file is written anew, which needs room for a second copy while it runs.

        Returns:
            By how many bytes the file became smaller.
        """
        from edgecolbert.upkeep import Upkeep  # a search does without it

        with self._lock:
            store = self._open_store()
            with self._reading():
                before = store.file_bytes
            with store.change():
                store.drop_unused_contents()
                Upkeep(store, self._lock, self._pinned, None).seal()
                store.full_text.optimize()
            store.give_back_space()
            with self._reading():
                return before - store.file_bytes

    def rebuild_lexical(self) -> None:
        """Make the full-text index again from the texts, where `verify` found it damaged.

        Raises:
            StoreError: If the file cannot be written.
        """
        with self._lock:
            self._open_store().rebuild_lexical()

    def tune(
        self,
        queries: Sequence[str] | None = None,
        *,
        n_queries: int = 50,
        compare: bool = True,
        rebuild: bool = False,
        any_kind: bool = False,
        progress: Progress | None = None,
    ) -> TuneReport:
        """Measure the first stage against exact MaxSim, and choose its settings and its widths by the result.

        The index stays searchable throughout. The measured recall is stored: `search(min_recall=...)` uses it, and the
        default width is the one whose recall is .99.

        Args:
            queries: Typical queries; by default some words each of the index's own texts, few and many.
            n_queries: How many queries of each kind to take from the texts.
            compare: Try other settings on a part of the index, and make the first stage again where one is clearly
                better.
            rebuild: Make the first stage again in any case, fitted to the index as it is now.
            any_kind: Compare with the other kind of first stage, too, where the file was made with settings of one.
            progress: Called as `progress(done, None)` after each step; returning False stops.

        Returns:
            What was compared, chosen and measured.

        Raises:
            InputError: If the index is empty, or there is no query.
            CancelledError: If `progress` returned False.
        """
        from edgecolbert.tuning import Tuner
        from edgecolbert.upkeep import Upkeep

        if queries is not None:
            for position, query in enumerate(queries):
                check_text(query, f"queries[{position}]")
            if not queries:
                raise InputError("queries is empty, expected at least one query, or None for words of the texts.")
        n_queries = _check_count("n_queries", n_queries)
        with self._reading() as own:
            own.check_writable()
            encoding_id = self._serving_id()
        model = self._model()
        # A connection of its own, so that searches of other threads need not wait; what is in memory has only the one.
        in_memory = own.path == MEMORY
        store = own if in_memory else own.another()
        lock = self._lock if in_memory else threading.RLock()
        try:
            tuner = Tuner(
                store, lock, Upkeep(store, lock, self._pinned, model), encoding_id, self.encode_queries, progress
            )
            keep_kind = self._pinned.settings["fde"] is not None and not any_kind
            return tuner.run(queries, n_queries, compare=compare, rebuild=rebuild, keep_kind=keep_kind)
        finally:
            if not in_memory:
                store.close()

    def close(self) -> None:
        """Close the file. Closing twice does no harm; any other use after it is an error."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._store.close()

    def __enter__(self) -> Index:
        """The index itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[Store]:
        """The store inside one snapshot; inside another one of this thread, the same snapshot."""
        with self._lock:
            store = self._open_store()
            if self._in_snapshot:
                yield store
                return
            with store.snapshot():
                self._in_snapshot = True
                try:
                    yield store
                finally:
                    self._in_snapshot = False

    @contextmanager
    def _own_connection(self) -> Iterator[Store]:
        """A second connection for what takes long, so that other threads go on; what is in memory has only the one."""
        with self._lock:
            own = self._open_store()
            if own.path == MEMORY:
                yield own
                return
        store = own.another(read_only=True)
        try:
            yield store
        finally:
            store.close()

    def _open_store(self) -> Store:
        if self._closed:
            raise StoreClosedError(f"The index on {self._store.path} was closed. Open it again with Index.open.")
        return self._store

    def _model(self) -> TokenEncoder:
        with self._lock:
            self._open_store()
            if self._encoder is None:
                self._encoder = find_pinned_model(self._pinned, self._store.path, self._named_model)
            return self._encoder

    def _serving_id(self) -> int:
        """The encoding that serves in this snapshot; another process may have re-encoded the file."""
        serving = self._store.encoding()
        if serving is None or serving.encoding_id != self._pinned.encoding_id:
            name = None if serving is None else serving.model_name
            raise StoreMismatchError(
                f"{self._store.path} was re-encoded with the model {name!r} since it was opened with "
                f"{self._pinned.model_name!r}. Open it again."
            )
        return serving.encoding_id

    def _dim(self) -> int | None:
        """Size of a stored token embedding; None before the first document."""
        if self._pinned.dim is not None:
            return self._pinned.dim
        # The first document added since the file was opened has shown it.
        with self._reading() as store:
            serving = store.encoding()
        return None if serving is None else serving.dim

    def _count_documents(self) -> int:
        """How many documents there are; SQLite counts them one by one, so only once between two changes."""
        generation = self._store.generation
        if self._counted[0] != generation:
            self._counted = (generation, self._store.count_documents())
        return self._counted[1]

    def _selected(self, conditions: Mapping[Any, Any] | Filter, skipped: Skipped | None) -> dict[int, list[str]]:
        """The documents that a filter selects, from records that were checked since the file last changed."""
        damaged = self._check_records(conditions, skipped=skipped)
        if skipped is None or not damaged:
            return self._store.matching_documents(conditions)
        skipped.documents.update(damaged)
        # Metadata that is not JSON any more would stop the filter itself.
        matching = self._store.matching_documents(conditions, without=damaged)
        return {number: names for number, names in matching.items() if names}

    def _check_records(
        self, conditions: Mapping[Any, Any] | Filter, *paths: tuple[str, ...], skipped: Skipped | None = None
    ) -> frozenset[str]:
        """Look once between two changes for damaged records and indexes of fields that a filter reads.

        Damaged records are refused, or where some may be skipped, given by their ids.
        """
        generation = self._store.generation
        used = [part.path for part, _ in read_filter(conditions).conditions()]
        if self._checked_generation != generation:
            # A flipped bit in metadata would silently leave a document out.
            if skipped is None:
                self._store.check_documents()
                self._damaged_records = frozenset()
            else:
                self._damaged_records = frozenset(self._store.damaged_documents())
            self._checked_generation = generation
        self._store.fields.check([*used, *paths], generation)
        return self._damaged_records

    def _widths(
        self, encoding_id: int, k: int, n_candidates: int | None, min_recall: float | None
    ) -> Callable[[int], int]:
        """How many candidates the first stage is to find for a query of so many tokens."""
        if n_candidates is not None:
            return lambda _: n_candidates
        number = self._store.first_stage_number(encoding_id)
        measured = None if number is None else self._store.measured(number)
        if measured is not None:
            from edgecolbert.tuning import width_for

            recall, path = measured["recall"], self._store.path
            return lambda n: max(width_for(recall, n, min_recall or _DEFAULT_RECALL, path), 2 * k)
        if min_recall is not None and number is not None:
            raise InputError(
                f"min_recall is {min_recall}, but the recall of {self._store.path} was not measured yet, or not since "
                "its first stage was made again. Run `edgecolbert tune --db FILE`, or give n_candidates."
            )
        return lambda n: max(SHORT_QUERY_CANDIDATES if n < SHORT_QUERY else LONG_QUERY_CANDIDATES, 2 * k)

    def _sound_first_stage(self, encoding_id: int, skipped: Skipped | None) -> Candidates | None:
        """The first stage that serves; none where it is damaged and that is to be passed over."""
        try:
            return self._first_stage(encoding_id)
        except StoreFormatError as error:
            if skipped is None:
                raise
            skipped.first_stage = str(error)
            return None

    def _first_stage(self, encoding_id: int) -> Candidates | None:
        """The first stage that serves, or None before there is one."""
        number = self._store.first_stage_number(encoding_id)
        if number is None:
            # One that cannot be found is not one that was never made.
            self._store.check_stage_tables()
            return None
        if self._candidates is None or self._candidates[0] != number:
            from edgecolbert.candidates import candidates_of  # a search that scores everything does without it

            found = self._store.first_stage(encoding_id)
            if found is None:
                return None
            self._candidates = (number, candidates_of(found))
        return self._candidates[1]


# Indexes of this process. The lock of one may be held by a thread that a forked process does not have, and nobody would
# ever be told that the index cannot be used there.
_OPEN: weakref.WeakSet[Index] = weakref.WeakSet()


def _renew_locks() -> None:
    for index in list(_OPEN):
        index._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def _pin(
    store: Store,
    identity: ModelIdentity,
    split_documents: bool | None,
    fde: FdeSettings | None,
    tokens: dict[str, int],
    passages: dict[str, Any],
    model: Model,
) -> PinnedEncoding:
    split = PassageSettings(**passages)
    splits = check_split(split_documents is not False, split)
    if not split.is_default:
        # What the model cannot do must not be pinned.
        if model is None or isinstance(model, str | Path):
            model = Encoder.load(model, special_tokens=identity.special_tokens or AS_MODEL)
        PassageEncoder(model, split=splits, dim=None, passages=split)
    settings = {"split_documents": splits, "fde": None if fde is None else fde.to_json()}
    wanted = new_encoding(identity, split.pin(TokenSettings(**tokens).pin(settings)))
    with store.change():
        # Another process may have made and pinned the file a moment ago.
        return store.encoding() or store.add_encoding(wanted)


def _check_fde(fde: object) -> None:
    from edgecolbert.fde import FdeSettings  # a search that scores everything does without it

    if not isinstance(fde, FdeSettings):
        raise InputTypeError(f"fde is {type(fde).__name__}, expected FdeSettings.")


def _check_settings(
    pinned: PinnedEncoding,
    path: str,
    split_documents: bool | None,
    fde: FdeSettings | None,
    tokens: dict[str, int],
    passages: dict[str, Any],
    special_tokens: str | None,
) -> None:
    # Also where nothing is asked for: a way of storing that is not known must not wait until something is read.
    stored = TokenSettings.pinned(pinned.settings, path).to_json()
    split = PassageSettings.pinned(pinned.settings, path).to_json()
    found = {"special_tokens": AS_MODEL} | pinned.settings | {"tokens": stored, "passages": split}
    asked: dict[str, Any] = {
        "split_documents": split_documents,
        "fde": None if fde is None else fde.to_json(),
        "tokens": stored | tokens,
        "passages": split | passages,
        "special_tokens": special_tokens,
    }
    for name, value in asked.items():
        if value is not None and value != found[name]:
            remedy = "or make a new file"
            if name == "tokens":
                options = f"--token-bits {value['bits']} --pool-factor {value['pool_factor']}"
                remedy = f"make a new file, or store its tokens so: edgecolbert reencode --db {path} {options}"
            if name == "passages":
                remedy = f"make a new file, or make its passages so: reencode({path!r}, passages={passages})"
            raise StoreMismatchError(
                f"{path} was made with {name} = {found[name]}, but {value} was asked for. Leave the setting out, "
                f"{remedy}."
            )


def _check_recall(min_recall: object, *, exact: bool) -> None:
    if min_recall is None:
        return
    if exact:
        raise InputError("min_recall chooses n_candidates; leave it out, or n_candidates and exact.")
    if isinstance(min_recall, bool) or not isinstance(min_recall, int | float):
        raise InputTypeError(f"min_recall is {min_recall!r}, expected a number.")
    if not 0 < min_recall <= 1:
        raise InputError(f"min_recall is {min_recall}, expected more than 0 and at most 1.")


def _check_count(name: str, value: object) -> int:
    # SupportsIndex, so that numpy's whole numbers are as good as Python's.
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise InputTypeError(f"{name} is {value!r}, expected a whole number.")
    if whole_number(value) < 1:
        raise InputError(f"{name} is {value}, expected at least 1.")
    return whole_number(value)

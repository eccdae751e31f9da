"""What the API answers: searches, documents, facets, folders. Plain dictionaries; nothing here knows about HTTP."""

from __future__ import annotations

import json
import operator
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

from edgecolbert import __version__
from edgecolbert.documents import Document
from edgecolbert.errors import InputError, MissingExtraError, ModelError, RuntimeUnusableError, StoreMismatchError
from edgecolbert.filters import Filter
from edgecolbert.filters.parser import parse_field, parse_filter
from edgecolbert.fusion import MODES
from edgecolbert.highlighting import Snippet
from edgecolbert.index import Index
from edgecolbert.results import Hit, Passage
from edgecolbert.serve import marks, parameters
from edgecolbert.serve.database import Database
from edgecolbert.serve.narrowing import below, children, facet, is_place, scalars, sorts, written

Json = dict[str, Any]
Given = Iterable[tuple[str, str]]

DEFAULT_HITS = 10
DEFAULT_SNIPPET = 280

# Metadata that goes along with a hit, and with a whole document: bytes of it as JSON.
_HIT_METADATA, _DOCUMENT_METADATA = 4_096, 262_144
_TITLE_CHARACTERS = 200
# Documents whose metadata says which fields there are, and most fields that are offered.
_SAMPLED, _MOST_FIELDS = 200, 12
# Fields in which readers note where a document was found.
_PLACES = ("path", "source", "file")
_TITLE = ("title",)
# What `edgecolbert index` notes of each file for itself (docs/folders.md), and when a file was written.
_OF_FILES = ("file", "modified")
_MOST_FOLDERS = 200
_HASH = re.compile("[0-9a-f]{64}")


class GoneError(Exception):
    """Nobody waits for the answer any more: the page has sent another query, or was closed."""


class Answers:
    """What can be asked of a database.

    Args:
        searching: The database for searches.
        counting: The same one, open a second time: calls of one index take turns, and typing must not wait for counts.
    """

    def __init__(self, searching: Database, counting: Database) -> None:
        self._searching, self._counting = searching, counting
        self.problem: str | None = None
        # The patterns of other scripts than Latin take a tenth of a second to make, the first time.
        marks.of_words("β", "β")
        try:
            # What the first search loads is loaded before anybody waits for it.
            searching.ask(lambda index: index.search("warm", k=1, mode="hybrid"))
        except (ModelError, MissingExtraError, RuntimeUnusableError, InputError) as error:
            # Not there, or an object that only its maker can pass. Words can be looked up all the same.
            self.problem = str(error)

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that work here; only "lexical" where there is no model."""
        return MODES if self.problem is None else ("lexical",)

    def info(self, given: Given) -> Json:
        """What is served: counts, the model, modes and limits."""
        parameters.read(given, {})
        stats = self._counting.ask(Index.stats)
        return {
            "version": __version__,
            "path": stats.path,
            "documents": stats.documents,
            "passages": stats.passages,
            "model": stats.model,
            "encrypted": stats.encrypted,
            "modes": list(self.modes),
            "default_mode": self._default_mode(),
            "problem": self.problem,
            "limits": {
                "query_characters": parameters.QUERY_CHARACTERS,
                "filter_characters": parameters.FILTER_CHARACTERS,
                "hits": parameters.MOST_HITS,
                "window_characters": parameters.WINDOW_CHARACTERS,
            },
        }

    def search(self, given: Given, gone: Callable[[], bool] = lambda: False) -> Json:
        """Hits with snippets.

        Args:
            given: The parameters.
            gone: Asked between two steps whether nobody waits for the answer any more.

        Returns:
            The answer.

        Raises:
            GoneError: If nobody does.
            InputError: If a parameter is wrong.
        """
        began = time.perf_counter()
        asked = parameters.read(
            given,
            {
                "query": parameters.QUERY,
                "mode": parameters.MODE,
                "filter": parameters.FILTER,
                "k": parameters.HITS,
                "snippet": parameters.number(20, parameters.SNIPPET_CHARACTERS),
            },
        )
        query, k = _required(asked, "query"), asked.get("k", DEFAULT_HITS)
        mode, size = self._mode(asked), asked.get("snippet", DEFAULT_SNIPPET)
        wanted = _filter(asked)

        def work(index: Index) -> Json:
            # One more, to know whether there are more.
            hits = index.search(query, k=k + 1, mode=mode, filter=wanted) if query.strip() else []
            searched = time.perf_counter()
            shown = []
            for rank, hit in enumerate(hits[:k], start=1):
                if gone():
                    raise GoneError
                shown.append(_hit(hit, rank, mode, query, size))
            return {
                "query": query,
                "mode": mode,
                "hits": shown,
                "more": len(hits) > k,
                "ms": {
                    "search": round((searched - began) * 1000, 2),
                    "highlight": round((time.perf_counter() - searched) * 1000, 2),
                },
            }

        return self._searching.ask(work)

    def documents(self, given: Given) -> Json:
        """The documents that a filter selects, in the order in which they were added."""
        asked = parameters.read(given, {"filter": parameters.FILTER, "k": parameters.HITS, "start": parameters.PLACE})
        k, start, wanted = asked.get("k", DEFAULT_HITS), asked.get("start", 0), _filter(asked)

        def work(index: Index) -> Json:
            ids = index.ids(filter=wanted)
            found = [document for name in ids[start : start + k] if (document := index.get(name)) is not None]
            return {
                "count": len(ids),
                "start": start,
                "documents": [
                    _summary(document.id, document.text, document.metadata, _HIT_METADATA)
                    | {"excerpt": document.text[:DEFAULT_SNIPPET], "cut": len(document.text) > DEFAULT_SNIPPET}
                    for document in found
                ],
            }

        return self._counting.ask(work)

    def document(self, identifier: str, given: Given) -> Json | None:
        """A document's text, or a part of it where it is long, with what matches a query; None if there is none."""
        asked = parameters.read(
            given,
            {
                "query": parameters.QUERY,
                "mode": parameters.MODE,
                "start": parameters.PLACE,
                "passage_start": parameters.PLACE,
                "passage_end": parameters.PLACE,
            },
        )
        query, mode = asked.get("query", ""), self._mode(asked)

        def work(index: Index) -> Json | None:
            document = index.get(identifier)
            if document is None:
                return None
            text = document.text
            passage: Passage | None = None
            found: list[marks.Mark] = []
            if "passage_start" in asked and asked["passage_start"] <= asked.get("passage_end", -1) <= len(text):
                span = (asked["passage_start"], asked["passage_end"])
                passage = Passage(*span, text[slice(*span)])
            if query.strip() and mode != "lexical":
                passage, found = _explained(index, query, document, passage)
            size = parameters.WINDOW_CHARACTERS
            first = 0 if passage is None or passage.end <= size else max(0, passage.start - size // 4)
            start = min(asked.get("start", first), len(text))
            shown = text[start : start + size]
            if query.strip() and mode != "late":
                found = marks.merged([*found, *marks.of_words(query, shown, start, 2 if mode == "lexical" else 1)])
            return _summary(identifier, text, document.metadata, _DOCUMENT_METADATA) | {
                "characters": len(text),
                "start": start,
                "end": start + len(shown),
                "passage": None if passage is None else {"start": passage.start, "end": passage.end},
                "sections": _sections(shown, start, passage, found),
                "highlights": [mark._asdict() for mark in found],
            }

        return self._searching.ask(work)

    def why(self, given: Given) -> str:
        """A page with the heat map of a document's best passage."""
        from edgecolbert.heat_map import page

        asked = parameters.read(given, {"query": parameters.QUERY, "id": parameters.ID, "scheme": parameters.SCHEME})
        query, identifier = _required(asked, "query"), _required(asked, "id")
        if self.problem is not None:
            raise InputError(f"Why a document matched needs the model, which cannot be used: {self.problem}")
        explanation = self._searching.ask(lambda index: index.explain(query, identifier))
        return page(query, [explanation], scheme=asked.get("scheme", "auto"))

    def fields(self, given: Given) -> Json:
        """The metadata fields that sort documents, by their names as filters write them."""
        parameters.read(given, {})

        def work(index: Index) -> Json:
            ids = index.ids()
            step = max(1, len(ids) // _SAMPLED)
            sampled = [document for name in ids[::step][:_SAMPLED] if (document := index.get(name)) is not None]
            values: dict[tuple[str, ...], Counter[str]] = {}
            for document in sampled:
                for path, value in scalars(document.metadata):
                    values.setdefault(path, Counter())[json.dumps(value)] += 1
            place = next((name for name in _PLACES if is_place(values.get((name,)))), None)
            # A place and a title tell documents apart, and are shown with each.
            sorting = [
                path
                for path, counts in values.items()
                if path not in ((place,), _TITLE) and path[0] not in _OF_FILES and sorts(counts)
            ]
            sorting.sort(key=lambda path: -values[path].total())
            return {"fields": [written(path) for path in sorting[:_MOST_FIELDS]], "folders": place}

        return self._counting.ask(work)

    def facets(self, given: Given) -> Json:
        """The values of a metadata field, counted, each with the filter that selects it."""
        asked = parameters.read(given, {"field": parameters.FILTER, "filter": parameters.FILTER, "k": parameters.HITS})
        path = parse_field(_required(asked, "field"))
        wanted, k = _filter(asked), asked.get("k", DEFAULT_HITS)
        found = self._counting.ask(lambda index: index.facets(path, filter=wanted, k=k))
        return {
            "field": written(found.field),
            "documents": found.documents,
            "with_field": found.with_field,
            "n_values": found.n_values,
            "values": [facet(found.field, entry) for entry in found.values],
        }

    def folders(self, given: Given) -> Json:
        """The folders in a field of paths, one level at a time, each with the filter that selects what lies in it."""
        asked = parameters.read(
            given, {"field": parameters.FILTER, "under": parameters.FILTER, "filter": parameters.FILTER}
        )
        path, under, wanted = parse_field(_required(asked, "field")), asked.get("under"), _filter(asked)
        found = self._counting.ask(lambda index: index.facets(path, filter=wanted, k=10**9))
        places = [(entry.value, entry.count) for entry in found.values if isinstance(entry.value, str)]
        here = "" if under is None else under
        folders, loose, deeper = children(places, here)
        while under is None and len(folders) == 1 and deeper and not loose:
            # Nobody wants to open /home, then the user, then the one folder that was indexed.
            here = next(iter(folders))
            folders, loose, deeper = children(places, here)
        names = sorted(folders, key=str.casefold)
        return {
            "field": written(path),
            "under": here,
            "documents": loose + sum(folders.values()),
            "folders": [
                {
                    "name": prefix[len(here) :].rstrip("/\\"),
                    "prefix": prefix,
                    "count": folders[prefix],
                    "has_folders": prefix in deeper,
                    "filter": below(path, prefix),
                }
                for prefix in names[:_MOST_FOLDERS]
            ],
            "more": max(0, len(names) - _MOST_FOLDERS),
        }

    def _default_mode(self) -> str:
        return "hybrid" if "hybrid" in self.modes else self.modes[0]

    def _mode(self, asked: Mapping[str, Any]) -> Any:
        mode = asked.get("mode", self._default_mode())
        if mode not in self.modes:
            raise InputError(f"mode {mode!r} needs the model, which cannot be used: {self.problem}")
        return mode


def _filter(asked: Mapping[str, Any]) -> Filter | None:
    """All filters that were given, which all have to hold; so that nobody has to put texts of two forms into one."""
    texts = [text for text in asked.get("filter", []) if text.strip()]
    return reduce(operator.and_, map(parse_filter, texts)) if texts else None


def _required(asked: Mapping[str, Any], name: str) -> str:
    if name not in asked:
        raise InputError(f"The parameter {name} is missing.")
    value: str = asked[name]
    return value


def _hit(hit: Hit, rank: int, mode: str, query: str, size: int) -> Json:
    passage = hit.passage
    found: list[marks.Mark] = []
    snippet: Snippet | None = None
    if mode != "lexical":
        try:
            snippet = hit.snippet(size)
            found = marks.of_highlights(snippet.highlights)
        except (InputError, StoreMismatchError):
            # Changed since, or a model that does not say what its tokens stand for: shown without marks.
            pass
    if snippet is None:
        snippet = marks.snippet_of_words(query, hit.text, passage.start, passage.end, size)
    if mode != "late":
        found = marks.merged(
            [*found, *marks.of_words(query, snippet.text, snippet.start, 2 if mode == "lexical" else 1)]
        )
    return (
        {"rank": rank, "score": round(hit.score, 6), "ranks": hit.ranks}
        | _summary(hit.id, hit.text, hit.metadata, _HIT_METADATA)
        | {
            "passage": {"start": passage.start, "end": passage.end},
            "snippet": _snippet(snippet, found),
        }
    )


def _snippet(snippet: Snippet, found: Sequence[marks.Mark]) -> Json:
    return {
        "start": snippet.start,
        "end": snippet.end,
        "cut_before": snippet.cut_before,
        "cut_after": snippet.cut_after,
        "parts": marks.parts(snippet.text, snippet.start, found),
        "highlights": [mark._asdict() for mark in found],
    }


def _explained(
    index: Index, query: str, document: Document, passage: Passage | None
) -> tuple[Passage | None, list[marks.Mark]]:
    """The passage that was found, or else the best one, and what matched in it."""
    tries: list[Hit | str] = [document.id]
    if passage is not None:
        tries.insert(0, Hit(document.id, 0.0, document.text, document.metadata, passage))
    for hit in tries:
        try:
            explanation = index.explain(query, hit)
            return explanation.passage, marks.of_highlights(explanation.highlights())
        except (InputError, StoreMismatchError):
            # Changed since it was found, or a model that does not say what its tokens stand for.
            continue
    return passage, []


def _sections(shown: str, start: int, passage: Passage | None, found: Sequence[marks.Mark]) -> list[Json]:
    """The text before the passage, the passage, and the text behind it, each in parts."""
    end = start + len(shown)
    edges = [start, end]
    if passage is not None:
        edges = [start, min(max(passage.start, start), end), max(min(passage.end, end), start), end]
    sections = []
    for number, (first, last) in enumerate(pairwise(edges)):
        if first < last:
            inside = marks.parts(shown[first - start : last - start], first, found)
            sections.append({"passage": passage is not None and number == 1, "parts": inside})
    return sections


def _summary(identifier: str, text: str, metadata: Json, most_bytes: int) -> Json:
    cut = len(json.dumps(metadata)) > most_bytes
    return {
        "id": identifier,
        "title": _title(identifier, text, metadata),
        "metadata": {} if cut else metadata,
        "metadata_cut": cut,
    }


def _title(identifier: str, text: str, metadata: Json) -> str:
    title = metadata.get("title")
    if not (isinstance(title, str) and title.strip()):
        first = text[: 4 * _TITLE_CHARACTERS].strip().partition("\n")[0]
        heading = re.match(r"#{1,6}\s+(.+)", first)
        # An id that is the hash of the text tells nobody anything.
        title = heading.group(1) if heading else first if _HASH.fullmatch(identifier) and first else identifier
    title = " ".join(title[: 4 * _TITLE_CHARACTERS].split())
    return title if len(title) <= _TITLE_CHARACTERS else title[: _TITLE_CHARACTERS - 1] + "…"

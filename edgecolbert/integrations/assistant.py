"""What an assistant may do with a database: tools with bounded answers, for whichever program hands them to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from edgecolbert.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from edgecolbert.filters import Filter
    from edgecolbert.index import Index
    from edgecolbert.results import Hit

Mode = Literal["late", "lexical", "hybrid"]

# What an assistant reads costs it room in its window, so every answer is bounded.
MAX_CHARS = 20_000
LEAST_CHARS = 1_000
MOST_HITS = 50
MOST_VALUES = 200
# Texts and metadata of one hit; `get_document` gives the rest.
_PASSAGE_CHARS = 2_000
_METADATA_CHARS = 2_000
# Documents looked at for the names of metadata fields.
_SAMPLE = 100


class AssistantTools:
    """What the server offers. Names and docstrings are what the assistant sees.

    Args:
        index: The index.
        max_chars: Most characters of text in one answer.

    Raises:
        InputError: If `max_chars` is less than 1,000.
    """

    def __init__(self, index: Index, *, max_chars: int = MAX_CHARS) -> None:
        if max_chars < LEAST_CHARS:
            raise InputError(f"max_chars is {max_chars}, expected at least {LEAST_CHARS:,}.")
        self._index = index
        self._max_chars = max_chars

    def search(
        self,
        query: str,
        k: int = 5,
        filter: str | dict[str, Any] | None = None,  # noqa: A002 - the field's word
        mode: Mode = "hybrid",
    ) -> dict[str, Any]:
        """Find the documents that match a query best; each comes with the passage that matched.

        Args:
            query: A question, or words. In the modes "lexical" and "hybrid", what stands between double quotes has to
                be in the text.
            k: Most hits wanted, at most 50.
            filter: Only documents whose metadata fulfil this, such as 'year >= 2020 and tags contains "x"'; operators
                are = != < <= > >= in contains substring exists missing, and or not; dates as 2024-05-31. `info` names
                the fields.
            mode: "late" by meaning (token embeddings), "lexical" by words, "hybrid" by both.

        Returns:
            The hits, best first. `start`, `end` and `length` count characters of the document.
        """
        _check_most("k", k, MOST_HITS)
        hits = self._index.search(query, k=k, filter=any_filter(filter), mode=mode)
        shown: list[dict[str, Any]] = []
        room = self._max_chars
        for hit in hits:
            entry = _hit(hit, min(_PASSAGE_CHARS, self._max_chars // 2))
            size = len(json.dumps(entry, ensure_ascii=False))
            if shown and size > room:
                break
            room -= size
            shown.append(entry)
        answer: dict[str, Any] = {"hits": shown}
        if len(shown) < len(hits):
            answer["note"] = (
                f"{len(hits) - len(shown)} more hits are left out, because an answer has at most {self._max_chars:,} "
                "characters. Ask more narrowly, or use a filter."
            )
        return answer

    def get_document(
        self,
        id: str,  # noqa: A002 - the record's own word
        start: int = 0,
        end: int | None = None,
    ) -> dict[str, Any]:
        """Read a document, or a part of it.

        Args:
            id: The document's id, as `search` gives it.
            start: Offset of the first character wanted.
            end: Offset behind the last one; the document's end by default. A long answer is cut, and its `next_start`
                says where to go on.

        Returns:
            The text from `start` to `end`, the document's `length`, and its metadata.
        """
        found = self._index.get(id)
        if found is None:
            raise InputError(f"There is no document with the id {id!r}. Take ids from the hits of search.")
        length = len(found.text)
        wanted = length if end is None else min(end, length)
        if not 0 <= start <= length or (end is not None and end < start):
            raise InputError(
                f"start is {start} and end is {end}, expected 0 <= start <= end; the document has {length} characters."
            )
        last = min(wanted, start + self._max_chars)
        answer: dict[str, Any] = {
            "id": found.id,
            "start": start,
            "end": last,
            "length": length,
            "text": found.text[start:last],
        }
        if last < wanted:
            answer["next_start"] = last
        return answer | _metadata(found.metadata, self._max_chars)

    def facets(
        self,
        field: str,
        filter: str | dict[str, Any] | None = None,  # noqa: A002 - the field's word
        k: int = 20,
    ) -> dict[str, Any]:
        """Count the values of a metadata field, the most frequent ones first.

        Args:
            field: Its name; outer/inner for a field inside of an object.
            filter: Only documents whose metadata fulfil this, as in `search`.
            k: Most values wanted, at most 200.

        Returns:
            The values with their counts, and how many documents have the field.
        """
        from edgecolbert.filters.parser import parse_field

        _check_most("k", k, MOST_VALUES)
        answer = self._index.facets(parse_field(field), filter=any_filter(filter), k=k).as_dict()
        answer["field"] = "/".join(answer["field"])
        values, room = [], self._max_chars
        for entry in answer["values"]:
            value = entry["value"]
            if isinstance(value, str) and len(value) > _METADATA_CHARS:
                entry = {"value": value[:_METADATA_CHARS], "count": entry["count"], "cut": True}  # noqa: PLW2901
            room -= len(json.dumps(entry, ensure_ascii=False))
            if room < 0:
                answer["note"] = f"An answer has at most {self._max_chars:,} characters; the rest is left out."
                break
            values.append(entry)
        return answer | {"values": values}

    def info(self) -> dict[str, Any]:
        """Say what is in the collection: how many documents, the model, and metadata fields to filter by."""
        stats = self._index.stats()
        ids = self._index.ids()
        step = max(1, len(ids) // _SAMPLE)
        names: dict[str, set[str]] = {}
        for identifier in ids[::step][:_SAMPLE]:
            found = self._index.get(identifier)
            for name, value in {} if found is None else found.metadata.items():
                names.setdefault(name, set()).add(_kind(value))
        fields = [{"name": name, "kinds": sorted(kinds)} for name, kinds in sorted(names.items())]
        # Of fields called by data, such as dates, there can be any number.
        return {
            "documents": stats.documents,
            "passages": stats.passages,
            "text_bytes": stats.text_bytes,
            "model": stats.model,
            "metadata_fields": _within(fields, self._max_chars // 2),
            "metadata_fields_seen_in": min(len(ids), _SAMPLE),
            "indexed_fields": ["/".join(path) for path in self._index.indexed_fields()],
        }

    def add_document(
        self,
        text: str,
        id: str | None = None,  # noqa: A002 - the record's own word
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Add a document, or replace the one with the same id.

        Args:
            text: The whole text.
            id: Its id; made of the text by default.
            metadata: JSON values by name.

        Returns:
            Its id, and whether it was added, updated, or there already.
        """
        record: dict[str, Any] = {"text": text, "metadata": {} if metadata is None else metadata}
        report = self._index.add([record if id is None else record | {"id": id}])
        what = "added" if report.added else "updated" if report.updated else "unchanged"
        return {"id": report.ids[0], "result": what}

    def delete_document(self, id: str) -> dict[str, Any]:  # noqa: A002 - the record's own word
        """Delete a document for good.

        Args:
            id: Its id.

        Returns:
            Whether there was one.
        """
        return {"id": id, "result": "deleted" if self._index.delete([id]) else "there was none"}


def any_filter(conditions: str | Mapping[str, Any] | None) -> Filter | None:
    """A filter in the written form or as a mapping; nothing, or nothing but spaces, is no filter."""
    from edgecolbert.filters import read_filter
    from edgecolbert.filters.parser import parse_filter

    if conditions is None or (isinstance(conditions, str) and not conditions.strip()):
        return None
    return parse_filter(conditions) if isinstance(conditions, str) else read_filter(conditions)


def _hit(hit: Hit, room: int) -> dict[str, Any]:
    passage = {"start": hit.passage.start, "end": hit.passage.end, "text": hit.passage.text[:room]}
    if len(hit.passage.text) > room:
        passage |= {"end": hit.passage.start + room, "cut": True}
    return {
        "id": hit.id,
        "score": round(hit.score, 4),
        "passage": passage,
        "length": len(hit.text),
        "uri": f"edgecolbert://document/{quote(hit.id, safe='')}",
    } | _metadata(hit.metadata, _METADATA_CHARS)


def _metadata(metadata: dict[str, Any], room: int) -> dict[str, Any]:
    if len(json.dumps(metadata, ensure_ascii=False)) <= room:
        return {"metadata": metadata}
    return {"metadata": {}, "metadata_note": f"The metadata is longer than {room:,} characters and left out."}


def _within(entries: list[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    kept = []
    for entry in entries:
        room -= len(json.dumps(entry, ensure_ascii=False))
        if room < 0:
            break
        kept.append(entry)
    return kept


def _kind(value: object) -> str:
    kinds = {dict: "object", list: "list", str: "text", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), "null")


def _check_most(name: str, value: object, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"{name} is {value!r}, expected a whole number.")
    if not 1 <= value <= most:
        raise InputError(f"{name} is {value}, expected 1 to {most}.")

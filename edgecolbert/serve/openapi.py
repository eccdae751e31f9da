"""The API's own description, OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgecolbert import __version__
from edgecolbert.fusion import MODES
from edgecolbert.heat_map import SCHEMES
from edgecolbert.serve import parameters
from edgecolbert.serve.answers import DEFAULT_HITS, DEFAULT_SNIPPET

Json = dict[str, Any]

_TEXT, _NUMBER, _FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
_OFFSETS = "Offsets count Unicode code points of the document's text."


def description(url: str) -> Json:
    """The OpenAPI description of the API.

    Args:
        url: Where the server is.

    Returns:
        What /openapi.json answers.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgecolbert serve",
            "version": __version__,
            "description": "Search in one edgecolbert database, on this machine only and only to read.",
        },
        "servers": [{"url": url.rstrip("/")}],
        "security": [{"cookie": []}, {"token": []}],
        "paths": {
            "/api/search": _get(
                "search",
                "Hits, best first, each with the part of its best passage that matched.",
                "Hits",
                [
                    _QUERY | {"required": True},
                    _MODE,
                    _FILTER,
                    _K,
                    _whole(
                        "snippet", "Most characters of a snippet.", 20, parameters.SNIPPET_CHARACTERS, DEFAULT_SNIPPET
                    ),
                ],
            ),
            "/api/documents": _get(
                "listDocuments",
                "The documents that a filter selects, in the order in which they were added.",
                "Documents",
                [_FILTER, _K, _whole("start", "How many to pass over.", 0, 10**9, 0)],
            ),
            "/api/documents/{id}": _get(
                "getDocument",
                "One document with its text, or a part of it where it is long, and what matches a query.",
                "Document",
                [
                    {"name": "id", "in": "path", "required": True, "schema": _TEXT, "description": "Percent-encoded."},
                    _QUERY,
                    _MODE,
                    _whole("start", "Where the part begins; near the passage by default.", 0, 10**9),
                    _whole(
                        "passage_start", "Where a hit's passage begins; by default the best passage is shown.", 0, 10**9
                    ),
                    _whole("passage_end", "Where it ends.", 0, 10**9),
                ],
                missing=True,
            ),
            "/api/fields": _get(
                "listFields", "Metadata fields that sort the documents, from a sample of them.", "Fields", []
            ),
            "/api/facets": _get(
                "countValues",
                "The values of a metadata field, counted exactly, most frequent first.",
                "Facets",
                [_FIELD, _FILTER, _K],
            ),
            "/api/folders": _get(
                "listFolders",
                "The folders in a field of paths, one level at a time.",
                "Folders",
                [
                    _FIELD,
                    _FILTER,
                    _parameter("under", "A folder's prefix; by default the first that has more than one entry.", _TEXT),
                ],
            ),
            "/api/info": _get("info", "What is served: counts, the model, modes and limits.", "Info", []),
            "/why": {
                "get": {
                    "operationId": "why",
                    "summary": "A page with a heat map: which token of a document's best passage matched which.",
                    "parameters": [
                        _QUERY | {"required": True},
                        _parameter("id", "The document's id.", _TEXT) | {"required": True},
                        _parameter("scheme", "Its colours.", {"enum": list(SCHEMES), "default": "auto"}),
                    ],
                    "responses": {"200": {"description": "The page.", "content": {"text/html": {"schema": _TEXT}}}},
                }
            },
        },
        "components": {
            "securitySchemes": {
                "cookie": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "edgecolbert-PORT",
                    "description": "Set by the address that `edgecolbert serve` prints.",
                },
                "token": {"type": "http", "scheme": "bearer", "description": "The token of that address."},
            },
            "schemas": _SCHEMAS,
        },
    }


def _parameter(name: str, text: str, schema: Mapping[str, Any]) -> Json:
    return {"name": name, "in": "query", "description": text, "schema": dict(schema)}


def _whole(name: str, text: str, least: int, most: int, default: int | None = None) -> Json:
    schema: Json = {"type": "integer", "minimum": least, "maximum": most}
    return _parameter(name, text, schema if default is None else schema | {"default": default})


_QUERY = _parameter("query", "Any text.", {"type": "string", "maxLength": parameters.QUERY_CHARACTERS})
_MODE = _parameter(
    "mode",
    "By token embeddings, by words, or by both, which is the default where there is a model.",
    {"enum": list(MODES)},
)
_FILTER = _parameter(
    "filter",
    "Conditions on metadata, as on the command line; where there are several, all have to hold.",
    {
        "type": "array",
        "maxItems": parameters.FILTERS,
        "items": {"type": "string", "maxLength": parameters.FILTER_CHARACTERS},
    },
)
_FIELD = _parameter("field", "A metadata field as filters write it: outer/inner.", _TEXT) | {"required": True}
_K = _whole("k", "Most entries wanted.", 1, parameters.MOST_HITS, DEFAULT_HITS)


def _get(name: str, text: str, answer: str, given: list[Json], *, missing: bool = False) -> Json:
    responses = {
        "200": {"description": "The answer.", "content": _json(answer)},
        "400": {"description": "A parameter is wrong.", "content": _json("Error")},
        "401": {"description": "The token is missing.", "content": _json("Error")},
    }
    if missing:
        responses["404"] = {"description": "There is no such document.", "content": _json("Error")}
    return {"get": {"operationId": name, "summary": text, "parameters": given, "responses": responses}}


def _json(schema: str) -> Json:
    return {"application/json": {"schema": _of(schema)}}


def _of(schema: str) -> Json:
    return {"$ref": f"#/components/schemas/{schema}"}


def _list(schema: Mapping[str, Any]) -> Json:
    return {"type": "array", "items": dict(schema)}


def _object(properties: Mapping[str, Any], text: str = "") -> Json:
    """An object that has exactly these properties, so that a test notices when the API and this differ."""
    found: Json = {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
    return found | {"description": text} if text else found


_SUMMARY = {
    "id": _TEXT,
    "title": _TEXT,
    "metadata": {"type": "object", "description": "Empty where it is too long to come along."},
    "metadata_cut": _FLAG,
}
_SPAN = _object({"start": _NUMBER, "end": _NUMBER}, _OFFSETS)
_PARTS = _list(_object({"text": _TEXT, "level": {"type": "integer", "minimum": 0, "maximum": 3}}))
_MARKS = _list(_object({"start": _NUMBER, "end": _NUMBER, "level": {"type": "integer", "minimum": 1, "maximum": 3}}))
_SCHEMAS: Json = {
    "Error": _object({"error": _object({"kind": _TEXT, "message": _TEXT})}),
    "Hits": _object(
        {
            "query": _TEXT,
            "mode": _TEXT,
            "hits": _list(_of("Hit")),
            "more": _FLAG,
            "ms": _object({"search": {"type": "number"}, "highlight": {"type": "number"}}),
        }
    ),
    "Hit": _object(
        {
            "rank": _NUMBER,
            "score": {"type": "number"},
            "ranks": {"type": "object", "additionalProperties": _NUMBER},
            **_SUMMARY,
            "passage": _SPAN,
            "snippet": _object(
                {
                    "start": _NUMBER,
                    "end": _NUMBER,
                    "cut_before": _FLAG,
                    "cut_after": _FLAG,
                    "parts": _PARTS,
                    "highlights": _MARKS,
                },
                "The texts of the parts together are the snippet; level 0 did not match, 3 matched best. " + _OFFSETS,
            ),
        }
    ),
    "Documents": _object(
        {
            "count": _NUMBER,
            "start": _NUMBER,
            "documents": _list(_object({**_SUMMARY, "excerpt": _TEXT, "cut": _FLAG})),
        }
    ),
    "Document": _object(
        {
            **_SUMMARY,
            "characters": _NUMBER,
            "start": _NUMBER,
            "end": _NUMBER,
            "passage": {"anyOf": [_SPAN, {"type": "null"}]},
            "sections": _list(_object({"passage": _FLAG, "parts": _PARTS})),
            "highlights": _MARKS,
        },
        "`start` and `end` say which part of the text this is. " + _OFFSETS,
    ),
    "Fields": _object(
        {
            "fields": _list(_TEXT),
            "folders": {"type": ["string", "null"], "description": "The field of paths, where there is one."},
        }
    ),
    "Facets": _object(
        {
            "field": _TEXT,
            "documents": _NUMBER,
            "with_field": _NUMBER,
            "n_values": _NUMBER,
            "values": _list(
                _object(
                    {
                        "value": {"type": ["string", "number", "boolean", "null"]},
                        "count": _NUMBER,
                        "filter": _TEXT,
                    }
                )
            ),
        }
    ),
    "Folders": _object(
        {
            "field": _TEXT,
            "under": _TEXT,
            "documents": _NUMBER,
            "folders": _list(
                _object({"name": _TEXT, "prefix": _TEXT, "count": _NUMBER, "has_folders": _FLAG, "filter": _TEXT})
            ),
            "more": {"type": "integer", "description": "Folders that are not listed."},
        }
    ),
    "Info": _object(
        {
            "version": _TEXT,
            "path": _TEXT,
            "documents": _NUMBER,
            "passages": _NUMBER,
            "model": _TEXT,
            "encrypted": _FLAG,
            "modes": _list(_TEXT),
            "default_mode": _TEXT,
            "problem": {"type": ["string", "null"], "description": "Why the model cannot be used, if it cannot."},
            "limits": _object(
                {
                    "query_characters": _NUMBER,
                    "filter_characters": _NUMBER,
                    "hits": _NUMBER,
                    "window_characters": _NUMBER,
                }
            ),
        }
    ),
}

"""Test collections in the layouts they are published in, found by looking at a folder.

| layout | files | columns |
|---|---|---|
| BEIR | `corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv` | `_id`, `title`, `text` (`edgecolbert.beir`) |
| NanoBEIR | folders `corpus`, `queries`, `qrels` | `_id`, `text`; `query-id`, `corpus-id` |
| BRIGHT | folders `documents`, `examples`, by domain | `id`, `content`; `id`, `query`, `gold_ids`, `excluded_ids` |
| LongEmbed | `corpus`, `queries`, `qrels`, one file each | `doc_id`, `text`; `qid`, `text`; `qid`, `doc_id` |

Files are Parquet or JSON lines. A folder may also hold several collections, each in a folder of its own, as LongEmbed
is published. Source: the hub's datasets zeta-alpha-ai/NanoSciFact, xlangai/BRIGHT and dwzhu/LongEmbed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgecolbert.beir import Collection, json_lines, read_collection
from edgecolbert.errors import InputError, MissingExtraError

Layout = Literal["beir", "nanobeir", "bright", "longembed"]

_KINDS = ("parquet", "jsonl")
# "train-00000-of-00002.parquet", and in older uploads a hash behind it.
_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$")
_NAMES = re.compile(r"[\s-]+")


@dataclass(frozen=True)
class Place:
    """Where a collection is, before it is read.

    Attributes:
        name: Name of the collection.
        layout: How it lies there.
        folder: The folder.
        part: Which split or domain of the folder's files; "" where there is only one.
    """

    name: str
    layout: Layout
    folder: Path
    part: str = ""


def find_collections(folder: Path, part: str = "", name: str = "") -> list[Place]:
    """The collections in a folder.

    Args:
        folder: A folder in one of the layouts, or one of such folders.
        part: Name of the one wanted; "" for all.
        name: Name of the collection where there is only one; "" for the folder's.

    Returns:
        Where they are, in the order of their names. What is in no known layout is taken for BEIR's, whose reader then
        says what is missing.

    Raises:
        InputError: If there is none of that name.
    """
    places = _places(folder, name or folder.resolve().name)
    if not places and folder.is_dir():
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
        places = [place for path in inside for place in _places(path, path.name)]
    places = places or [Place(name or folder.resolve().name, "beir", folder)]
    if part:
        wanted = [place for place in places if _plain(part) in (_plain(place.name), _plain(place.part))]
        if not wanted:
            raise InputError(
                f"{folder} has no collection {part!r}, expected one of {', '.join(place.name for place in places)}."
            )
        return wanted
    return places


def read_place(place: Place, split: str = "test", max_queries: int | None = None) -> list[Collection]:
    """Read a collection.

    Args:
        place: Where it is.
        split: Which judgements, in BEIR's layout.
        max_queries: Take only the first so many queries.

    Returns:
        The collection; several where its score is the mean over them, as LongEmbed's synthetic ones have one for each
        length.

    Raises:
        InputError: If a file is missing or wrong.
        MissingExtraError: If it is Parquet and pyarrow is not installed.
    """
    if place.layout == "beir":
        return [read_collection(place.folder, split, max_queries)]
    if place.layout == "bright":
        return [_read_bright(place, max_queries)]
    if place.layout == "nanobeir":
        return [_read_nanobeir(place, max_queries)]
    return _read_longembed(place, max_queries)


def _places(folder: Path, name: str) -> list[Place]:
    if (folder / "corpus.jsonl").is_file() and (folder / "qrels").is_dir():
        return [Place(name, "beir", folder)]
    if (folder / "documents").is_dir() and (folder / "examples").is_dir():
        return [Place(part, "bright", folder, part) for part in _files(folder / "examples")]
    if all((folder / part).is_dir() for part in ("corpus", "queries", "qrels")):
        parts = _files(folder / "qrels")
        # With a single split the collection goes by the folder's name: "train" says nothing.
        return [Place(part if len(parts) > 1 else name, "nanobeir", folder, part) for part in parts or [""]]
    if {"corpus", "queries", "qrels"} <= set(_files(folder)):
        return [Place(name, "longembed", folder)]
    return []


def _read_nanobeir(place: Place, max_queries: int | None) -> Collection:
    documents = []
    for record in _records(place, "corpus", ("_id", "text")):
        title, text = str(record.get("title") or ""), str(record["text"] or "")
        # As in the evaluators the published scores are from, which leave empty documents out.
        if text:
            documents.append({"id": str(record["_id"]), "text": f"{title} {text}" if title else text})
    qrels: dict[str, dict[str, int]] = defaultdict(dict)
    for record in _records(place, "qrels", ("query-id", "corpus-id")):
        # NanoBEIR lists relevant documents only, without a grade; translations of it list them in one row a query.
        found = record["corpus-id"] if isinstance(record["corpus-id"], list) else [record["corpus-id"]]
        grade = record.get("score")
        qrels[str(record["query-id"])] |= {str(name): 1 if grade is None else int(grade) for name in found}
    queries = {str(record["_id"]): str(record["text"]) for record in _records(place, "queries", ("_id", "text"))}
    return _collection(place, documents, queries, qrels, max_queries)


def _read_bright(place: Place, max_queries: int | None) -> Collection:
    documents = [
        {"id": str(record["id"]), "text": str(record["content"] or "")}
        for record in _records(place, "documents", ("id", "content"))
    ]
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    excluded: dict[str, frozenset[str]] = {}
    for record in _records(place, "examples", ("id", "query", "gold_ids", "excluded_ids")):
        query = str(record["id"])
        queries[query] = str(record["query"])
        qrels[query] = {str(name): 1 for name in record["gold_ids"]}
        # "N/A" stands for none.
        excluded[query] = frozenset(str(name) for name in record["excluded_ids"] or ()) - {"N/A"}
    return _collection(place, documents, queries, qrels, max_queries, excluded)


def _read_longembed(place: Place, max_queries: int | None) -> list[Collection]:
    documents: dict[int, list[dict[str, str]]] = defaultdict(list)
    queries: dict[int, dict[str, str]] = defaultdict(dict)
    qrels: dict[int, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    # The synthetic tasks keep documents of eight lengths in one file; each length is a collection of its own, measured
    # by whether the first document is the right one. Source: MTEB, LEMBNeedleRetrieval and LEMBPasskeyRetrieval.
    for record in _records(place, "corpus", ("doc_id", "text")):
        documents[_length(record)].append({"id": str(record["doc_id"]), "text": str(record["text"] or "")})
    for record in _records(place, "queries", ("qid", "text")):
        queries[_length(record)][str(record["qid"])] = str(record["text"])
    for record in _records(place, "qrels", ("qid", "doc_id")):
        qrels[_length(record)][str(record["qid"])][str(record["doc_id"])] = 1
    found = []
    for length in sorted(documents):
        part = Place(f"{place.name}_{length}" if length else place.name, place.layout, place.folder)
        metric = "ndcg@1" if length else "ndcg@10"
        found.append(_collection(part, documents[length], queries[length], qrels[length], max_queries, metric=metric))
    if not found:
        raise InputError(f"{place.folder} has no documents. Copy it again.")
    return found


def _length(record: dict[str, Any]) -> int:
    return int(record.get("context_length") or 0)


def _collection(
    place: Place,
    documents: list[dict[str, str]],
    queries: dict[str, str],
    qrels: dict[str, dict[str, int]],
    max_queries: int | None,
    excluded: dict[str, frozenset[str]] | None = None,
    metric: str = "ndcg@10",
) -> Collection:
    judged = [query for query in queries if any(grade > 0 for grade in qrels.get(query, {}).values())][:max_queries]
    if not documents or not judged:
        raise InputError(
            f"{place.folder}: {place.name} has {len(documents)} documents and {len(judged)} judged queries. "
            "Copy it again."
        )
    return Collection(
        name=place.name,
        documents=documents,
        queries={query: queries[query] for query in judged},
        qrels={query: dict(qrels[query]) for query in judged},
        excluded={query: excluded[query] for query in judged if excluded[query]} if excluded else {},
        metric=metric,
    )


def _files(folder: Path) -> dict[str, list[Path]]:
    """Files by split: "train-00000-of-00001.parquet" and "train.jsonl" are both "train"."""
    found: dict[str, list[Path]] = defaultdict(list)
    for kind in _KINDS:
        for path in sorted(folder.glob(f"*.{kind}")):
            found[_SHARD.sub("", path.stem)].append(path)
    return dict(sorted(found.items()))


def _records(place: Place, part: str, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    if place.layout == "longembed":
        paths = _files(place.folder).get(part, [])
    else:
        splits = _files(place.folder / part)
        paths = splits.get(place.part, [])
        if not paths and place.layout == "nanobeir":
            # What all splits share lies in a single file that is called by none of them.
            shared = [split for split in splits if split not in _files(place.folder / "qrels")]
            paths = splits[shared[0]] if len(shared) == len(splits) == 1 else []
    if not paths:
        raise InputError(
            f"{place.folder / part} has no .parquet or .jsonl file{f' of {place.part}' if place.part else ''}, which "
            f"{place.layout}'s layout needs. Copy the collection again."
        )
    for path in paths:
        for record in _parquet(path) if path.suffix == ".parquet" else (record for _, record in json_lines(path)):
            if missing := [column for column in columns if column not in record]:
                raise InputError(
                    f"{path} has no column {missing[0]!r}, only {sorted(record)}; {place.layout}'s layout has "
                    f"{', '.join(columns)} there. Use that layout."
                )
            yield record


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import parquet  # an extra
    except ImportError as error:
        raise MissingExtraError.of(f"Reading {path}", "pyarrow", "eval") from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (OSError, ValueError) as error:  # what pyarrow raises derives from one of them
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no Parquet file: {error}. Copy it again.") from error


def _plain(name: str) -> str:
    return _NAMES.sub("_", name.strip().lower())

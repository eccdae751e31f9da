"""Test collections of the Hugging Face hub in the layout of NanoBEIR, so that published scores can be repeated.

A collection is a dataset repository with `corpus`, `queries` and `qrels` folders of Parquet files, or of JSON lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from edgecolbert.beir import Collection
from edgecolbert.errors import InputError, MissingExtraError

# Names as published in the tables, and the repositories of zeta-alpha-ai that hold them.
NANOBEIR = (
    "ClimateFEVER",
    "DBPedia",
    "FEVER",
    "FiQA2018",
    "HotpotQA",
    "MSMARCO",
    "NFCorpus",
    "NQ",
    "QuoraRetrieval",
    "SCIDOCS",
    "ArguAna",
    "SciFact",
    "Touche2020",
)
_OWNER = "zeta-alpha-ai"


def collection_names(specification: str) -> list[str]:
    """The repositories that a name means.

    Args:
        specification: "nanobeir" for all thirteen, "nanobeir:SciFact" for one, or any dataset's hub name.

    Returns:
        Hub names.

    Raises:
        InputError: If it names no collection.
    """
    benchmark, _, part = specification.partition(":")
    if benchmark.lower() == "nanobeir":
        parts = {name.lower(): name for name in NANOBEIR}
        if part and part.lower().removeprefix("nano") not in parts:
            raise InputError(f"NanoBEIR has no collection {part!r}, expected one of {', '.join(NANOBEIR)}.")
        chosen = [parts[part.lower().removeprefix("nano")]] if part else list(NANOBEIR)
        return [f"{_OWNER}/Nano{name}" for name in chosen]
    if specification.count("/") != 1:
        raise InputError(f"{specification!r} is no test collection, expected nanobeir, nanobeir:NAME or OWNER/NAME.")
    return [specification]


def fetch_collection(name: str, *, cache: Path | None = None, offline: bool = False) -> Collection:
    """Download a collection, or take it from the hub's cache.

    Args:
        name: Hub name of the dataset.
        cache: The hub's cache; None for the usual place.
        offline: Use only what the cache has.

    Returns:
        The collection.

    Raises:
        InputError: If it cannot be fetched or is in another layout.
    """
    try:
        folder = snapshot_download(
            name,
            repo_type="dataset",
            cache_dir=cache,
            local_files_only=offline,
            allow_patterns=["*.parquet", "*.jsonl"],
        )
    except Exception as error:  # HTTP, file and validation errors of several packages mean the same here
        raise InputError(
            f"The test collection {name!r} cannot be fetched from the Hugging Face hub: {str(error).splitlines()[0]} "
            "Check the name and the connection, or copy it to this machine and give its folder."
        ) from error
    return read_hub_collection(Path(folder), name.rsplit("/", 1)[-1])


def read_hub_collection(folder: Path, name: str = "") -> Collection:
    """Read a collection of that layout from a folder.

    Args:
        folder: A folder with `corpus`, `queries` and `qrels`.
        name: Name of the collection; "" for the folder's.

    Returns:
        The collection; queries without a relevant document are left out.

    Raises:
        InputError: If a part is missing or lacks a column.
    """
    documents = []
    for record in _records(folder, "corpus", ("_id", "text")):
        title = str(record.get("title") or "")
        documents.append(
            {"id": str(record["_id"]), "text": f"{title} {record['text']}" if title else str(record["text"])}
        )
    qrels: dict[str, dict[str, int]] = {}
    for record in _records(folder, "qrels", ("query-id", "corpus-id")):
        # NanoBEIR lists relevant documents only, without a grade.
        qrels.setdefault(str(record["query-id"]), {})[str(record["corpus-id"])] = int(record.get("score", 1))
    queries = {
        str(record["_id"]): str(record["text"])
        for record in _records(folder, "queries", ("_id", "text"))
        if any(grade > 0 for grade in qrels.get(str(record["_id"]), {}).values())
    }
    if not documents or not queries:
        raise InputError(f"{folder} has {len(documents)} documents and {len(queries)} judged queries. Copy it again.")
    return Collection(name or folder.resolve().name, documents, queries, {query: qrels[query] for query in queries})


def _records(folder: Path, part: str, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    paths = sorted(path for kind in ("parquet", "jsonl") for path in (folder / part).glob(f"*.{kind}"))
    if not paths:
        raise InputError(f"{folder / part} has no .parquet or .jsonl file. Give a dataset in NanoBEIR's layout.")
    for path in paths:
        for record in _parquet(path) if path.suffix == ".parquet" else _json_lines(path):
            if missing := [column for column in columns if column not in record]:
                raise InputError(f"{path} has no column {missing[0]!r}, only {sorted(record)}. Use NanoBEIR's layout.")
            yield record


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import parquet  # an extra
    except ImportError as error:
        raise MissingExtraError(
            f"Reading {path} needs the package pyarrow. Install it with: pip install 'edgecolbert[eval]'"
        ) from error
    try:
        yield from parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no Parquet file: {error}. Copy it again.") from error


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number} is no JSON: {error}. Copy it again.") from error
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {number} is {type(record).__name__}, expected an object. Copy it again.")
        yield record

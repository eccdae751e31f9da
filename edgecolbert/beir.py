"""Reading test collections in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from edgecolbert import limits
from edgecolbert.errors import InputError
from edgecolbert.untrusted import read_json


@dataclass(frozen=True)
class Collection:
    """A test collection.

    Attributes:
        name: Name of its folder.
        documents: Records with id and text, the title joined to the text with a space.
        queries: Text of each query that has at least one relevant document.
        qrels: Judgements of those queries: document ids and grades.
        excluded: Documents that are taken out of a query's ranking before it is scored, where there are any. BRIGHT has
            them: they were seen when the query was written, or cannot be judged.
        metric: The collection's main metric, which its published scores are in.
    """

    name: str
    documents: list[dict[str, str]]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    excluded: dict[str, frozenset[str]] = field(default_factory=dict)
    metric: str = "ndcg@10"


def read_collection(folder: str | Path, split: str = "test", max_queries: int | None = None) -> Collection:
    """Read a collection.

    Args:
        folder: A folder in BEIR's layout.
        split: Which judgements: the name of a file in qrels/.
        max_queries: Take only the first so many queries.

    Returns:
        The collection.

    Raises:
        InputError: If a file is missing or wrong; the message names file and line.
    """
    folder = Path(folder)
    judged = _qrels(folder / "qrels" / f"{split}.tsv")
    texts: dict[str, str] = {}
    # Some distributions keep the queries of other splits in files of their own.
    for path in (folder / "queries.jsonl", folder / f"queries_{split}.jsonl"):
        if path.name == "queries.jsonl" or path.exists():
            texts |= {_string(data, "_id", where): _string(data, "text", where) for where, data in json_lines(path)}
    wanted = [query for query in texts if any(grade > 0 for grade in judged.get(query, {}).values())][:max_queries]
    if not wanted:
        raise InputError(f"{folder}: no query of split {split!r} has a relevant document.")
    documents = []
    for where, data in json_lines(folder / "corpus.jsonl"):
        title, text = data.get("title") or "", _string(data, "text", where)
        documents.append({"id": _string(data, "_id", where), "text": f"{title} {text}" if title else text})
    if not documents:
        raise InputError(f"{folder / 'corpus.jsonl'} has no documents.")
    return Collection(folder.resolve().name, documents, {q: texts[q] for q in wanted}, {q: judged[q] for q in wanted})


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a file of JSON objects, one a line.

    Args:
        path: The file.

    Yields:
        Where each object is, for messages, and the object; empty lines are passed over.

    Raises:
        InputError: If the file is missing or is something else; the message names file and line.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(bounded_lines(file, path), start=1):
                if line.strip():
                    where = f"{path}, line {number}"
                    try:
                        data = read_json(line)
                    except ValueError as error:
                        raise InputError(
                            f"{path} is not JSON Lines in UTF-8: {path.name}, line {number} is no JSON: {error}. Copy "
                            "it again."
                        ) from None
                    if not isinstance(data, dict):
                        raise InputError(f"{where} is {type(data).__name__}, expected an object. Copy it again.")
                    yield where, data
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Name a folder in BEIR's layout.") from None
    except NotADirectoryError:
        raise InputError(f"{path.parent} is not a folder. Name a folder in BEIR's layout.") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not JSON Lines in UTF-8: {error}. Copy it again.") from None


def bounded_lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Lines of a file, none of them longer than a record may be.

    Args:
        file: The open file.
        path: Its name, for messages.

    Yields:
        The lines.

    Raises:
        InputError: If a line is longer.
    """
    number = 0
    while line := file.readline(limits.RECORD_BYTES + 1):
        number += 1
        if len(line) > limits.RECORD_BYTES:
            raise InputError(
                f"{path}, line {number} has more than {limits.RECORD_BYTES} bytes (edgecolbert.limits.RECORD_BYTES). "
                "Copy it again."
            )
        yield line


def _string(data: dict[str, Any], key: str, where: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise InputError(f"{where}: {key} is {value!r}, expected a string.")
    return value


def _qrels(path: Path) -> dict[str, dict[str, int]]:
    judged: dict[str, dict[str, int]] = {}
    try:
        with path.open("rb") as file:
            rows = [line.decode("utf-8").rstrip("\r\n") for line in bounded_lines(file, path)]
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} does not exist. Name a folder in BEIR's layout, and a split that it has.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}.") from None
    for number, row in enumerate(rows[1:], start=2):
        if not row.strip():
            continue
        try:
            query, document, grade = row.split("\t")
            judged.setdefault(query, {})[document] = int(grade)
        except ValueError:
            raise InputError(
                f"{path}, line {number} is {row!r}, expected query id, document id and grade, separated by tabs."
            ) from None
    return judged

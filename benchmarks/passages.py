"""Ways to make passages side by side: nDCG@10 of full MaxSim by the best passage of each document.

python benchmarks/passages.py BEIR_FOLDER... [--long] [--tokens 64] [--only NAME...]

Every way is a real index that is filled and searched exactly. `--long` puts five documents each into one Markdown file,
each under its title as a heading, in an order that is always the same, and asks for the file.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from edgecolbert import Encoder, Index
from edgecolbert.beir import Collection, json_lines, read_collection
from edgecolbert.metrics import ndcg

_K = 10
_PER_FILE = 5


def ways(tokens: int) -> dict[str, dict[str, Any]]:
    """Settings of passages by name, for passages of so many tokens; 0 for the model's document length."""
    short: dict[str, Any] = {"max_tokens": tokens} if tokens else {}
    found: dict[str, dict[str, Any]] = {
        "plain": short,
        "overlap 16": short | {"overlap": 16},
        "context": short | {"context": True},
        "structure": short | {"structure": True},
        "structure, sections of any size": short | {"structure": True, "min_tokens": 0},
        "structure, context": short | {"structure": True, "context": True},
        "late chunking, window 512": short | {"late_chunking": True, "window": 512},
        "structure, late chunking, window 512": short | {"structure": True, "late_chunking": True, "window": 512},
    }
    if tokens:
        found["late chunking"] = short | {"late_chunking": True}
        found["structure, late chunking"] = short | {"structure": True, "late_chunking": True}
        found["whole"] = {}
    return found


def short_documents(folder: Path, collection: Collection) -> tuple[list[dict[str, str]], dict[str, dict[str, int]]]:
    """The documents of a collection with their titles, and its judgements."""
    records = []
    for _, data in json_lines(folder / "corpus.jsonl"):
        title, text = (data.get("title") or "").strip(), data["text"]
        # Some collections have the title in the text, too.
        text = text if text.startswith(title) else f"{title} {text}"
        records.append({"id": data["_id"], "text": text, "title": title})
    return records, collection.qrels


def long_documents(folder: Path, collection: Collection) -> tuple[list[dict[str, str]], dict[str, dict[str, int]]]:
    """Markdown files of several documents each, and which of them answer a query."""
    data = [data for _, data in json_lines(folder / "corpus.jsonl")]
    random.Random(0).shuffle(data)
    records, file_of = [], {}
    for number in range(0, len(data), _PER_FILE):
        parts = [f"# Volume {number // _PER_FILE}\n"]
        for document in data[number : number + _PER_FILE]:
            title, text = (document.get("title") or "").strip(), document["text"]
            parts.append(f"## {title or 'Untitled'}\n\n{text.removeprefix(title).lstrip(' .')}\n")
            file_of[document["_id"]] = f"v{number // _PER_FILE}"
        records.append({"id": f"v{number // _PER_FILE}", "text": "\n".join(parts), "kind": "markdown"})
    qrels: dict[str, dict[str, int]] = {query: {} for query in collection.qrels}
    for query, grades in collection.qrels.items():
        for name, grade in grades.items():
            if name in file_of:
                qrels[query][file_of[name]] = max(grade, qrels[query].get(file_of[name], 0))
    return records, qrels


def measured(
    records: list[dict[str, str]],
    collection: Collection,
    qrels: dict[str, dict[str, int]],
    encoder: Encoder,
    passages: dict[str, Any],
) -> dict[str, Any]:
    """Fill an index and search it."""
    with TemporaryDirectory() as folder, Index.open(Path(folder, "x.db"), model=encoder, passages=passages) as index:
        begin = time.process_time()
        index.add(records)
        seconds = time.process_time() - begin
        ranked = index.ranked(index.encode_queries(list(collection.queries.values())), k=_K, exact=True)
        stats = index.stats()
    scores = [
        ndcg([name for name, _ in found], qrels[query], _K)
        for query, found in zip(collection.queries, ranked, strict=True)
    ]
    return {
        "ndcg@10": round(fmean(scores), 4),
        "documents": stats.documents,
        "passages": stats.passages,
        "tokens": stats.tokens,
        "cpu_seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="BEIR_FOLDER")
    parser.add_argument("--long", action="store_true", help="Markdown files of several documents each")
    parser.add_argument("--tokens", type=int, default=0, help="tokens of a passage (default: the model's length)")
    parser.add_argument("--model", help="a model (default: the starter model)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the ways")
    options = parser.parse_args()
    encoder = Encoder.load(options.model)
    for folder in options.folders:
        collection = read_collection(folder)
        records, qrels = (long_documents if options.long else short_documents)(folder, collection)
        for name, passages in ways(options.tokens).items():
            if options.only is None or name in options.only:
                row = {"collection": collection.name, "long": options.long, "settings": name}
                row |= measured(records, collection, qrels, encoder, passages)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

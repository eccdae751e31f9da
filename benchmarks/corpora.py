"""What the benchmarks measure on: real documents, or synthetic ones for cost only; and their embeddings, made once.

    python benchmarks/corpora.py --data BEIR_FOLDER TEXTS_FOLDER --documents 200000 --cache FOLDER

fills the cache and can be interrupted and started again. Every other benchmark fills it, too, as far as it needs.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecolbert.beir import read_collection
from edgecolbert.builtin import read_model
from edgecolbert.encoder import Encoder
from edgecolbert.manifest import ModelManifest

FloatArray = npt.NDArray[np.float32]

SYNTHETIC = "synthetic"
# Texts encoded between two writes to the cache.
_STEP = 256


@dataclass(frozen=True)
class Corpus:
    """Documents and queries.

    Attributes:
        name: What it is made of.
        documents: Records with `id` and `text`: those of the judged collections first, then distractors in an order
            that is always the same, so that a smaller corpus is a part of a larger one.
        queries: Text of each query by its id.
        qrels: Judged documents of each query and their grades.
        judged: How many documents belong to the judged collections.
    """

    name: str
    documents: list[dict[str, str]]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]] = field(default_factory=dict)
    judged: int = 0


def read_corpus(folders: Sequence[str], documents: int | None = None, max_queries: int | None = None) -> Corpus:
    """Read BEIR folders, and distractors from folders of JSON Lines.

    Args:
        folders: BEIR folders (with a corpus.jsonl), and folders of .jsonl or .jsonl.gz files whose objects have a
            `document`, such as training pairs: texts for which no query asks.
        documents: How many documents; None for all of the BEIR folders, and no distractors.
        max_queries: At most so many queries of each collection, evenly spaced.

    Returns:
        The corpus.
    """
    judged = [Path(folder) for folder in folders if Path(folder, "corpus.jsonl").exists()]
    others = [Path(folder) for folder in folders if not Path(folder, "corpus.jsonl").exists()]
    records: list[dict[str, str]] = []
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for folder in judged:
        collection = read_collection(folder)
        prefix = f"{collection.name}/"
        records += [{"id": prefix + record["id"], "text": record["text"]} for record in collection.documents]
        names = list(collection.queries)
        if max_queries is not None and len(names) > max_queries:
            names = [names[position * len(names) // max_queries] for position in range(max_queries)]
        queries |= {prefix + name: collection.queries[name] for name in names}
        qrels |= {prefix + name: {prefix + d: grade for d, grade in collection.qrels[name].items()} for name in names}
    n_judged = len(records)
    if documents is not None and documents < n_judged:
        raise SystemExit(f"--documents {documents} is less than the {n_judged} documents of the judged collections.")
    if documents is not None and documents > n_judged:
        records += _distractors(others, documents - n_judged, {record["text"] for record in records})
    if documents is not None and len(records) < documents:
        raise SystemExit(f"{', '.join(folders)} have {len(records):,} different documents, {documents:,} were wanted.")
    name = " + ".join(
        [folder.resolve().name for folder in judged] + (["distractors"] if len(records) > n_judged else [])
    )
    return Corpus(name, records, queries, qrels, n_judged)


def _distractors(folders: Sequence[Path], wanted: int, known: set[str]) -> list[dict[str, str]]:
    texts = {text for folder in folders for text in _texts(folder)} - known
    # In the order of their hashes: random, and the same for every size.
    hashed = sorted((hashlib.sha256(text.encode()).hexdigest(), text) for text in texts)
    return [{"id": digest, "text": text} for digest, text in hashed[:wanted]]


def _texts(folder: Path) -> Iterator[str]:
    paths = sorted([*folder.glob("*.jsonl.gz"), *folder.glob("*.jsonl")])
    if not paths:
        raise SystemExit(f"{folder} has neither a corpus.jsonl nor other .jsonl or .jsonl.gz files.")
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line in file:
                text = json.loads(line).get("document")
                if text:
                    yield text


class EmbeddingCache:
    """Token embeddings by text, float16, in two files that are only appended to.

    Args:
        folder: Where they are; made where it is not.
        dim: Size of a token embedding.
    """

    # SHA-256 of the text, first row, number of rows.
    _ENTRY = np.dtype([("hash", "V32"), ("first", "<i8"), ("rows", "<i4")])

    def __init__(self, folder: Path, dim: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.dim = dim
        self._rows_path, self._index_path = folder / "tokens.f16", folder / "index.bin"
        for path in (self._rows_path, self._index_path):
            path.touch()
        self._lock: Any = None
        self._mapped: npt.NDArray[np.float16] | None = None
        self._n_rows = 0
        self._places: dict[bytes, tuple[int, int]] = {}
        self._read_index()

    def _read_index(self) -> int:
        """Learn what is there; give how many bytes of the index are good."""
        whole = self._index_path.stat().st_size // self._ENTRY.itemsize
        entries = np.fromfile(self._index_path, dtype=self._ENTRY, count=whole)
        # Rows are written before their entries; after a crash the last entries may be of rows that never arrived.
        n_rows = self._rows_path.stat().st_size // (2 * self.dim)
        entries = entries[entries["first"] + entries["rows"] <= n_rows]
        self._n_rows = int(entries["first"][-1] + entries["rows"][-1]) if len(entries) else 0
        self._note(entries)
        return len(entries) * self._ENTRY.itemsize

    def _note(self, entries: npt.NDArray[Any]) -> None:
        places = zip(entries["first"].tolist(), entries["rows"].tolist(), strict=True)
        self._places |= {entry.tobytes(): place for entry, place in zip(entries["hash"], places, strict=True)}

    def _begin_writing(self) -> None:
        """Be the only writer until the process ends, and cut off what an interruption left half written."""
        if self._lock is not None:
            return
        self._lock = (self._index_path.parent / "lock").open("w")
        try:
            import fcntl

            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except ImportError:  # not on Windows; there, fill a cache from one process at a time
            pass
        good = self._read_index()
        with self._rows_path.open("r+b") as file:
            file.truncate(self._n_rows * 2 * self.dim)
        with self._index_path.open("r+b") as file:
            file.truncate(good)

    def __contains__(self, text: str) -> bool:
        """Whether the text's embeddings are there."""
        return _digest(text) in self._places

    def rows(self, text: str) -> FloatArray:
        """float32 [n_tokens, dim] of a text that is there."""
        first, count = self._places[_digest(text)]
        if self._mapped is None or len(self._mapped) < first + count:
            # As a plain array: parts of a memmap are memmaps, which makes every small operation on them slower.
            self._mapped = np.asarray(np.memmap(self._rows_path, dtype=np.float16, mode="r")).reshape(-1, self.dim)
        return self._mapped[first : first + count].astype(np.float32)

    def add(self, texts: Sequence[str], embeddings: Sequence[FloatArray]) -> None:
        """Write the embeddings of texts."""
        self._begin_writing()
        counts = [len(rows) for rows in embeddings]
        entries = np.empty(len(texts), dtype=self._ENTRY)
        entries["hash"] = [np.void(_digest(text)) for text in texts]
        entries["rows"] = counts
        entries["first"] = self._n_rows + np.cumsum([0, *counts[:-1]])
        with self._rows_path.open("ab") as file:
            file.write(np.concatenate(embeddings).astype(np.float16).tobytes())
        with self._index_path.open("ab") as file:
            file.write(entries.tobytes())
        self._note(entries)
        self._n_rows += sum(counts)


class CachedEncoder(Encoder):
    """A model whose embeddings of documents are kept on disk, so that every system gets the same ones.

    To an index it is the model itself: what it writes can be opened and searched without the cache.

    Args:
        manifest: The model.
        folder: The cache; each model has a folder of its own in it.
        threads: Threads used for encoding.
    """

    def __init__(self, manifest: ModelManifest, folder: str | Path, *, threads: int | None = None) -> None:
        super().__init__(manifest, threads=threads)
        self._cache = EmbeddingCache(Path(folder, manifest.fingerprint.removeprefix("sha256:")[:16]), self.dim)

    @classmethod
    def at(cls, folder: str | Path, model: str | None = None, *, threads: int | None = None) -> CachedEncoder:
        """The model of that name or folder, None for the starter model, with its cache."""
        return cls(read_model(model), folder, threads=threads)

    def encode_documents(self, documents: list[str]) -> list[FloatArray]:
        """As `Encoder.encode_documents`, from the cache where they are there, rounded to float16."""
        self.fill(documents)
        return [self._cache.rows(text) for text in documents]

    def fill(self, documents: Sequence[str], *, report: bool = False) -> None:
        """Encode what is missing, step by step."""
        missing = list(dict.fromkeys(text for text in documents if text not in self._cache))
        for first in range(0, len(missing), _STEP):
            step = missing[first : first + _STEP]
            self._cache.add(step, super().encode_documents(step))
            if report and first // _STEP % 16 == 0:
                print(f"encoded {first + len(step):,} of {len(missing):,}", file=sys.stderr, flush=True)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def synthetic_documents(
    count: int, dim: int, *, rows: tuple[int, int] = (60, 140), topics: int = 2_000, seed: int = 0
) -> Iterator[FloatArray]:
    """Token embeddings without texts, for what a collection of that size costs; rankings on them mean nothing.

    Tokens are drawn around common directions, a few of which a document prefers, so that cells fill unevenly, as they
    do with real texts.

    Args:
        count: How many documents.
        dim: Size of a token embedding.
        rows: Fewest and most tokens of a document.
        topics: How many common directions there are.
        seed: Seed of everything; a larger collection begins with the smaller one.

    Yields:
        float32 [n_tokens, dim], rows of unit length.
    """
    common = np.random.default_rng(seed).normal(size=(topics, dim)).astype(np.float32)
    common /= np.linalg.norm(common, axis=1, keepdims=True)
    # As words are: the r-th most frequent direction is r times as rare as the first.
    frequency = 1 / np.arange(1, topics + 1)
    cumulative = np.cumsum(frequency / frequency.sum())
    for number in range(count):
        generator = np.random.default_rng((seed, number))
        n_tokens = int(generator.integers(rows[0], rows[1] + 1))
        chosen = np.searchsorted(cumulative, generator.random(n_tokens))
        own = generator.integers(0, topics, size=8)
        chosen = np.where(generator.random(n_tokens) < 0.5, own[generator.integers(0, 8, size=n_tokens)], chosen)
        noise = generator.normal(scale=0.7 / dim**0.5, size=(n_tokens, dim)).astype(np.float32)
        tokens = common[np.minimum(chosen, topics - 1)] + noise
        yield tokens / np.linalg.norm(tokens, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--documents", type=int)
    parser.add_argument("--cache", required=True, metavar="FOLDER")
    parser.add_argument("--model")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    corpus = read_corpus(options.data, options.documents)
    encoder = CachedEncoder.at(options.cache, options.model, threads=options.threads)
    encoder.fill([record["text"] for record in corpus.documents], report=True)
    print(f"{len(corpus.documents):,} documents of {corpus.name} are in {options.cache}")


if __name__ == "__main__":
    main()

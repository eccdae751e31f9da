"""What two machines must agree on: `write FILE` on one, `compare FILE` on the other (tests/aarch64.sh).

Exact everywhere: token ids, the order of documents and passages, rounding to int8, the integers of MaxSim and the
scores that are made of them. Not exact: token embeddings, whose float32 sums each processor adds in its own order, and
with them the scores of a search, in the last digits. An int8 model rounds its activations, so that a difference in the
last digit now and then becomes a whole step; the tolerances are those of a model that does.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgecolbert import Encoder, Index
from edgecolbert.codec import quantize
from edgecolbert.kernels import numpy_maxima, round_query, tile_maxima, tiles_of
from edgecolbert.scoring import maxsim_packed

QUERIES = (
    "water keeps dripping at night",
    "my bread is heavy and did not rise",
    "the bicycle brakes squeal",
    "what do I do about a burn?",
    "when are tomatoes planted?",
    "ÜBER den Kühlschrank: 3 °C?",
)
LEAST_COSINE = 0.995
LEAST_MEAN_COSINE = 0.9995
SCORE_TOLERANCE = 0.1  # of a score of some 20, which adds 32 products


def notes() -> list[dict[str, str]]:
    """The handbook, from the folder that this runs in."""
    return [
        {"id": path.stem, "text": path.read_text(encoding="utf-8")} for path in sorted(Path("handbook").glob("*.md"))
    ]


def kernels() -> dict[str, Any]:
    """Integers and scores of fixed int8 tokens, as exact text."""
    generator = np.random.default_rng(5)
    found = {}
    for dim in (48, 96, 128):
        documents = [
            quantize(_unit(generator.standard_normal((n_tokens, dim)).astype(np.float32)))
            for n_tokens in (1, 7, 8, 200)
        ]
        query = _unit(generator.standard_normal((32, dim)).astype(np.float32))
        tiles = tiles_of([tokens.values for tokens in documents])
        rounded = round_query(query)
        maxima = np.asarray(tile_maxima(tiles, rounded), dtype=np.float64)
        if not (maxima == numpy_maxima(tiles, rounded)).all():
            raise SystemExit(f"MaxSim's integers at {dim} dimensions differ between onnxruntime and numpy here.")
        found[str(dim)] = {
            "tokens": _digest(np.concatenate([tokens.values for tokens in documents])),
            "integers": _digest(maxima.astype("<f8")),
            "scores": [float(score).hex() for score in maxsim_packed([query], documents)[0]],
        }
    return found


def model() -> dict[str, Any]:
    """Token ids and token embeddings of some queries and notes."""
    encoder = Encoder.load()
    texts = [note["text"] for note in notes()[:4]]
    tokenizer = encoder.tokenizer
    return {
        "ids": [tokenizer.query(text).ids.tolist() for text in QUERIES]
        + [tokenizer.document(text).ids.tolist() for text in texts],
        "embeddings": [
            np.round(rows.astype(np.float64), 6).tolist()
            for rows in encoder.encode_queries(list(QUERIES)) + encoder.encode_documents(texts)
        ],
    }


def search() -> dict[str, Any]:
    """The first hits of some queries, and how the notes were cut into passages."""
    with Index.open(":memory:") as index:
        index.add(notes())
        hits = {query: index.search(query, k=5, exact=True) for query in QUERIES}
        return {
            "hits": {query: [[hit.id, hit.score, hit.passage.start] for hit in found] for query, found in hits.items()},
            "passages": index.stats().passages,
        }


def compare(expected: dict[str, Any]) -> list[str]:
    """What differs from another machine's values by more than it may."""
    problems = []
    for dim, values in kernels().items():
        for name, value in values.items():
            if value != expected["kernels"][dim][name]:
                problems.append(f"{dim} dimensions: {name} differ, {value} instead of {expected['kernels'][dim][name]}")
    ours = model()
    if ours["ids"] != expected["model"]["ids"]:
        problems.append("token ids differ")
    pairs = [
        (np.array(a), np.array(b)) for a, b in zip(ours["embeddings"], expected["model"]["embeddings"], strict=True)
    ]
    if any(rows.shape != others.shape for rows, others in pairs):
        problems.append("token embeddings have other shapes")
    else:
        cosines = np.concatenate([(rows * others).sum(axis=1) for rows, others in pairs])
        largest = max(float(np.abs(rows - others).max()) for rows, others in pairs)
        print(f"token embeddings: cosine {cosines.mean():.6f} in the mean, {cosines.min():.6f} at least,")
        print(f"  largest difference of a component {largest:.1e}")
        if cosines.min() < LEAST_COSINE or cosines.mean() < LEAST_MEAN_COSINE:
            problems.append("token embeddings differ by more than the tolerance")
    found = search()
    if found["passages"] != expected["search"]["passages"]:
        problems.append(f"{found['passages']} passages instead of {expected['search']['passages']}")
    differences = []
    for query, hits in found["hits"].items():
        others = {name: (score, start) for name, score, start in expected["search"]["hits"][query]}
        if hits[0][0] != expected["search"]["hits"][query][0][0]:
            problems.append(f"{query!r} finds {hits[0][0]} instead of {expected['search']['hits'][query][0][0]}")
        differences += [abs(score - others[name][0]) for name, score, _ in hits if name in others]
    print(f"scores of hits: largest difference {max(differences):.1e}")
    if max(differences) > SCORE_TOLERANCE:
        problems.append("scores of hits differ by more than the tolerance")
    return problems


def _unit(rows: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    # By steps of 2^-10, which every machine adds exactly: what is compared is our rounding, not its sums.
    return (np.round(np.clip(rows, -4, 4) * 64) / 1024).astype(np.float32)


def _digest(values: np.ndarray[Any, np.dtype[Any]]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def main(task: str, name: str) -> None:
    path = Path(name)
    if task == "write":
        values = {"machine": platform.machine(), "kernels": kernels(), "model": model(), "search": search()}
        path.write_text(json.dumps(values), encoding="utf-8")
        return
    problems = compare(json.loads(path.read_text(encoding="utf-8")))
    for problem in problems:
        print(f"not the same: {problem}", file=sys.stderr)
    if problems:
        raise SystemExit(1)
    print("the same: token ids, int8 tokens, MaxSim's integers and scores; within tolerance: embeddings, hits")


if __name__ == "__main__":
    main(*sys.argv[1:])

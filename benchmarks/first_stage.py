"""First stages side by side on BEIR folders: recall of the exact top 10, and nDCG@10 of reranking 100, by setting.

    python benchmarks/first_stage.py BEIR_FOLDER... [--model M] [--push 4] [--settings NAME...]

Cells are fitted to each collection itself ("corpus") or taken from the model ("model"). --push moves every token
along one fixed direction, as models with a large common component do; MaxSim rankings stay almost the same, and
random hyperplanes collapse.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt

from edgecolbert.beir import read_collection
from edgecolbert.codec import quantize
from edgecolbert.encoder import Encoder
from edgecolbert.fde import FdeSettings, FirstStage
from edgecolbert.index import Index
from edgecolbert.metrics import ndcg
from edgecolbert.muvera import MuveraSettings
from edgecolbert.scoring import maxsim_packed
from edgecolbert.store import Store

FloatArray = npt.NDArray[np.float32]

SETTINGS = {
    "muvera k=4 r=20 p=16": FdeSettings(kind="muvera", centre=False),
    "muvera centred": FdeSettings(kind="muvera", centre=True),
    "muvera k=5 r=20 p=16": FdeSettings(kind="muvera", centre=False, muvera=MuveraSettings(20, 5, 16)),
    "cells 64, corpus": FdeSettings(num_cells=64, centre=False),
    "cells 128, corpus": FdeSettings(num_cells=128, centre=False),
    "cells 192, corpus": FdeSettings(num_cells=192, centre=False),
    "cells 192, corpus, centred": FdeSettings(num_cells=192, centre=True),
    "cells 256, corpus": FdeSettings(num_cells=256, centre=False),
}


def read_tokens(path: Path) -> tuple[list[str], list[FloatArray]]:
    """Ids and token embeddings of every document of an index whose documents are one passage each."""
    store = Store(path, create=False, read_only=True)
    try:
        with store.snapshot():
            pinned = store.encoding()
            assert pinned is not None
            passages = list(store.passages(pinned.encoding_id))
            names = store.ids_of_contents(passage.content_id for passage in passages)
        return [names[passage.content_id][0] for passage in passages], [p.tokens.to_float() for p in passages]
    finally:
        store.close()


def pushed(tokens: FloatArray, length: float) -> FloatArray:
    """Tokens moved along one fixed direction and normalised again."""
    direction = np.ones(tokens.shape[1], dtype=np.float32) / np.float32(tokens.shape[1] ** 0.5)
    moved = tokens + np.float32(length) * direction
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="BEIR_FOLDER")
    parser.add_argument("--model")
    parser.add_argument("--push", type=float, default=0.0)
    parser.add_argument("--settings", nargs="*", choices=[*SETTINGS, "cells, model"])
    options = parser.parse_args()
    encoder = Encoder.load(options.model)
    print("| collection | setting | bytes | recall of top 10 at 100 / 400 | first stage nDCG@10 | reranked / exact |")
    print("|---|---|---|---|---|---|")
    for folder in options.folders:
        collection = read_collection(folder)
        with tempfile.TemporaryDirectory() as work:
            path = Path(work, "index.db")
            with Index.open(path, model=encoder, split_documents=False) as index:
                index.add(iter(collection.documents))
            names, documents = read_tokens(path)
        queries = encoder.encode_queries(list(collection.queries.values()))
        if options.push:
            documents = [pushed(tokens, options.push) for tokens in documents]
            queries = [pushed(tokens, options.push) for tokens in queries]
        exact = maxsim_packed(queries, [quantize(tokens) for tokens in documents])
        order = np.argsort(-exact, axis=1, kind="stable")
        judged = list(collection.qrels.values())
        best = fmean(ndcg([names[i] for i in row[:10]], qrels, 10) for row, qrels in zip(order, judged, strict=True))
        stacked = np.concatenate(documents)
        shipped = FirstStage.from_manifest(encoder.manifest)
        for name in options.settings or ["cells, model", *SETTINGS]:
            stage = shipped if name == "cells, model" else FirstStage.fit(SETTINGS[name], stacked)
            if stage is None:
                continue
            codes = np.stack([stage.document_code(tokens) for tokens in documents])
            first = np.stack([stage.query_code(query) for query in queries]).astype(np.float32) @ codes.T.astype(
                np.float32
            )
            ranked = np.argsort(-first, axis=1, kind="stable")
            if stage.can_refine:
                for row, query in zip(ranked, queries, strict=True):
                    row[:400] = row[:400][np.argsort(-stage.refined_scores(query, codes[row[:400]]), kind="stable")]
            recalls = [
                fmean(len(set(row[:width]) & set(top[:10])) / 10 for row, top in zip(ranked, order, strict=True))
                for width in (100, 400)
            ]
            alone = fmean(ndcg([names[i] for i in r[:10]], q, 10) for r, q in zip(ranked, judged, strict=True))
            reranked = fmean(
                ndcg([names[i] for i in sorted(row[:100], key=lambda i: -scores[i])[:10]], qrels, 10)
                for row, scores, qrels in zip(ranked, exact, judged, strict=True)
            )
            print(
                f"| {collection.name} | {name} | {stage.code_bytes:,} | {recalls[0]:.3f} / {recalls[1]:.3f} | "
                f"{alone:.3f} | {reranked / best:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

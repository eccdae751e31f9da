"""Encoding documents: ours beside PyLate and beside plain dynamic int8, one checkpoint, the same threads.

`--checkpoint FOLDER` is a PyLate checkpoint; `--shape NAME` makes one with random weights in the shape of a published
model, whose embeddings mean nothing but cost the same. It is exported here with each profile. With `--characters N`
texts are cut, so that a length can be chosen.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from corpora import read_corpus
from measuring import Timings, installed, target

from edgecolbert.encoder import Encoder
from edgecolbert.manifest import FileRecord, ModelManifest

PROFILES = ("int8-fast", "int8", "fp32")
PLAIN = "plain dynamic int8 per channel"
PYLATE = "PyLate"
# Texts of one timed call; PyLate sorts them by length and pads them together.
_BATCH = 32


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run it.

    Args:
        options: Of `run.py`: data, checkpoint or shape, texts, characters, threads, rounds.

    Returns:
        The report.
    """
    absent = {
        name: f"{name} is not installed; pip install edgecolbert[bench]"
        for name in ("torch", "onnx", "pylate")
        if installed(name) is None
    }
    if "torch" in absent or "onnx" in absent:
        raise SystemExit("; ".join(absent.values()))
    documents = read_corpus(options.data).documents
    spacing = max(1, len(documents) // options.texts)
    texts = [record["text"][: options.characters] for record in documents[::spacing]][: options.texts]
    batches = [texts[first : first + _BATCH] for first in range(0, len(texts), _BATCH)]
    with tempfile.TemporaryDirectory() as work:
        checkpoint = options.checkpoint or _shape(options.shape, Path(work))
        encoders = _ours(checkpoint, Path(work), options.threads)
        systems: dict[str, Callable[[list[str]], Any]] = {
            name: encoder.encode_documents for name, encoder in encoders.items()
        }
        if "pylate" not in absent:
            systems[PYLATE] = _pylate(checkpoint, options.threads)
        timings = Timings()
        timings.measure(systems, batches, options.rounds, warm=1)
    rows = []
    tokens = [len(rows_of) for batch in timings.results[PROFILES[0]] for rows_of in batch]
    for name in systems:
        # The least time of each batch, added up: what it takes when nothing else runs.
        least = [min(_times(timings, name, position)) for position in range(len(batches))]
        every = [ms for position in range(len(batches)) for ms in _times(timings, name, position)]
        rows.append(
            {
                "encoder": name,
                "documents_per_s": round(1000 * len(texts) / sum(least), 1),
                "mean_documents_per_s": round(1000 * len(texts) * options.rounds / sum(every), 1),
                "ms_per_document": round(sum(least) / len(texts), 3),
            }
        )
    speed = {row["encoder"]: row["documents_per_s"] for row in rows}
    ratios = {
        f"int8-fast / {name}": round(speed["int8-fast"] / value, 2)
        for name, value in speed.items()
        if name != "int8-fast"
    }
    return {
        "title": f"{len(texts)} texts of {sum(tokens) / len(tokens):.0f} kept tokens, "
        f"{options.shape or options.checkpoint.name}",
        "rows": rows,
        "ratios": ratios,
        "targets": {
            "int8-fast / PyLate": target(ratios.get(f"int8-fast / {PYLATE}"), least=2.5),
            "int8-fast / plain dynamic int8": target(ratios.get(f"int8-fast / {PLAIN}"), least=0.95),
        },
        "peer_versions": {PYLATE: f"pylate {installed('pylate')}, torch {installed('torch')}"},
        "absent": absent,
        "raw": timings.rows,
    }


def _times(timings: Timings, name: str, position: int) -> list[float]:
    return [row["ms"] for row in timings.rows if row["system"] == name and row["item"] == position]


def _shape(name: str | None, work: Path) -> Path:
    if name is None:
        raise SystemExit("encode needs --checkpoint FOLDER or --shape NAME.")
    # The export tests know the shapes of the published models.
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "export"))
    from published_shapes import SHAPES

    if name not in SHAPES:
        raise SystemExit(f"There is no shape {name!r}, expected one of {', '.join(SHAPES)}.")
    return Path(SHAPES[name](work / "checkpoint"))


def _ours(checkpoint: Path, work: Path, threads: int) -> dict[str, Encoder]:
    from edgecolbert_export.pipeline import ExportOptions, export_model
    from edgecolbert_export.recipe import Recipe

    manifests = {}
    for profile in PROFILES:
        print(f"exporting {profile}", file=sys.stderr, flush=True)
        recipe = Recipe(name=profile, source="local")
        options = ExportOptions(checkpoint, work / profile, recipe, profile=profile, verify=False)
        manifests[profile] = export_model(options)
    manifests[PLAIN] = _plain(manifests["fp32"], work / "plain")
    return {name: Encoder(manifest, threads=threads) for name, manifest in manifests.items()}


def _plain(exact: ModelManifest, folder: Path) -> ModelManifest:
    """What onnxruntime's own tool makes of the fp32 graph, in a folder beside the exact model's files."""
    from edgecolbert_export.quiet import quiet
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder.mkdir()
    for name in exact.files:
        if name != exact.graph:
            (folder / name).write_bytes((exact.folder / name).read_bytes())
    path = folder / exact.graph
    with quiet():
        quantize_dynamic(exact.folder / exact.graph, path, per_channel=True, weight_type=QuantType.QInt8)
    content = path.read_bytes()
    record = FileRecord(len(content), hashlib.sha256(content).hexdigest())
    files = dict(exact.files) | {exact.graph: record}
    manifest = replace(exact, name="plain", folder=folder, files=files)
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return ModelManifest.read(folder)


def _pylate(checkpoint: Path, threads: int) -> Callable[[list[str]], Any]:
    import torch
    from pylate import models

    torch.set_num_threads(threads)
    model = models.ColBERT(str(checkpoint), device="cpu")
    return lambda texts: model.encode(texts, is_query=False, batch_size=_BATCH, show_progress_bar=False)

"""`--ab`: two settings of one checkpoint on the same test collection."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgecolbert.beir import read_collection
from edgecolbert.encoder import Encoder
from edgecolbert.evaluation import evaluate
from edgecolbert_export.pipeline import ExportOptions, export_model
from edgecolbert_export.progress import Progress, silent


def compare_settings(options: ExportOptions, dataset: Path, progress: Progress = silent) -> dict[str, Any]:
    """Export a checkpoint as it is and with the overrides, and score both with full MaxSim.

    Args:
        options: The export; its overrides are what is compared. `out` is not written.
        dataset: A folder in BEIR's layout.
        progress: Told of every step.

    Returns:
        `dataset`, and for "a" (as the checkpoint and its recipe say) and "b" (with the overrides) the settings and
        the scores.
    """
    collection = read_collection(dataset)
    result: dict[str, Any] = {"dataset": collection.name}
    with tempfile.TemporaryDirectory(prefix="edgecolbert-ab-") as scratch:
        settings: tuple[tuple[str, dict[str, Any]], ...] = (("a", {}), ("b", options.overrides))
        for name, overrides in settings:
            out = Path(scratch) / name
            progress(f"{name}: Exporting")
            export_model(replace(options, out=out, overrides=overrides, force=False), progress)
            progress(f"{name}: Searching {collection.name}")
            report = evaluate(collection, Path(scratch) / f"{name}.db", model=Encoder.load(out))
            result[name] = {"overrides": overrides, "scores": report["stages"]["exact"]}
    return result

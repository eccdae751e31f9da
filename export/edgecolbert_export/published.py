"""Our scores beside the published ones, on the collections of the model cards."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from edgecolbert.beir import Collection
from edgecolbert.encoder import Encoder
from edgecolbert.evaluation import evaluate
from edgecolbert_export.recipe import known_recipes, read_recipe

_METRIC = "ndcg@10"
_TABLE = "nanobeir_ndcg@10"


def compare_with_published(encoder: Encoder, collections: list[Collection]) -> dict[str, Any]:
    """Measure full MaxSim and put the model card's numbers beside it.

    Args:
        encoder: The model; its published scores are those of the recipe of its name.
        collections: Test collections, named as in the recipe ("NanoSciFact").

    Returns:
        `model`, `metric`, and a row for each collection and for "mean" with `ours`, `published` (None where the card
        says nothing, and for a mean over other collections than the card's) and `difference`.
    """
    known = read_recipe(encoder.name).published.get(_TABLE, {}) if encoder.name in known_recipes() else {}
    rows: dict[str, dict[str, float | None]] = {}
    with tempfile.TemporaryDirectory(prefix="edgecolbert-eval-") as scratch:
        for number, collection in enumerate(collections):
            report = evaluate(collection, Path(scratch) / f"{number}.db", model=encoder)
            rows[collection.name] = _row(report["stages"]["exact"][_METRIC], known.get(collection.name))
    published = {name for name in known if name != "mean"}
    mean = fmean(float(row["ours"] or 0) for row in rows.values())
    rows["mean"] = _row(mean, known.get("mean") if published and published == set(rows) else None)
    return {"model": encoder.name, "metric": _METRIC, "collections": rows}


def _row(ours: float, published: float | None) -> dict[str, float | None]:
    return {
        "ours": round(ours, 4),
        "published": published,
        "difference": None if published is None else round(ours - published, 4),
    }

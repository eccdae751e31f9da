"""Shorthand for the export tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgecolbert_export.pipeline import ExportOptions, export_model
from edgecolbert_export.recipe import Recipe

from edgecolbert.manifest import ModelManifest


def export(checkpoint: Path, out: Path, **options: Any) -> ModelManifest:
    """Export in fp32, verified, unless told otherwise."""
    recipe = options.pop("recipe", Recipe(name=checkpoint.name, source="local"))
    return export_model(ExportOptions(checkpoint, out, recipe, **{"profile": "fp32"} | options))

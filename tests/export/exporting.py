"""Shorthand for the export tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from edgecolbert_export import graph
from edgecolbert_export.backbone import load_backbone
from edgecolbert_export.checkpoint import read_checkpoint
from edgecolbert_export.pipeline import ExportOptions, export_model
from edgecolbert_export.recipe import Recipe
from edgecolbert_export.tokens import read_tokenizer

from edgecolbert.manifest import ModelManifest


def export(checkpoint: Path, out: Path, **options: Any) -> ModelManifest:
    """Export in fp32, verified, unless told otherwise."""
    recipe = options.pop("recipe", Recipe(name=checkpoint.name, source="local"))
    return export_model(ExportOptions(checkpoint, out, recipe, **{"profile": "fp32"} | options))


def float_model(folder: Path) -> tuple[graph.TokenEmbeddingModel, onnx.ModelProto]:
    """The model of a checkpoint in torch, and its float32 graph."""
    checkpoint = read_checkpoint(folder)
    model = graph.TokenEmbeddingModel(load_backbone(checkpoint, read_tokenizer(checkpoint).size), checkpoint.dense)
    return model.eval(), graph.export_graph(model)

"""The float32 graph by way of optimum's ONNX exporter (`--exporter optimum`, docs/adr/0003-exporter.md).

optimum's one-command export knows nothing of the Dense layers behind a backbone and leaves them out. Its `export`
function takes any module with an `OnnxConfig`, so it gets our wrapper with the configuration that optimum has for the
backbone's architecture, inputs and outputs replaced by ours.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
import transformers

from edgecolbert.errors import MissingExtraError, ModelFormatError
from edgecolbert_export.graph import OPSET, OUTPUT_NAME, TokenEmbeddingModel, finish_graph, untraceable
from edgecolbert_export.quiet import quiet
from edgecolbert_export.reference import installed_versions

_TASK = "feature-extraction"
_AXES = {0: "batch", 1: "length"}


def check_installed() -> None:
    """Make sure that optimum's exporter can be used.

    Raises:
        MissingExtraError: If it is not installed, or not beside a version of transformers that it works with.
    """
    remedy = (
        "Install it with `pip install 'edgecolbert[optimum]'` in an environment of its own, because it keeps "
        "transformers below 4.58; or leave out --exporter optimum."
    )
    versions = installed_versions("optimum-onnx")
    if not versions:
        raise MissingExtraError(f"--exporter optimum needs optimum-onnx, which is not installed. {remedy}")
    try:
        with quiet():
            import optimum.exporters.onnx  # noqa: F401 # the import is what is tried
    except Exception as error:  # beside another transformers it fails in more ways than ImportError
        raise MissingExtraError(
            f"optimum-onnx {versions['optimum-onnx']} cannot be used with transformers {transformers.__version__}: "
            f"{error}. {remedy}"
        ) from error


def export_graph(model: TokenEmbeddingModel) -> onnx.ModelProto:
    """Export the model with optimum, weights inside.

    Args:
        model: The float32 model.

    Returns:
        A graph with the same inputs and output as that of `graph.export_graph`.

    Raises:
        MissingExtraError: If optimum's exporter is not installed.
        ModelFormatError: If optimum has no configuration for the backbone's architecture, or cannot trace it.
    """
    check_installed()
    from optimum.exporters.onnx import export

    with quiet():
        config = _onnx_config(model)
    model.config = model.backbone.config  # optimum takes every module for a model of transformers
    with tempfile.TemporaryDirectory(prefix="edgecolbert-optimum-") as folder, quiet():
        path = Path(folder) / "model.onnx"
        try:
            export(model, config, path, opset=OPSET)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ModelFormatError(untraceable(model, "optimum", error)) from error
        proto = onnx.load(path)
    return finish_graph(proto)


def _onnx_config(model: TokenEmbeddingModel) -> Any:
    """The configuration that optimum has for the architecture, with the inputs and the output of the wrapper."""
    from optimum.exporters.onnx import model_configs  # noqa: F401 # importing it registers the architectures
    from optimum.exporters.tasks import TasksManager

    config = model.backbone.config
    try:
        constructor = TasksManager.get_exporter_config_constructor(
            "onnx", model_type=config.model_type, task=_TASK, library_name="transformers"
        )
        known = type(constructor(config))
    except (KeyError, ValueError, NotImplementedError) as error:  # its text lists every architecture there is
        raise ModelFormatError(
            f"optimum has no ONNX configuration for the architecture {config.model_type!r}. Export without --exporter "
            "optimum."
        ) from error

    class TokenEmbeddingOnnxConfig(known):  # type: ignore[misc, valid-type] # made for the architecture at hand
        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {"input_ids": _AXES, "attention_mask": _AXES}

        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {OUTPUT_NAME: _AXES}

    return TokenEmbeddingOnnxConfig(config, task=_TASK)

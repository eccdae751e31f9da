"""Everything in this folder runs in the export environment and is skipped elsewhere."""

from __future__ import annotations

import hashlib
import importlib.util

import pytest

_HAS_TORCH = all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers", "onnx"))
# Without torch not even the helpers of these tests can be imported.
collect_ignore_glob = [] if _HAS_TORCH else ["test_*.py"]

if _HAS_TORCH:
    import onnx
    from edgecolbert_export import graph

    _graphs: dict[str, bytes] = {}
    _export_graph = graph.export_graph

    def _export_once(model: graph.TokenEmbeddingModel) -> onnx.ModelProto:
        """Tracing takes seconds, and most tests differ in settings that are not in the graph."""
        digest = hashlib.sha256(repr((model, model.backbone.config)).encode())
        for name, weight in model.state_dict().items():
            digest.update(name.encode() + weight.numpy().tobytes())
        key = digest.hexdigest()
        if key not in _graphs:
            _graphs[key] = _export_graph(model).SerializeToString()
        return onnx.load_from_string(_graphs[key])

    @pytest.fixture(autouse=True)
    def _one_trace_for_equal_models(monkeypatch):
        monkeypatch.setattr(graph, "export_graph", _export_once)

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
    import torch
    from edgecolbert_export import graph

    # More threads wait for one another where other programs use the machine, and gain little on graphs of this size.
    torch.set_num_threads(1)
    # Graphs of the large shapes are kept for the next test only.
    _LARGE = 50_000_000
    _graphs: dict[str, bytes] = {}
    _export_graph = graph.export_graph

    def _export_once(model: graph.TokenEmbeddingModel) -> onnx.ModelProto:
        """Tracing takes seconds, and most tests differ in settings that are not in the graph."""
        # Two models may have equal weights and differ in a residual, which only the module knows.
        residuals = [module.use_residual for module in model.dense]
        digest = hashlib.sha256(repr((model, model.backbone.config, residuals)).encode())
        for name, weight in model.state_dict().items():
            if "pooler." in name:
                continue  # in no graph, and random where the checkpoint has none
            digest.update(name.encode())
            digest.update(weight.numpy())
        key = digest.hexdigest()
        if key not in _graphs:
            for large in [earlier for earlier, content in _graphs.items() if len(content) > _LARGE]:
                del _graphs[large]
            _graphs[key] = _export_graph(model).SerializeToString()
        return onnx.load_from_string(_graphs[key])

    # For the session, because fixtures of whole modules export as well.
    @pytest.fixture(autouse=True, scope="session")
    def _one_trace_for_equal_models():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(graph, "export_graph", _export_once)
            yield

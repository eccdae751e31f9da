"""What becomes of a graph between the exporter and quantisation."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import onnx
import onnxruntime
from edgecolbert_export import graph, optimum_exporter
from edgecolbert_export.backbone import load_backbone
from edgecolbert_export.checkpoint import read_checkpoint
from edgecolbert_export.reference import installed_versions
from edgecolbert_export.tokens import read_tokenizer
from exporting import export
from tiny_checkpoints import tiny_bert_checkpoint, tiny_modernbert_checkpoint

from edgecolbert.errors import InputError, MissingExtraError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(("make", "n_gelus"), [(tiny_bert_checkpoint, 2), (tiny_modernbert_checkpoint, 4)])
def test_onnxruntime_fuses_every_gelu(tmp_path, make, n_gelus):
    checkpoint = read_checkpoint(make(tmp_path / "checkpoint"))
    backbone = load_backbone(checkpoint, read_tokenizer(checkpoint).size)
    proto = graph.export_graph(graph.TokenEmbeddingModel(backbone, checkpoint.dense))
    assert sum(node.op_type == "Erf" for node in proto.graph.node) == n_gelus
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert "Erf" not in operators
    assert sum(operator in ("Gelu", "BiasGelu") for operator in operators) == n_gelus


def test_gelu_is_the_same_to_the_last_bit_and_other_products_are_left_alone():
    def gelu(halve_first: bool) -> onnx.ModelProto:
        products = (
            ["half = Mul(h, more)", "y = Mul(x, half)"] if halve_first else ["all = Mul(x, more)", "y = Mul(all, h)"]
        )
        return onnx.parser.parse_model(
            '<ir_version: 9, opset_import: ["" : 18]> g (float[n] x) => (float[n] y, float[n] z) '
            "<float r = {1.4142135}, float one = {1.0}, float h = {0.5}, float third = {0.3}> { "
            f"d = Div(x, r) e = Erf(d) more = Add(e, one) {' '.join(products)} "
            "e2 = Erf(x) more2 = Add(e2, one) t = Mul(third, more2) z = Mul(x, t) }"
        )

    def run(model: onnx.ModelProto) -> list[np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, {"x": np.linspace(-9, 9, 10_001, dtype=np.float32)})

    before, after = gelu(halve_first=True), gelu(halve_first=True)
    assert graph.halve_gelu_last(after.graph) == 1
    onnx.checker.check_model(after)
    for expected, found in zip(run(before), run(after), strict=True):
        assert np.array_equal(expected, found)
    assert graph.halve_gelu_last(gelu(halve_first=False).graph) == 0


def test_unknown_exporter_is_refused(tmp_path):
    with pytest.raises(InputError, match="'tensorflow', expected one of torch, optimum"):
        export(tiny_bert_checkpoint(tmp_path / "checkpoint"), tmp_path / "out", exporter="tensorflow")


@pytest.mark.skipif(bool(installed_versions("optimum-onnx")), reason="optimum is installed")
def test_optimum_that_is_not_installed_is_named_with_its_environment(tmp_path):
    with pytest.raises(MissingExtraError, match=r"edgecolbert\[optimum\].*environment of its own"):
        optimum_exporter.check_installed()
    with pytest.raises(MissingExtraError):
        export(tiny_bert_checkpoint(tmp_path / "checkpoint"), tmp_path / "out", exporter="optimum")

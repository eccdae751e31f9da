"""int8 linear layers with one scale for each token, on graphs small enough to follow."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from edgecolbert_export.linear_layers import observe
from edgecolbert_export.per_token import quantize_per_token
from onnx import TensorProto, helper, numpy_helper

WIDTH, OUT, WORDS = 64, 32, 20
rng = np.random.default_rng(5)
TABLE = rng.standard_normal((WORDS, WIDTH)).astype(np.float32)
TABLE[0] = 0
MATRIX = rng.standard_normal((WIDTH, OUT)).astype(np.float32)
BIAS = rng.standard_normal(OUT).astype(np.float32)


def layer(table=TABLE, *, activation=(), other_reader=False):
    """input_ids -> rows of a table -> activation -> linear layer with a bias."""
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["rows"]), *activation]
    read = activation[-1].output[0] if activation else "rows"
    nodes += [helper.make_node("MatMul", [read, "matrix"], ["product"])]
    nodes += [helper.make_node("Add", ["product", "bias"], ["out"])]
    outputs = ["out"]
    if other_reader:
        nodes.append(helper.make_node("Neg", ["product"], ["negative"]))
        outputs.append("negative")
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, None])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [
            numpy_helper.from_array(array, name)
            for name, array in (("table", table), ("matrix", MATRIX), ("bias", BIAS), ("root", np.float32(2**-0.5)))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run(model, ids):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input_ids": np.array([ids], dtype=np.int64)})


def quantized(model):
    feeds = [{"input_ids": np.arange(WORDS, dtype=np.int64)[None]}]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantize_per_token(copy, observe(model, feeds))
    return copy


def operators(model):
    return [node.op_type for node in model.graph.node]


def test_a_row_of_zeros_gives_exactly_the_bias():
    out = run(quantized(layer()), [3, 0, 5])[0][0]
    assert np.array_equal(out[1], BIAS)
    assert np.isfinite(out).all()


def test_one_large_token_does_not_coarsen_the_others():
    table = TABLE.copy()
    table[1] *= 1000
    model = quantized(layer(table))
    alone, together = run(model, [7])[0][0, 0], run(model, [7, 1])[0][0, 0]
    assert np.array_equal(alone, together)
    exact = TABLE[7] @ MATRIX + BIAS
    assert alone @ exact / np.linalg.norm(alone) / np.linalg.norm(exact) > 0.998


def test_smoothing_is_for_outlier_channels_only():
    assert "Abs" in operators(quantized(layer()))
    assert operators(quantized(layer())).count("Mul") == 2  # of the step, and of the product by the scales
    table = TABLE.copy()
    table[:, 3] *= 50
    model = quantized(layer(table))
    assert operators(model).count("Mul") == 3
    exact, out = table[1:] @ MATRIX + BIAS, run(model, list(range(1, WORDS)))[0][0]
    cosine = (exact * out).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(out, axis=1)
    assert cosine.min() > 0.9995


@pytest.mark.parametrize("other_reader", [False, True])
def test_the_shift_of_gelu_is_taken_off_the_bias_where_only_the_bias_reads_it(other_reader):
    activation = (helper.make_node("Gelu", ["rows"], ["gelu"]),)
    model = layer(TABLE * 2, activation=activation, other_reader=other_reader)
    shipped = quantized(model)
    # One addition of the shift, one of the bias, and one more only if something else needs the product as it was.
    assert operators(shipped).count("Add") == 2 + other_reader
    ids = list(range(WORDS))
    for exact, out in zip(run(model, ids), run(shipped, ids), strict=True):
        assert np.abs(out - exact).max() < 0.02 * np.abs(exact).max()


def outliers(source: list[onnx.NodeProto], **constants: np.ndarray) -> onnx.ModelProto:
    """A linear layer that reads `x`, 64 channels of which one is far larger than the others."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            *source,
            helper.make_node("MatMul", ["x", "matrix"], ["out"]),
        ],
        "outliers",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, None])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(array.astype(np.float32), name)
            for name, array in ({"table": TABLE[1:], "matrix": MATRIX} | constants).items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def large(channel: int) -> np.ndarray:
    return np.where(np.arange(WIDTH) == channel, 60, 1)


def close(model: onnx.ModelProto, least: float = 0.9995) -> onnx.ModelProto:
    """The model in int8, which is as close to it as smoothing makes it."""
    ids = list(range(WORDS - 1))
    shipped = onnx.ModelProto()
    shipped.CopyFrom(model)
    quantize_per_token(shipped, observe(model, [{"input_ids": np.array([ids], dtype=np.int64)}]))
    exact, out = run(model, ids)[0][0], run(shipped, ids)[0][0]
    cosine = (exact * out).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(out, axis=1)
    assert cosine.min() > least
    return shipped


@pytest.mark.parametrize("bias", [(), ("shift",)])
def test_smoothing_is_done_by_the_norm_that_nothing_else_reads(bias):
    norm = helper.make_node("LayerNormalization", ["rows", "scale", *bias], ["x"])
    shipped = close(outliers([norm], scale=large(3), shift=large(5) / 10))
    assert operators(shipped).count("Mul") == 2  # of the step, and of the product by the scales


def test_a_residual_reads_the_norm_as_it_was():
    norm = helper.make_node("LayerNormalization", ["rows", "scale"], ["x"])
    model = outliers([norm], scale=large(3))
    model.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, None))
    shipped = close(model)
    assert operators(shipped).count("Mul") == 3
    assert np.array_equal(run(model, [1, 2])[1], run(shipped, [1, 2])[1])


@pytest.mark.parametrize("gate", [0, 1])
def test_smoothing_is_done_by_the_scales_of_the_layer_that_makes_the_gate(gate):
    parts = ["gate", "other"] if gate == 0 else ["other", "gate"]
    source = [
        helper.make_node("MatMul", ["rows", "both"], ["halves"]),
        helper.make_node("Split", ["halves"], parts, axis=-1, num_outputs=2),
        helper.make_node("Tanh", ["other"], ["bounded"]),
        helper.make_node("Mul", ["bounded", "gate"], ["x"]),
    ]
    both = rng.standard_normal((WIDTH, 2 * WIDTH)) * 0.1
    both[:, gate * WIDTH + 7] *= 60
    shipped = close(outliers(source, both=both), least=0.99)  # of two layers of rounding
    assert operators(shipped).count("Mul") == 5  # two for each linear layer, and the product itself

"""int8 linear layers with smoothed activations and one scale for each token: fast as dynamic, faithful as blockwise.

What plain dynamic quantisation loses, it loses to its single activation scale for a whole text: one token with a large
value coarsens all others. Here every token has a scale of its own; onnxruntime's QuantizeLinear along the token axis
costs a few microseconds. What then remains are outlier channels. They are divided down and their weights multiplied up
before rounding, as SmoothQuant does (Xiao et al. 2023, equation 4, with a strength of one half). Outputs of GELU, which
never fall below -0.17, are shifted to be positive, so that all 256 steps are used; the shift times the weights is a
constant that is taken off the bias.

At the length of a query every node counts (a few microseconds each), so none is spent where it brings nothing:
attention outputs are averages without outliers and are not smoothed, and what comes straight from a layer normalisation
or from a gate is divided there, by weights that are multiplied anyway.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgecolbert_export.fusion import DOMAIN, add_domain
from edgecolbert_export.linear_layers import ActivationRange, FloatArray, GraphEditor, linear_nodes
from edgecolbert_export.values import Values

# The minimum of GELU is -0.16997, at -0.7518.
_GELU_LOWEST = 0.17
# A tensor that reaches this many times as far up as down gains more than a bit from being shifted.
_WORTH_SHIFTING = 4.0
_STRENGTH = 0.5
# Inputs whose largest channel stays below this many times the median have no outliers to smooth.
_WORTH_SMOOTHING = 3.5


@dataclass(frozen=True)
class _Input:
    """A tensor that one or more linear layers read, after quantisation.

    Attributes:
        rows: Name of the uint8 rows [n_tokens, in_features].
        scales: Name of the float32 scales [n_tokens, 1].
        zero_point: Name of their zero point.
        smoothing: float32 [in_features], what the weights are multiplied with.
        shift: float32 [in_features], what was added to the rows, or None.
        nodes: How they are computed.
    """

    rows: str
    scales: str
    zero_point: str
    smoothing: FloatArray
    shift: FloatArray | None
    nodes: list[onnx.NodeProto]


def quantize_per_token(
    model: onnx.ModelProto, ranges: dict[str, ActivationRange], rows: Set[str] = frozenset()
) -> None:
    """Replace every linear layer by an int8 one with a scale for each token, in place.

    Args:
        model: A float32 graph whose linear layers read [batch, length, in_features], or what is named in `rows`.
        ranges: What flows into each linear layer (`linear_layers.observe`).
        rows: Names of values that are [n_tokens, features] already (`rows.flatten_rows`).
    """
    add_domain(model)
    editor = GraphEditor(model.graph)
    values = Values(model.graph)
    _count_tokens(editor)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in linear_nodes(model.graph):
        readers.setdefault(node.input[0], []).append(node)
    for name, nodes in readers.items():
        matrices = [editor.array(node.input[1]) for node in nodes]
        # Query, key and value read the same tensor, so it is quantised once, with one smoothing for the three.
        quantized = _quantize_input(editor, values, name, matrices, ranges[name], is_flat=name in rows)
        for number, (node, matrix) in enumerate(zip(nodes, matrices, strict=True)):
            layer = _quantized_layer(editor, node, matrix, quantized, is_flat=name in rows)
            editor.replace(node, quantized.nodes + layer if number == 0 else layer)
    editor.finish()


def _count_tokens(editor: GraphEditor) -> None:
    """Shapes and zero points that all layers share: every one of them sees the same batch and length."""
    along = editor.constant("per_token.first_axis", np.array([0], dtype=np.int64))
    editor.put_first(
        helper.make_node("Shape", ["input_ids"], ["per_token.outer"]),
        helper.make_node("ReduceProd", ["per_token.outer", along], ["per_token.count"], keepdims=1),
    )
    for zero in (0, 128):
        filling = numpy_helper.from_array(np.array([zero], dtype=np.uint8))
        editor.put_first(
            helper.make_node("ConstantOfShape", ["per_token.count"], [f"per_token.zeros_{zero}"], value=filling)
        )
        editor.constant(f"per_token.zero_{zero}", np.uint8(zero))


def _shape_of(editor: GraphEditor, width: int) -> str:
    """Name of the shape [batch, length, width]."""
    name = f"per_token.shape_{width}"
    if editor.is_new(name):
        last = editor.constant(f"per_token.width_{width}", np.array([width], dtype=np.int64))
        editor.put_first(helper.make_node("Concat", ["per_token.outer", last], [name], axis=0))
    return name


def smoothing(largest: FloatArray, matrices: list[FloatArray]) -> FloatArray:
    """How much each channel is divided by before it is rounded.

    Args:
        largest: float32 [in_features], largest absolute activation of each channel.
        matrices: float32 [in_features, out_features] of every layer that reads them.

    Returns:
        float32 [in_features], of geometric mean 1, so that a channel's activations and weights span similar ranges.
    """
    weights = np.maximum.reduce([np.abs(matrix).max(axis=1) for matrix in matrices])
    # A channel that is never active, or never read, must not take part in dividing by zero.
    factors = np.maximum(largest, 1e-6) ** _STRENGTH / np.maximum(weights, 1e-6) ** (1 - _STRENGTH)
    scaled: FloatArray = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    return scaled


def _quantize_input(
    editor: GraphEditor,
    values: Values,
    name: str,
    matrices: list[FloatArray],
    seen: ActivationRange,
    *,
    is_flat: bool,
) -> _Input:
    factors = np.ones_like(seen.largest)
    nodes: list[onnx.NodeProto] = []
    ready, shift = name, None
    if seen.largest.max() > _WORTH_SMOOTHING * np.median(seen.largest):
        factors = smoothing(seen.largest, matrices)
        # Readers beyond the linear layers, such as a residual, want the values as they are.
        only_here = values.n_readers(name) == len(matrices)
        if not (
            only_here and (_smooth_norm(editor, values, name, factors) or _smooth_gate(editor, values, name, factors))
        ):
            ready = f"{name}.smooth"
            nodes.append(helper.make_node("Mul", [name, editor.constant(f"{name}.unsmooth", 1 / factors)], [ready]))
    if -_GELU_LOWEST <= seen.lowest < 0 and seen.highest > -_WORTH_SHIFTING * seen.lowest:
        shift = (np.float32(_GELU_LOWEST) / factors).astype(np.float32)
        nodes.append(helper.make_node("Add", [ready, editor.constant(f"{name}.shift", shift)], [f"{name}.shifted"]))
        ready = f"{name}.shifted"
    if not is_flat:
        # QuantizeLinear wants the scales in one dimension, so batch and length are flattened into one.
        rows = editor.constant(f"{name}.rows", np.array([-1, len(factors)], dtype=np.int64))
        nodes.append(helper.make_node("Reshape", [ready, rows], [f"{name}.flattened"]))
        ready = f"{name}.flattened"
    if shift is None:
        nodes.append(helper.make_node("Abs", [ready], [f"{name}.magnitude"]))
        magnitude, n_steps, zero_point = f"{name}.magnitude", 127, 128
    else:
        magnitude, n_steps, zero_point = ready, 255, 0
    steps = editor.constant(f"per_token.one_{n_steps}th", np.float32(1 / n_steps))
    along = editor.constant("per_token.axis", np.array([1], dtype=np.int64))
    # A row of zeros gets the scale 0: whatever 0 / 0 is rounded to is multiplied by that scale afterwards.
    nodes += [
        helper.make_node("ReduceMax", [magnitude, along], [f"{name}.max"], keepdims=1),
        helper.make_node("Mul", [f"{name}.max", steps], [f"{name}.scales"]),
        helper.make_node("Squeeze", [f"{name}.scales", along], [f"{name}.scale"]),
        helper.make_node(
            "QuantizeLinear",
            [ready, f"{name}.scale", f"per_token.zeros_{zero_point}"],
            [f"{name}.int8"],
            axis=0,
        ),
    ]
    return _Input(f"{name}.int8", f"{name}.scales", f"per_token.zero_{zero_point}", factors, shift, nodes)


def _smooth_norm(editor: GraphEditor, values: Values, name: str, factors: FloatArray) -> bool:
    """Divide the weights of the layer normalisation that makes a value; whether there is one."""
    node = values.maker(name, "LayerNormalization")
    if node is None or not all(values.is_constant(each) for each in node.input[1:]):
        return False
    for position, weight in enumerate(node.input[1:], start=1):
        node.input[position] = editor.constant(f"{name}.smoothed_{position}", editor.array(weight) / factors)
    return True


def _smooth_gate(editor: GraphEditor, values: Values, name: str, factors: FloatArray) -> bool:
    """Divide the gate of a product, which is a part of a linear layer's output, by that layer's scales.

    Args:
        editor: The graph, in which layers before this one are int8 already.
        values: The graph before any layer was.
        name: The product, which nothing but linear layers reads.
        factors: float32 [in_features], what to divide by.

    Returns:
        Whether it is such a product.
    """
    product = values.maker(name, "Mul")
    for gate in () if product is None else product.input:
        cut = values.maker(gate, "Split")
        if cut is None or len(cut.input) > 1 or values.n_readers(gate) != 1:
            continue
        scales = f"{cut.input[0]}.weight_scales"
        equal = editor.has(scales) and len(editor.array(scales)) == len(factors) * len(cut.output)
        if equal and values.n_readers(cut.input[0]) == 1:
            parts = np.split(editor.array(scales), len(cut.output))
            position = list(cut.output).index(gate)
            parts[position] = parts[position] / factors
            editor.change(scales, np.concatenate(parts))
            return True
    return False


def _quantized_layer(
    editor: GraphEditor, node: onnx.NodeProto, matrix: FloatArray, quantized: _Input, *, is_flat: bool
) -> list[onnx.NodeProto]:
    out = node.output[0]
    weights, scales = quantize_columns(matrix * quantized.smoothing[:, None])
    editor.constant(f"{out}.weights", weights)
    editor.constant(f"{out}.weight_scales", scales)
    one = editor.constant("per_token.one", np.float32(1))
    nodes = [
        helper.make_node(
            "MatMulIntegerToFloat",
            [quantized.rows, f"{out}.weights", one, f"{out}.weight_scales", quantized.zero_point],
            [f"{out}.unscaled"],
            domain=DOMAIN,
        ),
        helper.make_node("Mul", [f"{out}.unscaled", quantized.scales], [f"{out}.scaled"]),
    ]
    ready = f"{out}.scaled"
    if quantized.shift is not None:
        restore = -(quantized.shift.astype(np.float64) @ (weights * scales.astype(np.float64))).astype(np.float32)
        if not editor.add_to_bias(out, restore):
            name = editor.constant(f"{out}.restore", restore)
            nodes.append(helper.make_node("Add", [ready, name], [f"{out}.restored"]))
            ready = f"{out}.restored"
    if is_flat:
        nodes[-1].output[0] = out
        return nodes
    shape = _shape_of(editor, matrix.shape[1])
    return [*nodes, helper.make_node("Reshape", [ready, shape], [out])]


def quantize_columns(matrix: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Round each column of a weight matrix to int8 with a scale of its own.

    Args:
        matrix: float32 [in_features, out_features].

    Returns:
        int8 [in_features, out_features] and float32 [out_features]; a column of zeros stays zero.
    """
    scales = np.abs(matrix).max(axis=0) / np.float32(127)
    scales = np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
    return np.clip(np.rint(matrix / scales), -127, 127).astype(np.int8), scales

"""Attention of long texts in blocks, so that its memory grows with the length and not with the square of it.

In a local layer a token attends to its neighbours only, yet the graph multiplies every token with every other and masks
most of the products. Here a text of more than a block is cut into blocks of rows, each of which reads the keys in its
window; layers that attend to everything leave the mask out, which onnxruntime then computes without the square. What
is left out had a weight of exactly zero.

A token whose window holds no attended token would attend to everything equally. That cannot happen where every token is
attended, and wherever one is not, as in a padded batch, attention is computed in full.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from edgecolbert_export.fusion import DOMAIN
from edgecolbert_export.linear_layers import GraphEditor
from edgecolbert_export.values import attribute, drop_unread, read_names

BLOCK = 256
# A wider window would leave little to save.
_WIDEST = 512
# Lengths at which the windows are looked at: one below and one well above the widest.
_LENGTHS = (BLOCK + 1, 2 * _WIDEST + 7)
_MASKED = np.finfo(np.float32).min


@dataclass(frozen=True)
class _Bias:
    """What is added to the scores of attention.

    Attributes:
        name: Its name in the graph.
        window: How far a token sees to either side, or None for everything.
    """

    name: str
    window: int | None


def bound_attention(model: onnx.ModelProto) -> int:
    """Compute attention in blocks where a text is longer than one, in place; shorter ones are computed as before.

    Args:
        model: A graph from `attention.fuse_attention` with the inputs `input_ids` and `attention_mask`.

    Returns:
        How many attentions were changed: all, or none where no layer is local or one has a mask of another kind.
    """
    graph = model.graph
    attentions = [node for node in graph.node if node.op_type == "MultiHeadAttention"]
    names = sorted({node.input[5] for node in attentions})
    windows = _windows(model, names) if names else None
    if windows is None or not any(bias.window for bias in windows.values()):
        return 0
    editor = GraphEditor(graph)
    _put_decision(editor, max(bias.window or 0 for bias in windows.values()))
    masks = _only_for(graph, names)
    empty = editor.constant("blocks.no_bias", np.zeros((1, 1, 1, 1), dtype=np.float32))
    unread = [helper.make_node("Identity", [empty], [f"{name}.unread"]) for name in names]
    renamed = []
    for node in masks:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.output[:] = [f"{name}.full" if name in names else name for name in node.output]
        copy.input[:] = [f"{name}.full" if name in names else name for name in node.input]
        renamed.append(copy)
    choice = helper.make_node(
        "If",
        ["blocks.long"],
        names,
        then_branch=helper.make_graph(unread, "unread", [], [_float(f"{name}.unread") for name in names]),
        else_branch=helper.make_graph(renamed, "masks", [], [_float(f"{name}.full") for name in names]),
    )
    for node in masks[:-1]:
        editor.replace(node, [])
    editor.replace(masks[-1], [choice])
    for number, node in enumerate(attentions):
        editor.replace(node, [_in_blocks(editor, node, windows[node.input[5]], f"blocks.{number}")])
    editor.finish()
    drop_unread(graph)
    return len(attentions)


def _windows(model: onnx.ModelProto, names: list[str]) -> dict[str, _Bias] | None:
    """What each bias lets a token see where every token is attended; None where one is of another kind."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.output[:]
    part.graph.output.extend(_float(name) for name in names)
    drop_unread(part.graph)
    del part.graph.value_info[:]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: dict[str, _Bias] = {}
    for length in _LENGTHS:
        ids = np.ones((1, length), dtype=np.int64)
        feeds = {entry.name: ids for entry in session.get_inputs()}
        distances = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
        for name, value in zip(names, session.run(names, feeds), strict=True):
            seen = np.broadcast_to(value, (1, 1, length, length))[0, 0] == 0
            window = int(seen[0].sum()) - 1
            bias = _Bias(name, None if window == length - 1 else window)
            right = np.array_equal(seen, distances <= window) and bool(np.all(value[0, 0][~seen] == _MASKED))
            if not right or (bias.window or 0) > _WIDEST or found.setdefault(name, bias) != bias:
                return None
    return found


def _only_for(graph: onnx.GraphProto, names: list[str]) -> list[onnx.NodeProto]:
    """The nodes that only these values depend on, in order."""
    found: list[onnx.NodeProto] = []
    inner: set[str] = set(names)
    read = {output.name for output in graph.output}
    for node in reversed(graph.node):
        if all(name in inner and name not in read for name in node.output):
            found.append(node)
            inner |= set(node.input)
        elif node.op_type == "MultiHeadAttention":
            read |= set(node.input) - set(names)
        else:
            read |= set(read_names([node]))
    return found[::-1]


def _put_decision(editor: GraphEditor, widest: int) -> None:
    """Nodes that say whether a text is cut into blocks, and into how many."""
    first = editor.constant("blocks.axis_0", np.array([0], dtype=np.int64))
    editor.constant("blocks.axis_1", np.array([1], dtype=np.int64))
    editor.constant("blocks.true", np.array(True))
    editor.constant("blocks.attended", np.float32(0))
    editor.constant("blocks.masked", _MASKED)
    block = editor.constant("blocks.rows", np.int64(BLOCK))
    one, less = editor.constant("blocks.one", np.int64(1)), editor.constant("blocks.less", np.int64(BLOCK - 1))
    # Positions of one block and its window, as long as the longest.
    editor.constant("blocks.positions", np.arange(BLOCK + 2 * widest, dtype=np.int64))
    editor.put_first(
        helper.make_node("Shape", ["input_ids"], ["blocks.lengths"], start=1, end=2),
        helper.make_node("Squeeze", ["blocks.lengths", first], ["blocks.length"]),
        helper.make_node("Greater", ["blocks.length", block], ["blocks.above"]),
        helper.make_node("ReduceMin", ["attention_mask"], ["blocks.least"], keepdims=0),
        helper.make_node("Equal", ["blocks.least", one], ["blocks.all"]),
        helper.make_node("And", ["blocks.above", "blocks.all"], ["blocks.long"]),
        helper.make_node("Add", ["blocks.length", less], ["blocks.rounded"]),
        helper.make_node("Div", ["blocks.rounded", block], ["blocks.count"]),
    )


def _in_blocks(editor: GraphEditor, node: onnx.NodeProto, bias: _Bias, prefix: str) -> onnx.NodeProto:
    """The If that takes the place of an attention."""
    full = onnx.NodeProto()
    full.CopyFrom(node)
    full.output[0] = f"{prefix}.full"
    if bias.window is None:
        long = [_attention(node, list(node.input[:3]), f"{prefix}.result")]
    else:
        long = _local(editor, node, bias.window, prefix)
    return helper.make_node(
        "If",
        ["blocks.long"],
        list(node.output),
        then_branch=helper.make_graph(long, f"{prefix}.blocks", [], [_float(f"{prefix}.result")]),
        else_branch=helper.make_graph([full], f"{prefix}.whole", [], [_float(f"{prefix}.full")]),
    )


def _local(editor: GraphEditor, node: onnx.NodeProto, window: int, prefix: str) -> list[onnx.NodeProto]:
    """A loop over blocks of rows, each with the keys in its window."""
    query, key, value = node.input[:3]
    first, second = "blocks.axis_0", "blocks.axis_1"
    size = editor.constant("blocks.size", np.array([BLOCK], dtype=np.int64))
    reach = editor.constant(f"blocks.window_{window}", np.array([window], dtype=np.int64))
    near = editor.constant(f"blocks.window_{window}_scalar", np.int64(window))

    def name(what: str) -> str:
        return f"{prefix}.{what}"

    def add(operator: str, inputs: list[str], output: str, **attributes: int) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [name(output)], **attributes)

    body = [
        add("Mul", [name("number"), size], "start"),
        add("Add", [name("start"), size], "past"),
        add("Min", [name("past"), "blocks.lengths"], "end"),
        add("Sub", [name("start"), reach], "before"),
        add("Max", [name("before"), first], "key_start"),  # first is also the number 0
        add("Add", [name("end"), reach], "after"),
        add("Min", [name("after"), "blocks.lengths"], "key_end"),
        add("Slice", [query, name("start"), name("end"), second], "query"),
        add("Slice", [key, name("key_start"), name("key_end"), second], "key"),
        add("Slice", [value, name("key_start"), name("key_end"), second], "value"),
        # Positions count from the first key.
        add("Sub", [name("start"), name("key_start")], "row_start"),
        add("Sub", [name("end"), name("key_start")], "row_end"),
        add("Sub", [name("key_end"), name("key_start")], "n_keys"),
        add("Slice", ["blocks.positions", name("row_start"), name("row_end"), first], "row_positions"),
        add("Slice", ["blocks.positions", first, name("n_keys"), first], "columns"),
        add("Unsqueeze", [name("row_positions"), second], "rows"),
        add("Sub", [name("rows"), name("columns")], "offsets"),
        add("Abs", [name("offsets")], "distances"),
        add("LessOrEqual", [name("distances"), near], "near"),
        add("Where", [name("near"), "blocks.attended", "blocks.masked"], "matrix"),
        add("Unsqueeze", [name("matrix"), editor.constant("blocks.axes", np.array([0, 1], dtype=np.int64))], "bias"),
        _attention(node, [name("query"), name("key"), name("value"), "", "", name("bias")], name("rows_done")),
        add("Concat", [name("done"), name("rows_done")], "more_done", axis=1),
        add("Identity", [name("going")], "still_going"),
    ]
    loop = helper.make_graph(
        body,
        name("loop"),
        [
            helper.make_tensor_value_info(name("number"), TensorProto.INT64, []),
            helper.make_tensor_value_info(name("going"), TensorProto.BOOL, []),
            _float(name("done")),
        ],
        [helper.make_tensor_value_info(name("still_going"), TensorProto.BOOL, []), _float(name("more_done"))],
    )
    return [
        add("Slice", [query, first, first, second], "nothing"),
        helper.make_node("Loop", ["blocks.count", "blocks.true", name("nothing")], [name("result")], body=loop),
    ]


def _attention(node: onnx.NodeProto, inputs: list[str], output: str) -> onnx.NodeProto:
    """The same attention of other values."""
    settings = {"num_heads": attribute(node, "num_heads"), "scale": attribute(node, "scale")}
    return helper.make_node("MultiHeadAttention", inputs, [output], domain=DOMAIN, **settings)


def _float(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

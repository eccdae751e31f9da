"""The linear part of a transformer on a matrix of tokens, instead of one on batch and length.

A scale for each token needs its rows in one dimension. Everything between two attentions works on each token alone, so
that batch and length are made into one dimension once and cut again only for the attention.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from edgecolbert_export.linear_layers import GraphEditor, linear_nodes
from edgecolbert_export.values import Values, attribute, drop_unread

_ON_EACH_VALUE = {"Add", "Sub", "Mul", "Div", "Sum", "Gelu", "Erf", "Tanh", "Relu", "Sigmoid", "Clip", "Softplus"}
OUTER_SHAPE = "rows.outer"


def flatten_rows(model: onnx.ModelProto) -> set[str]:
    """Let linear layers and what lies between them read and give [n_tokens, features], in place.

    Args:
        model: A float32 graph with the input `input_ids` and the shapes of its values.

    Returns:
        Names of the values that are matrices of tokens now; each ends in ".flat".
    """
    graph = model.graph
    values = Values(graph)
    outer = values.shape("input_ids")
    linear = {id(node) for node in linear_nodes(graph)}
    editor = GraphEditor(graph)
    flat: dict[str, str] = {}
    outputs = {output.name for output in graph.output}

    def is_rows(name: str) -> bool:
        shape = values.shape(name)
        return len(shape) == 3 and shape[:2] == outer and isinstance(shape[2], int)

    def fits(node: onnx.NodeProto) -> bool:
        if not all(is_rows(name) for name in node.output):
            return False
        if id(node) in linear:
            return is_rows(node.input[0])
        # The output has to have its own shape, so that its last operation gains nothing.
        if outputs.intersection(node.output) or not any(name in flat for name in node.input):
            return False
        if node.op_type == "LayerNormalization":
            return attribute(node, "axis", -1) in (-1, 2) and len(node.output) == 1
        if node.op_type == "Split":
            return attribute(node, "axis", 0) in (-1, 2)
        # Constants of one dimension mean the same beside matrices; what has the same shape becomes one as well.
        widths = {values.shape(name) for name in node.input if not values.is_constant(name)}
        constants = [values.shape(name) for name in node.input if values.is_constant(name)]
        same = widths == {values.shape(node.output[0])}
        return node.op_type in _ON_EACH_VALUE and same and all(len(shape) < 2 for shape in constants)

    for node in list(graph.node):
        if not fits(node):
            continue
        nodes: list[onnx.NodeProto] = []
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        for position, name in enumerate(node.input):
            if is_rows(name) and name not in flat:
                flat[name] = f"{name}.flat"
                width = values.shape(name)[2]
                shape = editor.constant(f"rows.flat_{width}", np.array([-1, width], dtype=np.int64))
                nodes.append(helper.make_node("Reshape", [name, shape], [flat[name]]))
            changed.input[position] = flat.get(name, name)
        changed.output[:] = [flat.setdefault(name, f"{name}.flat") for name in node.output]
        for entry in changed.attribute:
            if entry.name == "axis":
                entry.i = -1
        nodes.append(changed)
        # Whoever else reads the value finds it as it was; where nobody does, this is dropped again.
        for name in node.output:
            width = values.shape(name)[2]
            nodes.append(helper.make_node("Reshape", [flat[name], _outer_shape(editor, int(width))], [name]))
        editor.replace(node, nodes)
    editor.finish()
    drop_unread(graph)
    return set(flat.values())


def _outer_shape(editor: GraphEditor, width: int) -> str:
    """Name of the shape [batch, length, width]."""
    name = f"rows.shape_{width}"
    if editor.is_new(name):
        if editor.is_new(OUTER_SHAPE):
            editor.put_first(helper.make_node("Shape", ["input_ids"], [OUTER_SHAPE]))
        last = editor.constant(f"rows.width_{width}", np.array([width], dtype=np.int64))
        editor.put_first(helper.make_node("Concat", [OUTER_SHAPE, last], [name], axis=0))
    return name

"""Attention and rotary positions as one operator each, instead of thirty small ones a layer.

An exporter writes attention as it is computed in torch: cut into heads, transpose, rotate (slices, negation,
concatenation), multiply, scale, mask, softmax, multiply, transpose back. At the length of a passage onnxruntime spends
more on these than on the matrices of a small model. Its operators MultiHeadAttention and RotaryEmbedding do the same
arithmetic. Only what is recognised for certain is replaced; everything else stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from edgecolbert_export.fusion import DOMAIN, add_domain
from edgecolbert_export.linear_layers import GraphEditor
from edgecolbert_export.values import Dim, Values, attribute, drop_unread

_TO_HEADS = [0, 2, 1, 3]


@dataclass(frozen=True)
class _Heads:
    """Where the heads [batch, n_heads, length, size] of a query, key or value come from.

    Attributes:
        source: Name of a tensor [batch, length, n_parts * n_heads * size].
        part: Which of the parts it is.
        n_parts: Queries, keys and values often come from one matrix, and then this is 3.
        n_heads: Number of heads.
        size: Size of one.
        angles: Name of the rotation angles [1, length, size / 2], or "" where nothing is rotated.
    """

    source: str
    part: int
    n_parts: int
    n_heads: int
    size: int
    angles: str = ""


@dataclass(frozen=True)
class _Attention:
    """One layer's attention.

    Attributes:
        query: Heads of the queries.
        key: Heads of the keys.
        value: Heads of the values.
        scale: What products are multiplied with before the softmax.
        bias: Name of what is then added, [batch, 1, length, length].
        end: The node whose output [batch, length, n_heads * size] is the result.
    """

    query: _Heads
    key: _Heads
    value: _Heads
    scale: float
    bias: str
    end: onnx.NodeProto


def fuse_attention(model: onnx.ModelProto) -> int:
    """Replace every attention that is recognised, in place.

    Args:
        model: A float32 graph with the shapes of its values.

    Returns:
        How many were replaced.
    """
    values = Values(model.graph)
    found = [
        attention
        for node in model.graph.node
        if node.op_type == "Softmax" and (attention := _recognise(values, node)) is not None
    ]
    if not found:
        return 0
    add_domain(model)
    editor = GraphEditor(model.graph)
    made: set[str] = set()
    for attention in found:
        nodes: list[onnx.NodeProto] = []
        inputs = [_put_heads(editor, heads, made, nodes) for heads in (attention.query, attention.key, attention.value)]
        out = attention.end.output[0]
        nodes.append(
            helper.make_node(
                "MultiHeadAttention",
                [*inputs, "", "", attention.bias],
                [out],
                num_heads=attention.query.n_heads,
                scale=attention.scale,
                domain=DOMAIN,
            )
        )
        editor.replace(attention.end, nodes)
    editor.finish(keep_shapes=True)
    drop_unread(model.graph)
    return len(found)


def _put_heads(editor: GraphEditor, heads: _Heads, made: set[str], nodes: list[onnx.NodeProto]) -> str:
    """Add the nodes that compute a query, key or value [batch, length, n_heads * size]; its name."""
    name = heads.source
    if heads.n_parts > 1:
        parts = [f"{name}.part_{number}" for number in range(heads.n_parts)]
        if parts[0] not in made:
            made.add(parts[0])
            nodes.append(helper.make_node("Split", [name], parts, axis=-1, num_outputs=heads.n_parts))
        name = parts[heads.part]
    if not heads.angles:
        return name
    tables = [f"{heads.angles}.{function.lower()}_table" for function in ("Cos", "Sin")]
    if tables[0] not in made:
        made.add(tables[0])
        first = editor.constant("attention.first_axis", np.array([0], dtype=np.int64))
        rows = f"{heads.angles}.rows"
        nodes.append(helper.make_node("Squeeze", [heads.angles, first], [rows]))
        nodes += [helper.make_node(*each) for each in (("Cos", [rows], tables[:1]), ("Sin", [rows], tables[1:]))]
    rotated = f"{name}.rotated"
    nodes.append(
        helper.make_node(
            "RotaryEmbedding",
            [name, editor.constant("attention.first_position", np.array([0], dtype=np.int64)), *tables],
            [rotated],
            num_heads=heads.n_heads,
            domain=DOMAIN,
        )
    )
    return rotated


def _recognise(values: Values, softmax: onnx.NodeProto) -> _Attention | None:
    if attribute(softmax, "axis", -1) not in (-1, 3):
        return None
    masked = values.maker(softmax.input[0], "Add")
    weighted = values.reader(softmax.output[0], "MatMul")
    if masked is None or weighted is None or weighted.input[0] != softmax.output[0]:
        return None
    scores = [_scores(values, name) for name in masked.input]
    place = 0 if scores[0] is not None else 1
    found, bias = scores[place], masked.input[1 - place]
    joined = values.reader(weighted.output[0], "Transpose")
    if found is None or joined is None or list(attribute(joined, "perm")) != _TO_HEADS:
        return None
    query, key, scale = found
    value, end = _heads(values, weighted.input[1]), values.reader(joined.output[0], "Reshape")
    if value is None or end is None:
        return None
    n_heads, size = query.n_heads, query.size
    outer = values.shape(query.source)[:2]
    same = all((heads.n_heads, heads.size) == (n_heads, size) for heads in (key, value))
    same = same and all(values.shape(heads.source)[:2] == outer for heads in (key, value))
    fits = values.shape(end.output[0]) == (*outer, n_heads * size)
    batch, length = outer
    biased = values.shape(bias) in ((batch, 1, length, length), (1, 1, length, length))
    return _Attention(query, key, value, scale, bias, end) if same and fits and biased else None


def _scores(values: Values, name: str) -> tuple[_Heads, _Heads, float] | None:
    """Query, key and scale of products [batch, n_heads, length, length]."""
    scaled = values.maker(name, "Mul")
    if scaled is None or values.constant(scaled.input[1]) is None:
        return None
    scale = values.constant(scaled.input[1])
    product = values.maker(scaled.input[0], "MatMul")
    if scale is None or scale.size != 1 or product is None:
        return None
    query, turned = _heads(values, product.input[0]), values.maker(product.input[1], "Transpose")
    if query is None or turned is None:
        return None
    order, key = list(attribute(turned, "perm")), None
    if order == [0, 1, 3, 2]:
        key = _heads(values, turned.input[0])
    elif order == [0, 2, 3, 1]:  # transposed to heads and then again
        key = _cut(values, turned.input[0])
    return None if key is None else (query, key, float(scale.reshape(())))


def _heads(values: Values, name: str) -> _Heads | None:
    turned = values.maker(name, "Transpose")
    if turned is not None:
        return _cut(values, turned.input[0]) if list(attribute(turned, "perm")) == _TO_HEADS else None
    return _rotated(values, name)


def _rotated(values: Values, name: str) -> _Heads | None:
    """What x cos + (-second half of x, first half of x) sin rotates, the angles being the same for both halves."""
    total = values.maker(name, "Add")
    if total is None:
        return None
    products = [values.maker(each, "Mul") for each in total.input]
    if products[0] is None or products[1] is None:
        return None
    name, cosine = products[0].input
    swapped, sine = products[1].input
    heads = _heads(values, name)
    angles = {_angles(values, cosine, "Cos"), _angles(values, sine, "Sin")}
    halves = values.maker(swapped, "Concat")
    if heads is None or heads.angles or len(angles) != 1 or halves is None or len(halves.input) != 2:
        return None
    negated = values.maker(halves.input[0], "Neg")
    half = heads.size // 2
    found = angles.pop()
    right = (
        found
        and attribute(halves, "axis") in (-1, 3)
        and negated is not None
        and _is_slice(values, negated.input[0], name, 3, half, heads.size)
        and _is_slice(values, halves.input[1], name, 3, 0, half)
        # Angles that are the same for every text of a batch; the length is that of the text.
        and values.shape(found) == (1, values.shape(heads.source)[1], half)
    )
    return _Heads(heads.source, heads.part, heads.n_parts, heads.n_heads, heads.size, found) if right else None


def _angles(values: Values, name: str, function: str) -> str:
    """Name of a where a value [1, 1, length, size] is a function of (a, a), or ""."""
    spread = values.maker(name, "Unsqueeze")
    if spread is None or _integers(values, spread.input[1]) != [1]:
        return ""
    applied = values.maker(spread.input[0], function)
    twice = applied and values.maker(applied.input[0], "Concat")
    if not twice or attribute(twice, "axis") not in (-1, 2) or len(twice.input) != 2:
        return ""
    first, second = twice.input
    return first if first == second else ""


def _cut(values: Values, name: str) -> _Heads | None:
    """Heads before they are transposed, [batch, length, n_heads, size]."""
    shape = values.shape(name)
    if len(shape) != 4 or not isinstance(shape[2], int) or not isinstance(shape[3], int):
        return None
    n_heads, size = shape[2], shape[3]
    part, n_parts = 0, 1
    squeezed = values.maker(name, "Squeeze")
    if squeezed is not None:
        sliced = values.maker(squeezed.input[0], "Slice")
        if sliced is None or _integers(values, squeezed.input[1]) not in ([-3], [2]):
            return None
        name = sliced.input[0]
        parts, first = values.shape(name), _integers(values, sliced.input[1])
        if len(parts) != 5 or not isinstance(parts[2], int) or not first:
            return None
        part, n_parts = first[0], parts[2]
        if not _is_slice(values, squeezed.input[0], name, 2, part, part + 1):
            return None
    cut = values.maker(name, "Reshape")
    if cut is None:
        return None
    expected: tuple[Dim, ...] = (*shape[:2], n_parts * n_heads * size)
    return _Heads(cut.input[0], part, n_parts, n_heads, size) if values.shape(cut.input[0]) == expected else None


def _is_slice(values: Values, name: str, source: str, axis: int, start: int, end: int) -> bool:
    """Whether a value is source[start:end] along an axis."""
    node = values.maker(name, "Slice")
    if node is None or node.input[0] != source:
        return False
    rank, size = len(values.shape(source)), values.shape(source)[axis]
    starts, ends, axes = (_integers(values, each) for each in node.input[1:4])
    steps = _integers(values, node.input[4]) if len(node.input) > 4 else [1]
    if not isinstance(size, int) or not (len(starts) == len(ends) == len(axes) == 1):
        return False
    found = starts[0], min(ends[0], size), axes[0] % rank, steps
    return found == (start, end, axis, [1])


def _integers(values: Values, name: str) -> list[int]:
    """A stored vector of integers; empty where it is none."""
    constant = values.constant(name)
    return [] if constant is None or constant.dtype != np.int64 else [int(value) for value in constant.reshape(-1)]

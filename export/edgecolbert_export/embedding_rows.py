"""Embedding tables as int8 rows with one scale each: most of a small model's bytes, at no cost in fidelity."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

# Smaller tables (token types) save nothing.
_LEAST_ROWS = 256


def quantize_rows(table: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Round each row to int8 with a scale of its own.

    Args:
        table: float32 [rows, dim].

    Returns:
        int8 [rows, dim] and float32 [rows, 1]; their product is the table, off by at most half a scale. A zero row
        stays zero.
    """
    scales = np.abs(table).max(axis=1, keepdims=True) / np.float32(127)
    scales = np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
    return np.clip(np.rint(table / scales), -127, 127).astype(np.int8), scales


def quantize_embedding_tables(model: onnx.ModelProto) -> list[str]:
    """Replace every lookup in a large float table by lookups in int8 rows and their scales, in place.

    Args:
        model: A graph whose tables are initializers read by Gather along the first axis.

    Returns:
        Names of the tables that were replaced.
    """
    graph = model.graph
    tables = {
        initializer.name: initializer
        for initializer in graph.initializer
        if initializer.data_type == onnx.TensorProto.FLOAT
        and len(initializer.dims) == 2
        and initializer.dims[0] >= _LEAST_ROWS
    }
    readers: dict[str, list[onnx.NodeProto]] = {name: [] for name in tables}
    for node in graph.node:
        for name in node.input:
            if name in readers:
                readers[name].append(node)
    replaced = []
    for name, nodes in readers.items():
        if not nodes or not all(_is_row_lookup(node, name) for node in nodes):
            continue
        rows, scales = quantize_rows(numpy_helper.to_array(tables[name]))
        graph.initializer.remove(tables[name])
        graph.initializer.append(numpy_helper.from_array(rows, f"{name}.rows"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{name}.scales"))
        for node in nodes:
            position = list(graph.node).index(node)
            out, indices = node.output[0], node.input[1]
            graph.node.remove(node)
            lookup = [
                helper.make_node("Gather", [f"{name}.rows", indices], [f"{out}.rows"], axis=0),
                helper.make_node("Cast", [f"{out}.rows"], [f"{out}.float"], to=onnx.TensorProto.FLOAT),
                helper.make_node("Gather", [f"{name}.scales", indices], [f"{out}.scales"], axis=0),
                helper.make_node("Mul", [f"{out}.float", f"{out}.scales"], [out]),
            ]
            for offset, new in enumerate(lookup):
                new.name = new.output[0]
                graph.node.insert(position + offset, new)
        replaced.append(name)
    return replaced


def _is_row_lookup(node: onnx.NodeProto, table: str) -> bool:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return node.op_type == "Gather" and node.input[0] == table and axis == 0

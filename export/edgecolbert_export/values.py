"""Who makes and who reads the values of an ONNX graph, and what is known of their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Dim = int | str


class Values:
    """Look-ups in a graph as it was when this was made.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._stored = {initializer.name: initializer for initializer in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        self._outputs = {output.name for output in graph.output}
        for node in graph.node:
            for name in read_names([node]):
                self._readers.setdefault(name, []).append(node)
        self._shapes: dict[str, tuple[Dim, ...]] = {
            name: tuple(initializer.dims) for name, initializer in self._stored.items()
        }
        for value in (*graph.value_info, *graph.input, *graph.output):
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                # A dimension of which nothing is known equals no other.
                self._shapes[value.name] = tuple(
                    dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}.{position}"
                    for position, dim in enumerate(dims)
                )

    def shape(self, name: str) -> tuple[Dim, ...]:
        """Its dimensions: numbers, or names of those that differ from call to call; () where nothing is known."""
        return self._shapes.get(name, ())

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """A stored constant, or None."""
        stored = self._stored.get(name)
        return None if stored is None else numpy_helper.to_array(stored)

    def is_constant(self, name: str) -> bool:
        """Whether the value is stored in the graph."""
        return name in self._stored

    def n_readers(self, name: str) -> int:
        """How many inputs of nodes and outputs of the graph the value is."""
        return len(self._readers.get(name, [])) + (name in self._outputs)

    def maker(self, name: str, operator: str) -> onnx.NodeProto | None:
        """The node that computes a value, if it is of that operator."""
        node = self._makers.get(name)
        return node if node is not None and node.op_type == operator else None

    def reader(self, name: str, operator: str) -> onnx.NodeProto | None:
        """The only node that reads a value, if it is of that operator."""
        found = self._readers.get(name, [])
        return found[0] if self.n_readers(name) == 1 and found and found[0].op_type == operator else None


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute.

    Args:
        node: The node.
        name: Name of the attribute.
        default: What it is where the node does not say.

    Returns:
        The value.
    """
    for found in node.attribute:
        if found.name == name:
            return helper.get_attribute_value(found)
    return default


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes and constants that no output depends on, in place.

    Args:
        graph: The graph.
    """
    read = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            kept.append(node)
            read |= set(read_names([node]))
    constants = [initializer for initializer in graph.initializer if initializer.name in read]
    del graph.node[:]
    graph.node.extend(reversed(kept))
    del graph.initializer[:]
    graph.initializer.extend(constants)


def read_names(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """Names that nodes read, those inside branches and loops included.

    Args:
        nodes: The nodes.

    Returns:
        The names, with repetitions.
    """
    names: list[str] = []
    for node in nodes:
        names += [name for name in node.input if name]
        for found in node.attribute:
            if found.type == onnx.AttributeProto.GRAPH:
                names += [*read_names(found.g.node), *(output.name for output in found.g.output)]
    return names

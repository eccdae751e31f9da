"""The linear layers of an ONNX graph: finding them, seeing what flows into them, and replacing nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from edgecolbert_export.values import read_names

FloatArray = npt.NDArray[np.float32]
Feeds = Mapping[str, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class ActivationRange:
    """What was seen to flow into a linear layer.

    Attributes:
        largest: float32 [in_features], largest absolute value of each channel.
        lowest: Smallest value of any channel.
        highest: Largest value of any channel.
    """

    largest: FloatArray
    lowest: float
    highest: float


def linear_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Every MatMul whose second input is a float32 matrix that is stored in the graph.

    Args:
        graph: The graph.

    Returns:
        The nodes, in order.
    """
    matrices = {
        initializer.name
        for initializer in graph.initializer
        if len(initializer.dims) == 2 and initializer.data_type == onnx.TensorProto.FLOAT
    }
    return [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in matrices]


def observe(model: onnx.ModelProto, feeds: Iterable[Feeds]) -> dict[str, ActivationRange]:
    """Run texts through a float32 graph and record the range of every linear layer's input.

    Args:
        model: The graph; it is left as it is.
        feeds: Inputs of the graph, one for each text.

    Returns:
        The range of each input, by its name in the graph.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = sorted({node.input[0] for node in linear_nodes(watched.graph)})
    for name in names:
        watched.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content = watched.SerializeToString()
    del watched  # a copy of every weight, which the session has as well
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    seen: dict[str, ActivationRange] = {}
    for feed in feeds:
        for name, value in zip(names, session.run(names, dict(feed)), strict=True):
            rows = value.reshape(-1, value.shape[-1])
            largest, lowest, highest = np.abs(rows).max(axis=0), float(rows.min()), float(rows.max())
            if (before := seen.get(name)) is not None:
                largest = np.maximum(largest, before.largest)
                lowest, highest = min(lowest, before.lowest), max(highest, before.highest)
            seen[name] = ActivationRange(largest, lowest, highest)
    return seen


class GraphEditor:
    """Adds constants to a graph and puts nodes in the place of others.

    Args:
        graph: The graph that is edited in place.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._stored = {initializer.name: initializer for initializer in graph.initializer}
        self._replacements: dict[int, list[onnx.NodeProto]] = {}
        self._first: list[onnx.NodeProto] = []

    def put_first(self, *nodes: onnx.NodeProto) -> None:
        """Add nodes that read only the graph's inputs and constants.

        Args:
            *nodes: The nodes.
        """
        self._first += nodes

    def array(self, name: str) -> npt.NDArray[Any]:
        """Value of a stored constant."""
        value: npt.NDArray[Any] = numpy_helper.to_array(self._stored[name])
        return value

    def constant(self, name: str, value: Any) -> str:
        """Store a constant.

        Args:
            name: Its name; a constant of that name is kept as it is.
            value: A numpy array or scalar.

        Returns:
            The name.
        """
        if name not in self._stored:
            self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
            self._stored[name] = self._graph.initializer[-1]
        return name

    def has(self, name: str) -> bool:
        """Whether there is a constant of that name."""
        return name in self._stored

    def change(self, name: str, value: npt.NDArray[Any]) -> None:
        """Give a constant another value.

        Args:
            name: Name of a stored constant.
            value: The new value.
        """
        self._stored[name].CopyFrom(numpy_helper.from_array(value, name))

    def add_to_bias(self, name: str, summand: FloatArray) -> bool:
        """Add a constant to the bias that follows a value.

        Args:
            name: The value, [..., features].
            summand: float32 [features].

        Returns:
            Whether that was possible: only if all that reads the value is one addition of a stored vector. Otherwise
            nothing is changed.
        """
        readers = [node for node in self._graph.node if name in node.input]
        if len(readers) != 1 or readers[0].op_type != "Add":
            return False
        position = 1 if readers[0].input[0] == name else 0
        stored = self._stored.get(readers[0].input[position])
        if stored is None or list(stored.dims) != [len(summand)]:
            return False
        readers[0].input[position] = self.constant(f"{name}.bias", numpy_helper.to_array(stored) + summand)
        return True

    def is_new(self, name: str) -> bool:
        """Whether no node of `put_first` computes this value yet."""
        return all(name not in node.output for node in self._first)

    def replace(self, node: onnx.NodeProto, nodes: list[onnx.NodeProto]) -> None:
        """Put nodes in the place of one.

        Args:
            node: A node of the graph.
            nodes: What comes instead, the last with the same output.
        """
        self._replacements[id(node)] = nodes

    def finish(self, *, keep_shapes: bool = False) -> None:
        """Carry out the replacements and drop the constants that nothing reads any more.

        Args:
            keep_shapes: Keep what is known of intermediate values: only where those that are left mean the same.
        """
        replaced = [new for node in self._graph.node for new in self._replacements.get(id(node), [node])]
        nodes = self._first + replaced
        for number, node in enumerate(nodes):
            node.name = f"{node.op_type}_{number}"
        read = set(read_names(nodes)) | {output.name for output in self._graph.output}
        kept = [initializer for initializer in self._graph.initializer if initializer.name in read]
        # Types of intermediate values that no longer exist would contradict the new nodes.
        if not keep_shapes:
            del self._graph.value_info[:]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

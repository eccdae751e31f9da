"""Weights stored in float16: half the file, the speed of float32."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

# Small constants save nothing, and some of them (epsilons) are too small for float16.
_LEAST_VALUES = 1024


def store_in_half_precision(model: onnx.ModelProto) -> None:
    """Store large float32 constants as float16 and convert them back where they are read, in place.

    onnxruntime converts once, when it loads the graph, so memory and speed are those of float32. Computing in float16
    would be slower on most processors: few have such instructions.

    Args:
        model: The graph.
    """
    graph = model.graph
    large = [
        initializer
        for initializer in graph.initializer
        if initializer.data_type == onnx.TensorProto.FLOAT and np.prod(initializer.dims) >= _LEAST_VALUES
    ]
    for number, initializer in enumerate(large):
        name = initializer.name
        limit = float(np.finfo(np.float16).max)
        halved = np.clip(numpy_helper.to_array(initializer), -limit, limit).astype(np.float16)
        graph.initializer.remove(initializer)
        graph.initializer.append(numpy_helper.from_array(halved, f"{name}.half"))
        cast = helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.cast", to=onnx.TensorProto.FLOAT)
        graph.node.insert(number, cast)

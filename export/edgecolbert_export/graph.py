"""One float32 ONNX graph per model: backbone, every Dense layer, L2 normalisation of each row (R32)."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from torch import nn

from edgecolbert.errors import ModelFormatError
from edgecolbert_export.dense import DenseLayer, DenseModule
from edgecolbert_export.quiet import quiet

OPSET = 18
OUTPUT_NAME = "token_embeddings"
_EPSILON = 1e-12  # of torch.nn.functional.normalize, which PyLate calls


class TokenEmbeddingModel(nn.Module):  # type: ignore[misc] # torch is no dependency of the type check
    """Token ids to normalised token embeddings.

    Args:
        backbone: A transformer whose first output is [batch, length, hidden].
        layers: The Dense layers in the order of execution.
    """

    def __init__(self, backbone: nn.Module, layers: tuple[DenseLayer, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.dense = nn.Sequential(*(DenseModule(layer) for layer in layers))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Encode token ids.

        `token_type_ids` is no input: a single text is all type 0 (R23), which every backbone assumes by itself.

        Args:
            input_ids: int64 [batch, length].
            attention_mask: int64 [batch, length].

        Returns:
            float32 [batch, length, dim], rows of unit length; rows of padding are to be ignored.
        """
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask)[0]
        return nn.functional.normalize(self.dense(hidden), dim=-1, eps=_EPSILON)


def export_graph(model: TokenEmbeddingModel) -> onnx.ModelProto:
    """Export the model to ONNX in memory, weights inside.

    Args:
        model: The float32 model.

    Returns:
        A graph with the int64 inputs `input_ids` and `attention_mask` [batch, length] and the float32 output
        `token_embeddings` [batch, length, dim], batch and length dynamic.

    Raises:
        ModelFormatError: If the backbone cannot be traced.
    """
    # Two different sizes above one: equal or unit sizes would be taken for constants of the model.
    ids = torch.ones(2, 7, dtype=torch.int64)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    shape = {0: batch, 1: length}
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                model,
                (ids, torch.ones_like(ids)),
                input_names=["input_ids", "attention_mask"],
                output_names=[OUTPUT_NAME],
                dynamic_shapes={"input_ids": shape, "attention_mask": shape},
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                optimize=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ModelFormatError(untraceable(model, "torch.onnx", error)) from error
    if program is None:  # only the older exporter returns nothing
        raise RuntimeError("torch.onnx.export returned no program")
    return finish_graph(program.model_proto)


def untraceable(model: TokenEmbeddingModel, exporter: str, error: Exception) -> str:
    """What to say of a backbone that an exporter cannot trace.

    Args:
        model: The model.
        exporter: Name of the exporter.
        error: What it raised.

    Returns:
        The message.
    """
    # The cause is the last of several exceptions and often of many lines; its first line names it.
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = next(iter(str(cause).strip().splitlines()), "")
    return (
        f"The architecture {model.backbone.config.model_type!r} cannot be exported by {exporter}: its code does what a "
        f"graph for every length cannot do ({type(cause).__name__}: {reason}). Use a checkpoint of another "
        "architecture, or another version of transformers."
    )


def finish_graph(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Take out what only describes the export itself, in place, and check the graph.

    Args:
        proto: A graph fresh from an exporter.

    Returns:
        The same graph.
    """
    # Names and doc strings of the exporting machine's source lines would make equal models unequal files.
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    halve_gelu_last(proto.graph)
    onnx.checker.check_model(proto)
    return proto


def halve_gelu_last(graph: onnx.GraphProto) -> int:
    """Write GELU as (x (1 + erf)) 0.5 where it is x (0.5 (1 + erf)), in place.

    onnxruntime recognises and fuses only the first, worth 2 to 6% of a BERT of 2 x 128 in int8-fast; halving is exact,
    so the two are the same to the last bit.

    Args:
        graph: The graph.

    Returns:
        How many were rewritten.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    halves = {
        initializer.name
        for initializer in graph.initializer
        if initializer.data_type == onnx.TensorProto.FLOAT
        and not initializer.dims
        and onnx.numpy_helper.to_array(initializer) == np.float32(0.5)
    }

    def only_reader(node: onnx.NodeProto, operator: str) -> onnx.NodeProto | None:
        found = readers.get(node.output[0], [])
        return found[0] if len(found) == 1 and found[0].op_type == operator else None

    rewritten = 0
    for erf in [node for node in graph.node if node.op_type == "Erf"]:
        increased = only_reader(erf, "Add")
        halved = increased and only_reader(increased, "Mul")
        product = halved and only_reader(halved, "Mul")
        if increased is None or halved is None or product is None:
            continue
        half = [name for name in halved.input if name in halves]
        values = [name for name in product.input if name != halved.output[0]]
        if len(half) == 1 and len(values) == 1:
            halved.input[:] = [values[0], increased.output[0]]
            product.input[:] = [halved.output[0], half[0]]
            rewritten += 1
    return rewritten

"""One float32 ONNX graph per model: backbone, every Dense layer, L2 normalisation of each row (R32)."""

from __future__ import annotations

import onnx
import torch
from torch import nn

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
    """
    # Two different sizes above one: equal or unit sizes would be taken for constants of the model.
    ids = torch.ones(2, 7, dtype=torch.int64)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    shape = {0: batch, 1: length}
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
    if program is None:  # only the older exporter returns nothing
        raise RuntimeError("torch.onnx.export returned no program")
    proto = program.model_proto
    # Names and doc strings of the exporting machine's source lines would make equal models unequal files.
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    onnx.checker.check_model(proto)
    return proto

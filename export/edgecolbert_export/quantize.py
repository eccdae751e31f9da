"""Quantisation profiles: what a float32 graph becomes before it ships (figures in docs/export.md)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from edgecolbert.errors import InputError
from edgecolbert_export.attention import fuse_attention
from edgecolbert_export.blocks import BLOCK, bound_attention
from edgecolbert_export.embedding_rows import quantize_embedding_tables
from edgecolbert_export.fusion import fuse_gelu, keep_residual_sums
from edgecolbert_export.half_precision import store_in_half_precision
from edgecolbert_export.linear_layers import Feeds, observe
from edgecolbert_export.per_token import quantize_per_token
from edgecolbert_export.quiet import quiet
from edgecolbert_export.rows import flatten_rows
from edgecolbert_export.verify import FP32_TOLERANCES, Tolerances

# Level 4 multiplies int8 by int8 with one activation scale for each token and block.
_ACCURACY_LEVEL = 4


@dataclass(frozen=True)
class Profile:
    """One way to quantise.

    Attributes:
        name: As given to `--profile` and recorded in the manifest.
        description: One line for the model card.
        tolerances: What it may differ from the reference by, unless a recipe says otherwise.
        batch_independent: Whether a text's values are the same alone and in a padded batch. The runtime encodes one
            text at a time, so this matters to other users of the graph only.
        block_size: Weights that share one scale along the input axis; 0 where the profile has no such blocks.
    """

    name: str
    description: str
    tolerances: Tolerances
    batch_independent: bool
    block_size: int = 0

    def describe(self) -> dict[str, Any]:
        """What the manifest records of it."""
        return {
            "description": self.description,
            "batch_independent": self.batch_independent,
            "block_size": self.block_size or None,
        }


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("fp32", "float32 throughout", FP32_TOLERANCES, batch_independent=True),
        Profile(
            "fp16",
            "weights stored in float16, computed in float32",
            Tolerances(cosine_mean=0.9999, cosine_p1=0.9999, ranking_agreement=0.99),
            batch_independent=True,
        ),
        Profile(
            "int8",
            "8-bit weights in blocks of 32 with a scale each, int8 activations with a scale for each token and block, "
            "int8 embedding rows",
            Tolerances(cosine_mean=0.9995, cosine_p1=0.998, ranking_agreement=0.97),
            batch_independent=True,
            block_size=32,
        ),
        Profile(
            "int8-fast",
            "8-bit weights with a scale for each output channel, smoothed int8 activations with a scale for each "
            "token, int8 embedding rows",
            Tolerances(cosine_mean=0.998, cosine_p1=0.99, ranking_agreement=0.95),
            batch_independent=True,
        ),
        # Faster than int8-fast for narrow models (hidden 128), and as faithful where activations have no outliers.
        Profile(
            "int8-dynamic",
            "8-bit weights with a scale for each output channel, int8 activations with one scale for a text, int8 "
            "embedding rows",
            Tolerances(cosine_mean=0.998, cosine_p1=0.99, ranking_agreement=0.95),
            batch_independent=False,
        ),
    )
}
DEFAULT_PROFILE = "int8"


def find_profile(name: str) -> Profile:
    """The profile of that name.

    Args:
        name: A key of `PROFILES`.

    Returns:
        The profile.

    Raises:
        InputError: If there is none.
    """
    if name not in PROFILES:
        raise InputError(f"profile is {name!r}, expected one of {', '.join(PROFILES)}.")
    return PROFILES[name]


def quantize(
    model: onnx.ModelProto, profile: Profile, feeds: Iterable[Feeds], *, longest: int | None = None
) -> onnx.ModelProto:
    """Quantise a float32 graph.

    Args:
        model: The graph; it is left as it is.
        profile: What to make of it.
        feeds: Inputs of the graph for some typical texts, which show where activations are large.
        longest: Most tokens of a text; None where it is not known.

    Returns:
        A new graph with the same inputs and outputs.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    keep_residual_sums(quantized)
    if profile.name == "fp32":
        return quantized
    if profile.name == "fp16":
        store_in_half_precision(quantized)
        return quantized
    # The floating-point profiles keep to the operators of the ONNX standard, which run elsewhere too.
    fuse_attention(quantized)
    fuse_gelu(quantized)
    if profile.name == "int8-fast":
        rows = flatten_rows(quantized)
        quantize_per_token(quantized, observe(quantized, feeds), rows)
    quantize_embedding_tables(quantized)
    if profile.block_size:
        quantized = _quantize_blockwise(quantized, profile.block_size)
    elif profile.name == "int8-dynamic":
        quantized = _quantize_dynamic(quantized)
    # Last, because those tools look into no branches. Deciding costs a few percent of the time of a short text, which
    # only long ones pay back.
    if longest is None or longest > 2 * BLOCK:
        bound_attention(quantized)
    return quantized


def _quantize_blockwise(model: onnx.ModelProto, block_size: int) -> onnx.ModelProto:
    settings = DefaultWeightOnlyQuantConfig(
        block_size=block_size,
        is_symmetric=True,
        accuracy_level=_ACCURACY_LEVEL,
        bits=8,
        op_types_to_quantize=("MatMul",),
    )
    with quiet():
        quantizer = MatMulNBitsQuantizer(model, algo_config=settings)
        quantizer.process()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _quantize_dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    with quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize_dynamic(
            model,
            path,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(path)

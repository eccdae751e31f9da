"""Fused attention, matrices of tokens, and attention in blocks: the same values as the graph they are made from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import onnx
import onnxruntime
from edgecolbert_export.attention import fuse_attention
from edgecolbert_export.blocks import BLOCK, bound_attention
from edgecolbert_export.fusion import fuse_gelu
from edgecolbert_export.quantize import PROFILES, quantize
from edgecolbert_export.rows import flatten_rows
from exporting import float_model
from tiny_checkpoints import tiny_bert_checkpoint, tiny_modernbert_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")
TOLERANCE = 1e-5
Graph = onnx.ModelProto


@pytest.fixture(scope="module")
def modernbert(tmp_path_factory) -> Graph:
    """Three layers, the first global and two local with a window of 8 to either side."""
    return float_model(tiny_modernbert_checkpoint(tmp_path_factory.mktemp("modernbert") / "tiny"))[1]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Graph:
    """Two layers."""
    return float_model(tiny_bert_checkpoint(tmp_path_factory.mktemp("bert") / "tiny"))[1]


def changed(model: Graph, *changes: Callable[[Graph], object]) -> Graph:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for change in changes:
        change(copy)
    onnx.checker.check_model(copy)
    return copy


def operators(model: Graph) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def feed(length: int, *masked: slice) -> dict[str, np.ndarray]:
    """One text, or as many as there are ranges of masked tokens."""
    ids = np.random.default_rng(length).integers(5, 250, (max(1, len(masked)), length))
    mask = np.ones_like(ids)
    for row, where in enumerate(masked):
        mask[row, where] = 0
    return {"input_ids": ids, "attention_mask": mask}


def run(model: Graph, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def assert_same(expected: Graph, found: Graph, *feeds: dict[str, np.ndarray]) -> None:
    for each in feeds:
        assert np.abs(run(expected, each) - run(found, each)).max() <= TOLERANCE


SHORT = (feed(1), feed(23), feed(60, slice(0, 0), slice(40, 60), slice(3, 30)))


def test_rotary_attention_becomes_three_operators_a_layer(modernbert):
    fused = changed(modernbert, fuse_attention)
    found = operators(fused)
    assert (found["MultiHeadAttention"], found["RotaryEmbedding"], found["Softmax"], found["Neg"]) == (3, 6, 0, 0)
    assert_same(modernbert, fused, *SHORT)


def test_attention_without_positions_becomes_one_operator_a_layer(bert):
    fused = changed(bert, fuse_attention)
    assert operators(fused)["MultiHeadAttention"] == 2
    assert operators(fused)["Transpose"] == 0
    assert_same(bert, fused, *SHORT)


@pytest.mark.parametrize("perm", [[0, 1, 3, 2], [0, 3, 1, 2]])
def test_attention_that_is_not_understood_is_left_alone(bert, perm):
    def spoil(model: Graph) -> None:
        for node in model.graph.node:
            if node.op_type == "Transpose" and list(node.attribute[0].ints) == [0, 2, 3, 1]:
                node.attribute[0].ints[:] = perm

    other = onnx.ModelProto()
    other.CopyFrom(bert)
    spoil(other)
    before = other.SerializeToString()
    assert fuse_attention(other) == 0
    assert other.SerializeToString() == before


def test_a_rotation_by_other_angles_for_one_half_is_left_alone(modernbert):
    other = onnx.ModelProto()
    other.CopyFrom(modernbert)
    sines = [node for node in other.graph.node if node.op_type == "Sin"]
    for sine in sines:
        sine.op_type = "Tan"
    assert fuse_attention(other) == 0


def test_no_shape_is_changed_between_two_attentions(modernbert):
    flat = changed(modernbert, fuse_attention, fuse_gelu, flatten_rows)
    # Into rows before the first layer and behind each attention, out of them before each attention and at the end.
    assert operators(flat)["Reshape"] == 1 + 3 + 3 + 1
    assert operators(flat)["Gelu"] == 4
    assert_same(modernbert, flat, *SHORT)


def test_rows_of_bert_are_the_same(bert):
    flat = changed(bert, fuse_attention, fuse_gelu, flatten_rows)
    assert_same(bert, flat, *SHORT)


def test_values_of_another_shape_are_not_made_into_rows():
    # The second summand is the same for every text of a batch, so that it has no row for each token.
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (int64[batch, length] input_ids, float[batch, length, 2] x, '
        "float[1, length, 2] p) => (float[batch, length, 2] y) <float[2, 2] w = {1, 2, 3, 4}, float[batch, length, 2] "
        "z> { z = MatMul(x, w) y = Add(z, p) }"
    )
    flat = changed(model, flatten_rows)
    x, p = np.ones((2, 3, 2), dtype=np.float32), np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    feeds = {"input_ids": np.zeros((2, 3), dtype=np.int64), "x": x, "p": p}
    assert operators(flat)["Reshape"] == 2
    assert np.array_equal(run(model, feeds), run(flat, feeds))


@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 600])
def test_blocks_give_the_same_values(modernbert, length):
    blocks = changed(modernbert, fuse_attention, bound_attention)
    assert operators(blocks)["If"] == 4  # one chooses the masks
    assert operators(blocks)["MultiHeadAttention"] == 0
    assert_same(modernbert, blocks, feed(length), feed(length, slice(0, 0), slice(0, 0)))


def test_blocks_are_not_used_where_a_token_is_masked(modernbert):
    blocks = changed(modernbert, fuse_attention, bound_attention)
    # Whole windows without an attended token: their rows attend to everything equally.
    assert_same(modernbert, blocks, feed(300, slice(100, 200)), feed(300, slice(0, 0), slice(150, 300)))


def test_no_value_of_a_long_text_grows_with_the_square_of_it(modernbert, tmp_path):
    blocks = changed(modernbert, fuse_attention, bound_attention)
    length = 2048
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(blocks.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, feed(length))
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    sizes = [int(event["args"]["output_size"]) for event in events if event.get("args", {}).get("output_size")]
    assert sizes
    assert max(sizes) < length * length


def test_only_graphs_with_local_layers_are_cut_into_blocks(bert):
    fused = changed(bert, fuse_attention)
    assert bound_attention(fused) == 0
    assert operators(fused)["If"] == 0


def test_a_mask_of_another_kind_is_not_cut_into_blocks(modernbert):
    """What a decoder has: a token sees only those before it."""
    fused = changed(modernbert, fuse_attention)
    for node in fused.graph.node:
        if node.op_type == "Abs":
            node.op_type = "Identity"
    assert bound_attention(fused) == 0


def test_int8_profiles_have_all_of_it_and_exact_ones_only_standard_operators(modernbert):
    feeds = [feed(40)]
    for name, profile in PROFILES.items():
        model = quantize(modernbert, profile, feeds)
        is_exact = name in ("fp32", "fp16")
        assert (operators(model)["If"] == 0) == is_exact
        assert {node.domain for node in model.graph.node} <= ({"", "ai.onnx"} if is_exact else {"", "com.microsoft"})


def test_a_model_of_short_texts_has_no_blocks(modernbert):
    branches = {
        longest: operators(quantize(modernbert, PROFILES["int8-fast"], [feed(40)], longest=longest))["If"]
        for longest in (2 * BLOCK, 2 * BLOCK + 1)
    }
    assert branches[2 * BLOCK] == 0
    assert branches[2 * BLOCK + 1] > 0


def test_long_texts_are_faithful_in_int8_fast(modernbert):
    shipped = quantize(modernbert, PROFILES["int8-fast"], [feed(40)])
    expected, found = run(modernbert, feed(300)), run(shipped, feed(300))
    assert (expected * found).sum(axis=-1).mean() > 0.99

"""Quantisation: the parts against plain arithmetic, and every profile on a tiny model."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import onnx
import onnxruntime
from edgecolbert_export.backbone import load_backbone
from edgecolbert_export.checkpoint import read_checkpoint
from edgecolbert_export.embedding_rows import quantize_rows
from edgecolbert_export.graph import TokenEmbeddingModel, export_graph
from edgecolbert_export.per_token import quantize_columns, smoothing
from edgecolbert_export.quantize import PROFILES, find_profile, quantize
from edgecolbert_export.tokens import read_tokenizer
from tiny_checkpoints import tiny_bert_checkpoint, tiny_modernbert_checkpoint

from edgecolbert.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")


def feeds(seed: int, lengths: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    rows = [generator.integers(5, 250, (1, length)) for length in lengths]
    return [{"input_ids": ids, "attention_mask": np.ones_like(ids)} for ids in rows]


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


@pytest.fixture(scope="module", params=[tiny_bert_checkpoint, tiny_modernbert_checkpoint])
def graph(request, tmp_path_factory):
    checkpoint = read_checkpoint(request.param(tmp_path_factory.mktemp("checkpoint") / "tiny"))
    backbone = load_backbone(checkpoint, read_tokenizer(checkpoint).size)
    return export_graph(TokenEmbeddingModel(backbone, checkpoint.dense))


def test_rows_of_a_table_are_off_by_at_most_half_a_step():
    table = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    table[7] = 0
    rows, scales = quantize_rows(table)
    assert np.abs(rows * scales - table).max() <= scales.max() / 2 + 1e-7
    assert not rows[7].any()


def test_columns_of_a_matrix_are_off_by_at_most_half_a_step():
    matrix = np.random.default_rng(0).normal(size=(16, 30)).astype(np.float32)
    matrix[:, 3] = 0
    columns, scales = quantize_columns(matrix)
    assert np.abs(columns * scales - matrix).max() <= scales.max() / 2 + 1e-7
    assert not columns[:, 3].any()


def test_smoothing_lowers_outlier_channels_and_survives_dead_ones():
    largest = np.array([1, 100, 0, 1], dtype=np.float32)
    factors = smoothing(largest, [np.ones((4, 3), dtype=np.float32), np.full((4, 2), 0.5, dtype=np.float32)])
    assert np.isfinite(factors).all()
    assert factors[1] / factors[0] == pytest.approx(10)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_profile_is_faithful_to_the_float_graph(graph, name):
    quantized = quantize(graph, PROFILES[name], feeds(0, (5, 17, 40)))
    onnx.checker.check_model(quantized)
    for feed in feeds(1, (1, 3, 23, 60)):
        expected, found = run(graph, feed), run(quantized, feed)
        assert found.shape == expected.shape
        # Random weights of this size are far rougher than trained ones.
        assert (expected * found).sum(axis=-1).mean() > 0.99


@pytest.mark.parametrize("name", sorted(name for name, profile in PROFILES.items() if profile.batch_independent))
def test_profile_that_says_so_does_not_depend_on_batch_companions(graph, name):
    quantized = quantize(graph, PROFILES[name], feeds(0, (5, 17, 40)))
    short, long = feeds(2, (9, 40))
    alone = run(quantized, short)[0]
    ids = np.zeros((2, 40), dtype=np.int64)
    mask = np.zeros_like(ids)
    ids[0, :9], mask[0, :9] = short["input_ids"], 1
    ids[1], mask[1] = long["input_ids"], 1
    together = run(quantized, {"input_ids": ids, "attention_mask": mask})[0, :9]
    # A rounding step may fall the other way when a sum is computed in another order.
    assert (alone * together).sum(axis=-1).min() > 0.9999


def test_int8_profiles_have_int8_embedding_rows(graph):
    for name in ("int8", "int8-fast", "int8-dynamic"):
        quantized = quantize(graph, PROFILES[name], feeds(0, (5, 17)))
        tables = [i for i in quantized.graph.initializer if len(i.dims) == 2 and i.dims[0] > 250 and i.dims[1] == 32]
        assert [table.data_type for table in tables] == [onnx.TensorProto.INT8]


def test_quantising_leaves_the_float_graph_as_it_is(graph):
    before = graph.SerializeToString()
    for profile in PROFILES.values():
        quantize(graph, profile, feeds(0, (5,)))
    assert graph.SerializeToString() == before


def test_residual_sums_stay_out_of_the_slow_fusion(graph):
    quantized = quantize(graph, PROFILES["fp32"], [])
    normalized = {node.input[0] for node in quantized.graph.node if node.op_type == "LayerNormalization"}
    assert not [node for node in quantized.graph.node if node.op_type == "Add" and node.output[0] in normalized]


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(InputError, match=r"int4.*int8-fast"):
        find_profile("int4")

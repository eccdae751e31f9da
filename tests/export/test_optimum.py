"""`--exporter optimum`: the same wrapper by way of optimum's exporter, in an environment of its own.

Everything behind the graph is the pipeline's usual way. PyLate is asked where it is installed; otherwise the graph is
held against torch itself.
"""

from __future__ import annotations

import importlib.metadata
import warnings

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("torch")
# Both warn of torch's plans when they are first imported, here in transformers 4.57.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("optimum.exporters.onnx")
    import transformers.models.modernbert.modeling_modernbert  # noqa: F401

import torch
from edgecolbert_export import backbone, cli, graph, optimum_exporter
from edgecolbert_export.checkpoint import read_checkpoint
from edgecolbert_export.reference import installed_versions
from edgecolbert_export.tokens import read_tokenizer
from exporting import export
from tiny_checkpoints import change_json, tiny_bert_checkpoint, tiny_modernbert_checkpoint

from edgecolbert.errors import ModelFormatError
from edgecolbert.goldens import check_goldens
from edgecolbert.manifest import ModelManifest

pytestmark = pytest.mark.filterwarnings("ignore")
HAS_PYLATE = bool(installed_versions("pylate"))


def wrapped(checkpoint_folder) -> graph.TokenEmbeddingModel:
    checkpoint = read_checkpoint(checkpoint_folder)
    model = backbone.load_backbone(checkpoint, read_tokenizer(checkpoint).size)
    return graph.TokenEmbeddingModel(model, checkpoint.dense).eval()


@pytest.mark.parametrize("make", [tiny_bert_checkpoint, tiny_modernbert_checkpoint])
def test_graph_is_that_of_torch_with_every_dense_layer(tmp_path, make):
    model = wrapped(make(tmp_path / "checkpoint"))
    proto = optimum_exporter.export_graph(model)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert session.get_outputs()[0].name == graph.OUTPUT_NAME
    generator = np.random.default_rng(0)
    for batch, length in ((1, 1), (1, 40), (3, 17), (2, 64)):
        ids = generator.integers(5, 256, (batch, length))
        mask = np.ones_like(ids)
        mask[-1, (length + 1) // 2 :] = 0
        with torch.no_grad():
            expected = model(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        found = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        assert found.shape == (batch, length, 16)
        assert np.abs(found - expected)[mask > 0].max() <= 1e-5


@pytest.mark.parametrize("profile", ["int8", "int8-fast", "int8-dynamic", "fp16"])
def test_profiles_verification_and_certificate_are_the_same(tmp_path, profile):
    manifest = export(
        tiny_bert_checkpoint(tmp_path / "checkpoint"),
        tmp_path / "out",
        exporter="optimum",
        profile=profile,
        verify=HAS_PYLATE,
    )
    exporter = manifest.export["exporter"]
    assert exporter["name"] == "optimum"
    assert exporter["versions"]["optimum-onnx"] == importlib.metadata.version("optimum-onnx")
    assert manifest.export["profile"]["description"]
    if HAS_PYLATE:
        assert manifest.verification["fp32"]["equal_ids"]
        assert manifest.verification["fp32"]["max_difference"] <= 1e-5
        assert check_goldens(manifest).problems == ()


def test_command_has_the_option(tmp_path):
    checkpoint, out = tiny_modernbert_checkpoint(tmp_path / "checkpoint"), tmp_path / "out"
    assert cli.main([str(checkpoint), str(out), "--exporter", "optimum", "--no-verify", "--profile", "int8"]) == 0
    assert ModelManifest.read(out).export["exporter"]["name"] == "optimum"


def test_architecture_without_a_configuration_of_optimum_is_named(tmp_path):
    model = wrapped(tiny_bert_checkpoint(tmp_path / "checkpoint"))
    model.backbone.config.model_type = "ernie"  # its layers are BERT's, but optimum does not know the name
    with pytest.raises(ModelFormatError, match=r"'ernie'.*without --exporter optimum"):
        optimum_exporter.export_graph(model)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "TokenizersBackend"}),
        ("tokenizer_config.json", {"extra_special_tokens": ["[X]"]}),
        (
            "config.json",
            {
                "rope_parameters": {
                    "full_attention": {"rope_theta": 80_000.0, "rope_type": "default"},
                    "sliding_attention": {"rope_theta": 10_000.0, "rope_type": "default"},
                }
            },
        ),
    ],
)
def test_checkpoint_of_transformers_5_is_refused_by_file_and_key(tmp_path, file, changes):
    checkpoint = tiny_modernbert_checkpoint(tmp_path / "checkpoint")
    change_json(checkpoint / file, **changes)
    with pytest.raises(ModelFormatError, match=rf"{file}.*transformers 5.*{next(iter(changes))}"):
        export(checkpoint, tmp_path / "out", exporter="optimum", verify=False)
    assert not (tmp_path / "out").exists()


def test_rotary_frequencies_that_transformers_4_assumes_anyway_are_read(tmp_path):
    checkpoint = tiny_modernbert_checkpoint(tmp_path / "checkpoint")
    same = {
        "full_attention": {"rope_theta": 160_000.0, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 10_000.0, "rope_type": "default"},
    }
    change_json(checkpoint / "config.json", rope_parameters=same)
    backbone.check_readable(read_checkpoint(checkpoint))

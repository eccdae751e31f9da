"""What cannot be exported exactly is refused with a message that names file and remedy, and nothing is left behind."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from edgecolbert_export import pipeline
from edgecolbert_export.errors import OutputExistsError, VerificationError
from edgecolbert_export.verify import Tolerances
from exporting import export
from safetensors.torch import load_file, save_file
from tiny_checkpoints import change_json, dense, tiny_bert_checkpoint, write_dense, write_json

from edgecolbert.errors import EdgeColbertError, ModelFormatError, ModelNotFoundError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def checkpoint(tmp_path):
    return tiny_bert_checkpoint(tmp_path / "checkpoint")


def refused(checkpoint, tmp_path, error, *words):
    with pytest.raises(error) as caught:
        export(checkpoint, tmp_path / "out", verify=False)
    for word in words:
        assert word in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "checkpoint") == []


def test_no_such_folder(tmp_path):
    refused(tmp_path / "nowhere", tmp_path, ModelNotFoundError, "nowhere", "modules.json")


def test_empty_folder(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    refused(tmp_path / "checkpoint", tmp_path, ModelNotFoundError, "neither modules.json nor config.json")


def test_without_modules_json_no_random_layer_is_put_in_place_of_the_head(checkpoint, tmp_path):
    (checkpoint / "modules.json").unlink()
    refused(checkpoint, tmp_path, ModelFormatError, "no modules.json", "random layer", "--head pca:96")


def test_sentence_encoder_without_a_dense_layer(checkpoint, tmp_path):
    modules = json.loads((checkpoint / "modules.json").read_text(encoding="utf-8"))
    write_json(checkpoint / "modules.json", modules[:1])
    refused(checkpoint, tmp_path, ModelFormatError, "names no Dense layer", "--head pca:96")


def test_modules_json_that_is_no_list(checkpoint, tmp_path):
    write_json(checkpoint / "modules.json", {"0": "Transformer"})
    refused(checkpoint, tmp_path, ModelFormatError, "modules.json", "not a list of modules")


def test_modules_json_cut_in_half(checkpoint, tmp_path):
    path = checkpoint / "modules.json"
    path.write_text(path.read_text(encoding="utf-8")[:40], encoding="utf-8")
    refused(checkpoint, tmp_path, ModelFormatError, "modules.json", "cannot be read as JSON")


@pytest.mark.parametrize("kind", ["sentence_transformers.models.LSTM", "my_package.Head"])
def test_unknown_module(checkpoint, tmp_path, kind):
    modules = json.loads((checkpoint / "modules.json").read_text(encoding="utf-8"))
    modules.append({"idx": 2, "name": "2", "path": "2_Head", "type": kind})
    write_json(checkpoint / "modules.json", modules)
    refused(checkpoint, tmp_path, ModelFormatError, kind, "silently wrong")


def test_two_modules_of_one_name(checkpoint, tmp_path):
    modules = json.loads((checkpoint / "modules.json").read_text(encoding="utf-8"))
    modules[1]["name"] = "0"
    write_json(checkpoint / "modules.json", modules)
    refused(checkpoint, tmp_path, ModelFormatError, "two modules alike")


def test_module_path_outside_the_checkpoint(checkpoint, tmp_path):
    modules = json.loads((checkpoint / "modules.json").read_text(encoding="utf-8"))
    modules[1]["path"] = "../elsewhere"
    write_json(checkpoint / "modules.json", modules)
    refused(checkpoint, tmp_path, ModelFormatError, "outside the checkpoint")


def test_missing_dense_folder(checkpoint, tmp_path):
    (checkpoint / "1_Dense").rename(tmp_path / "checkpoint" / "moved")
    refused(checkpoint, tmp_path, ModelFormatError, "'1_Dense'", "no such folder")


def test_layers_in_an_order_in_which_they_do_not_fit(checkpoint, tmp_path):
    write_dense(checkpoint / "2_Dense", dense(64, 16))
    modules = json.loads((checkpoint / "modules.json").read_text(encoding="utf-8"))
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "pylate.models.Dense.Dense"})
    write_json(checkpoint / "modules.json", modules)
    refused(checkpoint, tmp_path, ModelFormatError, "takes 64 features", "gives 16")


@pytest.mark.parametrize("activation", [None, "os.system", "torch.nn.modules.activation.Unknown"])
def test_unknown_activation_is_refused_and_never_imported(checkpoint, tmp_path, activation):
    change_json(checkpoint / "1_Dense" / "config.json", activation_function=activation)
    refused(checkpoint, tmp_path, ModelFormatError, "activation_function", str(activation))


def test_unknown_dense_setting(checkpoint, tmp_path):
    change_json(checkpoint / "1_Dense" / "config.json", gate=True)
    refused(checkpoint, tmp_path, ModelFormatError, "gate", "unknown settings")


def test_bias_that_the_weights_lack(checkpoint, tmp_path):
    change_json(checkpoint / "1_Dense" / "config.json", bias=...)
    refused(checkpoint, tmp_path, ModelFormatError, "linear.bias")


def test_residual_that_the_weights_lack(checkpoint, tmp_path):
    change_json(checkpoint / "1_Dense" / "config.json", use_residual=True)
    refused(checkpoint, tmp_path, ModelFormatError, "residual.weight")


def test_padding_on_the_left(checkpoint, tmp_path):
    change_json(checkpoint / "tokenizer_config.json", padding_side="left")
    refused(checkpoint, tmp_path, ModelFormatError, "pads on the left", "padding_side")


def test_length_beyond_the_positions(checkpoint, tmp_path):
    change_json(checkpoint / "config_sentence_transformers.json", document_length=65)
    refused(checkpoint, tmp_path, ModelFormatError, "document_length is 65", "64 positions", "--set document_length")


@pytest.mark.parametrize(("name", "value"), [("query_length", "32"), ("document_length", True), ("query_prefix", 1)])
def test_setting_of_the_wrong_type(checkpoint, tmp_path, name, value):
    change_json(checkpoint / "config_sentence_transformers.json", **{name: value})
    refused(checkpoint, tmp_path, ModelFormatError, name, repr(value))


def test_corrupt_safetensors_header(checkpoint, tmp_path):
    path = checkpoint / "model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    refused(checkpoint, tmp_path, ModelFormatError, "model.safetensors", "not a whole safetensors file")


def test_weights_cut_in_half(checkpoint, tmp_path):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(checkpoint, tmp_path, ModelFormatError, "model.safetensors")


def test_weights_without_a_tensor_are_not_filled_with_random_numbers(checkpoint, tmp_path):
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, path, {"format": "pt"})
    refused(checkpoint, tmp_path, ModelFormatError, "encoder.layer.1.output.dense.weight", "random")


def test_missing_shard(checkpoint, tmp_path):
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    path.unlink()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    names = sorted(weights)
    save_file({name: weights[name] for name in names[::2]}, checkpoint / shards[0], {"format": "pt"})
    weight_map = {name: shards[number % 2] for number, name in enumerate(names)}
    write_json(checkpoint / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    refused(checkpoint, tmp_path, ModelFormatError, "backbone", shards[1], "Copy the checkpoint again")


def test_no_weights_at_all(checkpoint, tmp_path):
    (checkpoint / "1_Dense" / "model.safetensors").unlink()
    refused(checkpoint, tmp_path, ModelFormatError, "has no weights")


class Malicious:
    def __reduce__(self):
        return (print, ("this must never be printed",))


@pytest.mark.parametrize("folder", [".", "1_Dense"])
def test_malicious_pickle_is_refused_and_not_run(checkpoint, tmp_path, capsys, folder):
    (checkpoint / folder / "model.safetensors").unlink()
    torch.save({"linear.weight": Malicious()}, checkpoint / folder / "pytorch_model.bin", pickle_module=pickle)
    refused(checkpoint, tmp_path, ModelFormatError, "pytorch_model.bin", "could run code")
    assert "never be printed" not in capsys.readouterr().out


def test_prefix_without_a_row_in_the_embedding_table(checkpoint, tmp_path):
    change_json(checkpoint / "config_sentence_transformers.json", query_prefix="[NEW] ")
    refused(checkpoint, tmp_path, ModelFormatError, "embedding table", "random rows")


def test_existing_output_is_not_touched_without_force(checkpoint, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="--force"):
        export(checkpoint, out, verify=False)
    with pytest.raises(OutputExistsError, match="not a model folder"):
        export(checkpoint, out, verify=False, force=True)
    assert (out / "precious.txt").read_text(encoding="utf-8") == "keep"


def test_force_replaces_a_model_folder_and_keeps_what_no_export_wrote(checkpoint, tmp_path):
    out = tmp_path / "out"
    first = export(checkpoint, out, verify=False)
    (out / "mine").mkdir()
    second = export(checkpoint, out, verify=False, force=True, profile="int8")
    assert first.fingerprint != second.fingerprint
    assert (out / "mine").is_dir()
    assert not list(tmp_path.glob(".out*"))


# A limit on the size of a file is a full disk that a test may make: writing fails halfway, as it does there.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from edgecolbert.errors import InputError
from edgecolbert_export.pipeline import ExportOptions, export_model
from edgecolbert_export.recipe import Recipe

def limit(step):
    if step.startswith(sys.argv[3]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
recipe = Recipe(name="model", source="local")
options = ExportOptions(Path(sys.argv[1]), Path(sys.argv[2]), recipe, profile="fp32", verify=False, force=True)
try:
    export_model(options, limit)
except InputError as error:
    print(error)
"""


def python(*arguments: object, temporary: Path) -> subprocess.Popen[str]:
    """A Python of its own, which keeps its temporary files in a folder of its own."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'export'}", "TMPDIR": str(temporary)}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def earlier(checkpoint, tmp_path):
    """An earlier model folder at tmp_path/out, and what is in its files."""
    export(checkpoint, tmp_path / "out", verify=False)
    return {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def check_nothing_changed(tmp_path: Path, earlier: dict[str, bytes]) -> None:
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out", "temporary"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == earlier
    assert not list((tmp_path / "temporary").glob("edgecolbert*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "message"),
    [("Exporting", "temporary files of the export cannot be written"), ("Quantising", "make room and try again")],
)
def test_full_disk_leaves_nothing_behind(checkpoint, tmp_path, earlier, step, message):
    (tmp_path / "temporary").mkdir()
    arguments = ("-c", FULL_DISK, checkpoint, tmp_path / "out", step)
    printed, errors = python(*arguments, temporary=tmp_path / "temporary").communicate(timeout=120)
    assert message in printed, errors
    assert "File too large" in printed
    check_nothing_changed(tmp_path, earlier)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["Exporting the graph", "Fitting the first stage"])
def test_ctrl_c_leaves_nothing_behind(checkpoint, tmp_path, earlier, step):
    (tmp_path / "temporary").mkdir()
    arguments = ("-m", "edgecolbert", "export", checkpoint, tmp_path / "out", "--force", "--no-verify")
    process = python(*arguments, temporary=tmp_path / "temporary")
    for line in process.stderr:
        if line.startswith(step):
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    check_nothing_changed(tmp_path, earlier)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_is_left_behind_by_an_error_at_the_end(checkpoint, tmp_path, monkeypatch, error):
    def stop(*_):
        raise error

    monkeypatch.setattr(pipeline, "fit_first_stage", stop)
    with pytest.raises((KeyboardInterrupt, EdgeColbertError)) as caught:
        export(checkpoint, tmp_path / "out", verify=False)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    if isinstance(error, OSError):
        assert "No space left" in str(caught.value)


def test_export_that_differs_from_the_reference_is_not_written(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("pylate")
    monkeypatch.setattr(pipeline, "FP32_TOLERANCES", Tolerances(max_difference=0.0))
    with pytest.raises(VerificationError, match="largest difference"):
        export(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()

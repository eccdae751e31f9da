"""Model folders: what is read, and every way in which one can be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecolbert import Encoder, Index, ModelManifest
from edgecolbert.builtin import builtin_models, resolve_model_folder
from edgecolbert.errors import (
    InputTypeError,
    ModelFormatError,
    ModelIntegrityError,
    ModelNotFoundError,
    ModelWarning,
    StoreMismatchError,
)
from edgecolbert.manifest import EncodingSettings

TINY = Path(__file__).parent / "fixtures" / "tiny-model"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def _edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def _set(*keys: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(data: dict[str, Any]) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


def test_a_manifest_is_written_as_it_is_read() -> None:
    manifest = ModelManifest.read(TINY)
    assert manifest.to_json() == (TINY / "manifest.json").read_text(encoding="utf-8")
    assert manifest.folder == TINY
    assert manifest.name == "tiny"


def test_every_file_of_a_model_folder_is_as_the_manifest_says() -> None:
    for folder in (TINY, *builtin_models().values()):
        manifest = ModelManifest.read(folder)
        for name in manifest.files:
            assert len(manifest.read_file(name)) == manifest.files[name].size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "manifest.json is not JSON"),
        ("{", "manifest.json is not JSON"),
        ("[" * 200_000, "manifest.json is not JSON"),
        ("[]", "is not a model manifest: format is 'list', expected 'edgecolbert-model'"),
        ("null", "is not a model manifest: format is 'NoneType'"),
        ('{"format": "onnx"}', "is not a model manifest: format is 'onnx', expected 'edgecolbert-model'"),
        ('{"format": ["edgecolbert-model"]}', "is not a model manifest: format is"),
        ('{"format": "edgecolbert-model"}', "has format_version None; this version of edgecolbert reads 1. Upgrade"),
        (
            '{"format": "edgecolbert-model", "format_version": 2}',
            "has format_version 2; this version .* reads 1. Upgrade",
        ),
        ('{"format": "edgecolbert-model", "format_version": "1"}', "has format_version '1'"),
        ('{"format": "edgecolbert-model", "format_version": 1}', "encoding is NoneType, expected an object"),
    ],
)
def test_what_is_no_manifest_of_this_version_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelFormatError, match=message):
        ModelManifest.read(folder)


def test_a_manifest_that_is_not_utf_8_is_named(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b'{"format": "\xff"}')
    with pytest.raises(ModelFormatError, match=r"manifest\.json cannot be read: .*Export the model again"):
        ModelManifest.read(folder)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("encoding", "colour"), "red", r"encoding has unknown settings \['colour'\]"),
        (("encoding", "dim"), "16", "encoding.dim is '16', expected int"),
        (("encoding", "dim"), True, "encoding.dim is True, expected int"),
        (("encoding", "dim"), 16.0, "encoding.dim is 16.0, expected int"),
        (("encoding", "dim"), 0, "dim is 0, expected 1 to 8192"),
        (("encoding", "dim"), 10**9, "dim is 1000000000, expected 1 to 8192"),
        (("encoding", "query_length"), 2, "query_length is 2, expected 3 to"),
        (("encoding", "document_length"), 65, "document_length is 65, but the graph has only 64 positions"),
        (("encoding", "query_length"), 65, "query_length is 65, but the graph has only 64 positions"),
        (("encoding", "query_prefix_id"), None, r"query_prefix is '\[Q\] ' but query_prefix_id is None"),
        (("encoding", "document_prefix"), "", "document_prefix is '' but document_prefix_id is 257: both or neither"),
        (("encoding", "expansion_token_id"), None, "do_query_expansion is true but expansion_token_id is missing"),
        (("encoding", "do_query_expansion"), 1, "encoding.do_query_expansion is 1, expected bool"),
        (("encoding", "truncation_side"), "middle", "truncation_side is 'middle', expected 'right' or 'left'"),
        (("encoding", "default_prompt_name"), "web", "default_prompt_name is 'web', but prompts has only"),
        (("encoding", "skiplist_ids"), [1, "2"], r"encoding.skiplist_ids is \[1, '2'\], expected tuple\[int, ...\]"),
        (("encoding", "skiplist_ids"), [True], r"encoding.skiplist_ids is \[True\]"),
        (("encoding", "skiplist_words"), ".", r"encoding.skiplist_words is '.', expected tuple\[str, ...\]"),
        (("encoding", "prompts"), {"query": 1}, r"encoding.prompts is \{'query': 1\}, expected dict\[str, str\]"),
        (("encoding",), [], "encoding is list, expected an object"),
        (("name",), "", "name is '', expected a non-empty string"),
        (("name",), 3, "name is 3, expected a non-empty string"),
        (("graph",), None, "graph is None, expected a non-empty string"),
        (("graph",), "other.onnx", "files has no record of 'other.onnx'"),
        (("tokenizer",), "other.json", "files has no record of 'other.json'"),
        (("files",), [], "files is list, expected an object"),
        (("files", "model.onnx"), 3, "files.model.onnx is int, expected an object"),
        (("files", "model.onnx"), {"size": 3}, "files.model.onnx: .*sha256"),
        (("files", "model.onnx", "size"), -1, "files.model.onnx.size is -1"),
        (("files", "model.onnx", "size"), "9", "files.model.onnx.size is '9', expected int"),
        (("fde",), [1], "fde is list, expected an object"),
        (("source",), None, "source is NoneType, expected an object"),
    ],
)
def test_a_wrong_entry_is_named_with_what_was_expected(
    folder: Path, keys: tuple[str, ...], value: object, message: str
) -> None:
    _edit(folder, _set(*keys, value=value))
    with pytest.raises(ModelFormatError, match=message) as caught:
        ModelManifest.read(folder)
    assert str(folder / "manifest.json") in str(caught.value)
    assert "Export the model again" in str(caught.value)


@pytest.mark.parametrize("name", ["../model.onnx", "..", ".", "", "/etc/passwd", "a/b", "a\\b", "C:x", "a\0b"])
def test_a_file_name_cannot_leave_the_folder(folder: Path, name: str) -> None:
    _edit(folder, lambda data: data["files"].update({name: {"size": 1, "sha256": "0" * 64}}))
    with pytest.raises(ModelFormatError, match="expected a plain file name inside the folder"):
        ModelManifest.read(folder)


def test_attending_to_expansion_needs_expansion() -> None:
    with pytest.raises(ValueError, match="attend_to_expansion_tokens needs do_query_expansion"):
        EncodingSettings(4, 8, 8, "", "", do_query_expansion=False, attend_to_expansion_tokens=True)


def test_a_folder_without_a_model_says_how_to_make_one(tmp_path: Path) -> None:
    for load in (ModelManifest.read, Encoder.load):
        with pytest.raises(
            ModelNotFoundError, match=r"is not a model folder: it has no manifest\.json\. Export a check"
        ):
            load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ModelNotFoundError, match="is not a model folder"):
        ModelManifest.read(tmp_path / "file")


def test_an_unknown_name_lists_the_built_in_ones() -> None:
    with pytest.raises(
        ModelNotFoundError, match=r"No model 'nobody': it is neither a built-in name \(.*starter.*\) nor a"
    ):
        Encoder.load("nobody")
    with pytest.raises(FileNotFoundError):
        Encoder.load("nobody")
    with pytest.raises(InputTypeError, match="model is int, expected a name, a folder, or an object"):
        Encoder.load(3)  # type: ignore[arg-type]


def test_a_built_in_name_wins_over_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "starter").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_model_folder("starter") == builtin_models()["starter"] == resolve_model_folder()
    assert resolve_model_folder("./starter").resolve() == tmp_path / "starter"


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "empty", "grown"])
def test_a_file_that_is_not_what_was_exported_is_named(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    changes = {"cut": content[:middle], "changed": flipped, "empty": b"", "grown": content + b"\n"}
    path.unlink() if damage == "missing" else path.write_bytes(changes[damage])
    with pytest.raises(ModelIntegrityError) as caught:
        Encoder.load(folder)
    message = str(caught.value)
    assert str(path) in message
    assert "Copy or export the model again." in message
    if damage in ("cut", "empty", "grown"):
        assert f"has {len(changes[damage])} bytes, the manifest says {len(content)}" in message
    if damage == "changed":
        assert "has SHA-256" in message
        assert "the manifest says" in message


def test_a_damaged_file_of_the_first_stage_is_named_and_does_not_keep_an_index_from_having_one(
    folder: Path, path: Path
) -> None:
    (folder / "fde_cells.npy").write_bytes(b"not an array")
    with Index.open(path, model=folder) as index:
        with pytest.warns(ModelWarning, match=r"fde_cells\.npy has 12 bytes, the manifest says .*of its own instead"):
            index.add(["Bees dance to show the way.", "Bread rises in the warm oven."])
        assert index.stats().first_stage is not None
        assert index.search("bees", k=1, n_candidates=1)[0].text.startswith("Bees")


def test_files_with_right_hashes_and_wrong_contents_are_errors_of_ours(folder: Path) -> None:
    import hashlib

    for name, content in (("tokenizer.json", b"{}"), ("model.onnx", b"not a graph"), ("tokenizer.json", b"\xff")):
        spoilt = shutil.copytree(folder, folder.parent / f"spoilt-{name}-{len(content)}")
        (spoilt / name).write_bytes(content)
        record = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        _edit(spoilt, _set("files", name, value=record))
        with pytest.raises(ModelFormatError) as caught:
            Encoder.load(spoilt)
        assert str(spoilt / name) in str(caught.value)
        assert "Export the model again" in str(caught.value)


def test_a_manifest_that_disagrees_with_the_tokenizer_or_the_graph_is_refused(folder: Path) -> None:
    _edit(folder, _set("encoding", "query_prefix_id", value=9))
    with pytest.raises(
        ModelFormatError, match=r"tokenizer\.json gives the prefix '\[Q\] ' the id 256, the manifest says 9"
    ):
        Encoder.load(folder)
    _edit(folder, _set("encoding", "query_prefix_id", value=256))
    _edit(folder, _set("encoding", "dim", value=15))
    with pytest.raises(ModelFormatError, match=r"model\.onnx gives embeddings of \(16,\), the manifest says dim 15"):
        Encoder.load(folder).encode_queries(["red"])


def test_the_fingerprint_depends_on_the_encoding_and_on_nothing_else(folder: Path) -> None:
    before = ModelManifest.read(folder).fingerprint
    for keys, value in ((("name",), "other"), (("licence",), "MIT"), (("fde",), None), (("source",), {"a": 1})):
        _edit(folder, _set(*keys, value=value))
    assert ModelManifest.read(folder).fingerprint == before
    _edit(folder, _set("encoding", "document_length", value=39))
    changed = ModelManifest.read(folder).fingerprint
    assert changed != before
    _edit(folder, _set("files", "model.onnx", "sha256", value="0" * 64))
    assert ModelManifest.read(folder).fingerprint not in (before, changed)


def test_an_index_notices_that_the_model_in_its_folder_has_changed(folder: Path, path: Path) -> None:
    with Index.open(path, model=folder) as index:
        index.add(["red kettle"])
    _edit(folder, _set("encoding", "document_length", value=39))
    with pytest.raises(StoreMismatchError, match=r"made with the model .tiny. .* edgecolbert reencode --db"):
        Index.open(path)


def test_an_index_can_be_read_after_its_model_folder_is_gone(folder: Path, path: Path) -> None:
    with Index.open(path, model=folder) as index:
        index.add(["red kettle"])
    shutil.rmtree(folder)
    with Index.open(path) as index:
        assert [(index.get(name) or {})["text"] for name in index.ids()] == ["red kettle"]
        with pytest.raises(ModelNotFoundError, match=f"'tiny', which is not at {folder} any more. .*--model FOLDER"):
            index.search("kettle")
        assert index.delete(index.ids()) == 1


def test_a_model_that_moved_is_used_from_where_the_caller_says(folder: Path, path: Path) -> None:
    with Index.open(path, model=folder) as index:
        index.add(["red kettle"])
    moved = folder.rename(folder.with_name("elsewhere"))
    with Index.open(path, model=str(moved)) as index:
        assert index.search("kettle")[0].text == "red kettle"


def test_a_file_made_without_prompts_opens_with_the_models_name(folder: Path, path: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["encoding"]["prompts"] = {"query": "search_query: ", "document": ""}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with Index.open(path, model=Encoder.load(folder, use_prompts=False)) as index:
        index.add(["red kettle"])
        score = index.search("kettle")[0].score
    for model in (None, folder):
        with Index.open(path, model=model) as index:
            assert index.search("kettle")[0].score == score
    with pytest.raises(StoreMismatchError, match="without its prompts"):
        Index.open(path, model=Encoder.load(folder))

"""Model folders that somebody made to do harm."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protobuf_writer import external_tensor, graph_output, part

from edgecolbert import Encoder, Index, ModelManifest, limits
from edgecolbert.builtin import builtin_models
from edgecolbert.errors import EdgeColbertError, ModelFormatError, ModelIntegrityError
from edgecolbert.goldens import GOLDENS_NAME, unpack_goldens
from edgecolbert.graphs import check_self_contained
from edgecolbert.sessions import import_onnxruntime

TINY = Path(__file__).parent / "fixtures" / "tiny-model"
GRAPH = (TINY / "model.onnx").read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def _manifest(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return data


def _write(folder: Path, data: object) -> None:
    (folder / "manifest.json").write_text(json.dumps(data), encoding="utf-8")


def _replace(folder: Path, name: str, content: bytes) -> None:
    """Another content with its right hash: whoever makes a folder can compute it."""
    (folder / name).write_bytes(content)
    data = _manifest(folder)
    data["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    _write(folder, data)


@pytest.mark.parametrize(
    "name",
    [
        "CON",
        "nul",
        "aux.onnx",
        "COM1.json",
        "lpt¹",
        "CONOUT$",
        "a.",
        "a ",
        "a\nb",
        "\x1b[2J",
        "\ud800",
        "x" * 300,
        "//server/share/a",
        "\\\\server\\share\\a",
        "\\\\?\\C:\\a",
        "C:\\a",
        "C:a",
        "a:stream",
        "/dev/zero",
        "~/../a",
    ],
)
def test_names_that_mean_something_else_on_some_system_are_refused(folder: Path, name: str) -> None:
    data = _manifest(folder)
    data["files"][name] = {"size": 1, "sha256": "0" * 64}
    _write(folder, data)
    with pytest.raises(ModelFormatError, match="expected a plain file name inside the folder"):
        ModelManifest.read(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "a\x1b[2Jb", "printable"),
        ("name", "x" * 201, "at most 200"),
        ("profile", "\u202e", "printable"),
        ("licence", "a\nb", "printable"),
        ("licence", ["x"], "licence is"),
        ("encoding.expansion_token_id", 2**70, "no token id"),
        ("encoding.expansion_token_id", -1, "no token id"),
        ("encoding.skiplist_ids", [2**70], "no token id"),
        ("encoding.query_prefix_id", 2**31, "no token id"),
        ("encoding.prompts", {"query": "\ud800"}, "not valid Unicode"),
        ("encoding.prompts", {"\ud800": "x"}, "not valid Unicode"),
        ("encoding.query_prefix", "\udfff", "not valid Unicode"),
        ("encoding.document_length", 2**40, "document_length is"),
        ("encoding.dim", [[[["x"]]]] * 1_000, r"encoding\.dim is .{1,220}, expected int"),
        ("files.model.onnx.size", 2**62, "expected 0 to 2147483648"),
        ("files.tokenizer.json.size", 2**28, "expected 0 to 134217728"),
        ("files.model.onnx.sha256", "z" * 64, "expected 64 hex digits"),
        ("files.model.onnx.sha256", "", "expected 64 hex digits"),
    ],
)
def test_values_out_of_all_bounds_are_refused_before_a_file_is_read(
    folder: Path, key: str, value: object, message: str
) -> None:
    data = _manifest(folder)
    inside = data
    head, _, rest = key.partition(".")
    if head == "files":
        inside, key = data["files"][rest.rpartition(".")[0]], rest.rpartition(".")[2]
    elif rest:
        inside, key = data[head], rest
    inside[key] = value
    if key.endswith("_length"):
        data["encoding"]["max_positions"] = None
    _write(folder, data)
    with pytest.raises(ModelFormatError, match=message) as caught:
        ModelManifest.read(folder)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "edgecolbert-model", "format": "x"}', "the key 'format' is there twice"),
        ('{"format": NaN}', "NaN is not JSON"),
        ('{"format": -Infinity}', "Infinity is not JSON"),
        ('{"format": ' + "9" * 5_000 + "}", "not JSON"),
        ('{"format": ' + "[" * 900 + "]" * 900 + "}", "format is .{1,220}, expected"),
        ('{"format": "' + "x" * 10_000 + '"}', "format is .{1,220}, expected"),
    ],
)
def test_json_that_two_readers_could_understand_differently_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelFormatError, match=message):
        ModelManifest.read(folder)


def test_a_file_that_never_ends_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _manifest(folder)
    data["files"]["model.onnx"] = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    _write(folder, data)
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx") if hasattr(os, "mkfifo") else pytest.skip("no named pipes here")
    with pytest.raises(ModelIntegrityError, match="no ordinary file"):
        Encoder.load(folder)
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("/dev/zero")
    with pytest.raises(ModelIntegrityError, match="no ordinary file"):
        Encoder.load(folder)
    monkeypatch.setattr(limits, "MANIFEST_BYTES", 100)
    with pytest.raises(ModelFormatError, match="more than 100 are not read"):
        ModelManifest.read(folder)
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("/dev/zero")
    with pytest.raises(ModelFormatError, match="no ordinary file"):
        ModelManifest.read(folder)


def _graph_with(initializer: bytes) -> bytes:
    # A second graph field is merged into the first.
    return GRAPH + part(7, part(5, initializer) + graph_output(b"leak", 8))


@pytest.mark.parametrize("where", ["initializer", "attribute", "subgraph", "sparse", "function", "training"])
def test_a_graph_cannot_make_onnxruntime_read_other_files(folder: Path, where: str) -> None:
    tensor = external_tensor(b"../secret.bin")
    attribute = part(5, tensor)
    content = (
        GRAPH
        + {
            "initializer": part(7, part(5, tensor)),
            "attribute": part(7, part(1, part(5, attribute))),
            "subgraph": part(7, part(1, part(5, part(6, part(1, part(5, part(11, part(5, tensor)))))))),
            "sparse": part(7, part(15, part(1, tensor))),
            "function": part(25, part(7, part(5, part(10, tensor)))),
            "training": part(20, part(1, part(5, tensor))),
        }[where]
    )
    _replace(folder, "model.onnx", content)
    with pytest.raises(ModelFormatError, match=r"model\.onnx keeps values outside of itself"):
        Encoder.load(folder)


def test_the_attack_that_is_refused_works_where_nobody_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.bin").write_bytes(b"password")
    monkeypatch.chdir(tmp_path)
    content = _graph_with(external_tensor(b"secret.bin"))
    with pytest.raises(ModelFormatError):
        check_self_contained(content, "model.onnx")
    onnxruntime = import_onnxruntime()
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:
        pytest.skip(f"this onnxruntime refuses it by itself: {error}")
    feeds = {argument.name: np.ones((1, 3), dtype=np.int64) for argument in session.get_inputs()}
    assert session.run(["leak"], feeds)[0].tobytes() == b"password"


def test_a_graph_that_only_has_the_word_is_not_refused(folder: Path) -> None:
    # The documentation of a model is field 6.
    _replace(folder, "model.onnx", GRAPH + part(6, b"location of the weights: inside"))
    assert len(Encoder.load(folder).encode_queries(["red"])) == 1
    for path in (TINY, *builtin_models().values()):
        check_self_contained((path / "model.onnx").read_bytes() + part(6, b"location"), "model.onnx")


@given(st.binary(max_size=60), st.integers(0, len(GRAPH)))
@settings(max_examples=30)
def test_whatever_is_in_a_graph_the_check_ends_with_an_error_of_ours(noise: bytes, place: int) -> None:
    for content in (b"location" + noise, GRAPH[:place] + noise + b"location" + GRAPH[place:]):
        with contextlib.suppress(ModelFormatError):
            check_self_contained(content, "model.onnx")


def test_a_graph_that_fails_on_a_text_or_gives_something_else_is_named(folder: Path) -> None:
    data = _manifest(folder)
    data["encoding"]["expansion_token_id"] = 1_000_000  # outside the graph's vocabulary
    _write(folder, data)
    with pytest.raises(ModelFormatError, match=r"model\.onnx failed on a text of 16 tokens"):
        Encoder.load(folder).encode_queries(["red"])
    # An output that is eight bytes, whatever the text is.
    constant = part(1, 8) + part(2, 2) + part(8, b"eight") + part(9, b"12345678")
    graph = part(5, constant) + graph_output(b"eight", 8)
    _replace(folder, "model.onnx", part(1, 8) + part(8, part(2, 17)) + part(7, part(2, b"g") + graph))
    with pytest.raises(ModelFormatError, match=r"has the inputs \[\], expected input_ids"):
        Encoder.load(folder)


def test_a_document_length_without_place_for_text_is_named(folder: Path) -> None:
    data = _manifest(folder)
    data["encoding"]["prompts"] = {"document": "many words of a prompt " * 40}
    _write(folder, data)
    with pytest.raises(ModelFormatError, match="which special tokens, prefix and prompt use up"):
        Encoder.load(folder).split("red kettle")


def test_a_tokenizer_that_panics_is_an_error_of_ours(folder: Path) -> None:
    data = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    data["post_processor"]["special_tokens"] = {}
    _replace(folder, "tokenizer.json", json.dumps(data).encode())
    for choice in ("as-model", "literal"):
        with pytest.raises(ModelFormatError, match=r"tokenizer\.json is not a tokenizer"):
            Encoder.load(folder, special_tokens=choice)


def test_a_text_that_the_tokenizer_fails_on_is_an_error_of_ours(folder: Path) -> None:
    data = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["unk_token"] = "nothing"
    _replace(folder, "tokenizer.json", json.dumps(data).encode())
    encoder = Encoder.load(folder)
    for use in (encoder.encode_documents, encoder.encode_queries, encoder.tokenizer.count):
        with pytest.raises(ModelFormatError, match=r"tokenizer\.json is not a tokenizer: .*UNK"):
            use(["\N{SNOWMAN}"])


def test_arrays_that_are_larger_than_their_file_are_refused(folder: Path, path: Path) -> None:
    header = f"{{'descr': '|i1', 'fortran_order': False, 'shape': ({2**62}, 16), }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    _replace(folder, "fde_cells.npy", content)
    with Index.open(path, model=folder) as index:
        with pytest.warns(UserWarning, match="the first stage cannot be used"):
            index.add(["red kettle", "blue cup"])
        assert index.search("kettle", k=1)[0].text == "red kettle"


def test_a_small_archive_of_goldens_cannot_unpack_to_gigabytes(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", header=np.zeros(2**27, dtype=np.uint8))
    content = (tmp_path / "bomb.npz").read_bytes()
    assert len(content) < 2**18
    with pytest.raises(ModelFormatError, match=f"{GOLDENS_NAME} .* bytes unpacked, expected at most"):
        unpack_goldens(content)


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable + "\ud800é", max_size=8)
_LISTS = st.lists(_SCALARS, max_size=3)
_JSON = _SCALARS | _LISTS | st.dictionaries(st.text(max_size=4), _SCALARS | _LISTS, max_size=3)


@given(st.data(), _JSON)
@settings(max_examples=60)
def test_a_manifest_with_anything_anywhere_is_read_or_refused_with_an_error_of_ours(data: Any, value: object) -> None:
    manifest = _manifest(TINY)
    places = [(manifest, key) for key in manifest]
    places += [(inner, key) for inner in (manifest["encoding"], manifest["files"]) for key in inner]
    inside, key = data.draw(st.sampled_from(places))
    inside[key] = value
    with contextlib.suppress(EdgeColbertError):
        ModelManifest._parse(json.dumps(manifest), TINY / "manifest.json").to_json()

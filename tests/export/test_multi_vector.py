"""The layout that sentence-transformers 6 saves; needs an environment of its own, with that package."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

pytest.importorskip("torch")

from edgecolbert_export import reference
from edgecolbert_export.checkpoint import read_checkpoint
from exporting import export
from tiny_checkpoints import change_json, tiny_bert_checkpoint, tiny_modernbert_checkpoint, write_json

from edgecolbert import Encoder
from edgecolbert.errors import MissingExtraError, ModelFormatError

pytestmark = pytest.mark.filterwarnings("ignore")


def has_sentence_transformers_6() -> bool:
    if importlib.util.find_spec("sentence_transformers") is None:
        return False
    return importlib.util.find_spec("sentence_transformers.multi_vector_encoder") is not None


needs_sentence_transformers_6 = pytest.mark.skipif(
    not has_sentence_transformers_6(), reason="needs sentence-transformers 6"
)


def saved_again(checkpoint, folder):
    """A checkpoint of PyLate's layout, loaded and saved by sentence-transformers 6."""
    from sentence_transformers import MultiVectorEncoder

    MultiVectorEncoder(str(checkpoint), device="cpu").save_pretrained(str(folder))
    return folder


@needs_sentence_transformers_6
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_query_expansion": False},
        {"attend_to_expansion_tokens": True},
        {"prompts": {"query": "search_query: ", "document": "search_document: "}},
        {"skiplist_words": ["notaword", ",", "!"]},
    ],
    ids=lambda settings: "-".join(settings) or "defaults",
)
@pytest.mark.parametrize("make", [tiny_bert_checkpoint, tiny_modernbert_checkpoint])
def test_both_layouts_of_one_model_are_read_alike(tmp_path, make, settings):
    checkpoint = make(tmp_path / "pylate", **settings)
    ours = export(saved_again(checkpoint, tmp_path / "saved"), tmp_path / "out")
    assert ours.export["layout"] == "multi-vector-encoder"
    assert ours.verification["fp32"]["max_difference"] <= 1e-5
    theirs = export(checkpoint, tmp_path / "out2", verify=False)
    assert ours.encoding.query_prefix == "[Q] "
    assert ours.encoding.prompts == theirs.encoding.prompts
    if "skiplist_words" in settings:
        # The two packages differ on words outside the vocabulary (R14).
        assert set(ours.encoding.skiplist_ids) < set(theirs.encoding.skiplist_ids)
        return
    assert ours.encoding.skiplist_ids == theirs.encoding.skiplist_ids
    texts = ["Bread rises, because yeast turns sugar into gas.", ""]
    for a, b in zip(
        Encoder(ours, threads=1).encode_queries(texts), Encoder(theirs, threads=1).encode_queries(texts), strict=True
    ):
        assert np.abs(a - b).max() <= 1e-6


@needs_sentence_transformers_6
def test_sentence_transformers_6_stands_in_for_pylate(tmp_path):
    if importlib.util.find_spec("pylate") is not None:
        pytest.skip("PyLate is installed and comes first")
    manifest = export(tiny_modernbert_checkpoint(tmp_path / "checkpoint"), tmp_path / "out")
    assert "sentence-transformers" in manifest.verification["reference"]
    assert manifest.verification["fp32"]["max_difference"] <= 1e-5


def native(tmp_path, **backbone):
    """The same layout, written by hand, so that it can be read without the package."""
    checkpoint = tiny_bert_checkpoint(tmp_path / "checkpoint")
    base = "sentence_transformers.base.modules"
    types = [
        ("", f"{base}.transformer.Transformer"),
        ("1_Dense", f"{base}.dense.Dense"),
        ("2_MultiVectorMask", "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"),
        ("3_Normalize", f"{base}.normalize.Normalize"),
    ]
    for folder, _ in types[2:]:
        (checkpoint / folder).mkdir()
    write_json(
        checkpoint / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(types)],
    )
    write_json(
        checkpoint / "2_MultiVectorMask" / "config.json", {"skiplist_words": ["!"], "skiplist_tasks": ["document"]}
    )
    prompts = {"query": "[Q] question: ", "document": "[D] "}
    write_json(
        checkpoint / "config_sentence_transformers.json", {"model_type": "MultiVectorEncoder", "prompts": prompts}
    )
    write_json(checkpoint / "sentence_bert_config.json", {"document_length": 50} | backbone)
    return checkpoint


def test_settings_are_found_where_this_layout_has_them(tmp_path):
    expansion = {"strategy": "fixed", "attend": True, "token": "[SEP]", "length": 20}
    settings = read_checkpoint(native(tmp_path, query_expansion=expansion)).settings
    assert (settings.query_length, settings.document_length) == (20, 50)
    assert (settings.do_query_expansion, settings.attend_to_expansion_tokens) == (True, True)
    assert settings.expansion_token == "[SEP]"
    assert (settings.query_prefix, settings.prompts["query"]) == ("[Q] ", "question: ")
    assert settings.skiplist_words == ("!",)


def test_lengths_that_are_not_named_are_the_limits_of_the_backbone(tmp_path):
    checkpoint = native(tmp_path)
    change_json(checkpoint / "sentence_bert_config.json", document_length=...)
    settings = read_checkpoint(checkpoint).settings
    assert (settings.query_length, settings.document_length) == (64, 64)


def test_expansion_to_a_least_length_is_refused(tmp_path):
    with pytest.raises(ModelFormatError, match="strategy 'fixed'"):
        read_checkpoint(native(tmp_path, query_expansion={"strategy": "min", "length": 20}))


@pytest.mark.parametrize(
    ("mask", "words"),
    [({"keep_only_token_ids": [3]}, "keeps only"), ({"skiplist_tasks": ["query", "document"]}, "skiplist to")],
)
def test_masks_that_the_runtime_does_not_know_are_refused(tmp_path, mask, words):
    checkpoint = native(tmp_path)
    change_json(checkpoint / "2_MultiVectorMask" / "config.json", **mask)
    with pytest.raises(ModelFormatError, match=words):
        read_checkpoint(checkpoint)


def test_without_a_package_that_reads_it_the_error_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "_installed", lambda package: False)
    with pytest.raises(MissingExtraError, match=r"sentence-transformers 6.*--no-verify"):
        export(native(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()

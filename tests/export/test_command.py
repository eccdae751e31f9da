"""`edgecolbert export` as a user runs it, and what belongs to it: recipes, --set, --head, hub names, --ab."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from edgecolbert_export import cli, hub
from edgecolbert_export.head import parse_head, pca_layer
from edgecolbert_export.overrides import parse_override
from edgecolbert_export.recipe import known_recipes, read_recipe
from exporting import export
from tiny_checkpoints import bert, dense, tiny_bert_checkpoint, wordpiece_tokenizer, write_json, write_pylate

from edgecolbert.errors import InputError, ModelNotFoundError
from edgecolbert.goldens import GOLDENS_NAME, check_goldens
from edgecolbert.manifest import ModelManifest

pytestmark = pytest.mark.filterwarnings("ignore")


def test_command_exports_and_prints_a_table(tmp_path, capsys):
    pytest.importorskip("pylate")
    checkpoint, out = tiny_bert_checkpoint(tmp_path / "checkpoint"), tmp_path / "out"
    assert cli.main([str(checkpoint), str(out), "--profile", "int8"]) == 0
    printed = capsys.readouterr()
    assert "fp32 against reference" in printed.out
    assert "Comparing with the reference" in printed.err
    manifest = ModelManifest.read(out)
    assert sorted(manifest.files) == [
        "fde_cells.npy",
        "fde_codebooks.npy",
        "fde_mean.npy",
        "goldens.npz",
        "model.onnx",
        "tokenizer.json",
    ]
    card = (out / "README.md").read_text(encoding="utf-8")
    for part in ("cosine mean", "pylate 1.", "16 dimensions", "## Licence"):
        assert part in card


def test_goldens_of_the_folder_pass_and_notice_another_graph(tmp_path):
    pytest.importorskip("pylate")
    checkpoint = tiny_bert_checkpoint(tmp_path / "checkpoint")
    manifest = export(checkpoint, tmp_path / "out")
    report = check_goldens(manifest)
    assert report.problems == ()
    assert report.max_difference <= 1e-5
    other = export(tiny_bert_checkpoint(tmp_path / "other", query_length=12), tmp_path / "out2", verify=False)
    (tmp_path / "out2" / GOLDENS_NAME).write_bytes(manifest.read_file(GOLDENS_NAME))
    files = other.files | {GOLDENS_NAME: manifest.files[GOLDENS_NAME]}
    mixed = ModelManifest(**{**vars(other), "files": files, "verification": manifest.verification})
    assert any("other token ids" in problem for problem in check_goldens(mixed).problems)


def test_without_verification_the_certificate_says_so(tmp_path):
    manifest = export(tiny_bert_checkpoint(tmp_path / "checkpoint"), tmp_path / "out", verify=False)
    assert manifest.verification["verified"] is False
    assert check_goldens(manifest) is None
    assert "not compared" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_set_changes_the_copy_that_the_reference_reads_and_not_the_checkpoint(tmp_path):
    pytest.importorskip("pylate")
    tokenizer = wordpiece_tokenizer()
    layers = [dense(32, 32), dense(32, 16)]
    checkpoint = write_pylate(tmp_path / "checkpoint", bert(tokenizer), tokenizer, layers)
    before = (checkpoint / "1_Dense" / "config.json").read_bytes()
    overrides = {"1_Dense.use_residual": True, "document_length": 30, "do_lower_case": True}
    manifest = export(checkpoint, tmp_path / "out", overrides=overrides)
    assert manifest.export["overrides"] == overrides
    assert manifest.export["dense"][0]["use_residual"]
    assert manifest.encoding.document_length == 30
    assert manifest.verification["verified"]
    assert (checkpoint / "1_Dense" / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"9_Dense.use_residual": True}, "no layer '9_Dense', only 1_Dense"),
        ({"querylength": 3}, "no such setting"),
        ({"query_length": "many"}, "expected int"),
    ],
)
def test_set_refuses_what_would_change_nothing(tmp_path, overrides, words):
    checkpoint = tiny_bert_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(InputError, match=words):
        export(checkpoint, tmp_path / "out", overrides=overrides, verify=False)


def test_set_values_are_json_or_else_text():
    assert parse_override("2_Dense.use_residual=true") == ("2_Dense.use_residual", True)
    assert parse_override("query_prefix=[Q] ") == ("query_prefix", "[Q] ")
    with pytest.raises(InputError, match="NAME=VALUE"):
        parse_override("query_length")


def test_recipes_are_all_readable():
    assert len(known_recipes()) >= 11
    for name in known_recipes():
        assert read_recipe(name).name == name


def test_wrong_recipe_names_the_file(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('[model]\nname = "x"\nsource = "a/b"\nlicense = "MIT"\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"recipe.toml.*license"):
        read_recipe(str(path))


def test_pca_layer_centres_and_keeps_the_largest_variance():
    generator = np.random.default_rng(0)
    scales = np.array([5, 3, 1, 0.1], dtype=np.float32)
    tokens = generator.normal(size=(2_000, 4)).astype(np.float32) * scales + 7
    weight, bias = pca_layer(tokens, 2)
    projected = tokens @ weight.T + bias
    assert np.abs(projected.mean(axis=0)).max() < 1e-3
    assert np.allclose(weight @ weight.T, np.eye(2), atol=1e-5)
    assert np.abs(weight[0, 0]) > 0.99


def test_sentence_encoder_gets_a_head_and_is_verified(tmp_path):
    pytest.importorskip("pylate")
    tokenizer = wordpiece_tokenizer(prefixes=[])
    encoder = tmp_path / "encoder"
    bert(tokenizer, max_position_embeddings=256).save_pretrained(encoder)
    tokenizer.save_pretrained(encoder)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    write_json(encoder / "modules.json", modules)
    manifest = export(encoder, tmp_path / "out", head="pca:8")
    assert manifest.encoding.dim == 8
    assert manifest.encoding.query_prefix == ""
    assert manifest.export["dense"][0]["bias"]
    assert manifest.verification["fp32"]["max_difference"] <= 1e-5


@pytest.mark.parametrize("head", ["pca", "pca:0", "svd:96"])
def test_unknown_head(head):
    with pytest.raises(InputError, match="pca:96"):
        parse_head(head)


def test_hub_name_is_taken_from_the_cache_at_its_revision(tmp_path):
    checkpoint = tiny_bert_checkpoint(tmp_path / "checkpoint")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--owner--tiny"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    checkpoint.rename(repository / "snapshots" / commit)
    source = hub.fetch("owner/tiny", cache=tmp_path / "cache", offline=True)
    assert source.revision == commit
    assert export(source.folder, tmp_path / "out", revision=source.revision, verify=False).source["revision"] == commit


def test_hub_name_that_cannot_be_had_names_the_way_out(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"owner/none.*give its folder"):
        hub.fetch("owner/none", cache=tmp_path, offline=True)
    with pytest.raises(ModelNotFoundError, match="OWNER/NAME"):
        hub.fetch("no such folder")


def test_ab_compares_two_settings_on_a_collection(tmp_path, capsys):
    checkpoint = tiny_bert_checkpoint(tmp_path / "checkpoint")
    data = tmp_path / "data"
    (data / "qrels").mkdir(parents=True)
    documents = ["water freezes in winter", "a budget lists what comes in", "bees tell one another where food is"]
    lines = [json.dumps({"_id": f"d{i}", "title": "", "text": text}) for i, text in enumerate(documents)]
    (data / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (data / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "bees and food"}), encoding="utf-8")
    (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td2\t1\n", encoding="utf-8")
    arguments = [str(checkpoint), "--ab", str(data), "--set", "query_length=8", "--no-verify", "--json"]
    assert cli.main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["b"]["overrides"] == {"query_length": 8}
    assert 0 <= result["a"]["scores"]["ndcg@10"] <= 1

"""A checkpoint by its name on the hub: the export says which commit it was made from."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from edgecolbert_export import cli
from tiny_checkpoints import tiny_bert_checkpoint

from edgecolbert.manifest import ModelManifest

pytestmark = pytest.mark.filterwarnings("ignore")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("revision", ["", COMMIT])
def test_the_commit_of_a_hub_name_is_in_the_manifest_and_the_card(tmp_path, monkeypatch, revision):
    repository = tmp_path / "cache" / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    tiny_bert_checkpoint(repository / "snapshots" / COMMIT)
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    words = ["owner/tiny", str(tmp_path / "out"), "--no-verify", *(["--revision", revision] if revision else [])]
    assert cli.main(words) == 0
    source = ModelManifest.read(tmp_path / "out").source
    assert (source["name"], source["revision"]) == ("owner/tiny", COMMIT)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"| Checkpoint | `owner/tiny` at commit `{COMMIT}` |" in card
    assert "base_model: owner/tiny" in card


def test_the_card_of_a_folder_names_no_commit(tmp_path):
    assert cli.main([str(tiny_bert_checkpoint(tmp_path / "tiny")), str(tmp_path / "out"), "--no-verify"]) == 0
    assert "| Checkpoint |" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")

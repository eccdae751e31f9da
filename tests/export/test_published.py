"""Collections in NanoBEIR's layout, from a local folder, and the published scores beside ours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from edgecolbert_export.hub_datasets import collection_names, fetch_collection, read_hub_collection
from edgecolbert_export.published import compare_with_published

from edgecolbert import Encoder
from edgecolbert.errors import InputError
from edgecolbert.manifest import ModelManifest

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-model"
CORPUS = [{"_id": "d1", "text": "bees dance"}, {"_id": "d2", "text": "the moon and the tides"}]
QUERIES = [{"_id": "q1", "text": "bees"}, {"_id": "q2", "text": "never judged"}]
QRELS = [{"query-id": "q1", "corpus-id": "d1"}]


def write_lines(folder: Path) -> Path:
    for part, records in (("corpus", CORPUS), ("queries", QUERIES), ("qrels", QRELS)):
        (folder / part).mkdir(parents=True)
        (folder / part / "train.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return folder


def test_collection_of_json_lines(tmp_path):
    collection = read_hub_collection(write_lines(tmp_path / "NanoTest"))
    assert collection.name == "NanoTest"
    assert [record["id"] for record in collection.documents] == ["d1", "d2"]
    assert collection.queries == {"q1": "bees"}
    assert collection.qrels == {"q1": {"d1": 1}}


def test_collection_of_parquet_files(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for part, records in (("corpus", CORPUS), ("queries", QUERIES), ("qrels", QRELS)):
        (tmp_path / part).mkdir()
        parquet.write_table(arrow.Table.from_pylist(records), tmp_path / part / "train-00000-of-00001.parquet")
    assert read_hub_collection(tmp_path) == replace(
        read_hub_collection(write_lines(tmp_path / "lines")), name=tmp_path.name
    )


def test_collection_from_the_cache_of_the_hub(tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "datasets--zeta-alpha-ai--NanoSciFact"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    write_lines(repository / "snapshots" / commit)
    (name,) = collection_names("nanobeir:scifact")
    assert fetch_collection(name, cache=tmp_path, offline=True).name == "NanoSciFact"


def test_names_of_collections():
    assert len(collection_names("nanobeir")) == 13
    assert collection_names("owner/dataset") == ["owner/dataset"]
    with pytest.raises(InputError, match="SciFact"):
        collection_names("nanobeir:nothing")
    with pytest.raises(InputError, match="OWNER/NAME"):
        collection_names("beir")


def test_missing_parts_and_columns_name_the_file(tmp_path):
    folder = write_lines(tmp_path / "NanoTest")
    (folder / "qrels" / "train.jsonl").write_text('{"query": "q1"}', encoding="utf-8")
    with pytest.raises(InputError, match="query-id"):
        read_hub_collection(folder)
    (folder / "qrels" / "train.jsonl").unlink()
    with pytest.raises(InputError, match="qrels"):
        read_hub_collection(folder)


def test_published_scores_stand_beside_ours(tmp_path):
    collection = replace(read_hub_collection(write_lines(tmp_path / "x")), name="NanoSciFact")
    manifest = replace(ModelManifest.read(TINY), name="mxbai-edge-colbert-v0-17m")
    rows = compare_with_published(Encoder(manifest, threads=1), [collection])["collections"]
    assert rows["NanoSciFact"]["published"] == 0.7943
    assert rows["NanoSciFact"]["difference"] == pytest.approx(rows["NanoSciFact"]["ours"] - 0.7943, abs=1e-4)
    # A mean over one collection is not comparable with the card's over thirteen.
    assert rows["mean"]["published"] is None

"""The whole path for every published model: a checkpoint of its shape, export, verification, index, search."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("pylate")

from edgecolbert_export.recipe import read_recipe
from exporting import export
from mission_shapes import SHAPES

from edgecolbert import Index
from edgecolbert.goldens import check_goldens

pytestmark = pytest.mark.filterwarnings("ignore")
# Megabytes of the graph, from issue 3: int8 and int8-fast.
LARGEST = {
    "colbert-muvera-micro": (5.0, 4.9),
    "mxbai-edge-colbert-v0-17m": (18.0, 17.5),
    "mxbai-edge-colbert-v0-32m": (36.0, 34.5),
    "colbert-zero": (165.0, 153.0),
}
DOCUMENTS = [
    "Paris is the capital and largest city of France.",
    "A heat pump moves warmth from the cold air outside into the house.",
    "Bread rises because yeast turns sugar into carbon dioxide.",
]


def large(name):
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("profile", ["int8", "int8-fast"])
@pytest.mark.parametrize("name", ["colbert-muvera-micro", *(large(name) for name in list(SHAPES)[1:])])
def test_published_shape_from_checkpoint_to_search(tmp_path, name, profile):
    checkpoint = SHAPES[name](tmp_path / "checkpoint")
    manifest = export(checkpoint, tmp_path / "model", recipe=read_recipe(name), profile=profile)
    assert manifest.verification["fp32"]["equal_ids"]
    assert manifest.verification["fp32"]["max_difference"] <= 1e-5
    assert check_goldens(manifest).problems == ()
    if name in LARGEST:
        assert manifest.files[manifest.graph].size / 1e6 <= LARGEST[name][profile == "int8-fast"]
    with Index.open(tmp_path / "index.db", model=tmp_path / "model") as index:
        index.add(DOCUMENTS)
        for options in ({}, {"exact": True}, {"n_candidates": 2}):
            assert index.search(DOCUMENTS[1], k=1, **options)[0].text == DOCUMENTS[1]

"""Make the tiny model of the tests again: `python tests/make_tiny_model.py`, in the export environment.

It builds a tiny checkpoint with random weights, exports it with the project's own pipeline to fixtures/tiny-model, and
writes what PyLate computes for a few texts to fixtures/tiny-goldens.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS / "export"), str(TESTS.parent / "export"), str(TESTS.parent)]

from edgecolbert_export.pipeline import ExportOptions, export_model  # noqa: E402
from edgecolbert_export.recipe import Recipe  # noqa: E402
from tiny_checkpoints import tiny_bert_checkpoint  # noqa: E402

from edgecolbert.goldens import GOLDENS_NAME, unpack_goldens  # noqa: E402

RECIPE = Recipe(
    name="tiny",
    source="local",
    licence="Apache-2.0",
    description="Random weights, for tests only: BERT with 2 layers of 32, a Dense layer to 16 dimensions.",
    profile="fp32",
)


def main() -> None:
    """Write the model folder and the golden values."""
    out = TESTS / "fixtures" / "tiny-model"
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = tiny_bert_checkpoint(Path(scratch) / "tiny")
        manifest = export_model(ExportOptions(checkpoint, out, RECIPE, force=True), progress=print)
    goldens, reference = unpack_goldens(manifest.read_file(GOLDENS_NAME))
    content = {
        "reference": reference,
        "made_by": "tests/make_tiny_model.py",
        "texts": [
            {
                "side": golden.side,
                "text": golden.text,
                "ids": golden.ids.tolist(),
                "embeddings": [[round(float(value), 8) for value in row] for row in golden.embeddings],
            }
            for golden in goldens
        ],
    }
    path = TESTS / "fixtures" / "tiny-goldens.json"
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Make tests/fixtures/pooling-goldens.json again: `python tests/make_pooling_goldens.py`, where PyLate is installed.

Rows of a few texts' lengths, some of them near each other as the tokens of a text are, and what PyLate pools them to.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from pylate.models import ColBERT

GOLDENS = Path(__file__).resolve().parent / "fixtures" / "pooling-goldens.json"


def main() -> None:
    generator = np.random.default_rng(0)
    cases = []
    for n_tokens, pool_factor in ((1, 2), (3, 2), (8, 2), (13, 2), (13, 3), (20, 4), (9, 100)):
        topics = generator.standard_normal((max(1, n_tokens // 3), 6))
        rows = topics[generator.integers(0, len(topics), n_tokens)] + 0.4 * generator.standard_normal((n_tokens, 6))
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        (pooled,) = ColBERT.pool_embeddings_hierarchical(None, [torch.from_numpy(rows)], pool_factor=pool_factor)
        cases.append({"pool_factor": pool_factor, "rows": rows.tolist(), "pooled": pooled.numpy().tolist()})
    GOLDENS.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Token pooling beside PyLate's, on tokens of many lengths."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pylate")

from pylate.models import ColBERT  # noqa: E402

from edgecolbert.pooling import pool_tokens  # noqa: E402


@pytest.mark.parametrize("pool_factor", [2, 3, 6])
@pytest.mark.parametrize("n_tokens", [2, 4, 31, 180])
def test_pooled_tokens_are_pylates(n_tokens, pool_factor):
    generator = np.random.default_rng(n_tokens)
    topics = generator.standard_normal((n_tokens // 4 + 1, 48))
    rows = topics[generator.integers(0, len(topics), n_tokens)] + 0.5 * generator.standard_normal((n_tokens, 48))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    (expected,) = ColBERT.pool_embeddings_hierarchical(None, [torch.from_numpy(rows)], pool_factor=pool_factor)
    expected = expected.numpy()
    pooled = pool_tokens(rows, pool_factor)
    assert pooled.shape == expected.shape
    # PyLate's order of clusters is that of its tree; no score depends on it.
    assert np.array_equal(pooled[0], expected[0])
    np.testing.assert_allclose(pooled[np.lexsort(pooled.T)], expected[np.lexsort(expected.T)], rtol=0, atol=1e-6)

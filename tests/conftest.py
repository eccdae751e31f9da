"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from word_encoder import WordEncoder

# The same examples on every machine and every run: a test that fails only sometimes is worse than none.
settings.register_profile("seeded", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("seeded")


@pytest.fixture
def encoder() -> WordEncoder:
    return WordEncoder()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.db"

"""Fixtures that several test files share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import settings
from word_encoder import WordEncoder

from edgecolbert import upkeep

# The same examples on every machine and every run: a test that fails only sometimes is worse than none.
settings.register_profile("seeded", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("seeded")


@pytest.fixture(autouse=True)
def small_first_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes of a few documents have a first stage, several segments and merges, as large ones do."""
    for name, value in {
        "FIRST_STAGE_FROM": 2,
        "_FITTED_ENOUGH": 100,
        "_BUILD_STEP": 16,
        "_SEALED": 8,
    }.items():
        monkeypatch.setattr(upkeep, name, value)


@pytest.fixture
def encoder() -> WordEncoder:
    return WordEncoder()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.db"


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C reach the processes that tests start, and let LangChain's standard tests be plain `async def`."""
    # A job in the background of a shell inherits that the signal is ignored, and so would everything that it starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # LangChain's bear no mark. Not in pyproject.toml: a setting that is unknown is an error where pytest-asyncio is not
    # installed.
    if hasattr(config.option, "asyncio_mode"):
        config.option.asyncio_mode = "auto"

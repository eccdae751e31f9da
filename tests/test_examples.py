"""Every example runs, every runnable docstring says the truth, and the README shows real commands."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from test_public_surface import MODULES

from edgecolbert.cli import COMMANDS

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# What an example is given here; it writes into the folder that it runs in.
OPTIONS = {"board_kit.py": ["--quick"]}


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(example), *OPTIONS.get(example.name, [])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_examples_in_docstrings_are_true() -> None:
    attempted = 0
    for name in MODULES:
        result = doctest.testmod(import_module(name), extraglobs={"np": np})
        assert result.failed == 0, name
        attempted += result.attempted
    assert attempted > 5


def test_every_command_in_the_readme_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"^(?:\$ )?edgecolbert (\w+)", readme, flags=re.MULTILINE))
    assert {"index", "search"} <= commands <= set(COMMANDS)

"""Every block of Python in the pages of docs/integrations runs, in order, as a newcomer would run it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = Path(__file__).parent.parent / "docs" / "integrations"
# What a page's framework is, where it needs one.
NEEDS = {"haystack.md": "haystack", "langchain.md": "langchain_core", "llama-index.md": "llama_index"}
OURS = ["haystack.md", "langchain.md", "llama-index.md", "pylate.md", "sentence-transformers.md"]


@pytest.mark.parametrize("page", OURS)
def test_a_page_runs(page: str, tmp_path: Path) -> None:
    if page in NEEDS and importlib.util.find_spec(NEEDS[page]) is None:
        pytest.skip(f"needs {NEEDS[page]}")
    blocks = re.findall(r"^```python\n(.*?)^```", (PAGES / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    assert blocks
    environment = os.environ | {"HAYSTACK_TELEMETRY_ENABLED": "False"}
    command = [sys.executable, "-c", "\n".join(blocks)]
    for _ in range(2):  # and again, with what the first time has left behind
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "kettle" in done.stdout or "[[" in done.stdout

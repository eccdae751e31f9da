"""Everything in this folder runs in the export environment and is skipped elsewhere."""

from __future__ import annotations

import importlib.util

# Without torch not even the helpers of these tests can be imported.
if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
    collect_ignore_glob = ["test_*.py"]

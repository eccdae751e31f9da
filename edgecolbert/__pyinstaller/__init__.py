"""Where PyInstaller finds the hook of this package; the entry point `pyinstaller40` names this function."""

from __future__ import annotations

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """The folder of the hook."""
    return [str(Path(__file__).parent)]

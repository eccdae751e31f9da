"""What the pipeline tells its caller while it runs."""

from __future__ import annotations

from collections.abc import Callable

# Called with a sentence for each step that begins.
Progress = Callable[[str], None]


def silent(step: str) -> None:
    """Tell nobody.

    Args:
        step: What begins.
    """

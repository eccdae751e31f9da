"""PyLate's names and call shapes, so that a notebook moves over by changing one import.

    from edgecolbert.integrations.pylate import indexes, models, rank, retrieve

Needs no extra, and no torch. docs/integrations/pylate.md says what is the same and what is not.
"""

from __future__ import annotations

from edgecolbert.integrations.pylate import indexes, models, rank, retrieve

__all__ = ["indexes", "models", "rank", "retrieve"]

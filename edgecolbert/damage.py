"""What a search left out because it is damaged, where the index was opened with `on_damage="skip"`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgecolbert.errors import InputError, StoreWarning

if TYPE_CHECKING:
    from edgecolbert.store import Store

RAISE, SKIP = "raise", "skip"
# Documents named in a warning; `verify` names all.
_NAMED = 20


def check_policy(on_damage: object) -> None:
    """Refuse a policy that is none.

    Args:
        on_damage: What a user gave.

    Raises:
        InputError: If it is neither "raise" nor "skip".
    """
    if on_damage not in (RAISE, SKIP):
        raise InputError(f"on_damage is {on_damage!r}, expected 'raise' or 'skip'.")


class Skipped:
    """What one search left out.

    Attributes:
        contents: Texts of which a passage is damaged or missing, by content number.
        documents: Ids of documents whose record or text is damaged.
        first_stage: What is wrong with the first stage, so that every passage was scored instead; None if nothing is.
    """

    def __init__(self) -> None:
        self.contents: set[int] = set()
        self.documents: set[str] = set()
        self.first_stage: str | None = None

    def warn(self, store: Store) -> None:
        """Say once what was left out, if anything was.

        Args:
            store: The database, inside the snapshot that was searched.
        """
        passages = sorted(name for names in store.ids_of_contents(self.contents).values() for name in names)
        parts = []
        if passages:
            parts.append(f"damaged passages of {_names(passages)} were left out")
        if self.documents:
            parts.append(f"the damaged documents {_names(sorted(self.documents))} were left out")
        if self.first_stage is not None:
            parts.append("the first stage is damaged, so every passage was scored")
        if parts:
            warnings.warn(
                f"{store.path}: {', and '.join(parts)}. Run `edgecolbert repair --db FILE`.", StoreWarning, stacklevel=4
            )


def _names(ids: Iterable[str]) -> str:
    shown = list(ids)
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return ", ".join(map(repr, shown[:_NAMED])) + more

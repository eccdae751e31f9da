"""How the token embeddings of documents are stored: with how many bits a component, and whether pooled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgecolbert.errors import InputError, InputTypeError, StoreFormatError

_BITS = (8, 4)


@dataclass(frozen=True)
class TokenSettings:
    """How the token embeddings of an index are stored; pinned in its file when the file is made.

    Attributes:
        bits: Bits of one component, 8 or 4.
        pool_factor: One embedding is stored for so many tokens of a passage, the mean of tokens that are alike
            (`edgecolbert.pooling`); 1 stores the embedding of each token.
    """

    bits: int = 8
    pool_factor: int = 1

    def __post_init__(self) -> None:
        """Refuse what no file can have.

        Raises:
            InputTypeError: If a value is no whole number.
            InputError: If it is out of range.
        """
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise InputTypeError(f"{name} is {value!r}, expected a whole number.")
        if self.bits not in _BITS:
            raise InputError(f"bits is {self.bits}, expected 8 or 4.")
        if self.pool_factor < 1:
            raise InputError(f"pool_factor is {self.pool_factor}, expected at least 1.")

    def to_json(self) -> dict[str, int]:
        """The same as a dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def pinned(cls, settings: Mapping[str, Any], path: str) -> TokenSettings:
        """What a database says about its token embeddings.

        Args:
            settings: The settings of an encoding; files that say nothing about tokens store all of them as int8.
            path: The database file, for messages.

        Returns:
            The settings.

        Raises:
            StoreFormatError: If they are none that this version knows.
        """
        found = settings.get("tokens", {})
        try:
            return cls(**found)
        except (TypeError, InputError) as error:
            raise StoreFormatError(
                f"{path} stores token embeddings in a way that this version of edgecolbert does not know: {found!r} "
                f"({error}). Upgrade edgecolbert to open it, or restore the file from a backup."
            ) from error

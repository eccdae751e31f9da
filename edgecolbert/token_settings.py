"""How the token embeddings of documents are stored: with how many bits a component, and whether pooled."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.pinned_settings import PinnedSettings

_BITS = (8, 4)


@dataclass(frozen=True)
class TokenSettings(PinnedSettings):
    """How the token embeddings of an index are stored; pinned in its file until it is re-encoded with others.

    Attributes:
        bits: Bits of one component, 8 or 4.
        pool_factor: One embedding is stored for so many tokens of a passage, the mean of tokens that are alike
            (`edgecolbert.pooling`); 1 stores the embedding of each token.
    """

    NAME: ClassVar[str] = "tokens"
    WHAT: ClassVar[str] = "stores token embeddings"

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

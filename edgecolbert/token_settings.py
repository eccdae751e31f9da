"""How the token embeddings of documents are stored: with how many bits a component, and whether pooled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgecolbert.errors import InputError, InputTypeError, StoreFormatError

_BITS = (8, 4)


@dataclass(frozen=True)
class TokenSettings:
    """How the token embeddings of an index are stored; pinned in its file until it is re-encoded with others.

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

    def pin(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What an encoding's settings are with these.

        Args:
            settings: Its other settings; what they say of tokens is left aside.

        Returns:
            The settings to store; the default is not named, as in files that were made before there was a choice.
        """
        others = {name: value for name, value in settings.items() if name != "tokens"}
        return others if self == TokenSettings() else others | {"tokens": self.to_json()}

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


def asked_for(tokens: TokenSettings | Mapping[str, int] | None) -> dict[str, int]:
    """What a caller asks for by name.

    Args:
        tokens: All settings; or a mapping with some of them, which leaves the others to the file; or None for none.

    Returns:
        The settings that are named.

    Raises:
        InputTypeError: If it is something else, or a value is no whole number.
        InputError: If a name is unknown or a value out of range.
    """
    if tokens is None:
        return {}
    if isinstance(tokens, TokenSettings):
        return tokens.to_json()
    if not isinstance(tokens, Mapping):
        raise InputTypeError(
            f"tokens is {type(tokens).__name__}, expected TokenSettings, or a mapping with some of its settings."
        )
    names = [field.name for field in fields(TokenSettings)]
    unknown = [name for name in tokens if name not in names]
    if unknown:
        raise InputError(f"tokens has {unknown[0]!r}, expected only {' and '.join(names)}.")
    TokenSettings(**tokens)
    return dict(tokens)

"""Settings that a database pins: stored where they are not the default, refused where this version knows them not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from edgecolbert.errors import InputError, InputTypeError, StoreFormatError
from edgecolbert.untrusted import shown


@dataclass(frozen=True)
class PinnedSettings:
    """What the settings of an encoding say under one name. A kind of settings is a subclass with its fields.

    Attributes:
        NAME: The name, which is also that of the argument that takes them.
        WHAT: What a database with such settings does, for messages.
    """

    NAME: ClassVar[str]
    WHAT: ClassVar[str]

    @property
    def is_default(self) -> bool:
        """Whether these are the settings of a file that says nothing."""
        return self == type(self)()

    def to_json(self) -> dict[str, Any]:
        """The same as a dictionary that JSON can hold."""
        return asdict(self)

    def pin(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What an encoding's settings are with these.

        Args:
            settings: Its other settings; what they say under this name is left aside.

        Returns:
            The settings to store; the default is not named, as in files that were made before there was a choice.
        """
        others = {name: value for name, value in settings.items() if name != self.NAME}
        return others if self.is_default else others | {self.NAME: self.to_json()}

    @classmethod
    def pinned(cls, settings: Mapping[str, Any], path: str) -> Self:
        """What a database says.

        Args:
            settings: The settings of an encoding; those that say nothing mean the default.
            path: The database file, for messages.

        Returns:
            The settings.

        Raises:
            StoreFormatError: If they are none that this version knows.
        """
        found = settings.get(cls.NAME, {})
        try:
            return cls(**found)
        except (TypeError, InputError) as error:
            raise StoreFormatError(
                f"{path} {cls.WHAT} in a way that this version of edgecolbert does not know: {shown(found)} "
                f"({error}). Upgrade edgecolbert to open it, or restore the file from a backup."
            ) from error

    @classmethod
    def asked_for(cls, asked: PinnedSettings | Mapping[str, Any] | None) -> dict[str, Any]:
        """What a caller asks for by name.

        Args:
            asked: All settings; or a mapping with some of them, which leaves the others to the file; or None for none.

        Returns:
            The settings that are named.

        Raises:
            InputTypeError: If it is something else, or a value has the wrong type.
            InputError: If a name is unknown or a value out of range.
        """
        if asked is None:
            return {}
        if isinstance(asked, cls):
            return asked.to_json()
        if not isinstance(asked, Mapping):
            raise InputTypeError(
                f"{cls.NAME} is {type(asked).__name__}, expected {cls.__name__}, or a mapping with some of its "
                "settings."
            )
        names = [field.name for field in fields(cls)]
        unknown = [name for name in asked if name not in names]
        if unknown:
            expected = f"{', '.join(names[:-1])} and {names[-1]}"
            raise InputError(f"{cls.NAME} has {shown(unknown[0])}, expected only {expected}.")
        cls(**asked)
        return dict(asked)

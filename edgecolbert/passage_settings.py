"""How documents of an index become passages: how long, with what overlap, by their structure, and in what context."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.pinned_settings import PinnedSettings
from edgecolbert.untrusted import shown

_NUMBERS = ("max_tokens", "overlap", "min_tokens", "window")
# No model reads more; a file that says more is damaged or hostile.
_MOST_TOKENS = 65_536


@dataclass(frozen=True)
class PassageSettings(PinnedSettings):
    """How documents become passages; pinned in an index's file until it is re-encoded with others.

    Only the library's own encoder offers these; an encoder of the user's splits by its own `split`. The defaults are
    what files that say nothing have. docs/passages.md has what each is worth.

    Attributes:
        max_tokens: Most tokens of a passage, special tokens and prefix included; 0 for the model's document length.
        overlap: Most tokens of content that a passage repeats from the end of the one before.
        structure: Split Markdown and code by their structure. False splits every kind of document like plain text.
        min_tokens: Sections of Markdown and code with fewer tokens share a passage with a neighbour.
        context: Encode each passage behind its document's title and the headings above it.
        late_chunking: Encode many passages in one pass, so that each token has seen the others, and cut afterwards.
        window: Most tokens of such a pass, special tokens and prefix included; 0 for the model's document length.
    """

    NAME: ClassVar[str] = "passages"
    WHAT: ClassVar[str] = "makes passages"

    max_tokens: int = 0
    overlap: int = 0
    structure: bool = False
    min_tokens: int = 32
    context: bool = False
    late_chunking: bool = False
    window: int = 0

    def __post_init__(self) -> None:
        """Refuse what no file can have.

        Raises:
            InputTypeError: If a value has the wrong type.
            InputError: If a value is out of range, or two exclude each other.
        """
        for name, value in asdict(self).items():
            if name in _NUMBERS:
                if isinstance(value, bool) or not isinstance(value, int):
                    raise InputTypeError(f"{name} is {shown(value)}, expected a whole number.")
                if not 0 <= value <= _MOST_TOKENS:
                    raise InputError(f"{name} is {value}, expected 0 to {_MOST_TOKENS}.")
            elif not isinstance(value, bool):
                raise InputTypeError(f"{name} is {shown(value)}, expected True or False.")
        if self.late_chunking and (self.overlap or self.context):
            which = "overlap" if self.overlap else "context"
            raise InputError(
                f"late_chunking and {which} were both asked for; with late chunking each token has seen what is around "
                f"its passage already. Leave one of them out."
            )
        if self.window and not self.late_chunking:
            raise InputError(f"window is {self.window}, which is for late_chunking alone. Leave it out, or name both.")


def check_split(split_documents: bool, passages: PassageSettings) -> bool:
    """Refuse settings of passages where documents are not split at all.

    Args:
        split_documents: Whether documents are split.
        passages: How.

    Returns:
        Whether documents are split.

    Raises:
        InputError: If they are not, and yet it is said how.
    """
    if not split_documents and not passages.is_default:
        raise InputError(
            "passages says how documents are split, but with split_documents=False they are not. Leave one of them out."
        )
    return split_documents

"""The late-interaction settings of a checkpoint, as its config files have them and before any token id is known."""

from __future__ import annotations

import string
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from edgecolbert.errors import ModelFormatError

_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "bool": (bool,),
    "tuple[str, ...]": (list, tuple),
    "dict[str, str]": (dict,),
}


@dataclass(frozen=True)
class ColbertSettings:
    """Settings of a ColBERT checkpoint; the defaults are PyLate's (R9).

    Attributes:
        query_prefix: Text of the query prefix token, with its trailing space; "" for none.
        document_prefix: Text of the document prefix token.
        query_length: Most token ids of a query.
        document_length: Most token ids of a document.
        do_query_expansion: Pad queries to `query_length` and keep those rows.
        attend_to_expansion_tokens: Give the padding attention; means nothing without expansion (R10).
        expansion_token: The padding token; None for mask, else end of sequence, else pad (R13).
        skiplist_words: Words whose rows documents drop.
        unknown_words_are_unk: What a skiplist word outside the vocabulary does: PyLate resolves it to the unknown token
            and so drops every unknown token (R14); sentence-transformers 6 ignores the word.
        do_lower_case: Lower-case the text before the tokenizer.
        prompts: Texts put before the text, by name.
        default_prompt_name: The prompt that applies to queries and documents alike, or None.
    """

    query_prefix: str = "[Q] "
    document_prefix: str = "[D] "
    query_length: int = 32
    document_length: int = 180
    do_query_expansion: bool = True
    attend_to_expansion_tokens: bool = False
    expansion_token: str | None = None
    skiplist_words: tuple[str, ...] = tuple(string.punctuation)
    unknown_words_are_unk: bool = True
    do_lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None


def settings_from(values: dict[str, Any], path: Path) -> ColbertSettings:
    """Check the values of a config file and build the settings.

    Args:
        values: Field names of `ColbertSettings` and their values; absent ones get the default.
        path: The file they are from, for the error message.

    Returns:
        The settings.

    Raises:
        ModelFormatError: If a value has the wrong type or is out of range.
    """
    kinds = {f.name: str(f.type) for f in fields(ColbertSettings)}
    for name, value in values.items():
        expected = _TYPES[kinds[name]]
        if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
            raise ModelFormatError(f"{path} has {name} {value!r}, expected {kinds[name]}. Correct the file.")
    for name in ("query_length", "document_length"):
        if values.get(name, 3) < 3:
            raise ModelFormatError(
                f"{path} has {name} {values[name]}, expected at least 3, the room of [CLS], prefix and [SEP]. "
                "Correct the file."
            )
    if "skiplist_words" in values:
        values = values | {"skiplist_words": tuple(str(word) for word in values["skiplist_words"])}
    if "prompts" in values:
        values = values | {"prompts": {str(name): str(text or "") for name, text in values["prompts"].items()}}
    if not values.get("do_query_expansion", True):
        values = values | {"attend_to_expansion_tokens": False}  # R10
    return ColbertSettings(**values)

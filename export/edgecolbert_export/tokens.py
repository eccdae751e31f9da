"""The checkpoint's tokenizer as one `tokenizer.json`, and every token id that the settings mean (R12 to R14)."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from edgecolbert.errors import ModelFormatError
from edgecolbert_export.checkpoint import Checkpoint


@dataclass(frozen=True)
class CheckpointTokenizer:
    """The tokenizer and the ids that encoding needs.

    Attributes:
        json: Content of `tokenizer.json`, without truncation and padding.
        size: Number of token ids, the prefixes included.
        query_prefix_id: Id of the query prefix, or None without one.
        document_prefix_id: Id of the document prefix, or None without one.
        expansion_token_id: Id of the padding token, or None where there is none.
        skiplist_ids: Ids that documents drop.
        truncation_side: "right" or "left".
        notes: What a reader of the model card should know.
    """

    json: str
    size: int
    query_prefix_id: int | None
    document_prefix_id: int | None
    expansion_token_id: int | None
    skiplist_ids: tuple[int, ...]
    truncation_side: str
    notes: tuple[str, ...]


def read_tokenizer(checkpoint: Checkpoint) -> CheckpointTokenizer:
    """Load the tokenizer as PyLate does, through transformers, and resolve the settings' tokens.

    Args:
        checkpoint: The checkpoint.

    Returns:
        The tokenizer.

    Raises:
        ModelFormatError: If the tokenizer cannot be loaded, pads on the left (R26), or lacks a token that is needed.
    """
    folder, settings = checkpoint.backbone_folder, checkpoint.settings
    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and bare Exception here
        raise ModelFormatError(
            f"The tokenizer in {folder} cannot be loaded by transformers: {error}. Copy the checkpoint again, or use "
            "the version of transformers that saved it."
        ) from error
    if not getattr(loaded, "is_fast", False):
        raise ModelFormatError(
            f"The tokenizer in {folder} ({type(loaded).__name__}) has no tokenizer.json form. Convert it to a fast "
            "tokenizer with transformers and save it into the checkpoint."
        )
    if loaded.padding_side != "right":
        raise ModelFormatError(
            f"The tokenizer in {folder} pads on the {loaded.padding_side}, expected right. PyLate then puts the prefix "
            'among the padding, so no exact result exists. Set "padding_side": "right" in tokenizer_config.json.'
        )
    # Adding a prefix also makes its literal text in user input that token (R25), as in PyLate.
    prefixes = [prefix for prefix in (settings.query_prefix, settings.document_prefix) if prefix]
    if prefixes:
        loaded.add_tokens(prefixes)
    notes: list[str] = []
    skiplist_ids = []
    for word in settings.skiplist_words:
        found = loaded.convert_tokens_to_ids(word)
        outside = found is None or (found == loaded.unk_token_id and word != loaded.unk_token)
        if outside:
            dropped = found is not None and settings.unknown_words_are_unk
            notes.append(
                f"The skiplist word {word!r} is not in the vocabulary; "
                + (
                    "every unknown token of a document is dropped for it, as in PyLate."
                    if dropped
                    else "it is ignored."
                )
            )
        if found is not None and (not outside or settings.unknown_words_are_unk):
            skiplist_ids.append(int(found))
    backend = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return CheckpointTokenizer(
        json=backend.to_str(),
        size=len(loaded),
        query_prefix_id=_prefix_id(loaded, settings.query_prefix),
        document_prefix_id=_prefix_id(loaded, settings.document_prefix),
        expansion_token_id=_expansion_token_id(loaded, checkpoint),
        skiplist_ids=tuple(skiplist_ids),
        truncation_side=str(loaded.truncation_side),
        notes=tuple(notes),
    )


def _prefix_id(loaded: AutoTokenizer, prefix: str) -> int | None:
    return int(loaded.convert_tokens_to_ids(prefix)) if prefix else None


def _expansion_token_id(loaded: AutoTokenizer, checkpoint: Checkpoint) -> int | None:
    settings = checkpoint.settings
    if settings.expansion_token is not None:
        found = loaded.convert_tokens_to_ids(settings.expansion_token)
        if found is None or found == loaded.unk_token_id:
            raise ModelFormatError(
                f"The expansion token {settings.expansion_token!r} of {checkpoint.folder} is not in its vocabulary. "
                "Correct query_expansion.token."
            )
        return int(found)
    for token_id in (loaded.mask_token_id, loaded.eos_token_id, loaded.pad_token_id):  # R13
        if token_id is not None:
            return int(token_id)
    if settings.do_query_expansion:
        raise ModelFormatError(
            f"The tokenizer in {checkpoint.backbone_folder} has no mask, end or pad token, but queries are to be "
            "expanded. Name one in tokenizer_config.json, or set do_query_expansion to false."
        )
    return None

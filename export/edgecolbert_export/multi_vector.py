"""The layout that sentence-transformers 6 saves (`MultiVectorEncoder`): its settings lie in other files than PyLate's.

Source: sentence_transformers 6.2.0, `multi_vector_encoder/model.py`, `modules/multi_vector_mask.py` and
`base/modules/transformer.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgecolbert.errors import ModelFormatError
from edgecolbert_export.colbert_settings import ColbertSettings, settings_from
from edgecolbert_export.json_files import read_optional_json_object

_BASE = "sentence_transformers.base.modules"
_MASK_TYPE = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"
TRANSFORMER_TYPES = {f"{_BASE}.transformer.Transformer", f"{_BASE}.Transformer"}
DENSE_TYPES = {f"{_BASE}.dense.Dense", f"{_BASE}.Dense"}
NORMALIZE_TYPES = {f"{_BASE}.normalize.Normalize", f"{_BASE}.Normalize"}
MASK_TYPES = {_MASK_TYPE, "sentence_transformers.multi_vector_encoder.modules.MultiVectorMask"}
OTHER_TYPES = NORMALIZE_TYPES | MASK_TYPES
# Of BERT; for a backbone that names no limit at all.
_USUAL_LIMIT = 512


def is_layout(config: dict[str, Any], modules: list[dict[str, Any]]) -> bool:
    """Whether a checkpoint is in this layout.

    Args:
        config: Content of `config_sentence_transformers.json`.
        modules: Content of `modules.json`.

    Returns:
        True if the settings lie where this layout has them. Read as PyLate's, they would silently be the defaults.
    """
    types = {str(entry.get("type")) for entry in modules}
    return config.get("model_type") == "MultiVectorEncoder" or bool(types & (MASK_TYPES | TRANSFORMER_TYPES))


def read_settings(
    folder: Path, config: dict[str, Any], modules: list[dict[str, Any]], backbone_config: dict[str, Any]
) -> ColbertSettings:
    """Read the settings.

    Args:
        folder: The checkpoint.
        config: Content of `config_sentence_transformers.json`.
        modules: Content of `modules.json`.
        backbone_config: Content of `sentence_bert_config.json`.

    Returns:
        The settings. A prompt such as "[Q] search_query: " becomes the prefix "[Q] " and the prompt "search_query: ".

    Raises:
        ModelFormatError: If it masks tokens in a way that the runtime does not know.
    """
    path = folder / "sentence_bert_config.json"
    longest = _longest(folder)
    values: dict[str, Any] = {
        "do_lower_case": backbone_config.get("do_lower_case", False),
        "document_length": backbone_config.get("document_length", longest),
        "unknown_words_are_unk": False,
        "skiplist_words": _skiplist(folder, modules),
    }
    values |= _expansion(backbone_config, longest, path)
    prompts = config.get("prompts") or {}
    tokens = _added_tokens(folder)
    values["prompts"] = {}
    for side in ("query", "document"):
        prefix, rest = _split_prompt(str(prompts.get(side) or ""), tokens)
        values[f"{side}_prefix"] = prefix
        values["prompts"][side] = rest
    # `encode_query` and `encode_document` apply their own prompt, so the default one never applies to them.
    return settings_from(values, path)


def _longest(folder: Path) -> int:
    """Length of texts where the files name none: the least limit of tokenizer and backbone, as in that package."""
    limits = (
        read_optional_json_object(folder / "tokenizer_config.json").get("model_max_length"),
        read_optional_json_object(folder / "config.json").get("max_position_embeddings"),
    )
    return min((int(limit) for limit in limits if isinstance(limit, int | float)), default=_USUAL_LIMIT)


def _expansion(backbone_config: dict[str, Any], longest: int, path: Path) -> dict[str, Any]:
    expansion = backbone_config.get("query_expansion")
    if expansion is None:
        return {"do_query_expansion": False, "query_length": backbone_config.get("query_length", longest)}
    if not isinstance(expansion, dict) or expansion.get("strategy") != "fixed":
        raise ModelFormatError(
            f"{path} has the query_expansion {expansion!r}, expected the strategy 'fixed'. The runtime expands queries "
            "to one length only; save the model with strategy 'fixed', or without expansion."
        )
    values = {
        "do_query_expansion": True,
        "attend_to_expansion_tokens": bool(expansion.get("attend", False)),
        "query_length": expansion.get("length"),
    }
    if expansion.get("token") is not None:
        values["expansion_token"] = expansion["token"]
    return values


def _skiplist(folder: Path, modules: list[dict[str, Any]]) -> list[str]:
    masks = [entry for entry in modules if entry["type"] in MASK_TYPES]
    words: list[str] = []
    for entry in masks:
        path = folder / str(entry["path"]) / "config.json"
        mask = read_optional_json_object(path)
        words += mask.get("skiplist_words", [])
        tasks = mask.get("skiplist_tasks", ["document"])
        if words and tasks not in (["document"], "document"):
            raise ModelFormatError(
                f"{path} applies the skiplist to {tasks}, expected ['document'] only. Queries with skipped tokens are "
                "not supported."
            )
        if mask.get("keep_only_token_ids"):
            raise ModelFormatError(
                f"{path} keeps only the tokens {mask['keep_only_token_ids']}, expected no such list: it is made for "
                "images, which are not supported."
            )
    return words


def _added_tokens(folder: Path) -> list[str]:
    content = read_optional_json_object(folder / "tokenizer.json")
    # It saves prefixes as special tokens, PyLate as ordinary ones.
    return sorted((entry["content"] for entry in content.get("added_tokens", [])), key=len, reverse=True)


def _split_prompt(prompt: str, tokens: list[str]) -> tuple[str, str]:
    prefix = next((token for token in tokens if prompt.startswith(token)), "")
    return prefix, prompt[len(prefix) :]

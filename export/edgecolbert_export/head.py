"""A late-interaction model from any sentence encoder, without training: a centred PCA on its token embeddings."""

from __future__ import annotations

import json
import re
import shutil
import string
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

from edgecolbert.errors import InputError, ModelFormatError
from edgecolbert_export.json_files import read_json, read_optional_json_object
from edgecolbert_export.quiet import quiet

_IDENTITY = "torch.nn.modules.linear.Identity"
_QUERY_LENGTH = 64
_DOCUMENT_LENGTH = 256
# Components of a covariance are stable long before this many tokens.
_MOST_TOKENS = 400_000


def parse_head(text: str) -> int:
    """Read a `--head` value.

    Args:
        text: Such as "pca:96".

    Returns:
        Number of dimensions.

    Raises:
        InputError: If it is anything else.
    """
    match = re.fullmatch(r"pca:([1-9]\d{0,4})", text)
    if match is None:
        raise InputError(f"--head {text!r} is not known, expected pca: and a number of dimensions, such as pca:96.")
    return int(match.group(1))


def add_pca_head(encoder: Path, texts: list[str], dim: int, out: Path) -> Path:
    """Write a late-interaction checkpoint in PyLate's layout that puts a PCA head on a sentence encoder.

    The Dense layer is y = W (x - mean), with the principal components of the encoder's token embeddings as rows of W.
    There are no prefix tokens, because the encoder never saw any, and no query expansion.

    Args:
        encoder: A sentence encoder's folder, with `modules.json` or just a transformer.
        texts: Documents like those that will be searched.
        dim: Size of a token embedding.
        out: The checkpoint to write; a folder that does not exist.

    Returns:
        `out`.

    Raises:
        ModelFormatError: If the encoder cannot be loaded or already has Dense layers.
        InputError: If there are too few tokens, or `dim` exceeds the encoder's own size.
    """
    backbone = _backbone_folder(encoder)
    tokens = _token_embeddings(backbone, texts)
    if not dim <= tokens.shape[1]:
        raise InputError(f"--head pca:{dim} exceeds the encoder's {tokens.shape[1]} dimensions. Choose fewer.")
    if len(tokens) < 4 * tokens.shape[1]:
        raise InputError(
            f"The probe texts have {len(tokens)} tokens, expected at least {4 * tokens.shape[1]} to fit a head to. "
            "Give more texts with --probe."
        )
    weight, bias = pca_layer(tokens, dim)
    shutil.copytree(
        backbone, out, ignore=shutil.ignore_patterns("*Pooling*", "*Normalize*", "onnx", "openvino", "*.h5")
    )
    (out / "1_Dense").mkdir()
    save_file(
        {"linear.weight": torch.from_numpy(weight), "linear.bias": torch.from_numpy(bias)},
        out / "1_Dense" / "model.safetensors",
    )
    dense = {
        "in_features": tokens.shape[1],
        "out_features": dim,
        "bias": True,
        "activation_function": _IDENTITY,
        "use_residual": False,
    }
    _write_json(out / "1_Dense" / "config.json", dense)
    names = [("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense")]
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(names)]
    _write_json(out / "modules.json", modules)
    settings = {
        "model_type": "ColBERT",
        "query_prefix": "",
        "document_prefix": "",
        "query_length": _QUERY_LENGTH,
        "document_length": _DOCUMENT_LENGTH,
        "do_query_expansion": False,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list(string.punctuation),
    }
    _write_json(out / "config_sentence_transformers.json", settings)
    return out


def pca_layer(tokens: npt.NDArray[np.float32], dim: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Weights of the layer that centres and projects.

    Args:
        tokens: float32 [n_tokens, hidden].
        dim: Number of principal components.

    Returns:
        float32 [dim, hidden], rows orthonormal and the first of the largest variance, each with its largest entry
        positive so that the result does not depend on the linear algebra library; and float32 [dim], minus the
        projected mean.
    """
    mean = tokens.mean(axis=0, dtype=np.float64)
    centred = tokens.astype(np.float64) - mean
    _, components = np.linalg.eigh(centred.T @ centred)
    weight = components[:, ::-1][:, :dim].T
    signs = np.sign(weight[np.arange(dim), np.abs(weight).argmax(axis=1)])
    weight = weight * signs[:, None]
    return np.ascontiguousarray(weight, dtype=np.float32), (-weight @ mean).astype(np.float32)


def _backbone_folder(encoder: Path) -> Path:
    if not (encoder / "modules.json").exists():
        return encoder
    modules = read_json(encoder / "modules.json")
    if any("Dense" in str(entry.get("type")) for entry in modules[1:]):
        raise ModelFormatError(
            f"{encoder} already has Dense layers, so a head would stand in their place. Export it without --head, or "
            "give a plain sentence encoder."
        )
    return encoder / str(modules[0]["path"])


def _token_embeddings(folder: Path, texts: list[str]) -> npt.NDArray[np.float32]:
    """float32 [n_tokens, hidden] of all tokens, special ones included, each text encoded alone."""
    settings = read_optional_json_object(folder / "sentence_bert_config.json")
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            model = AutoModel.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True).eval()
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and others
        raise ModelFormatError(f"The encoder in {folder} cannot be loaded: {error}. Copy it again.") from error
    rows, n_tokens = [], 0
    for text in texts:
        prepared = text.strip().lower() if settings.get("do_lower_case") else text.strip()
        inputs = tokenizer(prepared, truncation=True, max_length=_DOCUMENT_LENGTH, return_tensors="pt")
        with torch.no_grad():
            rows.append(model(**inputs)[0][0].numpy())
        n_tokens += len(rows[-1])
        if n_tokens >= _MOST_TOKENS:
            break
    return np.concatenate(rows)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")

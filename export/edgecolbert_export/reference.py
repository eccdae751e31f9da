"""The reference that an export is compared with: PyLate or sentence-transformers 6, in float32 on the checkpoint."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from edgecolbert.errors import MissingExtraError, ModelFormatError
from edgecolbert.manifest import EncodingSettings
from edgecolbert_export.checkpoint import Checkpoint
from edgecolbert_export.quiet import quiet

FloatArray = npt.NDArray[np.float32]


class Reference(Protocol):
    """Something that encodes as the checkpoint's authors mean it."""

    @property
    def versions(self) -> dict[str, str]:
        """Name and version of every package that has a part in it."""
        ...

    def token_ids(self, side: str, text: str) -> list[int]:
        """Every token id of a text's sequence, prompt and prefix and padding included."""
        ...

    def encode(self, side: str, text: str) -> FloatArray:
        """float32 [n_tokens, dim], rows of unit length."""
        ...


class PylateReference:
    """PyLate's `models.ColBERT`, one text at a time.

    Args:
        folder: The checkpoint.
        settings: The settings that the export resolved; only their prompts are used, because PyLate does not apply a
            checkpoint's query and document prompts by itself (R29).
    """

    def __init__(self, folder: Path, settings: EncodingSettings) -> None:
        from pylate import models

        # Eager attention is the one that older versions and ONNX agree with (R36); float32 whatever is stored (R16).
        arguments = {"torch_dtype": torch.float32, "attn_implementation": "eager"}
        with quiet():
            self._model = models.ColBERT(
                str(folder), device="cpu", local_files_only=True, model_kwargs=arguments, trust_remote_code=False
            )
        self._prompts = {"query": settings.query_prompt, "document": settings.document_prompt}

    @property
    def versions(self) -> dict[str, str]:
        """Name and version of every package that has a part in it."""
        return installed_versions("pylate", "sentence-transformers", "transformers", "tokenizers", "torch")

    def token_ids(self, side: str, text: str) -> list[int]:
        """Every token id of a text's sequence.

        Args:
            side: "query" or "document".
            text: The text, without prompt.

        Returns:
            The ids, prompt and prefix and padding included.
        """
        features = self._model.tokenize([self._prompts[side] + text], is_query=side == "query")
        return [int(token_id) for token_id in features["input_ids"][0]]

    def encode(self, side: str, text: str) -> FloatArray:
        """Encode one text.

        Args:
            side: "query" or "document".
            text: The text, without prompt.

        Returns:
            float32 [n_tokens, dim], rows of unit length.
        """
        with quiet():
            rows = self._model.encode(
                [text], is_query=side == "query", prompt=self._prompts[side], show_progress_bar=False, batch_size=1
            )[0]
        return np.asarray(rows, dtype=np.float32)


class SentenceTransformersReference:
    """The `MultiVectorEncoder` of sentence-transformers 6, one text at a time.

    Args:
        folder: The checkpoint, in this package's layout or in PyLate's.
        settings: The settings that the export resolved; its prompts and prefixes are put before the text here.
    """

    def __init__(self, folder: Path, settings: EncodingSettings) -> None:
        from sentence_transformers import MultiVectorEncoder

        arguments = {"dtype": torch.float32, "attn_implementation": "eager"}
        with quiet():
            self._model = MultiVectorEncoder(
                str(folder), device="cpu", local_files_only=True, model_kwargs=arguments, trust_remote_code=False
            )
        self._prefixes = {"query": settings.query_prefix, "document": settings.document_prefix}
        self._prompts = {"query": settings.query_prompt, "document": settings.document_prompt}
        self._do_lower_case = settings.do_lower_case

    @property
    def versions(self) -> dict[str, str]:
        """Name and version of every package that has a part in it."""
        return installed_versions("sentence-transformers", "transformers", "tokenizers", "torch")

    def token_ids(self, side: str, text: str) -> list[int]:
        """Every token id of a text's sequence.

        Args:
            side: "query" or "document".
            text: The text, without prompt.

        Returns:
            The ids, prompt and prefix and padding included.
        """
        with quiet():
            features = self._model.preprocess([self._prepared(side, text)], prompt=self._prefixes[side], task=side)
        return [int(token_id) for token_id in features["input_ids"][0]]

    def encode(self, side: str, text: str) -> FloatArray:
        """Encode one text.

        Args:
            side: "query" or "document".
            text: The text, without prompt.

        Returns:
            float32 [n_tokens, dim], rows of unit length.
        """
        encode = self._model.encode_query if side == "query" else self._model.encode_document
        with quiet():
            rows = encode([self._prepared(side, text)], prompt=self._prefixes[side], show_progress_bar=False)[0]
        return np.asarray(rows, dtype=np.float32)

    def _prepared(self, side: str, text: str) -> str:
        # This package does not strip; the runtime does, as PyLate does (R17), and so what it is compared with has to.
        joined = (self._prompts[side] + text).strip()
        return joined.lower() if self._do_lower_case else joined


def load_reference(checkpoint: Checkpoint, settings: EncodingSettings) -> Reference:
    """Load the reference for a checkpoint: PyLate, or else sentence-transformers 6, which reads every layout.

    Args:
        checkpoint: The checkpoint.
        settings: The settings that the export resolved.

    Returns:
        The reference.

    Raises:
        MissingExtraError: If no package that can read this layout is installed.
        ModelFormatError: If the reference cannot load the checkpoint.
    """
    reference: type[PylateReference] | type[SentenceTransformersReference]
    if _installed("pylate") and checkpoint.layout != "multi-vector-encoder":
        reference, name = PylateReference, "PyLate"
    elif _installed("sentence-transformers") and importlib.util.find_spec("sentence_transformers.multi_vector_encoder"):
        reference, name = SentenceTransformersReference, "sentence-transformers"
    else:
        wanted = "sentence-transformers 6" if checkpoint.layout == "multi-vector-encoder" else "PyLate"
        raise MissingExtraError(
            f"Verifying an export of {checkpoint.folder} needs {wanted}, which is not installed. Install it as "
            "docs/export.md says, or export with --no-verify, which the model's certificate will then say."
        )
    try:
        return reference(checkpoint.folder, settings)
    except Exception as error:  # whatever the reference raises, the export cannot be verified with it
        raise ModelFormatError(
            f"{name} cannot load {checkpoint.folder}: {error}. Use the versions that docs/export.md names, or export "
            "with --no-verify."
        ) from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread inside the block.

    For texts of a few dozen tokens more threads gain little, and where other programs use the machine they wait for one
    another: with two threads on two busy cores the probe texts took four to thirty times as long. The values, too, no
    longer depend on the number of cores.

    Yields:
        Nothing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def installed_versions(*packages: str) -> dict[str, str]:
    """Versions of installed packages.

    Args:
        *packages: Names as in the package index.

    Returns:
        Name and version of those that are installed.
    """
    return {package: importlib.metadata.version(package) for package in packages if _installed(package)}


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True

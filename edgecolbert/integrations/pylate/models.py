"""`pylate.models`: a model folder with the call shapes of PyLate's `ColBERT`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.integrations.encoding import PromptedEncoder, check_device

FloatArray = npt.NDArray[np.float32]


class ColBERT:
    """A model that encodes queries and documents.

    A checkpoint has to be exported once: `edgecolbert export CHECKPOINT OUT`. Settings are those of the export; one
    that is given here and differs is an error, not a change.

    Args:
        model_name_or_path: A built-in name, a folder that `edgecolbert export` wrote, or OWNER/NAME of one on the
            Hugging Face hub; None for the starter model.
        device: Changes nothing; there is a warning where it is another than the processor.
        prompts: Prompts by name, which go before those of the checkpoint.
        default_prompt_name: The prompt of texts for which none is named.
        trust_remote_code: Changes nothing: no code of a checkpoint is ever run.
        revision: The commit, branch or tag of a name on the hub.
        embedding_size: What the model is expected to have.
        query_prefix: What the model is expected to have.
        document_prefix: What the model is expected to have.
        query_length: What the model is expected to have.
        document_length: What the model is expected to have.
        do_query_expansion: What the model is expected to have.
        attend_to_expansion_tokens: What the model is expected to have.
        skiplist_words: What the model is expected to have.

    Raises:
        ModelError: If there is no such model, or it cannot be used.
        InputError: If a setting is not the model's.
    """

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        device: str | None = None,
        prompts: dict[str, str] | None = None,
        default_prompt_name: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        embedding_size: int | None = None,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        do_query_expansion: bool | None = None,
        attend_to_expansion_tokens: bool | None = None,
        skiplist_words: Sequence[str] | None = None,
    ) -> None:
        check_device(device)
        name = f"{model_name_or_path}@{revision}" if revision is not None else model_name_or_path
        self._model = PromptedEncoder(name, prompts=prompts, default_prompt_name=default_prompt_name)
        settings = self._model.encoder.manifest.encoding
        expected: dict[str, tuple[object, object]] = {
            "embedding_size": (embedding_size, settings.dim),
            "query_prefix": (query_prefix, settings.query_prefix),
            "document_prefix": (document_prefix, settings.document_prefix),
            "query_length": (query_length, settings.query_length),
            "document_length": (document_length, settings.document_length),
            "do_query_expansion": (do_query_expansion, settings.do_query_expansion),
            "attend_to_expansion_tokens": (attend_to_expansion_tokens, settings.attend_to_expansion_tokens),
            "skiplist_words": (
                None if skiplist_words is None else sorted(set(skiplist_words)),
                sorted(set(settings.skiplist_words)),
            ),
        }
        for setting, (asked, found) in expected.items():
            if asked is not None and asked != found:
                raise InputError(
                    f"{setting} is {asked!r}, but the model {self._model.encoder.name!r} was exported with {found!r}. "
                    "Leave it out, or save the checkpoint with that setting and export it again."
                )

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts by name."""
        return self._model.prompts

    @property
    def default_prompt_name(self) -> str | None:
        """The name of the prompt of texts for which none is named."""
        return self._model.default_prompt_name

    @property
    def query_length(self) -> int:
        """Most tokens of a query."""
        return self._model.encoder.manifest.encoding.query_length

    @property
    def document_length(self) -> int:
        """Most tokens of a document."""
        return self._model.encoder.manifest.encoding.document_length

    @property
    def device(self) -> str:
        """Where it computes: always on the processor."""
        return "cpu"

    def get_sentence_embedding_dimension(self) -> int:
        """Size of one token embedding."""
        return self._model.encoder.dim

    def encode(
        self,
        sentences: str | Sequence[str] | Sequence[Sequence[str]],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        padding: bool = False,
        device: str | None = None,
        normalize_embeddings: bool = True,
        is_query: bool = True,
        pool_factor: int = 1,
        protected_tokens: int = 1,
        output_value: str | None = "token_embeddings",
    ) -> Any:
        """Encode texts.

        Args:
            sentences: One text, a list of texts, or a list of lists of texts.
            prompt_name: The name of a prompt to put before each text.
            prompt: A prompt to put before each text; goes before `prompt_name`.
            batch_size: After how many texts progress is shown; the result does not depend on it.
            show_progress_bar: Show progress.
            precision: Only "float32".
            convert_to_numpy: Only True: there are no tensors without torch.
            convert_to_tensor: Only False.
            padding: Fill all texts of a list up with zeros to the longest one's tokens, each as [1, n_tokens, dim].
            device: Changes nothing; there is a warning where it is another than the processor.
            normalize_embeddings: Only True.
            is_query: Encode queries; False for documents.
            pool_factor: Documents only: one row is left for so many tokens.
            protected_tokens: Only 1, where `pool_factor` is more.
            output_value: Only "token_embeddings".

        Returns:
            float32 [n_tokens, dim] for a text, a list of them for a list, a list of lists for a list of lists.

        Raises:
            InputError: If an argument asks for what is not there.
        """
        check_device(device)
        _refuse("precision", precision, "float32", "Index stores int8 itself")
        _refuse("convert_to_numpy", convert_to_numpy, True, "torch.from_numpy(array) makes a tensor")
        _refuse("convert_to_tensor", convert_to_tensor, False, "torch.from_numpy(array) makes a tensor")
        _refuse("normalize_embeddings", normalize_embeddings, True, "the exported graph gives rows of unit length")
        _refuse(
            "output_value", output_value, "token_embeddings", "Encoder.document_tokens(text) says what rows stand for"
        )
        if isinstance(pool_factor, bool) or not isinstance(pool_factor, int) or pool_factor < 1:
            raise InputError(f"pool_factor is {pool_factor!r}, expected a whole number of at least 1.")
        pooled = pool_factor > 1 and not is_query
        if pooled:
            _refuse("protected_tokens", protected_tokens, 1, "other numbers are not done here")
        if not isinstance(sentences, str | Sequence):
            raise InputTypeError(f"sentences is {type(sentences).__name__}, expected a text or a list of texts.")

        def encoded(texts: Sequence[str]) -> list[FloatArray]:
            arrays = self._model.encode(
                texts,
                is_query=is_query,
                prompt=prompt,
                prompt_name=prompt_name,
                batch_size=batch_size,
                show_progress_bar=show_progress_bar,
            )
            if pooled:
                from edgecolbert.pooling import pool_tokens  # only where it is wanted

                arrays = [pool_tokens(array, pool_factor) for array in arrays]
            return _padded(arrays) if padding else arrays

        if isinstance(sentences, str):
            return encoded([sentences])[0]
        if sentences and not isinstance(sentences[0], str) and isinstance(sentences[0], Sequence):
            return [encoded([*texts]) for texts in sentences]
        return encoded([*sentences])  # type: ignore[list-item]  # a list of lists was handled above


def _refuse(name: str, value: object, expected: object, why: str) -> None:
    if value != expected:
        raise InputError(f"{name} is {value!r}, expected {expected!r}: {why}.")


def _padded(arrays: list[FloatArray]) -> list[FloatArray]:
    longest = max((len(array) for array in arrays), default=0)
    return [np.pad(array, ((0, longest - len(array)), (0, 0)))[None] for array in arrays]

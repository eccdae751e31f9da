"""sentence-transformers' names: `MultiVectorEncoder` of its version 6, over a model folder of ours.

    from edgecolbert.integrations.sentence_transformers import MultiVectorEncoder

Needs no extra, and no torch. docs/integrations/sentence-transformers.md says what is the same and what is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.integrations.arrays import many_arrays
from edgecolbert.integrations.encoding import PromptedEncoder, check_device
from edgecolbert.scoring import maxsim

FloatArray = npt.NDArray[np.float32]

_SIMILARITIES = ("maxsim", "meanmaxsim")


class MultiVectorEncoder:
    """A model that gives a vector for each token.

    A checkpoint has to be exported once: `edgecolbert export CHECKPOINT OUT`.

    Args:
        model_name_or_path: A built-in name, a folder that `edgecolbert export` wrote, or OWNER/NAME of one on the
            Hugging Face hub; None for the starter model.
        device: Changes nothing; there is a warning where it is another than the processor.
        prompts: Prompts by name, beside those of the checkpoint.
        default_prompt_name: The prompt of `encode` where none is named.
        trust_remote_code: Changes nothing: no code of a checkpoint is ever run.
        revision: The commit, branch or tag of a name on the hub.
        similarity_fn_name: "maxsim" (the default), or "meanmaxsim" for the mean over the query's tokens.

    Raises:
        ModelError: If there is no such model, or it cannot be used.
        InputError: If there is no such similarity.
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
        similarity_fn_name: str | None = None,
    ) -> None:
        check_device(device)
        name = f"{model_name_or_path}@{revision}" if revision is not None else model_name_or_path
        self._model = PromptedEncoder(name, prompts=prompts, default_prompt_name=default_prompt_name)
        self.similarity_fn_name = similarity_fn_name or "maxsim"

    @property
    def similarity_fn_name(self) -> str:
        """What `similarity` computes: "maxsim" or "meanmaxsim"."""
        return self._similarity_fn_name

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: str) -> None:
        if name not in _SIMILARITIES:
            raise InputError(f"similarity_fn_name is {name!r}, expected one of {', '.join(_SIMILARITIES)}.")
        self._similarity_fn_name = name

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts by name."""
        return self._model.prompts

    @property
    def default_prompt_name(self) -> str | None:
        """The name of the prompt of `encode` where none is named."""
        return self._model.default_prompt_name

    @property
    def device(self) -> str:
        """Where it computes: always on the processor."""
        return "cpu"

    def get_embedding_dimension(self) -> int:
        """Size of one token embedding."""
        return self._model.encoder.dim

    def encode_query(
        self,
        inputs: str | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "token_embeddings",
        convert_to_numpy: bool = True,
        device: str | None = None,
        normalize_embeddings: bool = False,
    ) -> FloatArray | list[FloatArray]:
        """Encode queries, with the prompt "query" where none is named.

        Args:
            inputs: One text or a list of texts.
            prompt_name: As in `encode`.
            prompt: As in `encode`.
            batch_size: As in `encode`.
            show_progress_bar: As in `encode`.
            output_value: As in `encode`.
            convert_to_numpy: As in `encode`.
            device: As in `encode`.
            normalize_embeddings: As in `encode`.

        Returns:
            As `encode`.
        """
        if prompt_name is None and prompt is None:
            prompt_name = "query"  # every model has one, if only an empty one
        return self.encode(
            inputs,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            output_value,
            convert_to_numpy,
            device,
            normalize_embeddings,
            task="query",
        )

    def encode_document(
        self,
        inputs: str | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "token_embeddings",
        convert_to_numpy: bool = True,
        device: str | None = None,
        normalize_embeddings: bool = False,
    ) -> FloatArray | list[FloatArray]:
        """Encode documents, with the prompt "document" where none is named.

        Args:
            inputs: One text or a list of texts, each cut at the model's document length.
            prompt_name: As in `encode`.
            prompt: As in `encode`.
            batch_size: As in `encode`.
            show_progress_bar: As in `encode`.
            output_value: As in `encode`.
            convert_to_numpy: As in `encode`.
            device: As in `encode`.
            normalize_embeddings: As in `encode`.

        Returns:
            As `encode`.
        """
        if prompt_name is None and prompt is None:
            prompt_name = "document"  # every model has one, if only an empty one
        return self.encode(
            inputs,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            output_value,
            convert_to_numpy,
            device,
            normalize_embeddings,
            task="document",
        )

    def encode(
        self,
        inputs: str | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "token_embeddings",
        convert_to_numpy: bool = True,
        device: str | None = None,
        normalize_embeddings: bool = False,
        *,
        task: str | None = None,
    ) -> FloatArray | list[FloatArray]:
        """Encode texts.

        Args:
            inputs: One text or a list of texts.
            prompt_name: The name of a prompt to put before each text.
            prompt: A prompt to put before each text; goes before `prompt_name`.
            batch_size: After how many texts progress is shown; the result does not depend on it.
            show_progress_bar: Show progress.
            output_value: Only "token_embeddings".
            convert_to_numpy: Only True: there are no tensors without torch.
            device: Changes nothing; there is a warning where it is another than the processor.
            normalize_embeddings: Changes nothing: rows have unit length either way.
            task: "query" or "document". It has to be said: a late-interaction model encodes the two differently.

        Returns:
            float32 [n_tokens, dim] for a text, a list of them for a list.

        Raises:
            InputError: If an argument asks for what is not there.
        """
        check_device(device)
        if task not in ("query", "document"):
            raise InputError(
                f"task is {task!r}, expected 'query' or 'document'. Call encode_query or encode_document instead."
            )
        if output_value != "token_embeddings":
            raise InputError(f"output_value is {output_value!r}, expected 'token_embeddings'.")
        if not convert_to_numpy:
            raise InputError("convert_to_numpy is False, expected True: torch.from_numpy(array) makes a tensor.")
        if not isinstance(inputs, str | Sequence | np.ndarray):
            raise InputTypeError(f"inputs is {type(inputs).__name__}, expected a text or a list of texts.")
        arrays = self._model.encode(
            [inputs] if isinstance(inputs, str) else list(inputs),
            is_query=task == "query",
            prompt=prompt,
            prompt_name=prompt_name,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
        )
        return arrays[0] if isinstance(inputs, str) else arrays

    def similarity(self, embeddings1: Any, embeddings2: Any) -> FloatArray:
        """The scores of every query for every document.

        Args:
            embeddings1: Queries: a list of arrays [n_query_tokens, dim], or one of them.
            embeddings2: Documents: a list of arrays [n_tokens, dim], or one of them.

        Returns:
            float32 [n_queries, n_documents]; higher is better.
        """
        queries, documents = many_arrays(embeddings1, "embeddings1"), many_arrays(embeddings2, "embeddings2")
        scores = [[self._score(query, document) for document in documents] for query in queries]
        return np.array(scores, dtype=np.float32).reshape(len(queries), len(documents))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> FloatArray:
        """The score of each query for the document at the same place.

        Args:
            embeddings1: As in `similarity`.
            embeddings2: As in `similarity`.

        Returns:
            float32 [n_queries].

        Raises:
            InputError: If there are not as many of both.
        """
        queries, documents = many_arrays(embeddings1, "embeddings1"), many_arrays(embeddings2, "embeddings2")
        if len(queries) != len(documents):
            raise InputError(f"There are {len(queries)} queries and {len(documents)} documents, expected as many.")
        pairs = zip(queries, documents, strict=True)
        return np.array([self._score(query, document) for query, document in pairs], dtype=np.float32)

    def _score(self, query: FloatArray, document: FloatArray) -> float:
        if query.shape[1] != document.shape[1]:
            raise InputError(
                f"A query has token embeddings of {query.shape[1]} numbers and a document of {document.shape[1]}. "
                "Encode both with the same model."
            )
        score = maxsim(query, document)
        return score if self.similarity_fn_name == "maxsim" else score / max(1, len(query))

"""A model whose prompts are chosen by the call, as in PyLate and sentence-transformers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgecolbert.encoder import Encoder
from edgecolbert.errors import InputError, InputTypeError, ModelWarning

FloatArray = npt.NDArray[np.float32]


class PromptedEncoder:
    """Encodes texts with the prompt that a call names.

    Args:
        model: A built-in name, a model folder, or None for the starter model, as in `Encoder.load`.
        prompts: Prompts by name, which go before those of the checkpoint.
        default_prompt_name: The prompt of texts for which none is named; the checkpoint's by default.
    """

    def __init__(
        self,
        model: str | Path | None,
        *,
        prompts: dict[str, str] | None = None,
        default_prompt_name: str | None = None,
    ) -> None:
        # Without its own prompts: which one a text gets is said here.
        self.encoder = Encoder.load(model, use_prompts=False)
        settings = self.encoder.manifest.encoding
        # Both libraries have these two names for every model.
        self.prompts = {"query": "", "document": "", **settings.prompts, **(prompts or {})}
        self.default_prompt_name = default_prompt_name or settings.default_prompt_name
        if self.default_prompt_name is not None:
            self.prompt(self.default_prompt_name)

    def prompt(self, name: str) -> str:
        """The prompt of that name.

        Args:
            name: Its name.

        Returns:
            The prompt.

        Raises:
            InputError: If there is none.
        """
        if name not in self.prompts:
            raise InputError(
                f"prompt_name is {name!r}, but the model's prompts are {sorted(self.prompts)}. Give the text of one as "
                "prompt, or leave it out."
            )
        return self.prompts[name]

    def encode(
        self,
        texts: Sequence[str],
        *,
        is_query: bool,
        prompt: str | None,
        prompt_name: str | None,
        batch_size: int,
        show_progress_bar: bool | None,
    ) -> list[FloatArray]:
        """Token embeddings of texts.

        Args:
            texts: The texts.
            is_query: Encode them as queries, otherwise as documents.
            prompt: What to put before each text; goes before `prompt_name`.
            prompt_name: The name of a prompt; None for the default one, if there is one.
            batch_size: After how many texts progress is shown. Each text is encoded on its own, so the result does not
                depend on it.
            show_progress_bar: Show progress; None for no.

        Returns:
            One float32 array [n_tokens, dim] for each text, rows of unit length.

        Raises:
            InputError: If there is no prompt of that name, or `batch_size` is not positive.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r}, expected a whole number of at least 1.")
        name = prompt_name or self.default_prompt_name
        before = prompt if prompt is not None else self.prompt(name) if name is not None else ""
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputTypeError(f"Text {position} is {type(text).__name__}, expected a string.")
        one_batch = self.encoder.encode_queries if is_query else self.encoder.encode_documents
        found: list[FloatArray] = []
        starts: Iterable[int] = range(0, len(texts), batch_size)
        if show_progress_bar:
            from tqdm import tqdm  # only where it is wanted

            what = "queries" if is_query else "documents"
            starts = tqdm(starts, desc=f"Encoding {what} (bs={batch_size})")
        for start in starts:
            found += one_batch([before + text for text in texts[start : start + batch_size]])
        return found


def check_device(device: object) -> None:
    """Say that a device is not used: onnxruntime runs on the processor here.

    Args:
        device: What was asked for; None for any.
    """
    if device is not None and str(device).partition(":")[0] != "cpu":
        warnings.warn(
            f"device is {device!r}; edgecolbert computes on the processor, whatever device is named. Results are the "
            "same.",
            ModelWarning,
            stacklevel=3,
        )

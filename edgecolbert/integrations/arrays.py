"""Token embeddings in the forms that PyLate and sentence-transformers have them: arrays, tensors, lists of numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecolbert.errors import InputError, InputTypeError

FloatArray = npt.NDArray[np.float32]


def one_array(embeddings: Any, what: str) -> FloatArray:
    """The token embeddings of one text.

    Args:
        embeddings: An array, a tensor, or lists of numbers.
        what: How to name it in the error.

    Returns:
        float32 [n_tokens, dim].

    Raises:
        InputTypeError: If it is nothing of the kind.
        InputError: If it has another shape, or numbers that are NaN or infinite.
    """
    if hasattr(embeddings, "detach"):
        # A tensor, perhaps of a graphics processor, or half as exact as numpy's numbers; torch itself is not needed.
        embeddings = embeddings.detach().cpu().float().numpy()
    try:
        found = np.asarray(embeddings, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputTypeError(
            f"{what} is {type(embeddings).__name__}, expected an array [n_tokens, dim]: {error}."
        ) from None
    if found.size == 0 and found.ndim == 1:
        return np.zeros((0, 0), dtype=np.float32)
    if found.ndim != 2:
        raise InputError(f"{what} has the shape {found.shape}, expected [n_tokens, dim].")
    if not np.isfinite(found).all():
        raise InputError(f"{what} has numbers that are NaN or infinite.")
    return found


def many_arrays(embeddings: Any, what: str) -> list[FloatArray]:
    """The token embeddings of several texts.

    Args:
        embeddings: A list of what `one_array` takes, an array [n_texts, n_tokens, dim], or one text's [n_tokens, dim]
            as array or tensor.
        what: How to name it in the error.

    Returns:
        float32 [n_tokens, dim] of each text.
    """
    if getattr(embeddings, "ndim", None) == 2:
        return [one_array(embeddings, what)]
    if isinstance(embeddings, str) or not isinstance(embeddings, Iterable):
        raise InputTypeError(f"{what} is {type(embeddings).__name__}, expected a list of arrays [n_tokens, dim].")
    return [one_array(entry, f"{what}[{position}]") for position, entry in enumerate(embeddings)]

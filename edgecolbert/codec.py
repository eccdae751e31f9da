"""Token embeddings to int8 and back: one scale a passage, so that a score is scaled once, at the end."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgecolbert.errors import InputError

Int8Array = npt.NDArray[np.int8]
FloatArray = npt.NDArray[np.float32]


class QuantizedTokens(NamedTuple):
    """Token embeddings of one passage.

    Attributes:
        values: int8 [n_tokens, dim], -127 to 127.
        scale: Positive float32 value; `values * scale` are the stored embeddings.
    """

    values: Int8Array
    scale: float

    def to_bytes(self) -> bytes:
        """The int8 values in C order; the scale is kept beside them."""
        return self.values.tobytes()

    @classmethod
    def from_bytes(cls, content: bytes, scale: float, dim: int) -> QuantizedTokens:
        """Read what `to_bytes` wrote.

        Args:
            content: A multiple of `dim` bytes.
            scale: The passage's scale.
            dim: Size of one token embedding.

        Returns:
            The tokens; `values` is a read-only view of `content`.
        """
        return cls(np.frombuffer(content, dtype=np.int8).reshape(-1, dim), scale)

    def to_float(self) -> FloatArray:
        """The stored embeddings, float32 [n_tokens, dim]."""
        return self.values.astype(np.float32) * np.float32(self.scale)


def quantize(embeddings: FloatArray) -> QuantizedTokens:
    """Round token embeddings to int8.

    Args:
        embeddings: float32 [n_tokens, dim], all finite; n_tokens may be 0.

    Returns:
        int8 values and their scale. No component is off by more than half a scale, which is 1/254 of the passage's
        largest component.

    Raises:
        InputError: If a value is NaN or infinite.

    Examples:
        >>> quantize(np.array([[1.0, -0.5]], dtype=np.float32)).values.tolist()
        [[127, -64]]
    """
    largest = float(np.abs(embeddings).max(initial=0.0))
    if not np.isfinite(largest):
        raise InputError("The encoder gave a token embedding that is NaN or infinite, which cannot be stored.")
    scale = float(np.float32(largest / 127.0)) or 1.0 / 127.0
    values = np.clip(np.rint(embeddings / np.float32(scale)), -127, 127).astype(np.int8)
    return QuantizedTokens(values, scale)

"""Token embeddings to integers and back: one scale a passage, so that a score is scaled once, at the end.

They are stored with 8 bits a component, or with 4, and scored as int8 either way: what 4 bits mean is put on the int8
grid of the passage when it is read.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgecolbert.errors import InputError

Int8Array = npt.NDArray[np.int8]
UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

# Lloyd and Max's 16 levels for a normal distribution, the largest put at 127: components of token embeddings are spread
# about so, and evenly spaced levels would lie where few of them are.
_POSITIVE = (6, 18, 31, 44, 58, 75, 96, 127)
_LEVELS = np.array([-value for value in reversed(_POSITIVE)] + list(_POSITIVE), dtype=np.int16)
# For each int8, seen as uint8, the number of the nearest level.
_NUMBERS: UInt8Array = (
    np.abs(np.arange(256, dtype=np.uint8).view(np.int8)[:, None] - _LEVELS).argmin(axis=1).astype(np.uint8)
)
# For each byte the two numbers in it, the low half first.
_PAIRS = np.stack([np.arange(256) % 16, np.arange(256) // 16], axis=1)
_LEAST_NORMAL = float(np.finfo(np.float32).tiny)
# Where the largest level may lie, as shares of the largest difference from the mean: cutting off a few that are rare
# makes all others finer, and the share with the least squared error is taken.
_SHARES = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4)


class QuantizedTokens(NamedTuple):
    """Token embeddings of one passage.

    Attributes:
        values: int8 [n_tokens, dim], -127 to 127.
        scale: Positive float32 value; `values * scale` are the stored embeddings.
        content: The bytes that stand for `values` where they are stored with 4 bits, or None.
    """

    values: Int8Array
    scale: float
    content: bytes | None = None

    def to_bytes(self) -> bytes:
        """What is stored, of `stored_bytes` bytes; the scale is kept beside it."""
        return self.values.tobytes() if self.content is None else self.content

    @property
    def n_bytes(self) -> int:
        """How many bytes `to_bytes` gives."""
        return self.values.nbytes if self.content is None else len(self.content)

    @classmethod
    def from_bytes(cls, content: bytes, scale: float, dim: int, bits: int = 8) -> QuantizedTokens:
        """Read what `to_bytes` gave.

        Args:
            content: With 8 bits the values in C order. With 4 the passage's mean (int8 [dim]), the reach of the levels
                (uint8), and for each token the numbers of its components' levels, the first of two in the low half of
                a byte; where dim is odd, the last half of each token means nothing.
            scale: The passage's scale.
            dim: Size of one token embedding.
            bits: As they were stored.

        Returns:
            The tokens; with 8 bits `values` is a read-only view of `content`.
        """
        if bits == 8:
            return cls(np.frombuffer(content, dtype=np.int8).reshape(-1, dim), scale)
        head = np.frombuffer(content, dtype=np.int8, count=dim)
        packed = np.frombuffer(content, dtype=np.uint8, offset=dim + 1)
        # Two components at a time: the cost is that of a table look-up for each byte.
        pairs = _levels(content[dim])[_PAIRS].view(np.uint16).ravel()
        differences = pairs.take(packed).view(np.int8).reshape(-1, dim + dim % 2)
        return cls(differences[:, :dim] + head, scale, content)

    def to_float(self) -> FloatArray:
        """The stored embeddings, float32 [n_tokens, dim]."""
        return self.values.astype(np.float32) * np.float32(self.scale)


def stored_bytes(n_tokens: int, dim: int, bits: int) -> int:
    """How many bytes the tokens of a passage take.

    Args:
        n_tokens: How many are stored.
        dim: Size of one token embedding.
        bits: 8 or 4.

    Returns:
        The length of what `QuantizedTokens.to_bytes` gives.
    """
    return n_tokens * dim if bits == 8 else dim + 1 + n_tokens * ((dim + 1) // 2)


# Token embeddings have unit length, or something like it. Squares and sums of numbers up to this one stay in float32.
LARGEST_COMPONENT = 2.0**40


def quantize(embeddings: FloatArray, bits: int = 8) -> QuantizedTokens:
    """Round token embeddings to integers.

    Args:
        embeddings: float32 [n_tokens, dim], all finite; n_tokens may be 0.
        bits: 8 or 4.

    Returns:
        int8 values and their scale. With 8 bits no component is off by more than half a scale, which is 1/254 of the
        passage's largest component. With 4 bits what is rounded is a component's difference from the passage's mean:
        many models give all tokens one large direction in common, which would leave 16 levels for nothing else. The
        root mean square of the errors is at most 1/8 of the largest difference and three scales; about 1/9 of the
        differences' own where they are normally distributed.

    Raises:
        InputError: If a value is NaN or infinite.

    Examples:
        >>> quantize(np.array([[1.0, -0.5]], dtype=np.float32)).values.tolist()
        [[127, -64]]
    """
    largest = float(np.abs(embeddings).max(initial=0.0))
    if not np.isfinite(largest):
        raise InputError("The encoder gave a token embedding that is NaN or infinite, which cannot be stored.")
    if bits == 8:
        scale = _scale(largest / 127.0)
        return QuantizedTokens(np.clip(np.rint(embeddings / scale), -127, 127).astype(np.int8), float(scale))
    return _quantize_to_4_bits(embeddings)


def _quantize_to_4_bits(embeddings: FloatArray) -> QuantizedTokens:
    n_tokens, dim = embeddings.shape
    mean = embeddings.mean(axis=0, dtype=np.float64) if n_tokens else np.zeros(dim)
    farthest = float(np.abs(embeddings - mean).max(initial=0.0))
    # So that no sum of mean and level leaves int8, rounding included.
    wanted = (float(np.abs(mean).max(initial=0.0)) + farthest) / 126.0
    # Below float32's normal range a scale is too coarse to promise that.
    scale = _scale(wanted if wanted >= _LEAST_NORMAL else 0.0)
    middle = np.rint(mean / scale).astype(np.int8)
    differences = embeddings / scale - middle
    tried = []
    for share in _SHARES:
        reach = min(round(farthest / float(scale) * share), 127 - int(np.abs(middle).max(initial=0)))
        steps = np.clip(np.rint(differences * (127 / max(reach, 1))), -127, 127).astype(np.int8)
        numbers = _NUMBERS[steps.view(np.uint8)]
        tried.append((float(np.square(_levels(reach)[numbers] - differences).sum()), reach, numbers))
    _, reach, numbers = min(tried, key=lambda found: found[0])
    if dim % 2:
        numbers = np.pad(numbers, ((0, 0), (0, 1)))
    packed = numbers[:, ::2] | (numbers[:, 1::2] << 4)
    return QuantizedTokens.from_bytes(middle.tobytes() + bytes([reach]) + packed.tobytes(), float(scale), dim, bits=4)


def _scale(wanted: float) -> np.float32:
    # Of a passage that is all zeros, or too near it for float32 to have its scale, any will do.
    return np.float32(wanted) or np.float32(1.0 / 127.0)


def _levels(reach: int) -> Int8Array:
    """The 16 differences that 4 bits can mean, the largest of them `reach`; with 0 none."""
    levels: Int8Array = np.rint(_LEVELS * (reach / 127)).astype(np.int8)
    return levels

"""Random matrices that are the same to the bit in every numpy version and on every platform.

numpy promises the stream of a bit generator but not of the distributions drawn from it, and `log` and `cos` differ in
their last bit between C libraries. So the bits come from SHAKE-256 and only exact integer arithmetic follows.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

# Part of every stream's name: a changed algorithm must not pass for the same matrices.
ALGORITHM = "edgecolbert-random-1"


def gaussian(name: str, seed: int, shape: tuple[int, int]) -> FloatArray:
    """Approximately standard normal values.

    Each is a sum of twelve uniform 16-bit integers, centred (Irwin-Hall), which has mean 0, variance 1 within 1e-9
    and every value exact in float32.

    Args:
        name: What the matrix is for; other names give independent matrices.
        seed: Any integer.
        shape: Rows and columns.

    Returns:
        float32 array of that shape.

    Examples:
        >>> gaussian("test", 0, (1, 2)).dtype
        dtype('float32')
    """
    uniform = _uniform16(name, seed, shape[0] * shape[1] * 12).reshape(-1, 12)
    sums = uniform.sum(axis=1, dtype=np.int64)
    values: FloatArray = ((2 * sums - 12 * 65_535) / 131_072).astype(np.float32)
    return values.reshape(shape)


def signed_buckets(name: str, seed: int, size: int, buckets: int) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """One bucket and one sign for each of `size` inputs, as count sketches need them.

    Args:
        name: What they are for; other names give independent draws.
        seed: Any integer.
        size: Number of inputs.
        buckets: Number of outputs, at most 65,536.

    Returns:
        Bucket numbers intp [size] below `buckets`, and signs float32 [size], each -1 or 1.
    """
    draws = _uniform16(name, seed, 2 * size).astype(np.int64)
    # Multiply and shift instead of modulo: less biased, and exact.
    return (draws[:size] * buckets >> 16).astype(np.intp), ((draws[size:] & 1) * 2 - 1).astype(np.float32)


def _uniform16(name: str, seed: int, count: int) -> npt.NDArray[np.uint16]:
    stream = hashlib.shake_256(f"{ALGORITHM}/{name}/{seed}".encode()).digest(2 * count)
    return np.frombuffer(stream, dtype="<u2").astype(np.uint16)

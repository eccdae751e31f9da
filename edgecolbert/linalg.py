"""Matrix products that stay on the calling thread."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

_Float = TypeVar("_Float", np.float32, np.float64)

# OpenBLAS, which numpy's wheels bring, starts threads above this many multiplications (SMP_THRESHOLD_MIN times
# GEMM_MULTITHREAD_THRESHOLD in its interface/gemm.c). They wait for each other by spinning: with twice as many busy
# processes as cores a product of 1 ms took 23, this one 1.5 (benchmarks/matrix_products.py). On idle cores there is
# little between them. Our threads work on whole texts.
SINGLE_THREAD = 262_144


def product(left: npt.NDArray[_Float], right: npt.NDArray[_Float]) -> npt.NDArray[_Float]:
    """`left @ right` in slices that are too small for BLAS to start threads.

    Args:
        left: float32 or float64 [rows, inner].
        right: The same kind, [inner, columns].

    Returns:
        The same kind, [rows, columns].

    Examples:
        >>> product(np.eye(2, dtype=np.float32), np.ones((2, 1), dtype=np.float32)).tolist()
        [[1.0], [1.0]]
    """
    rows, inner = left.shape
    columns = right.shape[1]
    height = max(1, SINGLE_THREAD // max(1, inner * columns))
    if rows <= height:
        return left @ right
    whole = rows - rows % height
    result = np.empty((rows, columns), dtype=left.dtype)
    # One call of numpy, which hands BLAS one slice after the other.
    np.matmul(left[:whole].reshape(-1, height, inner), right, out=result[:whole].reshape(-1, height, columns))
    if whole < rows:
        np.matmul(left[whole:], right, out=result[whole:])
    return result

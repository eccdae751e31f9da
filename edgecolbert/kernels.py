"""Products of a query with int8 token embeddings, exact integers on every machine.

A query token is rounded to 16 bits, high and low part of which are int8: 255 * high + low. The two products with int8
tokens are sums of integers, so every kernel gives the same result to the last bit, whichever documents are scored
together. onnxruntime's int8 kernels do it, which a search has imported anyway: with 32 query tokens of 48 to 128
dimensions its MatMulInteger took a quarter to half the time of NumKong's `dots_packed` on a processor with VNNI. Where
it cannot, numpy does in float64.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgecolbert.errors import RuntimeUnusableError
from edgecolbert.linalg import product
from edgecolbert.sessions import import_onnxruntime

FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int8Array = npt.NDArray[np.int8]
UInt8Array = npt.NDArray[np.uint8]

# Rows of one document whose largest product is found inside the kernel; what is left to numpy is an eighth.
TILE = 8
# 255 * high + low takes every value to 255 * 127 + 127.
_BASE = 255
_LARGEST = _BASE * 127 + 127
# 255 * 127 * 128 * dim + 127 * 128 * dim must fit 31 bits.
_LARGEST_DIM = 515
# onnxruntime's fast kernels take uint8 from the left.
_OFFSET = 128


class RoundedQuery(NamedTuple):
    """A query whose token embeddings are 16-bit integers with one step each.

    Attributes:
        values: Integers from -32512 to 32512, float64 [dim, n_query_tokens].
        high: int8 [dim, n_query_tokens].
        low: int8 [dim, n_query_tokens]; `255 * high + low` are the values.
        steps: float64 [n_query_tokens]; `values * steps` are the token embeddings, off by half a step at most.
    """

    values: Float64Array
    high: Int8Array
    low: Int8Array
    steps: Float64Array


def round_query(query: FloatArray) -> RoundedQuery:
    """Round a query's token embeddings to 16 bits, each token with a step of its own.

    Args:
        query: float32 [n_query_tokens, dim].

    Returns:
        The integers. No component is off by more than 1/65,024 of its token's largest.
    """
    exact = query.T.astype(np.float64, order="C")
    largest = np.abs(exact).max(axis=0, initial=0.0)
    # In float64 nothing that is above 0 in float32 becomes 0 by a division.
    steps = np.where(largest > 0, largest, 1.0) / _LARGEST
    values = np.rint(exact / steps)
    high = np.rint(values * (1 / _BASE))  # never halfway: 255 is odd
    return RoundedQuery(values, high.astype(np.int8), (values - _BASE * high).astype(np.int8), steps)


def tiles_of(documents: Sequence[Int8Array]) -> UInt8Array:
    """Documents behind each other, each filled up to whole tiles with rows of its own, which change no maximum.

    Args:
        documents: int8 [n_tokens, dim] of each, one token at least.

    Returns:
        uint8 [n_tiles, TILE, dim], the tokens plus 128.
    """
    parts = []
    for values in documents:
        parts.append(values)
        missing = -len(values) % TILE
        if missing:
            parts.append(values[:missing] if missing <= len(values) else np.resize(values, (missing, values.shape[1])))
    joined = np.concatenate(parts).view(np.uint8)
    np.bitwise_xor(joined, _OFFSET, out=joined)  # adds 128 to an int8
    return joined.reshape(-1, TILE, joined.shape[1])


def tile_maxima(tiles: UInt8Array, query: RoundedQuery) -> npt.NDArray[Any]:
    """For each tile and query token the largest product.

    Args:
        tiles: As `tiles_of` gave them.
        query: The query.

    Returns:
        Integers, int32 or float64 [n_tiles, n_query_tokens], exact: largest `tokens @ query.values` of each tile.
    """
    kernel = _onnxruntime_kernel() if tiles.shape[2] <= _LARGEST_DIM else None
    return numpy_maxima(tiles, query) if kernel is None else kernel.maxima(tiles, query)


def numpy_maxima(tiles: UInt8Array, query: RoundedQuery) -> npt.NDArray[Any]:
    """`tile_maxima` by numpy alone: integers below 2^53 are exact in float64.

    Args:
        tiles: As `tiles_of` gave them.
        query: The query.

    Returns:
        float64 [n_tiles, n_query_tokens].
    """
    n_tiles, height, dim = tiles.shape
    rows = tiles.reshape(-1, dim).astype(np.float64)
    rows -= _OFFSET
    maxima: Float64Array = product(rows, query.values).reshape(n_tiles, height, -1).max(axis=1)
    return maxima


class OnnxruntimeKernel:
    """`tile_maxima` by onnxruntime's int8 products, which run without the GIL and on the calling thread.

    Args:
        signed: Hand over the query's parts as int8; as uint8 otherwise. Kernels of x86 processors without VNNI
            (before Ice Lake and Zen 4) add two products of uint8 and int8 in 16 bits, which overflow.
    """

    def __init__(self, *, signed: bool) -> None:
        onnxruntime = import_onnxruntime()

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._signed = signed
        self._session = onnxruntime.InferenceSession(_graph(signed), options, providers=["CPUExecutionProvider"])

    def maxima(self, tiles: UInt8Array, query: RoundedQuery) -> npt.NDArray[Any]:
        """As `tile_maxima` says, int32."""
        high, low = query.high, query.low
        if not self._signed:
            high, low = high.view(np.uint8) ^ _OFFSET, low.view(np.uint8) ^ _OFFSET
        found: npt.NDArray[Any] = self._session.run(None, {"tiles": tiles, "high": high, "low": low})[0]
        return found

    def is_exact(self) -> bool:
        """Whether this processor's kernels give the right integers where sums are largest."""
        dim = 68
        tiles = np.full((5, TILE, dim), 127 + _OFFSET, dtype=np.uint8)
        for sign in (1, -1):
            found = self.maxima(tiles, round_query(np.full((20, dim), sign, dtype=np.float32)))
            if not (found == sign * 127 * _LARGEST * dim).all():
                return False
        return True


@cache
def _onnxruntime_kernel() -> OnnxruntimeKernel | None:
    try:
        for signed in (True, False):
            kernel = OnnxruntimeKernel(signed=signed)
            if kernel.is_exact():
                return kernel
    except RuntimeUnusableError:  # an encoder of the user's own needs no onnxruntime, and searches without
        return None
    return None


def _graph(signed: bool) -> bytes:
    """The ONNX graph max over a tile of (255 * (tiles - 128) @ high + (tiles - 128) @ low), in ONNX's wire format.

    Written by hand, since the package that writes such graphs is no dependency.
    """
    uint8, int8, int32 = 2, 3, 6  # TensorProto.DataType
    part = int8 if signed else uint8
    # Initializers: dims none, data_type 2, name 8, raw_data 9.
    constants = [
        _number(2, uint8) + _bytes(8, b"tile_zero") + _bytes(9, bytes([_OFFSET])),
        _number(2, part) + _bytes(8, b"part_zero") + _bytes(9, bytes([0 if signed else _OFFSET])),
        _number(2, int32) + _bytes(8, b"base") + _bytes(9, struct.pack("<i", _BASE)),
    ]
    # Attribute: name 1, ints 8, type 20 (INTS is 7), i 3 (INT is 2).
    axes = _bytes(1, b"axes") + _number(8, 1) + _number(20, 7)
    keepdims = _bytes(1, b"keepdims") + _number(3, 0) + _number(20, 2)
    nodes = [
        _node("MatMulInteger", ["tiles", "high", "tile_zero", "part_zero"], "highs"),
        _node("MatMulInteger", ["tiles", "low", "tile_zero", "part_zero"], "lows"),
        _node("Mul", ["highs", "base"], "scaled"),
        _node("Add", ["scaled", "lows"], "products"),
        _node("ReduceMax", ["products"], "maxima", axes, keepdims),
    ]
    inputs = [_tensor("tiles", uint8), _tensor("high", part), _tensor("low", part)]
    # GraphProto: node 1, name 2, initializer 5, input 11, output 12.
    graph = b"".join(
        [
            *(_bytes(1, node) for node in nodes),
            _bytes(2, b"maxsim"),
            *(_bytes(5, constant) for constant in constants),
            *(_bytes(11, tensor) for tensor in inputs),
            _bytes(12, _tensor("maxima", int32)),
        ]
    )
    # ModelProto: ir_version 1, graph 7, opset_import 8 with version 2.
    return _number(1, 8) + _bytes(7, graph) + _bytes(8, _number(2, 13))


def _node(operator: str, inputs: list[str], output: str, *attributes: bytes) -> bytes:
    # NodeProto: input 1, output 2, op_type 4, attribute 5.
    named = [_bytes(1, name.encode()) for name in inputs]
    return b"".join([*named, _bytes(2, output.encode()), _bytes(4, operator.encode())]) + b"".join(
        _bytes(5, attribute) for attribute in attributes
    )


def _tensor(name: str, kind: int) -> bytes:
    # ValueInfoProto: name 1, type 2, in it tensor_type 1, in it elem_type 1; a shape is not needed.
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _number(1, kind)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low]) if not rest else bytes([low | 128]) + _varint(rest)

"""As much of protobuf as it takes to add something to an ONNX graph, without the package onnx."""

from __future__ import annotations


def varint(number: int) -> bytes:
    """A number of 7 bits a byte."""
    found = b""
    while number > 0x7F:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


def part(field: int, value: bytes | int) -> bytes:
    """One field of a message: a number, or bytes with their length."""
    if isinstance(value, int):
        return varint(field << 3) + varint(value)
    return varint(field << 3 | 2) + varint(len(value)) + value


def external_tensor(location: bytes) -> bytes:
    """A tensor of eight bytes that are in another file."""
    entries = {b"location": location, b"offset": b"0", b"length": b"8"}
    data = b"".join(part(13, part(1, key) + part(2, value)) for key, value in entries.items())
    return part(1, 8) + part(2, 2) + part(8, b"leak") + data + part(14, 1)


def graph_output(name: bytes, size: int) -> bytes:
    """A field of a graph that makes a uint8 tensor its output."""
    shape = part(2, part(1, part(1, size)))
    return part(12, part(1, name) + part(2, part(1, part(1, 2) + shape)))

"""ONNX graphs from strangers: refuse those that would make onnxruntime read other files, or memory.

A tensor of a graph may say that its values are elsewhere ("external data"): in a file named by a path, relative to the
working directory where a graph is loaded from bytes, or at an address of the process. Our exports have all their values
inside, so a graph that points anywhere is refused. The graph is walked in its protobuf form, for which the package
onnx is not needed.
"""

from __future__ import annotations

from edgecolbert.errors import ModelFormatError

# onnx.proto: for each message, the fields that lead to a tensor, and what message they hold.
_MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
# Without this key no external data is found, and hardly any other graph holds the word.
_KEY = b"location"
# In a field number's byte: a number, 8 bytes, bytes with their length, 4 bytes.
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def check_self_contained(content: bytes, name: str) -> None:
    """Refuse a graph whose values are not all inside it.

    Args:
        content: An ONNX file.
        name: What to call it in messages.

    Raises:
        ModelFormatError: If a tensor's values are elsewhere, or the file cannot be followed.
    """
    if _KEY not in content:
        return
    try:
        external = _has_external_data(memoryview(content))
    except (IndexError, ValueError) as error:
        raise ModelFormatError(f"{name} is not an ONNX graph: {error}. Export the model again.") from error
    if external:
        raise ModelFormatError(
            f"{name} keeps values outside of itself (external data), expected all of them inside: it could make this "
            "process read any file. Save it again as one file with onnx (`onnx.save(onnx.load(PATH), PATH)`), or "
            "export the checkpoint with `edgecolbert export`."
        )


def _has_external_data(content: memoryview) -> bool:
    todo = [("model", content)]
    # A list and no recursion: a graph may hold graphs as deep as it likes.
    while todo:
        kind, message = todo.pop()
        position = 0
        while position < len(message):
            tag, position = _varint(message, position)
            field, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                value, position = _varint(message, position)
                if kind == "tensor" and field == _DATA_LOCATION and value:
                    return True
            elif wire in (_EIGHT, _FOUR):
                position += 8 if wire == _EIGHT else 4
            elif wire == _BYTES:
                size, position = _varint(message, position)
                if size > len(message) - position:
                    raise ValueError("a part is longer than the whole")
                if kind == "tensor" and field == _EXTERNAL_DATA:
                    return True
                inner = _MESSAGES.get(kind, {}).get(field)
                if inner is not None:
                    todo.append((inner, message[position : position + size]))
                position += size
            else:
                raise ValueError(f"a part of the unknown kind {wire}")
    return False


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")

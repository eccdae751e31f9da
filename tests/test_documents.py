"""What `add` accepts as a document, and how it says what is wrong with the rest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from word_encoder import WordEncoder

from edgecolbert import Index, InputError
from edgecolbert.documents import read_record
from edgecolbert.errors import InputTypeError


def _self_containing() -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    metadata["self"] = metadata
    return metadata


def _deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    ("document", "kind", "message"),
    [
        (3, InputTypeError, r"documents\[4\] is int, expected a string or a mapping with id and text"),
        (None, InputTypeError, r"documents\[4\] is NoneType"),
        (b"text", InputTypeError, r"documents\[4\] is bytes"),
        (["text"], InputTypeError, r"documents\[4\] is list"),
        (float("nan"), InputTypeError, r"documents\[4\] is float"),
        ({}, InputError, r"documents\[4\] has no text"),
        ({"id": "a"}, InputError, r"documents\[4\] has no text"),
        ({"text": None}, InputTypeError, r"documents\[4\]: text is NoneType, expected a string"),
        ({"text": 3}, InputTypeError, r"documents\[4\]: text is int, expected a string"),
        ({"text": b"x"}, InputTypeError, r"documents\[4\]: text is bytes, expected a string"),
        ("a\ud800b", InputError, r"documents\[4\]: text has a lone surrogate \(\\ud800\) at character 1"),
        (
            {"text": "x", "caption": "y"},
            InputError,
            r"documents\[4\] has unknown keys \['caption'\].*Put other values into m",
        ),
        ({"text": "x", 3: "y"}, InputError, r"documents\[4\] has unknown keys \[3\]"),
        ({"text": "x", "id": 3}, InputTypeError, r"documents\[4\]: id is 3 \(int\), expected a string. Use str\(id\)"),
        ({"text": "x", "id": 3.5}, InputTypeError, r"documents\[4\]: id is 3.5 \(float\)"),
        ({"text": "x", "id": True}, InputTypeError, r"documents\[4\]: id is True \(bool\)"),
        ({"text": "x", "id": b"a"}, InputTypeError, r"documents\[4\]: id is b'a' \(bytes\)"),
        ({"text": "x", "id": ""}, InputError, r"documents\[4\]: id is empty. Leave it out to use the text's hash"),
        ({"text": "x", "id": "\udc80"}, InputError, r"documents\[4\]: id has a lone surrogate"),
        ({"text": "x", "metadata": []}, InputTypeError, r"documents\[4\]: metadata is list, expected a mapping"),
        ({"text": "x", "metadata": "{}"}, InputTypeError, r"documents\[4\]: metadata is str, expected a mapping"),
        (
            {"text": "x", "metadata": {1: 2}},
            InputTypeError,
            r"documents\[4\]: metadata has the key 1, expected only strings",
        ),
        ({"text": "x", "metadata": {"a": {None: 2}}}, InputTypeError, r"metadata has the key None"),
        ({"text": "x", "metadata": {"a": [{2: 2}]}}, InputTypeError, r"metadata has the key 2"),
        ({"text": "x", "metadata": {"a": float("nan")}}, InputError, r"documents\[4\]: metadata is not JSON \(NaN and"),
        (
            {"text": "x", "metadata": {"a": [float("inf")]}},
            InputError,
            r"metadata is not JSON \(NaN and infinity are no",
        ),
        ({"text": "x", "metadata": {"a": {1, 2}}}, InputTypeError, r"documents\[4\]: metadata is not JSON: .*set"),
        ({"text": "x", "metadata": {"a": np.float32(1)}}, InputTypeError, r"metadata is not JSON: .*float32"),
        ({"text": "x", "metadata": {"a": b"x"}}, InputTypeError, r"metadata is not JSON: .*bytes"),
        ({"text": "x", "metadata": {"a": "\ud800"}}, InputError, r"documents\[4\]: metadata has a lone surrogate"),
        ({"text": "x", "metadata": {"\ud800": 1}}, InputError, r"documents\[4\]: metadata has a lone surrogate"),
        (
            {"text": "x", "metadata": _self_containing()},
            InputError,
            r"metadata is nested too deeply, or contains itself",
        ),
        ({"text": "x", "metadata": {"a": _deep()}}, InputError, r"metadata is nested too deeply, or contains itself"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isascii() and len(value) < 90 else "value",
)
def test_a_wrong_document_is_named_by_its_place(document: object, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        read_record(document, 4)
    with pytest.raises(InputError), Index.open(":memory:", model=WordEncoder()) as index:
        index.add([document])  # type: ignore[list-item]


@pytest.mark.parametrize("metadata", [None, {}])
def test_no_metadata_is_empty_metadata(metadata: object) -> None:
    assert read_record({"text": "x", "metadata": metadata}, 0).metadata == "{}"


def test_an_id_of_none_is_the_texts_hash() -> None:
    for document in ("Grüße", {"text": "Grüße"}, {"text": "Grüße", "id": None}):
        assert read_record(document, 0).id == hashlib.sha256("Grüße".encode()).hexdigest()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(name=st.text(min_size=1), text=st.text(), metadata=st.dictionaries(st.text(), _JSON, max_size=4))
def test_a_record_of_any_strings_and_json_comes_back(name: str, text: str, metadata: dict[str, Any]) -> None:
    with Index.open(":memory:", model=WordEncoder()) as index:
        index.add([{"id": name, "text": text, "metadata": metadata}])
        document = index.get(name)
        assert document is not None
        assert (document.id, document.text) == (name, text)
        assert json.dumps(document.metadata) == json.dumps(metadata)
        assert index.search(text or "x", n_candidates=1)[0].metadata == document.metadata
        assert index.verify().problems == ()
        assert index.delete([name]) == 1


class ShortSighted(WordEncoder):
    """Encodes the beginning alone; splitting is tested elsewhere."""

    def encode_documents(self, documents: list[str]) -> list[Any]:
        return super().encode_documents([text[:50] for text in documents])


def test_a_document_of_ten_megabytes_is_stored_exactly(path: Path) -> None:
    text = "Many words of a very long text, with ümlauts and 漢字.\r\n" * 180_000
    assert len(text.encode()) > 10_000_000
    with Index.open(path, model=ShortSighted()) as index:
        index.add([{"id": "long", "text": text}])
        document = index.get("long")
        assert document is not None
        assert document.text == text
        assert index.search("words")[0].text == text
        assert index.verify().problems == ()

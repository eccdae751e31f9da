"""Long texts to passages: ordered, complete, and never longer than the room."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgecolbert.chunking import split_text


def _words(texts: list[str]) -> list[int]:
    return [len(re.findall(r"\w+|[^\w\s]", text)) for text in texts]


def _characters(texts: list[str]) -> list[int]:
    return [sum(not character.isspace() for character in text) for text in texts]


def _doubled_at_start(texts: list[str]) -> list[int]:
    """Counts that do not add up: the first word of a text costs one more, as with some tokenizers."""
    return [count + 1 if count else 0 for count in _words(texts)]


def _assert_passages(text: str, spans: list[tuple[int, int]]) -> None:
    assert spans
    position = 0
    for start, end in spans:
        assert start >= position
        assert text[position:start].strip() == ""
        position = end
    assert position <= len(text)
    assert text[position:].strip() == ""
    if text.strip():
        assert all(end > start for start, end in spans)
        assert all(text[start:end] == text[start:end].strip() for start, end in spans)
    else:
        assert spans == [(0, len(text))]


TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(["one", "Two.", "three!", "…", "\n\n", "漢字。", "\u3000", "a" * 30, "?", " "]), max_size=60
    ).map(" ".join),
    st.text(alphabet="ab. \n!?。", max_size=300),
)


@given(text=TEXTS, room=st.integers(1, 12))
@example(text="", room=1)
@example(text="...", room=1)
@example(text="a.\u200b \x1cb", room=1)
def test_passages_cover_the_text_and_fit_the_room(text: str, room: int) -> None:
    for count in (_words, _characters):
        spans = split_text(text, count, room)
        _assert_passages(text, spans)
        assert all(size <= room for size in count([text[start:end] for start, end in spans]))


@given(text=TEXTS, room=st.integers(2, 12))
def test_counts_that_do_not_add_up_still_fit_the_room(text: str, room: int) -> None:
    spans = split_text(text, _doubled_at_start, room)
    _assert_passages(text, spans)
    assert all(size <= room for size in _doubled_at_start([text[start:end] for start, end in spans]))


@given(text=TEXTS)
def test_a_text_that_fits_is_one_passage(text: str) -> None:
    spans = split_text(text, _words, max(1, _words([text])[0]))
    assert len(spans) == 1
    _assert_passages(text, spans)


def test_passages_end_at_sentence_borders_where_they_can() -> None:
    text = "One two three. Four five! Six seven eight nine? Ten."
    passages = [text[start:end] for start, end in split_text(text, lambda texts: [len(t.split()) for t in texts], 5)]
    assert passages == ["One two three. Four five!", "Six seven eight nine? Ten."]


def test_passages_are_of_about_equal_length() -> None:
    text = " ".join(f"Word{n} here." for n in range(105))
    sizes = _words([text[start:end] for start, end in split_text(text, _words, 100)])
    assert len(sizes) == 4
    assert min(sizes) > 60


def test_a_long_sentence_is_cut_between_words() -> None:
    text = " ".join(f"word{n}" for n in range(50))
    spans = split_text(text, _words, 7)
    assert all(re.fullmatch(r"word\d+( word\d+)*", text[start:end]) for start, end in spans)


def test_a_long_word_is_cut_between_characters() -> None:
    text = "start " + "x" * 1_000 + " end"
    spans = split_text(text, _characters, 30)
    _assert_passages(text, spans)
    assert max(_characters([text[start:end] for start, end in spans])) <= 30
    assert len(spans) < 100


def test_chinese_without_spaces_is_cut_at_its_full_stops() -> None:
    text = "今天天气很好。我们去公园散步。" * 20
    spans = split_text(text, _characters, 20)
    _assert_passages(text, spans)
    assert all(text[start:end].endswith("。") for start, end in spans)


def test_one_character_may_exceed_the_room_but_nothing_longer_does() -> None:
    spans = split_text("ab c", lambda texts: [3 * len(text.replace(" ", "")) for text in texts], 1)
    assert spans == [(0, 1), (1, 2), (3, 4)]


@pytest.mark.parametrize("unit", ["word ", "word. ", "x", "。", "\n", "漢"])
def test_a_megabyte_is_split_whatever_it_is_made_of(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    spans = split_text(text, _words if unit not in ("x", "漢") else _characters, 250)
    _assert_passages(text, spans)


def test_room_for_nothing_is_an_error() -> None:
    with pytest.raises(
        ValueError, match="room is 0, expected at least 1: the document length leaves no place for text"
    ):
        split_text("text", _words, 0)

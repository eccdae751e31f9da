"""Long texts to passages: ordered, complete, and never longer than the room."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgecolbert.chunking import split_text
from edgecolbert.chunking.documents import context_of, longest_contexts, split_document
from edgecolbert.chunking.markdown import headings


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


# Documents of a kind

MARKDOWN_LINES = [
    *(
        "# One",
        "## Two two",
        "###### Six ##",
        "Title",
        "===",
        "---",
        "```python",
        "```",
        "~~~",
        "| a | b |",
        "|---|:-:|",
    ),
    *(
        "- item one",
        "  1. inner",
        "* other. Yes.",
        "    indented",
        "text. More text! And",
        "漢字。漢字。",
        "a:",
        "",
        "",
        "\t",
    ),
]
CODE_LINES = [
    *(
        "def f(a):",
        "    return a",
        "",
        "",
        "class C:",
        "    def m(self):",
        "        x = {",
        "        }",
        "# a comment",
        "}",
    ),
    *("end", "import a", "\tif x:", "x" * 30, "    ", "fn main() {", "else:", "\r"),
]
DOCUMENTS = st.one_of(
    st.tuples(st.just("markdown"), st.lists(st.sampled_from(MARKDOWN_LINES), max_size=40).map("\n".join)),
    st.tuples(st.just("code"), st.lists(st.sampled_from(CODE_LINES), max_size=40).map("\n".join)),
    st.tuples(st.sampled_from(["text", "markdown", "code"]), TEXTS),
)


@given(document=DOCUMENTS, room=st.integers(2, 24), overlap=st.integers(0, 11), least=st.integers(0, 30))
@example(document=("markdown", "```\nnever closed\n\n\nx"), room=2, overlap=0, least=0)
@example(document=("code", "\n\n  x\n"), room=2, overlap=1, least=0)
def test_passages_of_every_kind_cover_the_text_fit_and_overlap_as_asked(
    document: tuple[str, str], room: int, overlap: int, least: int
) -> None:
    kind, text = document
    overlap = min(overlap, room // 2)
    for count in (_words, _doubled_at_start):
        spans = split_document(text, count, room, kind=kind, overlap=overlap, min_tokens=least)
        assert spans == split_document(text, count, room, kind=kind, overlap=overlap, min_tokens=least)
        assert spans
        covered = 0
        last_start = -1
        for start, end in spans:
            assert last_start < start <= end <= len(text)
            assert text[covered:start].strip() == ""
            if start < covered:
                assert count([text[start:covered]])[0] <= overlap
            assert covered <= end
            last_start, covered = start, end
        assert text[covered:].strip() == ""
        assert all(count([text[start:end]])[0] <= room for start, end in spans if end - start > 1)
        if text.strip():
            assert all(text[start:end].strip() for start, end in spans)
            assert all(text[start:end] == text[start:end].rstrip() for start, end in spans)
        contexts = context_of(text, spans, kind=kind, title="Two two")
        assert len(contexts) == len(spans)
        longest = max(map(len, longest_contexts(text, kind=kind, title="Two two")))
        assert all(len(context) <= longest for context in contexts)


def _passages(text: str, room: int, **options: object) -> list[str]:
    spans = split_document(text, _words, room, **options)  # type: ignore[arg-type]
    return [text[start:end] for start, end in spans]


def test_markdown_begins_passages_at_headings_and_keeps_blocks_whole() -> None:
    fence = "```sh\n# no heading\n\necho one two three\n```"
    table = "| a | b |\n|---|---|\n| one | two |\n| three | four |"
    text = (
        f"# Top\n\nIntro words here.\n\n## First\n\n{fence}\n\nAfter it.\n\n## Second\n\nBefore the table:\n\n{table}\n"
    )
    passages = _passages(text, 32, kind="markdown")
    assert [passage.splitlines()[0] for passage in passages] == ["# Top", "## First", "## Second"]
    assert fence in passages[1]
    assert table in passages[2]
    assert [heading.title for heading in headings(text)] == ["Top", "First", "Second"]


def test_small_sections_share_a_passage() -> None:
    text = "\n\n".join(f"## Part {n}\n\nA few words." for n in range(6))
    assert len(_passages(text, 20, kind="markdown")) == 6
    assert [len(re.findall("##", passage)) for passage in _passages(text, 20, kind="markdown", min_tokens=10)] == [
        2,
        2,
        2,
    ]


def test_a_table_that_does_not_fit_is_cut_between_rows_and_a_list_between_items() -> None:
    table = "| a | b |\n|---|---|\n" + "\n".join(f"| row {n} | value {n} |" for n in range(20))
    assert all(passage.startswith("|") and passage.endswith("|") for passage in _passages(table, 30, kind="markdown"))
    items = "\n".join(f"- item {n}\n  goes on" for n in range(20))
    assert all(passage.startswith("- item") for passage in _passages(items, 24, kind="markdown"))


def test_code_is_cut_at_definitions_and_blank_lines_and_keeps_indentation() -> None:
    functions = [f"def f{n}(a):\n    b = a + {n}\n\n    return b" for n in range(6)]
    text = "import os\n\n\n" + "\n\n\n".join(functions) + "\n"
    assert _passages(text, 20, kind="code") == ["import os", *functions]
    (whole,) = _passages("\n\n    indented\n", 20, kind="code")
    assert whole == "    indented"
    assert [passage.splitlines()[0] for passage in _passages(functions[0], 12, kind="code")] == [
        "def f0(a):",
        "    return b",
    ]


def test_overlap_is_of_whole_sentences_and_whole_lines() -> None:
    text = "One two three. Four five. Six seven eight. Nine ten. Eleven twelve thirteen. Fourteen."
    passages = _passages(text, 12, overlap=4)
    assert len(passages) > 2
    starts = {"One", "Four", "Six", "Nine", "Eleven", "Fourteen"}
    assert all(re.match(r"\w+", passage)[0] in starts for passage in passages)  # type: ignore[index]
    assert any(a.split()[-1] in b.split()[:4] for a, b in pairwise(passages))
    code = "\n".join(f"line{n} = {n}" for n in range(12))
    assert _passages(code, 9, kind="code", overlap=3)[1].startswith("line1")


def test_context_is_the_title_and_the_headings_above() -> None:
    text = "# Guide\n\n## Boiler *valves* #\n\none\n\n### [Deep](x)\n\ntwo\n\nSetext\n------\n\nthree"
    spans = [(text.index(word), text.index(word) + 3) for word in ("# Guide", "one", "### [", "two", "three")]
    assert context_of(text, spans, kind="markdown", title="Cellar") == [
        "Cellar",
        "Cellar. Guide > Boiler valves",
        "Cellar. Guide > Boiler valves",
        "Cellar. Guide > Boiler valves > Deep",
        "Cellar. Guide > Setext",
    ]
    assert context_of(text, [(0, len(text)), spans[1]], kind="markdown", title="Guide") == ["", "Guide. Boiler valves"]
    assert context_of(text, spans[1:2], kind="text", title=None) == [""]


@pytest.mark.parametrize(
    "unit", ["# \n", "- a\n", "|-", "[", "`", "# " + " " * 50 + "x\n", "x\n\n", "    ", "===\n", "a:\n"]
)
@pytest.mark.parametrize("kind", ["markdown", "code"])
def test_a_long_document_of_any_kind_is_split(unit: str, kind: str) -> None:
    text = unit * (200_000 // len(unit)) + "z"
    spans = split_document(text, _words, 250, kind=kind, min_tokens=32)
    assert spans[-1][1] == len(text)
    context_of(text, spans[:3], kind=kind, title=None)


def test_an_unknown_kind_and_an_overlap_without_room_are_errors() -> None:
    with pytest.raises(ValueError, match="kind is 'html', expected one of text, markdown, code"):
        split_document("x", _words, 5, kind="html")
    with pytest.raises(ValueError, match="room is 5, expected more than the overlap of 5"):
        split_document("x", _words, 5, overlap=5)

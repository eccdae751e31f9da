"""Highlights, snippets and the page: inside the text, whole words, and safe whatever the text says."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from contextlib import redirect_stdout, suppress
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_explanation import PlacedEncoder

from edgecolbert import Explanation, Index, Snippet
from edgecolbert.cli import main
from edgecolbert.errors import InputError, InputTypeError
from edgecolbert.heat_map import page
from edgecolbert.highlighting import whole_word

HOSTILE = (
    "<script>alert('kettle')</script> <img src=x onerror=\"alert(1)\"> </style></title> &lt;b&gt; <!-- kettle --> "
    "\x00\x1b[31m\x07 \u202ekettle\u202c ]]> javascript:alert(1) {{kettle}} \ufdd0 kettle"
)
PIECES = [
    *("red", "kettle", "cat", "İ", "漢字", "kettles", "un", "re\u0301d", "x" * 30, "☃", "\u202e", "\x1b[2J", "\x00"),
    *(" ", " ", "\n", ". ", "<b>", "</mark>", "&amp;", '"', "'", "**", "-"),
]
texts = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


class Elements(HTMLParser):
    """Start tags with their attributes, and all text, as a browser reads them."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def explain(text: str, query: str) -> Explanation:
    with Index.open(":memory:", model=PlacedEncoder()) as index:
        index.add([{"id": "note", "text": text}])
        return index.explain(query, "note")


def test_every_snippet_is_a_part_of_the_text_with_its_highlights() -> None:
    queries = ["red kettle", "kettle", "x" * 30, "漢字 cat", "nothing", ""]
    with Index.open(":memory:", model=PlacedEncoder()) as index:

        @given(texts, st.sampled_from(queries), st.integers(1, 120))
        def snippets_are_right(text: str, query: str, max_chars: int) -> None:
            index.add([{"id": "note", "text": text}])
            _check_snippet(text, index.explain(query, "note"), max_chars)

        snippets_are_right()


def _check_snippet(text: str, explanation: Explanation, max_chars: int) -> None:
    marked = explanation.highlights()
    snippet = explanation.snippet(max_chars)
    for first, second in pairwise(marked):
        assert first.end < second.start
    for word in marked:
        assert explanation.passage.start <= word.start < word.end <= explanation.passage.end
        assert 0 < word.weight <= 1
        assert word.level in (1, 2, 3)
    assert len(snippet.text) <= max_chars
    assert snippet.text == text[snippet.start : snippet.end]
    for word in snippet.highlights:
        assert snippet.start <= word.start < word.end <= snippet.end
    assert bool(snippet.highlights) == bool(marked)
    _check_shown(snippet)


def _check_shown(snippet: Snippet) -> None:
    before, after = "…" * snippet.cut_before, "…" * snippet.cut_after
    assert snippet.marked("", "") == f"{before}{snippet.text}{after}"
    assert str(snippet) == snippet.marked()
    assert snippet.marked("\ue000", "").count("\ue000") == len(snippet.highlights)
    line = re.sub(r"\x1b\[(0|1|1;4)m", "", snippet.ansi())
    assert all(character.isprintable() for character in line)
    found = Elements(snippet.html())
    assert [tag for tag, _ in found.tags] == ["mark"] * len(snippet.highlights)
    assert {attributes["class"] for _, attributes in found.tags} <= {"match-1", "match-2", "match-3"}
    # HTML has no place for control characters, nor for what Unicode says is no character.
    kept = ("\n", "\t")
    readable = "".join(
        c if c in kept or (unicodedata.category(c) != "Cc" and c != "\ufdd0") else "\ufffd" for c in snippet.text
    )
    assert found.text == f"{before}{readable}{after}"


@given(texts, st.data())
def test_words_are_widened_inside_their_limits(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    least, most = data.draw(st.integers(0, start)), data.draw(st.integers(end, len(text)))
    first, last = whole_word(text, start, end, least, most)
    assert least <= first <= start <= end <= last <= most
    assert not any(character.isspace() for character in text[first:start] + text[end:last])


def test_pieces_of_words_mark_the_word_and_scripts_without_spaces_do_not_run_on() -> None:
    for text, span, expected in (
        ("two kettles.", (4, 7), "kettles"),
        ("two kettles.", (8, 10), "kettles"),
        ("a_b-c", (2, 3), "a_b"),
        ("cafe\u0301 au lait", (0, 4), "cafe\u0301"),
        ("漢字仮名", (1, 2), "字"),
        ("東京tower見", (2, 5), "tower"),
        ("ภาษาไทย", (0, 1), "ภ"),
        ("한국어를 배우다", (0, 1), "한국어를"),
    ):
        start, end = whole_word(text, *span, 0, len(text))
        assert text[start:end] == expected


def test_the_snippet_is_where_the_strongest_matches_are() -> None:
    filler = "nothing here at all. " * 40
    explanation = explain(f"{filler}A kettle. {filler}The red kettle boils. {filler}", "red kettle boils")
    snippet = explanation.snippet(60)
    # Of equal words the first one won: the kettle before, red and boils here.
    assert snippet.marked().startswith("…")
    assert "The **red** kettle **boils**." in snippet.marked()
    assert len(snippet.text) <= 60
    assert not snippet.text.startswith(("othing", "thing", "ere"))
    whole = explain("The red kettle.", "kettle").snippet()
    assert (whole.marked(), whole.cut_before, whole.cut_after) == ("The red **kettle**.", False, False)


def test_without_a_match_the_snippet_is_the_beginning() -> None:
    explanation = explain("  One two three four. " * 30, "-")
    assert explanation.matches == ()
    snippet = explanation.snippet(12)
    assert (snippet.text, snippet.highlights, snippet.start) == ("One two", (), 2)
    assert explain("", "kettle").snippet() == Snippet("", 0, 0, ())


def test_a_word_longer_than_the_snippet_is_cut() -> None:
    snippet = explain("a " * 30 + "x" * 50 + " b" * 30, "x" * 50).snippet(10)
    assert snippet.marked() == f"…**{'x' * 10}**…"


@pytest.mark.parametrize("wrong", ["10", None, True, 1.5])
def test_max_chars_must_be_a_whole_number(wrong: object) -> None:
    with pytest.raises(InputTypeError, match="max_chars"):
        explain("red", "red").snippet(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1"):
        explain("red", "red").snippet(0)


def test_words_of_every_sentence_and_marks_of_the_model_are_not_highlighted() -> None:
    text = (
        "A dripping tap. A tap that drips after it is closed almost always has a worn washer or cartridge. Turn the "
        "water off at the stop valve under the sink, open the tap to let the pressure out, put a cloth in the drain."
    )
    with Index.open(":memory:") as index:
        index.add([text])
        (hit,) = index.search("why is the water dripping at night?")
        explanation = hit.explain()
        words = [text[word.start : word.end] for word in explanation.highlights()]
    found = {match.query.text: match.document for match in explanation.matches}
    assert found["at"] is not None
    assert found["at"].text == "at"
    assert words == ["dripping", "water"]
    assert "**dripping**" in explanation.snippet(30).marked()


def test_what_all_of_a_text_is_about_is_highlighted_still() -> None:
    text = (Path(__file__).parent.parent / "examples" / "handbook" / "bread-dense.md").read_text(encoding="utf-8")
    with Index.open(":memory:") as index:
        index.add([{"id": "note", "text": text}])
        explanation = index.explain("is the loaf heavy", "note")
    (similarities,) = (
        row
        for match, row in zip(explanation.matches, explanation.similarities, strict=True)
        if match.query.text == "loaf"
    )
    # All tokens of the note resemble its subject, so the very word stands out by few deviations.
    assert similarities.max() - similarities.mean() < 2.5 * similarities.std()
    words = {text[word.start : word.end].lower() for word in explanation.highlights()}
    assert "loaf" in words
    assert not words & {"the", "is"}


def test_hostile_texts_are_only_text() -> None:
    with Index.open(":memory:") as index:
        index.add([{"id": HOSTILE.replace("\x00", ""), "text": HOSTILE}])
        (hit,) = index.search(HOSTILE)
        explanation = hit.explain()
    assert "kettle" in " ".join(HOSTILE[word.start : word.end] for word in explanation.highlights())
    _check_shown(explanation.snippet(1000))
    _check_page(page(HOSTILE, [explanation]))


def _check_page(source: str) -> None:
    found = Elements(source)
    names = {tag for tag, _ in found.tags}
    assert names <= {
        *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "section", "div", "mark", "bdi"),
        *("details", "summary", "table", "caption", "thead", "tbody", "tr", "th", "td", "span"),
    }
    attributes = {name for _, attributes in found.tags for name in attributes}
    assert attributes <= {
        *("lang", "charset", "http-equiv", "content", "name", "id", "class", "dir", "scope", "tabindex", "role"),
        *("aria-label", "aria-labelledby", "open"),
    }
    # Nothing is loaded: no style asks for anything, and the page forbids it.
    assert not re.search(r"url\(|@import|https?:", source.split("</style>")[0])
    assert "default-src 'none'" in source
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", source)


def test_the_page_is_a_table_of_all_pairs_for_everyone() -> None:
    with Index.open(":memory:") as index:
        index.add(["The kettle is in the left cupboard."])
        (hit,) = index.search("where is the kettle?")
        explanation = hit.explain()
    source = explanation.to_html()
    _check_page(source)
    found = Elements(source)
    n_query, n_document = explanation.similarities.shape
    cells = [attributes for tag, attributes in found.tags if tag == "td" and "h" in (attributes.get("class") or "")]
    assert len(cells) == n_query * n_document
    assert sum("won" in (attributes["class"] or "") for attributes in cells) == n_query
    scopes = [attributes.get("scope") for tag, attributes in found.tags if tag == "th"]
    assert scopes.count("row") == n_query + n_document
    assert None not in scopes
    assert sum(tag == "caption" for tag, _ in found.tags) == 2
    hundredths = [int(text) for text in re.findall(r'<td class="h\d(?: won)?">(-?\d+)', source)]
    assert hundredths == [round(float(value) * 100) for value in explanation.similarities.T.ravel()]
    assert f"score {hit.score:.4f}" in found.text


def test_every_shade_can_be_read_in_light_and_dark() -> None:
    source = page("kettle", [])
    light, dark = source.split("@media (prefers-color-scheme: dark)")
    for part, ink in ((light, (0x16, 0x18, 0x1D)), (dark.split("}")[0], (0xF2, 0xF3, 0xF5))):
        shades = [tuple(map(int, found)) for found in re.findall(r"--h\d: rgb\((\d+), (\d+), (\d+)\)", part)]
        assert len(shades) == 10
        # The Web Content Accessibility Guidelines ask for 4.5.
        assert min(_contrast(ink, shade) for shade in shades) > 5.5


def _contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    def luminance(colour: tuple[int, ...]) -> float:
        parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.fixture
def kettle(path: Path) -> list[str]:
    """A search whose hit would clear the terminal."""
    with Index.open(path) as index:
        index.add([{"id": "a", "text": "The kettle\x1b[2J is in the cupboard."}])
    return ["search", "kettle", "--db", str(path), "--highlight"]


def test_a_pipe_gets_marks_and_json_gets_offsets(kettle: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(kettle) == 0
    shown = capsys.readouterr().out
    assert "The **kettle** [2J is in" in shown
    assert "\x1b" not in shown
    assert main([*kettle, "--json"]) == 0
    (hit,) = json.loads(capsys.readouterr().out)["hits"]
    text = hit["text"]
    assert [text[word["start"] : word["end"]] for word in hit["snippet"]["highlights"]] == ["kettle"]
    assert text[hit["snippet"]["start"] : hit["snippet"]["end"]] == hit["snippet"]["text"]
    assert main([*kettle[:-1], "--json"]) == 0
    assert "snippet" not in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no pseudo-terminals here")
def test_a_terminal_gets_bold_unless_it_wants_none(kettle: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert re.search(r"The \x1b\[1;4mkettle\x1b\[0m \[2J is in", _on_a_terminal(kettle))
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            assert "The **kettle** [2J is in" in _on_a_terminal(kettle)


def _on_a_terminal(words: list[str]) -> str:
    """What a command prints on a real terminal."""
    outer, inner = os.openpty()
    with open(inner, "w", encoding="utf-8") as terminal, redirect_stdout(terminal):
        assert main(words) == 0
        terminal.flush()
        # While the terminal is open: some systems forget what was written when its last writer closes it.
        os.set_blocking(outer, False)
        parts = []
        with suppress(BlockingIOError):  # one read gives a line
            while part := os.read(outer, 100_000):
                parts.append(part)
    shown = b"".join(parts).decode()
    os.close(outer)
    assert "\x1b[2J" not in shown
    return shown

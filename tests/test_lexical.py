"""Lexical search over the real FTS5: what is found, that nothing a user writes is an error, and that the index fits."""

from __future__ import annotations

import contextlib
import gzip
import math
import random
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from raw_database import raw
from word_encoder import SplittingEncoder, WordEncoder

from edgecolbert import CancelledError, Index
from edgecolbert.errors import InputError, StoreError, StoreFormatError, StoreReadOnlyError
from edgecolbert.lexical import parse_query, tokens
from edgecolbert.schema import SCHEMA_VERSION, expected_objects

FIXTURES = Path(__file__).parent / "fixtures"
TEXTS = {
    "cpp": "We write C++ and a little C here.",
    "c": "Plain C code, and C# too",
    "id": "call foo_bar in x.y.z now.",
    "words": "call foo bar in x y z now",
    "hyphen": "set a-b on",
    "tokyo": "東京都在日本",
    "kyoto": "京都很美。",
    "run": "his running shoes",
    "ran": "his run shoe",
    "cafe": "Das Café, naïve ﬁsh; STRASSE",
    "nul": "a\0zebra",
}


def _ids(index: Index, query: str, **options: Any) -> list[str]:
    return [hit.id for hit in index.search(query, k=1_000, mode="lexical", **options)]


@pytest.fixture
def index(path: Path, encoder: WordEncoder) -> Index:
    index = Index.open(path, model=encoder)
    index.add([{"id": name, "text": text} for name, text in TEXTS.items()])
    return index


@pytest.mark.parametrize(
    ("query", "best", "all_of_them"),
    [
        ("C++", "cpp", {"cpp", "c"}),
        ('"C++"', "cpp", {"cpp"}),
        ('"c#"', "c", {"c"}),
        ("foo_bar", "id", {"id", "words"}),
        ('"foo_bar"', "id", {"id"}),
        ('"foo bar"', None, {"id", "words"}),
        ('"bar foo"', None, set()),
        ("x.y.z", "id", {"id", "words"}),
        ("a-b", "hyphen", {"hyphen"}),
        ("東京", "tokyo", {"tokyo"}),
        ("京都", None, {"tokyo", "kyoto"}),
        ("都", None, {"tokyo", "kyoto"}),
        ("美", "kyoto", {"kyoto"}),
        ('"京都在"', "tokyo", {"tokyo"}),
        ('"京 都"', None, set()),
        ("runs", None, {"run", "ran"}),
        ('"running shoes"', "run", {"run"}),
        ('"running shoe"', None, set()),
        ("cafe", "cafe", {"cafe"}),
        ("NAIVE Fish straße", "cafe", {"cafe"}),
        ("the", None, set()),
        ("ZEBRA\0", "nul", {"nul"}),
        ("a", None, {"cpp", "hyphen", "nul"}),
        ('shoes "his run"', "ran", {"ran"}),
        ("?! -", None, set()),
        ('"', None, set()),
        ("", None, set()),
    ],
)
def test_words_names_phrases_and_scripts_without_spaces(
    index: Index, query: str, best: str | None, all_of_them: set[str]
) -> None:
    found = _ids(index, query)
    assert set(found) == all_of_them
    if best is not None:
        assert found[0] == best


@given(
    st.lists(st.one_of(st.text(), st.sampled_from(['"', "*", "NEAR(", "AND", "col:x", "^", "-", "foo_bar", "京都"])))
)
@example(['"', "a", '" AND NOT (', "\x00", "'; DROP TABLE contents"])
@example(["-".join("abcdefgh" * 200)])
@example(['"' + " ".join(["word"] * 3_000) + '"'])
@example(['"' + "-".join(["word"] * 30) + '"' * 3])
def test_whatever_a_user_writes_is_searched_for(parts: list[str]) -> None:
    query = " ".join(parts)
    with Index.open(":memory:", model=WordEncoder()) as index:
        index.add(["foo AND bar", "京都 a", *([query] if query else [])])
        found = _ids(index, query)
        index.search(query, mode="hybrid")
        parsed = parse_query(query)
        if parsed is not None:
            # A text that is the query has all its words and phrases.
            assert any(hit.text == query for hit in index.search(query, mode="lexical"))
        else:
            assert found == []
        assert index.verify().problems == ()


def test_what_is_found_is_what_a_scan_over_the_texts_finds(path: Path, encoder: WordEncoder) -> None:
    # Words that the stemmer leaves alone, and characters that make no words with each other.
    pieces = ["zab", "qux", "b3", "foo_bar", "foo", "bar", "京都", "東京都", "都", "C++"]
    chance = random.Random(6)
    texts = {f"{n}": " ".join(chance.choices(pieces, k=chance.randint(1, 6))) for n in range(300)}
    with Index.open(path, model=encoder) as index:
        index.add([{"id": name, "text": text} for name, text in texts.items()])

        def scan(pattern: str) -> set[str]:
            return {name for name, text in texts.items() if re.search(pattern, text, re.IGNORECASE)}

        def word(text: str) -> str:
            return rf"(?<![a-zA-Z0-9]){re.escape(text)}(?![a-zA-Z0-9])"

        for query in ("zab", "qux", "b3", "foo", "bar"):
            assert set(_ids(index, query)) == scan(word(query)), query
            assert set(_ids(index, f'"{query}"')) == scan(word(query)), query
        for query in ("京都", "東京都", "都", "東"):
            assert set(_ids(index, f'"{query}"')) == scan(query), query
        assert set(_ids(index, '"C++"')) == scan(r"C\+\+")
        assert set(_ids(index, '"foo_bar"')) == scan("foo_bar")
        assert set(_ids(index, '"foo bar"')) == scan("foo[_ ]bar")
        assert set(_ids(index, '"zab qux"')) == scan(r"\bzab qux\b")
        assert set(_ids(index, "zab qux")) == scan(r"\bzab\b|\bqux\b")
        assert set(_ids(index, '"zab" "qux" foo')) == scan(r"\bzab\b") & scan(r"\bqux\b")


def test_quotes_in_a_pasted_text_are_only_quotes(index: Index) -> None:
    pasted = 'a "running shoe" ' + "of many words " * 12
    assert set(_ids(index, pasted)) >= {"run", "ran"}
    assert _ids(index, 'a "running shoe" of many words') == []


def test_bm25_is_what_its_formula_says(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "twice", "text": "kettle red kettle"}, {"id": "once", "text": "kettle"}, "x", "y", "z"])
        hits = index.search("kettle", mode="lexical")
        n, n_with, mean = 5, 2, 2 * (3 + 1 + 1 + 1 + 1) / 5
        idf = math.log((n - n_with + 0.5) / (n_with + 0.5))
        expected = {
            name: idf * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length / mean))
            for name, times, length in (("twice", 2, 6), ("once", 1, 2))
        }
        assert {hit.id: hit.score for hit in hits} == pytest.approx(expected)
        assert [hit.ranks for hit in hits] == [{"lexical": 1}, {"lexical": 2}]


def test_equal_scores_come_in_the_order_of_the_ids_however_few_are_wanted(path: Path, encoder: WordEncoder) -> None:
    names = [f"{n:03}" for n in range(40)]
    with Index.open(path, model=encoder) as index:
        index.add([{"id": name, "text": f"kettle u{name}"} for name in reversed(names)])
        index.add([{"id": "twin", "text": "kettle u000"}, *(f"other {n}" for n in range(60))])
        for k in (1, 3, 39, 100):
            hits = index.search("kettle", k=k, mode="lexical")
            assert [hit.id for hit in hits] == [*names, "twin"][:k]
            assert {hit.ranks["lexical"] for hit in hits} == {1}


def test_a_filter_leaves_as_many_as_there_are(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add(
            [
                {"id": f"{n}", "text": "kettle " * (1 + n % 9) + f"u{n}", "metadata": {"rare": n % 50 == 7}}
                for n in range(200)
            ]
        )
        index.add([f"other {n}" for n in range(300)])
        assert set(_ids(index, "kettle", filter={"rare": True})) == {"7", "57", "107", "157"}
        assert _ids(index, '"kettle u57"', filter={"rare": True}) == ["57"]
        assert _ids(index, "kettle", filter={"rare": 3}) == []


def test_the_passage_is_the_one_with_most_of_the_words(path: Path) -> None:
    text = "One two three four five six. A red kettle sings in the hall. Nine ten eleven twelve."
    with Index.open(path, model=SplittingEncoder()) as index:
        index.add([text, "something else", "and more of it"])
        (hit,) = index.search("red kettle", mode="lexical")
        assert "red kettle" in hit.passage.text
        assert hit.passage.text == text[hit.passage.start : hit.passage.end] != text


def test_lexical_search_loads_no_model(path: Path) -> None:
    with Index.open(path, model=FIXTURES / "tiny-model") as index:
        index.add(["red kettle", "blue cup", "green pot"])
    with Index.open(path, read_only=True) as index:
        assert index.search("kettle", mode="lexical")[0].text == "red kettle"
        assert index._encoder is None


def test_the_index_follows_every_change(path: Path, encoder: WordEncoder) -> None:
    chance = random.Random(3)
    words = ["kettle", "cup", "pot", "foo_bar", "京都", "Café"]
    there: dict[str, str] = {}
    with Index.open(path, model=encoder) as index:
        for step in range(60):
            name = f"{chance.randrange(8)}"
            if chance.random() < 0.3:
                index.delete([name, "unknown"])
                there.pop(name, None)
            elif chance.random() < 0.1:
                index.compact()
            else:
                there[name] = " ".join(chance.choices(words, k=3))
                index.add([{"id": name, "text": there[name]}])
            assert set(_ids(index, "cup")) == {name for name, text in there.items() if "cup" in text}, step
        assert index.verify().problems == ()
        index.delete(list(there))
        assert index.verify().problems == ()


def test_texts_that_are_not_shown_yet_are_not_found(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add(["a blue cup"])
        with pytest.raises(CancelledError):
            index.add([f"kettle number{n}" for n in range(200)], progress=lambda done, _: done < 128)
        assert _ids(index, "kettle") == []
        assert index.search("kettle", mode="hybrid")[0].text == "a blue cup"
        assert index.search('"kettle"', mode="hybrid") == []
        assert index.verify().problems == ()
        index.add([{"id": "5", "text": "kettle number5"}])
        assert _ids(index, "kettle") == ["5"]
        index.compact()
        assert _ids(index, "kettle") == ["5"]
        assert index.verify().problems == ()


def test_a_change_that_fails_leaves_the_index_as_it_was(
    path: Path, encoder: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "a", "text": "red kettle"}])

        def fails(*_: object) -> None:
            raise StoreError("disk full")

        with monkeypatch.context() as patch:
            patch.setattr(index._store, "put_documents", fails)
            with pytest.raises(StoreError, match="disk full"):
                index.add([{"id": "a", "text": "blue kettle"}])
        assert _ids(index, "blue kettle red") == ["a"]
        assert _ids(index, '"blue"') == []
        assert index.verify().problems == ()


def test_a_file_of_schema_1_is_found_by_its_words(path: Path) -> None:
    path.write_bytes(gzip.decompress((FIXTURES / "databases" / "version-1.db.gz").read_bytes()))
    with Index.open(path, model=FIXTURES / "tiny-model") as index:
        expected = {name for name in index.ids() if "danc" in (index.get(name) or pytest.fail(name)).text.lower()}
        assert expected
        assert set(_ids(index, "dances")) == expected
        assert index.verify().problems == ()
        index.delete(expected)
        assert _ids(index, "dances") == []
        assert index.verify().problems == ()


def test_a_damaged_text_does_not_keep_an_old_file_from_being_migrated(path: Path) -> None:
    path.write_bytes(gzip.decompress((FIXTURES / "databases" / "version-1.db.gz").read_bytes()))
    with raw(path) as connection:
        connection.execute("UPDATE contents SET text = CAST(x'ff80' || text AS TEXT) WHERE content_id = 1")
    with Index.open(path, model=FIXTURES / "tiny-model") as index:
        problems = index.verify().problems
        assert [problem.message for problem in problems] == ["A stored text does not match its hash."]
        index.delete(problems[0].ids)
        assert index.verify().problems == ()


def test_the_tables_of_fts5_are_those_that_are_allowed() -> None:
    shadows = {name for kind, name in expected_objects(SCHEMA_VERSION) if name.startswith("lexical")}
    assert shadows == {"lexical", "lexical_data", "lexical_idx", "lexical_docsize", "lexical_config"}


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM lexical_docsize WHERE id = 3",
        "UPDATE lexical_docsize SET sz = x'0909' WHERE id = 3",
        "INSERT INTO lexical_docsize VALUES (99, x'010100')",
        "DELETE FROM lexical_data WHERE id > 10",
        "DELETE FROM lexical_data WHERE id = 1",
        "UPDATE lexical_data SET block = x'00' WHERE id = 10",
        "UPDATE lexical_data SET block = zeroblob(length(block)) WHERE id > 10",
        "INSERT INTO lexical (rowid, words) VALUES (98, 'cup')",
        "INSERT INTO lexical (lexical, rowid, words, exact, names) VALUES ('delete', 1, 'red kettle', 'red=', '')",
    ],
)
def test_damage_is_reported_and_mended(path: Path, encoder: WordEncoder, statement: str) -> None:
    texts = ["red kettle", "blue cup", "green pot", "a cup of tea"]
    with Index.open(path, model=encoder) as index:
        index.add(texts)
    with raw(path) as connection:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            pytest.skip(f"this SQLite lets nobody do it: {error}")
    with Index.open(path, model=encoder) as index:
        assert any("full-text index is" in problem.message for problem in index.verify().problems)
        assert index.search("kettle")[0].text == "red kettle"
        with contextlib.suppress(StoreFormatError):
            assert set(_ids(index, "cup tea red")) <= set(index.ids())
        index.rebuild_lexical()
        assert index.verify().problems == ()
        assert {hit.text for hit in index.search("cup", mode="lexical")} == {"blue cup", "a cup of tea"}


def test_flipped_bits_are_reported_or_do_nothing(tmp_path: Path, encoder: WordEncoder) -> None:
    path = tmp_path / "sound.db"
    with Index.open(path, model=encoder) as index:
        index.add([f"kettle cup{n % 7} pot{n % 5} 京都{n} foo_b{n}" for n in range(60)])
        sound = {query: _ids(index, query) for query in ("kettle", "cup3", "pot1 cup2", '"cup3 pot3"', "京都")}
    content, damaged = path.read_bytes(), tmp_path / "damaged.db"
    chance = random.Random(1)
    noticed = 0
    for _ in range(60):
        damaged.write_bytes(content)
        with raw(damaged) as connection:
            number, block = chance.choice(connection.execute("SELECT id, block FROM lexical_data").fetchall())
            spoiled = bytearray(block)
            spoiled[chance.randrange(len(spoiled))] ^= 1 << chance.randrange(8)
            connection.execute("UPDATE lexical_data SET block = ? WHERE id = ?", (bytes(spoiled), number))
        with Index.open(damaged, model=encoder, read_only=True) as index:
            problems = index.verify().problems
            noticed += bool(problems)
            for query, expected in sound.items():
                try:
                    found = _ids(index, query)
                except StoreError:
                    assert problems
                else:
                    assert found == expected or problems
    assert noticed > 30


def test_verify_of_a_read_only_index_writes_nothing(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add(["red kettle"])
    before = path.read_bytes()
    with Index.open(path, model=encoder, read_only=True) as index:
        assert index.verify().problems == ()
        assert index._store._connection.execute("PRAGMA query_only").fetchone() == (1,)
        with pytest.raises(StoreReadOnlyError):
            index.rebuild_lexical()
    assert path.read_bytes() == before


def test_encrypted_files_are_searched_by_words_too(path: Path, encoder: WordEncoder) -> None:
    pytest.importorskip("sqlcipher3.dbapi2", reason="SQLCipher is not installed")
    key = bytes(range(32))
    with Index.open(path, model=encoder, key=key) as index:
        index.add([{"id": name, "text": text} for name, text in TEXTS.items()])
        assert _ids(index, '"C++"') == ["cpp"]
        assert index.verify().problems == ()
        index.delete(["cpp"])
        assert _ids(index, '"C++"') == []
        assert index.verify().problems == ()
    assert b"shoe" not in path.read_bytes()


@pytest.mark.parametrize("options", [{"exact": True}, {"n_candidates": 5}, {"min_recall": 0.9}, {"fusion": "rrf"}])
def test_what_means_nothing_without_token_embeddings_is_refused(index: Index, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        index.search("kettle", mode="lexical", **options)


def test_accents_that_are_vowels_are_kept() -> None:
    assert tokens("हिन्दी").words == ["हिन्दी"]
    assert tokens("が").words != tokens("か").words
    assert tokens("e\u0301").words == tokens("é").words == ["e"]


def test_a_long_word_of_vowel_signs_is_read_once() -> None:
    """Looking for a name from each of its signs would take hours."""
    text = "\u093f" * 300_000
    assert tokens(text) == ([text], [])
    assert tokens("a\u093f" * 150_000).names == []
    assert tokens(f"\u0915\u093f-\u0915\u093f {text}-x").names == ["\u0915\u093f-\u0915\u093f", f"{text}-x"]

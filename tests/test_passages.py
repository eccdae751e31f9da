"""Passages of documents by kind, in context, with overlap, encoded late; and searching for them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from word_encoder import SplittingEncoder, WordEncoder

from edgecolbert import Encoder, Index, PassageSettings, reencode
from edgecolbert.cli import main
from edgecolbert.codec import quantize
from edgecolbert.descriptions import described
from edgecolbert.errors import InputError, InputTypeError, StoreFormatError, StoreMismatchError
from edgecolbert.passage_plans import PassagePlanner
from edgecolbert.passages import Text
from edgecolbert.scoring import maxsim_packed
from edgecolbert.sources import Reading, open_sources

TINY = Path(__file__).parent / "fixtures" / "tiny-model"
MARKDOWN = "# Boiler\n\n" + "Check the pressure of the water. " * 8 + "\n\n## Bleeding\n\n" + "Open each valve. " * 12
PROSE = " ".join(f"The sentence number {n} says a little of thing {n * n}." for n in range(40))


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return Encoder.load(TINY, threads=1)


def _encoded(encoder: Encoder, text: Text, **settings: object) -> list[tuple[tuple[int, int], np.ndarray]]:
    planner = PassagePlanner(encoder, PassageSettings(**settings))  # type: ignore[arg-type]
    spans = planner.split(text)
    return list(zip(spans, planner.encode([(text, spans)]), strict=True))


# Encoding


def test_without_context_a_passage_is_encoded_as_the_encoder_does_it(tiny: Encoder) -> None:
    for (start, end), rows in _encoded(tiny, Text(PROSE), max_tokens=32, overlap=8):
        np.testing.assert_array_equal(rows, tiny.encode_documents([PROSE[start:end]])[0])


@given(text=st.text(max_size=300), overlap=st.integers(0, 8), kind=st.sampled_from(["text", "markdown", "code"]))
def test_passages_fit_the_model_whatever_is_asked_for(text: str, overlap: int, kind: str) -> None:
    encoder = Encoder.load(TINY, threads=1)
    for settings in ({"overlap": overlap}, {"context": True}, {"late_chunking": True, "window": 40}):
        planner = PassagePlanner(encoder, PassageSettings(max_tokens=24, structure=True, **settings))  # type: ignore[arg-type]
        document = Text(text, kind, "A title")
        spans = planner.split(document)
        arrays = list(planner.encode([(document, spans)]))
        assert len(arrays) == len(spans)
        assert spans == planner.split(document)
        # One character may be more tokens than fit; nothing else is longer than the room.
        longest = max((size for size in encoder.tokenizer.count([text[a:b] for a, b in spans if b - a > 1])), default=0)
        assert longest <= 24
        assert all(array.shape[1:] == (encoder.dim,) for array in arrays)


def test_context_changes_what_is_encoded_and_not_what_is_shown(tiny: Encoder) -> None:
    text = Text(MARKDOWN, "markdown", "Cellar")
    in_context = _encoded(tiny, text, structure=True, max_tokens=40, min_tokens=0, context=True)
    assert len(in_context) > 4
    for (start, end), rows in in_context:
        assert MARKDOWN[start:end] == MARKDOWN[start:end].strip()
        (alone,) = tiny.encode_documents([MARKDOWN[start:end]])
        # First the passage's own tokens, which have seen the context, then those of the context.
        assert len(rows) > len(alone)
        assert not np.allclose(rows[: len(alone)], alone, atol=1e-3)


def test_a_window_of_one_passage_is_no_different_from_encoding_it_alone(tiny: Encoder) -> None:
    text = Text("One short text.")
    ((_, late),) = _encoded(tiny, text, max_tokens=30, late_chunking=True)
    np.testing.assert_array_equal(late, tiny.encode_documents([text.text])[0])


def test_late_chunking_sees_what_is_around_a_passage(tiny: Encoder) -> None:
    (spans, late), (other_spans, alone) = (
        zip(*_encoded(tiny, Text(PROSE), max_tokens=20, **settings), strict=True)  # type: ignore[arg-type]
        for settings in ({"late_chunking": True}, {})
    )
    assert spans == other_spans
    assert [len(rows) for rows in late] == [len(rows) for rows in alone]
    assert not any(np.allclose(a, b, atol=1e-3) for a, b in zip(late, alone, strict=True))


def test_late_chunking_of_a_text_that_fits_one_window_cuts_one_encoding(tiny: Encoder) -> None:
    text = Text("First sentence here. Second sentence there. Third one is somewhere else.")
    found = _encoded(tiny, text, max_tokens=24, late_chunking=True)
    assert len(found) > 1
    pieces = tiny.tokenizer.parts([text.text[start:end] for (start, end), _ in found])
    tokens, places = tiny.tokenizer.joined(pieces)
    whole = tiny.encode_token_ids([tokens])[0]
    row_of = np.cumsum(tokens.keep) - 1
    for place, (_, rows) in zip(places, found, strict=True):
        own = [row_of[n] for n in place if tokens.keep[n]]
        head = [row_of[n] for n in range(places[0][0]) if tokens.keep[n]]
        tail = [row_of[n] for n in range(places[-1][-1] + 1, len(tokens.ids)) if tokens.keep[n]]
        np.testing.assert_allclose(rows, whole[[*head, *own, *tail]], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 65}, "max_tokens is 65, but the model .* has only 64 positions"),
        ({"late_chunking": True, "window": 100}, "window is 100, but the model .* has only 64 positions"),
        ({"late_chunking": True, "window": 30}, "window is 30, expected more than the 40 tokens of one passage"),
        ({"late_chunking": True}, "window is 40, expected more than the 40 tokens of one passage"),
        ({"max_tokens": 10}, "Passages of 10 tokens have room for 7 .*, expected at least 8"),
        ({"overlap": 20}, "expected at least 40: twice the overlap"),
        ({"late_chunking": True, "overlap": 4}, "late_chunking and overlap were both asked for"),
        ({"late_chunking": True, "context": True}, "late_chunking and context were both asked for"),
        ({"window": 40}, "window is 40, which is for late_chunking alone"),
        ({"overlap": -1}, "overlap is -1, expected 0 to 65536"),
        ({"overlaps": 1}, "passages has 'overlaps', expected only max_tokens, "),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_is_pinned(
    path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Index.open(path, model=TINY, passages=settings)
    with Index.open(path, model=TINY) as index:
        assert index.passage_settings == PassageSettings()


@pytest.mark.parametrize(
    ("passages", "message"),
    [
        ({"overlap": True}, "overlap is True, expected a whole number"),
        ({"context": 1}, "context is 1, expected True or False"),
        (3, "passages is int, expected PassageSettings"),
    ],
)
def test_settings_of_the_wrong_type_are_refused(path: Path, passages: object, message: str) -> None:
    with pytest.raises(InputTypeError, match=message):
        Index.open(path, model=TINY, passages=passages)  # type: ignore[arg-type]


def test_an_encoder_of_the_users_has_no_such_settings(path: Path) -> None:
    with pytest.raises(InputError, match="passages was given settings, but the model passed is an object"):
        Index.open(path, model=SplittingEncoder(), passages={"overlap": 4})
    with pytest.raises(InputError, match="with split_documents=False they are not"):
        Index.open(path, model=TINY, split_documents=False, passages={"overlap": 4})
    with Index.open(path, model=SplittingEncoder(), passages=PassageSettings()) as index:
        index.add([{"id": "a", "text": "# One two three. Four five six seven eight nine ten.", "kind": "markdown"}])
        assert index.stats().passages == 2


# In the file


def test_settings_are_pinned_and_kept_by_reencode(path: Path) -> None:
    settings = {"max_tokens": 32, "overlap": 6, "structure": True}
    with Index.open(path, model=TINY, passages=settings) as index:
        index.add([{"id": "a", "text": MARKDOWN, "kind": "markdown", "title": "Cellar"}])
        before = index.stats()
    with Index.open(path, passages={"overlap": 6}) as index:
        assert index.stats().passage_settings == before.passage_settings
        assert index.passage_settings == PassageSettings(**settings)  # type: ignore[arg-type]
    with pytest.raises(StoreMismatchError, match=r"was made with passages = .*reencode"):
        Index.open(path, passages={"overlap": 7})
    assert reencode(path) == 1
    with Index.open(path) as index:
        assert index.stats().passages == before.passages
        assert index.verify().problems == ()
    reencode(path, passages={"overlap": 0, "context": True})
    with Index.open(path) as index:
        assert index.passage_settings == PassageSettings(max_tokens=32, structure=True, context=True)
        assert index.get("a") == index.get("a")
        assert index.verify().problems == ()


def test_a_file_that_says_nothing_is_split_as_before(path: Path) -> None:
    with Index.open(path, model=TINY) as index:
        index.add([{"id": "a", "text": MARKDOWN, "kind": "markdown"}, {"id": "b", "text": MARKDOWN}])
        encoder = Encoder.load(TINY)
        assert index.stats().passages == 2 * len(encoder.split(MARKDOWN))
    with sqlite3.connect(path) as connection:
        (settings,) = connection.execute("SELECT settings FROM encodings").fetchone()
    assert "passages" not in json.loads(settings)
    connection.close()


@pytest.mark.parametrize(
    "settings", [{"overlip": 4}, 3, [], {"overlap": -1}, {"window": 9}, {"context": 1}, {"max_tokens": 10**9}, {"": 1}]
)
def test_settings_of_a_later_version_are_refused(path: Path, settings: object) -> None:
    Index.open(path, model=TINY, passages={"overlap": 4}).close()
    _pin(path, settings)
    with pytest.raises(StoreFormatError, match="makes passages in a way that this version"):
        Index.open(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 65_536}, "max_tokens is 65536, but the model 'tiny' has only 64 positions"),
        ({"late_chunking": True, "max_tokens": 20, "window": 65_536}, "window is 65536, but the model"),
    ],
)
def test_what_somebody_put_into_a_file_is_refused_before_it_is_done(
    path: Path, settings: dict[str, object], message: str
) -> None:
    with Index.open(path, model=TINY) as index:
        index.add([{"id": "a", "text": PROSE}])
    _pin(path, settings)
    with Index.open(path, model=TINY) as index:
        (hit,) = index.search("thing", k=1)
        with pytest.raises(InputError, match=message):
            index.add([{"id": "b", "text": PROSE + "!"}])
        with pytest.raises(InputError, match=message):
            hit.explain()
    with pytest.raises(InputError, match=message):
        reencode(path)
    assert reencode(path, passages=PassageSettings()) == 1


def _pin(path: Path, passages: object) -> None:
    """Write settings of passages into a file, as somebody else may have."""
    connection = sqlite3.connect(path)
    with connection:
        (settings,) = connection.execute("SELECT settings FROM encodings").fetchone()
        settings = json.dumps(json.loads(settings) | {"passages": passages})
        connection.execute("UPDATE encodings SET settings = ?", (settings,))
    connection.close()


def test_the_same_text_has_other_passages_under_another_title_or_of_another_kind(path: Path) -> None:
    records = [
        {"id": "plain", "text": MARKDOWN},
        {"id": "again", "text": MARKDOWN, "kind": "text"},
        {"id": "markdown", "text": MARKDOWN, "kind": "markdown"},
        {"id": "titled", "text": MARKDOWN, "kind": "markdown", "title": "Cel/lar\0 “x”"},
    ]
    with Index.open(path, model=TINY, passages={"structure": True, "context": True}) as index:
        report = index.add(records)
        assert (report.added, report.encoded) == (4, 3)
        assert index.add(records).unchanged == 4
        found = {name: dict(index.get(name) or {}) for name in index.ids()}
        assert found["plain"] == {"id": "plain", "text": MARKDOWN, "metadata": {}}
        assert found["again"].get("kind") is None
        assert found["titled"]["title"] == "Cel/lar\0 “x”"
        assert found["titled"]["kind"] == "markdown"
        assert index.verify().problems == ()
        # What `get` gives is what `add` takes.
        assert index.add([index.get(name) or "" for name in index.ids()]).unchanged == 4
        assert index.delete(["markdown"]) == 1
        assert index.verify().problems == ()


def test_a_damaged_key_is_found(path: Path) -> None:
    with Index.open(path, model=TINY) as index:
        index.add([{"id": "a", "text": "x", "kind": "code"}])
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE contents SET hash = replace(hash, '/code/', '/clay/')")
    connection.close()
    with Index.open(path) as index:
        assert index.verify().problems
        with pytest.raises(StoreFormatError, match="'a' is damaged"):
            index.get("a")
    with pytest.raises(StoreFormatError, match="is no key of a text"):
        reencode(path, passages={"structure": True})


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        ({"text": "x", "kind": "latin"}, InputError, "kind is 'latin', expected one of text, markdown, code"),
        ({"text": "x", "kind": ["text"]}, InputError, "kind is .*, expected one of"),
        ({"text": "x", "title": 3}, InputTypeError, "title is int, expected a string"),
        ({"text": "x", "title": "\ud800"}, InputError, "title has a lone surrogate"),
        ({"text": "x", "title": "x" * 20_000}, InputError, "title has 20000 bytes, expected at most 16384"),
    ],
)
def test_a_wrong_kind_or_title_is_refused(record: dict[str, object], error: type[Exception], message: str) -> None:
    with Index.open(":memory:", model=WordEncoder()) as index, pytest.raises(error, match=message):
        index.add([record])


# Searching

WORDS = [f"w{n}" for n in range(9)]


def _brute_force(index: Index, encoder: SplittingEncoder, query: str) -> list[tuple[float, str, int, int]]:
    vectors = index.encode_queries([query])[0]
    found = []
    for name in index.ids():
        text = (index.get(name) or {})["text"]
        for start, end in encoder.split(text):
            score = maxsim_packed([vectors], [quantize(encoder.encode_documents([text[start:end]])[0], 8)])[0, 0]
            found.append((-float(score), name, start, end))
    return sorted(found)


@given(
    texts=st.lists(st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join), min_size=1, max_size=8),
    query=st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join),
    k=st.integers(1, 12),
)
def test_passages_and_documents_are_ranked_as_by_brute_force(texts: list[str], query: str, k: int) -> None:
    encoder = SplittingEncoder(room=5)
    with Index.open(":memory:", model=encoder) as index:
        index.add([{"id": f"d{n}", "text": text} for n, text in enumerate(texts)])
        expected = _brute_force(index, encoder, query)
        hits = index.search(query, k=k, exact=True, group="passage")
        assert [(-hit.score, hit.id, hit.passage.start, hit.passage.end) for hit in hits] == expected[:k]
        for hit in index.search(query, k=k, exact=True, passages_per_document=3):
            own = [(-score, start, end) for score, name, start, end in expected if name == hit.id]
            assert [(p.score, p.start, p.end) for p in hit.passages] == own[:3]
            assert hit.passage == hit.passages[0]
            assert hit.score == hit.passage.score
        plain = index.search(query, k=k, exact=True)
        assert [(h.id, h.score) for h in plain] == [
            (h.id, h.score) for h in index.search(query, k=k, exact=True, passages_per_document=3)
        ]
        assert all(hit.passages == (hit.passage,) for hit in plain)


def test_passages_come_through_filters_and_the_first_stage() -> None:
    encoder = SplittingEncoder(room=4)
    with Index.open(":memory:", model=encoder) as index:
        index.add(
            [
                {"id": f"d{n}", "text": f"red kettle {n}. blue cup {n}. red kettle.", "metadata": {"even": n % 2 == 0}}
                for n in range(40)
            ]
        )
        hits = index.search("red kettle", k=100, group="passage", filter={"even": True}, exact=True)
        assert len(hits) == sum(len(encoder.split((index.get(f"d{n}") or {})["text"])) for n in range(0, 40, 2))
        assert {int(hit.id[1:]) % 2 for hit in hits} == {0}
        narrow = index.search("red kettle", k=6, group="passage", n_candidates=3)
        assert len(narrow) == 6
        assert len({hit.id for hit in narrow}) <= 3


def test_documents_with_the_same_text_each_have_all_its_passages() -> None:
    with Index.open(":memory:", model=SplittingEncoder(room=2)) as index:
        index.add([{"id": name, "text": "red kettle. red kettle."} for name in ("b", "a")])
        hits = index.search("red", k=9, group="passage")
    assert [(hit.id, hit.passage.start) for hit in hits] == [("a", 0), ("a", 12), ("b", 0), ("b", 12)]


def test_wrong_groupings_are_refused() -> None:
    with Index.open(":memory:", model=WordEncoder()) as index:
        with pytest.raises(InputError, match="group is 'page', expected 'document' or 'passage'"):
            index.search("x", group="page")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="passages_per_document is 2, but with group='passage'"):
            index.search("x", group="passage", passages_per_document=2)
        with pytest.raises(InputError, match="passages_per_document is 0, expected at least 1"):
            index.search("x", passages_per_document=0)


def test_neighbours_are_the_passages_around() -> None:
    with Index.open(":memory:", model=SplittingEncoder(room=2)) as index:
        index.add([{"id": "a", "text": "one two. three four. five six. seven eight."}])
        (hit,) = index.search("three", k=1)
        assert [p.text for p in index.neighbours(hit)] == ["one two.", "three four.", "five six."]
        assert index.neighbours(hit, before=0, after=0) == [hit.passage]
        assert [p.text for p in index.neighbours(hit, before=9, after=9)][-1] == "seven eight."
        for wrong, error in (({"before": -1}, InputError), ({"after": 1.5}, InputTypeError)):
            with pytest.raises(error):
                index.neighbours(hit, **wrong)  # type: ignore[arg-type]
        with pytest.raises(InputTypeError, match="hit is str"):
            index.neighbours("a")  # type: ignore[arg-type]
        index.add([{"id": "a", "text": "one two. three four. five six. nine ten."}])
        with pytest.raises(InputError, match=r"has no passage at .* any more"):
            index.neighbours(hit)
        index.delete(["a"])
        with pytest.raises(InputError, match=r"has no passage at .* any more"):
            index.neighbours(hit)


# The command line


def test_sources_say_kind_and_title_where_they_are_asked_to(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("intro\n\n# The *first* heading\n\ntext\n")
    (folder / "b.txt").write_text("plain\n")
    (folder / "c.jsonl").write_text(
        '{"id": "1", "title": "Blue", "text": "cup", "format": "markdown"}\n'
        '{"id": "2", "text": "x", "kind": "invoice"}\n'
    )
    (tmp_path / "tool.py").write_text("def f():\n    return 1\n")
    sources = open_sources([str(folder), str(tmp_path / "tool.py")])
    found = {record["id"]: record for source in sources for record in map(described, source.read(Reading()))}
    assert {name: (record.get("kind"), record.get("title")) for name, record in found.items()} == {
        "a.md": ("markdown", "The first heading"),
        "b.txt": (None, "b"),
        "1": ("markdown", "Blue"),
        "2": (None, None),
        "tool.py": ("code", "tool.py"),
    }
    page = {"text": "x", "kind": "markdown", "title": "Read", "metadata": {"title": "Said", "path": "a/page.html"}}
    assert described(page) == page
    assert described(page | {"title": " ", "kind": "invoice"}) == {"text": "x", "title": "Said"} | {
        "metadata": page["metadata"]
    }
    assert all("kind" not in record for source in sources for record in source.read(Reading()))


def test_the_command_line_has_passages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.md").write_text(MARKDOWN)
    database = str(tmp_path / "x.db")
    options = ["--db", database, "--model", str(TINY)]
    assert main(["index", str(tmp_path / "a.md"), *options, "--structure", "--overlap", "0", "--min-tokens", "0"]) == 0
    capsys.readouterr()
    assert main(["search", "valve", "--db", database, "--passages", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert len(hits) > 2
    assert {hit["id"] for hit in hits} == {"a.md"}
    assert main(["search", "valve", "--db", database, "--per-document", "2", "--json"]) == 0
    (hit,) = json.loads(capsys.readouterr().out)["hits"]
    assert len(hit["passages"]) == 2
    assert hit["passages"][0] | {"score": 0} == hit["passage"] | {"score": 0}
    assert main(["search", "valve", "--db", database, "--neighbours", "1", "--json", "-k", "1"]) == 0
    (hit,) = json.loads(capsys.readouterr().out)["hits"]
    assert 2 <= len(hit["neighbours"]) <= 3
    assert hit["passage"] in [{"start": near["start"], "end": near["end"]} for near in hit["neighbours"]]
    assert main(["search", "valve", "--db", database, "--neighbours", "1", "--highlight", "-k", "1"]) == 0
    shown = capsys.readouterr().out.splitlines()[1:]
    assert len(shown) == len(hit["neighbours"])
    assert sum("**" in line for line in shown) <= 1
    assert main(["reencode", "--db", database, "--no-structure", "--context", "--json"]) == 0
    stored = json.loads(capsys.readouterr().out)["passage_settings"]
    assert (stored["structure"], stored["context"], stored["min_tokens"]) == (False, True, 0)
    assert main(["search", "valve", "--db", database, "--passages", "--per-document", "2"]) == 1
    assert "passages_per_document is 2" in capsys.readouterr().err


def test_a_document_that_fits_with_its_context_is_one_passage(tiny: Encoder) -> None:
    text = "Blue cup. Red kettle. The old boiler"
    room = tiny.tokenizer.document_room
    for title, n_passages in (("Blue cup.", 1), ("A title of its own that is long", 2)):
        planner = PassagePlanner(tiny, PassageSettings(max_tokens=0, context=True))
        padded = text
        while tiny.tokenizer.count([padded + " x"])[0] <= room:
            padded += " x"
        assert len(planner.split(Text(padded, title=title))) == n_passages

"""Everything an index does, with documents that have kinds and titles and passages made with structure and context."""

from __future__ import annotations

import gzip
import re
import zlib
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_database import raw
from test_explanation import check, with_prompts

from edgecolbert import Encoder, Index, PassageSettings, recover, reencode
from edgecolbert.content_keys import content_key, read_content_key
from edgecolbert.documents import is_sound_text, read_record
from edgecolbert.errors import InputError, StoreFormatError
from edgecolbert.pages import PageFile
from edgecolbert.passage_plans import PassagePlanner
from edgecolbert.passages import Text

TINY = Path(__file__).parent / "fixtures" / "tiny-model"
PAGE = 4_096

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "structure": {"structure": True, "max_tokens": 32, "min_tokens": 0},
    "overlap": {"structure": True, "max_tokens": 32, "overlap": 10},
    "context": {"structure": True, "context": True, "max_tokens": 40, "min_tokens": 0, "overlap": 8},
    "late": {"structure": True, "late_chunking": True, "max_tokens": 20, "window": 48, "min_tokens": 0},
}
ALL = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)

MARKDOWN = (
    "# Boiler\n\nCheck the *pressure* of the water, once a week. Then check it again.\n\n## Bleeding\n\n"
    + "Open each valve; wait. A red kettle helps. " * 5
    + "\n\n| part | price |\n|---|---|\n| valve | 3 |\n| kettle | 20 |\n\n```\nkettle --red\n```\n"
)
CODE = "import kettle\n\n\ndef red(n):\n    return kettle.boil(n)\n\n\ndef blue():\n    # the cat\n    return 3\n" * 3
PROSE = " ".join(f"Sentence number {n} is about a red kettle or a cat." for n in range(12))
RECORDS: list[dict[str, Any]] = [
    {"id": "plain", "text": MARKDOWN, "metadata": {"n": 1}},
    {"id": "markdown", "text": MARKDOWN, "kind": "markdown", "metadata": {"n": 2}},
    {"id": "titled", "text": MARKDOWN, "kind": "markdown", "title": "The old kettle / its “valves”"},
    {"id": "nul", "text": MARKDOWN, "kind": "markdown", "title": "Cellar\0 ☃ İ\u0308"},
    {"id": "code", "text": CODE, "kind": "code", "title": "kettle.py"},
    {"id": "prose", "text": PROSE, "title": "Cats, and kettles"},
    {"id": "short", "text": "A cat.", "title": "A cat."},
    {"id": "empty", "text": "", "title": "Nothing"},
    {"id": "blank", "text": " \n ", "kind": "code"},
]
QUERIES = ["where is the red kettle?", "valves in the cellar", "cat"]


@cache
def tiny() -> Encoder:
    return Encoder.load(TINY, threads=1)


def fill(path: str | Path, settings: dict[str, Any], **options: Any) -> Index:
    index = Index.open(path, model=TINY, passages=settings, **options)
    index.add_from("shelf", RECORDS)
    return index


def results(index: Index, **options: Any) -> list[list[tuple[str, float, int, int]]]:
    """What searches find, passage by passage."""
    return [
        [(hit.id, hit.score, hit.passage.start, hit.passage.end) for hit in found]
        for found in index.search_many(QUERIES, k=100, exact=True, group="passage", **options)
    ]


def check_same(index: Index, before: list[list[tuple[str, float, int, int]]]) -> None:
    assert index.verify().problems == ()
    assert index.verify(full=False).problems == ()
    assert results(index) == before
    expected = {record["id"]: read_record(record, 0) for record in RECORDS}
    for name in index.ids():
        document = index.get(name)
        assert document is not None
        assert read_record(document, 0) == expected[name]


# Which passages there are


@given(
    words=st.lists(st.sampled_from(["cat", "kettle", "red.", "the", "\n", "\n\n", "# Cat", "-", "    x", "```", "|"])),
    kind=st.sampled_from(["text", "markdown", "code"]),
    name=st.sampled_from(sorted(SETTINGS)),
    title=st.sampled_from([None, "A cat", "The title of a document that is rather long, for a title"]),
)
def test_passages_have_every_token_of_a_text_at_its_offsets(
    words: list[str], kind: str, name: str, title: str | None
) -> None:
    encoder = tiny()
    document = Text(" ".join(words), kind, title)
    planner = PassagePlanner(encoder, PassageSettings(**SETTINGS[name]))
    spans = planner.split(document)
    arrays = list(planner.encode([(document, spans)]))
    covered: set[int] = set()
    for number, (start, end) in enumerate(spans):
        planned = planner.passage(document, spans, number)
        assert len(planned.places) == len(planned.rows) == len(arrays[number])
        for place in planned.places:
            assert (place.start is not None) == (place.kind == "text")
            if place.start is not None and place.end is not None:
                assert start <= place.start < place.end <= end
                assert place.text == document.text[place.start : place.end]
                covered.update(range(place.start, place.end))
        ids = planned.tokens.ids[planned.rows].tolist()
        assert [place.id for place in planned.places] == ids
    skipped = set(encoder.manifest.encoding.skiplist_ids)
    wanted = [place for place in encoder.tokenizer.part_places(document.text) if place.id not in skipped]
    assert {n for place in wanted for n in range(place.start or 0, place.end or 0)} <= covered
    assert spans == sorted(spans)


def test_a_passage_alone_has_the_models_own_tokens_with_prompts_too() -> None:
    for encoder in (tiny(), with_prompts(TINY), Encoder(with_prompts(TINY).manifest, special_tokens="literal")):
        planner = PassagePlanner(encoder, PassageSettings(max_tokens=38))
        document = Text(PROSE)
        spans = planner.split(document)
        for number, (start, end) in enumerate(spans):
            planned = planner.passage(document, spans, number)
            alone = encoder.document_tokens(PROSE[start:end])
            assert [place._replace(start=None, end=None) for place in planned.places] == [
                place._replace(start=None, end=None) for place in alone
            ]


@pytest.mark.parametrize("settings", [SETTINGS["context"] | {"overlap": 0}, SETTINGS["late"]], ids=["context", "late"])
@pytest.mark.parametrize("literal", [False, True])
def test_prompts_are_put_before_joined_parts(settings: dict[str, Any], literal: bool) -> None:
    encoder = with_prompts(TINY)
    if literal:
        encoder = Encoder(encoder.manifest, special_tokens="literal")
    settings = settings | {"max_tokens": settings["max_tokens"] + 8}
    planner = PassagePlanner(
        encoder, PassageSettings(**settings | {"window": 60 if "late_chunking" in settings else 0})
    )
    document = Text(MARKDOWN, "markdown", "Cellar")
    spans = planner.split(document)
    for number in range(len(spans)):
        places = planner.passage(document, spans, number).places
        assert [place.kind for place in places[:2]] == ["special", "prefix"]
        assert places[2].kind == "prompt"
        joined = [place for place in places if place.kind == "text"]
        assert all(a.end <= b.start for a, b in pairwise(joined))  # type: ignore[operator]


# Why they matched


@ALL
@pytest.mark.parametrize("tokens", [{}, {"bits": 4, "pool_factor": 2}], ids=["all", "pooled"])
def test_what_was_found_is_explained_in_the_documents_own_text(
    settings: dict[str, Any], tokens: dict[str, int]
) -> None:
    with fill(":memory:", settings, tokens=tokens) as index:
        kinds: set[str] = set()
        for query in QUERIES:
            hits = index.search(query, k=200, group="passage")
            assert len(hits) == index.stats().passages > len(RECORDS)
            for hit in hits[::4]:
                explanation = hit.explain()
                check(hit, explanation)
                kinds |= {token.kind for group in explanation.groups for token in group}
                for mark in explanation.highlights():
                    assert hit.passage.start <= mark.start < mark.end <= hit.passage.end
                snippet = hit.snippet(60)
                assert snippet.text == hit.text[snippet.start : snippet.end]
                assert hit.passage.start <= snippet.start <= snippet.end <= hit.passage.end
    assert ("context" in kinds) == bool(settings.get("context"))


def test_words_of_a_carried_title_are_named_and_never_marked() -> None:
    # Nothing in the text is the title's, so whatever "kettle" found is not in the text.
    text = "## Pressure\n\n" + "Look at the gauge once a week. " * 6
    with Index.open(":memory:", passages=SETTINGS["context"]) as index:
        index.add([{"id": "a", "text": text, "kind": "markdown", "title": "A kettle"}])
        hits = index.search("kettle", group="passage")
        assert len(hits) > 1
        for hit in hits:
            explanation = hit.explain()
            won = [match.document for match in explanation.matches if match.query.text == "kettle"]
            carried = {token.text for group in explanation.groups for token in group if token.kind == "context"}
            assert "kettle" in carried
            assert [token and token.kind for token in won] == ["context"]
            assert all(explanation.text[mark.start : mark.end] != "kettle" for mark in explanation.highlights())
            assert "kettle" not in explanation.snippet().html()
            assert "(context)" in explanation.to_html()


# Kept, moved, made again


@ALL
def test_a_dump_carries_kinds_and_titles(settings: dict[str, Any], path: Path, tmp_path: Path) -> None:
    with fill(path, settings) as index:
        before = results(index)
        assert index.dump(tmp_path / "all.jsonl.gz") == len(RECORDS)
    lines = gzip.decompress((tmp_path / "all.jsonl.gz").read_bytes()).decode().splitlines()
    assert sum('"title":' in line for line in lines) == sum("title" in record for record in RECORDS)
    for reencoded in (False, True):
        new = tmp_path / f"{reencoded}.db"
        with Index.load(tmp_path / "all.jsonl.gz", new, model=TINY, reencode=reencoded) as loaded:
            check_same(loaded, before)
            assert loaded.stats().passage_settings == PassageSettings(**settings).to_json()
            assert loaded.add(RECORDS).unchanged == len(RECORDS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"kind":"code"', '"kind":"clay"'), "kind is 'clay', expected one of"),
        (('"title":"kettle.py"', '"title":3'), "title is int, expected a string"),
        (('"title":"kettle.py"', '"titel":"kettle.py"'), "has the keys .*and perhaps"),
        (('"structure":true', '"structure":1'), "makes passages in a way that this version"),
    ],
)
def test_a_wrong_kind_title_or_setting_in_a_dump_is_refused(
    path: Path, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    with fill(path, SETTINGS["structure"]) as index:
        index.dump(tmp_path / "all.jsonl")
    lines = []
    for line in (tmp_path / "all.jsonl").read_text().splitlines():
        content = line.rpartition(',"crc32":')[0].replace(*change)
        lines.append(f'{content},"crc32":"{zlib.crc32(content.encode()):08x}"}}\n')
    (tmp_path / "all.jsonl").write_text("".join(lines))
    with pytest.raises((InputError, StoreFormatError), match=message):
        Index.load(tmp_path / "all.jsonl", tmp_path / "new.db", model=TINY)


@ALL
def test_repairs_give_the_same_passages_again(settings: dict[str, Any], path: Path, tmp_path: Path) -> None:
    with fill(path, settings) as index:
        before = results(index)
        index.backup(tmp_path / "copy.db")
    report = recover(path, tmp_path / "sound.db", model=TINY)
    assert (report.complete, report.encoded, report.documents) == (True, 0, len(RECORDS))
    with Index.open(tmp_path / "sound.db") as index:
        check_same(index, before)
    with Index.open(tmp_path / "copy.db") as index:
        check_same(index, before)
    with raw(path) as connection:
        connection.execute("UPDATE passages SET scale = 2 * scale")
    report = recover(path, tmp_path / "new.db", model=TINY)
    assert report.encoded == len(RECORDS)
    with Index.open(tmp_path / "new.db") as index:
        check_same(index, before)
    with Index.open(path) as index:
        assert index.verify().problems
        assert index.repair().encoded == len(RECORDS)
        check_same(index, before)


def test_texts_without_documents_are_kept_with_kind_and_title(path: Path, tmp_path: Path) -> None:
    with fill(path, SETTINGS["context"]) as index:
        keys = {read_record(record, 0).hash for record in RECORDS}
    with PageFile(path) as file:
        roots = file.schema()
        leaves = [page for page in file.tree_pages(roots["documents"]) if file.holds_rows(page)]
        inner = [roots["sqlite_autoindex_documents_1"], roots["documents_by_content"]]
    content = bytearray(path.read_bytes())
    for page in (*leaves, *inner):
        content[(page - 1) * PAGE : page * PAGE] = bytes(PAGE)
    path.write_bytes(content)
    report = recover(path, tmp_path / "new.db", model=TINY, keep_texts=True)
    assert report.documents == len(keys)
    with Index.open(tmp_path / "new.db") as index:
        found = [index.get(name) for name in index.ids()]
        assert {read_record(document, 0).hash for document in found} == keys
        assert index.verify().problems == ()
        assert sum(re.fullmatch("[0-9a-f]{64}", name) is not None for name in index.ids()) == len(
            {key.partition("/")[0] for key in keys}
        )


@pytest.mark.parametrize(
    "change",
    ["replace(hash, '/markdown/', '/clay/')", "hash || 'x'", "substr(hash, 2)", "CAST(hash AS BLOB)", "hash || '/'"],
)
def test_a_damaged_key_is_found_and_passed_over(path: Path, tmp_path: Path, change: str) -> None:
    with fill(path, SETTINGS["structure"]):
        pass
    with raw(path) as connection:
        key = read_record(RECORDS[2], 0).hash
        connection.execute(f"UPDATE contents SET hash = {change} WHERE hash = ?", (key,))
    with Index.open(path) as index:
        assert any("titled" in problem.ids for problem in index.verify().problems)
        with pytest.raises(StoreFormatError, match="'titled' is damaged"):
            index.get("titled")
        assert index.get("markdown") is not None
        assert "titled" in index.repair().lost
        with pytest.raises(StoreFormatError, match="'titled' is damaged"):
            index.dump(tmp_path / "all.jsonl")
    report = recover(path, tmp_path / "new.db", model=TINY)
    assert report.lost == ("titled",)
    with Index.open(tmp_path / "new.db") as index:
        assert set(index.ids()) == {record["id"] for record in RECORDS} - {"titled"}
        assert index.verify().problems == ()


@ALL
def test_reencoding_makes_what_a_new_file_has(settings: dict[str, Any], path: Path, tmp_path: Path) -> None:
    with fill(tmp_path / "direct.db", settings) as index:
        expected = results(index)
    with fill(path, SETTINGS["plain"]):
        pass
    reencode(path, passages=PassageSettings(**settings))
    with Index.open(path) as index:
        check_same(index, expected)


# Words


@ALL
def test_words_and_both_find_documents_of_every_kind(settings: dict[str, Any], path: Path) -> None:
    with fill(path, settings) as index:
        twins = {"plain", "markdown", "titled", "nul"}
        assert {hit.id for hit in index.search("bleeding", mode="lexical")} == twins
        for hit in index.search("kettle", mode="lexical", passages_per_document=3):
            assert 1 <= len(hit.passages) <= 3
            assert hit.passage == hit.passages[0]
            assert all(passage.score is None for passage in hit.passages)
            assert "kettle" in hit.passage.text.lower()
            counts = ["kettle" in passage.text.lower() for passage in hit.passages]
            assert counts == sorted(counts, reverse=True)
        late = {hit.id: hit for hit in index.search("red kettle", exact=True, passages_per_document=3, k=20)}
        for hit in index.search("red kettle", mode="hybrid", exact=True, passages_per_document=3, k=20):
            assert hit.passages == late[hit.id].passages
            assert [p.score for p in hit.passages] == [p.score for p in late[hit.id].passages]
            check_late = hit.explain()
            assert check_late.score == pytest.approx(hit.passage.score, abs=1e-4)
        assert index.delete(["plain"]) == 1
        index.compact()
        assert {hit.id for hit in index.search("bleeding", mode="lexical")} == twins - {"plain"}
        assert index.verify().problems == ()
        index.rebuild_lexical()
        assert index.verify().problems == ()
        assert {hit.id for hit in index.search("bleeding", mode="lexical")} == twins - {"plain"}


@pytest.mark.parametrize("fusion", ["weighted", "rrf"])
def test_both_rank_passages_by_their_own_maxsim_and_the_words_of_their_text(fusion: Any) -> None:
    with fill(":memory:", SETTINGS["structure"]) as index:
        late = {
            (hit.id, hit.passage.start): hit.score
            for hit in index.search("red kettle", k=200, exact=True, group="passage")
        }
        hits = index.search("red kettle", k=200, exact=True, group="passage", mode="hybrid", fusion=fusion)
        assert len(hits) == len(late)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        for hit in hits:
            assert hit.passage.score == late[hit.id, hit.passage.start]
            assert hit.explain().score == pytest.approx(hit.passage.score, abs=1e-4)
        for name in index.ids():
            own = [hit.passage.score or 0 for hit in hits if hit.id == name]
            assert own == sorted(own, reverse=True)
        assert [hit.id for hit in hits[:3]] == [
            hit.id for hit in index.search("red kettle", k=3, group="passage", mode="hybrid", exact=True, fusion=fusion)
        ]
        with pytest.raises(InputError, match="mode='lexical' ranks whole texts"):
            index.search("red kettle", mode="lexical", group="passage")


def test_filters_and_damaged_documents_leave_the_other_passages(path: Path) -> None:
    with fill(path, SETTINGS["structure"]) as index:
        for mode in ("late", "hybrid"):
            hits = index.search("kettle", k=100, group="passage", filter={"n": 2}, mode=mode)  # type: ignore[arg-type]
            assert {hit.id for hit in hits} == {"markdown"}
            assert len(hits) > 3
        every = index.search("kettle", k=500, group="passage")
    with raw(path) as connection:
        connection.execute("UPDATE documents SET metadata = '{}' WHERE id = 'markdown'")
    with Index.open(path, on_damage="skip") as index:
        left = [(hit.id, hit.passage) for hit in every if hit.id != "markdown"]
        with pytest.warns(match="markdown"):
            hits = index.search("kettle", k=len(left), group="passage")
        assert [(hit.id, hit.passage) for hit in hits] == left


# Keys


@given(title=st.none() | st.text(), kind=st.sampled_from([None, "markdown", "code"]), text=st.text())
def test_a_key_says_what_was_put_into_it(title: str | None, kind: str | None, text: str) -> None:
    try:
        record = read_record({"text": text, "title": title, "kind": kind}, 0)
    except InputError:
        return  # a lone surrogate
    words = " ".join(title.split()) if title else ""
    digest, found_kind, found_title = read_content_key(record.hash)
    assert (found_kind, found_title) == (kind, words or None)
    assert record.hash == content_key(digest, kind, words or None)
    assert record.hash.isascii()
    assert "\0" not in record.hash
    assert is_sound_text(text.encode(), record.hash)
    assert not is_sound_text(text.encode() + b"x", record.hash)


@pytest.mark.parametrize("key", ["", "x", "0" * 64 + "/", "0" * 64 + "/text", "0" * 64 + '/text/"', None, b"x", 3])
def test_no_text_matches_what_is_no_key(key: object) -> None:
    assert not is_sound_text(b"x", key)
    assert not is_sound_text(None, key)

"""What a search finds: exact and in two stages, with filters, ties and several queries."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from word_encoder import DIM, SplittingEncoder, WordEncoder

from edgecolbert import FdeSettings, Index, InputError, MuveraSettings, maxsim
from edgecolbert.codec import quantize
from edgecolbert.errors import InputTypeError

WORDS = [f"word{n}" for n in range(60)]


def _corpus(n_documents: int, seed: int = 0) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return [
        {"id": f"d{n:04}", "text": " ".join(generator.choice(WORDS, generator.integers(1, 12))), "metadata": {"n": n}}
        for n in range(n_documents)
    ]


def _expected(encoder: WordEncoder, corpus: list[dict[str, Any]], query: str) -> list[tuple[str, float]]:
    """Scores of the stored embeddings, by the plain formula."""
    vectors = encoder.encode_queries([query])[0]
    rows = encoder.encode_queries([document["text"] for document in corpus])
    scores = [
        (document["id"], maxsim(vectors, quantize(array).to_float()))
        for document, array in zip(corpus, rows, strict=True)
    ]
    return sorted(scores, key=lambda pair: (-pair[1], pair[0]))


@pytest.fixture
def corpus() -> list[dict[str, Any]]:
    return _corpus(120)


@pytest.fixture
def index(encoder: WordEncoder, corpus: list[dict[str, Any]]) -> Any:
    with Index.open(":memory:", model=encoder) as opened:
        opened.add(corpus)
        yield opened


def test_an_exact_search_ranks_by_maxsim_of_the_stored_embeddings(
    index: Index, encoder: WordEncoder, corpus: list[dict[str, Any]]
) -> None:
    for query in ("word1 word2 word3", "word9", "word7 unknown"):
        expected = _expected(encoder, corpus, query)
        hits = index.search(query, k=len(corpus), exact=True)
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], abs=1e-4)
        assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.id))
        assert {hit.id for hit in hits} == {document["id"] for document in corpus}


def test_two_stages_with_every_document_a_candidate_equal_the_exact_search(index: Index) -> None:
    for query in ("word1 word2 word3", "word9 word10", ""):
        exact = index.search(query, k=200, exact=True)
        both = index.search(query, k=200, n_candidates=500)
        assert [hit.score for hit in both] == pytest.approx([hit.score for hit in exact], abs=1e-4)
        assert {hit.id for hit in both} == {hit.id for hit in exact}


def test_a_small_collection_is_searched_exactly_by_default(index: Index) -> None:
    assert index.search("word1 word2") == index.search("word1 word2", exact=True)


def test_embeddings_of_a_wrong_shape_are_refused_and_nothing_else_is_blamed(index: Index) -> None:
    (vectors,) = index.encode_queries(["word1 word2"])
    for search in (
        lambda query: index.ranked(query, k=3, n_candidates=20),
        lambda query: index.ranked_by_both("word1 word2", query[0], k=3, n_candidates=20),
    ):
        assert len(search([vectors])) in (1, 3)
        with pytest.raises(InputTypeError, match=rf"shape \({DIM},\), expected float32.*single query goes in a list"):
            search(vectors)
        with pytest.raises(InputTypeError, match="Query 0 is str, expected token embeddings"):
            search(["word1"])
        with pytest.raises(InputError, match=rf"Query 0 has token embeddings of {DIM - 1} numbers, the index of {DIM}"):
            search([vectors[:, 1:]])


def test_n_candidates_forces_two_stages_and_counts_documents(tmp_path: Path) -> None:
    texts = {
        "long": "alpha beta. " * 12 + "gamma delta. " * 12,
        "other": "alpha beta gamma",
        "third": "alpha beta delta",
        "far": "epsilon zeta eta",
    }
    with Index.open(tmp_path / "i.db", model=SplittingEncoder(room=4)) as index:
        index.add([{"id": name, "text": text} for name, text in texts.items()])
        assert index.stats().passages > 10
        for wanted in (1, 2, 3, 4):
            hits = index.search("alpha beta", k=10, n_candidates=wanted)
            assert len(hits) == wanted
        assert len(index.search("alpha beta", k=1, n_candidates=3)) == 1


def test_a_candidate_is_scored_by_its_best_passage_whichever_the_first_stage_found(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i.db", model=SplittingEncoder(room=4)) as index:
        index.add([{"id": "long", "text": "one two three four. alpha beta gamma delta. five six seven eight."}])
        hits = index.search("alpha beta", n_candidates=1)
        assert hits == index.search("alpha beta", exact=True)
        assert hits[0].passage.text == "alpha beta gamma delta."


def test_k_may_be_larger_than_the_collection(index: Index) -> None:
    assert len(index.search("word1", k=10_000)) == 120
    assert len(index.search("word1", k=10_000, n_candidates=10_000)) == 120
    assert len(index.search("word1", k=10_000, n_candidates=5)) == 5


def test_a_search_in_an_empty_index_finds_nothing(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        assert index.search("anything") == []
        assert index.search("anything", exact=True) == []
        assert index.search("anything", n_candidates=3) == []
        assert index.search("anything", filter={"a": 1}) == []
        assert index.search_many(["a", "b"]) == [[], []]
        assert index.search_many([]) == []


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"n_candidates": 5}])
def test_equal_scores_come_in_the_order_of_their_ids(path: Path, encoder: WordEncoder, options: dict[str, Any]) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": name, "text": "red kettle"} for name in ("b", "é", "a", "B", "c", "10", "9")])
        hits = index.search("kettle", k=4, **options)
        assert [hit.id for hit in hits] == ["10", "9", "B", "a"]


def test_several_queries_at_once_give_what_each_gives_alone(index: Index) -> None:
    queries = ["word1 word2", "", "word3", "word1 word2", "unknown"]
    for options in ({"exact": True}, {"n_candidates": 7}, {"filter": {"n": 3}}):
        together = index.search_many(queries, k=5, **options)  # type: ignore[arg-type]
        for query, hits in zip(queries, together, strict=True):
            alone = index.search(query, k=5, **options)  # type: ignore[arg-type]
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in alone], abs=1e-4)
            assert {hit.id for hit in hits} == {hit.id for hit in alone}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0, expected at least 1"),
        ({"k": -3}, "k is -3, expected at least 1"),
        ({"k": True}, "k is True, expected a whole number"),
        ({"k": 2.0}, "k is 2.0, expected a whole number"),
        ({"k": "3"}, "k is '3', expected a whole number"),
        ({"n_candidates": 0}, "n_candidates is 0, expected at least 1"),
        ({"n_candidates": 1.5}, "n_candidates is 1.5, expected a whole number"),
        ({"n_candidates": 5, "exact": True}, "exact=True scores every document; leave n_candidates out, or exact"),
        ({"filter": "n=3"}, "filter is str, expected a mapping of field names to values"),
        ({"filter": {3: 3}}, "filter has the field name 3, expected a string"),
        ({"filter": {"n": [3]}}, "filter: n is list, expected a string, a number, a boolean or None"),
        ({"filter": {"n": float("nan")}}, "filter: n is nan, and metadata cannot hold that"),
        ({"filter": {"n": 2**63}}, "filter: n is 9223372036854775808, which does not fit 64 bits"),
    ],
)
def test_wrong_options_of_a_search_are_named(index: Index, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        index.search("word1", **options)


def test_a_query_is_a_string_of_valid_unicode(index: Index) -> None:
    with pytest.raises(InputTypeError, match="query is int, expected a string"):
        index.search(7)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"query has a lone surrogate \(\\udcff\) at character 2"):
        index.search("ab\udcff")
    with pytest.raises(InputTypeError, match="queries is str, expected a list of strings"):
        index.search_many("word1")
    with pytest.raises(InputTypeError, match=r"queries\[1\] is NoneType, expected a string"):
        index.search_many(["word1", None])  # type: ignore[list-item]


def test_a_filter_selects_first_so_nothing_ranked_lower_is_missed(index: Index, corpus: list[dict[str, Any]]) -> None:
    worst = index.search("word1 word2", k=120, exact=True)[-1].id
    number = int(worst[1:])
    for options in ({}, {"exact": True}, {"n_candidates": 1}):
        hits = index.search("word1 word2", k=1, filter={"n": number}, **options)  # type: ignore[arg-type]
        assert [hit.id for hit in hits] == [worst]


def test_a_filter_that_matches_nothing_finds_nothing(index: Index) -> None:
    for options in ({}, {"exact": True}, {"n_candidates": 1}):
        assert index.search("word1", filter={"n": -1}, **options) == []  # type: ignore[arg-type]


def test_an_empty_filter_selects_every_document(index: Index) -> None:
    assert len(index.search("word1", k=200, filter={})) == 120


def test_a_filter_keeps_a_document_apart_from_others_with_its_text(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": name, "text": "red kettle", "metadata": {"owner": name}} for name in "abc"])
        for options in ({}, {"exact": True}, {"n_candidates": 1}):
            hits = index.search("kettle", filter={"owner": "b"}, **options)  # type: ignore[arg-type]
            assert [hit.id for hit in hits] == ["b"]


FILTERS: list[tuple[Any, Any, bool]] = [
    (4, 4.0, True),
    (4.0, 4, True),
    (1, True, False),
    (True, 1, False),
    (True, True, True),
    (False, False, True),
    (False, 0, False),
    (None, None, True),
    (0, None, False),
    ("", None, False),
    ("4", 4, False),
    (4, "4", False),
    ("true", True, False),
    ("null", None, False),
    ("", "", True),
    ("a\0b", "a\0b", True),
    ("a\0b", "a", False),
    ("a", "a\0b", False),
    ("É", "é", False),
    ("e\u0301", "\u00e9", False),
    ("漢字 \U0001f600", "漢字 \U0001f600", True),
    ('it\'s "quoted" \\ and\nmore\ttabs', 'it\'s "quoted" \\ and\nmore\ttabs', True),
    ("' OR 1=1 --", "' OR 1=1 --", True),
    ("x", "' OR 1=1 --", False),
    (0.1 + 0.2, 0.1 + 0.2, True),
    (0.1 + 0.2, 0.3, False),
    (2**53 + 1, float(2**53), False),
    (2**63 - 1, 2**63 - 1, True),
    (-(2**63), -(2**63), True),
    (-0.0, 0, True),
    (1e300, 1e300, True),
    (5e-324, 5e-324, True),
    ([4], "[4]", False),
    ({"a": 1}, '{"a":1}', False),
]


@pytest.mark.parametrize(("stored", "wanted", "found"), FILTERS)
def test_a_filter_compares_by_type_and_value(
    path: Path, encoder: WordEncoder, stored: Any, wanted: Any, found: bool
) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "one", "text": "red kettle", "metadata": {"field": stored}}])
        assert bool(index.search("kettle", filter={"field": wanted})) is found


@pytest.mark.parametrize(
    "name", ["a.b", "$", "$.a", "a[0]", 'a"b', "a'b", "a\\b", "a\nb", "a\0b", "", " ", "é", "\U0001f600", "a.b.c", "__"]
)
def test_a_filters_field_name_is_taken_literally(path: Path, encoder: WordEncoder, name: str) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([
            {"id": "yes", "text": "red kettle", "metadata": {name: "here"}},
            {"id": "no", "text": "red kettle", "metadata": {"a": {"b": "here"}, "other": "here"}},
        ])  # fmt: skip
        assert [hit.id for hit in index.search("kettle", filter={name: "here"})] == ["yes"]


def test_a_field_that_is_missing_is_not_null(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "missing", "text": "red"}, {"id": "null", "text": "red", "metadata": {"a": None}}])
        assert [hit.id for hit in index.search("red", filter={"a": None})] == ["null"]


def test_every_condition_of_a_filter_must_hold(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([
            {"id": "both", "text": "red", "metadata": {"a": 1, "b": "x"}},
            {"id": "one", "text": "red", "metadata": {"a": 1, "b": "y"}},
        ])  # fmt: skip
        assert [hit.id for hit in index.search("red", filter={"a": 1, "b": "x"})] == ["both"]


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, 4]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.sampled_from(["a", "a\0", "\0"]),
)


def _equal(stored: object, wanted: object) -> bool:
    if isinstance(stored, bool) or isinstance(wanted, bool) or stored is None or wanted is None:
        return stored is wanted
    return (type(stored) in (int, float) and type(wanted) in (int, float) and stored == wanted) or (
        isinstance(stored, str) and isinstance(wanted, str) and stored == wanted
    )  # fmt: skip


@given(
    stored=st.lists(st.dictionaries(st.sampled_from(["a", "b", "a\0"]), _VALUES), min_size=1, max_size=8),
    data=st.data(),
)
def test_a_filter_selects_what_plain_comparison_selects(stored: list[dict[str, Any]], data: st.DataObject) -> None:
    pool = [value for entry in stored for value in entry.values()] or [1]
    names, values = st.sampled_from(["a", "b", "a\0"]), st.one_of(st.sampled_from(pool), _VALUES)
    wanted = data.draw(st.dictionaries(names, values, max_size=2))
    expected = [
        str(n)
        for n, entry in enumerate(stored)
        if all(name in entry and _equal(entry[name], value) for name, value in wanted.items())
    ]
    with Index.open(":memory:", model=WordEncoder()) as index:
        index.add([{"id": str(n), "text": "red", "metadata": entry} for n, entry in enumerate(stored)])
        assert [hit.id for hit in index.search("red", filter=wanted)] == sorted(expected)


@pytest.mark.parametrize(
    "settings",
    [
        FdeSettings(num_cells=8),
        FdeSettings(num_cells=8, centre=True),
        FdeSettings(kind="muvera"),
        FdeSettings(kind="muvera", muvera=MuveraSettings(final_projection_dimension=2048)),
    ],
)
def test_every_first_stage_puts_the_best_documents_forward(settings: FdeSettings) -> None:
    corpus = _corpus(400, seed=3)
    with Index.open(":memory:", model=WordEncoder(), fde=settings) as index:
        index.add(corpus)
        kept = 0
        for n in range(20):
            query = corpus[n]["text"]
            best = {hit.id for hit in index.search(query, k=5, exact=True)}
            kept += len(best & {hit.id for hit in index.search(query, k=5, n_candidates=60)})
        assert kept >= 90


def test_the_first_stage_is_fitted_again_as_the_index_grows(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add(["word1", "word2 word3", "word4", "word5"])
        before = index.stats().first_stage
        index.search("word1", n_candidates=1)
        index.add(_corpus(100))
        after = index.stats().first_stage
        assert before is not None
        assert after is not None
        assert before["num_cells"] < after["num_cells"]
        assert len(index.search("word1", k=500, n_candidates=500)) == 104
        assert index.verify().problems == ()


def test_documents_without_a_single_token_can_come_first(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index:
        index.add([{"id": "empty", "text": "..."}])
        assert [hit.id for hit in index.search("red", n_candidates=5)] == ["empty"]
        index.add([{"id": "full", "text": "red kettle"}])
        assert [hit.id for hit in index.search("red", n_candidates=5)] == ["full", "empty"]
        assert index.verify().problems == ()


def test_several_threads_search_while_another_adds_and_deletes(path: Path, encoder: WordEncoder) -> None:
    failures: list[str] = []
    done = threading.Event()
    with Index.open(path, model=encoder) as index:
        index.add([{"id": f"stay{n}", "text": f"common word{n}"} for n in range(20)])

        def search() -> None:
            while not done.is_set():
                for options in ({"exact": True}, {"n_candidates": 200}):
                    hits = index.search("common", k=200, **options)  # type: ignore[arg-type]
                    names = [hit.id for hit in hits]
                    if sum(name.startswith("stay") for name in names) != 20:
                        failures.append(f"a document that stays was missing: {names}")
                    groups = {name.split("-")[0] for name in names if name.startswith("group")}
                    parts = [group for group in groups if sum(name.startswith(f"{group}-") for name in names) != 10]
                    failures.extend(f"a part of {group} was seen: {names}" for group in parts)

        threads = [threading.Thread(target=search) for _ in range(3)]
        for thread in threads:
            thread.start()
        for n in range(12):
            index.add([{"id": f"group{n}-{m}", "text": f"common extra{n} {m}"} for m in range(10)])
            if n % 3 == 2:
                index.delete([f"group{n - 1}-{m}" for m in range(10)])
        done.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert index.verify().problems == ()


def test_a_second_index_on_the_file_sees_what_the_first_commits(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as writer, Index.open(path, model=encoder, read_only=True) as reader:
        assert reader.search("kettle", n_candidates=5) == []
        writer.add([{"id": "a", "text": "red kettle"}])
        assert [hit.id for hit in reader.search("kettle", n_candidates=5)] == ["a"]
        writer.add([{"id": "b", "text": "kettle pot"}])
        assert [hit.id for hit in reader.search("kettle pot", n_candidates=5)] == ["b", "a"]
        writer.delete(["b"])
        assert [hit.id for hit in reader.search("kettle", n_candidates=5)] == ["a"]
        writer.add([{"id": f"n{n}", "text": f"pot{n}"} for n in range(50)])
        assert len(reader.search("kettle", k=100, n_candidates=100)) == 51
        writer.add([{"id": "a", "text": "blue cup"}])
        assert {hit.text for hit in reader.search("cup", k=1, n_candidates=100)} == {"blue cup"}


def test_texts_of_an_unfinished_add_are_seen_by_no_other_index(path: Path, encoder: WordEncoder) -> None:
    seen: list[int] = []
    with Index.open(path, model=encoder) as writer, Index.open(path, model=encoder) as reader:
        writer.add(["common start"])

        def look(done: int, total: int | None) -> None:
            seen.append(len(reader.search("common", k=500, n_candidates=500)))
            seen.append(len(reader.search("common", k=500, exact=True)))
            seen.append(len(reader))
            seen.append(reader.stats().documents)

        writer.add([f"common word{n}" for n in range(200)], progress=look)
        assert len(seen) >= 8
        assert set(seen) == {1}
        assert len(reader.search("common", k=500, n_candidates=500)) == 201


def test_two_writers_take_turns_and_both_are_kept(path: Path) -> None:
    errors: list[BaseException] = []

    def write(name: str) -> None:
        try:
            with Index.open(path, model=WordEncoder(), timeout=60) as index:
                for n in range(10):
                    index.add([{"id": f"{name}{n}", "text": f"shared text {n}"}, f"own {name} {n}"])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with Index.open(path, model=WordEncoder()) as index:
        assert len(index) == 60
        assert len(index.search("shared", k=100, n_candidates=100)) == 60
        assert index.verify().problems == ()


def test_a_text_deleted_elsewhere_while_it_is_added_again_is_encoded_again(path: Path, encoder: WordEncoder) -> None:
    with Index.open(path, model=encoder) as index, Index.open(path, model=encoder) as other:
        other.add([{"id": "old", "text": "red kettle"}])

        def delete(done: int, total: int | None) -> None:
            other.delete(["old"])

        report = index.add([{"id": "new", "text": "red kettle"}], progress=delete)
        assert report.encoded == 1
        assert index.ids() == ["new"]
        assert index.search("kettle", n_candidates=5)[0].id == "new"
        assert index.verify().problems == ()


def test_a_float64_encoder_is_as_good(path: Path) -> None:
    class Double(WordEncoder):
        def encode_queries(self, queries: list[str]) -> list[Any]:
            return [rows.astype(np.float64) for rows in super().encode_queries(queries)]

    with Index.open(path, model=Double()) as index:
        index.add(["red kettle", "blue cup"])
        assert index.search("kettle", k=1)[0].text == "red kettle"
        assert index.stats().dim == DIM


def test_a_document_with_very_many_passages_is_scored_by_all_of_them(path: Path) -> None:
    text = " ".join(f"filler{n} text." for n in range(700)) + " the needle."
    with Index.open(path, model=SplittingEncoder(room=3)) as index:
        index.add([{"id": "long", "text": text}, {"id": "short", "text": "a pin"}])
        assert index.stats().passages > 512
        for options in ({"exact": True}, {"n_candidates": 2}):
            hit = index.search("needle", k=1, **options)  # type: ignore[arg-type]
            assert hit[0].id == "long"
            assert "needle" in hit[0].passage.text
        assert index.verify().problems == ()

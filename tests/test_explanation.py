"""Why a document matched: what each query token found, in characters of the text, with scores that add up."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from word_encoder import SplittingEncoder, WordEncoder, word_vector

from edgecolbert import Encoder, Explanation, Hit, Index, ModelManifest, TokenPlace, TokenSettings
from edgecolbert.builtin import read_model
from edgecolbert.cli import main
from edgecolbert.encoder import FloatArray
from edgecolbert.errors import InputError, InputTypeError, StoreClosedError, StoreMismatchError
from edgecolbert.explanation import Token
from edgecolbert.manifest import EncodingSettings
from edgecolbert.tokenizer import ColbertTokenizer

TINY = Path(__file__).parent / "fixtures" / "tiny-model"
LONG = " ".join(f"Sentence {number} is about a red kettle, a cat; and the rain." for number in range(60))
TEXTS = {
    "kettle": "The kettle is in the left cupboard.",
    "spaces": "  \n The red kettle!  \t",
    "empty": "",
    "blank": "   ",
    "skipped": "!!! ... ,",
    "special": "A [MASK] and a [SEP] in a text about [CLS] kettles.",
    "scripts": "İstanbul, naïve cafe\u0301, 漢字 and ☃: ﬁne C++",
    "long": LONG,
}
QUERIES = ["where is the red kettle?", "", "[MASK] rain", "CAT " * 40]


class PlacedEncoder(WordEncoder):
    """Words that say which characters they are, in capitals or not as they stand there."""

    def _rows(self, text: str) -> FloatArray:
        rows = [word_vector(place.text, self.dim) for place in _words(text)]
        return np.array(rows, dtype=np.float32).reshape(-1, self.dim)

    def query_tokens(self, text: str) -> list[TokenPlace]:
        return _words(text)

    def document_tokens(self, text: str) -> list[TokenPlace]:
        return _words(text)


def _words(text: str) -> list[TokenPlace]:
    return [TokenPlace(0, match[0], "text", *match.span()) for match in re.finditer(r"\w+", text)]


def with_prompts(folder: str | Path) -> Encoder:
    """The model, as if its checkpoint put words before queries and documents."""
    manifest = read_model(folder)
    prompts = {"query": " search_query: ", "document": "search document [MASK] "}
    return Encoder(replace(manifest, encoding=replace(manifest.encoding, prompts=prompts)))


def explained(index: Index, queries: list[str] = QUERIES) -> Iterator[tuple[Hit, Explanation]]:
    for query in queries:
        for hit in index.search(query, k=20):
            yield hit, hit.explain()


def check(hit: Hit, explanation: Explanation) -> None:
    """Scores add up to the hit's, and every offset is where its text is."""
    assert sum(match.score for match in explanation.matches) == pytest.approx(hit.score, abs=1e-4)
    assert explanation.score == pytest.approx(hit.score, abs=1e-4)
    assert (explanation.id, explanation.passage) == (hit.id, hit.passage)
    assert [match.query.number for match in explanation.matches] == list(range(len(explanation.matches)))
    for token in (token for group in explanation.groups for token in group):
        assert (token.start is not None) == (token.kind == "text")
        if token.start is not None and token.end is not None:
            assert hit.passage.start <= token.start <= token.end <= hit.passage.end
            assert token.text == hit.text[token.start : token.end] or token.start == token.end
    for match in explanation.matches:
        if match.query.start is not None:
            assert match.query.text == explanation.query[match.query.start : match.query.end]
        if explanation.groups:
            assert match.document in match.group
            assert match.group in explanation.groups
            assert match.score == pytest.approx(explanation.similarities[match.query.number].max(), abs=1e-6)
        else:
            assert (match.document, match.score) == (None, -1.0)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("tokens", [{}, {"bits": 4}, {"pool_factor": 2}, {"bits": 4, "pool_factor": 3}], ids=str)
@pytest.mark.parametrize("model", ["starter", TINY], ids=["starter", "tiny"])
def test_the_scores_of_the_tokens_add_up_to_the_hits(model: str | Path, tokens: dict[str, int], split: bool) -> None:
    with Index.open(":memory:", model=model, tokens=tokens, split_documents=split) as index:
        index.add([{"id": name, "text": text} for name, text in TEXTS.items()])
        found = list(explained(index))
        assert {hit.id for hit, _ in found} == set(TEXTS)
        for hit, explanation in found:
            check(hit, explanation)
            pooled = any(len(group) > 1 for group in explanation.groups)
            assert not pooled or "pool_factor" in tokens
        starts = {hit.passage.start for hit, _ in found if hit.id == "long"}
        assert split or starts == {0}
        assert not split or starts != {0}


@pytest.mark.parametrize("model", ["starter", TINY], ids=["starter", "tiny"])
@pytest.mark.parametrize("literal", [True, False])
def test_prompts_and_literal_texts_are_explained(model: str | Path, literal: bool) -> None:
    encoder = with_prompts(model)
    if literal:
        encoder = Encoder(encoder.manifest, special_tokens="literal")
    with Index.open(":memory:", model=encoder) as index:
        index.add([{"id": name, "text": text} for name, text in TEXTS.items()])
        for hit, explanation in explained(index):
            check(hit, explanation)
            assert "prompt" in {match.query.kind for match in explanation.matches}
            assert "prompt" in {token.kind for group in explanation.groups for token in group}


def test_what_is_put_around_texts_is_named() -> None:
    with Index.open(":memory:", model=TINY) as index:
        index.add(["red cat"])
        (hit,) = index.search("red cat")
        explanation = hit.explain()
    kinds = [match.query.kind for match in explanation.matches]
    assert kinds[:2] == ["special", "prefix"]
    assert (explanation.matches[0].query.text, explanation.matches[1].query.text) == ("[CLS]", "[Q] ")
    n_expansion = kinds.count("expansion")
    assert n_expansion > 1
    assert kinds[-n_expansion:] == ["expansion"] * n_expansion
    assert explanation.matches[-1].query.text == "[MASK]"
    assert len(kinds) == ModelManifest.read(TINY).encoding.query_length
    assert [group[0].text for group in explanation.groups][:2] == ["[CLS]", "[D] "]


def test_the_token_that_won_is_the_nearest_stored_one() -> None:
    with Index.open(":memory:", model="starter") as index:
        index.add([{"id": "kettle", "text": "Bins go out. The kettle is in the left cupboard."}])
        (hit,) = index.search("kettle cupboard")
        (vectors,) = index.encode_queries(["kettle cupboard"])
        explanation = hit.explain()
        rows = Encoder.load().encode_documents([hit.text])[0]
        tokens = Encoder.load().document_tokens(hit.text)
    winners = {match.query.text: match.document for match in explanation.matches}
    assert winners["kettle"] == Token(7, "text", "kettle", tokens[7].id, 17, 23)
    assert winners["cupboard"] is not None
    assert winners["cupboard"].text == "cupboard"
    # int8 rounds what the model gave.
    np.testing.assert_allclose(explanation.similarities, vectors @ rows.T, atol=0.02)


def test_pooled_embeddings_say_which_tokens_they_stand_for() -> None:
    text = "The kettle, the kettle and the teapot. The bins, the bins and the radiator."
    with Index.open(":memory:", model="starter", tokens={"pool_factor": 2}) as index:
        index.add([text])
        (hit,) = index.search("kettle")
        explanation = hit.explain()
    tokens = Encoder.load().document_tokens(text)
    members = sorted(token.number for group in explanation.groups for token in group)
    assert members == list(range(len(tokens)))
    assert len(explanation.groups) < len(tokens)
    (match,) = [match for match in explanation.matches if match.query.text == "kettle"]
    assert match.document is not None
    assert match.document.text == "kettle"
    assert [token.text for token in match.group].count("kettle") == 2


def test_pooling_that_cannot_be_told_again_is_an_error() -> None:
    encoder = WordEncoder()
    with Index.open(":memory:", model=encoder, tokens={"pool_factor": 2}) as index:
        index.add(["red kettle blue cat green rain"])
        (hit,) = index.search("kettle")
        groups = hit.explain().groups
        assert sorted(token.number for group in groups for token in group) == list(range(6))
        rows = encoder.encode_documents
        encoder.encode_documents = lambda texts: [array[::-1] for array in rows(texts)]  # type: ignore[method-assign]
        with pytest.raises(StoreMismatchError, match=r"cannot be told.*reencode"):
            hit.explain()


def test_a_model_without_offsets_gives_the_numbers_of_tokens() -> None:
    with Index.open(":memory:", model=SplittingEncoder(room=4)) as index:
        index.add(["One two three. Red kettle is here. Five six seven.", ""])
        found, empty = index.search("kettle red")
        explanation = found.explain()
        assert explanation.score == pytest.approx(found.score, abs=1e-4)
        assert [match.document for match in explanation.matches] == [Token(1), Token(0)]
        assert [match.query for match in explanation.matches] == [Token(0), Token(1)]
        assert not explanation.has_offsets
        for call in (found.snippet, explanation.highlights):
            with pytest.raises(InputError, match="query_tokens and document_tokens"):
                call()
        assert "token 1" in explanation.to_html()
        assert (empty.explain().score, empty.explain().groups) == (-2.0, ())


def test_a_model_object_may_say_its_offsets() -> None:
    with Index.open(":memory:", model=PlacedEncoder()) as index:
        index.add(["Bins go out. Red kettle here.", ""])
        found, empty = index.search("kettle Red")
        check(found, found.explain())
        assert [match.document.start for match in found.explain().matches if match.document] == [17, 13]
        check(empty, empty.explain())
        assert empty.snippet().text == ""


@pytest.mark.parametrize(("method", "error"), [("document_tokens", StoreMismatchError), ("query_tokens", InputError)])
def test_another_number_of_tokens_is_an_error(method: str, error: type[Exception]) -> None:
    encoder = PlacedEncoder()
    with Index.open(":memory:", model=encoder) as index:
        index.add([{"id": "note", "text": "Red kettle here."}])
        (hit,) = index.search("red kettle")
        whole = getattr(encoder, method)
        setattr(encoder, method, lambda text: whole(text)[1:])
        with pytest.raises(error, match="token embeddings"):
            hit.explain()


def test_a_hit_stays_plain_data() -> None:
    with Index.open(":memory:", model=WordEncoder()) as index:
        index.add(["red kettle"])
        (hit,) = index.search("kettle")
        (again,) = index.search("red")
        by_hand = Hit(**{field.name: getattr(hit, field.name) for field in fields(Hit)})
        assert hit == by_hand
        assert repr(hit) == repr(by_hand)
        assert asdict(hit) == asdict(by_hand)
        assert vars(hit) == vars(by_hand)
        assert set(vars(hit)) == {field.name for field in fields(Hit)}
        for duplicate in (pickle.loads(pickle.dumps(hit)), copy.copy(hit), copy.deepcopy(hit), replace(hit), by_hand):
            assert duplicate == hit
            with pytest.raises(InputError, match=r"index\.explain\(query, hit\)"):
                duplicate.explain()
            assert index.explain("kettle", duplicate) == hit.explain()
        assert again.explain().query == "red"


def test_explanations_are_plain_data() -> None:
    with Index.open(":memory:", model=TINY) as index:
        index.add(["red kettle"])
        explanation = index.search("kettle")[0].explain()
    assert pickle.loads(pickle.dumps(explanation)) == explanation
    assert explanation.as_dict()["matches"][0]["query"]["text"] == "[CLS]"


def test_a_hit_does_not_keep_its_index() -> None:
    index = Index.open(":memory:", model=WordEncoder())
    index.add(["red kettle"])
    (hit,) = index.search("kettle")
    index.close()
    with pytest.raises(StoreClosedError, match="was closed"):
        hit.explain()
    del index
    gc.collect()
    with pytest.raises(StoreClosedError, match="is gone"):
        hit.snippet()


def test_a_document_that_was_changed_is_not_explained_wrongly() -> None:
    with Index.open(":memory:", model=WordEncoder()) as index:
        index.add([{"id": "a", "text": "red kettle"}, {"id": "b", "text": "red cat"}])
        hits = {hit.id: hit for hit in index.search("red")}
        index.add([{"id": "a", "text": "blue kettle"}])
        index.delete(["b"])
        with pytest.raises(InputError, match=r"'a' was changed.*Search again"):
            hits["a"].explain()
        with pytest.raises(InputError, match="no document 'b'"):
            hits["b"].explain()


def test_a_document_is_explained_by_its_id() -> None:
    with Index.open(":memory:", model=SplittingEncoder(room=4)) as index:
        index.add([{"id": "a", "text": "One two three. Red kettle is here. Five six seven."}])
        (hit,) = index.search("kettle")
        assert replace(index.explain("kettle", "a"), ranks={"late": 1}) == hit.explain()
        assert index.explain("six", "a").passage != hit.passage
        with pytest.raises(InputError, match="no document 'x'"):
            index.explain("six", "x")
        for wrong in (None, 3, hit.passage):
            with pytest.raises(InputTypeError, match="hit is"):
                index.explain("six", wrong)  # type: ignore[arg-type]


def test_ranks_of_stages_are_shown_where_there_are_any() -> None:
    with Index.open(":memory:", model=WordEncoder()) as index:
        index.add(["red kettle"])
        (hit,) = index.search("kettle")
        assert hit.explain().ranks == {"late": 1}
        (both,) = index.search("kettle", mode="hybrid")
        assert both.explain().ranks == {"late": 1, "lexical": 1}
        assert both.explain().score == pytest.approx(hit.score)
        explanation = index.explain("kettle", replace(hit, ranks={"late": 1, "<b>": 3}))
    assert explanation.ranks == {"late": 1, "<b>": 3}
    assert "late 1, &lt;b&gt; 3" in explanation.to_html()


def test_a_plain_search_imports_nothing_of_it(path: Path) -> None:
    with Index.open(path) as index:
        index.add(["The kettle is in the left cupboard."])
    program = (
        "import sys\nfrom edgecolbert import Index\n"
        "with Index.open(sys.argv[1]) as index:\n    assert index.search('kettle')\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert {"edgecolbert.explanation", "edgecolbert.highlighting", "html"}.isdisjoint(done.stdout.split())


SETTINGS = ModelManifest.read(TINY).encoding
VARIANTS: list[dict[str, Any]] = [
    {},
    {"do_lower_case": True},
    {"truncation_side": "left", "document_length": 9, "query_length": 7},
    {"prompts": {"query": " find: ", "document": "text: "}, "do_lower_case": True},
    {"prompts": {"query": "[MASK] ", "document": "[MASK] "}},
    {"query_prefix": "", "query_prefix_id": None, "document_prefix": "", "document_prefix_id": None},
]


@pytest.mark.parametrize("literal", ["literal", "as-model"])
@pytest.mark.parametrize("model", ["starter", TINY], ids=["starter", "tiny"])
def test_places_are_those_of_the_tokens(model: str | Path, literal: str) -> None:
    manifest = read_model(model)
    content = manifest.read_file(manifest.tokenizer)
    encodings = [replace(manifest.encoding, **variant) for variant in VARIANTS]
    tokenizers = [ColbertTokenizer(content, settings, special_tokens=literal) for settings in encodings]
    pieces = st.sampled_from(
        [*"aB .,!\n\t漢é☃İß", "\u0301", "kettle ", "[MASK]", "[SEP]", "text: ", "ﬁ", "don't", "\u200d"]
    )

    @given(st.one_of(st.text(max_size=40), st.lists(pieces, max_size=30).map("".join)))
    def places_are_right(text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError:
            return
        for tokenizer in tokenizers:
            for side in ("query", "document"):
                places = getattr(tokenizer, f"{side}_places")(text)
                assert [place.id for place in places] == getattr(tokenizer, side)(text).ids.tolist()
                _check_places(places, text)

    places_are_right()


def _check_places(places: list[TokenPlace], text: str) -> None:
    last = 0
    for place in places:
        assert (place.start is None) == (place.kind != "text")
        if place.start is not None and place.end is not None:
            assert 0 <= place.start <= place.end <= len(text)
            assert place.text == text[place.start : place.end] or place.start == place.end
            assert place.start >= last
            last = place.start


def test_tokens_of_bytes_and_of_pieces_with_their_blank_are_placed_on_the_word() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    of_bytes = Tokenizer(models.BPE({name: number for number, name in enumerate(alphabet)}, []))
    of_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    pieces = [("<unk>", 0.0), ("\u2581", -2.0), ("\u2581red", -1.0), ("cat", -1.0), *((c, -5.0) for c in "redcat")]
    of_pieces = Tokenizer(models.Unigram(pieces, unk_id=0))
    of_pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    none = {"query_prefix": "", "query_prefix_id": None, "document_prefix": "", "document_prefix_id": None}
    settings = replace(SETTINGS, **none, prompts={"query": "", "document": "red "}, skiplist_ids=())
    for raw in (of_bytes, of_pieces):
        tokenizer = ColbertTokenizer(raw.to_str().encode(), settings)
        text = "  red cat 漢é"
        places = tokenizer.document_places(text)
        assert [place.id for place in places] == tokenizer.document(text).ids.tolist()
        _check_places(places, text)
        assert places[0].kind == "prompt"
        inside = [place for place in places if place.start is not None]
        assert set("".join(place.text for place in inside)) >= set("redcat漢é")
        # The blank that a token takes along is not part of what is shown.
        assert all(place.text == place.text.strip() for place in inside if place.text.strip("\u2581 "))


def test_lower_casing_that_changes_the_length_moves_no_offset() -> None:
    settings: EncodingSettings = replace(SETTINGS, do_lower_case=True)
    tokenizer = ColbertTokenizer(TINY.joinpath("tokenizer.json").read_bytes(), settings)
    places = [place for place in tokenizer.document_places("İİİ red cat") if place.kind == "text"]
    assert "".join(place.text for place in places[-2:]).endswith("cat")
    assert places[-1].end == 11


def test_the_command_prints_a_table_json_and_a_page(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Index.open(path) as index:
        index.add([{"id": "kettle", "text": "The kettle is in the cupboard."}, {"id": "bins", "text": "Bins go out."}])
    assert main(["explain", "kettle", "--db", str(path), "-k", "1"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"kettle +0\.9\d\d +kettle +4-10\n", table)
    assert "**kettle**" in table
    assert main(["explain", "kettle", "--db", str(path), "--id", "bins", "--json"]) == 0
    assert '"id": "bins"' in capsys.readouterr().out
    out = tmp_path / "page.html"
    assert main(["explain", "kettle", "--db", str(path), "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    assert page.count("<section") == 2
    assert main(["explain", "bins", "--db", str(path), "--out", str(out)]) == 1
    assert "--force" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == page
    assert main(["explain", "bins", "--db", str(path), "--out", str(out), "--force"]) == 0
    assert out.read_text(encoding="utf-8") != page
    assert main(["explain", "bins", "--db", str(path), "--id", "none"]) == 1
    assert "no document 'none'" in capsys.readouterr().err


def test_every_setting_of_token_storage_is_covered_here() -> None:
    # Another way to store tokens must be explained, too.
    assert [field.name for field in fields(TokenSettings)] == ["bits", "pool_factor"]


def test_explaining_needs_rows_for_every_token_of_a_user_encoder() -> None:
    class Empty(PlacedEncoder):
        def encode_documents(self, documents: list[str]) -> list[FloatArray]:
            return [np.zeros((0, self.dim), np.float32) for _ in documents]

    with Index.open(":memory:", model=Empty()) as index:
        index.add(["red kettle"])
        (hit,) = index.search("kettle")
        with pytest.raises(StoreMismatchError, match="0 token embeddings"):
            hit.explain()

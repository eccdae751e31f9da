"""Names of special tokens in texts: the token, as the reference has it, or the characters; pinned in the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from word_encoder import WordEncoder

from edgecolbert import Encoder, Index, recover, reencode
from edgecolbert.builtin import read_model
from edgecolbert.cli import main
from edgecolbert.errors import InputError, StoreMismatchError
from edgecolbert.manifest import EncodingSettings, ModelManifest
from edgecolbert.tokenizer import ColbertTokenizer

TINY = Path(__file__).parent / "fixtures" / "tiny-model"
ORDINARY = [
    "",
    "  ",
    "The kettle is in the left cupboard.",
    "don't [stop] (here) {now} <b>bold</b> a_b/c\\d 3.14 C++ #1 @x",
    "Über 漢字 ☃ \u0e01 ñ \t tab\nline",
    "[ MASK ] is not one, nor is [MASKS] or [Q]x",
    "word " * 500,
]


def _both(manifest: ModelManifest) -> tuple[ColbertTokenizer, ColbertTokenizer, dict[str, int]]:
    content = manifest.read_file(manifest.tokenizer)
    special = {token["content"]: token["id"] for token in json.loads(content)["added_tokens"]}
    as_model, literal = (
        ColbertTokenizer(content, manifest.encoding, special_tokens=choice) for choice in ("as-model", "literal")
    )
    return as_model, literal, special


@pytest.mark.parametrize("model", ["starter", TINY])
def test_literal_texts_hold_no_special_token_but_those_that_encoding_puts_there(model: str | Path) -> None:
    as_model, literal, special = _both(read_model(model))
    for text in ("", "kettle"):
        assert literal.document(text).ids.tolist() == as_model.document(text).ids.tolist()
        assert literal.query(text).ids.tolist() == as_model.query(text).ids.tolist()
    for name, number in special.items():
        for text in (f"red {name}kettle", name, name * 3, f" {name} ", f"{name.lower()} x", f"x{name}x"):
            for side in ("query", "document"):
                empty = getattr(literal, side)("").ids.tolist()
                ids = getattr(literal, side)(text).ids.tolist()
                if name != "[UNK]":
                    # As many as of an empty text, or fewer where the text took the place of expansion.
                    assert ids.count(number) <= empty.count(number), (name, text, side)
        injected = as_model.document(f"red {name} kettle").ids.tolist()
        assert number in injected
        assert literal.document(f"red {name} kettle").ids.tolist() != injected


@pytest.mark.parametrize("model", ["starter", TINY])
def test_ordinary_texts_are_the_same_either_way(model: str | Path) -> None:
    as_model, literal, special = _both(read_model(model))
    for text in ORDINARY:
        if not any(name.strip().lower() in text.lower() for name in special):
            assert literal.document(text).ids.tolist() == as_model.document(text).ids.tolist()
            assert literal.query(text).ids.tolist() == as_model.query(text).ids.tolist()
    assert literal.document_room == as_model.document_room
    texts = [text for text in ORDINARY if "[" not in text]
    assert literal.count(texts) == as_model.count(texts)


def test_a_prompt_of_the_checkpoint_keeps_its_special_tokens() -> None:
    manifest = ModelManifest.read(TINY)
    content = manifest.read_file(manifest.tokenizer)
    mask = Tokenizer.from_str(content.decode()).token_to_id("[MASK]")
    for prompt, expected in (("[MASK] search: ", 1), ("search: ", 0)):
        settings = replace(manifest.encoding, prompts={"document": prompt, "query": prompt}, document_length=64)
        literal = ColbertTokenizer(content, settings, special_tokens="literal")
        as_model = ColbertTokenizer(content, settings)
        assert literal.document("red kettle").ids.tolist() == as_model.document("red kettle").ids.tolist()
        assert literal.document("red [MASK] kettle").ids.tolist().count(mask) == expected
        assert as_model.document("red [MASK] kettle").ids.tolist().count(mask) == expected + 1


def test_a_vocabulary_that_has_the_name_itself_cannot_give_the_token_either() -> None:
    # As sentencepiece's unigram models have it: <mask> is a piece like any other.
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<mask>", 0.0), ("▁", -2.0), ("▁red", -1.0)]
    pieces += [(character, -5.0) for character in "<>/abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>", "<mask>")])
    settings = EncodingSettings(4, 16, 64, "", "", do_query_expansion=False)
    literal = ColbertTokenizer(tokenizer.to_str().encode(), settings, special_tokens="literal")
    as_model = ColbertTokenizer(tokenizer.to_str().encode(), settings)
    assert 3 in as_model.document("red <mask>").ids
    ids = literal.document("red <mask> s").ids.tolist()
    assert not {1, 2, 3} & set(ids)
    assert [pieces[number][0] for number in ids if pieces[number][0] in "<mask>"] == list("<mask>s")
    assert literal.document("red abc").ids.tolist() == as_model.document("red abc").ids.tolist()
    # An unknown character stays unknown.
    assert literal.document("red ☃").ids.tolist() == as_model.document("red ☃").ids.tolist()


def test_runs_of_blanks_among_the_added_tokens_stay_vocabulary() -> None:
    data = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    blank = {"id": 258, "content": "    ", "single_word": False, "lstrip": False, "rstrip": False}
    data["added_tokens"].append(blank | {"normalized": False, "special": False})
    content = json.dumps(data).encode()
    settings = ModelManifest.read(TINY).encoding
    ids = ColbertTokenizer(content, settings, special_tokens="literal").document("red    kettle").ids.tolist()
    assert 258 in ids
    assert ids == ColbertTokenizer(content, settings).document("red    kettle").ids.tolist()


def test_an_unknown_choice_is_refused(path: Path) -> None:
    for use in (
        lambda: Encoder.load(TINY, special_tokens="none"),
        lambda: Index.open(path, model=TINY, special_tokens="Literal"),
    ):
        with pytest.raises(InputError, match="expected 'as-model' or 'literal'"):
            use()
    assert not path.exists()


def test_the_choice_is_pinned_and_compared(path: Path, tmp_path: Path) -> None:
    texts = ["red [MASK] kettle", "red kettle"]
    with Index.open(path, model=TINY, special_tokens="literal") as index:
        index.add(texts)
        literal = index.search("red [MASK]")
    with Index.open(tmp_path / "as-model.db", model=TINY) as index:
        index.add(texts)
        assert [hit.score for hit in index.search("red [MASK]")] != [hit.score for hit in literal]
    for model in (None, TINY, Encoder.load(TINY, special_tokens="literal")):
        for choice in (None, "literal"):
            with Index.open(path, model=model, special_tokens=choice) as index:
                assert index.search("red [MASK]") == literal
        with pytest.raises((StoreMismatchError, InputError), match="special_tokens"):
            Index.open(path, model=model, special_tokens="as-model")
    with pytest.raises(StoreMismatchError, match="special tokens taken literally"):
        Index.open(path, model=Encoder.load(TINY))
    with pytest.raises(StoreMismatchError, match="special_tokens = as-model, but literal was asked for"):
        Index.open(tmp_path / "as-model.db", special_tokens="literal")
    with Index.open(tmp_path / "as-model.db", special_tokens="as-model") as index:
        assert len(index) == 2


def test_an_object_of_the_users_decides_itself(path: Path) -> None:
    with pytest.raises(InputError, match="an object that decides that itself"):
        Index.open(path, model=WordEncoder(), special_tokens="literal")
    with pytest.raises(InputError, match="an object that has 'as-model'"):
        Index.open(path, model=Encoder.load(TINY), special_tokens="literal")


def test_the_choice_survives_a_re_encoding_and_can_be_changed_by_one(path: Path) -> None:
    with Index.open(path, model="starter", special_tokens="literal") as index:
        index.add(["red [MASK] kettle", "red kettle"])
    for model in (None, TINY, "starter"):
        assert reencode(path, model=model) == 2
        with Index.open(path, special_tokens="literal") as index:
            assert len(index.search("red [MASK]")) == 2
    assert reencode(path, model=Encoder.load(TINY)) == 2
    with Index.open(path, special_tokens="as-model") as index:
        assert len(index.search("red [MASK]")) == 2
    assert reencode(path, model=Encoder.load(TINY, special_tokens="literal")) == 2
    with Index.open(path, model=TINY, special_tokens="literal") as index:
        assert len(index.search("red [MASK]")) == 2


def test_a_file_that_is_asked_for_nothing_says_nothing(path: Path) -> None:
    for choice in (None, "as-model"):
        with Index.open(path, model=TINY, special_tokens=choice) as index:
            assert "special_tokens" not in index._pinned.settings
        path.unlink()


def test_the_command_line_pins_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("red [MASK] kettle")
    db = str(tmp_path / "a.db")
    assert main(["index", str(tmp_path / "a.txt"), "--db", db, "--literal-special-tokens"]) == 0
    assert main(["index", str(tmp_path / "a.txt"), "--db", db]) == 0
    assert main(["search", "[MASK]", "--db", db, "--json"]) == 0
    with Index.open(db, special_tokens="literal") as index:
        (literal,) = index.encode_queries(["red [MASK]"])
    assert not np.array_equal(literal, Encoder.load().encode_queries(["red [MASK]"])[0])
    assert main(["index", str(tmp_path / "a.txt"), "--db", str(tmp_path / "b.db")]) == 0
    capsys.readouterr()
    assert main(["index", str(tmp_path / "a.txt"), "--db", str(tmp_path / "b.db"), "--literal-special-tokens"]) == 1
    assert "special_tokens" in capsys.readouterr().err


def test_a_new_file_of_another_takes_special_tokens_as_that_did(path: Path, tmp_path: Path) -> None:
    with Index.open(path, model=TINY, special_tokens="literal") as index:
        index.add(["red kettle", "[MASK] blue cup"])
        index.dump(tmp_path / "all.jsonl")
        expected = index.search("[MASK]", exact=True)
    for n, model in enumerate([None, TINY, Encoder.load(TINY, special_tokens="literal")]):
        recovered, loaded = tmp_path / f"recovered{n}.db", tmp_path / f"loaded{n}.db"
        assert recover(path, recovered, model=model).complete
        Index.load(tmp_path / "all.jsonl", loaded, model=model).close()
        for new in (recovered, loaded):
            with Index.open(new, special_tokens="literal") as index:
                assert index.search("[MASK]", exact=True) == expected
    Index.load(tmp_path / "all.jsonl", tmp_path / "again.db", model=TINY, reencode=True).close()
    with Index.open(tmp_path / "again.db", special_tokens="literal") as index:
        assert index.search("[MASK]", exact=True) == expected
    other = Encoder.load(TINY)
    with pytest.raises(StoreMismatchError, match="made with the model"):
        recover(path, tmp_path / "other.db", model=other)
    with pytest.raises(StoreMismatchError, match="made with the model"):
        Index.load(tmp_path / "all.jsonl", tmp_path / "other.db", model=other)

"""Text to token ids, rule by rule (the numbers are those of docs/pylate-rules.md)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edgecolbert import InputError
from edgecolbert.errors import InputTypeError, ModelFormatError
from edgecolbert.manifest import EncodingSettings, ModelManifest
from edgecolbert.tokenizer import ColbertTokenizer, check_text

TINY = Path(__file__).parent / "fixtures" / "tiny-model"
CONTENT = (TINY / "tokenizer.json").read_bytes()
SETTINGS = ModelManifest.read(TINY).encoding
RAW = Tokenizer.from_str(CONTENT.decode())
RAW.no_truncation()
RAW.no_padding()
CLS, *_, SEP = RAW.encode("a").ids
LONG = "the cat sat on the mat and looked at the rain " * 10


def _tokenizer(settings: EncodingSettings = SETTINGS, **options: bool) -> ColbertTokenizer:
    return ColbertTokenizer(CONTENT, settings, **options)  # type: ignore[arg-type]


def _content(text: str) -> list[int]:
    return list(RAW.encode(text, add_special_tokens=False).ids)


def test_the_prefix_is_an_id_at_index_1() -> None:
    assert _tokenizer().document("red cat").ids.tolist() == [CLS, 257, *_content("red cat"), SEP]
    assert _tokenizer().query("red cat").ids.tolist()[:2] == [CLS, 256]


def test_without_a_prefix_nothing_is_inserted() -> None:
    settings = replace(SETTINGS, query_prefix="", query_prefix_id=None, document_prefix="", document_prefix_id=None)
    assert _tokenizer(settings).document("red cat").ids.tolist() == [CLS, *_content("red cat"), SEP]
    assert _tokenizer(settings).document_room == _tokenizer().document_room + 1


def test_truncation_keeps_the_end_token_and_counts_the_prefix() -> None:
    for length in (3, 4, 5, 17):
        ids = _tokenizer(replace(SETTINGS, document_length=length)).document(LONG).ids.tolist()
        assert ids == [CLS, 257, *_content(LONG)[: length - 3], SEP]
        assert len(ids) == length


def test_left_truncation_keeps_the_end_of_the_text() -> None:
    settings = replace(SETTINGS, truncation_side="left", document_length=9, query_length=3)
    assert _tokenizer(settings).document(LONG).ids.tolist() == [CLS, 257, *_content(LONG)[-6:], SEP]
    assert _tokenizer(settings).query(LONG).ids.tolist() == [CLS, 256, SEP]


def test_a_query_is_padded_with_the_expansion_token_without_attention() -> None:
    tokens = _tokenizer().query("red cat")
    n_real = 3 + len(_content("red cat"))
    assert len(tokens.ids) == SETTINGS.query_length
    assert tokens.ids.tolist()[n_real - 1 :] == [SEP] + [SETTINGS.expansion_token_id] * (16 - n_real)
    assert tokens.attention.tolist() == [1] * n_real + [0] * (16 - n_real)
    # Expansion rows are kept, attended to or not.
    assert tokens.keep.all()


def test_attention_on_expansion_tokens_is_a_setting() -> None:
    tokens = _tokenizer(replace(SETTINGS, attend_to_expansion_tokens=True)).query("red cat")
    assert tokens.attention.tolist() == [1] * 16


def test_without_expansion_a_query_is_as_long_as_it_is() -> None:
    settings = replace(SETTINGS, do_query_expansion=False, expansion_token_id=None)
    tokens = _tokenizer(settings).query("red cat")
    assert tokens.ids.tolist() == [CLS, 256, *_content("red cat"), SEP]
    assert tokens.attention.all()
    assert len(_tokenizer(settings).query(LONG).ids) == 16


def test_skiplist_rows_are_dropped_from_documents_and_never_from_queries() -> None:
    text = "a, b. c!"
    document = _tokenizer().document(text)
    skipped = set(SETTINGS.skiplist_ids)
    assert document.keep.tolist() == [token not in skipped for token in document.ids.tolist()]
    assert not document.keep.all()
    # They are there during the forward pass, with attention.
    assert document.attention.all()
    assert set(document.ids.tolist()) & skipped
    assert _tokenizer().query(text).keep.all()


def test_an_empty_text_is_special_tokens_and_prefix() -> None:
    for text in ("", "  \t\n "):
        assert _tokenizer().document(text).ids.tolist() == [CLS, 257, SEP]
        assert _tokenizer().query(text).ids.tolist() == [CLS, 256, SEP] + [SETTINGS.expansion_token_id] * 13


def test_white_space_around_a_text_does_not_count() -> None:
    assert _tokenizer().document("  red cat \n\t").ids.tolist() == _tokenizer().document("red cat").ids.tolist()


def test_lower_casing_is_a_setting() -> None:
    lower = _tokenizer(replace(SETTINGS, do_lower_case=True))
    assert lower.document("RED Cat").ids.tolist() == lower.document("red cat").ids.tolist()
    assert lower.count(["RED Cat"]) == lower.count(["red cat"])


def test_special_tokens_written_in_a_text_are_recognised_as_the_reference_does() -> None:
    mask = RAW.token_to_id("[MASK]")
    assert mask is not None
    assert mask in _tokenizer().document("a [MASK] b").ids.tolist()
    assert _tokenizer().document("[Q] a").ids.tolist() == [CLS, 257, *_content("[Q] a"), SEP]


def test_truncation_and_padding_frozen_into_the_file_are_cleared() -> None:
    data = json.loads(CONTENT)
    data["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    frozen = ColbertTokenizer(json.dumps(data).encode(), SETTINGS)
    for text in ("", "red", LONG):
        assert frozen.document(text).ids.tolist() == _tokenizer().document(text).ids.tolist()
        assert frozen.query(text).ids.tolist() == _tokenizer().query(text).ids.tolist()
        assert frozen.count([text]) == _tokenizer().count([text])


def test_prompts_apply_to_their_side() -> None:
    settings = replace(SETTINGS, prompts={"query": "ask: ", "document": "say: "})
    assert _tokenizer(settings).document("red").ids.tolist() == [CLS, 257, *_content("say: red"), SEP]
    assert _tokenizer(settings).query("red").ids.tolist()[:-1][: 2 + len(_content("ask: red"))] == [
        *(CLS, 256),
        *_content("ask: red"),
    ]


def test_the_default_prompt_applies_to_both_sides() -> None:
    settings = replace(
        SETTINGS, prompts={"query": "ask: ", "document": "say: ", "web": "www: "}, default_prompt_name="web"
    )
    assert _tokenizer(settings).document("red").ids.tolist() == [CLS, 257, *_content("www: red"), SEP]
    assert _content("www: red") == _tokenizer(settings).query("red").ids.tolist()[2 : 2 + len(_content("www: red"))]


def test_prompts_can_be_switched_off() -> None:
    settings = replace(SETTINGS, prompts={"query": "ask: ", "document": "say: "})
    plain = _tokenizer(settings, use_prompts=False)
    assert plain.document("red").ids.tolist() == _tokenizer().document("red").ids.tolist()
    assert plain.query("red").ids.tolist() == _tokenizer().query("red").ids.tolist()
    assert plain.document_room == _tokenizer().document_room


def test_prompt_and_text_are_joined_before_they_are_stripped() -> None:
    settings = replace(SETTINGS, prompts={"document": "say:"})
    assert _tokenizer(settings).document(" red ").ids.tolist() == [CLS, 257, *_content("say: red"), SEP]


def test_a_passage_of_the_room_is_not_cut() -> None:
    for settings in (SETTINGS, replace(SETTINGS, prompts={"document": "say: "})):
        tokenizer = _tokenizer(settings)
        words = LONG.split()
        n_words = next(
            n for n in range(1, 100) if tokenizer.count([" ".join(words[: n + 1])])[0] > tokenizer.document_room
        )
        text = " ".join(words[:n_words])
        ids = tokenizer.document(text).ids.tolist()
        assert len(ids) <= SETTINGS.document_length
        prompt = "say: " if settings.prompts.get("document") else ""
        assert ids == [CLS, 257, *_content(prompt + text), SEP]


def test_counts_are_of_content_tokens_alone() -> None:
    texts = ["", " ", "red", "red cat", LONG, "?!"]
    assert _tokenizer().count(texts) == [len(_content(text.strip())) for text in texts]
    assert _tokenizer().count([]) == []


def test_what_is_no_text_is_named() -> None:
    for use in (_tokenizer().query, _tokenizer().document):
        with pytest.raises(InputTypeError, match="text is bytes, expected a string"):
            use(b"red")  # type: ignore[arg-type]
        with pytest.raises(
            InputError, match=r"text has a lone surrogate \(\\ud800\) at character 1, which is not valid"
        ):
            use("a\ud800")
    assert check_text("\U0001f600") == "\U0001f600"


def test_a_prefix_that_the_tokenizer_does_not_know_is_refused() -> None:
    with pytest.raises(ModelFormatError, match=r"gives the prefix '\[X\] ' the id None, the manifest says 256"):
        _tokenizer(replace(SETTINGS, query_prefix="[X] "))

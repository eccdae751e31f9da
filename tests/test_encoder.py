"""Token embeddings: equal to the reference's, and the same whatever else is in the call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgecolbert import Encoder, Index, InputError, ModelManifest, TokenEncoder
from edgecolbert.builtin import builtin_models
from edgecolbert.errors import StoreMismatchError
from edgecolbert.goldens import check_goldens

FIXTURES = Path(__file__).parent / "fixtures"
TINY = FIXTURES / "tiny-model"
GOLDENS = json.loads((FIXTURES / "tiny-goldens.json").read_text(encoding="utf-8"))["texts"]
TEXTS = [
    "",
    "   ",
    "?!.,",
    "The kettle is in the left cupboard.",
    "漢字 and Ünïcödé \U0001f600",
    "\0\x01control",
    "a rather longer text about the weather, the garden and the neighbours' dog " * 6,
    "kettle",
]


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return Encoder.load(TINY, threads=2)


@pytest.fixture(scope="module")
def starter() -> Encoder:
    return Encoder.load(threads=2)


def _equal(left: list[npt.NDArray[np.float32]], right: list[npt.NDArray[np.float32]]) -> bool:
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: f"{golden['side']}: {golden['text'][:30]!r}")
def test_token_ids_and_embeddings_equal_pylates(tiny: Encoder, golden: dict[str, object]) -> None:
    text = str(golden["text"])
    is_query = golden["side"] == "query"
    tokens = tiny.tokenizer.query(text) if is_query else tiny.tokenizer.document(text)
    assert tokens.ids.tolist() == golden["ids"]
    rows = (tiny.encode_queries if is_query else tiny.encode_documents)([text])[0]
    expected = np.array(golden["embeddings"], dtype=np.float32).reshape(-1, tiny.dim)
    assert rows.shape == expected.shape
    np.testing.assert_allclose(rows, expected, atol=1e-5)


@pytest.mark.parametrize("name", sorted(builtin_models()))
def test_a_model_that_ships_computes_here_what_it_was_certified_for(name: str) -> None:
    report = check_goldens(ModelManifest.read(builtin_models()[name]))
    assert report is not None
    assert report.problems == ()
    assert report.n_texts > 10


def test_there_is_a_starter_model_with_its_first_stage() -> None:
    manifest = ModelManifest.read(builtin_models()["starter"])
    assert manifest.fde is not None
    assert manifest.profile.startswith("int8")
    assert manifest.licence == "Apache-2.0"


def test_a_paragraph_given_as_the_query_is_read_to_its_end(starter: Encoder) -> None:
    """Somebody pastes a text to find others like it; with 64 tokens half of it was left out."""
    start = "The reading room opens at nine and its catalogue lists every map by sheet, year and scale. " * 8
    with_bees, with_tides = starter.encode_queries([f"{start}It ends with bees.", f"{start}It ends with the tides."])
    assert len(with_bees) > 128
    assert not np.allclose(with_bees[-4:], with_tides[-4:], atol=0.1)


def test_rows_are_float32_of_unit_length(tiny: Encoder, starter: Encoder) -> None:
    for encoder in (tiny, starter):
        for rows in encoder.encode_queries(TEXTS) + encoder.encode_documents(TEXTS):
            assert rows.dtype == np.float32
            assert rows.ndim == 2
            assert rows.shape[1] == encoder.dim
            np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)


def test_a_text_has_the_same_vectors_to_the_bit_alone_and_in_company(starter: Encoder, tiny: Encoder) -> None:
    for encoder in (tiny, starter):
        for encode in (encoder.encode_documents, encoder.encode_queries):
            alone = [encode([text])[0] for text in TEXTS]
            assert _equal(encode(TEXTS), alone)
            assert _equal(encode(TEXTS[::-1])[::-1], alone)


def test_the_number_of_threads_changes_nothing(starter: Encoder) -> None:
    expected = starter.encode_documents(TEXTS)
    for threads in (1, 3):
        assert _equal(Encoder.load(threads=threads).encode_documents(TEXTS), expected)


def test_several_threads_may_use_one_encoder(tiny: Encoder) -> None:
    expected = tiny.encode_documents(TEXTS)
    results: list[bool] = []

    def work() -> None:
        results.extend(_equal(tiny.encode_documents(TEXTS), expected) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 20


def test_empty_lists_give_empty_lists(tiny: Encoder) -> None:
    assert tiny.encode_queries([]) == []
    assert tiny.encode_documents([]) == []


def test_tokens_of_the_skiplist_have_no_rows(tiny: Encoder) -> None:
    assert len(tiny.encode_documents(["a . b"])[0]) == len(tiny.encode_documents(["a b"])[0])
    # The skipped token was there during the forward pass.
    assert not np.allclose(tiny.encode_documents(["a . b"])[0], tiny.encode_documents(["a b"])[0])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("kettle", "documents is str, expected a list of strings"),
        (None, "documents is NoneType, expected a list"),
        ({"a"}, "documents is set, expected a list"),
        (["a", 7], r"documents\[1\] is int, expected a string"),
        (["a", None], r"documents\[1\] is NoneType, expected a string"),
        (["a", b"b"], r"documents\[1\] is bytes, expected a string"),
        (["a", "b\udfff"], r"documents\[1\] has a lone surrogate \(\\udfff\) at character 1"),
    ],
)
def test_what_cannot_be_encoded_is_named(tiny: Encoder, texts: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny.encode_documents(texts)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message.replace("documents", "queries")):
        tiny.encode_queries(texts)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_a_wrong_number_of_threads_is_named(threads: object) -> None:
    with pytest.raises(InputError, match=f"threads is {threads!r}, expected a whole number of at least 1, or None"):
        Encoder.load(TINY, threads=threads)  # type: ignore[arg-type]


def test_passages_of_a_long_document_are_not_cut_by_the_model(starter: Encoder) -> None:
    text = " ".join(f"Sentence {n} says that the number {n * n} is a square, as everyone knows." for n in range(120))
    spans = starter.split(text)
    assert len(spans) > 3
    room = starter.tokenizer.document_room
    assert all(size <= room for size in starter.tokenizer.count([text[start:end] for start, end in spans]))
    end = starter.tokenizer.document(text[spans[0][0] : spans[0][1]]).ids
    assert len(end) <= starter.manifest.encoding.document_length


def test_the_encoder_is_what_an_index_asks_for(tiny: Encoder) -> None:
    assert isinstance(tiny, TokenEncoder)
    assert tiny.name == "tiny"


def test_an_index_is_pinned_to_whether_prompts_are_used(path: Path) -> None:
    manifest = ModelManifest.read(TINY)
    prompted = replace(manifest, encoding=replace(manifest.encoding, prompts={"query": "ask: ", "document": "say: "}))
    with Index.open(path, model=Encoder(prompted, use_prompts=False)) as index:
        index.add(["red kettle"])
    with pytest.raises(StoreMismatchError, match="'tiny'"):
        Index.open(path, model=Encoder(prompted))
    with Index.open(path, model=Encoder(prompted, use_prompts=False)) as index:
        assert index.search("kettle")


def test_an_index_without_a_model_gets_the_starter_and_finds_by_meaning(path: Path) -> None:
    with Index.open(path) as index:
        index.add(
            ["The kettle is in the left cupboard.", "Bins go out on Tuesday.", "The router's password is on its back."]
        )
        assert index.search("which password does the router have?", k=1)[0].text.startswith("The router")
        assert index.stats().model == "starter"
    with Index.open(path, read_only=True) as index:
        assert index.search("where do I find the kettle?", k=1, n_candidates=2)[0].text.startswith("The kettle")


def test_nothing_is_collected_about_the_device(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from edgecolbert import Index\n"
        "with Index.open(sys.argv[1]) as index:\n"
        "    index.add(['The kettle is red.'])\n"
        "    index.search('kettle', exact=True)\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    environment |= {"HOME": str(home), "USERPROFILE": str(home)}
    arguments = [sys.executable, "-c", code, str(tmp_path / "index.db")]
    ran = subprocess.run(arguments, env=environment, check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "1"
    assert list(home.rglob("*")) == []

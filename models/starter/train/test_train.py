"""Trains the tiny preset on made-up pairs with a random teacher: killed, continued, and read back."""

# ruff: noqa: S101, S106, S311, S603, D103 - asserts, made-up data and our own command are what tests are made of
from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("safetensors")

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
WORDS = [a + b + c for a in ("ba", "do", "ki", "lu", "me", "no") for b in ("r", "s", "t") for c in ("an", "el", "ix")]


@pytest.fixture(autouse=True)
def modules_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)


def write_teacher(folder: Path) -> None:
    """Writes a random BERT of one layer with a WordPiece tokenizer over ``WORDS``."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", *WORDS]
    tokenizer = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    config = BertConfig(
        vocab_size=len(names),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_pairs(path: Path, count: int) -> None:
    """Writes pairs whose query is made of words of the document."""
    rng = random.Random(0)
    with open(path, "w", encoding="utf-8") as lines:
        for _ in range(count):
            sentences = [" ".join(rng.choices(WORDS, k=rng.randint(5, 9))) + "." for _ in range(3)]
            query = " ".join(rng.sample(sentences[0].rstrip(".").split(), 3))
            lines.write(json.dumps({"query": query, "document": " ".join(sentences)}) + "\n")


def command(tmp_path: Path) -> list[str]:
    """The training command."""
    return [
        sys.executable,
        str(HERE / "train.py"),
        "--preset=tiny",
        "--no-gpu",
        f"--pairs={tmp_path / 'pairs.jsonl'}",
        f"--teacher={tmp_path / 'teacher'}",
        f"--out={tmp_path / 'out'}",
    ]


def test_killed_run_continues_and_learns(tmp_path: Path) -> None:
    write_teacher(tmp_path / "teacher")
    write_pairs(tmp_path / "pairs.jsonl", 150)

    with subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            # The state of step 10 is written before the line of step 12 appears.
            if line.startswith("step 12 "):
                process.kill()
                break
        else:
            pytest.fail("the run ended before it could be killed")

    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "work" / "targets").iterdir()}
    again = subprocess.run(command(tmp_path), stdout=subprocess.PIPE, text=True, check=True)
    assert "continuing at step " in again.stdout
    assert "continuing at step 0" not in again.stdout
    assert "finished: checkpoint in" in again.stdout
    assert shards == {path: path.stat().st_mtime_ns for path in shards}

    records = [json.loads(line) for line in (tmp_path / "out" / "work" / "log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < 0.7 * losses[0]
    assert records[-1]["step"] == 60
    assert 0 < records[-1]["held-out mean"] <= 1


def test_stopped_run_equals_unbroken_one(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    write_teacher(tmp_path / "teacher")
    write_pairs(tmp_path / "pairs.jsonl", 150)
    subprocess.run([*command(tmp_path), "--set", "steps=40"], check=True, stdout=subprocess.DEVNULL)
    whole = load_file(tmp_path / "out" / "model.safetensors")
    (tmp_path / "out" / "work" / "state.pt").unlink()
    for more in (["--stop-after=20"], []):
        subprocess.run([*command(tmp_path), "--set", "steps=40", *more], check=True, stdout=subprocess.DEVNULL)
    parts = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-4)


def test_checkpoint_reads_back(tmp_path: Path) -> None:
    import numpy as np
    import torch
    from data import build_tokenizer
    from evaluate import load_checkpoint
    from student import Shape, Student, save_checkpoint

    write_teacher(tmp_path / "teacher")
    tokenizer = build_tokenizer(tmp_path / "teacher")
    for embedding in (16, 32):
        shape = Shape(embedding=embedding, hidden=32, layers=1, heads=2, intermediate=64, dim=8, positions=64)
        student = Student(shape, tokenizer.get_vocab_size()).eval()
        save_checkpoint(student, tokenizer, tmp_path / "out", 32, 48)
        loaded, read_tokenizer, lengths = load_checkpoint(tmp_path / "out")
        assert lengths == (32, 48)
        assert read_tokenizer.token_to_id("[D] ") == tokenizer.get_vocab_size() - 1
        ids = torch.from_numpy(np.arange(7, 19)[None])
        torch.testing.assert_close(loaded(ids, None), student(ids, None))


def test_tuning_continues_and_is_mixed(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    write_teacher(tmp_path / "teacher")
    write_pairs(tmp_path / "pairs.jsonl", 150)
    subprocess.run(command(tmp_path), check=True, stdout=subprocess.DEVNULL)

    distilling = ["--weights", "--token-loss=1", f"--work={tmp_path / 'out' / 'work'}"]

    def tune(out: str, *more: str) -> str:
        tuning = [
            sys.executable,
            str(HERE / "tune.py"),
            str(tmp_path / "out"),
            "--preset=tiny",
            f"--pairs={tmp_path / 'pairs.jsonl'}",
            f"--teacher={tmp_path / 'teacher'}",
            f"--out={tmp_path / out}",
            *["--steps=30", "--contrast-from=10", "--contrast-pairs=16", "--cluster=60"],
        ]
        return subprocess.run([*tuning, *more], check=True, stdout=subprocess.PIPE, text=True).stdout

    alone = tune("alone", "--contrast-from=0")
    assert "step 30 token loss 0.0000" in alone
    assert "finished: checkpoint in" in tune("whole", *distilling)
    assert "stopped early" in tune("parts", "--stop-after=20", *distilling)
    assert "continuing at step 20" in tune("parts", *distilling)
    mixing = [sys.executable, str(HERE / "mix.py"), *(str(tmp_path / name) for name in ("whole/start", "whole"))]
    subprocess.run([*mixing, "--shares", "3", "1", "--out", str(tmp_path / "mixed")], check=True)
    start, end, mixed = (
        load_file(tmp_path / name / "1_Dense" / "model.safetensors")["linear.weight"]
        for name in ("whole/start", "whole", "mixed")
    )
    assert not torch.equal(start, end)
    torch.testing.assert_close(mixed, 0.75 * start + 0.25 * end)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-3)


def test_a_rate_can_be_planned_for_more_steps_than_are_taken() -> None:
    from types import SimpleNamespace

    from tune import Tuner

    def rate(step: int, rate_steps: int | None) -> float:
        planned = SimpleNamespace(lr=1.0, steps=250, rate_steps=rate_steps)
        return Tuner.learning_rate(SimpleNamespace(step=step, arguments=planned))

    assert rate(9, None) == rate(9, 1000) == 0.2
    assert rate(150, None) == pytest.approx(0.5)
    assert rate(150, 1000) == 1.0
    assert rate(249, None) == pytest.approx(0.005)
    assert rate(249, 1000) == pytest.approx(0.93875)


def test_half_of_a_text_asks_for_its_other_half() -> None:
    from collections import Counter

    import numpy as np
    from data import Pair
    from neighbours import Neighbours

    texts = [" ".join(f"This is sentence {i} of the text {j} and no other." for i in range(5)) for j in range(40)]
    pairs = [Pair("wiki", f"title {j}", text) for j, text in enumerate(texts)]
    neighbours = Neighbours(pairs, [list(range(40))], np.ones(1), Counter(), halves=0.7)
    found = [zip(*neighbours.texts(step, 32, seed=1), strict=True) for step in range(3)]
    halves = [(query, document) for step in found for query, document in step if query.count("sentence") > 1]
    assert len(halves) > 30
    for query, document in halves:
        assert f"{query} {document}" in texts or f"{document} {query}" in texts


def test_a_weight_of_a_query_token_scales_its_similarities(tmp_path: Path) -> None:
    import numpy as np
    import torch
    from evaluate import load_checkpoint
    from projection import Projection
    from teacher import Shard
    from train import PRESETS, Batches
    from tune import LEAST_WEIGHT, WeightedBatches, make_room, query_weights

    write_teacher(tmp_path / "teacher")
    write_pairs(tmp_path / "pairs.jsonl", 150)
    subprocess.run(command(tmp_path), check=True, stdout=subprocess.DEVNULL)

    # Room is made by a rotation, so that all but one direction stay as they were.
    student, tokenizer, _ = load_checkpoint(tmp_path / "out")
    shards = [Shard.load(path) for path in sorted((tmp_path / "out" / "work" / "targets").iterdir())]
    projection = Projection.load(tmp_path / "out" / "work" / "projection.pt")
    before = student.dense.weight.detach().clone()
    turned = make_room(student, projection, shards[0])
    assert not turned.weight[-1].any()
    assert not student.dense.weight[-1].any()
    assert torch.linalg.matrix_rank(before.T @ before - student.dense.weight.T @ student.dense.weight, rtol=1e-4) == 1

    # Targets are of unit length, and a query token's similarities are those it had, times its weight.
    weights = query_weights(shards, tokenizer)
    assert weights.min() >= LEAST_WEIGHT
    assert weights[tokenizer.token_to_id("[CLS]")] == 1
    assert weights[tokenizer.token_to_id(".")] < weights[tokenizer.token_to_id(WORDS[0])]
    plain = Batches(shards, turned, tokenizer, PRESETS["tiny"]).build(0, [0, 1, 2])
    weighted = WeightedBatches(shards, turned, tokenizer, PRESETS["tiny"], weights).build(0, [0, 1, 2])
    torch.testing.assert_close(weighted.targets["document"], plain.targets["document"])
    query, mask = weighted.targets["query"], weighted.mask["query"]
    torch.testing.assert_close(query[mask].norm(dim=1), torch.ones(int(mask.sum())))
    document = plain.targets["document"][0].T
    expected = (plain.targets["query"] @ document) * torch.from_numpy(weights)[weighted.ids["query"]][:, :, None]
    np.testing.assert_allclose((query @ document)[mask], expected[mask], atol=1e-6)


def test_topical_queries_want_all_of_a_subject_but_their_own_text(tmp_path: Path) -> None:
    import torch
    from data import Pair, build_tokenizer
    from student import Shape, Student
    from topical import Topical

    rng = random.Random(0)
    pairs = [
        Pair("medquad", f"What {what} of {disease} ?", " ".join([disease, *rng.choices(WORDS, k=9)]))
        for disease in ("baran", "doset")
        for what in ("are the symptoms", "is the outlook", "are the treatments")
    ]
    pairs += [
        Pair("wiki", f"{title} Kit {section}", f"{title} " + " ".join(rng.choices(WORDS, k=60)))
        for title in ("Kisan", "Lutel")
        for section in ("Bar", "Bas", "Bat", "Dor", "Dos", "Dot")
    ]
    topical = Topical.build(pairs, queries=2)
    assert sorted(topical.kinds) == ["disease"] * 2 + ["heading"] * 2 + ["passage"] * 2
    for query, kind, relevant, ignored in zip(
        topical.queries, topical.kinds, topical.relevant, topical.ignored, strict=True
    ):
        assert len(relevant) == {"disease": 3, "heading": 6, "passage": 5}[kind]
        assert not relevant & ignored
        if kind == "passage":
            assert [topical.documents[i].startswith(query) for i in ignored] == [True]
    write_teacher(tmp_path / "teacher")
    tokenizer = build_tokenizer(tmp_path / "teacher")
    torch.manual_seed(0)
    shape = Shape(embedding=16, hidden=32, layers=1, heads=2, intermediate=64, dim=8, positions=80)
    scores = topical.measure(Student(shape, tokenizer.get_vocab_size()).eval(), tokenizer, (40, 80))
    assert set(scores) == {"disease", "heading", "passage", "mean"}
    kinds = [scores[kind] for kind in ("disease", "heading", "passage")]
    assert 0 < max(kinds) <= 1
    assert scores["mean"] == pytest.approx(sum(kinds) / 3)


def test_gradients_of_maxsim_are_those_of_its_definition() -> None:
    import torch
    from projection import maxsim_matrix

    generator = torch.Generator().manual_seed(0)
    lengths, owner = [3, 5, 1], torch.tensor([0, 0, 1, 1, 1])
    query, document = (
        torch.randn(n, 8, generator=generator, dtype=torch.float64).requires_grad_() for n in (len(owner), sum(lengths))
    )
    weights = torch.randn(2, len(lengths), generator=generator)
    best = torch.stack([part.amax(1) for part in (query @ document.T).split(lengths, dim=1)], dim=1)
    expected = torch.stack([best[owner == i].sum(0) for i in range(2)]).float()
    wanted = torch.autograd.grad((expected * weights).sum(), (query, document))
    scores = maxsim_matrix(query, owner, document, lengths)
    torch.testing.assert_close(scores, expected)
    given = torch.autograd.grad((scores * weights).sum(), (query, document))
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-6)


def test_order_divergence_sees_the_others_beside_the_own_document() -> None:
    import torch
    from refine import order_divergence

    wanted = torch.tensor([[30.0, 2.0, 1.0, 0.0], [1.0, 30.0, 0.0, 2.0]])
    own, lengths = torch.tensor([0, 1]), torch.tensor([8.0, 5.0])
    assert order_divergence(wanted + 7, wanted, own, lengths).abs().max() < 1e-5
    # The others the wrong way round: among all documents that hardly shows, since the own one takes all.
    turned = torch.tensor([[30.0, 0.0, 1.0, 2.0], [2.0, 30.0, 1.0, 0.0]])
    of_all, of_others = order_divergence(turned, wanted, own, lengths)
    assert of_all < 1e-3
    assert of_others > 0.5
    # A query of four times as many tokens has its sums halved.
    _, longer = order_divergence(2 * turned, 2 * wanted, own, torch.tensor([32.0, 32.0]))
    torch.testing.assert_close(longer, of_others)


def test_tuned_teacher_stands_in_the_students_place(tmp_path: Path) -> None:
    import numpy as np
    import torch
    from data import QUERY_PREFIX, build_tokenizer, encode_texts, with_prefix
    from evaluate import embed
    from projection import Projection
    from refine import with_text_vector
    from teacher import Teacher
    from tune_teacher import TeacherAsStudent

    write_teacher(tmp_path / "teacher")
    generator = torch.Generator().manual_seed(0)
    projection = Projection(torch.randn(32, generator=generator), torch.randn(16, 32, generator=generator))
    model = TeacherAsStudent(tmp_path / "teacher", projection).eval()
    tokenizer = build_tokenizer(tmp_path / "teacher")
    plain = encode_texts(tokenizer, ["baran baral, doset", "doset kitix ." + " baran" * 20], 20)
    rows = [with_prefix(row, tokenizer.token_to_id(QUERY_PREFIX)) for row in plain]
    states = Teacher(tmp_path / "teacher", torch.device("cpu")).states(plain, 1000)
    for given, state in zip(embed(model, rows, [], torch.device("cpu")), states, strict=True):
        # The teacher computes in bfloat16.
        np.testing.assert_allclose(given, with_text_vector(projection.apply(state)), atol=0.03)


def test_refining_after_a_tuned_teacher_continues_and_learns(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from torch.testing import assert_close

    write_teacher(tmp_path / "teacher")
    write_pairs(tmp_path / "pairs.jsonl", 150)
    subprocess.run(command(tmp_path), check=True, stdout=subprocess.DEVNULL)

    def program(name: str, *more: str) -> str:
        common = ["--preset=tiny", f"--pairs={tmp_path / 'pairs.jsonl'}", "--cluster=60"]
        common.append(f"--projection={tmp_path / 'out' / 'work' / 'projection.pt'}")
        run = [sys.executable, str(HERE / name), *common, *more]
        return subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True).stdout

    tuning = [f"--teacher={tmp_path / 'teacher'}", f"--out={tmp_path / 'tuned'}", "--steps=12", "--contrast-pairs=16"]
    assert "stopped early" in program("tune_teacher.py", *tuning, "--stop-after=6")
    assert "continuing at step 6" in program("tune_teacher.py", *tuning)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("teacher", "tuned"))
    changed = {name for name, value in before.items() if not value.equal(after[name])}
    assert any("attention" in name for name in changed)
    assert not any("word_embeddings" in name for name in changed)

    def refine(out: str, *more: str) -> str:
        refining = ["--corners=3", "--corner-documents=24", "--documents=12", "--wholes=2", "--lr=0.005"]
        where = [str(tmp_path / "out"), f"--teacher={tmp_path / 'tuned'}", f"--out={tmp_path / out}"]
        return program("refine.py", *where, *refining, *more)

    assert "finished: checkpoint in" in refine("whole", "--steps=30")
    assert "stopped early" in refine("parts", "--steps=30", "--stop-after=15")
    assert "continuing at step 15" in refine("parts", "--steps=30")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    for name, value in one.items():
        assert_close(other[name], value, rtol=1e-3, atol=1e-3)
    lines = [line for line in refine("longer", "--steps=150").splitlines() if line.startswith("step ")]
    orders = [float(line.split(" order ")[1].split(",")[0]) for line in lines]
    assert orders[-1] < 0.9 * orders[0]


def test_one_command_makes_the_model(tmp_path: Path) -> None:
    from evaluate import load_checkpoint

    write_teacher(tmp_path / "teacher")
    write_pairs(tmp_path / "pairs.jsonl", 150)
    making = [sys.executable, str(HERE / "make_starter.py"), "--preset=tiny", f"--pairs={tmp_path / 'pairs.jsonl'}"]
    making += [f"--teacher={tmp_path / 'teacher'}", f"--out={tmp_path / 'out'}"]
    subprocess.run(making, check=True, stdout=subprocess.DEVNULL)
    student, _, _ = load_checkpoint(tmp_path / "out" / "checkpoint")
    start, one, other = (
        load_checkpoint(tmp_path / "out" / name)[0].dense.weight for name in ("mixed", "refined-1", "refined-2")
    )
    assert not one.equal(other)
    assert student.dense.weight.allclose(start / 2 + one / 4 + other / 4, atol=1e-6)
    # Both learn from the same corners, which are made once; nothing lies where a run would make its own.
    assert len(list((tmp_path / "out" / "corners").iterdir())) == 3
    assert not list((tmp_path / "out").glob("refined-*/work/corners"))
    # What is done is left alone; a phase that was lost is made again from those before it.
    (tmp_path / "out" / "checkpoint.done").unlink()
    again = subprocess.run(making, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert again.count("done before") == 6
    assert "mix.py" in again
    assert load_checkpoint(tmp_path / "out" / "checkpoint")[0].dense.weight.equal(student.dense.weight)

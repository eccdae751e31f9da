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

    sys.path.insert(0, str(HERE))
    try:
        from data import build_tokenizer
        from evaluate import load_checkpoint
        from student import Shape, Student, save_checkpoint
    finally:
        sys.path.remove(str(HERE))
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

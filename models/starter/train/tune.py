"""Teaches a distilled student to tell neighbours apart, and on request which words of a query count.

    python tune.py CHECKPOINT --pairs DIR_OR_FILES --out CHECKPOINT

Distillation makes tokens alike to the teacher's, which was never asked to rank by them. Here each step takes pairs
from one corner of one source, and every query has to find its own document among the others. A few hundred steps do;
they take something of what the student knew, so the result is mixed with what it was before (mix.py).

MaxSim adds up all tokens of a query alike, "the" as much as "electrophoresis", for embeddings have unit length. With
``--weights`` one dimension, the one that varies least, is emptied in documents, and a query token that puts part of
its length there counts for less: with w of its length left in the other dimensions, its similarities shrink to w of
what they were. Queries learn this from the rarity of their words, by going on with the distillation to targets of
that kind (``--token-loss``, which needs ``--work``, the work folder of the run of train.py that made the
checkpoint).

The same command again continues a stopped run; a larger ``--steps`` makes a finished one longer. ``OUT/start`` is
what the run started from, for mix.py.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
    encode_texts,
    find_pair_files,
    pad,
    read_pairs,
    split_pairs,
    with_prefix,
)
from evaluate import HeldOut, load_checkpoint, skip_ids
from neighbours import Neighbours
from projection import Projection, dequantise, text_scores_of
from student import Student, TokenModel, round_to_int8, save_checkpoint
from teacher import Shard, Teacher, find_teacher
from tokenizers import Tokenizer
from torch.nn import functional
from train import (
    PRESETS,
    Batch,
    Batches,
    Preset,
    encode_batch,
    make_held_out,
    to_device,
    token_loss,
    write_state,
)
from transformers.utils import logging

# What the most frequent words keep. The less it is, the more length lies in the dimension that documents leave empty,
# and the more their error there weighs.
LEAST_WEIGHT = 0.1
# Natural logarithm: a word that one in e**6 (403) documents has counts in full.
RARE = 6.0
_SAMPLE = 8
_SAVE_EVERY = 100


def query_weights(shards: list[Shard], tokenizer: Tokenizer) -> np.ndarray:
    """How much a query token counts: its inverse document frequency, 1 for what is rare.

    Args:
        shards: Texts to count in.
        tokenizer: The student's, with prefix tokens.

    Returns:
        float32 ``[vocabulary]``, from ``LEAST_WEIGHT`` to 1. [CLS], [SEP] and the prefix stand for the whole text: 1.
    """
    seen = np.zeros(tokenizer.get_vocab_size())
    documents = 0
    for shard in shards:
        starts = shard.starts
        for view in np.flatnonzero(~shard.is_query):
            seen[np.unique(shard.ids[starts[view] : starts[view] + shard.lengths[view]])] += 1
            documents += 1
    weights = np.clip(-np.log(np.maximum(seen, 0.5) / documents) / RARE, LEAST_WEIGHT, 1)
    weights[[tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", QUERY_PREFIX)]] = 1
    return weights.astype(np.float32)


def make_room(student: Student, projection: Projection, shard: Shard) -> Projection:
    """Turns student and targets alike, so that the last dimension is the one that varies least, and empties it.

    Args:
        student: Its last layer is changed.
        projection: Of the targets.
        shard: A sample of targets.

    Returns:
        The turned projection, whose last row is nothing.
    """
    states, _ = dequantise(shard, list(range(len(shard.lengths))))
    targets = functional.normalize(projection.apply(states), dim=1)
    _, vectors = torch.linalg.eigh(targets.T @ targets)
    turned = vectors.flip(1).T.contiguous()
    with torch.no_grad():
        student.dense.weight.copy_(turned @ student.dense.weight)
        student.dense.weight[-1] = 0
    weight = turned @ projection.weight
    weight[-1] = 0
    return Projection(projection.mean, weight)


class WeightedBatches(Batches):
    """Batches whose query targets carry their weights in the last dimension.

    Attributes:
        token_weights: The weight of every entry of the vocabulary in a query.
    """

    def __init__(
        self,
        shards: list[Shard],
        projection: Projection,
        tokenizer: Tokenizer,
        preset: Preset,
        token_weights: np.ndarray,
    ) -> None:
        super().__init__(shards, projection, tokenizer, preset)
        self.token_weights = torch.from_numpy(token_weights)

    def build(self, which: int, chosen: list[int]) -> Batch:
        """Gathers a batch and shortens the targets of its queries to their weights."""
        batch = super().build(which, chosen)
        weight = self.token_weights[batch.ids["query"]]
        targets = batch.targets["query"] * weight[:, :, None]
        targets[:, :, -1] = (1 - weight**2).sqrt()
        batch.targets["query"] = targets
        return batch


@dataclass
class Contrast:
    """Pairs that have to be told from their neighbours.

    Attributes:
        neighbours: Where pairs come from.
        plain: Tokenizer without prefix tokens, for texts.
        prefixes: Ids of the prefix tokens, by role.
        drop: Ids that are left out, by role.
        lengths: Longest text, by role. They are cut shorter than the student's, since that makes steps cheaper.
        pairs: Pairs in a step.
        temperature: MaxSim sums are divided by this before the softmax.
        seed: Seed of the draws.
    """

    neighbours: Neighbours
    plain: Tokenizer
    prefixes: dict[str, int]
    drop: dict[str, np.ndarray]
    lengths: dict[str, int]
    pairs: int
    temperature: float
    seed: int

    @staticmethod
    def build(
        pairs: list[Pair],
        words: torch.Tensor,
        tokenizer: Tokenizer,
        plain: Tokenizer,
        lengths: tuple[int, int],
        arguments: argparse.Namespace,
        halves: float = 0.0,
    ) -> Contrast:
        """Clusters the pairs.

        Args:
            pairs: The training pairs.
            words: Embedding of every vocabulary entry, ``[vocabulary, width]``.
            tokenizer: With prefix tokens.
            plain: Without.
            lengths: Longest query and document.
            arguments: ``cluster``, ``contrast_pairs``, ``temperature`` and ``seed`` of the command line.
            halves: How often half of a text asks for its other half.
        """
        frequencies = document_frequencies(pairs)
        return Contrast(
            Neighbours.build(pairs, frequencies, words, plain, arguments.cluster, arguments.seed, halves),
            plain,
            {"query": tokenizer.token_to_id(QUERY_PREFIX), "document": tokenizer.token_to_id(DOCUMENT_PREFIX)},
            {"query": np.array([], dtype=np.int64), "document": np.array(skip_ids(tokenizer))},
            dict(zip(("query", "document"), lengths, strict=True)),
            arguments.contrast_pairs,
            arguments.temperature,
            arguments.seed,
        )

    def loss(self, student: TokenModel, step: int) -> tuple[torch.Tensor, float, int]:
        """Cross-entropy of a step's queries over its documents.

        Returns:
            The loss; the share of queries whose own document is first; how many tokens were encoded.
        """
        texts = dict(zip(("query", "document"), self.neighbours.texts(step, self.pairs, self.seed), strict=True))
        rows = {
            role: [with_prefix(row, self.prefixes[role]) for row in encode_texts(self.plain, of, self.lengths[role])]
            for role, of in texts.items()
        }
        query, document = (embed_rows(student, rows[role], self.drop[role]) for role in ("query", "document"))
        scores = text_scores_of(query, document)
        wanted = torch.arange(len(query), device=scores.device)
        right = (scores.argmax(1) == wanted).float().mean().item()
        loss = functional.cross_entropy(scores / self.temperature, wanted)
        return loss, right, sum(len(row) for of in rows.values() for row in of)


def embed_rows(student: TokenModel, rows: list[np.ndarray], drop: np.ndarray) -> list[torch.Tensor]:
    """Embeds id rows, with gradients: normalised, without the tokens in ``drop``."""
    device = student.dense.weight.device
    ids, mask = pad(rows)
    with torch.autocast(device.type, torch.bfloat16):
        tokens = student.forward_by_length(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device), 3)
    tokens = functional.normalize(tokens.float(), dim=-1)
    keep = torch.from_numpy(mask.astype(bool) & ~np.isin(ids, drop)).to(device)
    return [row[kept] for row, kept in zip(tokens, keep, strict=True)]


class Tuner:
    """The loop and its state on disk."""

    def __init__(
        self,
        student: TokenModel,
        batches: Batches | None,
        contrast: Contrast,
        arguments: argparse.Namespace,
        state: Path,
    ) -> None:
        self.student = student
        self.batches = batches
        self.contrast = contrast
        self.arguments = arguments
        self.state = state
        self.device = student.dense.weight.device
        self.optimiser = torch.optim.AdamW(
            student.parameters(), lr=arguments.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        self.step = 0

    def save(self) -> None:
        """Writes what a later run needs to go on; the draws follow from the step."""
        state = {
            "student": self.student.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "projection": None if self.batches is None else vars(self.batches.projection),
            "step": self.step,
        }
        write_state(self.state, state)

    def resume(self) -> None:
        """Reads the state of a stopped run, if there is one."""
        if not self.state.exists():
            return
        saved = torch.load(self.state, map_location="cpu", weights_only=True)
        self.student.load_state_dict(saved["student"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step = saved["step"]
        print(f"continuing at step {self.step}", flush=True)

    def learning_rate(self) -> float:
        """Linear up, constant, linear down to nothing over the last 80 % of the steps it is planned for."""
        steps = self.arguments.rate_steps or self.arguments.steps
        return self.arguments.lr * min(1.0, (self.step + 1) / 50, (steps - self.step) / (0.8 * steps))

    def one_step(self, batch: Batch | None) -> np.ndarray:
        """Takes one step; returns token loss (0 without a batch), contrast, share of right queries, tokens."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        loss = entropy = torch.zeros(())
        right, tokens = 0.0, 0
        # One backward pass for each loss, so that the two sets of texts need not be in memory together.
        if self.step >= self.arguments.contrast_from:
            entropy, right, tokens = self.contrast.loss(self.student, self.step)
            (self.arguments.contrast * entropy).backward()
        if batch is not None:
            loss = token_loss(encode_batch(self.student, batch), batch)
            (self.arguments.token_loss * loss).backward()
            tokens += int(sum(mask.sum() for mask in batch.mask.values()))
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return np.array([loss.item(), entropy.item(), right, tokens])

    def run(self, held_out: HeldOut) -> None:
        """Goes on to the last step, saving and evaluating on the way."""
        last = self.arguments.steps
        if self.arguments.stop_after is not None:
            last = min(last, self.step + self.arguments.stop_after)
        self.student.train()
        upcoming: Iterator[Batch] | None = None if self.batches is None else self.batches.from_step(self.step)
        sums, counted, started = np.zeros(4), 0, time.time()
        while self.step < last:
            sums += self.one_step(None if upcoming is None else to_device(next(upcoming), self.device))
            counted += 1
            at_end = self.step == last
            if self.step % (_SAVE_EVERY // 2) == 0 or at_end:
                loss, entropy, right, _ = sums / counted
                rate = sums[3] / (time.time() - started)
                print(
                    f"step {self.step} token loss {loss:.4f} contrast {entropy:.4f} right {right:.4f} "
                    f"tokens/s {rate:.0f}",
                    flush=True,
                )
                sums, counted, started = np.zeros(4), 0, time.time()
            if self.step % _SAVE_EVERY == 0 or at_end:
                self.save()
            if self.step % (4 * _SAVE_EVERY) == 0 or at_end:
                scores = held_out.measure(self.student.eval(), self.device)
                print("held-out " + " ".join(f"{kind} {score:.4f}" for kind, score in scores.items()), flush=True)
                self.student.train()
                started = time.time()


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="what train.py made")
    parser.add_argument("--pairs", nargs="+", required=True, help="folders or .jsonl(.gz) files: query, document")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu", help="as in train.py")
    parser.add_argument("--teacher", help="as in train.py")
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes, and the state")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate-steps", type=int, help="step at which the rate would be nothing; default: the last")
    parser.add_argument("--stop-after", type=int, help="stop after this many steps, to be continued")
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--contrast", type=float, default=1.0, help="weight of the contrast")
    parser.add_argument("--contrast-from", type=int, default=0, help="step from which on it joins")
    parser.add_argument("--contrast-pairs", type=int, default=64, help="pairs in a step")
    parser.add_argument("--temperature", type=float, default=1.0, help="MaxSim sums are divided by this")
    parser.add_argument("--token-loss", type=float, default=0.0, help="weight of the distillation, which goes on")
    parser.add_argument("--work", type=Path, help="work folder of train.py, for the distillation")
    parser.add_argument("--shards", type=int, default=24, help="teacher shards for it, from the last")
    parser.add_argument("--weights", action="store_true", help="queries learn weights; needs --token-loss")
    parser.add_argument("--cluster", type=int, default=400, help="documents in a cluster of neighbours")
    parser.add_argument("--halves", type=float, default=0.0, help="share of queries that are half of their text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.weights and not arguments.token_loss:
        parser.error("--weights are learned by the distillation: give --token-loss")
    if arguments.token_loss and arguments.work is None:
        parser.error("--token-loss needs --work, the work folder of train.py that holds targets and projection")
    return arguments


def distillation(
    student: Student,
    tokenizer: Tokenizer,
    preset: Preset,
    arguments: argparse.Namespace,
    saved: dict[str, Any] | None,
) -> Batches:
    """The batches that the distillation goes on with; makes room for weights where they are wanted and not yet there.

    Raises:
        FileNotFoundError: The work folder has no targets.
        ValueError: The run that is to be continued had no distillation.
    """
    paths = sorted((arguments.work / "targets").glob("shard-*.npz"))[-arguments.shards :]
    if not paths:
        raise FileNotFoundError(f"no shard in {arguments.work / 'targets'}: --work is the work folder of train.py")
    shards = [Shard.load(path) for path in paths]
    # With another seed than train.py's the batches are others than those that the student has seen.
    preset = replace(preset, seed=preset.seed + arguments.seed)
    projection = Projection.load(arguments.work / "projection.pt")
    if saved is not None:
        if saved["projection"] is None:
            raise ValueError(f"the run in {arguments.out} was begun without --token-loss: choose another --out")
        projection = Projection(**saved["projection"])
    elif arguments.weights:
        projection = make_room(student, projection, shards[0])
    if not arguments.weights:
        return Batches(shards, projection, tokenizer, preset)
    return WeightedBatches(shards, projection, tokenizer, preset, query_weights(shards[:_SAMPLE], tokenizer))


def main() -> None:
    """Tunes and writes the checkpoint."""
    arguments = parse()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preset = PRESETS[arguments.preset]
    teacher_folder = find_teacher(arguments.teacher)
    student, tokenizer, lengths = load_checkpoint(arguments.checkpoint)
    student.to(device)
    plain = build_tokenizer(teacher_folder, prefixes=False)
    train_pairs, held_pairs = split_pairs(read_pairs(find_pair_files(arguments.pairs)), preset.held_out_share)
    held_out = make_held_out(held_pairs, tokenizer, lengths, preset)
    arguments.out.mkdir(parents=True, exist_ok=True)
    state = arguments.out / "tune-state.pt"
    saved = torch.load(state, map_location="cpu", weights_only=True) if state.exists() else None
    batches = distillation(student, tokenizer, preset, arguments, saved) if arguments.token_loss else None
    if saved is None:
        save_checkpoint(student, tokenizer, arguments.out / "start", *lengths)
    words = Teacher(teacher_folder, torch.device("cpu")).word_embeddings()
    cut = (min(200, lengths[0]), min(200, lengths[1]))
    contrast = Contrast.build(train_pairs, words, tokenizer, plain, cut, arguments, arguments.halves)
    tuner = Tuner(student, batches, contrast, arguments, state)
    tuner.resume()
    tuner.run(held_out)
    save_checkpoint(student, tokenizer, arguments.out, *lengths)
    if tuner.step >= arguments.steps:
        round_to_int8(student.eval())
        print(f"weights rounded to int8: held-out mean {held_out.measure(student, device)['mean']:.4f}", flush=True)
        print(f"finished: checkpoint in {arguments.out}", flush=True)
    else:
        print(f"stopped early: checkpoint in {arguments.out}", flush=True)


if __name__ == "__main__":
    main()

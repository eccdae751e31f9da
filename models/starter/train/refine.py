"""Distils the order in which a tuned teacher puts neighbours into a student.

    python refine.py CHECKPOINT --pairs DIR_OR_FILES --teacher TUNED --projection WORK/projection.pt --out CHECKPOINT

``train.py`` distils over texts drawn at random, where nearly every document but a query's own is wrong, and ``tune.py``
knows only one right document among neighbours, though others may be as good. Here batches are corners, as in tune.py,
and the teacher of tune_teacher.py says how near each document comes to each query; beside short queries some whole
documents ask for others. Three losses: tokens like the teacher's, as in train.py; the order of a corner, with and
without a query's own document, which otherwise takes all of the divergence; and the contrast of tune.py, so that words
are not lost over subjects.

The same command again continues a stopped run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from data import (
    DOCUMENT_PREFIX,
    QUERY_PREFIX,
    build_tokenizer,
    document_frequencies,
    find_pair_files,
    read_pairs,
    split_pairs,
    with_prefix,
)
from evaluate import HeldOut, load_checkpoint, skip_ids
from neighbours import Neighbours
from projection import Projection, dequantise, groups_of, text_scores_of
from student import Student, round_to_int8, save_checkpoint
from teacher import Shard, Teacher, cache_shards, find_teacher
from tokenizers import Tokenizer
from torch.nn import functional
from train import PRESETS, Preset, learning_rate, make_held_out, make_optimisers, write_state
from transformers.utils import logging
from tune import embed_rows

# MaxSim sums of a query of so many tokens go into the softmax as they are. Those of a longer one are divided by the
# root of how many times as long it is: a sum of more tokens spreads wider, and its softmax would see one document.
TOKENS_AT_ONE = 8
_SAVE_EVERY = 250


@dataclass
class Corner:
    """Some documents of a corner and what asks for them.

    Attributes:
        rows: Token ids without prefix, by role (``document`` or ``query``).
        states: The teacher's states of each text, by role.
        own: For each query which of the documents it was made of.
        whole: For each query whether it is that document itself.
    """

    rows: dict[str, list[np.ndarray]]
    states: dict[str, list[torch.Tensor]]
    own: torch.Tensor
    whole: torch.Tensor


def read_corner(shard: Shard, groups: list[tuple[int, list[int]]], wholes: int, rng: np.random.Generator) -> Corner:
    """Gathers some documents of a shard with all of their queries.

    Args:
        shard: One corner.
        groups: Views of the documents, each with those of its queries.
        wholes: How many of them ask for the others, too.
        rng: Draws those.
    """
    documents = [document for document, _ in groups]
    asked = [(query, i) for i, (_, queries) in enumerate(groups) for query in queries]
    drawn = rng.choice(len(groups), size=min(wholes, len(groups)), replace=False)
    whole = torch.tensor([False] * len(asked) + [True] * len(drawn))
    asked += [(documents[i], int(i)) for i in drawn]
    views = {"document": documents, "query": [view for view, _ in asked]}
    starts = shard.starts
    rows, states = {}, {}
    for role, members in views.items():
        lengths = shard.lengths[members].tolist()
        rows[role] = [shard.ids[starts[v] : starts[v] + shard.lengths[v]] for v in members]
        states[role] = list(dequantise(shard, members)[0].split(lengths))
    return Corner(rows, states, torch.tensor([i for _, i in asked]), whole)


def with_text_vector(tokens: torch.Tensor) -> torch.Tensor:
    """Normalises a text's tokens and puts their normalised mean where the prefix token is, after [CLS]."""
    text = functional.normalize(tokens.mean(0, keepdim=True), dim=1)
    tokens = functional.normalize(tokens, dim=1)
    return torch.cat([tokens[:1], text, tokens[1:]])


def order_divergence(
    ours: torch.Tensor, wanted: torch.Tensor, own: torch.Tensor, query_lengths: torch.Tensor
) -> torch.Tensor:
    """Divergence of the wanted order of a corner from ours: among all documents, and among all but the own.

    Args:
        ours: The student's MaxSim sums, ``[queries, documents]``.
        wanted: The teacher's.
        own: For each query its own document.
        query_lengths: Tokens of each query.

    Returns:
        Two numbers: of all, and of the others.
    """
    temperature = (query_lengths / TOKENS_AT_ONE).sqrt().clamp_min(1)[:, None]
    is_own = torch.zeros_like(ours, dtype=torch.bool).scatter(1, own[:, None], True)
    parts = []
    for hidden in (torch.zeros_like(is_own), is_own):
        given, target = (
            functional.log_softmax((scores / temperature).masked_fill(hidden, -1e4), 1) for scores in (ours, wanted)
        )
        parts.append(functional.kl_div(given, target, reduction="batchmean", log_target=True))
    return torch.stack(parts)


class Refiner:
    """The loop and its state on disk."""

    def __init__(
        self,
        student: Student,
        shards: list[Shard],
        projection: Projection,
        tokenizer: Tokenizer,
        preset: Preset,
        arguments: argparse.Namespace,
        state: Path,
    ) -> None:
        self.student = student
        self.shards = shards
        self.groups = [groups_of(shard) for shard in shards]
        self.projection = projection
        self.prefixes = {
            "query": tokenizer.token_to_id(QUERY_PREFIX),
            "document": tokenizer.token_to_id(DOCUMENT_PREFIX),
        }
        self.skip = np.array(skip_ids(tokenizer))
        self.preset = preset
        self.arguments = arguments
        self.state = state
        self.device = student.dense.weight.device
        self.optimisers = make_optimisers(student, preset)
        self.peaks = [[group["lr"] for group in optimiser.param_groups] for optimiser in self.optimisers]
        self.step = 0

    def save(self) -> None:
        """Writes what a later run needs to go on; the corners follow from the step."""
        state = {
            "student": self.student.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
        }
        write_state(self.state, state)

    def resume(self) -> None:
        """Reads the state of a stopped run, if there is one."""
        if not self.state.exists():
            return
        saved = torch.load(self.state, map_location="cpu", weights_only=True)
        self.student.load_state_dict(saved["student"])
        for optimiser, of in zip(self.optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(of)
        self.step = saved["step"]
        print(f"continuing at step {self.step}", flush=True)

    def plan(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields for each step a shard and documents of it; the order depends on the seed alone."""
        for sweep in range(10**9):
            rng = np.random.default_rng([self.arguments.seed, sweep])
            parts: list[tuple[int, np.ndarray]] = []
            for which, groups in enumerate(self.groups):
                order = rng.permutation(len(groups))
                count = max(1, round(len(order) / self.arguments.documents))
                parts += [(which, part) for part in np.array_split(order, count)]
            for i in rng.permutation(len(parts)):
                yield parts[i]

    def losses(self, corner: Corner) -> tuple[torch.Tensor, int]:
        """Returns token loss, the two divergences and the contrast, and how many tokens were encoded."""
        rows = {role: [with_prefix(row, self.prefixes[role]) for row in of] for role, of in corner.rows.items()}
        kept = {
            "query": [torch.ones(len(row), dtype=torch.bool, device=self.device) for row in rows["query"]],
            "document": [torch.from_numpy(~np.isin(row, self.skip)).to(self.device) for row in rows["document"]],
        }
        nothing = np.array([], dtype=np.int64)
        outputs = {role: embed_rows(self.student, of, nothing) for role, of in rows.items()}
        full, targets, errors, weights = {}, {}, [], []
        with torch.no_grad():
            mean = self.projection.mean.to(self.device)
            for role, of in corner.states.items():
                states = [state.to(self.device) for state in of]
                full[role] = [with_text_vector(s - mean)[keep] for s, keep in zip(states, kept[role], strict=True)]
                targets[role] = [with_text_vector(self.projection.apply(s)) for s in states]
        for role, wanted_tokens in targets.items():
            # As in train.py: what documents leave out is not learned, and the text vector is one token of many.
            for output, target, keep in zip(outputs[role], wanted_tokens, kept[role], strict=True):
                weight = keep.float() * (self.preset.query_weight if role == "query" else 1.0)
                weight[1] *= self.preset.text_weight
                errors.append(weight * (1 - (output * target).sum(1)))
                weights.append(weight)
        token = torch.cat(errors).sum() / torch.cat(weights).sum()
        ours = text_scores_of(
            outputs["query"], [output[keep] for output, keep in zip(outputs["document"], kept["document"], strict=True)]
        )
        with torch.no_grad():
            # bfloat16 is three times as fast, and its error is far below the student's.
            wanted = text_scores_of([q.bfloat16() for q in full["query"]], [d.bfloat16() for d in full["document"]])
        own, asked = corner.own.to(self.device), ~corner.whole.to(self.device)
        lengths = torch.tensor([float(len(row)) for row in rows["query"]], device=self.device)
        divergences = order_divergence(ours, wanted, own, lengths)
        entropy = functional.cross_entropy(ours[asked], own[asked])
        return torch.cat([token[None], divergences, entropy[None]]), sum(len(row) for of in rows.values() for row in of)

    def one_step(self, which: int, chosen: np.ndarray) -> tuple[np.ndarray, int]:
        """Takes one step; returns its losses and how many tokens were encoded."""
        factor = learning_rate(self.step, self.preset)
        for optimiser, peaks in zip(self.optimisers, self.peaks, strict=True):
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        rng = np.random.default_rng([self.arguments.seed, self.step, 1])
        groups = [self.groups[which][i] for i in chosen]
        corner = read_corner(self.shards[which], groups, self.arguments.wholes, rng)
        losses, tokens = self.losses(corner)
        shares = [self.arguments.token_loss, *[self.arguments.order] * 2, self.arguments.contrast]
        (losses * torch.tensor(shares, device=self.device)).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return losses.detach().float().cpu().numpy(), tokens

    def run(self, held_out: HeldOut) -> None:
        """Goes on to the last step, saving and evaluating on the way."""
        last = self.preset.steps
        if self.arguments.stop_after is not None:
            last = min(last, self.step + self.arguments.stop_after)
        self.student.train()
        sums, counted, tokens, started = np.zeros(4), 0, 0, time.time()
        for which, chosen in islice(self.plan(), self.step, last):
            losses, encoded = self.one_step(which, chosen)
            sums, counted, tokens = sums + losses, counted + 1, tokens + encoded
            at_end = self.step == last
            if self.step % (_SAVE_EVERY // 5) == 0 or at_end:
                token, of_all, of_others, entropy = sums / counted
                print(
                    f"step {self.step} token loss {token:.4f} order {of_all:.4f}, without the own {of_others:.4f} "
                    f"contrast {entropy:.4f} tokens/s {tokens / (time.time() - started):.0f}",
                    flush=True,
                )
                sums, counted, tokens, started = np.zeros(4), 0, 0, time.time()
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
    parser.add_argument("checkpoint", type=Path, help="what train.py, tune.py or mix.py made")
    parser.add_argument("--pairs", nargs="+", required=True, help="folders or .jsonl(.gz) files: query, document")
    parser.add_argument("--teacher", required=True, help="what tune_teacher.py made, or another with the same states")
    parser.add_argument("--projection", type=Path, required=True, help="projection.pt in the work folder of train.py")
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument("--work", type=Path, help="where the state goes; default: OUT/work")
    parser.add_argument("--targets", type=Path, help="where corners go, which runs can share; default: WORK/corners")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu", help="as in train.py")
    parser.add_argument("--corners", type=int, default=224)
    parser.add_argument("--corner-documents", type=int, default=96, help="documents in a corner")
    parser.add_argument("--cluster", type=int, default=400, help="documents in a cluster that corners are drawn from")
    parser.add_argument("--documents", type=int, default=32, help="documents in a step, about")
    parser.add_argument("--wholes", type=int, default=3, help="documents in a step that ask for others")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--stop-after", type=int, help="stop after this many steps, to be continued")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of AdamW")
    parser.add_argument("--muon-lr", type=float, default=2e-3, help="peak learning rate of Muon, for the layers")
    parser.add_argument("--token-loss", type=float, default=4.0, help="weight of the token loss")
    parser.add_argument("--order", type=float, default=3.0, help="weight of the order of a corner")
    parser.add_argument("--contrast", type=float, default=0.3, help="weight of the contrast")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Makes what corners are missing, trains, and writes the checkpoint."""
    arguments = parse()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # A rate that falls from the end of the warm-up on.
    preset = replace(
        PRESETS[arguments.preset],
        lr=arguments.lr,
        muon_lr=arguments.muon_lr,
        steps=arguments.steps,
        cooldown=1.0,
    )
    student, tokenizer, lengths = load_checkpoint(arguments.checkpoint)
    pairs, held_pairs = split_pairs(read_pairs(find_pair_files(arguments.pairs)), preset.held_out_share)
    work: Path = arguments.work or arguments.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    teacher_folder = find_teacher(arguments.teacher)
    teacher = Teacher(teacher_folder, device)
    plain = build_tokenizer(teacher_folder, prefixes=False)
    neighbours = Neighbours.build(
        pairs, document_frequencies(pairs), teacher.word_embeddings(), plain, arguments.cluster, preset.seed
    )
    paths = cache_shards(
        teacher,
        plain,
        (neighbours.views(i, arguments.corner_documents, preset.seed) for i in range(arguments.corners)),
        arguments.targets or work / "corners",
        (preset.query_length, preset.document_length),
        preset.teacher_batch,
    )
    refiner = Refiner(
        student.to(device),
        [Shard.load(path) for path in paths],
        Projection.load(arguments.projection),
        tokenizer,
        preset,
        arguments,
        work / "refine-state.pt",
    )
    held_out = make_held_out(held_pairs, tokenizer, lengths, preset)
    refiner.resume()
    refiner.run(held_out)
    save_checkpoint(student, tokenizer, arguments.out, *lengths)
    if refiner.step >= arguments.steps:
        round_to_int8(student.eval())
        print(f"weights rounded to int8: held-out mean {held_out.measure(student, device)['mean']:.4f}", flush=True)
        print(f"finished: checkpoint in {arguments.out}", flush=True)
    else:
        print(f"stopped early: checkpoint in {arguments.out}", flush=True)


if __name__ == "__main__":
    main()

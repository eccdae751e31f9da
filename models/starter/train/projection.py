"""From the teacher's hidden states to the token embeddings the student has to reproduce.

A projection is a mean, which is taken away so that no direction is shared by all tokens, and a matrix to the student's
dimension. It starts as the principal components and is then turned a little, so that MaxSim over projected tokens
ranks like MaxSim over the teacher's full states and puts a query's own document first.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from teacher import Shard
from torch.nn import functional


@dataclass
class Projection:
    """Token target = normalised ``(state - mean) @ weight.T``.

    Attributes:
        mean: Mean teacher state, ``[teacher]``.
        weight: Matrix ``[dim, teacher]``.
    """

    mean: torch.Tensor
    weight: torch.Tensor

    def apply(self, states: torch.Tensor) -> torch.Tensor:
        """Projects states without normalising them."""
        return (states - self.mean.to(states.device)) @ self.weight.to(states.device).T

    def save(self, path: Path) -> None:
        """Writes the projection."""
        torch.save(vars(self), path)

    @staticmethod
    def load(path: Path) -> Projection:
        """Reads a projection."""
        return Projection(**torch.load(path, weights_only=True))


def groups_of(shard: Shard) -> list[tuple[int, list[int]]]:
    """Returns each document view of a shard with the query views that were drawn from the same pair."""
    groups: list[tuple[int, list[int]]] = []
    for i, is_query in enumerate(shard.is_query):
        if not is_query:
            groups.append((i, []))
        elif groups:
            groups[-1][1].append(i)
    return [group for group in groups if group[1]]


def dequantise(shard: Shard, views: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Gives the states of some views on end, and to which of them (0, 1, …) each token belongs."""
    starts = shard.starts
    rows = np.concatenate([np.arange(starts[v], starts[v] + shard.lengths[v]) for v in views])
    states = torch.from_numpy(shard.states[rows]).float() * torch.from_numpy(shard.scales[rows])[:, None]
    owner = np.repeat(np.arange(len(views)), shard.lengths[views])
    return states, torch.from_numpy(owner)


class _BestMatches(torch.autograd.Function):
    """The similarity of every query token to the token of every document that is nearest to it.

    Only those pairs have a gradient. Left to itself autograd multiplies whole matrices that are zero almost everywhere,
    which took four times as long (3,400 tokens against 6,700 of 48 documents, 96 dimensions, one core).
    """

    @staticmethod
    def forward(context: Any, query: torch.Tensor, document: torch.Tensor, document_lengths: list[int]) -> torch.Tensor:
        best, nearest, start = [], [], 0
        for part in document.split(document_lengths):
            values, places = (query @ part.T).max(1)
            best.append(values.float())
            nearest.append(places + start)
            start += len(part)
        context.save_for_backward(query, document, torch.stack(nearest, dim=1))
        return torch.stack(best, dim=1)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        query, document, nearest = context.saved_tensors
        of_query, of_document = torch.zeros_like(query), torch.zeros_like(document)
        for gradient, places in zip(gradients[0].to(query.dtype).T, nearest.T, strict=True):
            of_query += gradient[:, None] * document[places]
            of_document.index_add_(0, places, gradient[:, None] * query)
        return of_query, of_document, None


def maxsim_matrix(
    query: torch.Tensor, query_owner: torch.Tensor, document: torch.Tensor, document_lengths: list[int]
) -> torch.Tensor:
    """MaxSim of every query with every document, both given as tokens on end; float32 sums, differentiable."""
    best = _BestMatches.apply(query, document, document_lengths)
    count = int(query_owner.max()) + 1
    return torch.zeros(count, best.shape[1], device=best.device).index_add(0, query_owner, best)


def text_scores_of(queries: list[torch.Tensor], documents: list[torch.Tensor]) -> torch.Tensor:
    """MaxSim sums ``[queries, documents]`` of texts given one by one as their tokens; differentiable."""
    device = queries[0].device
    owner = torch.repeat_interleave(
        torch.arange(len(queries), device=device), torch.tensor([len(tokens) for tokens in queries], device=device)
    )
    return maxsim_matrix(torch.cat(queries), owner, torch.cat(documents), [len(tokens) for tokens in documents])


def with_sentence(tokens: torch.Tensor, owner: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalises tokens and appends each text's normalised mean, which is what the prefix token stands for."""
    count = int(owner.max()) + 1
    mean = torch.zeros(count, tokens.shape[1], device=tokens.device).index_add(0, owner, tokens)
    owner = torch.cat([owner, torch.arange(count, device=owner.device)])
    order = torch.argsort(owner, stable=True)
    return functional.normalize(
        torch.cat([functional.normalize(tokens, dim=1), functional.normalize(mean, dim=1)])[order], dim=1
    ), owner[order]


def principal_components(shards: list[Shard], dim: int) -> Projection:
    """Fits the mean and the first principal components of the teacher's states."""
    sample = torch.cat([dequantise(s, list(range(len(s.lengths))))[0] for s in shards[:2]])
    mean = sample.mean(0)
    centred = sample - mean
    _, vectors = torch.linalg.eigh((centred.T @ centred) / len(centred))
    return Projection(mean, vectors[:, -dim:].flip(1).T.contiguous())


def tune_projection(
    start: Projection, shards: list[Shard], steps: int, batch: int, contrastive: float, seed: int, lr: float = 1e-3
) -> Projection:
    """Turns a projection towards the rankings of the teacher's full states and of the pairs.

    Args:
        start: Where to start; left unchanged.
        shards: Shards with queries behind their documents.
        steps: Gradient steps.
        batch: Documents a step; each has one query and is a negative for the others.
        contrastive: Weight of the cross-entropy on the pairs beside the divergence from the full states' scores.
        seed: Seed of the draws.
        lr: Peak learning rate.
    """
    rng = np.random.default_rng(seed)
    weight = start.weight.clone().requires_grad_(True)
    optimiser = torch.optim.AdamW([weight], lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    grouped = [groups_of(shard) for shard in shards]
    started = time.time()
    for step in range(steps):
        which = int(rng.integers(len(shards)))
        chosen = rng.choice(len(grouped[which]), size=min(batch, len(grouped[which])), replace=False)
        documents = [grouped[which][i][0] for i in chosen]
        queries = [int(rng.choice(grouped[which][i][1])) for i in chosen]
        document_states, document_owner = dequantise(shards[which], documents)
        query_states, query_owner = dequantise(shards[which], queries)
        scores = []
        for projection in (None, weight):
            parts = []
            for states, owner in ((query_states, query_owner), (document_states, document_owner)):
                centred = states - start.mean
                parts.append(with_sentence(centred if projection is None else centred @ projection.T, owner))
            lengths = torch.bincount(parts[1][1]).tolist()
            scores.append(maxsim_matrix(parts[0][0], parts[0][1], parts[1][0], lengths))
        full, ours = scores[0].detach(), scores[1]
        divergence = functional.kl_div(
            functional.log_softmax(ours, 1), functional.log_softmax(full, 1), reduction="batchmean", log_target=True
        )
        entropy = functional.cross_entropy(ours, torch.arange(len(chosen)))
        loss = divergence + contrastive * entropy
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            print(
                f"projection step {step + 1}/{steps}: divergence {divergence.item():.4f} entropy {entropy.item():.4f} "
                f"{time.time() - started:.0f} s",
                flush=True,
            )
    return Projection(start.mean, weight.detach())

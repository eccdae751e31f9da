"""Batches of pairs whose documents are alike, so that telling them apart teaches something."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from data import Pair, View, encode_texts, query_views, rare_words
from tokenizers import Tokenizer
from torch.nn import functional

# How often a batch comes from a source, whatever its size; a source that is not named counts 1.
SOURCE_WEIGHTS = {"wiki": 4.0, "arxiv": 3.0, "medquad": 1.5, "squad": 1.5, "wordnet": 0.5}
_FEWEST = 32
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def static_vectors(words: torch.Tensor, rows: list[np.ndarray]) -> torch.Tensor:
    """A vector for each text from word embeddings alone, rare words counting more: enough to find neighbours.

    Args:
        words: Embedding of every vocabulary entry, ``[vocabulary, width]``.
        rows: Token ids of each text.

    Returns:
        ``[texts, width]``, of unit length.
    """
    counts = np.bincount(np.concatenate(rows), minlength=len(words)).astype(np.float64)
    rarity = torch.from_numpy(np.log(counts.sum() / np.maximum(counts, 1))).float()
    weighted = (words - words.mean(0)) * rarity[:, None]
    vectors = torch.stack([weighted[torch.from_numpy(np.unique(row)).long()].mean(0) for row in rows])
    return functional.normalize(vectors - vectors.mean(0), dim=1)


def cluster(vectors: torch.Tensor, count: int, seed: int) -> list[np.ndarray]:
    """Spherical k-means, eight rounds; returns the members of each of ``count`` clusters."""
    generator = torch.Generator().manual_seed(seed)
    centres = vectors[torch.randperm(len(vectors), generator=generator)[:count]]
    nearest = torch.zeros(len(vectors), dtype=torch.long)
    for _ in range(8):
        nearest = torch.cat([(part @ centres.T).argmax(1) for part in vectors.split(8192)])
        centres = functional.normalize(torch.zeros_like(centres).index_add(0, nearest, vectors), dim=1)
    return [np.flatnonzero((nearest == i).numpy()) for i in range(count)]


@dataclass
class Neighbours:
    """Draws the pairs of a step from one cluster of one source.

    Attributes:
        pairs: All pairs.
        clusters: Positions of the pairs of each cluster.
        shares: How likely each cluster is to be drawn.
        frequencies: Document frequencies of words, for queries of rare words.
        halves: How often half of a text asks for its other half.
    """

    pairs: list[Pair]
    clusters: list[list[int]]
    shares: np.ndarray
    frequencies: Counter[str]
    halves: float = 0.0

    @staticmethod
    def build(
        pairs: list[Pair],
        frequencies: Counter[str],
        words: torch.Tensor,
        tokenizer: Tokenizer,
        size: int,
        seed: int,
        halves: float = 0.0,
    ) -> Neighbours:
        """Clusters the documents of each source by themselves, about ``size`` to a cluster.

        Raises:
            ValueError: The clusters are too small to tell anything apart.
        """
        by_source: dict[str, list[int]] = {}
        for i, pair in enumerate(pairs):
            by_source.setdefault(pair.source, []).append(i)
        clusters: list[list[int]] = []
        shares: list[float] = []
        for source, members in sorted(by_source.items()):
            rows = encode_texts(tokenizer, [pairs[i].document for i in members], 128)
            weight = SOURCE_WEIGHTS.get(source, 1.0) / len(members)
            for part in cluster(static_vectors(words, rows), max(1, len(members) // size), seed):
                if len(part) >= min(_FEWEST, len(members)):
                    clusters.append([members[j] for j in part])
                    shares.append(weight * len(part))
        if not clusters:
            raise ValueError(
                f"no cluster has {_FEWEST} documents; expected clusters of about {size}: choose a larger --cluster"
            )
        return Neighbours(pairs, clusters, np.array(shares) / np.sum(shares), frequencies, halves)

    def texts(self, step: int, batch: int, seed: int) -> tuple[list[str], list[str]]:
        """Returns queries and their documents; no document and no query occurs twice.

        Args:
            step: Number of the step, which together with the seed decides what is drawn.
            batch: How many pairs, fewer where a cluster has fewer.
            seed: Seed.
        """
        rng = random.Random(f"{seed} {step}")  # noqa: S311 - a reproducible draw, no secret
        queries: list[str] = []
        documents: list[str] = []
        for pair in islice(self._draw(rng), batch):
            query, document = pair.query, pair.document
            draw = rng.random()
            sentences = [sentence for sentence in _SENTENCE_END.split(document) if 30 <= len(sentence) <= 300]
            if draw < 0.15 and len(sentences) > 2:
                # A sentence asks for the rest of its text, so that not only the same words are learned.
                query = rng.choice(sentences)
                document = f"{pair.query} {document.replace(query, ' ')}"
            elif draw < 0.3:
                query = rare_words(document, self.frequencies, rng.randint(2, 6), rng) or query
                document = f"{pair.query} {document}"
            elif draw < 0.3 + self.halves and len(sentences) > 3:
                # Queries as long as texts, such as somebody pastes.
                middle = rng.randint(len(sentences) // 3, 2 * len(sentences) // 3)
                parts = " ".join(sentences[:middle]), " ".join(sentences[middle:])
                query, document = parts if rng.random() < 0.5 else parts[::-1]
            queries.append(query)
            documents.append(document)
        return queries, documents

    def views(self, corner: int, count: int, seed: int) -> list[View]:
        """Returns documents of one cluster, each with what asks for it behind it: query, sentence, rare words.

        Args:
            corner: A number, which together with the seed decides what is drawn.
            count: How many documents, fewer where the cluster has fewer.
            seed: Seed.
        """
        rng = random.Random(f"{seed} corner {corner}")  # noqa: S311 - a reproducible draw, no secret
        views: list[View] = []
        for pair in islice(self._draw(rng), count):
            titled = rng.random() >= 0.6
            views.append(View(f"{pair.query} {pair.document}" if titled else pair.document, False))
            views += query_views(pair, self.frequencies, rng, 0.5)
        return views

    def _draw(self, rng: random.Random) -> Iterator[Pair]:
        """The pairs of one cluster in random order; no document and no query occurs twice."""
        chosen = self.clusters[rng.choices(range(len(self.clusters)), self.shares.tolist())[0]]
        seen: set[str] = set()
        for i in rng.sample(chosen, len(chosen)):
            pair = self.pairs[i]
            if pair.document in seen or pair.query.lower() in seen:
                continue
            seen |= {pair.document, pair.query.lower()}
            yield pair

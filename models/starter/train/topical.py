"""Measures a checkpoint on subjects instead of single answers: everything about one subject is wanted.

    python topical.py CHECKPOINT [CHECKPOINT ...] --pairs DIR_OR_FILES

The held-out pairs have one answer for each query, which a model may find by its words alone; test collections judge
by subject. Three kinds of queries are made of the pairs, all with several relevant documents: a question of MedQuAD,
with all documents about its disease; a heading of a Wikipedia article, with all paragraphs of that article; and the
beginning of a paragraph, with the others of its article. Documents are drawn from all pairs, trained on or not.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from data import Pair, find_pair_files, read_pairs
from evaluate import load_checkpoint, ndcg_by_kind, text_scores
from student import TokenModel
from tokenizers import Tokenizer

_DISEASE = re.compile(r"(?:\bfor|\bof|\(are\)|causes|prevent|diagnose|treats?)\s+(.+?)\s*\?$")


@dataclass
class Topical:
    """Documents, and queries with all documents that are relevant.

    Attributes:
        documents: Texts.
        queries: Texts.
        kinds: The kind of each query.
        relevant: Positions of each query's relevant documents.
        ignored: Positions of documents that a query may not find: the one it was taken from.
    """

    documents: list[str]
    queries: list[str]
    kinds: list[str]
    relevant: list[set[int]]
    ignored: list[set[int]]

    @staticmethod
    def build(pairs: list[Pair], queries: int = 120, seed: int = 3, passage_words: int = 45) -> Topical:
        """Draws subjects.

        Args:
            pairs: All pairs; those of the sources ``medquad``, ``wiki`` and ``arxiv`` are used.
            queries: Queries of each kind.
            seed: Seed of the draw.
            passage_words: How much of a paragraph asks for the others of its article.
        """
        rng = random.Random(seed)  # noqa: S311 - a reproducible draw, no secret
        position: dict[str, int] = {}
        made = Topical([], [], [], [], [])

        def places(members: list[Pair]) -> set[int]:
            return {position.setdefault(pair.document, len(position)) for pair in members}

        diseases = _groups(pairs, "medquad", _disease, 3, 8, rng)
        for members in diseases[:500]:
            places(members)
        for members in diseases[:queries]:
            made._ask(rng.choice(members).query, "disease", places(members), set())
        articles = _groups(pairs, "wiki", _article, 6, 25, rng)
        for members in articles[: queries + 40]:
            places(members)
        for members in articles[:queries]:
            asked = rng.choice(members)
            everything, own = places(members), places([asked])
            made._ask(asked.query, "heading", everything, set())
            beginning = " ".join(asked.document.split()[:passage_words])
            made._ask(beginning, "passage", everything - own, own)
        strangers = [pair for pair in pairs if pair.source == "arxiv"]
        places(rng.sample(strangers, min(600, len(strangers))))
        made.documents = list(position)
        return made

    def _ask(self, query: str, kind: str, relevant: set[int], ignored: set[int]) -> None:
        self.queries.append(query)
        self.kinds.append(kind)
        self.relevant.append(relevant)
        self.ignored.append(ignored)

    def measure(self, student: TokenModel, tokenizer: Tokenizer, lengths: tuple[int, int]) -> dict[str, float]:
        """Returns nDCG@10 of each kind of query, and their mean as ``mean``."""
        scores = text_scores(student, tokenizer, lengths, self.queries, self.documents).numpy()
        for row, ignored in zip(scores, self.ignored, strict=True):
            row[list(ignored)] = -np.inf
        return ndcg_by_kind(scores, self.kinds, [dict.fromkeys(relevant, 1) for relevant in self.relevant])


def _disease(query: str) -> str | None:
    found = _DISEASE.search(query)
    return found.group(1).lower() if found else None


def _article(query: str) -> str | None:
    """The first two words of what looks like a heading: title and section are not told apart in the pairs."""
    words = query.split()
    looks_so = 3 <= len(words) <= 7 and words[0][0].isupper() and query[-1] not in ".?!"
    if not looks_so or query.startswith(("The ", "List of", "United", "History")):
        return None
    return " ".join(words[:2])


def _groups(
    pairs: list[Pair],
    source: str,
    subject: Callable[[str], str | None],
    fewest: int,
    most: int,
    rng: random.Random,
) -> list[list[Pair]]:
    """The pairs of a source by subject, shuffled; only subjects with so many different documents."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        name = subject(pair.query) if pair.source == source else None
        if name is not None:
            groups[name].append(pair)
    chosen = [members for members in groups.values() if fewest <= len({p.document for p in members}) <= most]
    rng.shuffle(chosen)
    return chosen


def main() -> None:
    """Prints nDCG@10 of each checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--pairs", nargs="+", required=True, help="folders or .jsonl(.gz) files: query, document")
    parser.add_argument("--passage-words", type=int, default=45, help="words of a paragraph that ask for the others")
    parser.add_argument("--query-length", type=int, help="instead of the checkpoint's")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    topical = Topical.build(read_pairs(find_pair_files(arguments.pairs)), passage_words=arguments.passage_words)
    print(f"{len(topical.queries)} queries, {len(topical.documents)} documents", flush=True)
    for folder in arguments.checkpoints:
        student, tokenizer, lengths = load_checkpoint(folder)
        scores = topical.measure(student, tokenizer, (arguments.query_length or lengths[0], lengths[1]))
        print(folder.name + " " + " ".join(f"{kind} {score:.4f}" for kind, score in scores.items()), flush=True)


if __name__ == "__main__":
    main()

"""Encodes texts as PyLate does, scores them with full MaxSim, and measures nDCG@10.

As a program it evaluates a checkpoint on collections in BEIR layout:

    python evaluate.py CHECKPOINT --data FOLDER [FOLDER ...] [--int8]
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from data import (
    DOCUMENT_PREFIX,
    QUERY_PREFIX,
    Pair,
    document_frequencies,
    encode_texts,
    length_buckets,
    pad,
    rare_words,
    with_prefix,
)
from safetensors.torch import load_file
from student import SKIPLIST, Shape, Student, TokenModel, round_to_int8
from tokenizers import Tokenizer
from torch.nn import functional


@torch.inference_mode()
def embed(
    student: TokenModel, rows: list[np.ndarray], skip: Sequence[int], device: torch.device, tokens_per_batch: int = 8192
) -> list[torch.Tensor]:
    """Embeds id rows (prefix included): normalised, without the tokens in ``skip``; float32 on the CPU."""
    lengths = np.array([len(row) for row in rows])
    out: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    for batch in length_buckets(lengths, tokens_per_batch, np.random.default_rng(0)):
        ids, mask = pad([rows[i] for i in batch])
        tokens = student(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))
        tokens = functional.normalize(tokens.float(), dim=-1).cpu()
        keep = torch.from_numpy(mask.astype(bool) & ~np.isin(ids, np.asarray(skip, dtype=np.int64)))
        for j, i in enumerate(batch):
            out[i] = tokens[j][keep[j]]
    return out


@torch.inference_mode()
def maxsim_scores(queries: list[torch.Tensor], documents: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Full MaxSim, un-normalised, ``[queries, documents]``; queries and documents of zero tokens score 0."""
    owner = torch.from_numpy(np.repeat(np.arange(len(queries)), [len(q) for q in queries])).to(device)
    query = torch.cat(queries).to(device)
    scores = torch.zeros(len(queries), len(documents), device=device)
    for i, document in enumerate(documents):
        if len(document):
            scores[:, i].index_add_(0, owner, (document.to(device) @ query.T).amax(0))
    return scores.cpu()


def ndcg_at_10(scores: np.ndarray, judgements: list[dict[int, int]]) -> float:
    """Mean nDCG@10 with linear gain over queries with at least one positive judgement."""
    total, count = 0.0, 0
    for row, judged in zip(scores, judgements, strict=True):
        ideal = sorted((g for g in judged.values() if g > 0), reverse=True)[:10]
        if not ideal:
            continue
        top = np.argsort(-row, kind="stable")[:10]
        gained = sum(max(judged.get(int(d), 0), 0) / math.log2(r + 2) for r, d in enumerate(top))
        total += gained / sum(g / math.log2(r + 2) for r, g in enumerate(ideal))
        count += 1
    return total / max(count, 1)


def ndcg_by_kind(scores: np.ndarray, kinds: list[str], judgements: list[dict[int, int]]) -> dict[str, float]:
    """nDCG@10 of each kind of query, and the mean of the kinds as ``mean``."""
    result: dict[str, float] = {}
    for kind in dict.fromkeys(kinds):
        chosen = [i for i, of in enumerate(kinds) if of == kind]
        result[kind] = ndcg_at_10(scores[chosen], [judgements[i] for i in chosen])
    result["mean"] = float(np.mean(list(result.values())))
    return result


def text_scores(
    student: TokenModel, tokenizer: Tokenizer, lengths: tuple[int, int], queries: list[str], documents: list[str]
) -> torch.Tensor:
    """MaxSim of texts, ``[queries, documents]``, on the student's device."""
    device = student.dense.weight.device
    query_id, document_id = (tokenizer.token_to_id(p) for p in (QUERY_PREFIX, DOCUMENT_PREFIX))
    query_rows = [with_prefix(row, query_id) for row in encode_texts(tokenizer, queries, lengths[0])]
    document_rows = [with_prefix(row, document_id) for row in encode_texts(tokenizer, documents, lengths[1])]
    return maxsim_scores(
        embed(student, query_rows, [], device), embed(student, document_rows, skip_ids(tokenizer), device), device
    )


@dataclass
class HeldOut:
    """Held-out queries by kind, the documents they are searched in, and which document answers each."""

    queries: list[np.ndarray]
    kinds: list[str]
    documents: list[np.ndarray]
    answers: list[int]
    skip: list[int]

    @staticmethod
    def build(
        held_out: list[Pair], tokenizer: Tokenizer, lengths: tuple[int, int], documents: int, queries: int, seed: int
    ) -> HeldOut:
        """Draws documents and queries evenly from the sources, and a keyword query of rare words for every third.

        Args:
            held_out: Pairs that are not trained on.
            tokenizer: With prefix tokens.
            lengths: Query and document length.
            documents: Documents a source.
            queries: Queries a source.
            seed: Seed of the draw.
        """
        rng = random.Random(seed)  # noqa: S311 - a reproducible draw, no secret
        by_source: dict[str, list[Pair]] = {}
        for pair in held_out:
            by_source.setdefault(pair.source, []).append(pair)
        frequencies = document_frequencies(held_out)
        texts: list[str] = []
        asked: list[tuple[str, str, int]] = []
        for source, pairs in sorted(by_source.items()):
            for i, pair in enumerate(rng.sample(pairs, min(documents, len(pairs)))):
                texts.append(pair.document)
                if i < queries:
                    asked.append((source, pair.query, len(texts) - 1))
                if i < queries // 3:
                    asked.append(("rare words", rare_words(pair.document, frequencies, 2, rng), len(texts) - 1))
        query_id, document_id = (tokenizer.token_to_id(p) for p in (QUERY_PREFIX, DOCUMENT_PREFIX))
        return HeldOut(
            [with_prefix(r, query_id) for r in encode_texts(tokenizer, [q for _, q, _ in asked], lengths[0])],
            [kind for kind, _, _ in asked],
            [with_prefix(r, document_id) for r in encode_texts(tokenizer, texts, lengths[1])],
            [answer for _, _, answer in asked],
            skip_ids(tokenizer),
        )

    def measure(self, student: TokenModel, device: torch.device) -> dict[str, float]:
        """Returns nDCG@10 of each kind of query, and their mean as ``mean``."""
        scores = maxsim_scores(
            embed(student, self.queries, [], device), embed(student, self.documents, self.skip, device), device
        ).numpy()
        return ndcg_by_kind(scores, self.kinds, [{answer: 1} for answer in self.answers])


def skip_ids(tokenizer: Tokenizer) -> list[int]:
    """Returns the ids of the punctuation that documents leave out."""
    ids = [tokenizer.token_to_id(word) for word in SKIPLIST]
    return [i for i in ids if i is not None]


def load_checkpoint(folder: Path) -> tuple[Student, Tokenizer, tuple[int, int]]:
    """Reads a checkpoint that this code wrote (or another BERT or ELECTRA with one plain Dense layer).

    Returns:
        The student, its tokenizer, and query and document length.
    """
    config = json.loads((folder / "config.json").read_text())
    dense = load_file(folder / "1_Dense" / "model.safetensors")["linear.weight"]
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    shape = Shape(
        embedding=config.get("embedding_size", config["hidden_size"]),
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        intermediate=config["intermediate_size"],
        dim=len(dense),
        positions=config["max_position_embeddings"],
    )
    student = Student(shape, config["vocab_size"])
    weights = load_file(folder / "model.safetensors")
    student.backbone.load_state_dict({k: v for k, v in weights.items() if "pooler" not in k}, strict=False)
    student.dense.weight.data.copy_(dense)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return student.eval(), tokenizer, (settings["query_length"], settings["document_length"])


def read_collection(folder: Path) -> tuple[list[str], list[str], list[dict[int, int]]]:
    """Reads BEIR layout: ``title text`` of each document, the judged queries, and their judgements by position."""
    texts: list[str] = []
    position: dict[str, int] = {}
    for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n"):
        row = json.loads(line)
        position[row["_id"]] = len(texts)
        texts.append(f"{row.get('title') or ''} {row['text']}".strip())
    judged: dict[str, dict[int, int]] = {}
    with open(folder / "qrels" / "test.tsv", encoding="utf-8") as lines:
        for query, document, score in list(csv.reader(lines, delimiter="\t"))[1:]:
            if document in position:
                judged.setdefault(query, {})[position[document]] = int(score)
    queries: list[str] = []
    judgements: list[dict[int, int]] = []
    for line in (folder / "queries.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n"):
        row = json.loads(line)
        if any(score > 0 for score in judged.get(row["_id"], {}).values()):
            queries.append(row["text"])
            judgements.append(judged[row["_id"]])
    return texts, queries, judgements


def main() -> None:
    """Prints nDCG@10 of a checkpoint on each collection."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="collections in BEIR layout")
    parser.add_argument("--int8", action="store_true", help="round the weights to 8 bits first")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student, tokenizer, lengths = load_checkpoint(arguments.checkpoint)
    if arguments.int8:
        round_to_int8(student)
    student.to(device)
    for folder in arguments.data:
        texts, queries, judgements = read_collection(folder)
        scores = text_scores(student, tokenizer, lengths, queries, texts)
        score = ndcg_at_10(scores.numpy(), judgements)
        print(f"{folder.name}: {len(queries)} queries, {len(texts)} documents, nDCG@10 {score:.4f}", flush=True)


if __name__ == "__main__":
    main()

"""Text pairs, the held-out split, the tokenizer, and the texts that the student is trained on.

A *view* is one text with the role it is encoded in: a whole document, a query, a sentence of a document asked as a
query, a few of its rare words asked as a query, or two documents joined into a long one. The student sees views, not
pairs, so that short queries and long documents are both covered whatever the pairs look like.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer

QUERY_PREFIX = "[Q] "
DOCUMENT_PREFIX = "[D] "

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-]*")


@dataclass(frozen=True)
class Pair:
    """A query and the document that answers it."""

    source: str
    query: str
    document: str


@dataclass(frozen=True)
class View:
    """One text as the student sees it."""

    text: str
    is_query: bool


def find_pair_files(paths: list[str]) -> list[Path]:
    """Expands folders into their ``*.jsonl`` and ``*.jsonl.gz`` files, in a stable order."""
    files: list[Path] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            files += sorted(p for p in path.iterdir() if p.name.endswith((".jsonl", ".jsonl.gz")))
        else:
            files.append(path)
    if not files:
        raise FileNotFoundError(f"no .jsonl or .jsonl.gz file in {paths}")
    return files


def read_pairs(files: list[Path]) -> list[Pair]:
    """Reads ``query`` and ``document`` from every line of every file."""
    pairs: list[Pair] = []
    for file in files:
        source = file.name.split(".")[0]
        opener = gzip.open if file.suffix == ".gz" else open
        with opener(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if row["query"].strip() and row["document"].strip():
                    pairs.append(Pair(source, row["query"].strip(), row["document"].strip()))
    if not pairs:
        raise ValueError(f"no pair in {[str(f) for f in files]}")
    return pairs


def split_pairs(pairs: list[Pair], held_out_share: float) -> tuple[list[Pair], list[Pair]]:
    """Splits pairs into training and held-out ones.

    The document's hash decides, so the same document never lies on both sides, and the split stays the same when files
    are added or reordered.
    """
    train: list[Pair] = []
    held_out: list[Pair] = []
    for pair in pairs:
        digest = hashlib.sha256(pair.document.encode()).digest()
        share = int.from_bytes(digest[:4], "big") / 2**32
        (held_out if share < held_out_share else train).append(pair)
    return train, held_out


def document_frequencies(pairs: list[Pair]) -> Counter[str]:
    """Counts in how many documents each lower-cased word occurs."""
    counts: Counter[str] = Counter()
    for pair in pairs:
        counts.update({word.lower() for word in _WORD.findall(pair.document)})
    return counts


def rare_words(text: str, frequencies: Counter[str], count: int, rng: random.Random) -> str:
    """Draws some of a text's rarest words, in their order in the text, as a keyword query."""
    words = list(dict.fromkeys(_WORD.findall(text)))
    words = [word for word in words if len(word) > 2]
    # Twice as many candidates as words wanted: the very rarest are often typing errors or numbers.
    rarest = set(sorted(words, key=lambda word: (frequencies[word.lower()], word))[: 2 * count])
    candidates = [word for word in words if word in rarest]
    chosen = set(rng.sample(candidates, min(count, len(candidates))))
    return " ".join(word for word in candidates if word in chosen)


def query_views(pair: Pair, frequencies: Counter[str], rng: random.Random, rare_share: float) -> Iterator[View]:
    """Yields what asks for a pair's document: its query, a sentence of it, and at times some of its rarest words."""
    yield View(pair.query, True)
    sentences = [s for s in _SENTENCE_END.split(pair.document) if 20 <= len(s) <= 300]
    if sentences:
        yield View(rng.choice(sentences), True)
    if rng.random() < rare_share:
        words = rare_words(pair.document, frequencies, rng.randint(1, 6), rng)
        if words:
            yield View(words, True)


def make_views(pairs: list[Pair], frequencies: Counter[str], seed: int, rare_share: float = 0.5) -> Iterator[View]:
    """Yields views of shuffled pairs for ever; each pass draws different sentences, words and neighbours.

    Args:
        pairs: The training pairs.
        frequencies: Document frequencies, for the rare-word queries.
        seed: Seed of the shuffling and the draws.
        rare_share: Of how many of the documents some of the rarest words are asked.
    """
    rng = random.Random(seed)  # noqa: S311 - a reproducible draw, no secret
    order = list(range(len(pairs)))
    while True:
        rng.shuffle(order)
        for position, index in enumerate(order):
            pair = pairs[index]
            draw = rng.random()
            if draw < 0.15:
                # Evaluation collections have titles in front of texts; and only joined texts pass 250 tokens.
                neighbour = pairs[order[position - 1]]
                yield View(f"{pair.document} {neighbour.query} {neighbour.document}", False)
            elif draw < 0.5:
                yield View(f"{pair.query} {pair.document}", False)
            else:
                yield View(pair.document, False)
            yield from query_views(pair, frequencies, rng, rare_share)


def build_tokenizer(teacher_folder: Path, prefixes: bool = True) -> Tokenizer:
    """Takes the teacher's WordPiece tokenizer and adds the two prefix tokens at its end.

    Stored truncation and padding are switched off: readers of the checkpoint set their own.

    Args:
        teacher_folder: Where ``tokenizer.json`` lies.
        prefixes: Without them a text that holds ``[Q] `` itself stays within the teacher's vocabulary, which is what
            training needs.
    """
    tokenizer = Tokenizer.from_file(str(teacher_folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if prefixes:
        tokenizer.add_tokens([AddedToken(p, normalized=True, special=False) for p in (QUERY_PREFIX, DOCUMENT_PREFIX)])
    return tokenizer


def encode_texts(tokenizer: Tokenizer, texts: list[str], max_length: int) -> list[np.ndarray]:
    """Tokenises texts to ``[CLS] … [SEP]`` ids of at most ``max_length - 1``, leaving room for the prefix token."""
    cls_id, sep_id = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    encodings = tokenizer.encode_batch([text.strip() for text in texts], add_special_tokens=False)
    return [np.array([cls_id, *encoding.ids[: max_length - 3], sep_id], dtype=np.int32) for encoding in encodings]


def with_prefix(ids: np.ndarray, prefix_id: int) -> np.ndarray:
    """Puts the prefix token after ``[CLS]``, where PyLate puts it."""
    return np.concatenate([ids[:1], np.array([prefix_id], dtype=ids.dtype), ids[1:]])


def length_buckets(lengths: np.ndarray, tokens_per_batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Groups texts of like length into batches of about ``tokens_per_batch`` padded tokens, in random order."""
    order = np.lexsort((rng.random(len(lengths)), lengths))
    batches: list[np.ndarray] = []
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end - start + 1) * int(lengths[order[end]]) <= tokens_per_batch:
            end += 1
        batches.append(order[start:end])
        start = end
    return [batches[i] for i in rng.permutation(len(batches))]


def pad(rows: list[np.ndarray], value: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pads id rows to the longest; returns ids and attention mask as int64."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), value, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask

"""Texts that an export is checked with: ordinary ones to rank, and the ones that encoders get wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from edgecolbert.errors import InputError

# Queries and documents about the same few things, so that rankings mean something.
_QUERIES = (
    "What is the capital of France?",
    "how does a heat pump warm a house in winter",
    "symptoms of vitamin D deficiency",
    "Why do leaves change colour in autumn?",
    "sqlite write-ahead log crash recovery",
)
_DOCUMENTS = (
    "Paris is the capital and largest city of France; it lies on the Seine.",
    "A heat pump moves warmth from the cold air outside into the house, and so delivers more heat than it uses power.",
    "Too little vitamin D can cause bone pain, tiredness and weak muscles; children may develop rickets (soft bones).",
    "As days grow shorter, trees stop making chlorophyll. Yellow carotenoids, there all along, come to light.",
    "In write-ahead logging, a commit is appended to the log first; after a crash the log is replayed.",
    "Bread rises because yeast turns sugar into carbon dioxide, which the gluten of the dough holds back.",
    "The court found, by 5 votes to 4, that the contract of 12 March 1998 was void from the beginning.",
    "def fibonacci(n: int) -> int:\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
)
# Empty, only spaces, only punctuation, the tokens that mean something written out, other scripts, odd spacing.
_ODD_TEXTS = (
    "",
    "   \t\n ",
    "?!.,;:-()[]{}",
    "a",
    "[Q] literal [D] prefix, [MASK] and [SEP] [CLS] [PAD] [UNK] inside <s> </s> <mask>",
    "[unused0] [unused1] search_query: search_document:",
    "Zürich naïve café \u4f60\u597d \u0645\u0631\u062d\u0628\u0627 \U0001f600 e\u0301 \u00df \ufb01ne \u0130stanbul",
    "  spaced   out ,  text .  ",
    "ALL CAPITALS AND MixedCase iPhone 3.14 1,000,000 x_y_z",
    "control\x07character\x00zero\u200bwidth\u00a0space\ufeffmark",
    "antidisestablishmentarianism" * 12,
)
_SENTENCE = (
    "The river rose by {} centimetres overnight, and the bridge near house {} was closed to lorries until noon. "
)


@dataclass(frozen=True)
class Probes:
    """Texts for verification.

    Attributes:
        queries: Ordinary queries, to be ranked.
        documents: Ordinary documents, to be ranked.
        odd_texts: Texts that are encoded both as queries and as documents.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    odd_texts: tuple[str, ...]

    def sides(self) -> list[tuple[str, str]]:
        """Every ("query" or "document", text) to be encoded, without repetitions."""
        pairs = [("query", text) for text in (*self.queries, *self.odd_texts)]
        return pairs + [("document", text) for text in (*self.documents, *self.odd_texts)]


def build_probes(longest: int) -> Probes:
    """The probe texts for a model.

    Args:
        longest: Most token ids of a sequence; the longest text is cut there, or where it would take minutes.

    Returns:
        The texts.
    """
    # A sentence has 20 to 30 token ids; 1,200 of them exceed every document length that is quick to run.
    n_sentences = min(longest, 1_200) // 15 + 2
    long_text = "".join(_SENTENCE.format(number * 7 % 90, number) for number in range(n_sentences))
    return Probes(_QUERIES, _DOCUMENTS, (*_ODD_TEXTS, long_text))


def golden_texts(probes: Probes, tokens_at_most: int = 48) -> list[tuple[str, str]]:
    """The part of the probes that ships with a model: few and short, so that the folder stays small.

    Args:
        probes: All probe texts.
        tokens_at_most: Rough number of tokens above which a text is left out.

    Returns:
        ("query" or "document", text) of each.
    """
    short = [text for text in probes.odd_texts if len(text) <= 4 * tokens_at_most]
    pairs = [("query", text) for text in (*probes.queries[:3], short[0], short[4])]
    return pairs + [("document", text) for text in (*probes.documents[:3], *short[:3], *short[4:7])]


def read_probe_corpus(path: Path | None) -> list[str]:
    """Texts to fit the first stage's cells to, and to compute the speed and fidelity with.

    Args:
        path: A `.jsonl` file with `text` or `document` (and optionally `title`) in each line, or a text file with one
            text a line; None for the small corpus that comes with this package.

    Returns:
        The texts that are not empty.

    Raises:
        InputError: If the file cannot be read or holds no text.
    """
    if path is None:
        content = resources.files("edgecolbert_export").joinpath("probe_corpus.txt").read_text(encoding="utf-8")
        return [line.strip() for line in content.splitlines() if line.strip()]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        texts = [_record_text(line, path) for line in lines] if path.suffix == ".jsonl" else lines
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The probe texts {path} cannot be read: {error}. Give a UTF-8 .txt or .jsonl file."
        ) from error
    texts = [text.strip() for text in texts if text.strip()]
    if not texts:
        raise InputError(f"{path} holds no text. Give a .txt file with one text a line, or .jsonl with `text`.")
    return texts


def _record_text(line: str, path: Path) -> str:
    try:
        record = json.loads(line)
        return f"{record.get('title', '')} {record.get('text', record.get('document', ''))}"
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path} has a line that is no JSON object: {line[:60]!r} ({error}). Correct it.") from error

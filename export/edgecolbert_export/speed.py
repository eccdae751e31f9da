"""How fast a model encodes here, on one thread."""

from __future__ import annotations

import platform
import time
from typing import Any

from edgecolbert.encoder import Encoder

_ROUNDS = 3
# A round this long averages by itself what else the machine does; large models are not measured for minutes.
_ENOUGH_SECONDS = 3.0


def tokens_per_second(encoder: Encoder, texts: list[str]) -> float:
    """Encode texts one by one and count token ids.

    Args:
        encoder: An encoder with one thread.
        texts: Documents.

    Returns:
        Token ids a second, of the fastest of up to three rounds, so that other work on the machine counts little.
    """
    n_tokens = sum(len(encoder.tokenizer.document(text).ids) for text in texts)
    rounds: list[float] = []
    while len(rounds) < _ROUNDS and sum(rounds) < _ENOUGH_SECONDS:
        started = time.perf_counter()
        for text in texts:
            encoder.encode_documents([text])
        rounds.append(time.perf_counter() - started)
    return n_tokens / min(rounds)


def measure_speed(shipped: Encoder, fp32: Encoder, texts: list[str]) -> dict[str, Any]:
    """Compare the shipped graph with the float32 one.

    Args:
        shipped: Encoder of the model folder, one thread.
        fp32: Encoder of the float32 graph, one thread.
        texts: Documents.

    Returns:
        What the manifest records; only the ratio means anything on another machine.
    """
    ours, theirs = tokens_per_second(shipped, texts), tokens_per_second(fp32, texts)
    return {
        "tokens_per_second": round(ours),
        "relative_to_fp32": round(ours / theirs, 3),
        "machine": f"{platform.machine()}, {platform.system()}",
    }

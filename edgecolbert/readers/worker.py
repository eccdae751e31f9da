"""The process that readers run in: reads requests on standard input, and answers on standard output.

A request is a line of JSON, then as many bytes of a file as it says; an answer is eight bytes that say how long it is,
then JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from typing import Any

from edgecolbert import limits
from edgecolbert.readers.parsed import UnreadableError, parse

_GRACE = 5


def main() -> None:
    """Answer requests until standard input ends."""
    # The parent decides when to end; Ctrl-C is sent to all processes of a terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a reader prints must not be taken for an answer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    requests = sys.stdin.buffer
    while line := requests.readline():
        request = json.loads(line)
        with limits.changed(**request["limits"]):
            _bound_memory(limits.READER_MEMORY_BYTES)
            _bound_time(limits.READER_SECONDS + _GRACE)
            answer = _answer(request, requests.read(request["size"]))
            _bound_time(0)
            data = json.dumps(answer, ensure_ascii=False).encode("utf-8")
        answers.write(len(data).to_bytes(8, "big") + data)
        answers.flush()


def _answer(request: dict[str, Any], content: bytes) -> dict[str, Any]:
    try:
        return asdict(parse(request["reader"], content, request["name"]))
    except UnreadableError as error:
        return {"unreadable": str(error).encode("utf-8", "replace").decode("utf-8")}


def _bound_time(seconds: float) -> None:
    """The parent sees to the time; this is for one that was killed meanwhile. Zero for no bound."""
    if hasattr(signal, "setitimer"):
        # Nobody handles the signal, so that it ends the process even within a library.
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _bound_memory(most: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    except (ValueError, OSError):
        # macOS takes no such limit; the time is bounded nevertheless.
        return

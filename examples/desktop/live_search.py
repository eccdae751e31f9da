"""Search as one types: a worker thread that answers the newest question, and drops those that nobody waits for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgecolbert import EdgeColbertError, Hit, Index

SUFFIXES = {".md", ".txt"}


@dataclass(frozen=True)
class Answer:
    """What the worker has to say.

    Attributes:
        question: The question it belongs to; empty for a message about the notes.
        hits: What was found, best first.
        shown: For each hit the part that matched, as pieces of text and whether they matched.
        message: One line for the bottom of the window.
    """

    question: str
    hits: tuple[Hit, ...] = ()
    shown: tuple[list[tuple[str, bool]], ...] = ()
    message: str = ""


class LiveSearch:
    """Owns the index, in a thread of its own, so that a window never waits.

    Args:
        folder: Notes to search, .md and .txt.
        database: Where the index is kept.
        tell: Called with each answer, in the worker's thread. A window must pass it on to its own.
    """

    def __init__(self, folder: Path, database: str | Path, tell: Callable[[Answer], None]) -> None:
        self._folder, self._database, self._tell = folder, database, tell
        self._questions: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="search")

    def start(self) -> None:
        """Begin to read the notes, then to answer."""
        self._thread.start()

    def ask(self, question: str) -> None:
        """Want the answer to this question, and none to earlier ones."""
        self._questions.put(question)

    def close(self) -> None:
        """Stop, and wait for what is being done."""
        self._questions.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            with Index.open(self._database) as index:
                self._read(index)
                while (question := self._newest()) is not None:
                    self._tell(answer(index, question))
        except EdgeColbertError as error:
            # A thread that dies silently leaves a window that never answers.
            self._tell(Answer("", message=str(error)))

    def _read(self, index: Index) -> None:
        notes = []
        for path in sorted(path for path in self._folder.rglob("*") if path.suffix.lower() in SUFFIXES):
            try:
                notes.append({"id": path.relative_to(self._folder).as_posix(), "text": path.read_text("utf-8")})
            except (OSError, UnicodeDecodeError) as error:
                self._tell(Answer("", message=f"passed over {path}: {error}"))

        def progress(done: int, _: int | None) -> None:
            self._tell(Answer("", message=f"reading notes: {done} of {len(notes)}"))

        index.add_from(str(self._folder), iter(notes), progress=progress, batch_size=16)
        self._tell(Answer("", message=f"{len(index)} notes"))

    def _newest(self) -> str | None:
        question = self._questions.get()
        while question is not None and not self._questions.empty():
            question = self._questions.get()
        return question


def answer(index: Index, question: str) -> Answer:
    """Search, and cut the part that matched of each hit into pieces."""
    if not question.strip():
        return Answer(question, message=f"{len(index)} notes")
    hits = tuple(index.search(question, k=20, mode="hybrid"))
    shown = []
    for hit in hits:
        snippet = hit.snippet(240)
        pieces, place = [], snippet.start
        for word in snippet.highlights:
            pieces += [(hit.text[place : word.start], False), (hit.text[word.start : word.end], True)]
            place = word.end
        pieces.append((hit.text[place : snippet.end], False))
        shown.append([(" ".join(text.split("\n")), marked) for text, marked in pieces if text])
    return Answer(question, hits, tuple(shown), f"{len(hits)} of {len(index)} notes")

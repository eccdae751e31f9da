"""Running readers in a process of their own, which is ended when a file takes too long or too much memory."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any

from edgecolbert import limits
from edgecolbert.readers.parsed import Parsed, UnreadableError, parse

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from edgecolbert.readers.worker import main; main()"
# Those that a reader looks at.
_LIMITS = ("RECORD_BYTES", "FILE_BYTES", "UNPACKED_BYTES", "ARCHIVE_ENTRIES", "READER_MEMORY_BYTES", "READER_SECONDS")


class ReaderProcess:
    """A process that reads one file after the other, started when it is first needed. Use it as a context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ReaderProcess:
        """The process, which need not have been started."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                # What was not written yet cannot be any more.
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()

    def read(self, reader: str, content: bytes, name: str) -> Parsed:
        """Read a file's content as `parse` does, within the limits of time and memory.

        Args:
            reader: The module that can.
            content: The file's bytes.
            name: The file's name, without folders.

        Returns:
            What is in it.

        Raises:
            UnreadableError: If it cannot be read, or not within the limits.
        """
        if getattr(sys, "frozen", False) or not sys.executable:
            # A frozen application is no interpreter that could be started once more.
            return parse(reader, content, name)
        request = {
            "reader": reader,
            "name": name.encode("utf-8", "replace").decode("utf-8"),
            "size": len(content),
            "limits": {name: getattr(limits, name) for name in _LIMITS},
        }
        process = self._started()
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(limits.READER_SECONDS, end)
        timer.daemon = True
        timer.start()
        try:
            answer = _exchange(process, json.dumps(request).encode("ascii") + b"\n", content)
        except BaseException:
            # Interrupted in the middle: the next answer would be this one's.
            self.close()
            raise
        finally:
            timer.cancel()
        if answer is None:
            self.close()
            if late.is_set():
                raise UnreadableError(
                    f"reading it took longer than {limits.READER_SECONDS} seconds (edgecolbert.limits.READER_SECONDS)"
                )
            raise UnreadableError("its reader broke down over it, or took too much memory")
        if "unreadable" in answer:
            raise UnreadableError(answer["unreadable"])
        return Parsed(**answer)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            # This interpreter, with code of our own.
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-c", _START, json.dumps([str(path) for path in sys.path])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        return self._process


def _exchange(process: subprocess.Popen[bytes], line: bytes, content: bytes) -> dict[str, Any] | None:
    """Send a request and wait for the answer; None if the process ended before it had given one."""
    requests, answers = process.stdin, process.stdout
    if requests is None or answers is None:  # pragma: no cover - both are pipes
        raise UnreadableError("its reader cannot be reached")
    try:
        requests.write(line)
        requests.write(content)
        requests.flush()
        head = answers.read(8)
        if len(head) < 8:
            return None
        data = answers.read(int.from_bytes(head, "big"))
        # A control character takes six bytes in JSON.
        return dict(json.loads(data)) if len(data) == int.from_bytes(head, "big") else None
    except (OSError, ValueError):
        return None

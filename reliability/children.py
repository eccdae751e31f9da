"""Work in processes of its own: forked, so that hundreds cost little, and watched, so that every end is seen.

The process that forks only imports; it opens no database and starts no thread.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

# Longer than any piece of work takes on a slow and busy machine.
_PATIENCE = 180.0


@dataclass
class Ended:
    """How a process ended.

    Attributes:
        signal: Number of the signal that ended it, or 0.
        code: Its exit code; 0 where it was ended by a signal.
        told: What it sent with `Child.tell`, in order.
        result: What its function gave, or None.
        error: Traceback of an exception that its function raised, or "".
        late: Whether it was ended because it took too long.
    """

    signal: int
    code: int
    told: list[Any]
    result: Any = None
    error: str = ""
    late: bool = False


class Child:
    """A function in a process of its own.

    Args:
        function: Gets a function that sends a value at once; what it returns is sent at the end. Values are sent as
            JSON.
        patience: Seconds after which it is ended.
    """

    def __init__(self, function: Callable[[Callable[[Any], None]], Any], patience: float = _PATIENCE) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        reading, writing = os.pipe()
        self._until = time.monotonic() + patience
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _run(function, writing)
        os.close(writing)
        self._pipe: BinaryIO = os.fdopen(reading, "rb", buffering=0)
        self._received = b""

    def wait_for_first(self) -> None:
        """Wait until the child has told something, or ended."""
        while b"\n" not in self._received and self._receive(_PATIENCE):
            pass

    def runs_for(self, seconds: float) -> bool:
        """Wait, but not beyond the child's end; whether it still runs."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([self._pipe], [], [], left)
            if ready and self._receive(0) is False:
                return False
        return True

    def end(self, with_signal: int = 0) -> Ended:
        """Send a signal if one is given, wait for the end, and say how it was."""
        if with_signal:
            os.kill(self.pid, with_signal)
        late = False
        while (came := self._receive(5.0 if late else self._until - time.monotonic())) is not False:
            if came is None and late:
                break  # it left children of its own behind, which keep the pipe open
            if came is None:
                late = True
                os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self._pipe.close()
        ended = Ended(
            os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
            [],
            late=late,
        )
        # Without the last line where it was cut off in the middle.
        for line in self._received.split(b"\n")[:-1]:
            message = json.loads(line)
            if "told" in message:
                ended.told.append(message["told"])
            else:
                ended.result, ended.error = message.get("result"), message.get("error", "")
        return ended

    def _receive(self, patience: float) -> bool | None:
        """Take what there is; False at the end of it all, None where nothing came for so long."""
        ready, _, _ = select.select([self._pipe], [], [], max(0.0, patience))
        if not ready:
            return None
        piece = self._pipe.read(65_536)
        self._received += piece or b""
        return bool(piece)


def in_child(function: Callable[[], Any]) -> Ended:
    """Run a function in a process of its own to its end.

    Args:
        function: Its result is sent back as JSON.

    Returns:
        How it ended.
    """
    return Child(lambda tell: function()).end()


def must(ended: Ended) -> Any:
    """The result of a child that has to succeed.

    Raises:
        RuntimeError: If it did not.
    """
    if ended.signal or ended.code or ended.error or ended.late:
        raise RuntimeError(
            f"a child ended with signal {ended.signal}, code {ended.code}, late {ended.late}:\n{ended.error}"
        )
    return ended.result


def _run(function: Callable[[Callable[[Any], None]], Any], pipe: int) -> None:
    """The child: never returns, and leaves nothing to the parent's own code at exit."""
    code = 70

    def send(message: dict[str, Any]) -> None:
        # One write each, so that a kill cannot cut one in two: these are far shorter than a pipe takes at once.
        os.write(pipe, json.dumps(message).encode() + b"\n")

    try:
        try:
            message = {"result": function(lambda value: send({"told": value}))}
        except BaseException:
            message = {"error": traceback.format_exc()[-3_000:]}
        # Results may be longer than a pipe takes at once.
        content = memoryview(json.dumps(message, default=repr).encode() + b"\n")
        while content:
            content = content[os.write(pipe, content) :]
        code = 0
    finally:
        os._exit(code)

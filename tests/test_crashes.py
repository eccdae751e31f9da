"""Killed and interrupted processes: what was acknowledged is there, nothing is half there, and a rerun continues."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from word_encoder import SplittingEncoder

from edgecolbert import Index

TESTS = Path(__file__).parent

# Adds batches and prints each acknowledged number of documents; every third batch replaces and deletes as well.
CHILD = """
import sys
sys.path.insert(0, sys.argv[2])
from word_encoder import SplittingEncoder
from edgecolbert import Index
def text(n): return f"common word{n} one two three. four five six seven eight. nine ten eleven word{n % 7}."
with Index.open(sys.argv[1], model=SplittingEncoder(room=5), timeout=30) as index:
    print("open", flush=True)
    index.add(
        ({"id": f"d{n:05}", "text": text(n), "metadata": {"n": n}} for n in range(int(sys.argv[3]))),
        batch_size=4,
        progress=lambda done, total: print(done, flush=True),
    )
print("finished", flush=True)
"""


def _text(n: int) -> str:
    return f"common word{n} one two three. four five six seven eight. nine ten eleven word{n % 7}."


def _start(path: Path, n_documents: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(TESTS), str(n_documents)], stdout=subprocess.PIPE, text=True
    )


def _check(path: Path, acknowledged: int) -> int:
    """Everything acknowledged is there, whole and findable; give how many documents there are."""
    with Index.open(path, model=SplittingEncoder(room=5)) as index:
        assert index.verify().problems == ()
        ids = index.ids()
        assert len(ids) >= acknowledged
        assert ids == [f"d{n:05}" for n in range(len(ids))]
        for n, name in enumerate(ids):
            document = index.get(name)
            assert document is not None
            assert (document.text, document.metadata) == (_text(n), {"n": n})
        if ids:
            found = index.search("common", k=len(ids), n_candidates=len(ids))
            assert {hit.id for hit in found} == set(ids)
            assert {hit.id for hit in index.search("common", k=len(ids), mode="lexical")} == set(ids)
            assert index.stats().passages == 3 * len(ids)
        return len(ids)


def test_a_process_killed_at_any_moment_loses_nothing_it_acknowledged(path: Path) -> None:
    generator = random.Random(7)
    n_documents = 4_000
    most = 0
    for _ in range(8):
        child = _start(path, n_documents)
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        # The moment is counted from the first acknowledgement, so that a slow machine is killed while it writes too.
        child.stdout.readline()
        time.sleep(generator.uniform(0.0, 0.15))
        child.kill()
        told = [line for line in child.stdout.read().split("\n")[:-1] if line.isdigit()]
        child.wait()
        child.stdout.close()
        there = _check(path, int(told[-1]) if told else 0)
        # A rerun goes on: documents that are there already are passed over, and none is lost.
        assert there >= most
        most = there
    assert most > 0


def test_a_rerun_after_a_kill_encodes_only_what_is_missing(path: Path) -> None:
    child = _start(path, 400)
    assert child.stdout is not None
    while child.stdout.readline() != "40\n":
        pass
    child.kill()
    child.wait()
    child.stdout.close()
    there = _check(path, 40)
    encoder = SplittingEncoder(room=5)
    with Index.open(path, model=encoder) as index:
        report = index.add([{"id": f"d{n:05}", "text": _text(n), "metadata": {"n": n}} for n in range(400)])
    assert report.encoded <= 400 - there
    assert (report.added, report.unchanged) == (400 - there, there)
    assert _check(path, 400) == 400


def test_a_list_that_was_killed_shows_nothing_and_is_continued(path: Path) -> None:
    program = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from word_encoder import SplittingEncoder
from edgecolbert import Index
with Index.open(sys.argv[1], model=SplittingEncoder(room=5)) as index:
    def stop(done, total):
        if done >= 128:
            os.kill(os.getpid(), signal.SIGKILL)
    index.add([f"common word{n}" for n in range(300)], progress=stop)
"""
    killed = subprocess.run([sys.executable, "-c", program, str(path), str(TESTS)], check=False)
    assert killed.returncode == -signal.SIGKILL
    encoder = SplittingEncoder(room=5)
    with Index.open(path, model=encoder) as index:
        assert len(index) == 0
        assert index.search("common", n_candidates=300) == []
        assert index.verify().problems == ()
        report = index.add([f"common word{n}" for n in range(300)])
        assert (report.added, report.encoded, len(encoder.encoded)) == (300, 300 - 128, 300 - 128)
        assert index.verify().problems == ()


def test_ctrl_c_keeps_what_edgecolbert_index_stored_and_the_next_run_continues(tmp_path: Path) -> None:
    # From a pipe that is held open the command gets 40 documents and waits for more: however slow the machine is, it
    # is in the middle when the signal comes.
    lines = [json.dumps({"id": f"d{n}", "text": f"Entry {n} of many."}) + "\n" for n in range(120)]
    database = tmp_path / "i.db"
    command = [sys.executable, "-c", _INTERRUPTIBLE, "index", "-", "--db", str(database), "--json"]
    command += ["--model", str(TESTS / "fixtures" / "tiny-model"), "--batch-size", "4"]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        assert child.stdin is not None
        child.stdin.write("".join(lines[:40]))
        child.stdin.flush()
        _wait_for(lambda: child.poll() is not None or _documents(database) == 40)
        assert child.poll() is None, child.communicate()
        child.send_signal(signal.SIGINT)
        # Not `communicate`, which would close the pipe: the end of the input must not be what stops it.
        assert child.wait(timeout=120) == 130
        _, errors = child.communicate()
    finally:
        child.kill()
        child.wait()
    assert "interrupted. What was stored stays; run the same command again to continue." in errors
    assert "Traceback" not in errors
    assert _documents(database) == 40
    second = subprocess.run(command, input="".join(lines), capture_output=True, text=True, check=True)
    report = json.loads(second.stdout)
    assert (report["documents"], report["unchanged"], report["added"], report["encoded"]) == (120, 40, 80, 80)
    with Index.open(database, read_only=True) as index:
        assert index.verify().problems == ()


# A process that was started in the background, as by a shell's "&", inherits that Ctrl-C is ignored.
_INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from edgecolbert.cli import main
sys.exit(main(sys.argv[1:]))
"""


def _wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.02)


def _documents(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with Index.open(path, create=False, read_only=True) as index:
            return len(index)
    except ValueError:  # the file is being made
        return 0
    except PermissionError:
        return 0


def test_ctrl_c_in_a_callback_leaves_the_index_usable(path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with Index.open(path, model=SplittingEncoder()) as index:
        with pytest.raises(KeyboardInterrupt):
            index.add([f"word{n}" for n in range(100)], progress=interrupt)
        assert len(index) == 0
        index.add([f"word{n}" for n in range(100)])
        assert len(index) == 100
        assert index.verify().problems == ()

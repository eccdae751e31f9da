"""Folders as they are: what is read, skipped and passed over, what is unchanged, and what --watch follows."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import files_for_reading as make
import pytest
from word_encoder import WordEncoder

from edgecolbert import Index, InputError, limits, read_folder
from edgecolbert.cli import main

TINY = str(Path(__file__).parent / "fixtures" / "tiny-model")


def _age(folder: Path) -> None:
    """As if everything had been written an hour ago, so that size and time tell whether it changed."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (time.time() - 3600,) * 2)


def _ids(folder: Path, **options: Any) -> list[str]:
    return sorted(record["id"] for record in read_folder(folder, **options))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of every format."""
    made = tmp_path / "mixed"
    (made / "code").mkdir(parents=True)
    (made / "letter.pdf").write_bytes(make.pdf(["The kettle.", "Bins go out."], title="A letter"))
    (made / "plan.docx").write_bytes(make.docx())
    (made / "book.epub").write_bytes(make.epub({"a.xhtml": "<p>The house book.</p>"}))
    (made / "mail.eml").write_bytes(bytes(make.message()))
    (made / "page.html").write_text("<title>Page</title><h1>Kettle</h1>")
    (made / "notes.md").write_text("# Notes\n\nThe kettle is in the left cupboard.")
    (made / "README").write_text("Read me first.")
    (made / "run").write_text("#!/usr/bin/env python3\nprint('kettle')\n")
    (made / "code" / "kettle.py").write_text("def boil():\n    return 100\n")
    (made / "trial.ipynb").write_text(make.notebook([("markdown", "# Trial"), ("code", "x = 1")]))
    box = b"".join(
        b"From ann@example.org Tue Mar  3 10:00:00 2020\n" + bytes(make.message(f"Letter {n}")) + b"\n"
        for n in range(3)
    )
    (made / "all.mbox").write_bytes(box)
    (made / "rows.jsonl").write_text('{"id": "row", "text": "a row"}\n')
    (made / "picture.png").write_bytes(b"\x89PNG")
    _age(made)
    return made


def test_every_format_becomes_documents_with_path_title_kind_and_date(folder: Path) -> None:
    reading = read_folder(folder)
    records = {record["id"]: record for record in reading}
    told = {
        name: (r["metadata"].get("title"), r["metadata"].get("kind"), r["metadata"].get("format"))
        for name, r in records.items()
    }
    letters = [name for name in told if name.startswith("all.mbox#")]
    assert [told.pop(name) for name in letters] == [(f"Letter {n}", "text", "email") for n in range(3)]
    assert told == {
        "README": ("README", "text", "text"),
        "book.epub": ("A House Book", "markdown", "epub"),
        "code/kettle.py": ("kettle.py", "code", "python"),
        "letter.pdf": ("A letter", "text", "pdf"),
        "mail.eml": ("The kettle", "text", "email"),
        "notes.md": ("Notes", "markdown", "markdown"),
        "page.html": ("Page", "markdown", "html"),
        "plan.docx": ("Cellar plan", "markdown", "docx"),
        "row": (None, None, None),
        "run": ("run", "code", "python"),
        "trial.ipynb": ("Trial", "markdown", "notebook"),
    }
    assert records["letter.pdf"]["text"] == "The kettle.\fBins go out."
    metadata = records["code/kettle.py"]["metadata"]
    assert metadata["path"] == str(folder / "code" / "kettle.py")
    assert metadata["modified"].endswith("Z")
    assert (reading.skipped, reading.messages, reading.passed_over) == ([], [], {".png": 1})


def test_unchanged_files_are_not_read_again(folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Index.open(path, model=WordEncoder()) as index:
        first = read_folder(folder, index=index)
        index.add_from(first.root, first)
        opened = []
        from edgecolbert.readers import files

        whole = files.read_plainly
        monkeypatch.setattr(files, "read_plainly", lambda name: opened.append(Path(name).name) or whole(name))
        (folder / "notes.md").write_text("# Notes\n\nThe kettle has moved.")
        os.utime(folder / "page.html")
        again = read_folder(folder, index=index)
        report = index.add_from(again.root, again)
        # A mailbox is read each time, for its messages are documents of their own.
        assert sorted(opened) == ["all.mbox", "notes.md", "page.html"]
        assert report.encoded == 1
        assert report.updated == 2
        assert len(again.unchanged) == 8
        assert sorted(again.present()) == sorted(index.ids())
        touched = index.get("page.html")
        assert touched is not None
        assert touched.text == "# Kettle"
        assert index.prune(again.root, again.present()) == 0


def test_a_file_that_changes_without_another_size_or_second_is_seen(tmp_path: Path, path: Path) -> None:
    file = tmp_path / "notes" / "a.md"
    file.parent.mkdir()
    with Index.open(path, model=WordEncoder()) as index:
        for text in ("one kettle", "two kettle", "six kettle"):
            file.write_text(text)
            os.utime(file, ns=(time.time_ns(), time.time_ns() // 10**9 * 10**9))
            reading = read_folder(file.parent, index=index)
            index.add_from(reading.root, reading)
            assert dict(index.get("a.md") or {})["text"] == text


def test_the_same_file_under_another_root_is_read_again_and_marked_anew(tmp_path: Path, path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.md").write_text("kettle")
    (notes / "b.md").write_text("bins")
    _age(notes)
    for words in ([str(notes / "a.md")], [str(notes), "--prune"]):
        assert main(["index", *words, "--db", str(path), "--model", TINY]) == 0
    (notes / "a.md").unlink()
    assert main(["index", str(notes), "--db", str(path), "--prune"]) == 0
    with Index.open(path) as index:
        assert index.ids() == ["b.md"]


def test_a_file_that_became_empty_empties_its_document(tmp_path: Path, path: Path) -> None:
    (tmp_path / "notes").mkdir()
    file = tmp_path / "notes" / "a.md"
    (tmp_path / "notes" / "empty.py").write_text("\n")
    file.write_text("kettle")
    with Index.open(path, model=WordEncoder()) as index:
        for _ in range(2):
            reading = read_folder(file.parent, index=index)
            index.add_from(reading.root, reading)
            assert reading.passed_over == {"empty": 1}
            file.write_text("")
        assert dict(index.get("a.md") or {})["text"] == ""
        assert index.ids() == ["a.md"]


def test_ignore_files_are_followed_as_git_does(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    for name in ("src/build", "build", "docs/deep", "node_modules/x", "env", "cache", ".hidden", "kept/.github"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.md").write_text("text")
    for name in ("a.log", "keep.log", "top.md", "docs/top.md", "docs/deep/secret.md", "back~", "jquery.min.js"):
        (folder / name).write_text("text")
    (folder / "env" / "pyvenv.cfg").write_text("")
    (folder / "cache" / "CACHEDIR.TAG").write_text("")
    (folder / ".gitignore").write_text("# comment\n/build/\n*.log\n!keep.log\n/top.md\n")
    (folder / "docs" / ".gitignore").write_text("deep/secret.md\n")
    (folder / "kept" / ".edgecolbertignore").write_text("!.github/\n")
    assert _ids(folder) == ["docs/deep/a.md", "docs/top.md", "keep.log", "kept/.github/a.md", "src/build/a.md"]
    assert "top.md" in _ids(folder, ignore_files=False)
    assert "node_modules/x/a.md" not in _ids(folder, ignore_files=False)
    assert ".hidden/a.md" in _ids(folder, hidden=True)
    reading = read_folder(folder)
    list(reading)
    assert reading.passed_over["ignored"] == 8
    assert reading.passed_over["hidden"] == 1


def test_ignore_files_above_the_folder_count_within_its_repository(tmp_path: Path) -> None:
    sub = tmp_path / "repository" / "sub"
    sub.mkdir(parents=True)
    (tmp_path / "repository" / ".git").mkdir()
    (tmp_path / "repository" / ".gitignore").write_text("sub/draft.md\n*.txt\n")
    (tmp_path / ".gitignore").write_text("*.md\n")
    for name in ("draft.md", "done.md", "a.txt"):
        (sub / name).write_text("text")
    assert _ids(sub) == ["done.md"]
    # What is named is wanted.
    (tmp_path / "repository" / ".gitignore").write_text("/sub/\n")
    assert _ids(sub) == ["a.txt", "done.md", "draft.md"]


def test_patterns_that_make_no_sense_or_no_end_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("!\n" + "*a" * 30 + "*b\n*.txt\n")
    (tmp_path / ("a" * 60 + ".md")).write_text("text")
    (tmp_path / "b.txt").write_text("text")
    reading = read_folder(tmp_path)
    assert len(list(reading)) == 1
    assert len(reading.messages) == 2
    assert "is passed over" in reading.messages[0]


def test_without_the_extra_files_are_named_and_the_rest_is_read(folder: Path, path: Path, tmp_path: Path) -> None:
    (folder / ".gitignore").write_text("*.md\n")
    (folder / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    # A real process that cannot import the packages of the extra.
    program = (
        "import sys\nfor name in ('pypdfium2', 'docx', 'pathspec', 'watchfiles', 'charset_normalizer'):\n"
        "    sys.modules[name] = None\n"
        "from edgecolbert.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = ["index", str(folder), "--db", str(path), "--model", TINY, "--json"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["added"] == 13
    skipped = "\n".join(report["skipped"])
    assert f"skipped {folder}/letter.pdf: PDF needs a package: pip install 'edgecolbert[readers]'" in skipped
    assert f"skipped {folder}/plan.docx: DOCX needs a package: pip install 'edgecolbert[readers]'" in skipped
    assert "ignore files (.gitignore, .edgecolbertignore) are not followed without the package pathspec" in skipped
    assert "latin.txt: it is not UTF-8 (byte 2): unreadable bytes were replaced" in skipped
    watched = [sys.executable, "-c", program, *words, "--watch"]
    done = subprocess.run(watched, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--watch needs the package watchfiles, which is not installed. Install it with: " in done.stderr
    assert "pip install 'edgecolbert[readers]'." in done.stderr


def test_what_cannot_be_read_is_named_and_skipped_and_its_document_stays(
    folder: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["index", str(folder), "--db", str(path), "--model", TINY, "--json", "--prune"]
    assert main(words) == 0
    capsys.readouterr()
    (folder / "letter.pdf").write_bytes(b"%PDF-1.4 broken")
    (folder / "plan.docx").write_bytes(make.docx()[:500])
    (folder / "locked.pdf").write_bytes(make.encrypted_pdf(make.pdf(["x"]), "secret"))
    (folder / "loop.md").symlink_to(folder / "loop.md")
    (folder / "nowhere.md").symlink_to(folder / "gone.md")
    (folder / "around").symlink_to(folder, target_is_directory=True)
    # A file that the system refuses to read, whoever asks.
    (folder / "refused.txt").symlink_to("/proc/self/mem")
    (folder / "evil\x1b[31m.pdf").write_bytes(b"")
    (folder / "wrong.jsonl").write_text('{"id": "fine", "text": "fine"}\n{"no": "text"}\n')
    with (folder / "huge.log").open("wb") as file:
        file.truncate(2 * 2**30)
    (folder / "notes.md").unlink()
    (folder / "rows.jsonl").unlink()
    assert main(words) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    reasons = {
        line.partition(": ")[0].removeprefix(f"skipped {folder}/"): line.partition(": ")[2]
        for line in report["skipped"]
    }
    assert reasons.pop("letter.pdf").startswith("it is damaged")
    assert reasons.pop("plan.docx").startswith("it is damaged")
    assert reasons.pop("locked.pdf") == "it is encrypted with a password"
    assert reasons.pop("evil\x1b[31m.pdf").startswith("it is damaged")
    assert reasons.pop("huge.log").startswith("it has more than 67108864 bytes; cut it into several documents")
    assert "levels of symbolic links" in reasons.pop("loop.md")
    assert reasons.pop("nowhere.md") == "it is a link to something that is not there"
    assert reasons.pop("refused.txt")
    assert "line 2 has no text" in reasons.pop("wrong.jsonl")
    assert reasons == {}
    assert report["removed"] == 1
    assert "\x1b" not in captured.err
    assert "evil\\x1b[31m.pdf" in captured.err
    with Index.open(path) as index:
        # What an unreadable file of records had is not known to be gone.
        assert "row" in index
        assert dict(index.get("letter.pdf") or {})["text"] == "The kettle.\fBins go out."
        assert index.get("notes.md") is None


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can get to; pytest's own cannot be entered by them."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions as of POSIX")
def test_what_may_not_be_read_is_named_and_the_rest_is_read(open_folder: Path) -> None:
    (open_folder / "closed").mkdir()
    for name in ("closed/a.md", "b.md", "c.md"):
        (open_folder / name).write_text("kettle")
    (open_folder / "b.md").chmod(0o644)
    (open_folder / "c.md").chmod(0)
    (open_folder / "closed").chmod(0)
    # Whoever may read everything becomes somebody who may not, after the imports, which may lie in a closed folder.
    program = (
        "import json, os, sys\nimport edgecolbert.sources\nfrom edgecolbert import read_folder\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "folder = read_folder(sys.argv[1])\n"
        "ids = [record['id'] for record in folder]\n"
        "print(json.dumps([ids, [[file.path, file.reason] for file in folder.skipped], folder.messages]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(open_folder)], capture_output=True, text=True, check=False
    )
    (open_folder / "closed").chmod(0o755)
    assert done.returncode == 0, done.stderr
    ids, skipped, _ = json.loads(done.stdout)
    assert ids == ["b.md"]
    assert sorted(skipped) == [
        [f"{open_folder}/c.md", "Permission denied"],
        [f"{open_folder}/closed/", "Permission denied"],
    ]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions as of POSIX")
def test_documents_of_a_folder_that_is_out_of_sight_are_kept(open_folder: Path) -> None:
    notes = open_folder / "notes"
    (notes / "closed").mkdir(parents=True)
    notes.chmod(0o755)
    for name in ("closed/a.md", "b.md", "c.md"):
        (notes / name).write_text("kettle")
        (notes / name).chmod(0o644)
    program = (
        "import json, os, sys\nfrom pathlib import Path\nfrom word_encoder import WordEncoder\n"
        "from edgecolbert import Index, read_folder\n"
        "notes = Path(sys.argv[1])\n"
        "with Index.open(':memory:', model=WordEncoder()) as index:\n"
        "    first = read_folder(notes, index=index)\n"
        "    index.add_from(first.root, first)\n"
        "    (notes / 'closed').chmod(0)\n"
        "    (notes / 'b.md').unlink()\n"
        "    if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "    again = read_folder(notes, index=index)\n"
        "    index.add_from(again.root, again)\n"
        "    print(index.prune(again.root, again.present()), json.dumps(index.ids()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(notes)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    (notes / "closed").chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert done.stdout == '1 ["c.md", "closed/a.md"]\n'


def test_a_file_that_vanishes_while_the_folder_is_read_is_named(tmp_path: Path) -> None:
    for name in ("a.md", "b.md", "c.md"):
        (tmp_path / name).write_text("kettle")
    reading = read_folder(tmp_path)
    records = iter(reading)
    assert next(records)["id"] == "a.md"
    (tmp_path / "b.md").unlink()
    assert [record["id"] for record in records] == ["c.md"]
    assert [(file.path, file.reason) for file in reading.skipped] == [
        (str(tmp_path / "b.md"), "it vanished before it was read")
    ]


def test_a_deep_folder_is_read_to_its_end(tmp_path: Path) -> None:
    place = tmp_path
    for _ in range(400):
        place = place / "d"
        place.mkdir()
    (place / "a.md").write_text("kettle")
    assert _ids(tmp_path) == ["d/" * 400 + "a.md"]


def test_a_path_that_is_wrong_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="path is int, expected a string or a path"):
        read_folder(3)  # type: ignore[arg-type]


def test_a_binary_file_without_a_suffix_is_passed_over_and_a_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"\x7fELF\x00\x01")
    (tmp_path / "meeting 3.4").write_text("notes of the meeting")
    reading = read_folder(tmp_path)
    assert [record["id"] for record in reading] == ["meeting 3.4"]
    assert reading.passed_over == {"binary, without a suffix": 1}


def test_the_command_reads_again_when_it_is_told_to(
    folder: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["index", str(folder), "--db", str(path), "--model", TINY, "--batch-size", "2"]
    assert main(words) == 0
    assert "passed over: 1 .png" in capsys.readouterr().out
    file = folder / "notes.md"
    before = file.stat()
    file.write_text(file.read_text().replace("left", "real"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert main(words) == 0
    assert "0 added, 0 updated, 14 unchanged" in capsys.readouterr().out
    assert main([*words, "--reread"]) == 0
    assert "0 added, 1 updated, 13 unchanged" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_where_it_stopped(folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecolbert.readers import files

    whole = files.read_plainly
    opened: list[str] = []

    def read(name: str) -> Any:
        opened.append(Path(name).name)
        if len(opened) == 5:
            raise KeyboardInterrupt
        return whole(name)

    monkeypatch.setattr(files, "read_plainly", read)
    words = ["index", str(folder), "--db", str(path), "--model", TINY, "--batch-size", "1"]
    assert main(words) == 130
    first = set(opened) - {"all.mbox", opened[4]}
    assert main(words) == 0
    assert first.isdisjoint(opened[5:])
    with Index.open(path) as index:
        assert len(index) == 14


def test_a_limit_that_was_raised_counts_for_the_reading_process(folder: Path) -> None:
    (folder / "long.html").write_text("<p>" + "kettle " * 1000)
    with limits.changed(RECORD_BYTES=5000):
        reading = read_folder(folder)
        list(reading)
        assert [Path(file.path).name for file in reading.skipped] == ["long.html"]
    assert "long.html" in _ids(folder)


class Watched:
    """`edgecolbert index --watch` in a process of its own, and the reports it prints."""

    def __init__(self, folder: Path, path: Path) -> None:
        words = ["index", str(folder), "--db", str(path), "--model", TINY, "--watch", "--json"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgecolbert", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._collect, daemon=True).start()
        self._path = path

    def _collect(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def report(self) -> Any:
        return json.loads(self._lines.get(timeout=60))

    def until(self, fulfilled: Callable[[Index], bool]) -> None:
        """Wait until the database is as it should be."""
        end = time.monotonic() + 60
        while True:
            with Index.open(self._path, read_only=True) as index:
                if fulfilled(index):
                    return
                assert time.monotonic() < end, index.ids()
            time.sleep(0.2)

    def stop(self) -> tuple[int, str]:
        self._process.send_signal(signal.SIGINT)
        _, error = self._process.communicate(timeout=60)
        return self._process.returncode, error

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends a signal of POSIX")
def test_a_watched_folder_is_followed_until_ctrl_c(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.md").write_text("kettle")
    (folder / "deep" / "b.md").write_text("bins")
    # In the folder itself, where its own writes are seen, too.
    path = folder / "notes.db"
    watched = Watched(folder, path)
    try:
        assert watched.report()["documents"] == 2
        (folder / "c.md").write_text("a cup")
        watched.until(lambda index: "c.md" in index)
        (folder / "a.md").write_text("the kettle has moved")
        watched.until(lambda index: dict(index.get("a.md") or {})["text"] == "the kettle has moved")
        (folder / "c.md").rename(folder / "d.md")
        watched.until(lambda index: sorted(index.ids()) == ["a.md", "d.md", "deep/b.md"])
        (folder / "deep").rename(folder / "other")
        watched.until(lambda index: sorted(index.ids()) == ["a.md", "d.md", "other/b.md"])
        (folder / "rows.jsonl").write_text('{"id": "row", "text": "a row"}\n')
        watched.until(lambda index: "row" in index)
        (folder / "rows.jsonl").unlink()
        watched.until(lambda index: "row" not in index)
        (folder / "broken.pdf").write_bytes(b"no pdf")
        (folder / ".gitignore").write_text("other/\n")
        watched.until(lambda index: sorted(index.ids()) == ["a.md", "d.md"])
        (folder / "d.md").unlink()
        watched.until(lambda index: index.ids() == ["a.md"])
        code, error = watched.stop()
        assert code == 0
        assert "broken.pdf: it is damaged" in error
        assert error.endswith("edgecolbert: stopped watching\n")
    finally:
        watched.kill()


@pytest.mark.slow
def test_a_watched_folder_that_goes_away_ends_the_watch_and_removes_nothing(tmp_path: Path, path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("kettle")
    watched = Watched(folder, path)
    try:
        assert watched.report()["documents"] == 1
        folder.rename(tmp_path / "elsewhere")
        _, error = watched._process.communicate(timeout=60)
        assert watched._process.returncode == 1
        assert "notes is gone, and is not watched any more. Nothing of it was removed" in error
    finally:
        watched.kill()
    with Index.open(path) as index:
        assert index.ids() == ["a.md"]


def test_only_folders_are_watched(tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.md").write_text("kettle")
    assert main(["index", str(tmp_path / "a.md"), "--db", str(path), "--model", TINY, "--watch"]) == 1
    assert "a.md is none. Name its folder." in capsys.readouterr().err
    assert not path.exists()

"""A frozen application: built by PyInstaller with our hook, moved, and run without environment, Python and network."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from test_examples import EXAMPLES, HANDBOOK, without_network

import edgecolbert

# Measured on Linux x86-64: 125 MB, 134 with SQLCipher, of which onnxruntime and numpy with its libraries are 73. What
# is larger has packages that nobody asked for, or debug symbols.
LARGEST_BYTES = 150e6
UNWANTED = {"IPython", "hypothesis", "lxml", "matplotlib", "mypy", "pandas", "pyarrow", "pytest", "tkinter", "torch"}


def test_pyinstaller_is_told_where_the_hook_is() -> None:
    # As it will be installed; that PyInstaller finds it is for the slow test.
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entry = EntryPoint("hook-dirs", project["entry-points"]["pyinstaller40"]["hook-dirs"], "pyinstaller40")
    (folder,) = entry.load()()
    assert {"hook-edgecolbert.py", "hook-edgecolbert.cli.py", "hook-edgecolbert_export.py"} <= {
        path.name for path in Path(folder).iterdir()
    }


@pytest.mark.slow
def test_a_frozen_application_indexes_and_searches_offline_from_anywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("PyInstaller") is None:
        pytest.skip("PyInstaller is not installed (pip install 'edgecolbert[frozen]')")
    command = [sys.executable, str(EXAMPLES / "frozen" / "build.py"), "--out", str(tmp_path / "dist")]
    done = subprocess.run(
        [*command, "--compare", "1", "--json", str(tmp_path / "size.json")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with capsys.disabled():
        print(f"\n{done.stdout}", end="")  # the size, wherever the tests run
    report = json.loads((tmp_path / "size.json").read_text(encoding="utf-8"))
    contents = {path.name for path in (tmp_path / "dist" / "notes" / "_internal").iterdir()}
    assert not contents & UNWANTED
    assert report["bytes"] < LARGEST_BYTES, report["largest"]

    # Elsewhere, so that nothing can be found by the path it was built at; the folder it works in has nothing of ours.
    shutil.move(tmp_path / "dist" / "notes", tmp_path / "moved")
    work = tmp_path / "work"
    work.mkdir()

    def run(*arguments: str, expected: int = 0) -> str:
        command = [*without_network(), str(tmp_path / "moved" / "notes"), *arguments]
        # PATH only for what takes the network away.
        environment = {"PATH": "/usr/bin:/bin"} if without_network() else {}
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == expected, done.stderr
        return done.stdout if expected == 0 else done.stderr

    assert run("--version") == f"edgecolbert {edgecolbert.__version__}\n"
    assert "40 added" in run("index", str(HANDBOOK), "--db", "notes.db")
    query = ["water keeps dripping at night", "--db", "notes.db", "-k", "3", "--json"]
    hits = json.loads(run("search", *query))["hits"]
    plain = subprocess.run(
        [sys.executable, "-m", "edgecolbert", "search", *query], cwd=work, capture_output=True, text=True, check=True
    )
    assert hits[0]["id"] == "dripping-tap.md"
    assert hits == json.loads(plain.stdout)["hits"]
    hybrid = json.loads(run("search", *query, "--mode", "hybrid", "--highlight"))["hits"]
    assert hybrid[0]["snippet"]["highlights"]
    assert run("tune", "--db", "notes.db")
    assert " 0 problems" in run("verify", "--db", "notes.db")
    # The model, its golden values, and the versions of compiled packages.
    doctor = json.loads(run("doctor", "--json"))
    assert doctor["problems"] == []
    assert doctor["model"]["golden texts"] > 0
    assert str(tmp_path / "moved") in doctor["model"]["folder"]
    assert "starter" in run("models")
    assert [path.name for path in work.iterdir()] == ["notes.db"]
    # What was left out says so, and is no traceback.
    assert "edgecolbert[export]" in run("export", "checkpoint", "out", expected=1)
    assert "huggingface_hub" in run("rerank", "x", str(HANDBOOK / "slugs.md"), "--model", "owner/name", expected=1)

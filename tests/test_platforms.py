"""Machines that the tests do not run on: what can be said of them here."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import types
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest

from edgecolbert import Index, diagnosis, kernels, known_failures, sessions, smoke
from edgecolbert.connection import open_connection
from edgecolbert.drivers import database_uri
from edgecolbert.errors import RuntimeUnsafeWarning, RuntimeUnusableError
from edgecolbert.hub import HubName
from edgecolbert.known_failures import KNOWN_FAILURES, Machine

ROOT = Path(__file__).parent.parent
TINY = str(ROOT / "tests" / "fixtures" / "tiny-model")
PI_4 = Machine("Linux", True, frozenset({"fp", "asimd", "crc32"}))
PI_5 = Machine("Linux", True, frozenset({"fp", "asimd", "crc32", "atomics", "asimddp"}))
LAMBDA = PI_5._replace(has_cpu_lists=False)
APPLE_M4 = Machine("Darwin", True, frozenset({"sme", "atomics"}))
PC = Machine("Linux", is_arm64=False)


def _concerns(version: str, machine: Machine) -> list[bool]:
    """For each failure that is known of a version on a machine, whether it is fatal."""
    installed = known_failures.parsed_version(version)
    return [found.fatal for found in KNOWN_FAILURES if found.on_machine(machine) and found.in_version(installed)]


@pytest.mark.parametrize(
    ("version", "machine", "expected"),
    [
        ("1.21.0", PI_4, [True]),
        ("1.21.0", PI_5, []),
        ("1.21.1", PI_4, []),
        ("1.31.1", PI_4, []),
        ("1.25.1", LAMBDA, [True]),
        ("1.26.0", LAMBDA, []),
        ("1.31.1", PI_5._replace(cpuinfo_is_arm=False), [True]),
        ("1.27.0", PI_5._replace(cpuinfo_is_arm=False), []),
        ("1.22.1", APPLE_M4, []),
        ("1.24.1", APPLE_M4, [False]),
        ("1.24.4", APPLE_M4, []),
        ("1.27.0.dev20260504", APPLE_M4, [False]),
        ("1.31.1", APPLE_M4, []),
        ("1.21.0", PC._replace(has_cpu_lists=False), []),
        ("1.21.0", Machine("Windows", True), []),
        # A kernel that names no extension says nothing about them.
        ("1.21.0", Machine("Linux", True), []),
    ],
)
def test_the_table_of_known_failures(version: str, machine: Machine, expected: list[bool]) -> None:
    assert _concerns(version, machine) == expected


def test_every_known_failure_has_a_source_and_a_remedy() -> None:
    for failure in KNOWN_FAILURES:
        assert failure.sources
        assert all(source.startswith("https://github.com/") or (ROOT / source).exists() for source in failure.sources)
        assert failure.remedy.endswith(".")


def test_the_requirements_leave_out_what_is_wrong_and_can_be_left_out() -> None:
    metadata = pytest.importorskip("packaging.requirements")
    lines = re.findall(r'"(onnxruntime[^"]*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    allowed = metadata.Requirement(lines[0]).specifier
    for version, wanted in {"1.21.0": False, "1.22.0": True, "1.27.0": False, "1.28.0": True, "1.31.1": True}.items():
        assert allowed.contains(version) == wanted, version


def _write_system(root: Path, cpuinfo: str, *, lists: bool) -> None:
    (root / "proc").mkdir(parents=True)
    (root / "proc" / "cpuinfo").write_text(cpuinfo, encoding="utf-8")
    if lists:
        folder = root / "sys" / "devices" / "system" / "cpu"
        folder.mkdir(parents=True)
        (folder / "possible").write_text("0-3\n", encoding="utf-8")


def test_what_a_kernel_says_of_its_processor(tmp_path: Path) -> None:
    arm = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
    _write_system(tmp_path / "pi", arm, lists=True)
    assert known_failures._linux(tmp_path / "pi") == Machine(
        "Linux", True, frozenset({"fp", "asimd", "evtstrm", "crc32", "cpuid"})
    )
    _write_system(tmp_path / "emulated", "processor\t: 0\nvendor_id\t: AuthenticAMD\n", lists=True)
    assert known_failures._linux(tmp_path / "emulated") == Machine("Linux", True, cpuinfo_is_arm=False)
    _write_system(tmp_path / "lambda", arm, lists=False)
    assert not known_failures._linux(tmp_path / "lambda").has_cpu_lists
    assert known_failures._linux(tmp_path / "no proc").cpuinfo_is_arm


@pytest.fixture
def on_a_bad_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed version is known to be fatal here, and was not imported yet."""
    fatal = next(failure for failure in KNOWN_FAILURES if failure.fatal)
    monkeypatch.setattr(sessions, "known_failures", lambda: [fatal])
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.delenv(sessions.TRUST_VARIABLE, raising=False)


@pytest.mark.usefixtures("on_a_bad_machine")
def test_a_fatal_version_is_refused_before_it_is_imported() -> None:
    with pytest.raises(RuntimeUnusableError, match=r"onnxruntime [\d.]+ dies .*issues/23957\). Upgrade .*not imported"):
        sessions.import_onnxruntime()
    assert "onnxruntime" not in sys.modules


@pytest.mark.usefixtures("on_a_bad_machine")
def test_an_encoder_of_the_users_own_searches_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels._onnxruntime_kernel.cache_clear()
    try:
        assert kernels._onnxruntime_kernel() is None
        tiles = kernels.tiles_of([np.full((3, 4), 2, dtype=np.int8)])
        query = kernels.round_query(np.eye(4, dtype=np.float32))
        assert (kernels.tile_maxima(tiles, query) == 2 * 32_512).all()
    finally:
        kernels._onnxruntime_kernel.cache_clear()


def test_a_version_that_may_fail_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    unsafe = next(failure for failure in KNOWN_FAILURES if not failure.fatal)
    monkeypatch.setattr(sessions, "known_failures", lambda: [unsafe])
    monkeypatch.delenv(sessions.TRUST_VARIABLE, raising=False)
    with pytest.warns(RuntimeUnsafeWarning, match="SME.*Upgrade onnxruntime"):
        sessions._check_known_failures()
    monkeypatch.setenv(sessions.TRUST_VARIABLE, "1")
    sessions._check_known_failures()


def test_a_package_that_cannot_be_imported_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnusableError, match="cannot be imported"):
        sessions.import_onnxruntime()


@pytest.mark.skipif(not hasattr(signal, "SIGILL") or os.name == "nt", reason="signals of POSIX")
def test_doctor_survives_what_ends_a_process(tmp_path: Path) -> None:
    # A package that does what a library for another processor does when it is loaded.
    (tmp_path / "tokenizers").mkdir()
    (tmp_path / "tokenizers" / "__init__.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n", encoding="utf-8"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "edgecolbert", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 1, done.stderr
    (problem,) = json.loads(done.stdout)["problems"]
    assert "import tokenizers ended the process by the signal SIGILL" in problem


def test_exit_codes_of_windows_are_deaths() -> None:
    assert smoke._death(0xC000001D) == "an illegal instruction"
    assert smoke._death(0xC0000005 - 2**32) is not None
    assert smoke._death(0) is None
    assert smoke._death(1) is None


def test_the_doctor_leaves_a_frozen_application_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "sys", types.SimpleNamespace(executable="", frozen=True))
    assert smoke.find_death() is None


def test_doctor_names_a_version_that_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    unsafe = next(failure for failure in KNOWN_FAILURES if not failure.fatal)
    monkeypatch.setattr(diagnosis, "known_failures", lambda: [unsafe])
    problems = diagnosis.diagnose(TINY)["problems"]
    assert len(problems) == 1
    assert "SME" in problems[0]


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        (r"C:\Users\Ana\notes.db", "file:///C:/Users/Ana/notes.db"),
        (r"C:\a b\50% of #1?.db", "file:///C:/a%20b/50%25%20of%20%231%3F.db"),
        (r"\\server\share\notes.db", "file:////server/share/notes.db"),
    ],
)
def test_databases_of_windows_as_sqlite_takes_them(path: str, uri: str) -> None:
    assert database_uri(PureWindowsPath(path)) == uri


def test_the_form_of_a_share_is_a_path_to_sqlite(tmp_path: Path) -> None:
    # Two slashes in front are one here; the form that as_uri gives is refused on every system.
    sqlite3.connect(f"file://{'//'}{tmp_path.as_posix().lstrip('/')}/share.db", uri=True).close()
    assert (tmp_path / "share.db").exists() or os.name == "nt"
    with pytest.raises(sqlite3.OperationalError, match="authority"):
        sqlite3.connect("file://server/share/notes.db", uri=True)


@pytest.mark.parametrize("name", [r"C:\models\mine", "C:/models/mine", r"models\mine", "./starter"])
def test_a_folder_of_windows_is_no_name_of_the_hub(name: str) -> None:
    assert HubName.parse(name) is None


def test_commits_reach_the_drive_on_macos_too(path: Path) -> None:
    connection = open_connection(path, create=True, read_only=False, timeout=1)
    assert connection.execute("PRAGMA fullfsync").fetchone() == (1,)
    assert connection.execute("PRAGMA checkpoint_fullfsync").fetchone() == (1,)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    connection.close()


def test_ids_that_differ_in_case_or_composition_are_different(path: Path, encoder: object) -> None:
    ids = ["note", "Note", "NOTE", "\u00fcber", "u\u0308ber"]
    with Index.open(path, model=encoder) as index:
        index.add([{"id": name, "text": f"text of {number}"} for number, name in enumerate(ids)])
        assert sorted(index.ids()) == sorted(ids)
        index.delete(["NOTE"])
        assert len(index) == 4


def test_a_terminal_with_few_characters_is_no_disaster(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "雨.md").write_text("雨 and Grüße → 🌧", encoding="utf-8")
    # cp1252 is a pipe's encoding on Windows; the other two turn a forgotten encoding= into an error.
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONWARNDEFAULTENCODING": "1", "PYTHONPATH": str(ROOT)}
    environment["PYTHONWARNINGS"] = "error::EncodingWarning"

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "edgecolbert", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode("cp1252")

    run("index", "notes", "--db", "雨.db", "--model", TINY)
    printed = run("search", "雨 →", "--db", "雨.db")
    assert "\\u96e8.md" in printed
    assert "Grüße" in printed
    assert json.loads(run("search", "雨 →", "--db", "雨.db", "--json"))["hits"][0]["id"] == "雨.md"
    for command in ("info", "verify", "compact", "tune"):
        run(command, "--db", "雨.db")
    run("doctor")
    run("models")
    run("rerank", "雨", "notes")


def test_the_kit_for_boards_measures_and_gives_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specification = importlib.util.spec_from_file_location("board_kit", ROOT / "examples" / "board_kit.py")
    assert specification is not None
    assert specification.loader is not None
    kit = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(kit)
    assert kit.main(["--quick", "--sizes", "30", "--json", str(tmp_path / "board.json")]) == 0
    report = json.loads((tmp_path / "board.json").read_text(encoding="utf-8"))
    assert report["correct"]
    assert report["quick"]
    assert report["documents_per_s"] > 0
    (searched,) = report["searches"]
    assert (searched["documents"], searched["problems"]) == (30, 0)
    row = capsys.readouterr().out.strip()
    table = (ROOT / "docs" / "boards.md").read_text(encoding="utf-8")
    header = next(line for line in table.splitlines() if line.startswith("| machine"))
    assert row.count("|") == header.count("|")

"""The pages for readers: links lead somewhere, code blocks run, commands are real, and the site can be built."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import docs_pages
import pytest
from docs_pages import ROOT, SHELL, same_output

import edgecolbert
from edgecolbert import cli

DOCS = ROOT / "docs"
PAGES = docs_pages.pages()
# Blocks that cannot run here, by page: they need torch, a checkpoint, a network, root, or another machine. Mark a block
# with no-run and count it here only where nothing else is possible; needs:PACKAGE is enough for an extra.
NOT_RUN: dict[str, int] = {}


@pytest.fixture(autouse=True)
def small_first_stage() -> None:
    """Readers have the numbers of the library, not those that make the other tests small."""


def _id(page: Path) -> str:
    return page.as_posix()


def test_there_are_pages() -> None:
    assert {Path("README.md"), Path("docs/index.md"), Path("docs/tutorial.md")} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    wrong = []
    for line, token in docs_pages.inlines(page):
        target = token.attrs.get("href") or token.attrs.get("src")
        if token.type in ("link_open", "image") and (problem := _wrong_with(str(target or ""), page)):
            wrong.append(f"{page}:{line}: {target!r} {problem}")
    assert wrong == []


def _wrong_with(target: str, page: Path) -> str | None:
    parts = urlsplit(target)
    if parts.scheme:
        # No network: only the form.
        good = parts.scheme == "https" and re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc)
        return None if good else "is no https address"
    there = (ROOT / page).parent / unquote(parts.path) if parts.path else ROOT / page
    there = there.resolve()
    if not there.exists() or not there.is_relative_to(ROOT):
        return "is not there"
    if parts.fragment and parts.fragment not in docs_pages.anchors(there.relative_to(ROOT)):
        return f"is no heading; there are {sorted(docs_pages.anchors(there.relative_to(ROOT)))}"
    return None


@pytest.mark.parametrize(
    "target", ["nowhere.md", "#nothing", "../../etc", "http://example.org/", "https://nodots/", "LICENSE#top", ""]
)
def test_a_wrong_link_is_found(target: str) -> None:
    found = _wrong_with(target, Path("README.md"))
    assert found if target else found is None


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_command_of_a_page_can_be_parsed(page: Path) -> None:
    wrong = []
    for block in docs_pages.blocks(page):
        if block.language not in SHELL | {"", "text"} or "output" in block.options:
            continue
        for shown in block.text.replace("\\\n", " ").splitlines():
            line = shown.removeprefix("$ ")
            if block.language == "console" and line == shown:
                continue
            if not re.search(r"(^|[;&|/] *)edgecolbert ", line):
                continue
            for command in docs_pages.simple_commands(line):
                words = docs_pages.ours(command)
                if words is not None and (error := docs_pages.usage_error(words)):
                    wrong.append(f"{page}:{block.line}: {line}\n{error}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_option_named_in_a_page_exists(page: Path) -> None:
    wrong = []
    for line, token in docs_pages.inlines(page):
        named = re.match(r"edgecolbert ([a-z]+)", token.content) if token.type == "code_inline" else None
        if named is None:
            continue
        if named[1] not in cli.COMMANDS:
            wrong.append(f"{page}:{line}: there is no command {named[1]!r}")
            continue
        commands = next(action for action in cli._parser([named[1]])._actions if action.dest == "==SUPPRESS==")
        known = set(commands.choices[named[1]]._option_string_actions)  # type: ignore[call-overload, index]
        unknown = set(re.findall(r"(?<!\S)--[a-z-]+", token.content)) - known
        wrong += [f"{page}:{line}: {named[1]} has no option {option}" for option in sorted(unknown)]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_file_and_name_of_ours_in_a_page_exists(page: Path) -> None:
    wrong = []
    for line, token in docs_pages.inlines(page):
        if token.type != "code_inline":
            continue
        place = re.fullmatch(r"(edgecolbert|export|tests|docs|examples|benchmarks|reliability)/[\w./-]+", token.content)
        if place and not (ROOT / token.content).exists():
            wrong.append(f"{page}:{line}: there is no file {token.content}")
        name = re.fullmatch(r"(edgecolbert(?:\.\w+)+)(\(.*)?", token.content)
        if name and not _resolves(name[1]):
            wrong.append(f"{page}:{line}: there is no {name[1]}")
        member = re.match(r"([A-Z]\w+)\.(\w+)", token.content)
        if member and member[1] in edgecolbert.__all__:
            owner = getattr(edgecolbert, member[1])
            if not hasattr(owner, member[2]) and member[2] not in getattr(owner, "__annotations__", {}):
                wrong.append(f"{page}:{line}: {member[1]} has no {member[2]}")
    assert wrong == []


def _resolves(dotted: str) -> bool:
    value: object = edgecolbert
    for position, name in enumerate(dotted.split(".")[1:], start=2):
        try:
            value = getattr(value, name)
        except AttributeError:
            try:
                value = import_module(".".join(dotted.split(".")[:position]))
            except ModuleNotFoundError:
                return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_what_a_page_says_runs_and_prints_what_it_shows(page: Path, tmp_path: Path) -> None:
    for block in docs_pages.blocks(page):
        assert block.language != "python" or docs_pages.is_python(block.text), f"{page}:{block.line} is no Python"
    for step in docs_pages.run_page(page, tmp_path / "page"):
        if step.shown is not None and step.shown[0].strip():
            assert same_output(step.shown[0], step.printed), (
                f"{page}:{step.line} prints:\n{step.printed}\n`python tests/docs_pages.py {page}` writes that into it."
            )


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_no_block_escapes_by_its_mark(page: Path) -> None:
    for block in docs_pages.blocks(page):
        where = f"{page}:{block.line - 1}"
        assert block.language not in {"py", "python3", "pycon", "shell", "shell-session"}, (
            f"{where}: python, sh, console"
        )
        if block.language in SHELL | {"python"}:
            unknown = [mark for mark in block.options if not re.fullmatch(r"no-run|needs:\w+|file:[\w.]+", mark)]
            assert unknown == [], f"{where}: tests/docs_pages.py says which marks there are"


def test_few_blocks_are_left_out() -> None:
    marked = {
        page.as_posix(): count
        for page in PAGES
        if (count := sum("no-run" in block.options for block in docs_pages.blocks(page)))
    }
    assert marked == NOT_RUN
    n_blocks = sum(block.language in SHELL | {"python"} for page in PAGES for block in docs_pages.blocks(page))
    assert sum(marked.values()) * 10 <= n_blocks


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("  1.  5.6089  tap.md\n", "  1.  5.6101  tap.md\n", True),
        ("  1.  5.6089  tap.md\n", "  1.  5.9089  tap.md\n", False),
        ("  1.  5.6089  tap.md\n", "  2.  5.6089  tap.md\n", False),
        ("40 added\n", "41 added\n", False),
        ("one\n...\nfour\n", "one\ntwo\nthree\nfour\n", True),
        ("one\n...\nfour\n", "one\ntwo\nthree\nfive\n", False),
        ("one\n", "one\ntwo\n", False),
    ],
)
def test_output_is_compared(shown: str, printed: str, same: bool) -> None:
    assert same_output(shown, printed) is same


def test_every_page_is_in_the_navigation() -> None:
    named: list[Path] = []
    for page in sorted(DOCS.rglob("*.md")):
        for block in docs_pages.blocks(page.relative_to(ROOT)):
            if block.language == "{toctree}":
                for entry in (line.strip() for line in block.text.splitlines()):
                    if entry and not entry.startswith(":"):
                        below = [page.parent / f"{entry}.md"]
                        if "*" in entry:
                            below = list(page.parent.glob(f"{entry}.md"))
                        named += [(path).resolve() for path in below]
    assert sorted(named) == sorted(set(DOCS.rglob("*.md")) - {DOCS / "index.md"})


def test_every_public_name_is_in_the_reference() -> None:
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    documented = set(re.findall(r"^\.\. auto\w+:: edgecolbert\.(\w+)$", reference, flags=re.MULTILINE))
    assert set(edgecolbert.__all__) - {"__version__"} <= documented


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="needs edgecolbert[docs]")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", "doctrees", str(DOCS), "site"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = {path.relative_to(tmp_path / "site").with_suffix("") for path in (tmp_path / "site").rglob("*.html")}
    assert {path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md")} <= built
    foreign = re.compile(r'<(?:script|link|img|iframe|source)[^>]*(?:src|href)="(?:https?:)?//[^"]*"')
    loaded = [hit for page in (tmp_path / "site").rglob("*.html") for hit in foreign.findall(page.read_text("utf-8"))]
    sheets = (tmp_path / "site").rglob("*.css")
    loaded += [
        hit
        for sheet in sheets
        for hit in re.findall(r"(?:@import|url\() *[\"']?(?:https?:)?//[^)]*", sheet.read_text("utf-8"))
    ]
    assert loaded == []
    commands = (tmp_path / "site/reference/command-line.html").read_text("utf-8")
    assert [name for name in cli.COMMANDS if f"edgecolbert-{name}" not in commands] == []


@pytest.mark.slow
def test_a_page_in_no_navigation_stops_the_build(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="needs edgecolbert[docs]")
    pages = {
        "index.md": "# All\n\n```{toctree}\nnamed\n```\n",
        "named.md": "# Named\n",
        "forgotten.md": "# Forgotten\n",
    }
    for name, text in pages.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-c", str(DOCS), str(tmp_path), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "forgotten.md: WARNING: document isn't included in any toctree" in done.stderr

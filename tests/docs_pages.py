"""The project's Markdown pages: their headings, links, and what their code blocks do when a reader runs them in order.

What the words behind a block's language mean:

- ```python: runs, and goes on where the page's earlier blocks stopped, in a folder that has `examples` and FILES.
- file:NAME, behind any language: the block is written to that file; `python NAME` in a later shell block runs it.
- ```text output: what the Python block before it prints.
- ```sh: commands, of which those that `runs` says run. Of one with a word such as FOLDER, in capitals, only the
  arguments are checked.
- ```console: lines that begin with "$ " are commands, the others are what they print.
- needs:PACKAGE: runs only where that package can be imported.
- no-run: is only read; tests/test_docs.py says which pages may have how many.
- <!-- run: COMMAND -->: a command that readers do not see.

In output, a line of "..." stands for any lines, and numbers may differ a little: other processors round otherwise.

    python tests/docs_pages.py docs/tutorial.md    # writes what is really printed into the page
"""

from __future__ import annotations

import ast
import io
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from edgecolbert import cli

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    "one.txt": "The kettle is in the left cupboard.",
    "two.txt": "The bins go out on Tuesday.",
}
SHELL = {"bash", "console", "sh"}
# Commands beside edgecolbert that do no harm in a folder of their own.
_HARMLESS = {"cat", "chmod", "cp", "cut", "diff", "echo", "export", "head", "ls", "mkdir", "mv", "openssl", "printf"}
_HARMLESS |= {"rm", "sqlite3", "tail", "wc"}
# Commands of edgecolbert that take long, need what a test has not, or wait for somebody.
_LONG = {"doctor", "eval", "export", "mcp", "serve"}
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]+")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")


def pages() -> list[Path]:
    """Every page for readers, as paths below the project's folder."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("models/*/README.md")]
    found += [ROOT / "examples/README.md", ROOT / "benchmarks/README.md"]
    return sorted(page.relative_to(ROOT) for page in found)


def tokens(page: Path) -> list[Token]:
    """The blocks of a page, as markdown-it reads them."""
    return MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8"))


def inlines(page: Path) -> Iterator[tuple[int, Token]]:
    """What stands inside of lines, with the line's number: links, images, code."""
    for token in tokens(page):
        for inner in token.children or ():
            yield (token.map[0] + 1 if token.map else 0), inner


def anchors(page: Path) -> set[str]:
    """The names of a page's headings in links, as GitHub and MyST make them."""
    names: set[str] = set()
    found = tokens(page)
    for opening, inline in pairwise(found):
        if opening.type != "heading_open":
            continue
        heading = "".join(part.content for part in inline.children or () if part.type in ("text", "code_inline"))
        base = name = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        number = 0
        while name in names:
            number += 1
            name = f"{base}-{number}"
        names.add(name)
    return names


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        line: The line of its first line of text, from 1.
        language: The first word behind the fence.
        options: The other words.
        text: What is inside.
    """

    line: int
    language: str
    options: tuple[str, ...]
    text: str

    @property
    def file(self) -> str | None:
        """The name of the file that it is the contents of."""
        return next(iter(self._named("file:")), None)

    @property
    def runs(self) -> bool:
        """Whether its marks let it run here."""
        return "no-run" not in self.options and all(find_spec(name) for name in self._named("needs:"))

    def _named(self, mark: str) -> list[str]:
        return [option.removeprefix(mark) for option in self.options if option.startswith(mark)]


@dataclass
class Step:
    """One thing that a reader does.

    Attributes:
        line: Where it stands in the page, from 1.
        kind: "python", "shell", or "file" for a block that is a file's contents.
        source: The program, the command, or the contents.
        block: Where it comes from.
        shown: What the page says that it prints, with the numbers of the first line and of the one behind the last;
            None where it says nothing.
        printed: What it did print.
    """

    line: int
    kind: str
    source: str
    block: Block
    shown: tuple[str, int, int] | None = None
    printed: str = field(default="", compare=False)


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, and its hidden commands."""
    found = []
    for token in tokens(page):
        line = (token.map or [0])[0] + 1
        if token.type == "fence":
            language, *options = token.info.split() or [""]
            found.append(Block(line + 1, language, tuple(options), token.content))
        elif token.type == "html_block" and (hidden := re.fullmatch(r"<!-- run: (.*?) -->\s*", token.content, re.S)):
            found.append(Block(line, "sh", (), hidden[1] + "\n"))
    return found


def steps(page: Path) -> list[Step]:
    """What a reader of the page does, in order."""
    found: list[Step] = []
    for block in blocks(page):
        if block.file is not None:
            found.append(Step(block.line, "file", block.text, block))
        elif block.language == "python":
            found.append(Step(block.line, "python", block.text, block))
        elif block.language == "console":
            found += _console(block)
        elif block.language in SHELL:
            found += [Step(line, "shell", command, block) for line, command in _commands(block)]
        elif (block.language, *block.options) == ("text", "output"):
            found[-1].shown = (block.text, block.line, block.line + block.text.count("\n"))
    return found


def _commands(block: Block) -> Iterator[tuple[int, str]]:
    """Lines of a shell block, those that go on behind a backslash joined."""
    begun, start = "", 0
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        start = start if begun else number
        begun += line
        if begun.endswith("\\"):
            begun = begun[:-1]
            continue
        if begun.strip() and not begun.lstrip().startswith("#"):
            yield start, begun.strip()
        begun = ""


def _console(block: Block) -> list[Step]:
    found: list[Step] = []
    for number, line in enumerate(block.text.splitlines(keepends=True), start=block.line):
        if line.startswith("$ "):
            found.append(Step(number, "shell", line[2:].strip(), block, ("", number + 1, number + 1)))
        elif found and found[-1].shown is not None:
            text, first, _ = found[-1].shown
            found[-1].shown = (text + line, first, number + 1)
    return found


def simple_commands(line: str) -> list[list[str]]:
    """The commands of a line of a shell, each as its words, without what it reads from and writes to."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.commenters = "#"
    lexer.wordchars += "@:,+%^[]{}!"
    found: list[list[str]] = [[]]
    skip = False
    for word in lexer:
        if set(word) <= set("&|;()"):
            found.append([])
        elif set(word) <= set("<>"):
            skip = True
        elif skip:
            skip = False
        else:
            found[-1].append(word)
    return [command for command in found if command]


def ours(command: list[str]) -> list[str] | None:
    """The arguments of a command that is edgecolbert's, and None of any other."""
    return command[1:] if command[0].rpartition("/")[2] == "edgecolbert" else None


def usage_error(words: list[str]) -> str | None:
    """What edgecolbert's own parser says against these arguments, or None."""
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said):
            cli._parser(words).parse_args(words)
    except SystemExit as stop:
        return said.getvalue() if stop.code else None
    return None


def runs(line: str, folder: Path) -> bool:
    """Whether a command is run, or only its arguments are checked."""
    for command in simple_commands(line):
        arguments = ours(command)
        if any(_PLACEHOLDER.fullmatch(word) for word in command[1:]):
            return False
        if arguments is not None:
            if not arguments or arguments[0] in _LONG or "--watch" in arguments:
                return False
        elif command[0] == "python":
            # Programs of the page; those of the project have tests of their own.
            if command[1] != "-c" and ("/" in command[1] or not (folder / command[1]).exists()):
                return False
        elif command[0] not in _HARMLESS:
            return False
    return True


def run_page(page: Path, folder: Path) -> list[Step]:
    """Do what a page says, in order, in a folder.

    Args:
        page: The page.
        folder: Where to run it; made ready by this.

    Returns:
        The steps that ran, with what they printed.

    Raises:
        AssertionError: If one failed.
    """
    shutil.copytree(ROOT / "examples", folder / "examples")
    for name, text in FILES.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    bin_folder = folder.parent / (folder.name + "-bin")
    bin_folder.mkdir()
    for name, arguments in (("edgecolbert", "-m edgecolbert "), ("python", "")):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        (bin_folder / name).chmod(0o755)
    names: dict[str, Any] = {"__name__": "page"}
    done = []
    with _inside(folder, bin_folder):
        for step in steps(page):
            where = f"{page}:{step.line}"
            if not step.block.runs or (step.kind == "shell" and not runs(step.source, folder)):
                continue
            if step.kind == "file":
                Path(str(step.block.file)).write_text(step.source, encoding="utf-8")
                continue
            step.printed = _run_python(step, names, where) if step.kind == "python" else _run_shell(step, where)
            done.append(step)
    return done


@contextmanager
def _inside(folder: Path, bin_folder: Path) -> Iterator[None]:
    before, environment = Path.cwd(), dict(os.environ)
    modules, paths = set(sys.modules), list(sys.path)
    # As a program beside the page's files would find them.
    sys.path.insert(0, str(folder))
    os.environ["PATH"] = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "export")])
    os.environ["COLUMNS"] = "100"
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = paths
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
                del sys.modules[name]
        os.environ.clear()
        os.environ.update(environment)


def _run_python(step: Step, names: dict[str, Any], where: str) -> str:
    printed = io.StringIO()
    program = compile("\n" * (step.line - 1) + step.source, where, "exec", dont_inherit=True)
    with redirect_stdout(printed):
        exec(program, names)
    return printed.getvalue()


def _run_shell(step: Step, where: str) -> str:
    commands = simple_commands(step.source)
    arguments = ours(commands[0])
    if len(commands) == 1 and arguments is not None and not re.search(r"[<>|$]", step.source):
        printed, said = io.StringIO(), io.StringIO()
        with redirect_stdout(printed), redirect_stderr(said):
            code = cli.main(arguments)
        assert code == 0, f"{where}: {step.source}\nends with {code}: {said.getvalue()}"
        return printed.getvalue()
    if commands[0][0] == "export":
        for setting in commands[0][1:]:
            name, _, value = setting.partition("=")
            os.environ[name] = value
        return ""
    done = subprocess.run(["bash", "-ec", step.source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{where}: {step.source}\nends with {done.returncode}: {done.stderr}"
    return done.stdout


def same_output(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed, but for small differences of numbers and lines left out by "..."."""
    parts = [
        [line.rstrip() for line in part.splitlines() if line.strip()]
        for part in re.split(r"^\.\.\.\s*$", shown, flags=re.MULTILINE)
    ]
    lines = [line.rstrip() for line in printed.splitlines() if line.strip()]
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return len(first) == len(lines) and all(map(_same_line, first, lines))
    if not (_begins(first, lines) and _begins(last[::-1], lines[::-1])):
        return False
    position = len(first)
    for part in parts[1:]:
        while position <= len(lines) and not _begins(part, lines[position:]):
            position += 1
        if position > len(lines):
            return False
        position += len(part)
    return True


def _begins(wanted: list[str], lines: list[str]) -> bool:
    return len(wanted) <= len(lines) and all(map(_same_line, wanted, lines))


def _same_line(shown: str, printed: str) -> bool:
    # Columns are as wide as their numbers.
    if " ".join(_NUMBER.sub("0", shown).split()) != " ".join(_NUMBER.sub("0", printed).split()):
        return False
    return all(
        _same_number(wanted, found)
        for wanted, found in zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=True)
    )


def _same_number(shown: str, printed: str) -> bool:
    wanted, found = float(shown.replace(",", "")), float(printed.replace(",", ""))
    if "." in shown or "." in printed:
        return math.isclose(wanted, found, rel_tol=0.02, abs_tol=0.05)
    return wanted == found or (wanted >= 1_000 and math.isclose(wanted, found, rel_tol=0.1))


def is_python(text: str) -> bool:
    """Whether a block is valid Python."""
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def write_output(page: Path) -> int:
    """Put what is really printed into a page.

    Args:
        page: The page.

    Returns:
        How many outputs differed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "page")
        done = run_page(page, folder)
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines(keepends=True)
    changed = 0
    for step in reversed(done):
        if step.shown is not None and not same_output(step.shown[0], step.printed):
            printed = "".join(line.rstrip() + "\n" for line in step.printed.splitlines())
            lines[step.shown[1] - 1 : step.shown[2] - 1] = [printed]
            changed += 1
    (ROOT / page).write_text("".join(lines), encoding="utf-8")
    return changed


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {write_output(Path(name).resolve().relative_to(ROOT))} outputs written")

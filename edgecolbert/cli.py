"""`edgecolbert`: the command line's parser, and its promise that an error is one line on standard error."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from edgecolbert import __version__
from edgecolbert.errors import EdgeColbertError

# Name, one line of help. Each is a module of `commands`, imported only when its command runs, or for its --help.
COMMANDS = {
    "index": "read folders, files or standard input into a database",
    "search": "find the documents that match a query best",
    "facets": "count the values of a metadata field",
    "explain": "show why documents match a query: which token found which",
    "rerank": "order files by how well they match a query, without a database",
    "eval": "measure quality and speed on a test collection, a folder or one of the hub",
    "info": "show what is in a database",
    "verify": "check everything in a database",
    "repair": "make a new database of what can be read of a damaged one, or mend vectors in place",
    "backup": "copy a database into one file while others write to it",
    "dump": "write documents and token embeddings as JSON Lines for any program",
    "load": "make a database of what dump wrote",
    "compact": "give back the space of deleted documents and interrupted runs",
    "tune": "measure the first stage of a database, and choose its settings",
    "reencode": "make a database's vectors again, with the same model or another",
    "mcp": "let an assistant search a database, as a server of the Model Context Protocol",
    "doctor": "show versions, processor, and whether a model works here",
    "serve": "open a search page in the browser, on this machine only",
    "export": "turn a PyLate checkpoint into a model folder",
    "models": "list the models that are known or installed",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words after the program's name; those of the process by default.

    Returns:
        0 for success, 1 for an error, 2 for wrong usage, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal has not is shown as its number, as on standard error, and is no disaster.
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser(words)
    options = parser.parse_args(words)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        return int(options.run(options))
    except EdgeColbertError as error:
        print(f"edgecolbert: {_one_line(str(error))}", file=sys.stderr)
        return 1
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # A reader that closed the pipe has all it wanted; Python would complain when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            print(f"edgecolbert: {_one_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "edgecolbert: interrupted. What was stored stays; run the same command again to continue.", file=sys.stderr
        )
        return 130


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning is for people too: one line, without the place in our code."""
    print(f"edgecolbert: note: {_one_line(str(message))}", file=sys.stderr)


def _parser(words: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgecolbert",
        description="Late-interaction (ColBERT) retrieval on this device: torch-free, offline, one SQLite file.",
    )
    parser.add_argument("--version", action="version", version=f"edgecolbert {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, help_text in COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
        if name == chosen:
            module = import_module(f"edgecolbert.commands.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def _one_line(message: str) -> str:
    return " ".join(message.split())

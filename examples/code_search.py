"""Search Python code by what it does and by names: each function, method and class is a document with file and line.

    python examples/code_search.py . "where are passwords hashed?"
    python examples/code_search.py . "parse_header" --mode lexical --db code.db
    python examples/code_search.py                the standard library's json, with a few questions

"Hybrid" suits code: words find `raw_decode`, token embeddings find "turn an object into text". With --db a second run
encodes only what changed.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgecolbert import Index

QUESTIONS = ["turn an object into text", "raw_decode", "what happens with trailing data after the document?"]
# A symbol's text: enough for its name, its docstring and the beginning of its body.
MOST_LINES = 40


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Search Python code.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(json.__file__).parent)
    parser.add_argument("question", nargs="?", help="a question, or a name")
    parser.add_argument("--mode", choices=("late", "lexical", "hybrid"), default="hybrid")
    parser.add_argument("-k", type=int, default=3)
    parser.add_argument("--db", default=":memory:", help="keep the index in this file")
    options = parser.parse_args(arguments)

    with Index.open(options.db) as index:
        source = str(options.folder.resolve())
        report = index.add_from(source, list(symbols(options.folder)))
        index.prune(source, report.ids)
        print(f"{len(index)} symbols, {report.encoded} encoded")
        for question in [options.question] if options.question else QUESTIONS:
            print(f"\n{question}")
            for hit in index.search(question, k=options.k, mode=options.mode):
                place = f"{hit.metadata['file']}:{hit.metadata['line']}"
                print(f"  {place}  {hit.metadata['kind']} {hit.metadata['name']}")
    return 0


def symbols(folder: Path) -> Iterator[dict[str, Any]]:
    """The functions, methods and classes of all Python files below a folder."""
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        try:
            # In bytes: a file may say its own encoding.
            content = path.read_bytes()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes that other people wrote
                tree = ast.parse(content)
        except (OSError, SyntaxError, ValueError) as error:
            print(f"passed over {path}: {error}", file=sys.stderr)
            continue
        lines = content.decode("utf-8", errors="replace").splitlines()
        seen: dict[str, int] = {}
        for symbol in symbols_of(tree, lines, name, ""):
            # A property and its setter have one name.
            count = seen[symbol["id"]] = seen.get(symbol["id"], 0) + 1
            yield symbol if count == 1 else symbol | {"id": f"{symbol['id']}#{count}"}


def symbols_of(node: ast.AST, lines: list[str], file: str, inside: str) -> Iterator[dict[str, Any]]:
    """The symbols below a node of a file's syntax tree."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from symbols_of(child, lines, file, inside)
            continue
        qualified = f"{inside}.{child.name}" if inside else child.name
        kind = "class" if isinstance(child, ast.ClassDef) else "method" if inside else "function"
        first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
        end = min(child.end_lineno or child.lineno, first + MOST_LINES)
        if isinstance(child, ast.ClassDef):
            # Methods are documents of their own; the class is its head and what it says of itself.
            bodies = [entry.lineno for entry in child.body if isinstance(entry, ast.FunctionDef | ast.AsyncFunctionDef)]
            end = max(min([end, *(line - 1 for line in bodies)]), child.lineno)
        # A model of prose knows the words in a name, not the name: raw_decode and RawDecoder are "raw decode(r)" to it.
        words = " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", qualified)).lower()
        text = "\n".join([f"{words}: {Path(file).stem}", *lines[first - 1 : end]])
        # The line is metadata, not a part of the id: code that only moved is the same document.
        yield {
            "id": f"{file}::{qualified}",
            "text": text,
            "metadata": {"file": file, "line": child.lineno, "kind": kind, "name": qualified},
        }
        yield from symbols_of(child, lines, file, qualified)


if __name__ == "__main__":
    sys.exit(main())

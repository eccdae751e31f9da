"""`edgecolbert explain`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgecolbert.commands.output import (
    add_database,
    add_json,
    add_model,
    check_words,
    database_key,
    excerpt,
    positive,
    print_json,
)
from edgecolbert.errors import InputError

if TYPE_CHECKING:
    from edgecolbert.explanation import Explanation, Token


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("query", metavar="QUERY")
    add_database(parser)
    add_model(parser, "the one the database was made with")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--id", metavar="ID", help="explain this document, found or not")
    which.add_argument("-k", type=positive, default=3, help="how many hits to explain (default: 3)")
    parser.add_argument("--out", metavar="PAGE", help="write an HTML page with a heat map instead of printing a table")
    parser.add_argument("--force", action="store_true", help="replace PAGE if it exists")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Explain hits, as a table or as a page."""
    from edgecolbert.index import Index

    query = check_words(options.query, "QUERY")
    out = None if options.out is None else Path(options.out)
    if out is not None and out.exists() and not options.force:
        raise InputError(f"{out} exists. Give --force to replace it, or another --out.")
    with Index.open(options.db, model=options.model, create=False, read_only=True, key=database_key(options)) as index:
        if options.id is not None:
            explanations = [index.explain(query, check_words(options.id, "--id"))]
        else:
            explanations = [hit.explain() for hit in index.search(query, k=options.k)]
    if out is not None:
        from edgecolbert.heat_map import page

        out.write_text(page(query, explanations), encoding="utf-8", newline="\n")
    if options.json:
        print_json({"query": query, "explanations": [explanation.as_dict() for explanation in explanations]})
    elif out is not None:
        print(f"{out}: {len(explanations)} explained. Open it in a browser.")
    else:
        _print(explanations)
    return 0


def _print(explanations: Sequence[Explanation]) -> None:
    if not explanations:
        print("No documents.", file=sys.stderr)
    for rank, explanation in enumerate(explanations, start=1):
        ranks = "".join(f"  {stage} {place}" for stage, place in (explanation.ranks or {}).items())
        print(f"{rank:>3}. {explanation.score:8.4f}  {excerpt(explanation.id, 100)}{ranks}")
        if explanation.has_offsets:
            print(f"     {excerpt(explanation.snippet().marked(), 260)}")
        rows = []
        for match in explanation.matches:
            token = match.document
            place = "" if token is None or token.start is None else f"{token.start}-{token.end}"
            group = ", ".join(_named(member) for member in match.group) if len(match.group) > 1 else ""
            rows.append((_named(match.query), f"{match.score:.3f}", _named(token), place, excerpt(group, 60)))
        heads = ("query token", "score", "found", "characters", "pooled with" if any(row[4] for row in rows) else "")
        widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
        for row in [heads, *rows]:
            print("     " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _named(token: Token | None) -> str:
    if token is None:
        return "nothing"
    if token.text is None:
        return f"token {token.number}"
    return excerpt(token.text, 30) if token.kind == "text" else f"{excerpt(token.text, 30)} ({token.kind})"

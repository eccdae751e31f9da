"""`edgecolbert tune`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edgecolbert.beir import json_lines
from edgecolbert.commands.output import add_database, add_json, database_key, positive, print_json, progress_bar
from edgecolbert.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    add_database(parser)
    parser.add_argument(
        "--queries",
        metavar="FILE",
        type=Path,
        help='typical queries: JSON Lines with "text", such as queries.jsonl of a BEIR collection, or in a file of any '
        "other name one a line (default: words of the texts)",
    )
    parser.add_argument(
        "--n-queries", type=positive, default=50, metavar="N", help="queries of each kind (default: 50)"
    )
    parser.add_argument("--no-compare", action="store_true", help="only measure the first stage as it is")
    parser.add_argument("--rebuild", action="store_true", help="make the first stage again in any case")
    parser.add_argument(
        "--any-kind",
        action="store_true",
        help="compare with the other kind of first stage, too, where the database was made with one",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measure, choose, and print."""
    from edgecolbert.index import Index

    queries = None if options.queries is None else _read_queries(options.queries)
    key = database_key(options)
    with Index.open(options.db, create=False, key=key) as index, progress_bar("steps") as update:
        report = index.tune(
            queries,
            n_queries=options.n_queries,
            compare=not options.no_compare,
            rebuild=options.rebuild,
            any_kind=options.any_kind,
            progress=update,
        )
    if options.json:
        print_json(report.as_dict())
        return 0
    for trial in report.trials:
        recall = "  ".join(f"{kind} {value:.3f}" for kind, value in trial.recall.items())
        print(f"{trial.name:<20} recall of the top 10 in 100: {recall}  {trial.bytes_per_passage:,.0f} bytes a passage")
    if report.kept_kind is not None:
        print(f"made with a first stage of kind {report.kept_kind!r}: the other was not tried (--any-kind tries it)")
    print(f"first stage: {report.chosen}" + (", made again" if report.rebuilt else ""))
    for kind, curve in report.recall.items():
        print(f"{kind:<6} queries  " + "  ".join(f"{width}: {value:.3f}" for width, value in curve.items()))
    return 0


def _read_queries(path: Path) -> list[str]:
    try:
        # A file that is not there is named by the other branch, which is not about collections.
        if path.suffix == ".jsonl" and path.exists():
            found = [_text(data, where) for where, data in json_lines(path)]
        else:
            found = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}. Name a text file with one query a line.") from error
    queries = [query.strip() for query in found if query.strip()]
    if not queries:
        raise InputError(f"{path} has no query. Write one a line.")
    return queries


def _text(data: dict[str, Any], where: str) -> str:
    text = data.get("text")
    if not isinstance(text, str):
        raise InputError(f"{where}: text is {text!r}, expected a string.")
    return text

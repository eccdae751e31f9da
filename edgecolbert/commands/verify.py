"""`edgecolbert verify`."""

from __future__ import annotations

import argparse

from edgecolbert.commands.output import add_database, add_json, database_key, excerpt, print_json

# Ids of one problem that are printed for people; --json has all.
_NAMED = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.epilog = "Exit code: 0 when all is well, 1 when something is wrong or the file cannot be read."
    add_database(parser)
    parser.add_argument(
        "--fast",
        action="store_true",
        help="check structure and counts only, without reading the token embeddings",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Check a database; the exit code is 1 when something is wrong."""
    from edgecolbert.index import Index

    with Index.open(options.db, create=False, read_only=True, key=database_key(options)) as index:
        report = index.verify(full=not options.fast)
    if options.json:
        print_json(report.as_dict())
    else:
        print(f"{report.documents} documents, {report.passages} passages, {len(report.problems)} problems")
        for problem in report.problems:
            print(f"- {problem.message}{_listed(problem.ids)}")
    return 1 if report.problems else 0


def _listed(ids: tuple[str, ...]) -> str:
    if not ids:
        return ""
    more = f", and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f" [{', '.join(excerpt(name, 100) for name in ids[:_NAMED])}{more}]"

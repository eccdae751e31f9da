"""`edgecolbert verify`."""

from __future__ import annotations

import argparse

from edgecolbert.commands.output import add_database, add_json, database_key, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    add_database(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Check a database; the exit code is 1 when something is wrong."""
    from edgecolbert.index import Index

    with Index.open(options.db, create=False, read_only=True, key=database_key(options)) as index:
        report = index.verify()
    if options.json:
        print_json(report.as_dict())
    else:
        print(f"{report.documents} documents, {report.passages} passages, {len(report.problems)} problems")
        for problem in report.problems:
            names = f" [{', '.join(problem.ids)}]" if problem.ids else ""
            print(f"- {problem.message}{names}")
    return 1 if report.problems else 0

"""`edgecolbert info`."""

from __future__ import annotations

import argparse

from edgecolbert.commands.output import add_database, add_json, database_key, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    add_database(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print what is in a database."""
    from edgecolbert.index import Index

    with Index.open(options.db, create=False, read_only=True, key=database_key(options)) as index:
        stats = index.stats().as_dict()
    if options.json:
        print_json(stats)
        return 0
    for name, value in stats.items():
        shown = f"{value:,}" if isinstance(value, int) else value
        if isinstance(value, bool):
            shown = "yes" if value else "no"
        if isinstance(value, dict):
            shown = ", ".join(f"{key}={entry}" for key, entry in value.items())
        print(f"{name.replace('_', ' '):<14} {shown}")
    return 0

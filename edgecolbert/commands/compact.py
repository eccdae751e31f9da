"""`edgecolbert compact`."""

from __future__ import annotations

import argparse

from edgecolbert.commands.output import add_database, add_json, database_key, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    add_database(parser)
    parser.add_argument(
        "--rebuild-lexical", action="store_true", help="make the full-text index again from the texts, before all else"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Write the file anew without what nobody needs."""
    from edgecolbert.index import Index

    with Index.open(options.db, create=False, key=database_key(options)) as index:
        before = index.stats().file_bytes
        if options.rebuild_lexical:
            index.rebuild_lexical()
        freed = index.compact()
        n_bytes = index.stats().file_bytes
    if options.json:
        print_json({"freed_bytes": freed, "file_bytes": n_bytes, "before_bytes": before})
    else:
        print(f"{freed:,} bytes given back; the file had {before:,} and has {n_bytes:,}")
    return 0

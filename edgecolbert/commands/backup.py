"""`edgecolbert backup`."""

from __future__ import annotations

import argparse

from edgecolbert.commands.output import add_database, add_json, database_key, print_json, progress_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.epilog = "Exit code: 0 when the copy is there, whole and checked; 1 when there is none."
    add_database(parser)
    parser.add_argument("--out", required=True, metavar="COPY", help="the new file; nothing is ever replaced")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Copy a database."""
    from edgecolbert.index import Index

    key = database_key(options)
    with Index.open(options.db, create=False, read_only=True, key=key) as index, progress_bar("bytes") as update:
        n_bytes = index.backup(options.out, progress=update)
    if options.json:
        print_json({"path": options.out, "bytes": n_bytes})
    else:
        print(f"{n_bytes:,} bytes in {options.out}")
    return 0

"""`edgecolbert dump`."""

from __future__ import annotations

import argparse

from edgecolbert.commands.output import add_database, add_json, database_key, print_json, progress_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.epilog = "Exit code: 0 when everything was written, 1 when there is no file."
    add_database(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="the new file, compressed where it ends with .gz")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Write documents and vectors as JSON Lines."""
    from edgecolbert.index import Index

    key = database_key(options)
    with Index.open(options.db, create=False, read_only=True, key=key) as index, progress_bar("documents") as update:
        n_documents = index.dump(options.out, progress=update)
    if options.json:
        print_json({"path": options.out, "documents": n_documents})
    else:
        print(f"{n_documents} documents in {options.out}")
    return 0

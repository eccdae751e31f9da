"""`edgecolbert load`."""

from __future__ import annotations

import argparse

from edgecolbert.commands.output import add_database, add_json, add_model, database_key, print_json, progress_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.epilog = (
        "Exit code: 0 when the database is there with every document, 1 when it is not; what was loaded is then kept "
        "beside it, in FILE.loading, and the same command continues."
    )
    parser.add_argument("dump", metavar="DUMP", help="a file that dump wrote, compressed or not")
    add_database(parser)
    add_model(parser, "the one the vectors were made with")
    parser.add_argument("--reencode", action="store_true", help="make new vectors from the texts, with --model")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Make a database of a dump."""
    from edgecolbert.index import Index

    with progress_bar("documents") as update:
        index = Index.load(
            options.dump,
            options.db,
            model=options.model,
            reencode=options.reencode,
            progress=update,
            key=database_key(options),
        )
    with index:
        stats = index.stats()
    if options.json:
        print_json({"path": options.db, "documents": stats.documents, "passages": stats.passages, "model": stats.model})
    else:
        print(f"{stats.documents} documents, {stats.passages} passages in {options.db}, made with {stats.model!r}")
    return 0

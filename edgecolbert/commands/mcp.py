"""`edgecolbert mcp`."""

from __future__ import annotations

import argparse

from edgecolbert.commands.output import add_database, add_model, database_key, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    add_database(parser)
    add_model(parser, "the one the database was made with")
    parser.add_argument(
        "--max-chars", type=positive, metavar="N", help="most characters of text in one answer (default: 20000)"
    )
    parser.add_argument(
        "--allow-writes",
        action="store_true",
        help="let the assistant add and delete documents, too (default: read only)",
    )


def run(options: argparse.Namespace) -> int:
    """Serve one client on standard input and output until it closes them."""
    from edgecolbert.index import Index
    from edgecolbert.integrations.assistant import MAX_CHARS
    from edgecolbert.integrations.mcp import build_server

    with Index.open(
        options.db,
        model=options.model,
        create=False,
        read_only=not options.allow_writes,
        key=database_key(options),
    ) as index:
        build_server(index, max_chars=options.max_chars or MAX_CHARS, allow_writes=options.allow_writes).run("stdio")
    return 0

"""`edgecolbert reencode`."""

from __future__ import annotations

import argparse

from edgecolbert.commands.output import (
    add_database,
    add_json,
    add_model,
    add_passages,
    add_token_storage,
    database_key,
    passage_options,
    print_json,
    progress_bar,
    token_storage,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    add_database(parser)
    add_model(parser, "the one the database was made with, as it is found now")
    add_token_storage(parser, "from now on", ("as the database has it", "as the database has it"))
    add_passages(parser, "from now on", "as the database has them")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Encode every stored text again; an interrupted run is continued by the next."""
    from edgecolbert.index import Index
    from edgecolbert.reencoding import reencode

    key = database_key(options)
    with progress_bar("texts") as update:
        n_encoded = reencode(
            options.db,
            model=options.model,
            tokens=token_storage(options),
            passages=passage_options(options),
            progress=update,
            key=key,
        )
    with Index.open(options.db, create=False, read_only=True, key=key) as index:
        stats = index.stats()
    if options.json:
        print_json(
            {
                "encoded": n_encoded,
                "documents": stats.documents,
                "model": stats.model,
                "token_storage": stats.token_storage,
                "passage_settings": stats.passage_settings,
            }
        )
    else:
        print(f"{n_encoded} texts encoded; {stats.documents} documents are now served by {stats.model!r}")
    return 0

"""`edgecolbert serve`."""

from __future__ import annotations

import argparse
import sys

from edgecolbert.commands.output import add_database, add_model, database_key


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.epilog = "Exit code: 0 when it was stopped by Ctrl-C or SIGTERM. Needs edgecolbert[serve]."
    add_database(parser)
    add_model(parser, "the one the database was made with")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="where to listen (default: any that is free)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address, and open no browser")


def run(options: argparse.Namespace) -> int:
    """Serve the search page until somebody stops it."""
    from edgecolbert.serve.server import SearchServer

    server = SearchServer(options.db, port=options.port, model=options.model, key=database_key(options))
    if server.answers.problem is not None:
        print(f"edgecolbert: note: only words can be searched for: {server.answers.problem}", file=sys.stderr)
    print(f"{options.db} is searched at\n\n  {server.url}\n\nThe address is for you alone. Ctrl-C stops.", flush=True)
    if not options.no_browser:
        import webbrowser

        # The socket listens already, so the browser's request waits for the server.
        webbrowser.open(server.access.url_with_ticket)
    server.run()
    print("Stopped.")
    return 0

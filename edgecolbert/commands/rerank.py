"""`edgecolbert rerank`."""

from __future__ import annotations

import argparse
import sys

from edgecolbert.commands.output import Clock, add_json, add_model, check_words, positive, print_json, printable
from edgecolbert.commands.search import hit_dict, print_hits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("query", metavar="QUERY")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a text file, a .jsonl file of records, or a folder")
    add_model(parser, "the starter model")
    parser.add_argument("-k", type=positive, help="most hits wanted (default: all)")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Score files against a query in memory and print them, best first."""
    from edgecolbert.index import Index
    from edgecolbert.sources import Reading, open_sources

    clock = Clock()
    query = check_words(options.query, "QUERY")
    reading = Reading()
    with Index.open(":memory:", model=options.model) as index:
        with clock.stage("encode"):
            for source in open_sources(options.files):
                index.add(source.read(reading))
        with clock.stage("search"):
            hits = index.search(query, k=options.k or max(1, len(index)), exact=True)
    for message in reading.messages:
        print(f"edgecolbert: {printable(message)}", file=sys.stderr)
    if options.json:
        print_json({"query": query, "hits": [hit_dict(hit) for hit in hits], "ms": clock.finish()})
    else:
        print_hits(hits)
    return 0

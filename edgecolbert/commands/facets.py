"""`edgecolbert facets`."""

from __future__ import annotations

import argparse
import json

from edgecolbert.commands.output import (
    add_database,
    add_filter,
    add_json,
    chosen_filter,
    database_key,
    excerpt,
    positive,
    print_json,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("field", metavar="FIELD", help="a metadata field; outer/inner for one inside of an object")
    add_database(parser)
    add_filter(parser)
    parser.add_argument("-k", type=positive, default=20, help="most values wanted (default: 20)")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Count the values of a field and print the most frequent ones."""
    from edgecolbert.filters.parser import parse_field
    from edgecolbert.index import Index

    field = parse_field(options.field)
    chosen = chosen_filter(options)
    with Index.open(options.db, create=False, read_only=True, key=database_key(options)) as index:
        found = index.facets(field, filter=chosen, k=options.k)
    if options.json:
        print_json(found.as_dict())
        return 0
    for entry in found.values:
        print(f"{entry.count:>8,}  {excerpt(json.dumps(entry.value, ensure_ascii=False))}")
    print(f"{found.n_values:,} values in {found.with_field:,} of {found.documents:,} documents")
    return 0

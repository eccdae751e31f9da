"""`edgecolbert index`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from edgecolbert.commands.output import (
    add_database,
    add_json,
    add_model,
    add_passages,
    add_token_storage,
    database_key,
    passage_options,
    positive,
    print_json,
    progress_bar,
    token_storage,
)

if TYPE_CHECKING:
    from edgecolbert.index import Index
    from edgecolbert.sources import Reading


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a folder (its .txt, .md and .jsonl files are read), a file, or - for standard input",
    )
    add_database(parser)
    add_model(parser, "the starter model, or the one the database was made with")
    parser.add_argument(
        "--prune", action="store_true", help="remove documents that came from these paths and are no longer there"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=256, metavar="N", help="documents shown at a time (default: 256)"
    )
    add_token_storage(parser, "in a new database", ("8", "1"))
    add_passages(parser, "in a new database", "of the model's document length, all documents like plain text")
    parser.add_argument(
        "--index-field",
        action="append",
        default=[],
        metavar="FIELD",
        help="index this metadata field for filters; outer/inner for one inside of an object; may be repeated",
    )
    parser.add_argument(
        "--durability",
        choices=("full", "normal"),
        default="full",
        help="normal is faster, but a power cut may take back the last batches (default: full)",
    )
    parser.add_argument(
        "--max-record-mb",
        type=positive,
        metavar="N",
        help="most MiB of one document, of a line of JSON Lines, or of a text file (default: 64)",
    )
    parser.add_argument(
        "--literal-special-tokens",
        action="store_true",
        help='in a new database, take "[MASK]" and the like in texts and queries for ordinary characters',
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Index everything, batch by batch, and say what was done."""
    from edgecolbert import limits

    if options.max_record_mb is None:
        return _run(options)
    size = options.max_record_mb * 2**20
    # What SQLite may write has to grow along.
    with limits.changed(RECORD_BYTES=size, VALUE_BYTES=max(limits.VALUE_BYTES, 2 * size)):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    from edgecolbert.filters.parser import parse_field
    from edgecolbert.index import Index
    from edgecolbert.sources import Reading, open_sources

    fields = [parse_field(name) for name in options.index_field]
    sources = open_sources(options.paths)
    reading = Reading()
    totals = {"added": 0, "updated": 0, "unchanged": 0, "encoded": 0, "removed": 0}
    with (
        Index.open(
            options.db,
            model=options.model,
            tokens=token_storage(options),
            passages=passage_options(options),
            special_tokens="literal" if options.literal_special_tokens else None,
            durability=options.durability,
            key=database_key(options),
        ) as index,
        progress_bar("documents") as update,
    ):
        done = 0
        settings = index.passage_settings
        for source in sources:

            def tell(n_done: int, _: int | None, before: int = done) -> None:
                update(before + n_done, None)

            # Where passages do not depend on it, it stays unsaid: one text of two files is then encoded once.
            records = source.read(reading, describe=settings.structure or settings.context)
            report = index.add_from(source.root, records, progress=tell, batch_size=options.batch_size)
            done += len(report.ids)
            for name in ("added", "updated", "unchanged", "encoded"):
                totals[name] += getattr(report, name)
            if options.prune and source.root is not None:
                totals["removed"] += _prune(index, source.root, report.ids, reading)
        for field in fields:
            index.index_field(field)
        n_documents = len(index)
    for message in reading.messages:
        print(f"edgecolbert: {message}", file=sys.stderr)
    if options.json:
        print_json(totals | {"documents": n_documents, "skipped": reading.messages})
    else:
        print(
            f"{totals['added']} added, {totals['updated']} updated, {totals['unchanged']} unchanged"
            + (f", {totals['removed']} removed" if options.prune else "")
            + f"; {n_documents} documents in {options.db}"
        )
    return 0


def _prune(index: Index, root: str, present: list[str], reading: Reading) -> int:
    """Remove what has vanished, unless it may only be out of sight."""
    if reading.incomplete:
        reading.messages.append(f"nothing pruned from {root}: what could not be read is not known to be gone")
        return 0
    if not present:
        reading.messages.append(f"nothing pruned from {root}: no document was found there at all; is it mounted?")
        return 0
    return index.prune(root, present)

"""`edgecolbert index`."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
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
    printable,
    progress_bar,
    token_storage,
)

if TYPE_CHECKING:
    from edgecolbert.index import Index
    from edgecolbert.readers.reading import Reading
    from edgecolbert.readers.update import Totals
    from edgecolbert.readers.watching import Watcher
    from edgecolbert.sources import Source

# Lines for people; --json has all.
_SHOWN_MESSAGES, _SHOWN_REASONS = 40, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a folder (text, Markdown, HTML, PDF, DOCX, EPUB, e-mail, notebooks, code and JSON Lines are read), "
        "a file, or - for standard input",
    )
    add_database(parser)
    add_model(parser, "the starter model, or the one the database was made with")
    parser.add_argument(
        "--prune", action="store_true", help="remove documents that came from these paths and are no longer there"
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="go on until interrupted, and index what changes at once; removes what vanishes, as --prune does",
    )
    parser.add_argument("--hidden", action="store_true", help="read files and folders that begin with a dot, too")
    parser.add_argument(
        "--no-ignore", action="store_true", help="read what .gitignore and .edgecolbertignore name, too"
    )
    parser.add_argument(
        "--reread", action="store_true", help="read every file, also those whose size and time have not changed"
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
    from edgecolbert.readers.walk import Rules
    from edgecolbert.sources import open_sources

    fields = [parse_field(name) for name in options.index_field]
    sources = open_sources(options.paths, Rules(hidden=options.hidden, ignore_files=not options.no_ignore))
    with ExitStack() as stack:
        watcher = None
        if options.watch:
            from edgecolbert.readers.watching import watching

            watcher = stack.enter_context(watching(sources))
        index = stack.enter_context(
            Index.open(
                options.db,
                model=options.model,
                tokens=token_storage(options),
                passages=passage_options(options),
                special_tokens="literal" if options.literal_special_tokens else None,
                durability=options.durability,
                key=database_key(options),
            )
        )
        totals, reading = _index_all(index, sources, options)
        for field in fields:
            index.index_field(field)
        _tell(totals, reading, index, options)
        if watcher is not None:
            _watch(index, sources, watcher, options)
    return 0


def _index_all(index: Index, sources: list[Source], options: argparse.Namespace) -> tuple[Totals, Reading]:
    """Read every source once."""
    from edgecolbert.readers.formats import JSON_LINES, MAILBOX
    from edgecolbert.readers.reading import Reading
    from edgecolbert.readers.update import Totals, add_all, prune, stored_documents

    reading = Reading()
    totals = Totals()
    known = None if options.reread else stored_documents(index)
    # All files before the first is read, so that there is an end to count to.
    found = [list(source.files(reading)) for source in sources]
    uncountable = any(source.path is None for source in sources) or any(
        file.format.name in (JSON_LINES, MAILBOX) for files in found for file in files
    )
    with progress_bar("documents", total=None if uncountable else sum(map(len, found))) as update:
        for source, files in zip(sources, found, strict=True):
            here = reading.another()
            records = source.read(here) if source.path is None else source.read_files(files, here, known=known)

            def tell(n_done: int, before: int = len(totals.ids) + len(reading.skipped_files)) -> None:
                update(before + n_done, None)

            part = add_all(index, source.root, records, here, batch_size=options.batch_size, progress=tell)
            reading.take_over(here)
            if (options.prune or options.watch) and source.root is not None:
                part.removed = prune(index, source.root, part.ids, reading)
            totals.take_over(part)
    return totals, reading


def _watch(index: Index, sources: list[Source], watcher: Watcher, options: argparse.Namespace) -> None:
    from edgecolbert.readers.watching import follow

    if not options.json:
        print("watching; Ctrl-C ends it", file=sys.stderr)
    try:
        follow(
            index,
            sources,
            watcher,
            batch_size=options.batch_size,
            tell=lambda totals, reading: _tell(totals, reading, index, options),
        )
    except KeyboardInterrupt:
        # The way it is meant to end; what was stored is whole.
        print("edgecolbert: stopped watching", file=sys.stderr)


def _tell(totals: Totals, reading: Reading, index: Index, options: argparse.Namespace) -> None:
    """Say what was done: in words, as one JSON object, or as one line of JSON for each round of --watch."""
    if options.json:
        report = totals.counts() | {
            "documents": len(index),
            "skipped": reading.messages,
            "passed_over": dict(sorted(reading.passed_over.items())),
        }
        if options.watch:
            print(json.dumps(report), flush=True)
        else:
            print_json(report)
    for message in reading.messages if options.json else reading.messages[:_SHOWN_MESSAGES]:
        print(f"edgecolbert: {printable(message)}", file=sys.stderr)
    if options.json:
        return
    if len(reading.messages) > _SHOWN_MESSAGES:
        print(f"edgecolbert: ... and {len(reading.messages) - _SHOWN_MESSAGES} more; --json has all", file=sys.stderr)
    print(
        f"{totals.added} added, {totals.updated} updated, {totals.unchanged} unchanged"
        + (f", {totals.removed} removed" if options.prune or options.watch else "")
        + (f", {len(reading.skipped_files)} skipped" if reading.skipped_files else "")
        + f"; {len(index)} documents in {options.db}",
        flush=True,
    )
    if reading.passed_over:
        counts = reading.passed_over.most_common()
        shown = ", ".join(f"{count} {printable(why)}" for why, count in counts[:_SHOWN_REASONS])
        more = f", and {sum(count for _, count in counts[_SHOWN_REASONS:])} more" if counts[_SHOWN_REASONS:] else ""
        print(f"passed over: {shown}{more}", flush=True)

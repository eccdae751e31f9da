"""`edgecolbert repair`."""

from __future__ import annotations

import argparse

from edgecolbert.commands.output import (
    add_database,
    add_json,
    add_model,
    database_key,
    excerpt,
    print_json,
    progress_bar,
)
from edgecolbert.results import RepairReport

_NAMED = 20
# Between 1, an error, and success: the file is whole, but not all that was in it.
_INCOMPLETE = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.epilog = (
        "Exit code: 0 when every document was kept with its vectors, 3 when the file is sound but documents or vectors "
        "are missing or uncertain (they are named), 1 when nothing could be done."
    )
    add_database(parser)
    parser.add_argument(
        "--out",
        metavar="NEW",
        help="write a new database of everything that can be read, and leave the damaged one as it is; without it "
        "vectors and first stage are made again in place, where the file itself is sound",
    )
    parser.add_argument(
        "--keep-texts",
        action="store_true",
        help="with --out: also keep texts whose documents cannot be read, under their hash",
    )
    add_model(parser, "the one the database was made with; needed only where vectors are damaged")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Repair a database and say what was kept."""
    key = database_key(options)
    with progress_bar("documents") as update:
        if options.out is None:
            from edgecolbert.index import Index

            with Index.open(options.db, create=False, model=options.model, key=key) as index:
                report = index.repair(progress=update)
        else:
            from edgecolbert.repair import recover

            report = recover(
                options.db, options.out, model=options.model, keep_texts=options.keep_texts, progress=update, key=key
            )
    if options.json:
        print_json(report.as_dict())
    else:
        _print(report)
    return 0 if report.complete else _INCOMPLETE


def _print(report: RepairReport) -> None:
    print(f"{report.documents} documents in {report.path}; {report.encoded} texts encoded again")
    if report.first_stage_rebuilt:
        print("first stage made again")
    for what, ids in (
        ("lost", report.lost),
        ("without vectors", report.without_vectors),
        ("uncertain, perhaps deleted before", report.uncertain),
    ):
        if ids:
            more = f", and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
            print(f"{what} ({len(ids)}): {', '.join(excerpt(name, 100) for name in ids[:_NAMED])}{more}")
    if report.lost_unnamed:
        print(f"lost, id unknown: {report.lost_unnamed}")
    for note in report.notes:
        print(f"note: {note}")

"""`edgecolbert eval`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecolbert.commands.output import add_json, add_model, positive, print_json, progress_bar

if TYPE_CHECKING:
    from edgecolbert.benchmarks import Found

_COUNTS = (("documents", 12), ("queries", 9))
_COLUMNS = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "recall_of_exact_top10", "ms_per_query")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument(
        "collection",
        metavar="COLLECTION",
        help="a folder in the layout of BEIR, NanoBEIR, BRIGHT or LongEmbed; nanobeir, bright or longembed, or one "
        "collection of it (nanobeir:SciFact); or OWNER/NAME of a dataset on the Hugging Face hub",
    )
    add_model(parser, "the starter model")
    parser.add_argument("--split", default="test", help="which judgements of a BEIR folder (default: test)")
    parser.add_argument(
        "--n-candidates", type=positive, default=100, metavar="N", help="width of the first stage (default: 100)"
    )
    parser.add_argument("--max-queries", type=positive, metavar="N", help="measure only the first N queries")
    parser.add_argument(
        "--passages", action="store_true", help="split long documents instead of cutting them at the model's length"
    )
    parser.add_argument(
        "--document-length", type=positive, metavar="N", help="cut documents at N tokens instead of the model's length"
    )
    parser.add_argument(
        "--instruction", action="store_true", help="put the instruction of the model's recipe before BRIGHT's queries"
    )
    parser.add_argument("--offline", action="store_true", help="use only what the hub's cache already has")
    parser.add_argument("--db", metavar="FILE", help="keep the database there, and use what it already has")
    parser.add_argument("--runs", metavar="DIR", type=Path, help="write the rankings there, in TREC's format")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    from edgecolbert.benchmarks import find_benchmark

    found = find_benchmark(options.collection, offline=options.offline)
    if len(found) == 1 and found[0].place.layout == "beir":
        return _run_beir(found[0].place.folder, options)
    return _run_benchmark(found, options)


def _run_beir(folder: Path, options: argparse.Namespace) -> int:
    from edgecolbert.beir import read_collection
    from edgecolbert.encoder import Encoder
    from edgecolbert.evaluation import evaluate
    from edgecolbert.published import with_lengths

    collection = read_collection(folder, options.split, options.max_queries)
    model = options.model
    if options.document_length is not None:
        model = with_lengths(Encoder.load(model), {"document_length": options.document_length})
    with tempfile.TemporaryDirectory() as scratch, progress_bar("documents") as update:
        report = evaluate(
            collection,
            options.db or Path(scratch, "eval.db"),
            model=model,
            n_candidates=options.n_candidates,
            passages=options.passages,
            progress=update,
            runs=options.runs,
        )
    if options.json:
        print_json(report)
    else:
        _print_table(report)
    return 0


def _run_benchmark(found: list[Found], options: argparse.Namespace) -> int:
    from edgecolbert.encoder import Encoder
    from edgecolbert.published import Options, compare_with_published

    numbers = iter(range(1, len(found) + 1))
    with ExitStack() as bars:

        def tell(name: str) -> Callable[[int, int | None], None]:
            bars.close()
            print(f"{next(numbers)} of {len(found)}: {name}", file=sys.stderr, flush=True)
            return bars.enter_context(progress_bar("documents"))

        report = compare_with_published(
            Encoder.load(options.model),
            found,
            Options(
                n_candidates=options.n_candidates,
                passages=options.passages,
                split=options.split,
                max_queries=options.max_queries,
                document_length=options.document_length,
                instruction=options.instruction,
                runs=options.runs,
                database=Path(options.db) if options.db else None,
            ),
            tell,
        )
    if options.json:
        print_json(report)
    else:
        _print_comparison(report)
    return 0


def _print_comparison(report: dict[str, Any]) -> None:
    rows = report["collections"]
    width = max(len(name) for name in rows)
    print(f"nDCG@10, model {report['model']}, full MaxSim, and with {report['n_candidates']} candidates")
    print(
        f"{'':{width}}{'documents':>12}{'queries':>9}{'ours':>10}{'published':>11}{'difference':>12}{'two stages':>12}"
    )
    for name, row in rows.items():
        if name == "mean" and len(rows) == 2:
            continue  # of one collection
        counts = "".join(f"{row[what]:,}".rjust(size) if what in row else " " * size for what, size in _COUNTS)
        published = "-" if row["published"] is None else f"{row['published']:.4f}"
        difference = "-" if row["difference"] is None else f"{row['difference']:+.4f}"
        print(
            f"{name:{width}}{counts}{row['ours']:>10.4f}{published:>11}{difference:>12}{row['two_stages']:>12.4f}"
            + ("  nDCG@1" if row.get("metric") == "ndcg@1" else "")
        )
    for note in report["notes"]:
        print(note)


def _print_table(report: dict[str, Any]) -> None:
    index = report["index"]
    print(
        f"{report['dataset']}: {report['documents']:,} documents, {report['queries']:,} queries, model "
        f"{report['model']}, {report['n_candidates']} candidates"
    )
    print(f"{'':8}" + "".join(f"{column.replace('recall_of_exact_top10', 'of top 10'):>14}" for column in _COLUMNS))
    for stage, scores in report["stages"].items():
        print(f"{stage:8}" + "".join(f"{scores[column]:>14.4f}" for column in _COLUMNS))
    rate = index["documents_per_second"]
    print(
        (f"{rate:,.1f} documents/s indexed, " if rate else "")
        + f"{index['bytes_per_document']:,.0f} bytes a document, "
        + f"{report['encode_ms_per_query']:.2f} ms to encode a query"
    )

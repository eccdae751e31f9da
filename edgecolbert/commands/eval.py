"""`edgecolbert eval`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from edgecolbert.commands.output import add_json, add_model, positive, print_json, progress_bar

_COLUMNS = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "recall_of_exact_top10", "ms_per_query")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("folder", metavar="BEIR_FOLDER", help="corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv")
    add_model(parser, "the starter model")
    parser.add_argument("--split", default="test", help="which judgements (default: test)")
    parser.add_argument(
        "--n-candidates", type=positive, default=100, metavar="N", help="width of the first stage (default: 100)"
    )
    parser.add_argument("--max-queries", type=positive, metavar="N", help="measure only the first N queries")
    parser.add_argument(
        "--passages", action="store_true", help="split long documents instead of cutting them at the model's length"
    )
    parser.add_argument("--db", metavar="FILE", help="keep the database there, and use what it already has")
    parser.add_argument("--runs", metavar="DIR", type=Path, help="write the rankings there, in TREC's format")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    from edgecolbert.beir import read_collection
    from edgecolbert.evaluation import evaluate

    collection = read_collection(options.folder, options.split, options.max_queries)
    with tempfile.TemporaryDirectory() as folder, progress_bar("documents") as update:
        report = evaluate(
            collection,
            options.db or Path(folder, "eval.db"),
            model=options.model,
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

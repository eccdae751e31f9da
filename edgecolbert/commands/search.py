"""`edgecolbert search`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from edgecolbert.commands.output import (
    Clock,
    add_database,
    add_filter,
    add_json,
    add_model,
    check_words,
    chosen_filter,
    database_key,
    excerpt,
    not_negative,
    positive,
    print_json,
    takes_colours,
)
from edgecolbert.fusion import KINDS, MODES
from edgecolbert.results import Hit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgecolbert.highlighting import Snippet
    from edgecolbert.results import Passage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("query", metavar="QUERY")
    add_database(parser)
    add_model(parser, "the one the database was made with")
    parser.add_argument("-k", type=positive, default=10, help="most hits wanted (default: 10)")
    parser.add_argument("--exact", action="store_true", help="score every document, without a first stage")
    parser.add_argument("--n-candidates", type=positive, metavar="N", help="documents the first stage puts forward")
    parser.add_argument(
        "--skip-damaged", action="store_true", help="leave out what is damaged, with a note, instead of stopping"
    )
    add_filter(parser)
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="late",
        help="by token embeddings, by words (BM25, no model), or by both; the latter two want what stands between "
        "double quotes to be there (default: late)",
    )
    parser.add_argument(
        "--fusion", choices=KINDS, help="how --mode hybrid makes one ranking of two (default: weighted)"
    )
    parser.add_argument("--passages", action="store_true", help="one hit a passage, rather than one a document")
    parser.add_argument(
        "--per-document", type=positive, default=1, metavar="N", help="passages shown of each document (default: 1)"
    )
    parser.add_argument(
        "--neighbours", type=not_negative, default=0, metavar="N", help="show N passages before and behind each hit's"
    )
    parser.add_argument(
        "--highlight", action="store_true", help="show the part of each hit that matched best, with what matched in it"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Search and print the hits."""
    from edgecolbert.index import Index

    clock = Clock()
    query = check_words(options.query, "QUERY")
    chosen = chosen_filter(options)
    with clock.stage("open"):
        index = Index.open(
            options.db,
            model=options.model,
            create=False,
            read_only=True,
            key=database_key(options),
            on_damage="skip" if options.skip_damaged else "raise",
        )
    with index:
        if options.mode != "lexical":
            with clock.stage("load_model"):
                index.encode_queries([])
        with clock.stage("search"):
            hits = index.search(
                query,
                k=options.k,
                n_candidates=options.n_candidates,
                exact=options.exact,
                filter=chosen,
                mode=options.mode,
                fusion=options.fusion,
                group="passage" if options.passages else "document",
                passages_per_document=options.per_document,
            )
        snippets = None
        if options.highlight:
            with clock.stage("highlight"):
                snippets = [hit.snippet() for hit in hits]
        around = None
        if options.neighbours:
            with clock.stage("neighbours"):
                around = [index.neighbours(hit, before=options.neighbours, after=options.neighbours) for hit in hits]
    if options.json:
        found = [hit_dict(hit, several=options.per_document > 1) for hit in hits]
        if around is not None:
            found = [hit | {"neighbours": passage_dicts(some)} for hit, some in zip(found, around, strict=True)]
        if snippets is not None:
            found = [hit | {"snippet": snippet_dict(snippet)} for hit, snippet in zip(found, snippets, strict=True)]
        print_json({"query": query, "hits": found, "ms": clock.finish()})
    else:
        print_hits(hits, snippets, around)
    return 0


def hit_dict(hit: Hit, *, several: bool = False) -> dict[str, object]:
    """A hit as JSON prints it, with all its passages where several were asked for."""
    found: dict[str, object] = {
        "id": hit.id,
        "score": round(hit.score, 6),
        "text": hit.text,
        "metadata": hit.metadata,
        "passage": {"start": hit.passage.start, "end": hit.passage.end},
        "ranks": hit.ranks,
    }
    if several:
        found["passages"] = passage_dicts(hit.passages)
    return found


def passage_dicts(passages: Iterable[Passage]) -> list[dict[str, object]]:
    """Passages as JSON prints them; offsets are those of the document's text."""
    return [
        {"start": passage.start, "end": passage.end}
        | ({} if passage.score is None else {"score": round(passage.score, 6)})
        for passage in passages
    ]


def snippet_dict(snippet: Snippet) -> dict[str, object]:
    """A snippet as JSON prints it; offsets are those of the document's text."""
    return {
        "start": snippet.start,
        "end": snippet.end,
        "text": snippet.text,
        "highlights": [
            {"start": word.start, "end": word.end, "score": round(word.score, 6), "weight": round(word.weight, 4)}
            for word in snippet.highlights
        ],
    }


def print_hits(
    hits: list[Hit], snippets: list[Snippet] | None = None, around: list[list[Passage]] | None = None
) -> None:
    """Print hits for people: score, id, and what matched.

    Args:
        hits: What was found.
        snippets: What to show of the passage of each instead of all of it.
        around: The passages to show of each instead of those that matched.
    """
    if not hits:
        print("No documents.", file=sys.stderr)
    colours = takes_colours(sys.stdout)
    for rank, hit in enumerate(hits, start=1):
        print(f"{rank:>3}. {hit.score:8.4f}  {excerpt(hit.id, 100)}")
        for passage in around[rank - 1] if around else hit.passages or (hit.passage,):
            if snippets is None or passage != hit.passage:
                print(f"     {excerpt(passage.text)}")
                continue
            snippet = snippets[rank - 1]
            # Marks make it longer, and it is short enough already.
            print(f"     {snippet.ansi() if colours else excerpt(snippet.marked(), sys.maxsize)}")

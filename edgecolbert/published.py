"""Our scores beside the published ones, collection by collection, measured as the authors say they measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from edgecolbert.beir import Collection
from edgecolbert.benchmarks import BENCHMARKS, Found
from edgecolbert.encoder import Encoder
from edgecolbert.errors import InputError
from edgecolbert.evaluation import evaluate
from edgecolbert.layouts import read_place
from edgecolbert.recipes import Recipe, find_recipe_for, known_recipes, read_recipe

Progress = Callable[[int, int | None], None]

# Where the recipes keep scores of a layout's collections, and means over all of them by document length.
_SCORES = "{benchmark}_ndcg@10"
_MEANS = "{benchmark}_mean"
_MEAN = "mean"
# "4k" is 4,096 tokens in some reports and 4,000 in others.
_THOUSANDS = (1000, 1024)


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        n_candidates: Width of the first stage.
        passages: Split long documents instead of cutting them off. Not what published scores do.
        split: Which judgements, in BEIR's layout.
        max_queries: Take only the first so many queries. Not comparable with published scores.
        document_length: Cut documents at so many tokens; None for the recipe's length, or else the model's.
        instruction: Put the recipe's instruction before queries, where it has one.
        runs: A folder for the rankings, one folder a collection, or None.
        database: A database file to keep, where there is one collection; None for a temporary one.
    """

    n_candidates: int = 100
    passages: bool = False
    split: str = "test"
    max_queries: int | None = None
    document_length: int | None = None
    instruction: bool = False
    runs: Path | None = None
    database: Path | None = None


def compare_with_published(
    encoder: Encoder,
    collections: Sequence[Found],
    options: Options | None = None,
    tell: Callable[[str], Progress | None] = lambda name: None,
) -> dict[str, Any]:
    """Measure a model on collections and put the published numbers beside its own.

    Each collection is indexed in a database of its own, which is removed before the next is read.

    Args:
        encoder: The model; its published scores are those of the recipe of its name, or of its checkpoint.
        collections: Test collections.
        options: How to measure; None for as published.
        tell: Called with the name of each collection before it is read; returns what to tell of its documents, or None.

    Returns:
        What `edgecolbert eval --json` prints for a benchmark: `model`, `n_candidates`, `notes`, and `collections` with
        an entry for each collection and for "mean", which has `ours` (full MaxSim), `two_stages` (with the first
        stage), `published` (None where no score is known, and for a mean over other collections than the published
        one) and `difference`.

    Raises:
        InputError: If a collection cannot be read, or a database is to be kept for several.
    """
    options = options or Options()
    names = [found.place.name for found in collections]
    if options.database is not None and len(collections) > 1:
        raise InputError(f"--db keeps the database of one collection, but there are {len(names)}. Leave it out.")
    if len(set(names)) < len(names):
        raise InputError(f"Two collections have the same name: {', '.join(sorted(names))}. Rename their folders.")
    recipe = _recipe_of(encoder)
    rows = {}
    for found in collections:
        rows[found.place.name] = _measure(encoder, recipe, found, options, tell(found.place.name))
    layouts = {found.place.layout for found in collections}
    benchmark = layouts.pop() if len(layouts) == 1 else ""
    notes = _notes(recipe, benchmark, options)
    comparable = not _changes(benchmark, options)
    known = _published(recipe, benchmark) if comparable else {}
    for name, row in rows.items():
        _compare(row, known.get(name.lower()))
    mean = {key: round(fmean(row[key] for row in rows.values()), 4) for key in ("ours", "two_stages")}
    lengths = {row["document_length"] for row in rows.values()}
    _compare(mean, _published_mean(recipe, benchmark, known, names, lengths) if comparable else None)
    return {
        "model": encoder.name,
        "benchmark": benchmark,
        "n_candidates": options.n_candidates,
        "collections": rows | {_MEAN: mean},
        "notes": notes,
    }


def with_lengths(encoder: Encoder, lengths: dict[str, Any]) -> Encoder:
    """The same model with other lengths.

    Args:
        encoder: The model.
        lengths: `query_length` and `document_length` in tokens, either or none; other keys are passed over.

    Returns:
        A model of its own, or the same one where nothing differs.

    Raises:
        InputError: If the model has no such length.
    """
    chosen = {key: lengths[key] for key in ("query_length", "document_length") if key in lengths}
    encoding = encoder.manifest.encoding
    if all(getattr(encoding, key) == value for key, value in chosen.items()):
        return encoder
    try:
        manifest = replace(encoder.manifest, encoding=replace(encoding, **chosen))
    except ValueError as error:
        raise InputError(
            f"The model {encoder.name!r} cannot be measured with {chosen}: {error}. Name a length that it has."
        ) from error
    return Encoder(manifest, threads=encoder.threads, use_prompts=encoder.use_prompts)


def _measure(
    encoder: Encoder, recipe: Recipe | None, found: Found, options: Options, progress: Progress | None
) -> dict[str, Any]:
    place = found.place
    protocol = {} if recipe is None else recipe.protocol(place.layout, place.name)
    if options.document_length is not None:
        protocol["document_length"] = options.document_length
    template = protocol.get("query_template", "") if options.instruction else ""
    fitted = with_lengths(encoder, protocol)
    reports = []
    parts = read_place(place, options.split, options.max_queries)
    if options.database is not None and len(parts) > 1:
        raise InputError(f"--db keeps the database of one collection, but {place.name} is {len(parts)}. Leave it out.")
    with tempfile.TemporaryDirectory(prefix="edgecolbert-eval-") as scratch:
        for number, collection in enumerate(parts):
            prepared = _with_template(collection, place.part or place.name, template)
            report = evaluate(
                prepared,
                options.database or Path(scratch, f"{number}.db"),
                model=fitted,
                n_candidates=options.n_candidates,
                passages=options.passages,
                progress=progress,
                runs=None if options.runs is None else options.runs / prepared.name,
            )
            reports.append((report, prepared.metric))
    return {
        "documents": sum(report["documents"] for report, _ in reports),
        "queries": sum(report["queries"] for report, _ in reports),
        "metric": reports[0][1],
        "query_length": fitted.manifest.encoding.query_length,
        "document_length": fitted.manifest.encoding.document_length,
        "commit": found.commit or None,
        "ours": round(fmean(report["stages"]["exact"][metric] for report, metric in reports), 4),
        "two_stages": round(fmean(report["stages"]["rerank"][metric] for report, metric in reports), 4),
    }


def _with_template(collection: Collection, domain: str, template: str) -> Collection:
    if not template:
        return collection
    before, _, after = template.replace("{domain}", domain.replace("_", " ")).partition("{query}")
    return replace(collection, queries={query: before + text + after for query, text in collection.queries.items()})


def _recipe_of(encoder: Encoder) -> Recipe | None:
    if encoder.name in known_recipes():
        return read_recipe(encoder.name)
    checkpoint = encoder.manifest.source.get("name")
    return find_recipe_for(checkpoint) if isinstance(checkpoint, str) else None


def _published(recipe: Recipe | None, benchmark: str) -> dict[str, float]:
    table = {} if recipe is None else recipe.published.get(_SCORES.format(benchmark=benchmark), {})
    return {name.lower(): float(score) for name, score in table.items()}


def _published_mean(
    recipe: Recipe | None, benchmark: str, known: dict[str, float], names: list[str], lengths: set[int]
) -> float | None:
    """The published mean, where it is over the same collections, and at the same document length."""
    if known:
        same = set(known) - {_MEAN} == {name.lower() for name in names}
        return known.get(_MEAN) if same else None
    if set(names) != set(BENCHMARKS.get(benchmark, ())):
        return None
    table = {} if recipe is None else recipe.published.get(_MEANS.format(benchmark=benchmark), {})
    for key, score in table.items():
        thousands = int(key.removesuffix("k"))
        if lengths <= {thousands * unit for unit in _THOUSANDS}:
            return float(score)
    return None


def _compare(row: dict[str, Any], published: float | None) -> None:
    row["published"] = published
    row["difference"] = None if published is None else round(row["ours"] - published, 4)


def _changes(benchmark: str, options: Options) -> list[str]:
    changed = {
        "the first queries only": options.max_queries is not None,
        "passages": options.passages,
        "the instruction": options.instruction,
        # LongEmbed's scores are published for several lengths.
        "another document length": options.document_length is not None and benchmark != "longembed",
    }
    return [name for name, given in changed.items() if given]


def _notes(recipe: Recipe | None, benchmark: str, options: Options) -> list[str]:
    notes = []
    if recipe is None:
        notes.append("No recipe is known for this model, so no published scores.")
    if changes := _changes(benchmark, options):
        notes.append(f"Not measured as published: {', '.join(changes)}.")
    if options.instruction and (recipe is None or "query_template" not in recipe.protocol(benchmark, "")):
        notes.append("The recipe has no instruction for this benchmark; queries are as they are.")
    return notes

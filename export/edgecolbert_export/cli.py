"""`edgecolbert export`. Nothing heavy is imported before the arguments are known to be right."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecolbert.errors import EdgeColbertError

if TYPE_CHECKING:
    from edgecolbert.manifest import ModelManifest

PROFILE_NAMES = ("int8", "int8-fast", "int8-dynamic", "fp16", "fp32")
EXPORTER_NAMES = ("torch", "optimum")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options.

    Args:
        parser: The parser of `edgecolbert export`.
    """
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a checkpoint folder, or a name on the Hugging Face hub"
    )
    parser.add_argument("out", metavar="OUT", nargs="?", help="the model folder to write (default: the model's name)")
    parser.add_argument("--profile", choices=PROFILE_NAMES, default="", help="quantisation (default: int8)")
    parser.add_argument("--recipe", metavar="NAME", default="", help="a known recipe, or a recipe.toml")
    parser.add_argument("--name", default="", help="the model's name (default: the recipe's, or the checkpoint's)")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="change a setting of the checkpoint, such as 2_Dense.use_residual=true; may be repeated",
    )
    parser.add_argument("--probe", metavar="TEXTS", type=Path, help="texts to fit the first stage to (.txt or .jsonl)")
    parser.add_argument(
        "--head", default="", help="make a late-interaction model of a sentence encoder, such as pca:96"
    )
    parser.add_argument("--revision", default="", help="commit of the hub repository (default: the recipe's, or main)")
    parser.add_argument("--ab", metavar="DATASET", type=Path, help="compare --set with the checkpoint on a BEIR folder")
    parser.add_argument(
        "--exporter", choices=EXPORTER_NAMES, default="torch", help="what makes the graph (default: torch)"
    )
    parser.add_argument("--no-verify", action="store_true", help="do not compare with PyLate; the certificate says so")
    parser.add_argument("--force", action="store_true", help="replace an earlier model folder")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the pipeline.

    Args:
        arguments: The parsed options.

    Returns:
        The exit code, 0.
    """
    from dataclasses import replace

    from edgecolbert_export.comparison import compare_settings
    from edgecolbert_export.hub import fetch
    from edgecolbert_export.overrides import parse_override
    from edgecolbert_export.pipeline import ExportOptions, export_model
    from edgecolbert_export.recipe import Recipe, find_recipe_for, read_recipe

    recipe = read_recipe(arguments.recipe) if arguments.recipe else find_recipe_for(arguments.checkpoint)
    if recipe is None:
        source_name = "local" if Path(arguments.checkpoint).is_dir() else arguments.checkpoint
        recipe = Recipe(name=Path(arguments.checkpoint).name or "model", source=source_name)
    if arguments.name:
        recipe = replace(recipe, name=arguments.name)
    source = fetch(arguments.checkpoint, arguments.revision or recipe.revision)
    options = ExportOptions(
        checkpoint=source.folder,
        out=Path(arguments.out or recipe.name),
        recipe=recipe,
        revision=source.revision,
        profile=arguments.profile,
        overrides=dict(parse_override(text) for text in arguments.overrides),
        head=arguments.head,
        probe=arguments.probe,
        exporter=arguments.exporter,
        verify=not arguments.no_verify,
        force=arguments.force,
    )
    if arguments.ab is not None:
        result = compare_settings(options, arguments.ab, _tell)
        print(json.dumps(result, indent=2) if arguments.json else _comparison_table(result))
        return 0
    manifest = export_model(options, _tell)
    print(manifest.to_json() if arguments.json else summary(manifest), end="" if arguments.json else "\n")
    return 0


def _tell(step: str) -> None:
    print(f"{step} ...", file=sys.stderr, flush=True)


def _comparison_table(result: dict[str, Any]) -> str:
    lines = [f"{result['dataset']}, full MaxSim"]
    for name in ("a", "b"):
        settings = ", ".join(f"{key}={value}" for key, value in result[name]["overrides"].items()) or "as it is"
        scores = result[name]["scores"]
        lines.append(f"{name}  nDCG@10 {scores['ndcg@10']:.4f}  recall@100 {scores['recall@100']:.4f}  {settings}")
    return "\n".join(lines)


def summary(manifest: ModelManifest) -> str:
    """The table that ends an export.

    Args:
        manifest: The manifest of the new folder.

    Returns:
        A few lines of text.
    """
    verification = manifest.verification
    rows = [
        ("folder", str(manifest.folder)),
        ("profile", manifest.profile),
        ("size", f"{sum(record.size for record in manifest.files.values()) / 1e6:.2f} MB"),
        ("token embedding", f"{manifest.encoding.dim} dimensions"),
    ]
    if verification.get("verified"):
        for name, label in (("fp32", "fp32 against reference"), ("shipped", f"{manifest.profile} against reference")):
            values = verification[name]
            rows.append(
                (
                    label,
                    f"largest difference {values['max_difference']:.1e}, cosine mean {values['cosine_mean']:.5f}, "
                    f"min {values['cosine_min']:.5f}, rankings agree {values['ranking_agreement']:.3f}",
                )
            )
    else:
        rows.append(("verified", "no"))
    if "speed" in verification:
        rows.append(("speed", f"{verification['speed']['relative_to_fp32']:.2f} times fp32, one thread"))
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)


def main(argv: list[str] | None = None) -> int:
    """Run `python -m edgecolbert_export.cli`.

    Args:
        argv: Arguments; None for those of the process.

    Returns:
        The exit code: 0, or 1 after an error of ours.
    """
    parser = argparse.ArgumentParser(prog="edgecolbert export", description="Export a ColBERT checkpoint.")
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except EdgeColbertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

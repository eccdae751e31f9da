"""The model card: README.md of a model folder, complete enough to be published as it is."""

from __future__ import annotations

from typing import Any

from edgecolbert.manifest import ModelManifest
from edgecolbert_export.recipe import Recipe


def model_card(manifest: ModelManifest, recipe: Recipe) -> str:
    """Write the card.

    Args:
        manifest: The finished manifest.
        recipe: Where description and licence notes are from.

    Returns:
        Markdown with the metadata block of the Hugging Face hub.
    """
    sections = [
        _front_matter(manifest, recipe),
        f"# {manifest.name}\n\n{recipe.description or _default_description(manifest)}",
        _usage(manifest),
        _facts(manifest),
        _fidelity(manifest),
        _notes(manifest, recipe),
        _licence(manifest, recipe),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(manifest: ModelManifest, recipe: Recipe) -> str:
    lines = [
        "---",
        f"license: {manifest.licence.lower()}",
        "library_name: edgecolbert",
        "pipeline_tag: sentence-similarity",
    ]
    if recipe.language:
        lines += ["language:", *(f"- {code}" for code in recipe.language)]
    if recipe.source not in ("", "local"):
        lines += [f"base_model: {recipe.source}"]
    return "\n".join([*lines, "tags:", "- ColBERT", "- late-interaction", "- onnx", "---"])


def _default_description(manifest: ModelManifest) -> str:
    return f"A late-interaction (ColBERT) retrieval model, exported from {manifest.source.get('name', manifest.name)}."


def _usage(manifest: ModelManifest) -> str:
    return (
        "```python\n"
        "from edgecolbert import Index\n\n"
        f'with Index.open("notes.db", model="{manifest.name}") as index:  # or the path of this folder\n'
        '    index.add(["Bees dance to tell where food is.", "The moon raises two tides a day."])\n'
        '    print(index.search("how do bees talk?", k=1)[0].text)\n'
        "```"
    )


def _facts(manifest: ModelManifest) -> str:
    encoding = manifest.encoding
    megabytes = {name: record.size / 1e6 for name, record in manifest.files.items()}
    expansion = "no"
    if encoding.do_query_expansion:
        expansion = "yes, attended" if encoding.attend_to_expansion_tokens else "yes, not attended"
    rows = [("Checkpoint", f"`{manifest.source['name']}` at commit `{manifest.source['revision']}`")]
    rows = rows if manifest.source.get("revision") else []
    rows += [
        ("Token embedding", f"{encoding.dim} dimensions"),
        ("Query length", f"{encoding.query_length} tokens"),
        ("Document length", f"{encoding.document_length} tokens; longer texts are split into passages"),
        ("Query expansion", expansion),
        ("Prefixes", f"`{encoding.query_prefix}` and `{encoding.document_prefix}`"),
        ("Prompts", f"`{encoding.query_prompt}` and `{encoding.document_prompt}`"),
        ("Lower-cased", "yes, before the tokenizer" if encoding.do_lower_case else "no"),
        ("Quantisation", f"{manifest.profile}: {manifest.export.get('profile', {}).get('description', '')}"),
        ("Graph", f"{megabytes[manifest.graph]:.2f} MB"),
        ("All files", f"{sum(megabytes.values()):.2f} MB"),
    ]
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _fidelity(manifest: ModelManifest) -> str:
    verification = manifest.verification
    if not verification.get("verified"):
        return "## Fidelity\n\n**This export was not compared with the reference** (`--no-verify`)."
    reference = ", ".join(f"{name} {version}" for name, version in verification["reference"].items())
    lines = [
        "## Fidelity",
        "",
        f"Compared with {reference} in float32, {verification['shipped']['n_texts']} texts. Token ids are equal.",
        "",
        "| graph | largest difference | cosine mean | cosine p1 | cosine min | rankings agree |",
        "|---|---|---|---|---|---|",
        _fidelity_row("fp32", verification["fp32"]),
    ]
    if manifest.profile != "fp32":
        lines.append(_fidelity_row(manifest.profile, verification["shipped"]))
    speed = verification.get("speed")
    if speed:
        lines += [
            "",
            f"Speed on one thread of the exporting machine ({speed['machine']}): {speed['tokens_per_second']:,} tokens "
            f"a second, {speed['relative_to_fp32']:.2f} times fp32.",
        ]
    return "\n".join([*lines, "", "`edgecolbert doctor --model FOLDER` repeats the comparison with the golden values."])


def _fidelity_row(name: str, comparison: dict[str, Any]) -> str:
    return (
        f"| {name} | {comparison['max_difference']:.1e} | {comparison['cosine_mean']:.5f} | "
        f"{comparison['cosine_p1']:.5f} | {comparison['cosine_min']:.5f} | {comparison['ranking_agreement']:.3f} |"
    )


def _notes(manifest: ModelManifest, recipe: Recipe) -> str:
    notes = [*recipe.notes, *manifest.export.get("notes", [])]
    if manifest.export.get("overrides"):
        changed = ", ".join(f"`{name}={value}`" for name, value in manifest.export["overrides"].items())
        notes.append(f"Settings changed from the checkpoint: {changed}.")
    return "## Notes\n\n" + "\n".join(f"- {note}" for note in notes) if notes else ""


def _licence(manifest: ModelManifest, recipe: Recipe) -> str:
    return f"## Licence\n\n{manifest.licence}." + (f" {recipe.licence_notes}" if recipe.licence_notes else "")

"""The export from end to end: checkpoint, graph, quantisation, verification, first stage, card."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from edgecolbert.encoder import Encoder
from edgecolbert.errors import EdgeColbertError, InputError, ModelFormatError
from edgecolbert.goldens import GOLDENS_NAME, check_goldens, pack_goldens
from edgecolbert.manifest import MANIFEST_NAME, EncodingSettings, FileRecord, ModelManifest
from edgecolbert_export import backbone, graph, optimum_exporter
from edgecolbert_export.card import model_card
from edgecolbert_export.checkpoint import Checkpoint, read_checkpoint
from edgecolbert_export.dense import check_chain
from edgecolbert_export.first_stage import fit_first_stage
from edgecolbert_export.head import add_pca_head, parse_head
from edgecolbert_export.linear_layers import Feeds
from edgecolbert_export.output_folder import check_output, new_folder
from edgecolbert_export.overrides import apply_overrides
from edgecolbert_export.probes import build_probes, golden_texts, read_probe_corpus
from edgecolbert_export.progress import Progress, silent
from edgecolbert_export.quantize import DEFAULT_PROFILE, PROFILES, Profile, find_profile, quantize
from edgecolbert_export.quiet import quiet
from edgecolbert_export.recipe import RECIPE_NAME, Recipe
from edgecolbert_export.reference import installed_versions, load_reference
from edgecolbert_export.speed import measure_speed
from edgecolbert_export.tokens import CheckpointTokenizer, read_tokenizer
from edgecolbert_export.verify import FP32_TOLERANCES, ReferenceOutput, Tolerances, check, compare, run_reference

GRAPH_NAME = "model.onnx"
TOKENIZER_NAME = "tokenizer.json"
CARD_NAME = "README.md"
# What can make the float32 graph, and the packages whose versions decide what it looks like.
_EXPORTERS = {"torch": ("torch", "onnxscript"), "optimum": ("optimum-onnx", "optimum", "torch")}
# Speed is measured on this many texts: enough to average, few enough to be quick.
_SPEED_TEXTS = 24
# Ranges of activations change little beyond this many texts.
_CALIBRATION_TEXTS = 128


@dataclass(frozen=True)
class ExportOptions:
    """What to export, and how.

    Attributes:
        checkpoint: The checkpoint's folder.
        out: The model folder to write.
        recipe: Name, licence and settings.
        revision: Revision of the hub repository that the folder was fetched from, or "".
        profile: Quantisation profile; "" for the recipe's, or else the default.
        overrides: Settings to change, over those of the recipe.
        head: Head to put on a plain sentence encoder, such as "pca:96"; "" for the recipe's, which may be none.
        probe: Texts for the first stage, the head, the ranges of activations and the speed; None for the small corpus
            of this package.
        exporter: What makes the float32 graph, "torch" or "optimum".
        verify: Compare with the reference.
        force: Replace an earlier model folder.
    """

    checkpoint: Path
    out: Path
    recipe: Recipe
    revision: str = ""
    profile: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    head: str = ""
    probe: Path | None = None
    exporter: str = "torch"
    verify: bool = True
    force: bool = False


def export_model(options: ExportOptions, progress: Progress = silent) -> ModelManifest:
    """Export a checkpoint to a model folder, which appears whole or not at all.

    Args:
        options: What to export, and how.
        progress: Told of every step.

    Returns:
        The manifest of the new folder.

    Raises:
        ModelError: If the checkpoint cannot be exported exactly, or the export differs from the reference.
        InputError: If an option is wrong, or the output exists or cannot be written.
        MissingExtraError: If verification is wanted and no reference is installed, or optimum and it is not.
    """
    profile = find_profile(options.profile or options.recipe.profile or DEFAULT_PROFILE)
    if options.exporter not in _EXPORTERS:
        raise InputError(f"exporter is {options.exporter!r}, expected one of {', '.join(_EXPORTERS)}.")
    if options.exporter == "optimum":
        optimum_exporter.check_installed()
    check_output(options.out, force=options.force)
    texts = read_probe_corpus(options.probe)
    try:
        with tempfile.TemporaryDirectory(prefix="edgecolbert-export-") as scratch:
            checkpoint, fp32 = _export_exactly(options, profile, texts, Path(scratch), progress)
            with new_folder(options.out, force=options.force) as folder:
                _build(replace(fp32, folder=folder), fp32, profile, options, checkpoint, texts, progress)
    except EdgeColbertError:
        raise  # some of ours are OSErrors too, and say more
    except OSError as error:
        raise InputError(
            f"The temporary files of the export cannot be written: {error}. Make room in {tempfile.gettempdir()}, or "
            "name another folder in TMPDIR."
        ) from error
    return ModelManifest.read(options.out)


def _export_exactly(
    options: ExportOptions, profile: Profile, texts: list[str], scratch: Path, progress: Progress
) -> tuple[Checkpoint, ModelManifest]:
    """The checkpoint, and a model folder of its float32 graph in `scratch`."""
    overrides = options.recipe.overrides | options.overrides
    head = options.head or options.recipe.head
    progress("Reading the checkpoint")
    source = options.checkpoint
    if head:
        progress(f"Fitting the head {head} to the probe texts")
        source = add_pca_head(source, texts, parse_head(head), scratch / "headed")
    checkpoint = read_checkpoint(apply_overrides(source, overrides, scratch / "checkpoint"))
    backbone.check_readable(checkpoint)
    with quiet():
        tokenizer = read_tokenizer(checkpoint)
        model = backbone.load_backbone(checkpoint, tokenizer.size)
    check_chain(checkpoint.dense, backbone.hidden_size(model), checkpoint.folder)
    encoding = _encoding_settings(checkpoint, tokenizer, backbone.max_positions(model))
    progress("Exporting the graph")
    wrapped = graph.TokenEmbeddingModel(model, checkpoint.dense)
    exact = (optimum_exporter if options.exporter == "optimum" else graph).export_graph(wrapped)
    manifest = ModelManifest(
        folder=scratch / "fp32",
        name=options.recipe.name,
        encoding=encoding,
        graph=GRAPH_NAME,
        tokenizer=TOKENIZER_NAME,
        profile="fp32",
        files={},
        licence=options.recipe.licence,
        source=_describe_source(options, checkpoint),
        export={
            "profile": profile.describe(),
            "overrides": overrides,
            "head": head or None,
            "exporter": {"name": options.exporter, "versions": installed_versions(*_EXPORTERS[options.exporter])},
            "dense": [layer.describe() for layer in checkpoint.dense],
            "layout": checkpoint.layout,
            "notes": [*checkpoint.notes, *tokenizer.notes],
            "versions": installed_versions("edgecolbert", "torch", "transformers", "onnx", "onnxscript", "onnxruntime"),
        },
    )
    manifest.folder.mkdir()
    contents = {GRAPH_NAME: exact.SerializeToString(), TOKENIZER_NAME: tokenizer.json.encode()}
    return checkpoint, _write_files(manifest, contents)


def _build(
    manifest: ModelManifest,
    fp32: ModelManifest,
    profile: Profile,
    options: ExportOptions,
    checkpoint: Checkpoint,
    texts: list[str],
    progress: Progress,
) -> None:
    """Fill `manifest.folder`."""
    progress(f"Quantising: {profile.name}")
    exact_encoder = Encoder(fp32, threads=1)
    manifest = _write_files(
        replace(manifest, profile=profile.name, files={}),
        {
            GRAPH_NAME: _quantized_graph(fp32, profile, _feeds(exact_encoder, texts[:_CALIBRATION_TEXTS])),
            TOKENIZER_NAME: fp32.read_file(TOKENIZER_NAME),
        },
    )
    encoder = Encoder(manifest, threads=1)
    verification: dict[str, Any] = {"verified": False}
    files: dict[str, bytes] = {}
    if options.verify:
        progress("Running the reference on the probe texts")
        probes = build_probes(max(manifest.encoding.query_length, manifest.encoding.document_length))
        output = run_reference(load_reference(checkpoint, manifest.encoding), probes)
        progress("Comparing with the reference")
        tolerances = _tolerances(options.recipe, profile)
        verification = _verify(encoder, exact_encoder, output, tolerances, profile)
        goldens = output.pick(golden_texts(probes))
        files[GOLDENS_NAME] = pack_goldens(goldens, output.versions)
    progress("Measuring the speed")
    verification["speed"] = measure_speed(encoder, exact_encoder, texts[:_SPEED_TEXTS])
    progress("Fitting the first stage")
    fde, fde_files = fit_first_stage(encoder, texts)
    manifest = _write_files(replace(manifest, fde=fde, verification=verification), files | fde_files)
    (manifest.folder / CARD_NAME).write_text(model_card(manifest, options.recipe), encoding="utf-8")
    if options.recipe.text:
        (manifest.folder / RECIPE_NAME).write_text(options.recipe.text, encoding="utf-8")
    (manifest.folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    # The folder is read back as a user will: what is wrong now would be wrong there.
    report = check_goldens(ModelManifest.read(manifest.folder))
    if report is not None and report.problems:
        raise ModelFormatError(f"The new folder does not pass its own golden values: {'; '.join(report.problems)}")


def _quantized_graph(fp32: ModelManifest, profile: Profile, feeds: Iterator[Feeds]) -> bytes:
    # Graphs in memory hold every weight several times; none of them outlives this.
    longest = max(fp32.encoding.query_length, fp32.encoding.document_length)
    graph = quantize(onnx.load_from_string(fp32.read_file(GRAPH_NAME)), profile, feeds, longest=longest)
    content: bytes = graph.SerializeToString()
    return content


def _feeds(encoder: Encoder, texts: list[str]) -> Iterator[Feeds]:
    """Inputs of the graph for some documents."""
    for text in texts:
        tokens = encoder.tokenizer.document(text)
        yield {"input_ids": tokens.ids[None], "attention_mask": tokens.attention[None]}


def _verify(
    encoder: Encoder, exact_encoder: Encoder, output: ReferenceOutput, tolerances: Tolerances, profile: Profile
) -> dict[str, Any]:
    exact = compare(exact_encoder, output)
    check(exact, FP32_TOLERANCES, "The fp32 graph")
    shipped = compare(encoder, output)
    check(shipped, tolerances, f"The {profile.name} graph")
    return {
        "verified": True,
        "reference": output.versions,
        "fp32": exact.to_dict(),
        "shipped": shipped.to_dict(),
        "tolerances": asdict(tolerances),
    }


def _tolerances(recipe: Recipe, profile: Profile) -> Tolerances:
    try:
        return replace(profile.tolerances, **recipe.tolerances.get(profile.name, {}))
    except TypeError as error:
        raise InputError(f"The recipe {recipe.name} has a tolerance that does not exist: {error}.") from error


def _encoding_settings(
    checkpoint: Checkpoint, tokenizer: CheckpointTokenizer, max_positions: int | None
) -> EncodingSettings:
    settings = checkpoint.settings
    try:
        return EncodingSettings(
            dim=checkpoint.dim,
            query_length=settings.query_length,
            document_length=settings.document_length,
            query_prefix=settings.query_prefix,
            document_prefix=settings.document_prefix,
            query_prefix_id=tokenizer.query_prefix_id,
            document_prefix_id=tokenizer.document_prefix_id,
            do_query_expansion=settings.do_query_expansion,
            attend_to_expansion_tokens=settings.attend_to_expansion_tokens,
            expansion_token_id=tokenizer.expansion_token_id,
            skiplist_words=settings.skiplist_words,
            skiplist_ids=tokenizer.skiplist_ids,
            do_lower_case=settings.do_lower_case,
            prompts=settings.prompts,
            default_prompt_name=settings.default_prompt_name,
            truncation_side=tokenizer.truncation_side,
            max_positions=max_positions,
        )
    except ValueError as error:
        raise ModelFormatError(
            f"The settings of {checkpoint.folder} cannot be used: {error}. Correct the checkpoint, or change a setting "
            "with --set, such as --set document_length=512."
        ) from error


def _describe_source(options: ExportOptions, checkpoint: Checkpoint) -> dict[str, Any]:
    recipe = options.recipe
    name = recipe.source if recipe.source not in ("", "local") else options.checkpoint.resolve().name
    return {"name": name, "revision": options.revision or None, "files": checkpoint.file_hashes()}


def _write_files(manifest: ModelManifest, contents: dict[str, bytes]) -> ModelManifest:
    """Write files into the manifest's folder and record them."""
    records = dict(manifest.files)
    for name, content in contents.items():
        (manifest.folder / name).write_bytes(content)
        records[name] = FileRecord(len(content), hashlib.sha256(content).hexdigest())
    return replace(manifest, files=records)


__all__ = ["PROFILES", "ExportOptions", "export_model"]

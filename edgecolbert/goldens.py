"""Golden values of a model folder: what the reference computed at export, to be checked on any machine without torch.

The export pipeline writes `goldens.npz` with token ids and token embeddings of a few probe texts, made by PyLate (or
sentence-transformers) in float32. `check_goldens` runs the same texts through this installation and compares, so a
processor or an onnxruntime that computes something else is noticed before it spoils an index.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecolbert.encoder import Encoder
from edgecolbert.errors import ModelFormatError
from edgecolbert.manifest import ModelManifest
from edgecolbert.untrusted import read_json

GOLDENS_NAME = "goldens.npz"
FORMAT = "edgecolbert-goldens"
FORMAT_VERSION = 1
# Unpacked: a few kilobytes of an archive can stand for gigabytes.
_MOST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Golden:
    """What the reference computed for one text.

    Attributes:
        side: "query" or "document".
        text: The text, without prompt.
        ids: int32 [n_tokens], every id of the sequence, before rows are dropped.
        embeddings: float32 [n_rows, dim], rows of unit length.
    """

    side: str
    text: str
    ids: npt.NDArray[np.int32]
    embeddings: npt.NDArray[np.float32]


@dataclass(frozen=True)
class GoldensReport:
    """How this installation compares with the reference.

    Attributes:
        n_texts: Number of texts compared.
        max_difference: Largest absolute difference of a component.
        cosine_mean: Mean cosine of a token embedding with the reference's.
        cosine_min: Smallest such cosine.
        problems: What is outside the certified tolerances; empty when all is well.
    """

    n_texts: int
    max_difference: float
    cosine_mean: float
    cosine_min: float
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self) | {"problems": list(self.problems)}


def pack_goldens(goldens: Sequence[Golden], reference: dict[str, str]) -> bytes:
    """The content of `goldens.npz`; equal goldens are equal bytes.

    Args:
        goldens: What the reference computed.
        reference: Name and version of every package that had a part in it.

    Returns:
        The file's bytes.
    """
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "reference": reference,
        "texts": [{"side": golden.side, "text": golden.text} for golden in goldens],
    }
    arrays: dict[str, npt.NDArray[Any]] = {"header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)}
    for number, golden in enumerate(goldens):
        arrays[f"ids_{number}"] = golden.ids.astype(np.int32)
        arrays[f"embeddings_{number}"] = golden.embeddings.astype(np.float32)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def unpack_goldens(content: bytes, name: str = GOLDENS_NAME) -> tuple[list[Golden], dict[str, str]]:
    """Read what `pack_goldens` wrote.

    Args:
        content: The file's bytes.
        name: What to call the file in error messages.

    Returns:
        The goldens, and the versions of the reference.

    Raises:
        ModelFormatError: If the content is something else, or of a newer version.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MOST_BYTES:
            raise ValueError(f"it has {size} bytes unpacked, expected at most {_MOST_BYTES}")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            header = read_json(arrays["header"].tobytes())
            if header["format"] != FORMAT or header["format_version"] != FORMAT_VERSION:
                raise ValueError(f"it is {header['format']} version {header['format_version']}")
            goldens = [
                Golden(entry["side"], entry["text"], arrays[f"ids_{number}"], arrays[f"embeddings_{number}"])
                for number, entry in enumerate(header["texts"])
            ]
            return goldens, header["reference"]
    except (ValueError, KeyError, TypeError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise ModelFormatError(
            f"{name} is not a golden file that this version reads ({FORMAT} version {FORMAT_VERSION}): {error}. "
            "Export the model again, or upgrade edgecolbert."
        ) from error


def check_goldens(manifest: ModelManifest, *, encoder: Encoder | None = None) -> GoldensReport | None:
    """Run the golden texts through this installation and compare with the reference.

    Args:
        manifest: The model.
        encoder: An encoder of this model, if one is at hand; otherwise it is loaded.

    Returns:
        The report, or None where the model ships no goldens (it was exported with `--no-verify`, or elsewhere).

    Raises:
        ModelFormatError: If the golden file or the manifest's tolerances cannot be read.
    """
    if GOLDENS_NAME not in manifest.files:
        return None
    path = manifest.folder / GOLDENS_NAME
    goldens, _ = unpack_goldens(manifest.read_file(GOLDENS_NAME), str(path))
    tolerances = manifest.verification.get("tolerances")
    if not isinstance(tolerances, dict) or not goldens:
        raise ModelFormatError(f"{manifest.folder} has {GOLDENS_NAME} but no tolerances. Export the model again.")
    encoder = encoder or Encoder(manifest)
    problems: list[str] = []
    cosines: list[npt.NDArray[np.float32]] = []
    largest = 0.0
    for golden in goldens:
        is_query = golden.side == "query"
        tokens = encoder.tokenizer.query(golden.text) if is_query else encoder.tokenizer.document(golden.text)
        shown = golden.text if len(golden.text) <= 40 else golden.text[:37] + "..."
        if tokens.ids.tolist() != golden.ids.tolist():
            problems.append(f"The {golden.side} {shown!r} has other token ids than the reference.")
            continue
        encode = encoder.encode_queries if is_query else encoder.encode_documents
        rows = encode([golden.text])[0]
        if rows.shape != golden.embeddings.shape:
            problems.append(f"The {golden.side} {shown!r} has shape {rows.shape}, expected {golden.embeddings.shape}.")
            continue
        if rows.size:
            largest = max(largest, float(np.abs(rows - golden.embeddings).max()))
            cosines.append((rows * golden.embeddings).sum(axis=1))
    cosine = np.concatenate(cosines) if cosines else np.ones(1, dtype=np.float32)
    report = GoldensReport(len(goldens), largest, float(cosine.mean()), float(cosine.min()), ())
    problems += _outside(report, tolerances)
    return GoldensReport(report.n_texts, largest, report.cosine_mean, report.cosine_min, tuple(problems))


def _outside(report: GoldensReport, tolerances: dict[str, Any]) -> list[str]:
    """What the report has outside the tolerances; an absent tolerance is not asked for."""
    problems = []
    most, least = tolerances.get("max_difference"), tolerances.get("cosine_mean")
    # A NaN must fail, so the comparison asks for what is right.
    if most is not None and not report.max_difference <= most:
        problems.append(
            f"The largest difference to the reference is {report.max_difference:.2e}, allowed is {most:.0e}."
        )
    if least is not None and not report.cosine_mean >= least:
        problems.append(f"The mean cosine to the reference is {report.cosine_mean:.5f}, expected at least {least}.")
    return problems

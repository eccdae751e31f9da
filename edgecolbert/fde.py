"""The first stage's encoding: which one, centred or not, and its int8 codes.

`FirstStage` turns token embeddings into one int8 vector for a document or a query; the inner product of the two
approximates MaxSim up to a constant factor. Two encodings are to choose from: the fitted one (`cells`), which is the
default, and MUVERA's own (`muvera`).
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecolbert.cells import CellEncoding, fit_cells
from edgecolbert.errors import InputError, InputTypeError, ModelError, ModelFormatError
from edgecolbert.manifest import ModelManifest
from edgecolbert.muvera import Muvera, MuveraSettings
from edgecolbert.random_matrix import ALGORITHM

FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]

# A component of a random unit vector lies within this many standard deviations, but for one in a million.
_DEVIATIONS = 5.0
# Squared length of the mean token above which the encoding is centred: measured in docs/first-stage.md.
_CENTRE_ABOVE = 0.5


@dataclass(frozen=True)
class FdeSettings:
    """Which encoding to use for the first stage.

    Attributes:
        kind: "cells" for the fitted encoding, "muvera" for the reference's.
        num_cells: Number of fitted cells ("cells" only).
        centre: Subtract the mean token embedding and normalise again, for the first stage only: True, False, or None
            to decide by the length of the mean token.
        muvera: The reference's parameters ("muvera" only).
    """

    kind: str = "cells"
    num_cells: int = 192
    centre: bool | None = None
    muvera: MuveraSettings = field(default_factory=MuveraSettings)

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InputTypeError: If the number of cells is not a whole number.
            InputError: If the kind is unknown or the number of cells out of range.
        """
        if self.kind not in ("cells", "muvera"):
            raise InputError(f"FDE kind is {self.kind!r}, expected 'cells' or 'muvera'.")
        if isinstance(self.num_cells, bool) or not isinstance(self.num_cells, int):
            raise InputTypeError(f"num_cells is {self.num_cells!r}, expected a whole number.")
        if not 1 <= self.num_cells <= 65_536:
            raise InputError(f"num_cells is {self.num_cells}, expected 1 to 65536.")

    def to_json(self) -> str:
        """All settings and the version of the random matrices, as JSON."""
        return json.dumps(asdict(self) | {"algorithm": ALGORITHM}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> FdeSettings:
        """Read what `to_json` wrote.

        Args:
            text: JSON.

        Returns:
            The settings.

        Raises:
            InputError: If they are not readable, or their random matrices are of another version.
        """
        data = json.loads(text)
        algorithm = data.pop("algorithm", None)
        if algorithm != ALGORITHM:
            raise InputError(f"The FDE settings are of {algorithm!r}, this version of edgecolbert has {ALGORITHM!r}.")
        try:
            return cls(**data | {"muvera": MuveraSettings(**data["muvera"])})
        except (TypeError, KeyError) as error:
            raise InputError(f"The FDE settings cannot be read: {error}.") from error


@dataclass(frozen=True)
class FirstStage:
    """A first stage that is ready to encode.

    Attributes:
        settings: Which encoding it is.
        dim: Size of one token embedding.
        cells: float32 [num_cells, dim] of the fitted encoding, else None.
        mean: float32 [dim], what is subtracted from every token, or None where it is not centred.
    """

    settings: FdeSettings
    dim: int
    cells: FloatArray | None = None
    mean: FloatArray | None = None

    def __post_init__(self) -> None:
        """Check that the arrays fit the settings.

        Raises:
            InputError: If an array is missing or has the wrong shape.
        """
        if (self.settings.kind == "cells") != (self.cells is not None):
            raise InputError("A fitted first stage needs cells, and MUVERA's has none.")
        if self.cells is not None and (self.cells.ndim != 2 or self.cells.shape[1] != self.dim or not len(self.cells)):
            raise InputError(f"The cells have shape {self.cells.shape}, expected [num_cells, {self.dim}].")
        if self.mean is not None and self.mean.shape != (self.dim,):
            raise InputError(f"The mean token has shape {self.mean.shape}, expected [{self.dim}].")

    @classmethod
    def fit(cls, settings: FdeSettings, tokens: FloatArray, *, seed: int = 0) -> FirstStage:
        """Fit a first stage to token embeddings of documents.

        Args:
            settings: Which encoding.
            tokens: float32 [n_tokens, dim], at least one.
            seed: Seed of k-means.

        Returns:
            The first stage; it has fewer cells than asked for where there are fewer tokens.
        """
        mean = tokens.mean(axis=0, dtype=np.float64).astype(np.float32)
        centre = settings.centre if settings.centre is not None else float(mean @ mean) > _CENTRE_ABOVE
        if centre:
            tokens = _centred(tokens, mean)
        cells = fit_cells(tokens, settings.num_cells, seed=seed) if settings.kind == "cells" else None
        return cls(settings, tokens.shape[1], cells, mean if centre else None)

    @classmethod
    def from_manifest(cls, manifest: ModelManifest) -> FirstStage | None:
        """The first stage that ships with a model.

        Args:
            manifest: The model's manifest.

        Returns:
            The first stage, or None where the model ships none.

        Raises:
            ModelIntegrityError: If one of the arrays' files is missing, cut or changed.
            ModelFormatError: If the manifest's settings or arrays do not fit.
        """
        if manifest.fde is None:
            return None
        path = manifest.folder / "manifest.json"
        try:
            settings = FdeSettings.from_json(json.dumps(manifest.fde["settings"]))
            cells = _read_array(manifest, manifest.fde.get("cells"))
            mean = _read_array(manifest, manifest.fde.get("mean"))
            return cls(settings, manifest.encoding.dim, cells, mean)
        except ModelError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFormatError(
                f"{path}: the first stage cannot be used: {error} Export the model again."
            ) from error

    def describe(self) -> dict[str, Any]:
        """What `Index.stats` shows of it."""
        described: dict[str, Any] = {"kind": self.settings.kind, "centred": self.mean is not None}
        if self.cells is not None:
            described["num_cells"] = len(self.cells)
        else:
            described |= asdict(self.settings.muvera)
        return described | {"code_bytes": self.code_bytes}

    @property
    def code_bytes(self) -> int:
        """Bytes of one code."""
        return int(self._encoding.size)

    def document_code(self, tokens: FloatArray) -> Int8Array:
        """Encode a document or passage.

        Args:
            tokens: float32 [n_tokens, dim].

        Returns:
            int8 [code_bytes], rounded with one scale for all documents, so that inner products can be compared.
        """
        encoding = self._encoding.document_fde(self._prepared(tokens))
        return _rounded(encoding, self._limit)

    def query_code(self, tokens: FloatArray) -> Int8Array:
        """Encode a query.

        Args:
            tokens: float32 [n_query_tokens, dim].

        Returns:
            int8 [code_bytes], rounded with a scale of its own, which changes no ranking.
        """
        encoding = self._encoding.query_fde(self._prepared(tokens))
        return _rounded(encoding, float(np.abs(encoding).max(initial=0.0)) or 1.0)

    @property
    def can_refine(self) -> bool:
        """Whether `refined_scores` is there for this encoding."""
        return self.cells is not None

    def refined_scores(self, tokens: FloatArray, codes: Int8Array) -> FloatArray:
        """Order candidates more finely by the same codes.

        Args:
            tokens: float32 [n_query_tokens, dim].
            codes: int8 [n, code_bytes] of documents.

        Returns:
            float32 [n], higher is better; comparable within one call.

        Raises:
            InputError: If this encoding has no cells.
        """
        encoding = self._encoding
        if not isinstance(encoding, CellEncoding):
            raise InputError("Only the fitted encoding can refine candidates.")
        return encoding.refined_scores(self._prepared(tokens), codes)

    @property
    def _limit(self) -> float:
        """The component that becomes 127: five standard deviations of a unit vector's, or of a sum of them."""
        if self.cells is not None:
            return float(min(1.0, _DEVIATIONS / self.dim**0.5))
        settings = self.settings.muvera
        width = settings.projection_dimension or self.dim
        summed = 1.0
        if settings.final_projection_dimension is not None:
            summed = max(1.0, Muvera(settings, self.dim).full_size / settings.final_projection_dimension)
        return float(_DEVIATIONS * (summed / width) ** 0.5)

    def _prepared(self, tokens: FloatArray) -> FloatArray:
        return tokens if self.mean is None else _centred(tokens, self.mean)

    @cached_property
    def _encoding(self) -> CellEncoding | Muvera:
        return CellEncoding(self.cells) if self.cells is not None else Muvera(self.settings.muvera, self.dim)


def _rounded(encoding: FloatArray, limit: float) -> Int8Array:
    """int8 values of which 127 stands for `limit`."""
    codes: Int8Array = np.clip(np.rint(encoding * np.float32(127.0 / limit)), -127, 127).astype(np.int8)
    return codes


def _centred(tokens: FloatArray, mean: FloatArray) -> FloatArray:
    moved = tokens - mean
    centred: FloatArray = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
    return centred


def _read_array(manifest: ModelManifest, name: str | None) -> FloatArray | None:
    if name is None:
        return None
    array: Any = np.load(io.BytesIO(manifest.read_file(name)), allow_pickle=False)
    if array.dtype != np.float32 or not np.isfinite(array).all():
        raise ValueError(f"{name} is not a finite float32 array.")
    return np.ascontiguousarray(array)

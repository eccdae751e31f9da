"""The first stage's encoding: which one, fitted to what, centred or not, and its codes.

Two encodings are to choose from: the fitted one (`cell_lists`), which is the default, and MUVERA's fixed dimensional
encoding (`muvera`), whose codes are int8 vectors with inner products that approximate MaxSim.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgecolbert.cell_lists import CODEWORDS, CellListEncoding, fit_codebooks
from edgecolbert.cells import fit_cells, unit_rows
from edgecolbert.errors import InputError, InputTypeError, ModelError, ModelFormatError
from edgecolbert.manifest import ModelManifest
from edgecolbert.muvera import Muvera, MuveraSettings
from edgecolbert.random_matrix import ALGORITHM
from edgecolbert.untrusted import read_json, shown

FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]

# A component of a random unit vector lies within this many standard deviations, but for one in a million.
_DEVIATIONS = 5.0
# Squared length of the mean token above which the encoding is centred: measured in docs/first-stage.md.
_CENTRE_ABOVE = 0.5
# Fitting cells to fewer tokens than this is fitting them to noise.
_LEAST_TOKENS_PER_CELL = 8
# Of MUVERA's encoding before its final projection: 256 MiB a passage, a hundred times what anybody has published.
_MOST_COMPONENTS = 2**26
# Iterations of k-means from cells that are nearly right.
_WARM_ITERATIONS = 4


@dataclass(frozen=True)
class FdeSettings:
    """Which encoding to use for the first stage.

    Attributes:
        kind: "cells" for the fitted encoding, "muvera" for the reference's.
        num_cells: Most cells ("cells" only); fewer are fitted where there are few tokens.
        num_subspaces: Bytes of the product code of one entry ("cells" only).
        max_entries: Most entries of a passage ("cells" only); its code has at most `max_entries * (2 + num_subspaces)`
            bytes.
        centre: Subtract the mean token embedding and normalise again, for the first stage only: True, False, or None
            to decide by the length of the mean token.
        muvera: The reference's parameters ("muvera" only).
    """

    kind: str = "cells"
    num_cells: int = 4_096
    num_subspaces: int = 6
    max_entries: int = 160
    centre: bool | None = None
    muvera: MuveraSettings = field(default_factory=MuveraSettings)

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InputTypeError: If a number is not a whole one.
            InputError: If the kind is unknown or a number out of range.
        """
        if self.kind not in ("cells", "muvera"):
            raise InputError(f"FDE kind is {self.kind!r}, expected 'cells' or 'muvera'.")
        if not isinstance(self.centre, bool | None):
            raise InputTypeError(f"centre is {self.centre!r}, expected a boolean or None.")
        for name, most in (("num_cells", 65_536), ("num_subspaces", 64), ("max_entries", 65_536)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise InputTypeError(f"{name} is {value!r}, expected a whole number.")
            if not 1 <= value <= most:
                raise InputError(f"{name} is {value}, expected 1 to {most}.")

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
        try:
            data = read_json(text)
        except ValueError as error:
            raise InputError(f"The FDE settings are not JSON: {error}.") from error
        if not isinstance(data, dict):
            raise InputError(f"The FDE settings are {type(data).__name__}, expected an object.")
        algorithm = data.pop("algorithm", None)
        if algorithm != ALGORITHM:
            raise InputError(
                f"The FDE settings are of {shown(algorithm)}, this version of edgecolbert has {ALGORITHM!r}."
            )
        try:
            return cls(**data | {"muvera": MuveraSettings(**data["muvera"])})
        except (TypeError, KeyError) as error:
            raise InputError(f"The FDE settings cannot be read: {error}.") from error


_STORED_TYPES = ("i1", "<f2", "<f4")


class PackedArrays(NamedTuple):
    """The fitted arrays of a first stage in the types they are stored in; None for what it has not.

    Attributes:
        cells: int8 [num_cells, dim], directions of the centres.
        codebooks: float16 [256, dim].
        mean: float32 [dim].
    """

    cells: Any = None
    codebooks: Any = None
    mean: Any = None

    def to_bytes(self) -> tuple[bytes | None, ...]:
        """What is stored of each, little endian, in C order; None where there is none."""
        return tuple(
            None if array is None else np.ascontiguousarray(array, dtype=dtype).tobytes()
            for array, dtype in zip(self, _STORED_TYPES, strict=True)
        )

    @classmethod
    def from_bytes(cls, blobs: Sequence[bytes | None], dim: int) -> PackedArrays:
        """Read what `to_bytes` gave.

        Args:
            blobs: Bytes of cells, codebooks and mean.
            dim: Size of a token embedding.

        Returns:
            The arrays; read-only views of the bytes.

        Raises:
            ValueError: If they do not fit, or a value is NaN or infinite.
        """
        shapes = ((-1, dim), (-1, dim), (-1,))
        arrays = [
            None if blob is None else np.frombuffer(blob, dtype=dtype).reshape(shape)
            for blob, dtype, shape in zip(blobs, _STORED_TYPES, shapes, strict=True)
        ]
        if any(array is not None and not np.isfinite(array).all() for array in arrays):
            raise ValueError("a value is NaN or infinite")
        return cls(*arrays)


@dataclass(frozen=True)
class FirstStage:
    """A first stage that is ready to encode.

    Attributes:
        settings: Which encoding it is.
        dim: Size of one token embedding.
        cells: float32 [num_cells, dim] of the fitted encoding, unit rows, else None.
        codebooks: float32 [256, dim] of the fitted encoding, else None.
        mean: float32 [dim], what is subtracted from every token, or None where it is not centred.
    """

    settings: FdeSettings
    dim: int
    cells: FloatArray | None = None
    codebooks: FloatArray | None = None
    mean: FloatArray | None = None

    def __post_init__(self) -> None:
        """Check that the arrays fit the settings.

        Raises:
            InputError: If an array is missing or has the wrong shape.
        """
        fitted = self.settings.kind == "cells"
        if fitted != (self.cells is not None) or fitted != (self.codebooks is not None):
            raise InputError("A fitted first stage needs cells and codebooks, and MUVERA's has none.")
        if not fitted and self._muvera.full_size > _MOST_COMPONENTS:
            raise InputError(
                f"MUVERA's encoding has {self._muvera.full_size} components, expected at most {_MOST_COMPONENTS}."
            )
        if self.cells is not None and (self.cells.ndim != 2 or self.cells.shape[1] != self.dim or not len(self.cells)):
            raise InputError(f"The cells have shape {self.cells.shape}, expected [num_cells, {self.dim}].")
        if self.codebooks is not None and self.codebooks.shape != (CODEWORDS, self.dim):
            raise InputError(f"The codebooks have shape {self.codebooks.shape}, expected [{CODEWORDS}, {self.dim}].")
        if self.mean is not None and self.mean.shape != (self.dim,):
            raise InputError(f"The mean token has shape {self.mean.shape}, expected [{self.dim}].")

    @classmethod
    def fit(
        cls,
        settings: FdeSettings,
        documents: Sequence[FloatArray],
        *,
        start: FirstStage | None = None,
        seed: int = 0,
    ) -> FirstStage:
        """Fit a first stage to token embeddings of documents.

        Args:
            settings: Which encoding.
            documents: float32 [n_tokens, dim] of each, at least one token in all.
            start: One whose cells are nearly right, such as the model's own; that saves most of the time. It is left
                aside where the number of cells comes out differently.
            seed: Seed of k-means.

        Returns:
            The first stage; it has fewer cells than asked for where there are few tokens.

        Raises:
            InputError: If there is no token.
        """
        n_tokens = sum(len(document) for document in documents)
        if n_tokens == 0:
            raise InputError("A first stage cannot be fitted to documents without tokens.")
        dim = documents[0].shape[1]
        mean = (sum(document.sum(axis=0, dtype=np.float64) for document in documents) / n_tokens).astype(np.float32)
        centre = settings.centre if settings.centre is not None else float(mean @ mean) > _CENTRE_ABOVE
        if centre:
            documents = [_centred(document, mean) for document in documents]
        kept_mean = mean if centre else None
        if settings.kind != "cells":
            return cls(settings, dim, mean=kept_mean)
        num_cells = max(1, min(settings.num_cells, n_tokens // _LEAST_TOKENS_PER_CELL))
        nearly = None if start is None or start.cells is None else start.cells
        if nearly is not None and len(nearly) == num_cells:
            if start is not None and (start.mean is not None) != centre:
                nearly = unit_rows(nearly - mean if centre else nearly + mean)
            cells = fit_cells(
                np.concatenate(documents), num_cells, start=nearly, iterations=_WARM_ITERATIONS, seed=seed
            )
        else:
            cells = fit_cells(np.concatenate(documents), num_cells, seed=seed)
        # Through the stored form, so that a fitted first stage encodes exactly as the same one read back.
        cells = _unpacked_cells(_packed_cells(cells))
        subspaces = min(settings.num_subspaces, dim)
        codebooks = fit_codebooks(cells, documents, subspaces, seed=seed).astype(np.float16).astype(np.float32)
        return cls(settings, dim, cells, codebooks, kept_mean)

    @classmethod
    def unpack(cls, settings: FdeSettings, dim: int, arrays: PackedArrays) -> FirstStage:
        """A first stage from its stored arrays.

        Args:
            settings: Which encoding.
            dim: Size of one token embedding.
            arrays: As `pack` gives them.

        Returns:
            The first stage.

        Raises:
            InputError: If an array is missing or has the wrong shape.
        """
        return cls(
            settings,
            dim,
            None if arrays.cells is None else _unpacked_cells(arrays.cells),
            None if arrays.codebooks is None else arrays.codebooks.astype(np.float32),
            None if arrays.mean is None else arrays.mean.astype(np.float32),
        )

    def pack(self) -> PackedArrays:
        """Its fitted arrays in the types they are stored in."""
        return PackedArrays(
            None if self.cells is None else _packed_cells(self.cells),
            None if self.codebooks is None else self.codebooks.astype(np.float16),
            self.mean,
        )

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
        if manifest.fde is None or (manifest.fde.get("cells") and not manifest.fde.get("codebooks")):
            # None, or one of an earlier kind: an index fits its own, which costs time and nothing else.
            return None
        path = manifest.folder / "manifest.json"
        try:
            settings = FdeSettings.from_json(json.dumps(manifest.fde["settings"]))
            arrays = PackedArrays(
                _read_array(manifest, manifest.fde.get("cells"), np.int8),
                _read_array(manifest, manifest.fde.get("codebooks"), np.float16),
                _read_array(manifest, manifest.fde.get("mean"), np.float32),
            )
            return cls.unpack(settings, manifest.encoding.dim, arrays)
        except ModelError:
            raise
        except (KeyError, TypeError, ValueError, MemoryError) as error:  # an array may say that it is of any size
            raise ModelFormatError(
                f"{path}: the first stage cannot be used: {error} Export the model again."
            ) from error

    def describe(self) -> dict[str, Any]:
        """What `Index.stats` shows of it."""
        described: dict[str, Any] = {"kind": self.settings.kind, "centred": self.mean is not None}
        if self.cells is not None:
            settings = self.settings
            return described | {
                "num_cells": len(self.cells),
                "num_subspaces": self.lists.num_subspaces,
                "most_code_bytes": settings.max_entries * self.lists.entry_bytes,
            }
        return described | asdict(self.settings.muvera) | {"most_code_bytes": self.muvera_bytes}

    def document_codes(self, documents: Sequence[FloatArray]) -> list[bytes]:
        """Encode documents or passages; a code does not depend on the others.

        Args:
            documents: float32 [n_tokens, dim] of each.

        Returns:
            For the fitted encoding as `CellListEncoding.encode` gives them; for MUVERA int8 [`muvera_bytes`] each,
            rounded with one scale for all documents, so that inner products can be compared.
        """
        prepared = [self.prepared(document) for document in documents]
        if self.cells is not None:
            return self.lists.encode(prepared)
        limit = self._muvera_limit
        return [_rounded(self._muvera.document_fde(document), limit).tobytes() for document in prepared]

    def muvera_query(self, tokens: FloatArray) -> Int8Array:
        """Encode a query with MUVERA.

        Args:
            tokens: float32 [n_query_tokens, dim].

        Returns:
            int8 [`muvera_bytes`], rounded with a scale of its own, which changes no ranking.
        """
        encoding = self._muvera.query_fde(self.prepared(tokens))
        return _rounded(encoding, float(np.abs(encoding).max(initial=0.0)) or 1.0)

    @property
    def muvera_bytes(self) -> int:
        """Bytes of one of MUVERA's codes."""
        return int(self._muvera.size)

    @cached_property
    def lists(self) -> CellListEncoding:
        """The fitted encoding; MUVERA's first stage has none, and says so."""
        if self.cells is None or self.codebooks is None:
            raise InputError("MUVERA's first stage has no cell lists.")
        settings = self.settings
        return CellListEncoding(self.cells, self.codebooks, min(settings.num_subspaces, self.dim), settings.max_entries)

    def prepared(self, tokens: FloatArray) -> FloatArray:
        """Token embeddings as the first stage sees them: centred, where it is.

        Args:
            tokens: float32 [n_tokens, dim].

        Returns:
            float32 [n_tokens, dim].
        """
        return tokens if self.mean is None else _centred(tokens, self.mean)

    @property
    def _muvera_limit(self) -> float:
        """The component that becomes 127: five standard deviations of a unit vector's, or of a sum of them."""
        settings = self.settings.muvera
        width = settings.projection_dimension or self.dim
        summed = 1.0
        if settings.final_projection_dimension is not None:
            summed = max(1.0, self._muvera.full_size / settings.final_projection_dimension)
        return float(_DEVIATIONS * (summed / width) ** 0.5)

    @cached_property
    def _muvera(self) -> Muvera:
        return Muvera(self.settings.muvera, self.dim)


def _packed_cells(cells: FloatArray) -> Int8Array:
    """Directions in int8, each with its largest component at 127."""
    largest = np.maximum(np.abs(cells).max(axis=1, keepdims=True), np.float32(1e-12))
    packed: Int8Array = np.rint(cells * (np.float32(127) / largest)).astype(np.int8)
    return packed


def _unpacked_cells(packed: Int8Array) -> FloatArray:
    return unit_rows(packed.astype(np.float32))


def _rounded(encoding: FloatArray, limit: float) -> Int8Array:
    """int8 values of which 127 stands for `limit`."""
    codes: Int8Array = np.clip(np.rint(encoding * np.float32(127.0 / limit)), -127, 127).astype(np.int8)
    return codes


def _centred(tokens: FloatArray, mean: FloatArray) -> FloatArray:
    return unit_rows(tokens - mean)


def _read_array(manifest: ModelManifest, name: str | None, dtype: Any) -> Any:
    if name is None:
        return None
    array: Any = np.load(io.BytesIO(manifest.read_file(name)), allow_pickle=False)
    if array.dtype != dtype or not np.isfinite(array).all():
        raise ValueError(f"{name} is {array.dtype}, expected finite values of {np.dtype(dtype)}.")
    return np.ascontiguousarray(array)

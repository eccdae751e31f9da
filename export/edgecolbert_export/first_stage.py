"""The first stage that ships with a model: cells fitted once, so that an index need not fit its own at the start."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from edgecolbert.encoder import Encoder
from edgecolbert.fde import FdeSettings, FirstStage

# File of each stored array of a first stage.
_FILES = {"cells": "fde_cells.npy", "codebooks": "fde_codebooks.npy", "mean": "fde_mean.npy"}


def fit_first_stage(
    encoder: Encoder, texts: list[str], settings: FdeSettings | None = None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Fit the first stage to texts, with the token embeddings that the runtime computes.

    Args:
        encoder: The runtime's encoder of the exported folder.
        texts: Documents like those that will be searched.
        settings: Which encoding; None for the runtime's default.

    Returns:
        The manifest's `fde` value, and the content of each file that it names.
    """
    documents = encoder.encode_documents(texts)
    settings = settings or FdeSettings()
    arrays = FirstStage.fit(settings, documents).pack()._asdict()
    files = {_FILES[name]: _npy(array) for name, array in arrays.items() if array is not None}
    described = {"settings": json.loads(settings.to_json())} | {
        name: _FILES[name] if array is not None else None for name, array in arrays.items()
    }
    return described | {"fitted_to": {"texts": len(texts), "tokens": sum(map(len, documents))}}, files


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()

"""The first stage that ships with a model: cells fitted once, so that an index need not fit its own at the start."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from edgecolbert.encoder import Encoder
from edgecolbert.fde import FdeSettings, FirstStage

CELLS_NAME = "fde_cells.npy"
MEAN_NAME = "fde_mean.npy"
# Fitting cells to fewer tokens than this is fitting them to noise.
_LEAST_TOKENS_PER_CELL = 8


def fit_first_stage(
    encoder: Encoder, texts: list[str], settings: FdeSettings | None = None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Fit the first stage to texts, with the token embeddings that the runtime computes.

    Args:
        encoder: The runtime's encoder of the exported folder.
        texts: Documents like those that will be searched.
        settings: Which encoding; None for the runtime's default, with fewer cells where there are few tokens.

    Returns:
        The manifest's `fde` value, and the content of each file that it names.
    """
    tokens = np.concatenate(encoder.encode_documents(texts))
    if settings is None:
        default = FdeSettings()
        settings = FdeSettings(num_cells=max(1, min(default.num_cells, len(tokens) // _LEAST_TOKENS_PER_CELL)))
    fitted = FirstStage.fit(settings, tokens)
    arrays = {CELLS_NAME: fitted.cells, MEAN_NAME: fitted.mean}
    files = {name: _npy(array) for name, array in arrays.items() if array is not None}
    described = {
        "settings": json.loads(settings.to_json()),
        "cells": CELLS_NAME if CELLS_NAME in files else None,
        "mean": MEAN_NAME if MEAN_NAME in files else None,
        "fitted_to": {"texts": len(texts), "tokens": len(tokens)},
    }
    return described, files


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()

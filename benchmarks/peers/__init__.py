"""Other systems behind one small interface, so that all are measured alike on the same token embeddings."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from measuring import installed

FloatArray = npt.NDArray[np.float32]

# Module of each adapter in this package, and the distributions that it needs.
PEERS = {
    "pylate": ("pylate", "voyager", "torch"),
    "qdrant_edge": ("qdrant-edge-py", "muvera-python"),
    "lancedb": ("lancedb", "pyarrow"),
    "muvera": ("muvera-python", "maxsim-cpu"),
    "maxsim_cpu": ("maxsim-cpu",),
}


class Peer(Protocol):
    """A system that finds documents by their token embeddings.

    Attributes:
        name: What the table calls it.
        knobs: What an effort's numbers mean.
        efforts: Settings to try, cheapest first. More effort, more recall.
    """

    name: str
    knobs: tuple[str, ...]
    efforts: tuple[tuple[int, ...], ...]

    def build(self, documents: Sequence[FloatArray], folder: Path) -> None:
        """Index documents.

        Args:
            documents: float32 [n_tokens, dim] of each; numbered in this order.
            folder: An empty folder for its files.
        """
        ...

    def search(self, query: FloatArray, k: int, effort: tuple[int, ...]) -> list[int]:
        """Find documents.

        Args:
            query: float32 [n_query_tokens, dim].
            k: How many.
            effort: One of `efforts`.

        Returns:
            Numbers of documents, best first.
        """
        ...


def absent_peers(names: Sequence[str] | None = None) -> dict[str, str]:
    """Which peers cannot be measured here, and why."""
    missing = {}
    for name in PEERS if names is None else names:
        if name not in PEERS:
            raise SystemExit(f"There is no peer {name!r}, expected some of {', '.join(PEERS)}.")
        lacking = [distribution for distribution in PEERS[name] if installed(distribution) is None]
        if lacking:
            missing[name] = f"{', '.join(lacking)} not installed; pip install edgecolbert[bench]"
    return missing


def peer_version(name: str) -> str:
    """Names and versions of a peer's distributions."""
    return ", ".join(f"{distribution} {installed(distribution)}" for distribution in PEERS[name])


def load_peers(names: Sequence[str] | None, dim: int, threads: int) -> tuple[dict[str, list[Peer]], dict[str, str]]:
    """Make the systems of all peers that are installed.

    Args:
        names: Which peers, or None for all.
        dim: Size of a token embedding.
        threads: How many threads each may use, where it can be told.

    Returns:
        The systems of each peer; and why others are absent.
    """
    absent = absent_peers(names)
    present: dict[str, list[Peer]] = {}
    for name in PEERS if names is None else names:
        if name in absent:
            continue
        try:
            present[name] = importlib.import_module(f"peers.{name}").systems(dim, threads)
        except Exception as error:  # a peer that is broken on this machine must not end the run
            absent[name] = f"{type(error).__name__}: {error}"
    return present, absent

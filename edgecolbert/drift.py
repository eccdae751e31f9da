"""Whether the cells of a first stage still suit what is written: their error on new passages beside that on old ones.

The error of a token is one less its cosine with the centre of its cell. Cells are nearer to the tokens they were fitted
to than to any others of the same collection, so the old passages are some that they were not fitted to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt

from edgecolbert.cells import unit_rows
from edgecolbert.fde import FirstStage
from edgecolbert.linalg import product

FloatArray = npt.NDArray[np.float32]

# Cells have drifted where the error of new tokens is so many times that of old ones, and a quarter of all passages are
# new. Measured in docs/first-stage.md: at most 1.1 within a collection, 1.2 to 3.7 between two.
_DRIFTED = 1.2
_SUBSTANTIAL = 4
# Below this an error is that of rounding, as in an index of few different words, and a multiple of it means nothing.
_LEAST_ERROR = 0.01


@dataclass(frozen=True)
class Drift:
    """How well cells suit the passages that were written after they were fitted.

    Attributes:
        fitted: Mean error of tokens of old passages.
        last: Number of the last passage that there was when the cells were fitted.
        passages: How many passages have come since.
        tokens: How many tokens of them were looked at.
        error: Sum of the errors of these tokens.
    """

    fitted: float
    last: int
    passages: int = 0
    tokens: int = 0
    error: float = 0.0

    def with_new(
        self, stage: FirstStage, n_passages: int, documents: Sequence[FloatArray], codes: Sequence[bytes]
    ) -> Drift:
        """The same with some more new passages.

        Args:
            stage: The first stage.
            n_passages: How many have come.
            documents: float32 [n_tokens, dim] of those to look at.
            codes: The code of each.

        Returns:
            The new figures.
        """
        return replace(
            self,
            passages=self.passages + n_passages,
            tokens=self.tokens + sum(map(len, documents)),
            error=self.error + error_of(stage, documents, codes),
        )

    def is_clear(self, n_passages: int) -> bool:
        """Whether the cells should be fitted again.

        Args:
            n_passages: How many passages the index has.

        Returns:
            True where many passages are new and the cells clearly suit them worse.
        """
        many = self.passages * _SUBSTANTIAL >= n_passages
        return many and self.error > _DRIFTED * max(self.fitted, _LEAST_ERROR) * self.tokens

    def to_json(self) -> str:
        """What is stored."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: object) -> Drift | None:
        """Read what `to_json` gave.

        Args:
            text: What is stored, or None.

        Returns:
            The figures; None where there are none or they cannot be read, which costs no more than a refit that is due.
        """
        try:
            found = cls(**json.loads(str(text)))
            numbers = np.array(list(asdict(found).values()), dtype=np.float64)
        except (TypeError, ValueError):
            return None
        return found if np.isfinite(numbers).all() else None


def error_of(stage: FirstStage, documents: Sequence[FloatArray], codes: Sequence[bytes]) -> float:
    """The sum of the errors of all tokens.

    Args:
        stage: A first stage with cells.
        documents: float32 [n_tokens, dim] of each passage.
        codes: The code of each: its cells are compared with only, which is a small part of looking at all again.

    Returns:
        The sum; a token counts from 0, at the centre of its cell, to 2.
    """
    centres = stage.lists.cells
    total = 0.0
    for document, code in zip(documents, codes, strict=True):
        if len(code):
            n_entries = len(code) // stage.lists.entry_bytes
            cells = np.frombuffer(code, dtype="<u2", count=n_entries)
            nearest = product(unit_rows(stage.prepared(document)), centres[cells].T).max(axis=1)
            total += float((1 - nearest).sum(dtype=np.float64))
    return total

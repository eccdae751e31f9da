"""The certificate: the shipped runtime against the reference, on token ids, token embeddings, scores and rankings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecolbert.encoder import Encoder
from edgecolbert.goldens import Golden
from edgecolbert.scoring import maxsim
from edgecolbert_export.errors import VerificationError
from edgecolbert_export.probes import Probes
from edgecolbert_export.reference import Reference, one_thread

FloatArray = npt.NDArray[np.float32]
# Scores closer than this are a tie in float32, and their order means nothing (R44).
_TIE = 1e-4


@dataclass(frozen=True)
class Tolerances:
    """What a profile may differ from the reference by; None where nothing is asked.

    Attributes:
        max_difference: Largest absolute difference of a component of a token embedding.
        cosine_mean: Least mean cosine of token embeddings.
        cosine_p1: Least first percentile of that cosine.
        ranking_agreement: Least share of document pairs that are ordered as the reference orders them.
    """

    max_difference: float | None = None
    cosine_mean: float | None = None
    cosine_p1: float | None = None
    ranking_agreement: float | None = None


FP32_TOLERANCES = Tolerances(max_difference=1e-5, cosine_mean=0.99999, ranking_agreement=1.0)


@dataclass(frozen=True)
class Comparison:
    """One exported graph against the reference.

    Attributes:
        n_texts: Texts encoded, queries and documents together.
        n_tokens: Token embeddings compared.
        equal_ids: Whether every text has the reference's token ids.
        max_difference: Largest absolute difference of a component.
        cosine_mean: Mean cosine of a token embedding with the reference's.
        cosine_p1: First percentile of that cosine.
        cosine_min: Smallest such cosine.
        score_difference: Largest difference of a MaxSim score, for each query token.
        ranking_agreement: Share of document pairs ordered as in the reference, ties left out.
        problems: What is wrong irrespective of tolerances: other ids, other shapes, values that are no numbers.
    """

    n_texts: int
    n_tokens: int
    equal_ids: bool
    max_difference: float
    cosine_mean: float
    cosine_p1: float
    cosine_min: float
    score_difference: float
    ranking_agreement: float
    problems: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """What the manifest records."""
        return {
            key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in asdict(self).items()
        } | {"problems": list(self.problems)}

    def outside(self, tolerances: Tolerances) -> list[str]:
        """What the tolerances do not allow.

        Args:
            tolerances: What is allowed.

        Returns:
            One sentence for each violation; none when all is well.
        """
        found = list(self.problems)
        most = tolerances.max_difference
        # Asked for what is right, so that NaN fails.
        if most is not None and not self.max_difference <= most:
            found.append(f"the largest difference is {self.max_difference:.2e}, allowed is {most:.0e}")
        for name in ("cosine_mean", "cosine_p1", "ranking_agreement"):
            least, value = getattr(tolerances, name), getattr(self, name)
            if least is not None and not value >= least:
                found.append(f"{name.replace('_', ' ')} is {value:.6f}, expected at least {least}")
        return found


@dataclass(frozen=True)
class ReferenceOutput:
    """What the reference computed for the probes.

    Attributes:
        probes: The texts.
        goldens: One for each of `probes.sides()`.
        versions: Packages that had a part in it.
    """

    probes: Probes
    goldens: tuple[Golden, ...]
    versions: dict[str, str]

    def pick(self, sides: list[tuple[str, str]]) -> list[Golden]:
        """The goldens of some texts.

        Args:
            sides: ("query" or "document", text) of each.

        Returns:
            Their goldens, in that order.
        """
        by_side = {(golden.side, golden.text): golden for golden in self.goldens}
        return [by_side[side] for side in sides]


def run_reference(reference: Reference, probes: Probes) -> ReferenceOutput:
    """Encode every probe with the reference, each text alone.

    Args:
        reference: The reference.
        probes: The texts.

    Returns:
        Token ids and embeddings.
    """
    with one_thread():
        goldens = tuple(
            Golden(side, text, np.array(reference.token_ids(side, text), dtype=np.int32), reference.encode(side, text))
            for side, text in probes.sides()
        )
    return ReferenceOutput(probes, goldens, reference.versions)


def compare(encoder: Encoder, output: ReferenceOutput) -> Comparison:
    """Compare a model folder with the reference, through the runtime that ships.

    Args:
        encoder: The runtime's encoder of the exported folder.
        output: What the reference computed.

    Returns:
        The comparison.
    """
    problems: list[str] = []
    cosines, largest, equal_ids = [np.zeros(0)], 0.0, True
    ours: dict[tuple[str, str], FloatArray] = {}
    for golden in output.goldens:
        is_query = golden.side == "query"
        tokens = encoder.tokenizer.query(golden.text) if is_query else encoder.tokenizer.document(golden.text)
        if tokens.ids.tolist() != golden.ids.tolist():
            equal_ids = False
            problems.append(f"the {golden.side} {golden.text[:40]!r} has other token ids than the reference")
            continue
        rows = (encoder.encode_queries if is_query else encoder.encode_documents)([golden.text])[0]
        ours[golden.side, golden.text] = rows
        if rows.shape != golden.embeddings.shape:
            problems.append(
                f"the {golden.side} {golden.text[:40]!r} has shape {rows.shape}, "
                f"the reference {golden.embeddings.shape}"
            )
        elif not np.isfinite(rows).all():
            problems.append(f"the {golden.side} {golden.text[:40]!r} has values that are no numbers")
        elif rows.size:
            largest = max(largest, float(np.abs(rows - golden.embeddings).max()))
            cosines.append((rows.astype(np.float64) * golden.embeddings).sum(axis=1))
    cosine = np.concatenate(cosines) if len(cosines) > 1 else np.full(1, np.nan)  # nothing compared proves nothing
    score_difference, agreement = (0.0, 1.0) if problems else _compare_rankings(ours, output)
    return Comparison(
        n_texts=len(output.goldens),
        n_tokens=len(cosine),
        equal_ids=equal_ids,
        max_difference=largest,
        cosine_mean=float(cosine.mean()),
        cosine_p1=float(np.quantile(cosine, 0.01)),
        cosine_min=float(cosine.min()),
        score_difference=score_difference,
        ranking_agreement=agreement,
        problems=tuple(problems),
    )


def check(comparison: Comparison, tolerances: Tolerances, what: str) -> None:
    """Refuse an export that differs too much.

    Args:
        comparison: The comparison.
        tolerances: What is allowed.
        what: The exported graph, for the error message.

    Raises:
        VerificationError: If anything is outside the tolerances.
    """
    found = comparison.outside(tolerances)
    if found:
        shown = "; ".join(found[:4]) + (f"; and {len(found) - 4} more" if len(found) > 4 else "")
        raise VerificationError(
            f"{what} does not do what the reference does: {shown}. Nothing was written. Choose a profile of higher "
            "fidelity, widen the recipe's tolerances knowingly, or report a bug if this is fp32."
        )


def _compare_rankings(ours: dict[tuple[str, str], FloatArray], output: ReferenceOutput) -> tuple[float, float]:
    """Largest score difference for each query token, and the share of document pairs in the reference's order."""
    theirs = {(golden.side, golden.text): golden.embeddings for golden in output.goldens}
    difference, agreed, compared = 0.0, 0, 0
    for query in output.probes.queries:
        scores = np.array(
            [
                [maxsim(rows["query", query], rows["document", text]) for text in output.probes.documents]
                for rows in (ours, theirs)
            ]
        )
        n_tokens = len(theirs["query", query])
        difference = max(difference, float(np.abs(scores[0] - scores[1]).max()) / n_tokens)
        gaps = scores[:, :, None] - scores[:, None, :]
        decided = np.triu(np.abs(gaps[1]) > _TIE * n_tokens)
        compared += int(decided.sum())
        agreed += int((decided & (np.sign(gaps[0]) == np.sign(gaps[1]))).sum())
    return difference, agreed / compared if compared else 1.0

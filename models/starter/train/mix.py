"""Mixes the weights of checkpoints of one shape: what tuning brought, with less of what it took.

    python mix.py CHECKPOINT CHECKPOINT ... --out OUT [--shares SHARE SHARE ...]

Without shares all count the same. Between a model and what it was tuned into, the mean of the weights is often better
on other texts than either (Wortsman et al., *Robust fine-tuning of zero-shot models*, CVPR 2022), and so is the mean of
several tunings (Wortsman et al., *Model soups*, ICML 2022). ``tune.py --out FOLDER`` keeps where it started in
``FOLDER/start``. Tokenizer and lengths are those of the first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from evaluate import load_checkpoint
from student import Student, save_checkpoint


@torch.no_grad()
def mix(students: list[Student], shares: list[float]) -> None:
    """Makes the first of the students the weighted mean of all.

    Args:
        students: Of one shape.
        shares: How much each counts; what they sum to does not matter.

    Raises:
        ValueError: The shapes differ, there is not one share for each, one is below 0, or all are 0.
    """
    if len(shares) != len(students):
        raise ValueError(f"{len(shares)} shares for {len(students)} checkpoints, expected as many")
    if sum(shares) <= 0 or min(shares) < 0:
        raise ValueError(f"the shares are {shares}, expected none below 0 and one above")
    for student in students[1:]:
        if student.shape != students[0].shape:
            raise ValueError(f"only checkpoints of one shape can be mixed: {students[0].shape} and {student.shape}")
    weights = [share / sum(shares) for share in shares]
    for parameters in zip(*(student.parameters() for student in students), strict=True):
        parameters[0].copy_(sum(weight * values for weight, values in zip(weights, parameters, strict=True)))


def main() -> None:
    """Mixes and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--shares", type=float, nargs="+", metavar="SHARE", help="one for each (default: the same)")
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes")
    arguments = parser.parse_args()
    loaded = [load_checkpoint(folder) for folder in arguments.checkpoints]
    first, tokenizer, lengths = loaded[0]
    mix([student for student, _, _ in loaded], arguments.shares or [1.0] * len(loaded))
    save_checkpoint(first, tokenizer, arguments.out, *lengths)


if __name__ == "__main__":
    main()

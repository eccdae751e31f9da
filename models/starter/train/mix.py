"""Mixes the weights of two checkpoints of one shape: what tuning brought, with less of what it took.

    python mix.py FROM TO SHARE OUT

``SHARE`` 0 is ``FROM``, 1 is ``TO``. Between a model and what it was tuned into, the mean of the weights is often
better on other texts than either (Wortsman et al., *Robust fine-tuning of zero-shot models*, CVPR 2022). ``tune.py
--out FOLDER`` keeps where it started in ``FOLDER/start``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from evaluate import load_checkpoint
from student import Student, save_checkpoint


@torch.no_grad()
def mix(first: Student, second: Student, share: float) -> None:
    """Moves ``first`` towards ``second``, in place.

    Raises:
        ValueError: The shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"only checkpoints of one shape can be mixed: {first.shape} and {second.shape}")
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        one.lerp_(other, share)


def main() -> None:
    """Mixes and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("first", type=Path, metavar="FROM")
    parser.add_argument("second", type=Path, metavar="TO")
    parser.add_argument("share", type=float, metavar="SHARE")
    parser.add_argument("out", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    first, tokenizer, lengths = load_checkpoint(arguments.first)
    mix(first, load_checkpoint(arguments.second)[0], arguments.share)
    save_checkpoint(first, tokenizer, arguments.out, *lengths)


if __name__ == "__main__":
    main()

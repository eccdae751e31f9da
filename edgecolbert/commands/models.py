"""`edgecolbert models`."""

from __future__ import annotations

import argparse

from edgecolbert.commands.output import add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print every model that is known or installed; recipes belong to the export pipeline, and need no extra."""
    from edgecolbert_export.catalogue import list_models

    models = list_models()
    if options.json:
        print_json(models)
        return 0
    for model in models:
        state = "installed" if model["installed"] else model["command"]
        print(f"{model['name']:<32} {model['licence']:<16} {state}")
    return 0

"""`edgecolbert export`: the door to the export pipeline, whose dependencies are an extra."""

from __future__ import annotations

import argparse

from edgecolbert.errors import MissingExtraError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options, which are the pipeline's."""
    from edgecolbert_export.cli import add_arguments as add_pipeline_arguments

    add_pipeline_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run the pipeline.

    Args:
        options: The parsed options.

    Returns:
        The exit code.

    Raises:
        MissingExtraError: If torch or another dependency of the pipeline is not installed.
    """
    from edgecolbert_export.cli import run as run_pipeline

    try:
        return run_pipeline(options)
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("Export", str(error.name), "export") from error

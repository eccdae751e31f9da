"""The whole parser of the command line, for the reference: `edgecolbert` itself fills in only the command that runs."""

from __future__ import annotations

import argparse

from edgecolbert import cli


def parser() -> argparse.ArgumentParser:
    """Every command with all of its options."""
    whole = cli._parser([])
    commands = _commands(whole)
    for name in cli.COMMANDS:
        commands[name] = _commands(cli._parser([name]))[name]
    return whole


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    choices: dict[str, argparse.ArgumentParser] = action.choices
    return choices

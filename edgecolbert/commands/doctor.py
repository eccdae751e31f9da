"""`edgecolbert doctor`."""

from __future__ import annotations

import argparse

from edgecolbert.commands.output import add_json, add_model, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    add_model(parser, "the starter model")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print a report on this installation; the exit code is 1 when something does not work."""
    from edgecolbert.diagnosis import diagnose

    report = diagnose(options.model)
    if options.json:
        print_json(report)
    else:
        for section, entries in report.items():
            print(section)
            for name, value in entries.items() if isinstance(entries, dict) else enumerate(entries, start=1):
                print(f"  {name!s:<22} {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return 1 if report["problems"] else 0

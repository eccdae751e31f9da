"""What commands share: options that several have, JSON, progress bars, clocks."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from edgecolbert.encryption import Key, key_from_environment, key_from_file
from edgecolbert.errors import InputError

if TYPE_CHECKING:
    from edgecolbert.filters import Filter


def add_database(parser: argparse.ArgumentParser) -> None:
    """Add --db, and where to find the key of an encrypted one."""
    parser.add_argument("--db", required=True, metavar="FILE", help="the database file")
    # Not the key itself, which every user of the machine could see in the list of processes.
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--key-env", metavar="NAME", help="an environment variable with the key of an encrypted database"
    )
    group.add_argument("--key-file", metavar="FILE", help="a file with the key of an encrypted database")


def database_key(options: argparse.Namespace) -> Key | None:
    """The key that the options of `add_database` name.

    Args:
        options: The command's options.

    Returns:
        The key, which is read when it is needed; None for a database without one.
    """
    if options.key_env is not None:
        return key_from_environment(options.key_env)
    return None if options.key_file is None else key_from_file(options.key_file)


def add_model(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --model, saying what holds without it."""
    parser.add_argument(
        "--model", metavar="M", help=f"a built-in name, a model folder, or OWNER/NAME on the hub (default: {default})"
    )


def add_filter(parser: argparse.ArgumentParser) -> None:
    """Add --filter."""
    parser.add_argument(
        "--filter",
        metavar="FILTER",
        help="only documents whose metadata fulfil this, such as 'year >= 2020 and tags contains \"x\"', or as JSON",
    )


def chosen_filter(options: argparse.Namespace) -> Filter | None:
    """The filter that the option of `add_filter` gives.

    Args:
        options: The command's options.

    Returns:
        The filter, or None.

    Raises:
        InputError: If it cannot be read.
    """
    if options.filter is None:
        return None
    from edgecolbert.filters.parser import parse_filter

    return parse_filter(check_words(options.filter, "--filter"))


def add_token_storage(parser: argparse.ArgumentParser, where: str, default: tuple[str, str]) -> None:
    """Add --token-bits and --pool-factor, saying of which database and what holds without them."""
    parser.add_argument(
        "--token-bits", type=positive, metavar="B", help=f"bits of a component {where}, 8 or 4 (default: {default[0]})"
    )
    parser.add_argument(
        "--pool-factor",
        type=positive,
        metavar="N",
        help=f"store one token embedding for N tokens {where} (default: {default[1]})",
    )


def token_storage(options: argparse.Namespace) -> dict[str, int] | None:
    """Those settings of token storage that were given, or None."""
    given = {"bits": options.token_bits, "pool_factor": options.pool_factor}
    return {name: value for name, value in given.items() if value is not None} or None


def add_passages(parser: argparse.ArgumentParser, where: str, default: str) -> None:
    """Add the options that say how documents become passages, of which database and what holds without them."""
    options = parser.add_argument_group(f"passages {where} (default: {default})")
    options.add_argument(
        "--passage-tokens", type=not_negative, metavar="N", help="most tokens of a passage; 0 for the model's length"
    )
    options.add_argument(
        "--overlap", type=not_negative, metavar="N", help="most tokens repeated from the passage before"
    )
    yes_or_no = argparse.BooleanOptionalAction
    options.add_argument("--structure", action=yes_or_no, help="split Markdown and code by their structure")
    options.add_argument("--min-tokens", type=not_negative, metavar="N", help="smaller sections share a passage")
    options.add_argument("--context", action=yes_or_no, help="encode a passage behind its title and headings")
    options.add_argument("--late-chunking", action=yes_or_no, help="encode many passages in one pass, cut afterwards")
    options.add_argument(
        "--window", type=not_negative, metavar="N", help="most tokens of such a pass; 0 for the model's length"
    )


def passage_options(options: argparse.Namespace) -> dict[str, Any] | None:
    """Those settings of passages that were given, or None."""
    given = {
        "max_tokens": options.passage_tokens,
        "overlap": options.overlap,
        "structure": options.structure,
        "min_tokens": options.min_tokens,
        "context": options.context,
        "late_chunking": options.late_chunking,
        "window": options.window,
    }
    return {name: value for name, value in given.items() if value is not None} or None


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def positive(text: str) -> int:
    """Read an option's whole number of at least 1.

    Args:
        text: What the user wrote.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: If it is not one.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def not_negative(text: str) -> int:
    """Read an option's whole number of at least 0.

    Args:
        text: What the user wrote.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: If it is not one.
    """
    if text.strip() == "0":
        return 0
    try:
        return positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0") from None


def check_words(words: str, what: str) -> str:
    """Refuse an argument that is not valid Unicode; the shell passes any bytes.

    Args:
        words: The argument.
        what: Its name.

    Returns:
        The same argument.

    Raises:
        InputError: If it holds bytes that are not UTF-8.
    """
    if any("\udc80" <= character <= "\udcff" for character in words):
        raise InputError(f"{what} is not valid UTF-8: {words!r}. Check the terminal's encoding.")
    return words


def print_json(value: Any) -> None:
    """Print one JSON object, readable and with real characters where standard output can take them."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print(text)


def excerpt(text: str, width: int = 160) -> str:
    """A text on one line, cut at `width`, without characters that could steer the terminal."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def printable(message: str) -> str:
    """A message whose file names cannot steer the terminal: what is no character to see is shown as its number."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in message
    )


def takes_colours(stream: TextIO) -> bool:
    """Whether a stream is a terminal that is to have bold and colours; NO_COLOR in the environment says no."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Clock:
    """Milliseconds by stage, in the order the stages ended."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        begin = time.perf_counter()
        yield
        self.ms[name] = round((time.perf_counter() - begin) * 1000, 2)

    def finish(self) -> dict[str, float]:
        """All stages, and the total since the clock was made."""
        return self.ms | {"total": round((time.perf_counter() - self.started) * 1000, 2)}


@contextmanager
def progress_bar(unit: str, *, total: int | None = None) -> Iterator[Callable[[int, int | None], None]]:
    """A bar with rate and time left on standard error, where that is a terminal or the work takes long.

    Args:
        unit: What is counted, in the plural.
        total: How many there are, if it is known.

    Yields:
        A function to call with how many are done, and how many there are in all where that becomes known later.
    """
    from tqdm import tqdm

    # Off a terminal one line every ten seconds is enough for a log.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm(total=total, unit=f" {unit}", mininterval=interval, delay=0.5, leave=True, dynamic_ncols=True) as bar:

        def update(done: int, known_total: int | None = None) -> None:
            if known_total is not None:
                bar.total = known_total
            bar.update(done - bar.n)

        yield update

"""A plugin of the command-line tool `llm`: fragments, tools and a command (docs/integrations/llm.md).

llm's own embedding models give one vector a text, which a late-interaction model does not have, so there is none here.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

# sqlite-utils brings it along, and llm does; importing llm itself would cost whoever imports this for nothing.
from pluggy import HookimplMarker

from edgecolbert.errors import EdgeColbertError, InputError, MissingExtraError, StoreNotFoundError
from edgecolbert.integrations.assistant import MAX_CHARS, MOST_HITS, AssistantTools, Mode, any_filter

if TYPE_CHECKING:
    import click
    from llm import Fragment

    from edgecolbert.index import Index

hookimpl = HookimplMarker("llm")

_FORM = "edgecolbert:DB:QUERY, or edgecolbert:DB?k=3&mode=late:QUERY"


@dataclass(frozen=True)
class Search:
    """What to put before a model.

    Attributes:
        db: The database.
        query: Any text.
        k: Most documents wanted.
        mode: As in `Index.search`.
        filter: As on the command line; all documents by default.
        whole: Whole documents instead of the passages that matched.
        key_env: An environment variable with the key of an encrypted database.
        key_file: A file with it.
    """

    db: Path
    query: str
    k: int = 5
    mode: Mode = "hybrid"
    filter: str | None = None
    whole: bool = False
    key_env: str | None = None
    key_file: str | None = None


@hookimpl
def register_fragment_loaders(register: Callable[..., None]) -> None:
    """Give llm the prefix `edgecolbert:` of fragments."""
    register("edgecolbert", load_fragments)


@hookimpl
def register_tools(register: Callable[..., None]) -> None:
    """Give llm the toolbox `EdgeColBERT`."""
    register(_toolbox())


@hookimpl
def register_commands(cli: click.Group) -> None:
    """Give llm the command `llm edgecolbert`."""
    import click

    @cli.group(name="edgecolbert")
    def group() -> None:
        """Search edgecolbert databases."""

    @group.command(name="search")
    @click.argument("db", type=click.Path(path_type=Path))
    @click.argument("query")
    @click.option("-k", default=5, show_default=True, help="most documents wanted")
    @click.option("--mode", default="hybrid", show_default=True, type=click.Choice(["late", "lexical", "hybrid"]))
    @click.option("--filter", "filter_", metavar="FILTER", help="only documents whose metadata fulfil this")
    @click.option("--whole", is_flag=True, help="whole documents instead of passages")
    @click.option("--key-env", metavar="NAME", help="an environment variable with the database's key")
    @click.option("--key-file", metavar="FILE", help="a file with the database's key")
    def search(
        db: Path,
        query: str,
        k: int,
        mode: Mode,
        filter_: str | None,
        whole: bool,
        key_env: str | None,
        key_file: str | None,
    ) -> None:
        """Print what `-f edgecolbert:DB:QUERY` puts before a model."""
        try:
            found = _fragments(Search(db, query, k, mode, filter_, whole, key_env, key_file))
        except (EdgeColbertError, OSError) as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        click.echo("\n\n".join(found))


def load_fragments(argument: str) -> list[Fragment]:
    """The passages of a database that match a query, as llm's fragments: `llm -f edgecolbert:notes.db:QUERY`.

    Args:
        argument: `DB:QUERY`, or `DB?NAME=VALUE&...:QUERY` with the options `k`, `mode`, `filter`, `whole`, `key_env`
            and `key_file`.

    Returns:
        One fragment for each document, best first. Its source names the database, the document, and the characters.

    Raises:
        InputError: If the argument cannot be read, or nothing was found.
        StoreNotFoundError: If no part of the argument is the path of a file.
        MissingExtraError: If llm is not installed.
        StoreError: If the database cannot be read.
    """
    return _fragments(read_argument(argument))


def read_argument(argument: str) -> Search:
    """Read what stands behind `edgecolbert:`.

    Args:
        argument: As in `load_fragments`.

    Returns:
        The search.

    Raises:
        InputError: If it cannot be read.
        StoreNotFoundError: If no part of it is the path of a file.
    """
    # A path may have colons and question marks itself, so the file that is there decides where it ends.
    for position in (place for place, character in enumerate(argument) if character == ":"):
        head, query = argument[:position], argument[position + 1 :]
        if (path := Path(head).expanduser()).is_file():
            return _search(path, query, "")
        before, mark, options = head.rpartition("?")
        if mark and (path := Path(before).expanduser()).is_file():
            return _search(path, query, options)
    if (path := Path(argument).expanduser()).is_file():
        raise InputError(f"There is no query behind {argument}. Write {_FORM}.")
    raise StoreNotFoundError(f"No part of {argument!r} before a colon is a database file. Write {_FORM}.")


def _search(path: Path, query: str, options: str) -> Search:
    if not query.strip():
        raise InputError(f"There is no query behind {path}. Write {_FORM}.")
    try:
        given = dict(parse_qsl(options, keep_blank_values=True, strict_parsing=True)) if options else {}
    except ValueError:
        raise InputError(f"The options {options!r} are not of the form NAME=VALUE&NAME=VALUE.") from None
    names = [name for name in Search.__dataclass_fields__ if name not in ("db", "query")]
    if unknown := [name for name in given if name not in names]:
        raise InputError(f"There is no option {unknown[0]!r}; there are {', '.join(names)}.")
    settings: dict[str, Any] = dict(given)
    if "k" in settings:
        if not settings["k"].isdecimal():
            raise InputError(f"k is {settings['k']!r}, expected a whole number.")
        settings["k"] = int(settings["k"])
    if "whole" in settings:
        if settings["whole"] not in ("0", "1"):
            raise InputError(f"whole is {settings['whole']!r}, expected 0 or 1.")
        settings["whole"] = settings["whole"] == "1"
    return Search(path, query, **settings)


def _fragments(wanted: Search) -> list[Fragment]:
    try:
        from llm import Fragment
    except ImportError as error:
        raise MissingExtraError.of("A fragment", "llm", "llm") from error
    if not 1 <= wanted.k <= MOST_HITS:
        raise InputError(f"k is {wanted.k}, expected 1 to {MOST_HITS}.")
    with _open(wanted.db, wanted.key_env, wanted.key_file) as index:
        hits = index.search(wanted.query, k=wanted.k, mode=wanted.mode, filter=any_filter(wanted.filter))
    if not hits:
        # Without a passage the model would answer from what it remembers, and nobody would notice.
        beside = "" if wanted.filter is None else f" among the documents with {wanted.filter}"
        raise InputError(f"Nothing in {wanted.db} matches {wanted.query!r}{beside}.")
    found = []
    for hit in hits:
        start, end, text = hit.passage.start, hit.passage.end, hit.passage.text
        if wanted.whole:
            start, end, text = 0, len(hit.text), hit.text
        found.append(
            Fragment(  # type: ignore[no-untyped-call, unused-ignore]
                f"Document {hit.id}, characters {start} to {end}:\n\n{text.strip()}\n",
                f"edgecolbert:{wanted.db}#{hit.id}:{start}-{end}",
            )
        )
    return found


def _open(path: Path, key_env: str | None, key_file: str | None) -> Index:
    from edgecolbert.encryption import key_from_environment, key_from_file
    from edgecolbert.index import Index

    if key_env and key_file:
        raise InputError("key_env and key_file both name a key. Leave one out.")
    key = key_from_environment(key_env) if key_env else key_from_file(key_file) if key_file else None
    return Index.open(path, create=False, read_only=True, key=key)


def _toolbox() -> type[Any]:
    """The toolbox, made where llm is there to inherit from."""
    from llm import Toolbox

    class EdgeColBERT(Toolbox):  # type: ignore[misc, no-untyped-call, unused-ignore]
        """Search the documents of one edgecolbert database, which the person chose."""

        def __init__(
            self, db: str, max_chars: int = MAX_CHARS, key_env: str | None = None, key_file: str | None = None
        ) -> None:
            # Before the model is asked anything, so that a wrong path is an error for the person.
            self._index = _open(Path(db).expanduser(), key_env, key_file)
            # llm never says that it has done.
            weakref.finalize(self, self._index.close)
            self._tools = AssistantTools(self._index, max_chars=max_chars)

        def search(self, query: str, k: int = 5, filter: str = "", mode: str = "hybrid") -> dict[str, Any]:  # noqa: A002
            return self._tools.search(query, k=k, filter=filter, mode=mode)  # type: ignore[arg-type]

        def get_document(self, id: str, start: int = 0, end: int | None = None) -> dict[str, Any]:  # noqa: A002
            return self._tools.get_document(id, start=start, end=end)

        def facets(self, field: str, filter: str = "", k: int = 20) -> dict[str, Any]:  # noqa: A002
            return self._tools.facets(field, filter=filter, k=k)

        def info(self) -> dict[str, Any]:
            return self._tools.info()

    # The model reads the same descriptions everywhere.
    for name in ("search", "get_document", "facets", "info"):
        getattr(EdgeColBERT, name).__doc__ = inspect.getdoc(getattr(AssistantTools, name))
    return EdgeColBERT

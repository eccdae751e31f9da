"""Recipes: what is known of a published checkpoint, kept in `models/<name>/recipe.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecolbert.errors import InputError

RECIPE_NAME = "recipe.toml"
_PACKAGE = Path(__file__).resolve().parent
# In a wheel the recipes lie inside the runtime's package; in a checkout they are its neighbour.
_ROOTS = (_PACKAGE / "models", _PACKAGE.parent / "models")
_TABLES = {"model": dict, "export": dict, "tolerances": dict, "published": dict, "evaluation": dict}
_MODEL_KEYS = {"name", "source", "revision", "licence", "licence_notes", "description", "language", "notes"}
_EXPORT_KEYS = {"profile", "set", "head"}
_EVALUATION_KEYS = {"query_length": int, "document_length": int, "query_template": str}


@dataclass(frozen=True)
class Recipe:
    """How to export one checkpoint.

    Attributes:
        name: Short name of the model.
        source: Hub name of the checkpoint, or "local" where it has to be given as a folder.
        revision: Commit of the hub repository, or "" where none is known.
        licence: SPDX expression.
        licence_notes: What the card says about licences beyond that.
        description: First paragraph of the card.
        language: Languages, as ISO 639-1 codes.
        notes: Remarks for the card, one a line.
        profile: Quantisation profile, or "" for the default.
        overrides: Settings to change, as `--set` does.
        head: Head to put on a plain sentence encoder, such as "pca:96", or "".
        tolerances: Allowed differences by profile, over the defaults of `verify`.
        published: Scores that the authors published, by benchmark.
        evaluation: How they measured them, by benchmark: see `protocol`.
        text: The file's text, which is copied into the model folder.
    """

    name: str
    source: str
    revision: str = ""
    licence: str = "unknown"
    licence_notes: str = ""
    description: str = ""
    language: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    profile: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    head: str = ""
    tolerances: dict[str, dict[str, float]] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    text: str = ""

    def protocol(self, benchmark: str, collection: str) -> dict[str, Any]:
        """How the authors measured on a collection, where that differs from the checkpoint's own settings.

        Args:
            benchmark: "nanobeir", "bright" or "longembed".
            collection: Name of the collection, such as "pony".

        Returns:
            Any of `query_length` and `document_length` in tokens, and `query_template`, a text with "{query}" and
            optionally "{domain}". What `[evaluation.BENCHMARK.COLLECTION]` says goes before `[evaluation.BENCHMARK]`.
        """
        table = self.evaluation.get(benchmark, {})
        general = {key: value for key, value in table.items() if not isinstance(value, dict)}
        return general | dict(table.get(collection, {}))


def known_recipes() -> dict[str, Path]:
    """Name and file of every recipe of this installation."""
    found: dict[str, Path] = {}
    for root in _ROOTS:
        for path in sorted(root.glob(f"*/{RECIPE_NAME}")):
            found.setdefault(path.parent.name, path)
    return found


def read_recipe(name_or_path: str) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: A known name, or a file.

    Returns:
        The recipe.

    Raises:
        InputError: If there is none, or the file is no recipe.
    """
    known = known_recipes()
    path = known.get(name_or_path, Path(name_or_path))
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(
            f"No recipe {name_or_path!r}: expected a file or one of {', '.join(sorted(known)) or 'none'}."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"The recipe {path} cannot be read: {error}. Correct the file.") from error
    try:
        return _build(data, text)
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"The recipe {path} is wrong: {error}. Correct the file.") from error


def find_recipe_for(source: str) -> Recipe | None:
    """The recipe of a hub name, if there is one.

    Args:
        source: A hub name, such as "lightonai/ColBERT-Zero", in any case and with any @REVISION.

    Returns:
        The recipe, or None.
    """
    repository = source.partition("@")[0].lower()
    recipes = [read_recipe(name) for name in known_recipes()]
    return next((recipe for recipe in recipes if recipe.source.lower() == repository), None)


def _build(data: dict[str, Any], text: str) -> Recipe:
    for table, kind in _TABLES.items():
        if not isinstance(data.get(table, {}), kind):
            raise ValueError(f"{table} is not a table")
    model, export = data["model"], data.get("export", {})
    for known, given in ((set(_TABLES), data), (_MODEL_KEYS, model), (_EXPORT_KEYS, export)):
        if unknown := sorted(set(given) - known):
            raise ValueError(f"unknown keys {unknown}, expected {sorted(known)}")
    for benchmark, table in data.get("evaluation", {}).items():
        _check_protocol(table, f"evaluation.{benchmark}", nested=True)
    return Recipe(
        name=str(model["name"]),
        source=str(model["source"]),
        revision=str(model.get("revision", "")),
        licence=str(model.get("licence", "unknown")),
        licence_notes=str(model.get("licence_notes", "")).strip(),
        description=str(model.get("description", "")).strip(),
        language=tuple(model.get("language", ())),
        notes=tuple(model.get("notes", ())),
        profile=str(export.get("profile", "")),
        overrides=dict(export.get("set", {})),
        head=str(export.get("head", "")),
        tolerances={profile: dict(values) for profile, values in data.get("tolerances", {}).items()},
        published=dict(data.get("published", {})),
        evaluation=dict(data.get("evaluation", {})),
        text=text,
    )


def _check_protocol(table: Any, where: str, *, nested: bool) -> None:
    if not isinstance(table, dict):
        raise ValueError(f"{where} is not a table")
    for key, value in table.items():
        if nested and isinstance(value, dict):
            _check_protocol(value, f"{where}.{key}", nested=False)
        elif key not in _EVALUATION_KEYS:
            raise ValueError(f"unknown keys ['{key}'] in {where}, expected {sorted(_EVALUATION_KEYS)}")
        elif type(value) is not _EVALUATION_KEYS[key]:
            raise ValueError(f"{where}.{key} is {value!r}, expected {_EVALUATION_KEYS[key].__name__}")
    if "{query}" not in table.get("query_template", "{query}"):
        raise ValueError(f"{where}.query_template does not say where the {{query}} goes")

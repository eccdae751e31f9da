"""What `edgecolbert models` lists: recipes that are known, and exports that are installed. Needs no extra."""

from __future__ import annotations

from typing import Any

from edgecolbert.builtin import builtin_models
from edgecolbert.manifest import ModelManifest
from edgecolbert.recipes import known_recipes, read_recipe


def list_models() -> list[dict[str, Any]]:
    """Every model that is known or installed.

    Returns:
        One entry a model: `name`, `source`, `licence`, `profile`, `installed` (a folder, or None) and `command`, which
        makes it where it is not installed.
    """
    installed = builtin_models()
    entries = []
    for name in sorted({*known_recipes(), *installed}):
        folder = installed.get(name)
        recipe = read_recipe(name) if name in known_recipes() else None
        manifest = ModelManifest.read(folder) if folder is not None else None
        source = recipe.source if recipe is not None else "local"
        entries.append(
            {
                "name": name,
                "source": source,
                "licence": recipe.licence if recipe is not None else (manifest.licence if manifest else "unknown"),
                "profile": manifest.profile if manifest else (recipe.profile if recipe else "") or "int8",
                "installed": str(folder) if folder is not None else None,
                "command": None if folder is not None else f"edgecolbert export {_argument(source)} --recipe {name}",
            }
        )
    return entries


def _argument(source: str) -> str:
    return "CHECKPOINT_FOLDER" if source == "local" else source

"""Where models are: the ones that ship with the package by name, others by folder or by their name on the hub."""

from __future__ import annotations

import warnings
from pathlib import Path

from edgecolbert.errors import InputTypeError, ModelNotFoundError, ModelWarning
from edgecolbert.manifest import MANIFEST_NAME, ModelManifest

DEFAULT_MODEL = "starter"

_PACKAGE = Path(__file__).resolve().parent
# In a wheel the models lie inside the package; in a checkout they are its neighbour.
_ROOTS = (_PACKAGE / "models", _PACKAGE.parent / "models")


def builtin_models() -> dict[str, Path]:
    """Name and folder of every model that ships with this installation."""
    found: dict[str, Path] = {}
    for root in _ROOTS:
        for manifest in sorted(root.glob(f"*/{MANIFEST_NAME}")):
            found.setdefault(manifest.parent.name, manifest.parent)
    return found


def resolve_model_folder(name_or_folder: str | Path | None = None, *, download: bool = True) -> Path:
    """The folder of a model.

    Args:
        name_or_folder: A built-in name, a folder, or None for the starter model. A string that is a built-in name
            means that model; write "./starter" for a folder of the same name. Any other string of the form OWNER/NAME
            or OWNER/NAME@REVISION that is no folder is a repository of the Hugging Face hub (`edgecolbert.hub`).
        download: Fetch a model of the hub that its cache does not have.

    Returns:
        The folder. Whether it holds a usable model is for `ModelManifest.read` to say.

    Raises:
        ModelNotFoundError: If there is no such name, no such folder, and no ready export on the hub.
        MissingExtraError: If it is a name of the hub, and the package huggingface_hub is not installed.
        InputTypeError: If the argument is neither a string nor a path.
    """
    if name_or_folder is None:
        name_or_folder = DEFAULT_MODEL
    if not isinstance(name_or_folder, str | Path):
        raise InputTypeError(
            f"model is {type(name_or_folder).__name__}, expected a name, a folder, or an object with the methods "
            "encode_queries and encode_documents."
        )
    models = builtin_models()
    if isinstance(name_or_folder, str) and name_or_folder in models:
        return models[name_or_folder]
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(name_or_folder, str):
        from edgecolbert.hub import HubName, find_model  # few names need it

        name = HubName.parse(name_or_folder)
        if name is not None:
            return find_model(name, download=download)
    raise ModelNotFoundError(
        f"No model {str(name_or_folder)!r}: it is neither a built-in name ({', '.join(sorted(models)) or 'none'}) "
        f"nor a folder, nor OWNER/NAME on the Hugging Face hub. {_remedy(str(name_or_folder))}, and name OUT here."
    )


def read_model(name_or_folder: str | Path | None = None, *, warn: bool = True, download: bool = True) -> ModelManifest:
    """The manifest of a model, ours or another exporter's.

    Args:
        name_or_folder: As in `resolve_model_folder`.
        warn: Say with a `ModelWarning` what another exporter's folder leaves out or says wrongly.
        download: As in `resolve_model_folder`.

    Returns:
        The manifest.
    """
    folder = resolve_model_folder(name_or_folder, download=download)
    if not (folder / MANIFEST_NAME).exists():
        from edgecolbert.foreign import is_foreign, read_foreign  # few folders need it

        if is_foreign(folder):
            model = read_foreign(folder)
            for message in model.warnings if warn else ():
                warnings.warn(f"{folder}: {message}", ModelWarning, stacklevel=2)
            return model.manifest
    return ModelManifest.read(folder)


def _remedy(name: str) -> str:
    from edgecolbert.recipes import known_recipes, read_recipe  # only this message needs them

    if name not in known_recipes():
        return "Export a checkpoint with `edgecolbert export CHECKPOINT OUT`"
    source = read_recipe(name).source
    checkpoint = "CHECKPOINT_FOLDER" if source == "local" else source
    return f"There is a recipe of that name; make it with `edgecolbert export {checkpoint} OUT --recipe {name}`"

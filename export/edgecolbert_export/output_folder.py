"""A folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgecolbert.errors import EdgeColbertError, InputError
from edgecolbert.manifest import MANIFEST_NAME, ModelManifest
from edgecolbert_export.errors import OutputExistsError
from edgecolbert_export.recipe import RECIPE_NAME


def check_output(out: Path, *, force: bool) -> None:
    """Refuse an output that would overwrite something, before any work is done.

    Args:
        out: The model folder to be written.
        force: Whether an earlier model folder may be replaced.

    Raises:
        OutputExistsError: If something is there that may not be replaced.
    """
    if not out.exists() and not out.is_symlink():
        return
    names = sorted(os.listdir(out)) if out.is_dir() else []
    # A folder that holds only the recipe is waiting for its export.
    if out.is_dir() and set(names) <= {RECIPE_NAME}:
        return
    if not force:
        raise OutputExistsError(f"{out} exists already, expected nothing there. Name another folder, or give --force.")
    if not {MANIFEST_NAME, RECIPE_NAME} & set(names):
        raise OutputExistsError(
            f"{out} is not a model folder (it has neither {MANIFEST_NAME} nor {RECIPE_NAME}), so --force does not "
            "replace it. Name another folder, or remove it yourself."
        )


@contextlib.contextmanager
def new_folder(out: Path, *, force: bool) -> Iterator[Path]:
    """A folder to write to, which takes its place under its final name when the block ends well.

    On any error, Ctrl-C included, it vanishes and whatever was there before stays. Files of a replaced folder that no
    export wrote (training scripts, say) move into the new one.

    Args:
        out: The final name.
        force: Whether an earlier model folder may be replaced.

    Yields:
        The folder to write to, a sibling of `out`, so that the last step is a rename.

    Raises:
        OutputExistsError: If something is there that may not be replaced.
        InputError: If the parent folder cannot be written to.
    """
    check_output(out, force=force)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error}. Name a folder that you may write to.") from error
    try:
        yield building
        building.chmod(0o755)
        _put_in_place(building, out)
    except EdgeColbertError:
        raise  # some of ours are OSErrors too, and say more
    except OSError as error:
        raise InputError(
            f"{out} cannot be written: {error}. Nothing was left behind; make room and try again."
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _put_in_place(building: Path, out: Path) -> None:
    if not out.exists():
        building.rename(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent)) / out.name
    out.rename(aside)
    try:
        building.rename(out)
    except BaseException:
        aside.rename(out)
        aside.parent.rmdir()
        raise
    exported = _exported_names(aside)
    for entry in sorted(aside.iterdir()):
        if entry.name not in exported and not (out / entry.name).exists():
            entry.rename(out / entry.name)
    shutil.rmtree(aside.parent, ignore_errors=True)


def _exported_names(folder: Path) -> set[str]:
    """What an export wrote into a folder."""
    names = {MANIFEST_NAME, RECIPE_NAME, "README.md"}
    # A manifest that cannot be read records nothing: every file is then kept.
    with contextlib.suppress(EdgeColbertError):
        names |= set(ModelManifest.read(folder).files)
    return names

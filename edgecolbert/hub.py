"""Models and test collections of the Hugging Face hub, by name. Needs the package huggingface_hub, an extra.

A name is OWNER/NAME, or OWNER/NAME@REVISION with a commit, tag or branch. Files go to the hub's own cache, one folder a
commit. A broken connection continues inside a file; after an interruption, files that came whole are not fetched again.
A model that the cache has is used without asking the network; `HF_HUB_OFFLINE=1` forbids asking altogether.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecolbert.errors import MissingExtraError, ModelError, ModelNotFoundError
from edgecolbert.foreign import CONFIG_NAME, GRAPH_NAMES, TOKENIZER_NAME
from edgecolbert.manifest import MANIFEST_NAME, ModelManifest

# No leading dot or slash, so that "./model" and "../model" are always folders.
_NAME = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w.][\w./-]*))?")


@dataclass(frozen=True)
class HubName:
    """A repository of the hub.

    Attributes:
        repository: Its name, OWNER/NAME.
        revision: Commit, tag or branch, or "" for the main branch.
    """

    repository: str
    revision: str = ""

    @classmethod
    def parse(cls, text: str) -> HubName | None:
        """Read a name.

        Args:
            text: What the user wrote.

        Returns:
            The name, or None if that is no name of a repository.
        """
        match = _NAME.fullmatch(text)
        return cls(match["repository"], match["revision"] or "") if match else None

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository


def find_model(name: HubName, *, download: bool = True) -> Path:
    """The folder of a model that is published ready to use, from the hub's cache or else from the hub.

    Args:
        name: A repository that holds an export: ours (`manifest.json`) or another exporter's (`onnx_config.json`). Its
            weights in other formats are not downloaded.
        download: Ask the hub for what the cache does not have. Not where a database alone names the model: whoever made
            the database must not decide what this machine fetches.

    Returns:
        The folder, which the hub's cache keeps. What is in it is checked as in any model folder.

    Raises:
        ModelNotFoundError: If there is no such repository, no export in it, or no way to reach it.
        MissingExtraError: If the package huggingface_hub is not installed.
    """
    hub = _hub(f"The model {str(name)!r}")
    for marker in (MANIFEST_NAME, CONFIG_NAME):
        found = hub.try_to_load_from_cache(name.repository, marker, revision=name.revision or None)
        if isinstance(found, str) and _is_complete(Path(found).parent, marker):
            return Path(found).parent
    if not download:
        raise ModelNotFoundError(
            f"The model {str(name)!r} of the hub is not in its cache, and is not fetched just because a database names "
            f"it. If you trust it, name it yourself: --model {name} on the command line, model={str(name)!r} in Python."
        )
    for marker in (MANIFEST_NAME, CONFIG_NAME):
        path = _download(hub, name, marker)
        if path is not None:
            # From here on everything comes from one commit, whatever happens to the branch meanwhile.
            commit = HubName(name.repository, path.parent.name)
            for file in _files_of_export(path.parent) if marker == MANIFEST_NAME else (TOKENIZER_NAME,):
                _download(hub, commit, file)  # a missing one is reported as in any other folder
            if marker == CONFIG_NAME:
                next((file for file in GRAPH_NAMES if _download(hub, commit, file) is not None), None)
            return path.parent
    raise ModelNotFoundError(
        f"The hub's repository {str(name)!r} has no ready export, neither {MANIFEST_NAME} nor {CONFIG_NAME}. Make one: "
        f"{export_command(name)}, and name OUT here."
    )


def export_command(name: HubName) -> str:
    """The command that makes an export of a checkpoint of the hub, with its recipe where one is known."""
    from edgecolbert.recipes import find_recipe_for  # only a message needs it

    recipe = find_recipe_for(name.repository)
    words = ["edgecolbert", "export", name.repository, "OUT"]
    words += ["--revision", name.revision] if name.revision else []
    words += ["--recipe", recipe.name] if recipe is not None else []
    return " ".join(words)


def fetch_snapshot(
    name: HubName,
    *,
    kind: str = "model",
    patterns: list[str],
    ignored: list[str] | None = None,
    cache: Path | None = None,
    offline: bool = False,
) -> Path:
    """Download files of a repository; those that the cache has are not downloaded again.

    Args:
        name: The repository.
        kind: "model" or "dataset".
        patterns: Which files, as in a shell.
        ignored: Which of them not.
        cache: The hub's cache; None for the usual place.
        offline: Use only what the cache has.

    Returns:
        The folder of that commit; its name is the commit.

    Raises:
        ModelNotFoundError: If there is no such repository, no way to reach it, or, offline, nothing in the cache.
        MissingExtraError: If the package huggingface_hub is not installed.
    """
    hub = _hub(f"The {kind} {str(name)!r}")
    # huggingface_hub 1.33 fails with a commit in offline mode, unless it is told once more.
    offline = offline or bool(hub.constants.HF_HUB_OFFLINE)
    try:
        folder = hub.snapshot_download(
            name.repository,
            repo_type=kind,
            revision=name.revision or None,
            cache_dir=cache,
            allow_patterns=patterns,
            ignore_patterns=ignored,
            local_files_only=offline,
        )
    except Exception as error:  # HTTP, file and validation errors of several packages mean the same here
        raise ModelNotFoundError(_unreachable(name, kind, error, offline=offline)) from error
    return Path(folder)


def _is_complete(folder: Path, marker: str) -> bool:
    """Whether an interrupted download left nothing out."""
    if marker == CONFIG_NAME:
        return (folder / TOKENIZER_NAME).exists() and any((folder / file).exists() for file in GRAPH_NAMES)
    try:
        return all((folder / file).exists() for file in _files_of_export(folder))
    except ModelError:
        return True  # what is wrong with its manifest is for the runtime to say, not for another download


def _files_of_export(folder: Path) -> list[str]:
    return sorted(ModelManifest.read(folder).files)


def _download(hub: Any, name: HubName, file: str) -> Path | None:
    """One file, or None if the repository does not have it."""
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hub.hf_hub_download(name.repository, file, revision=name.revision or None))
    except LocalEntryNotFoundError as error:  # derived from the next: no network, and not in the cache
        raise ModelNotFoundError(_unreachable(name, "model", error)) from error
    except EntryNotFoundError:
        return None
    except Exception as error:  # HTTP, file and validation errors of several packages mean the same here
        raise ModelNotFoundError(_unreachable(name, "model", error)) from error


def _unreachable(name: HubName, kind: str, error: Exception, *, offline: bool = False) -> str:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    remedy = "Run it once with a network" if offline else "Check the name and the connection"
    return (
        f"The {kind} {str(name)!r} is no folder here, and cannot be fetched from the Hugging Face hub: "
        f"{reason.rstrip('.')}. {remedy}, or copy it to this machine and give its folder."
    )


def _hub(what: str) -> Any:
    try:
        import huggingface_hub  # an extra, and slow to import
        import huggingface_hub.constants
    except ImportError as error:
        raise MissingExtraError.of(
            f"{what} is no folder here; fetching it from the Hugging Face hub",
            "huggingface_hub",
            "hub",
            ", or copy it to this machine and give its folder",
        ) from error
    return huggingface_hub

"""Which model a database is pinned to, and whether the one at hand is the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecolbert.builtin import builtin_models, read_model
from edgecolbert.encoder import Encoder, TokenEncoder
from edgecolbert.errors import InputError, InputTypeError, ModelError, ModelNotFoundError, StoreMismatchError
from edgecolbert.manifest import ModelManifest
from edgecolbert.store import PinnedEncoding

Model = str | Path | TokenEncoder | None


@dataclass(frozen=True)
class ModelIdentity:
    """What tells two models apart.

    Attributes:
        name: For people.
        fingerprint: Equal exactly when token embeddings are equal.
        reference: The built-in name or folder to load it from again, or None for an object of the user's.
        dim: Size of a token embedding, or None where the object does not say.
        use_prompts: Whether the checkpoint's prompts are put before texts.
    """

    name: str
    fingerprint: str
    reference: str | None
    dim: int | None
    use_prompts: bool = True

    @classmethod
    def of(cls, model: Model, *, use_prompts: bool = True) -> ModelIdentity:
        """The identity of a model, without loading more than its manifest.

        Args:
            model: A built-in name, a folder, an encoder, or None for the starter model.
            use_prompts: Whether a model named by name or folder is to put its prompts before texts.

        Returns:
            Its identity. For an object of the user's it is the object's `name`, or else the name of its class.

        Raises:
            InputTypeError: If the object lacks a method.
        """
        if isinstance(model, Encoder):
            return cls._of_manifest(model.manifest, use_prompts=model.use_prompts)
        if model is None or isinstance(model, str | Path):
            return cls._of_manifest(read_model(model, warn=False), use_prompts=use_prompts)
        missing = [name for name in ("encode_queries", "encode_documents") if not callable(getattr(model, name, None))]
        if missing:
            raise InputTypeError(
                f"model is {type(model).__name__}, which has no method {' and no '.join(missing)}. Pass a name, a "
                "folder, or an object with both methods."
            )
        name = str(getattr(model, "name", None) or f"{type(model).__module__}.{type(model).__qualname__}")
        return cls(name, f"object:{name}", None, None)

    @classmethod
    def _of_manifest(cls, manifest: ModelManifest, *, use_prompts: bool) -> ModelIdentity:
        builtin = {folder: name for name, folder in builtin_models().items()}
        reference = builtin.get(manifest.folder) or _hub_name(manifest.folder) or str(manifest.folder.absolute())
        # Without prompts in the checkpoint there is nothing to leave out, and vectors are equal.
        silenced = not use_prompts and (manifest.encoding.query_prompt or manifest.encoding.document_prompt)
        fingerprint = f"{manifest.fingerprint}/no-prompts" if silenced else manifest.fingerprint
        return cls(manifest.name, fingerprint, reference, manifest.encoding.dim, use_prompts)


def _hub_name(folder: Path) -> str | None:
    """OWNER/NAME@COMMIT of a folder in the hub's cache, which outlives the cache; None for any other folder."""
    snapshots, repository = folder.parent, folder.parent.parent.name
    if snapshots.name != "snapshots" or not repository.startswith("models--"):
        return None
    return f"{repository.removeprefix('models--').replace('--', '/', 1)}@{folder.name}"


def check_pin(pinned: PinnedEncoding, identity: ModelIdentity, path: str) -> None:
    """Refuse a model that is not the one a database was made with.

    Args:
        pinned: What the database says.
        identity: The model at hand.
        path: The database file, for the message.

    Raises:
        StoreMismatchError: If they differ.
    """
    if pinned.fingerprint == identity.fingerprint:
        return
    raise StoreMismatchError(
        f"{path} was made with the model {pinned.model_name!r} ({_short(pinned.fingerprint)}), but the model given is "
        f"{identity.name!r} ({_short(identity.fingerprint)}). Pass the model it was made with, or make its vectors "
        f"again from the stored texts: edgecolbert reencode --db {path} --model {identity.reference or identity.name}"
    )


def find_pinned_model(pinned: PinnedEncoding, path: str, named: str | Path | None = None) -> TokenEncoder:
    """Load the model that a database is pinned to.

    Args:
        pinned: What the database says.
        path: The database file, for messages.
        named: Where the caller says that it is, or None for where it was when the database was made.

    Returns:
        The encoder.

    Raises:
        InputError: If the model is an object of the user's, which only the user can pass.
        StoreMismatchError: If the model found under the pinned name is another one.
        ModelNotFoundError: If it is not there any more.
    """
    source = named if named is not None else pinned.model_reference
    if source is None:
        raise InputError(
            f"{path} was made with an encoder of your own, {pinned.model_name!r}. Pass it: "
            "Index.open(path, model=your_encoder)."
        )
    try:
        encoder = Encoder.load(source, use_prompts=bool(pinned.settings["prompts"]))
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"{path} was made with the model {pinned.model_name!r}, which is not at {source} any more. Say where it "
            "is: --model FOLDER on the command line, Index.open(path, model=FOLDER) in Python."
        ) from error
    check_pin(pinned, ModelIdentity.of(encoder), path)
    return encoder


def check_reference(pinned: PinnedEncoding, path: str) -> None:
    """Refuse early where the model under the pinned name is known to have changed; a missing one can wait.

    Args:
        pinned: What the database says.
        path: The database file, for the message.
    """
    if pinned.model_reference is None or not pinned.settings.get("prompts", True):
        return
    try:
        identity = ModelIdentity.of(pinned.model_reference)
    except ModelError:
        return  # reading, deleting and exporting need no model; encoding will say what is missing
    check_pin(pinned, identity, path)


def _short(fingerprint: str) -> str:
    digest, slash, rest = fingerprint.partition("/")
    shown = fingerprint if fingerprint.startswith("object:") else digest[:12]
    return f"{shown}, without its prompts" if slash and rest == "no-prompts" else shown

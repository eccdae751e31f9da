"""Which model a database is pinned to, and whether the one at hand is the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from edgecolbert.builtin import builtin_models, read_model
from edgecolbert.encoder import Encoder, TokenEncoder
from edgecolbert.errors import (
    InputError,
    InputTypeError,
    ModelError,
    ModelNotFoundError,
    StoreFormatError,
    StoreMismatchError,
)
from edgecolbert.manifest import ModelManifest
from edgecolbert.store import PinnedEncoding
from edgecolbert.tokenizer import AS_MODEL, LITERAL
from edgecolbert.untrusted import shown

Model = str | Path | TokenEncoder | None

_LITERAL = "literal-special-tokens"


class ModelOptions(TypedDict):
    """How a model takes texts: `use_prompts` and `special_tokens`, as `Encoder` has them."""

    use_prompts: bool
    special_tokens: str


@dataclass(frozen=True)
class ModelIdentity:
    """What tells two models apart.

    Attributes:
        name: For people.
        fingerprint: Equal exactly when token embeddings are equal.
        reference: The built-in name or folder to load it from again, or None for an object of the user's.
        dim: Size of a token embedding, or None where the object does not say.
        use_prompts: Whether the checkpoint's prompts are put before texts.
        special_tokens: What the names of special tokens in texts become, or None where the object does not say.
    """

    name: str
    fingerprint: str
    reference: str | None
    dim: int | None
    use_prompts: bool = True
    special_tokens: str | None = None

    @classmethod
    def of(cls, model: Model, *, use_prompts: bool = True, special_tokens: str = AS_MODEL) -> ModelIdentity:
        """The identity of a model, without loading more than its manifest.

        Args:
            model: A built-in name, a folder, an encoder, or None for the starter model.
            use_prompts: Whether a model named by name or folder is to put its prompts before texts.
            special_tokens: How such a model is to take special tokens in texts.

        Returns:
            Its identity. For an object of the user's it is the object's `name`, or else the name of its class.

        Raises:
            InputTypeError: If the object lacks a method.
        """
        if isinstance(model, Encoder):
            return cls.of_manifest(model.manifest, use_prompts=model.use_prompts, special_tokens=model.special_tokens)
        if model is None or isinstance(model, str | Path):
            manifest = read_model(model, warn=False)
            return cls.of_manifest(manifest, use_prompts=use_prompts, special_tokens=special_tokens)
        missing = [name for name in ("encode_queries", "encode_documents") if not callable(getattr(model, name, None))]
        if missing:
            raise InputTypeError(
                f"model is {type(model).__name__}, which has no method {' and no '.join(missing)}. Pass a name, a "
                "folder, or an object with both methods."
            )
        name = str(getattr(model, "name", None) or f"{type(model).__module__}.{type(model).__qualname__}")
        return cls(name, f"object:{name}", None, None)

    @classmethod
    def of_manifest(
        cls, manifest: ModelManifest, *, use_prompts: bool = True, special_tokens: str = AS_MODEL
    ) -> ModelIdentity:
        """The identity of a model folder.

        Args:
            manifest: Its manifest.
            use_prompts: Whether its prompts are put before texts.
            special_tokens: How it is to take special tokens in texts.

        Returns:
            Its identity.
        """
        builtin = {folder: name for name, folder in builtin_models().items()}
        reference = builtin.get(manifest.folder) or _hub_name(manifest.folder) or str(manifest.folder.absolute())
        # Without prompts in the checkpoint there is nothing to leave out, and vectors are equal.
        silenced = not use_prompts and (manifest.encoding.query_prompt or manifest.encoding.document_prompt)
        fingerprint = f"{manifest.fingerprint}/no-prompts" if silenced else manifest.fingerprint
        # Also part of it, so that a version of the library that does not know the setting refuses the file.
        fingerprint += f"/{_LITERAL}" if special_tokens == LITERAL else ""
        return cls(manifest.name, fingerprint, reference, manifest.encoding.dim, use_prompts, special_tokens)


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
    if named is None:
        check_place(pinned.model_reference, path)
    if source is None:
        raise InputError(
            f"{path} was made with an encoder of your own, {pinned.model_name!r}. Pass it: "
            "Index.open(path, model=your_encoder)."
        )
    options = pinned_options(pinned, path)
    try:
        manifest = read_model(source, download=named is not None)
    except ModelNotFoundError as error:
        from edgecolbert.hub import HubName  # few messages need it

        place = "FOLDER" if HubName.parse(str(source)) is None else str(source)
        raise ModelNotFoundError(
            f"{path} was made with the model {pinned.model_name!r}, which is not at {source} any more. Say where it "
            f"is: --model {place} on the command line, Index.open(path, model={place}) in Python."
        ) from error
    # Before the tokenizer and the graph are read: a database from a stranger may name any folder of this machine.
    check_pin(pinned, ModelIdentity.of_manifest(manifest, **options), path)
    return Encoder(manifest, **options)


def check_place(reference: str | None, path: str) -> None:
    """Refuse a place that a database must not send us to: asking for it is a message to another machine.

    Args:
        reference: Where a database says that its model is.
        path: The database file, for the message.

    Raises:
        StoreMismatchError: If it is on a network share.
    """
    # Windows logs on to \\server\share as soon as somebody asks whether a file is there.
    if reference is not None and reference.replace("\\", "/").startswith("//"):
        raise StoreMismatchError(
            f"{path} says that its model is at {shown(reference)}, on another machine, which is not asked just because "
            "a database says so. If you trust it, say where the model is: --model FOLDER on the command line, "
            "Index.open(path, model=FOLDER) in Python."
        )


def check_reference(pinned: PinnedEncoding, path: str) -> None:
    """Refuse early where the model under the pinned name is known to have changed; a missing one can wait.

    Args:
        pinned: What the database says.
        path: The database file, for the message.
    """
    options = pinned_options(pinned, path)
    if pinned.model_reference is None:
        return
    check_place(pinned.model_reference, path)
    try:
        manifest = read_model(pinned.model_reference, warn=False, download=False)
        identity = ModelIdentity.of_manifest(manifest, **options)
    except ModelError:
        return  # reading, deleting and exporting need no model; encoding will say what is missing
    check_pin(pinned, identity, path)


def _short(fingerprint: str) -> str:
    if fingerprint.startswith("object:"):
        return fingerprint
    digest, *ways = fingerprint.split("/")
    known = {"no-prompts": "without its prompts", _LITERAL: "special tokens taken literally"}
    return ", ".join([digest[:12], *(known[way] for way in ways if way in known)])


def pinned_options(pinned: PinnedEncoding, path: str) -> ModelOptions:
    """How a database wants its model to take texts.

    Args:
        pinned: What the database says.
        path: The database file, for messages.

    Returns:
        The options of `ModelIdentity.of` and of `Encoder`.

    Raises:
        StoreFormatError: If it says something that this version does not know.
    """
    choice = pinned.settings.get("special_tokens", AS_MODEL)
    if choice not in (AS_MODEL, LITERAL):
        raise StoreFormatError(
            f"{path} takes special tokens in texts in a way that this version of edgecolbert does not know: "
            f"{shown(choice)}. Upgrade edgecolbert to open it, or restore the file from a backup."
        )
    return {"use_prompts": bool(pinned.settings["prompts"]), "special_tokens": choice}


def new_encoding(identity: ModelIdentity, settings: dict[str, Any]) -> PinnedEncoding:
    """What is pinned in a database whose vectors a model is to make.

    Args:
        identity: The model.
        settings: The other settings of the encoding; how texts are taken is the model's to say.

    Returns:
        The encoding, not stored yet.
    """
    # A model that takes special tokens as they always were taken says nothing about them.
    kept = {name: value for name, value in settings.items() if name != "special_tokens"}
    kept |= {"prompts": identity.use_prompts}
    if identity.special_tokens == LITERAL:
        kept["special_tokens"] = LITERAL
    return PinnedEncoding(0, identity.name, identity.reference, identity.fingerprint, identity.dim, kept)


def check_choice(special_tokens: str | None, identity: ModelIdentity) -> None:
    """Refuse a choice that an object passed as the model does not follow.

    Args:
        special_tokens: What was asked for, or None.
        identity: The model.

    Raises:
        InputError: If it takes special tokens otherwise, or does not say how.
    """
    if special_tokens is not None and identity.special_tokens != special_tokens:
        way = "decides that itself" if identity.special_tokens is None else f"has {identity.special_tokens!r}"
        raise InputError(
            f"special_tokens is {special_tokens!r}, but the model passed is an object that {way}. Pass "
            "Encoder.load(NAME, special_tokens=...), or a name."
        )

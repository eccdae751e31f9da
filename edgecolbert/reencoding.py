"""Making all vectors of a database again from the stored texts, with the same model or another, stored alike or not.

The old vectors serve until every text is encoded; then one commit switches. An interrupted run is continued by the
next one with the same model and settings.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from edgecolbert.builtin import read_model
from edgecolbert.encoder import Encoder, TokenEncoder
from edgecolbert.encryption import Key, KeySource
from edgecolbert.errors import CancelledError, InputError, StoreFormatError
from edgecolbert.ingest import Ingest
from edgecolbert.passage_settings import PassageSettings, check_split
from edgecolbert.passages import PassageEncoder
from edgecolbert.pinning import Model, ModelIdentity, check_place, new_encoding, pinned_options
from edgecolbert.store import PinnedEncoding, Store
from edgecolbert.token_settings import TokenSettings

Progress = Callable[[int, int | None], bool | None]

_STEP = 64


def reencode(
    path: str | os.PathLike[str],
    *,
    model: Model = None,
    tokens: TokenSettings | Mapping[str, int] | None = None,
    passages: PassageSettings | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    timeout: float = 10.0,
    durability: Literal["full", "normal"] = "full",
    key: KeySource | Key | None = None,
) -> int:
    """Encode every text of a database again and pin the database to the model.

    Args:
        path: The database file.
        model: A built-in name, a model folder, or an encoder, which also says how it takes special tokens in texts (a
            name keeps to what the file says); None for the model that the file is pinned to as it is
            found now, and the starter model where the file was made with a starter model of an earlier version.
        tokens: How token embeddings are to be stored from now on; a mapping such as {"bits": 4} names only some
            settings. What is not named stays as it is.
        passages: How documents are to become passages from now on, likewise.
        progress: Called as `progress(done, total)` with numbers of texts; returning False stops.
        timeout: Seconds to wait while another process writes.
        durability: As in `Index.open`.
        key: As in `Index.open`.

    Returns:
        How many texts were encoded by this call.

    Raises:
        InputError: If `model` is None and the file was made with an encoder of the user's own, or `tokens` or
            `passages` is wrong.
        StoreFormatError: If the file is pinned to no model, so that it is no finished database.
        CancelledError: If `progress` returned False; the old vectors go on serving, and the next call continues.
    """
    asked_tokens, asked_passages = TokenSettings.asked_for(tokens), PassageSettings.asked_for(passages)
    key = Key.of(key)
    store = Store(os.fspath(path), create=False, timeout=timeout, durability=durability, key=key)
    try:
        with store.snapshot():
            serving = store.encoding()
        if serving is None:
            raise StoreFormatError(f"{store.path} is pinned to no model: nothing was ever added to it.")
        encoder = load_encoder(serving, model, store.path)
        identity = ModelIdentity.of(encoder)
        stored = TokenSettings(**TokenSettings.pinned(serving.settings, store.path).to_json() | asked_tokens)
        passage_settings = PassageSettings.pinned(serving.settings, store.path).to_json()
        split = PassageSettings(**passage_settings | asked_passages)
        check_split(bool(serving.settings["split_documents"]), split)
        wanted = new_encoding(identity, split.pin(stored.pin(serving.settings)))
        # Made before anything is begun: it says what the model cannot do.
        pieces = PassageEncoder.pinned(encoder, wanted, store.path)
        building = _building(store, wanted)
        pieces.dim = building.dim
        ingest = Ingest(store, threading.RLock(), building, pieces, encoder)
        return _encode_all(store, building, ingest, progress)
    finally:
        store.close()


def load_encoder(serving: PinnedEncoding, model: Model, path: str) -> TokenEncoder:
    """The model to make new vectors with.

    Args:
        serving: What the old ones were made with.
        model: As `reencode` takes it.
        path: The file they are in, for messages.

    Returns:
        The encoder.

    Raises:
        InputError: If `model` is None and the old one is an encoder of the user's own.
        StoreMismatchError: If the old one is said to be on another machine.
    """
    options = pinned_options(serving, path)
    if model is None:
        if serving.model_reference is None:
            raise InputError(
                f"{path} was made with an encoder of your own, {serving.model_name!r}. Pass it, or name the model to "
                "use instead."
            )
        check_place(serving.model_reference, path)
        manifest = read_model(serving.model_reference, download=False)
        return Encoder(manifest, **options)
    # A model that is named puts its own prompts; how texts of strangers are taken stays as it is.
    return Encoder.load(model, special_tokens=options["special_tokens"]) if isinstance(model, str | Path) else model


def _building(store: Store, wanted: PinnedEncoding) -> PinnedEncoding:
    """The unfinished encoding of an earlier run with this model and these settings, or a new one."""
    with store.change():
        found = store.encoding("building")
        if found is not None and (found.fingerprint, found.settings) == (wanted.fingerprint, wanted.settings):
            return found
        # Vectors of yet another model, or stored in another way, begun and given up: they serve nobody.
        store.drop_encoding("building")
        return store.add_encoding(wanted, "building")


def _encode_all(store: Store, building: PinnedEncoding, ingest: Ingest, progress: Progress | None) -> int:
    number = building.encoding_id
    encoded = 0
    while True:
        with store.snapshot():
            todo = store.contents_without_passages(number, _STEP)
            remaining = store.count_contents_without_passages(number)
        if progress is not None and progress(encoded, encoded + remaining) is False:
            raise CancelledError(
                f"Re-encoding {store.path} was cancelled after {encoded} of {encoded + remaining} texts. The old "
                "vectors go on serving; run it again to continue."
            )
        if not todo:
            with store.change():
                # Somebody may have added a text since the snapshot; then there is one more round.
                if not store.count_contents_without_passages(number):
                    store.drop_encoding("serving")
                    store.promote_building()
                    return encoded
            continue
        ingest.store_texts(todo)
        encoded += len(todo)

"""Repair: a new file from what can be read of a damaged one, or vectors and first stage made again inside a sound one.

The damaged file is never written to when a new one is made.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from edgecolbert import upkeep
from edgecolbert.documents import is_sound_text
from edgecolbert.encoder import TokenEncoder
from edgecolbert.encryption import Key, KeySource
from edgecolbert.errors import (
    CancelledError,
    InputError,
    ModelError,
    StoreError,
    StoreFormatError,
    StoreKeyError,
    StoreMismatchError,
)
from edgecolbert.ingest import Ingest
from edgecolbert.pages import PageFile
from edgecolbert.passages import PassageEncoder
from edgecolbert.pinning import (
    Model,
    ModelIdentity,
    check_pin,
    find_pinned_model,
    new_encoding,
    pinned_options,
)
from edgecolbert.results import Problem, RepairReport
from edgecolbert.salvage import Salvage, SoundDocument
from edgecolbert.sqlite_errors import driver_errors, means_damage
from edgecolbert.store import PinnedEncoding, Store
from edgecolbert.unfinished import check_free, new_file
from edgecolbert.verification import first_stage_problems, verify_store

Progress = Callable[[int, int | None], bool | None]

_STEP = 64
_ADVICE = "Run `edgecolbert repair --db FILE --out NEW`, which makes a new file of what can be read."
_ENCRYPTED_ADVICE = "Pages of an encrypted file cannot be read one by one: restore it from a backup."


def recover(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: Model = None,
    keep_texts: bool = False,
    progress: Progress | None = None,
    key: KeySource | Key | None = None,
) -> RepairReport:
    """Make a new database of everything that can be read of a damaged one, which is left as it is.

    Pages are read without SQLite, so that a damaged one takes no other rows with it than its own. A document is kept
    where it and its text match their checksums; its vectors where they match theirs, and otherwise they are made again
    from the text. Nobody may write to the damaged file meanwhile.

    Args:
        path: The damaged file, with its `-wal` beside it if there is one.
        out: Where the new file is to appear when it is whole.
        model: The model that the file was made with, where it is not found by the name in the file. Needed only where
            vectors have to be made again; without it documents are kept without vectors.
        keep_texts: Also keep texts that are whole but whose documents cannot be read, as documents whose id is the
            hash of the text. Texts of an `add` that was interrupted are among them.
        progress: Called as `progress(done, None)` with numbers of documents and then of texts encoded; returning False
            stops.
        key: Refused: pages of an encrypted file cannot be read one by one. `Index.repair` takes an index that was
            opened with its key.

    Returns:
        What was kept, made again and lost.

    Raises:
        StoreError: If nothing can be read, `out` exists already or cannot be written.
        StoreKeyError: If the file is encrypted, or a key is given.
        StoreMismatchError: If `model` is not the one that the file was made with.
        CancelledError: If `progress` returned False; nothing is left of the new file.
    """
    check_free(Path(out))
    with PageFile(os.fspath(path)) as pages:
        if Key.of(key) is not None:
            if pages.has_magic:
                raise StoreKeyError(f"{path} is not encrypted, but a key was given. Leave the key out.")
            raise _encrypted_error(path, "is")
        salvage = Salvage(pages, os.fspath(path))
        documents = salvage.documents()
        first = next(documents, None)
        if first is None and salvage.encoding() is None:
            if pages.seems_encrypted:
                raise _encrypted_error(path, "seems to be")
            raise StoreFormatError(
                f"{path}: nothing of an edgecolbert database can be read from it. It was left as it is."
            )
        pinned, notes = _pinned(salvage, model, path)
        if pages.log_is_damaged:
            notes.append("The log beside the file (-wal) is damaged: what was written last may be missing.")
        with new_file(out) as temporary:
            store = Store(temporary)
            try:
                with store.change():
                    pinned = store.add_encoding(pinned)
                    for names in salvage.indexed_fields():
                        store.index_field(names)
                old = salvage.encoding()
                everything = documents if first is None else chain([first], documents)
                uncertain = _copy(store, pinned, old, salvage, everything, progress)
                n_kept = len(salvage.kept)
                if keep_texts:
                    uncertain += _copy(store, pinned, old, salvage, salvage.loose_texts(), progress)
                elif n_loose := sum(1 for _ in salvage.loose_texts()):
                    notes.append(
                        f"{n_loose} texts are whole, but their documents cannot be read, or were never finished: they "
                        "were left out, and --keep-texts keeps them."
                    )
                pages.check_unchanged()
                report = _finish(store, pinned, model, progress, notes)
            finally:
                store.close()
        unnamed = max(0, salvage.n_listed() - n_kept - len(salvage.lost))
    return RepairReport(
        path=str(out),
        documents=report.documents,
        encoded=report.encoded,
        lost=tuple(salvage.lost),
        lost_unnamed=unnamed,
        without_vectors=report.without_vectors,
        uncertain=uncertain,
        first_stage_rebuilt=report.first_stage_rebuilt,
        notes=report.notes,
    )


def unreadable_documents(path: str | os.PathLike[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What `recover` could not keep of a file, and what it would have to encode again.

    Args:
        path: The file.

    Returns:
        The ids of documents that cannot be read, and of those whose vectors cannot be.

    Raises:
        StoreError: If somebody wrote to the file meanwhile, or it cannot be read.
    """
    with PageFile(os.fspath(path)) as pages:
        salvage = Salvage(pages, os.fspath(path))
        pinned = salvage.encoding()
        without = tuple(
            record.id
            for record, _, content_id, _ in salvage.documents()
            if pinned is None or salvage.passages(content_id, record.text, pinned) is None
        )
        found = tuple(salvage.lost), without
        pages.check_unchanged()
        return found


def _encrypted_error(path: str | os.PathLike[str], what: str) -> StoreKeyError:
    return StoreKeyError(
        f"{path} {what} encrypted, and pages of an encrypted file cannot be read one by one. Restore it from a backup; "
        "or, where SQLite can still read it, make vectors and first stage again in place: `edgecolbert repair --db "
        "FILE` with its key and without --out, Index.open(path, key=...).repair() in Python. Nothing was changed."
    )


def repair_store(
    store: Store,
    lock: threading.RLock,
    pinned: PinnedEncoding,
    load_model: Callable[[], TokenEncoder],
    progress: Progress | None = None,
) -> RepairReport:
    """Make damaged or missing vectors again, and the first stage, inside a file that SQLite can read as a whole.

    Args:
        store: The database.
        lock: Held while the database is used; not while encoding.
        pinned: The encoding that serves.
        load_model: Gives the model; called only where something has to be encoded.
        progress: Called as `progress(done, total)` with numbers of texts; returning False stops.

    Returns:
        What was done. Documents whose record or text is damaged stay as they are, and are named as lost.

    Raises:
        StoreFormatError: If SQLite finds the file damaged; nothing was changed.
        ModelError: If vectors must be made again and the model cannot be loaded; nothing was changed.
        InputError: If that model is an object of the user's, which only the user can pass; nothing was changed.
        CancelledError: If `progress` returned False; what was made again stays.
    """
    store.check_writable()
    # It is what is mended here, or was found to fit.
    with store.register.not_needed():
        return _repair_store(store, lock, pinned, load_model, progress)


def _repair_store(
    store: Store,
    lock: threading.RLock,
    pinned: PinnedEncoding,
    load_model: Callable[[], TokenEncoder],
    progress: Progress | None,
) -> RepairReport:
    number = pinned.encoding_id
    with lock, store.snapshot():
        try:
            messages = store.integrity_messages()
        except driver_errors() as error:
            if not means_damage(error):
                raise
            messages = [str(error)]
        if messages:
            advice = _ENCRYPTED_ADVICE if store.encrypted else _ADVICE
            raise StoreFormatError(f"{store.path} is damaged itself ({messages[0]}). Nothing was changed. {advice}")
        wrong = [(key, names) for key, text, names in store.contents_to_check() if not is_sound_text(text, key)]
        wrong_texts = {key for key, _ in wrong}
        lost = sorted({*store.damaged_documents(), *(name for _, names in wrong for name in names)})
        unsound = {*store.unsound_passages(number), *store.damaged_contents(number)}
        register_problem = next(store.register.problems(), None)
        lexical_problem = _lexical_problem(store)
        stage_is_sound = not list(first_stage_problems(store, pinned))
        n_missing = store.count_contents_without_passages(number) + len(store.shown_contents(unsound))
    encoded, notes = 0, []
    # Before anything is dropped: without the model nothing is to change.
    encoder = load_model() if n_missing else None
    gone = 0
    if register_problem is not None:
        # SQLite finds all of its indexes sound, so what can be found is what there is.
        with lock, store.change():
            gone = store.register.rewrite()
        notes.append(f"What is noted of all documents was made again from those that are there: {register_problem}")
    if lexical_problem is not None:
        with lock:
            store.rebuild_lexical()
        notes.append(f"The full-text index was made again from the texts: {lexical_problem}")
    if unsound:
        # One commit: a search finds either the damage, or that these texts have no passages yet.
        with lock, store.change():
            store.drop_passages(number, unsound)
    if encoder is not None:
        if not stage_is_sound:
            # New codes need a sound first stage. It is made again below; until then every passage is scored.
            with lock, store.change():
                store.drop_first_stages(number)
        encoded = _encode_missing(store, lock, pinned, encoder, progress, wrong_texts)
    rebuilt = not stage_is_sound and _rebuild(store, lock, pinned, encoder)
    if rebuilt:
        notes.append("The first stage was made again; what `tune` measured of it is to be measured again.")
    with lock, store.snapshot():
        missing = [digest for digest, _ in store.contents_without_passages(number, -1)]
        without = tuple(name for name in store.ids_of_hashes(missing) if name not in lost)
        n_documents = store.count_documents()
    if lost:
        notes.append("Documents named as lost are still in the file: delete them, and add them again.")
    return RepairReport(
        path=store.path,
        documents=n_documents - len(lost),
        encoded=encoded,
        lost=tuple(lost),
        lost_unnamed=gone,
        without_vectors=without,
        first_stage_rebuilt=rebuilt,
        notes=tuple(notes),
    )


def _lexical_problem(store: Store) -> str | None:
    """The first thing that is wrong with the full-text index, if anything is."""
    try:
        return next(store.full_text.problems(), None)
    except StoreFormatError as error:
        return str(error)


def _pinned(salvage: Salvage, model: Model, path: str | os.PathLike[str]) -> tuple[PinnedEncoding, list[str]]:
    """What the new file is pinned to, and what is to be said about it."""
    found = salvage.encoding()
    if found is not None:
        # Also where no model is named: a setting that this version does not know must not be passed on.
        options = pinned_options(found, str(path))
        if model is not None:
            check_pin(found, ModelIdentity.of(model, **options), str(path))
        return found, []
    if model is None:
        raise StoreFormatError(
            f"{path}: the record of the model that it was made with cannot be read. Name the model (--model); all "
            "vectors are then made again. Nothing was changed."
        )
    note = "The record of the model could not be read: all vectors were made again, with the settings of a new file."
    return new_encoding(ModelIdentity.of(model), {"split_documents": True, "fde": None}), [note]


def _copy(
    store: Store,
    pinned: PinnedEncoding,
    old: PinnedEncoding | None,
    salvage: Salvage,
    documents: Iterator[SoundDocument],
    progress: Progress | None,
) -> tuple[str, ...]:
    """Store documents with those of their passages that are sound; give the ids of uncertain ones."""
    done = 0
    uncertain = []
    while batch := list(islice(documents, _STEP)):
        with store.change():
            store.stage_texts(
                pinned.encoding_id,
                (
                    (record.hash, record.text, salvage.passages(content_id, record.text, old) or [] if old else [])
                    for record, _, content_id, _ in batch
                ),
            )
            for record, source, _, _ in batch:
                store.put_documents([record], source)
        uncertain += [found.record.id for found in batch if not found.certain]
        done += len(batch)
        _tell(progress, done, None)
    return tuple(uncertain)


def _finish(
    store: Store, pinned: PinnedEncoding, model: Model, progress: Progress | None, notes: list[str]
) -> RepairReport:
    """Encode what has no vectors, where the model is there; make the first stage; check everything."""
    lock = threading.RLock()
    number = pinned.encoding_id
    with store.snapshot():
        n_missing = store.count_contents_without_passages(number)
    encoder: TokenEncoder | None = None
    encoded = 0
    if n_missing:
        try:
            encoder = _model(pinned, model, store.path)
        except (ModelError, InputError, StoreMismatchError) as error:
            notes.append(
                f"The vectors of {n_missing} texts could not be made again: {error} Run `edgecolbert repair --db FILE "
                "--model M` on the new file when the model is there."
            )
        else:
            encoded = _encode_missing(store, lock, pinned, encoder, progress, set())
    rebuilt = _rebuild(store, lock, pinned, encoder)
    found = verify_store(store)
    with store.snapshot():
        missing = [digest for digest, _ in store.contents_without_passages(number, -1)]
        without = tuple(store.ids_of_hashes(missing))
    _check(found.problems, without, store.path)
    return RepairReport(store.path, found.documents, encoded, (), 0, without, (), rebuilt, tuple(notes))


def _check(problems: Iterable[Problem], without: tuple[str, ...], path: str) -> None:
    for problem in problems:
        if not without or set(problem.ids) != set(without):
            raise StoreError(f"{path}: the new file is not sound ({problem.message}), so it was not kept.")


def _model(pinned: PinnedEncoding, model: Model, path: str) -> TokenEncoder:
    if model is None or isinstance(model, str | Path):
        return find_pinned_model(pinned, path, model)
    return model


def _encode_missing(
    store: Store,
    lock: threading.RLock,
    pinned: PinnedEncoding,
    encoder: TokenEncoder,
    progress: Progress | None,
    damaged: set[str],
) -> int:
    """Encode the texts that documents point to and that have no passages, but for damaged ones; give how many."""
    ingest = Ingest(store, lock, pinned, PassageEncoder.pinned(encoder, pinned, store.path), encoder)
    encoded = 0
    while True:
        with lock, store.snapshot():
            todo = store.contents_without_passages(pinned.encoding_id, _STEP + len(damaged))
            remaining = store.count_contents_without_passages(pinned.encoding_id)
        step = [pair for pair in todo if pair[0] not in damaged][:_STEP]
        if not step:
            return encoded
        ingest.store_texts(step)
        encoded += len(step)
        _tell(progress, encoded, encoded + remaining - len(step))


def _rebuild(store: Store, lock: threading.RLock, pinned: PinnedEncoding, encoder: TokenEncoder | None) -> bool:
    """Make the first stage again where the index is large enough for one."""
    with lock, store.snapshot():
        n_passages = store.count_passages(pinned.encoding_id)
    if n_passages >= upkeep.FIRST_STAGE_FROM:
        upkeep.Upkeep(store, lock, pinned, encoder).rebuild()
        return True
    with lock, store.change():
        store.drop_first_stages(pinned.encoding_id)
        store.drop_lists(store.lists_without_segment())
    return False


def _tell(progress: Progress | None, done: int, total: int | None) -> None:
    if progress is not None and progress(done, total) is False:
        raise CancelledError(f"The repair was cancelled after {done}.")

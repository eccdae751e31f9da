"""All documents with their token embeddings as JSON Lines, and back: nobody is locked into one file format.

The format is described in docs/storage.md. Both ways one line at a time is in memory.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import json
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from edgecolbert import limits
from edgecolbert.codec import LARGEST_COMPONENT, QuantizedTokens, stored_bytes
from edgecolbert.documents import Record, read_record
from edgecolbert.encoder import TokenEncoder
from edgecolbert.encryption import Key
from edgecolbert.errors import (
    CancelledError,
    InputError,
    ModelError,
    StoreError,
    StoreFormatError,
    StoreMismatchError,
)
from edgecolbert.filters.conditions import path_of
from edgecolbert.open_files import read_plainly
from edgecolbert.passage_settings import PassageSettings
from edgecolbert.pinning import (
    Model,
    ModelIdentity,
    check_place,
    check_reference,
    new_encoding,
    pinned_options,
)
from edgecolbert.reencoding import load_encoder
from edgecolbert.store import PinnedEncoding, Store, StoredFirstStage, StoredPassage
from edgecolbert.token_settings import TokenSettings
from edgecolbert.unfinished import check_free, name_finished, new_file
from edgecolbert.untrusted import read_json, shown

if TYPE_CHECKING:
    from edgecolbert.fde import FirstStage

Progress = Callable[[int, int | None], bool | None]

FORMAT = "edgecolbert-dump"
VERSION = 1
# Behind the name of a database that is being loaded, and kept there for the next call until all is loaded.
LOADING = ".loading"

_BATCH = 64
_GZIP = b"\x1f\x8b"
# The last key of each line, and what it covers: every byte of the line before the comma.
_SUM = b',"crc32":"'
_SUM_BYTES = len(_SUM) + 8 + len(b'"}')
_LINES, _READ_SUM = "load_lines", "load_crc32"
# Keys of a first stage's arrays, in the order of `PackedArrays`.
_ARRAYS = ("cells", "codebooks", "mean")


def dump_store(store: Store, path: str | os.PathLike[str], progress: Progress | None = None) -> int:
    """Write everything that documents point to, as it is at one moment.

    Args:
        store: The database.
        path: The new file; compressed where its name ends with .gz.
        progress: Called as `progress(done, total)` in documents; returning False stops.

    Returns:
        How many documents were written.

    Raises:
        StoreFormatError: If a document or a vector is damaged.
        StoreError: If there is a file at `path` already, or it cannot be written.
        CancelledError: If `progress` returned False; nothing is left of the file.
    """
    with new_file(path) as temporary:
        try:
            with _opened_to_write(temporary, compressed=Path(path).suffix == ".gz") as file, store.snapshot():
                return _write(store, file, path, progress)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{path} cannot be written: {error}.") from error


def load_dump(
    dump: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    model: Model = None,
    reencode: bool = False,
    progress: Progress | None = None,
    key: Key | None = None,
) -> int:
    """Make a database of what `dump_store` wrote.

    Args:
        dump: The file, compressed or not.
        path: Where the database is to appear when it is whole.
        model: The model, where it is not to be found by its name; with `reencode` the one to make new vectors with.
        reencode: Make new vectors.
        progress: Called as `progress(done, total)` in documents; returning False stops.
        key: The key to encrypt the new database with.

    Returns:
        How many documents were loaded by this call; fewer than there are where an earlier one was interrupted.

    Raises:
        InputError: If a line is wrong.
        StoreMismatchError: If the model has another fingerprint and `reencode` is False, or what an earlier call left
            is of another file.
        StoreError: If there is a file at `path` already, or it cannot be written.
        CancelledError: If `progress` returned False.
    """
    target = Path(path)
    check_free(target)
    with _opened_to_read(dump) as file:
        lines = _Lines(file, str(dump))
        header = _read_header(lines)
        encoder, pinned = _pinned(header, model, reencode, lines.name)
        store = Store(target.with_name(target.name + LOADING), key=key)
        try:
            loaded = _Loading(store, lines, header, pinned, encoder, progress).run()
        finally:
            store.close()
    name_finished(target.with_name(target.name + LOADING), target)
    return loaded


class _Header(NamedTuple):
    """The first line, checked."""

    pinned: PinnedEncoding
    documents: int
    first_stage: dict[str, Any] | None
    indexed_fields: list[tuple[str, ...]]


class _Lines:
    """The lines of a dump with their numbers, and the checksum of all bytes read so far."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self.name = name
        self.number = 0
        self.checksum = 0

    @property
    def where(self) -> str:
        return f"{self.name}, line {self.number}"

    def read(self) -> bytes | None:
        """The next line, or None at the end."""
        try:
            line = self._file.readline(limits.DUMP_LINE_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"{self.name} cannot be read after line {self.number}: {error}. It is damaged, or was cut short."
            ) from error
        if not line:
            return None
        self.number += 1
        if len(line) > limits.DUMP_LINE_BYTES:
            raise InputError(
                f"{self.where} has more than {limits.DUMP_LINE_BYTES} bytes: it is no dump, or the limit "
                "edgecolbert.limits.DUMP_LINE_BYTES is to be raised."
            )
        self.checksum = zlib.crc32(line, self.checksum)
        return line

    def parsed(self) -> dict[str, Any] | None:
        """The object on the next line, its checksum checked, or None at the end."""
        line = self.read()
        return None if line is None else _parse(line, self.where)


class _Loading:
    """One call of `load_dump`, on the unfinished database."""

    def __init__(
        self,
        store: Store,
        lines: _Lines,
        header: _Header,
        pinned: PinnedEncoding,
        encoder: TokenEncoder | None,
        progress: Progress | None,
    ) -> None:
        self._store = store
        self._lines = lines
        self._header = header
        self._pinned = pinned
        self._encoder = encoder
        self._progress = progress

    def run(self) -> int:
        """Load what is not loaded yet; give how many documents that was."""
        from edgecolbert.upkeep import Upkeep

        self._begin()
        done = before = self._lines.number - 1
        upkeep = Upkeep(self._store, threading.RLock(), self._pinned, self._encoder)
        while True:
            start = (self._lines.number, self._lines.checksum)
            batch = list(islice(self._documents(), _BATCH))
            if not batch:
                break
            encoded = self._encoded(batch)
            with self._store.change():
                if (self._store.note(_LINES), self._store.note(_READ_SUM)) != start:
                    raise StoreError(f"{self._store.path} is being loaded by another process, too. Let it finish.")
                texts = ((record.hash, record.text, passages) for record, _, passages in encoded)
                stored = self._store.stage_texts(self._pinned.encoding_id, texts)
                upkeep.add_codes(stored)
                for record, source, _ in encoded:
                    self._show(record, source)
                self._note_progress()
            upkeep.after_write(len(stored))
            done += len(batch)
            if self._progress is not None and self._progress(done, self._header.documents) is False:
                raise CancelledError(
                    f"Loading {self._lines.name} was cancelled after {done} of {self._header.documents} documents. "
                    f"They are kept in {self._store.path}; run it again to continue."
                )
        if done != self._header.documents:
            raise InputError(
                f"{self._lines.name} ends after {done} documents, expected {self._header.documents}: it was cut short. "
                f"What was loaded is kept in {self._store.path}."
            )
        with self._store.change():
            # The checksum stays: a call that is killed before the file has its name is recognised by it.
            self._store.set_note(_LINES, None)
            self._store.set_note(_READ_SUM, self._lines.checksum)
        return done - before

    def _begin(self) -> None:
        """Pin a new database, or pass over the lines that an earlier call has loaded."""
        store = self._store
        with store.change():
            found = store.encoding()
            if found is None:
                self._pinned = store.add_encoding(self._pinned)
                self._add_first_stage()
                for path in self._header.indexed_fields:
                    store.index_field(path)
                self._note_progress()
                return
        loaded, checksum = store.note(_LINES), store.note(_READ_SUM)
        if checksum is not None and found.fingerprint == self._pinned.fingerprint:
            self._pinned = found
            while (loaded is None or self._lines.number < loaded) and self._lines.read() is not None:
                pass
            if self._lines.checksum == checksum and loaded in (self._lines.number, None):
                return
        raise StoreMismatchError(
            f"{store.path} was left behind by loading another file, or with another model. Delete it if it is not "
            "needed any more, or name another database."
        )

    def _add_first_stage(self) -> None:
        if self._header.first_stage is None or self._encoder is not None:
            return
        stage = _first_stage(self._header.first_stage, self._pinned.dim or 0, self._lines.where)
        number = self._store.add_first_stage(self._pinned.encoding_id, stage, self._header.first_stage["fitted_on"])
        if self._header.first_stage["measured"] is not None:
            self._store.set_measured(number, self._header.first_stage["measured"])
        self._store.promote_first_stage(self._pinned.encoding_id)

    def _note_progress(self) -> None:
        self._store.set_note(_LINES, self._lines.number)
        self._store.set_note(_READ_SUM, self._lines.checksum)

    def _documents(self) -> Iterator[tuple[Record, str | None, list[StoredPassage]]]:
        while (data := self._lines.parsed()) is not None:
            yield _document(data, self._header.pinned, self._lines.where)

    def _encoded(
        self, batch: list[tuple[Record, str | None, list[StoredPassage]]]
    ) -> list[tuple[Record, str | None, list[StoredPassage]]]:
        """The batch with new vectors, where they are wanted."""
        if self._encoder is None:
            return batch
        from edgecolbert.passages import PassageEncoder, Text

        maker = PassageEncoder.pinned(self._encoder, self._pinned, self._lines.name)
        passages = maker.documents([Text.of(record.hash, record.text) for record, _, _ in batch])
        if self._pinned.dim is None:
            with self._store.change():
                self._store.set_dim(self._pinned.encoding_id, maker.dim or 0)
            self._pinned = self._store.encoding() or self._pinned
        return [(record, source, new) for (record, source, _), new in zip(batch, passages, strict=True)]

    def _show(self, record: Record, source: str | None) -> None:
        if self._store.put_documents([record], source) != ["added"]:
            raise InputError(f"{self._lines.where} or a few lines before has the id {record.id!r} a second time.")


# Writing


def _write(store: Store, file: IO[bytes], path: str | os.PathLike[str], progress: Progress | None) -> int:
    pinned = store.encoding()
    if pinned is None:
        raise StoreFormatError(f"{store.path} is pinned to no model: nothing was ever added to it.")
    # Not counted: an index that is damaged is no reason not to write what the table has. `documents` compares.
    total = store.register.totals().n_documents
    header = {
        "format": FORMAT,
        "version": VERSION,
        "documents": total,
        "model": {
            "name": pinned.model_name,
            "reference": pinned.model_reference,
            "fingerprint": pinned.fingerprint,
            "dim": pinned.dim,
        },
        "settings": pinned.settings,
        "tokens": TokenSettings.pinned(pinned.settings, store.path).to_json(),
        "first_stage": _first_stage_object(store, store.first_stage(pinned.encoding_id)),
        "indexed_fields": [list(path) for path in store.fields.numbers()],
    }
    file.write(_line(header))
    done = 0
    for document, source, content_id in store.documents():
        passages = store.passages(pinned.encoding_id, [content_id], complete=True)
        data = {
            **document,
            "source": source,
            "passages": [
                {
                    "start": passage.start,
                    "end": passage.end,
                    "n_tokens": len(passage.tokens.values),
                    "scale": passage.tokens.scale,
                    "tokens": _text_of(passage.tokens.to_bytes()),
                }
                for passage in passages
            ],
        }
        file.write(_line(data))
        done += 1
        if (done % _BATCH == 0 or done == total) and progress is not None and progress(done, total) is False:
            raise CancelledError(f"Writing {path} was cancelled after {done} of {total}; nothing is left of it.")
    return done


def _first_stage_object(store: Store, found: StoredFirstStage | None) -> dict[str, Any] | None:
    if found is None:
        return None
    texts = [None if blob is None else _text_of(blob) for blob in found.stage.pack().to_bytes()]
    return {
        "settings": json.loads(found.stage.settings.to_json()),
        "fitted_on": found.fitted_on,
        **dict(zip(_ARRAYS, texts, strict=True)),
        "measured": store.measured(found.number),
    }


def _line(data: dict[str, Any]) -> bytes:
    content = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()[:-1]
    return content + _SUM + b"%08x" % zlib.crc32(content) + b'"}\n'


def _text_of(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


# Reading


def _parse(line: bytes, where: str) -> dict[str, Any]:
    stripped = line.rstrip(b"\r\n")
    content, ending = stripped[:-_SUM_BYTES], stripped[-_SUM_BYTES:]
    if not ending.startswith(_SUM) or not ending.endswith(b'"}'):
        raise InputError(f"{where} does not end with its crc32: the file was cut short, or is no {FORMAT}.")
    if ending[len(_SUM) : -2] != b"%08x" % zlib.crc32(content):
        raise InputError(f"{where} does not match its crc32: it was changed, or is damaged.")
    try:
        data = read_json(stripped)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}.") from None
    if not isinstance(data, dict):
        raise InputError(f"{where} is {type(data).__name__}, expected an object.")
    return data


def _read_header(lines: _Lines) -> _Header:
    first = lines.read()
    if first is None:
        raise InputError(f"{lines.name} is empty, expected a file of `edgecolbert dump`.")
    # Any other JSON is told what it is not before it is told that a checksum is missing.
    if FORMAT.encode() not in first[:100]:
        raise InputError(f"{lines.name} is no file of `edgecolbert dump`: its first line does not say {FORMAT!r}.")
    data = _parse(first, lines.where)
    version = data.get("version")
    if version != VERSION:
        raise InputError(
            f"{lines.name} has version {shown(version)} of the format, this version of edgecolbert reads {VERSION}. "
            "Upgrade edgecolbert to load it."
        )
    try:
        model, settings, documents = data["model"], data["settings"], data["documents"]
        pinned = PinnedEncoding(
            0, model["name"], model["reference"], model["fingerprint"], model["dim"], dict(settings)
        )
        sound = (
            isinstance(documents, int)
            and all(isinstance(value, str) for value in (pinned.model_name, pinned.fingerprint))
            and isinstance(pinned.model_reference, str | None)
            and (pinned.dim is None or (isinstance(pinned.dim, int) and pinned.dim >= 1))
            and all(isinstance(settings[name], bool) for name in ("split_documents", "prompts"))
            and isinstance(settings["fde"], str | None)
        )
        first_stage = data["first_stage"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{lines.where} lacks {error}.") from None
    if not sound:
        raise InputError(f"{lines.where}: documents, model or settings are of the wrong type.")
    TokenSettings.pinned(settings, lines.name)
    PassageSettings.pinned(settings, lines.name)
    pinned_options(pinned, lines.name)
    return _Header(pinned, documents, first_stage, _indexed_fields(data, lines.where))


def _indexed_fields(data: dict[str, Any], where: str) -> list[tuple[str, ...]]:
    # Dumps of earlier versions do not say.
    listed = data.get("indexed_fields", [])
    if not isinstance(listed, list) or not all(isinstance(names, list) for names in listed):
        raise InputError(f"{where}: indexed_fields is {shown(listed)}, expected a list of lists of names.")
    try:
        return [path_of(names) for names in listed]
    except InputError as error:
        raise InputError(f"{where}: indexed_fields: {error}") from None


def _pinned(header: _Header, model: Model, reencode: bool, name: str) -> tuple[TokenEncoder | None, PinnedEncoding]:
    """The model to encode with, if any, and what the new database is pinned to."""
    pinned = header.pinned
    if reencode:
        from edgecolbert.passages import PassageEncoder

        encoder = load_encoder(pinned, model, name)
        wanted = new_encoding(ModelIdentity.of(encoder), pinned.settings)
        # Made before anything is begun: it says what the model cannot do.
        PassageEncoder.pinned(encoder, wanted, name)
        return encoder, wanted
    advice = "Pass the model it was made with, or make new vectors from its texts: --reencode, reencode=True in Python."
    if model is None:
        check_place(pinned.model_reference, name)
        try:
            check_reference(pinned, name)
        except StoreMismatchError as error:
            raise StoreMismatchError(
                f"{name} was made with the model {pinned.model_name!r}, and the one found under "
                f"{pinned.model_reference!r} here is another. {advice}"
            ) from error
        return None, pinned
    identity = ModelIdentity.of(model, **pinned_options(pinned, name))
    if identity.fingerprint != pinned.fingerprint:
        raise StoreMismatchError(
            f"{name} was made with the model {pinned.model_name!r}, but the model given is {identity.name!r}. {advice}"
        )
    return None, PinnedEncoding(
        0, pinned.model_name, identity.reference, pinned.fingerprint, pinned.dim, pinned.settings
    )


def _document(
    data: dict[str, Any], pinned: PinnedEncoding, where: str
) -> tuple[Record, str | None, list[StoredPassage]]:
    wanted, optional = {"id", "text", "metadata", "source", "passages", "crc32"}, {"title", "kind"}
    if not wanted <= set(data) <= wanted | optional:
        raise InputError(
            f"{where} has the keys {shown(sorted(data))}, expected {sorted(wanted)}, and perhaps {sorted(optional)}."
        )
    record = read_record({key: data[key] for key in data if key not in ("source", "passages", "crc32")}, where)
    source, passages = data["source"], data["passages"]
    if not isinstance(source, str | None) or not isinstance(passages, list) or not passages:
        raise InputError(f"{where}: source is no string, or passages is no list with at least one passage.")
    layout = (pinned.dim or 0, TokenSettings.pinned(pinned.settings, where).bits)
    return record, source, [_passage(entry, len(record.text), layout, where) for entry in passages]


def _passage(entry: Any, length: int, layout: tuple[int, int], where: str) -> StoredPassage:
    try:
        start, end, n_tokens, scale = (entry[key] for key in ("start", "end", "n_tokens", "scale"))
        content = base64.b64decode(entry["tokens"], validate=True)
    except (KeyError, TypeError, binascii.Error, ValueError) as error:
        raise InputError(f"{where}: a passage lacks something, or its tokens are no base64 ({error!r}).") from None
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (start, end, n_tokens))
    if not whole or not 0 <= start <= end <= length:
        raise InputError(
            f"{where}: a passage reaches from {shown(start)} to {shown(end)} in a text of {length} characters."
        )
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= LARGEST_COMPONENT:
        raise InputError(
            f"{where}: a passage has the scale {shown(scale)}, expected a positive number up to "
            f"{LARGEST_COMPONENT:.3g}."
        )
    dim, bits = layout
    if n_tokens < 0 or not dim or len(content) != stored_bytes(n_tokens, dim, bits):
        raise InputError(
            f"{where}: a passage has {len(content)} bytes of token embeddings, expected those of {n_tokens} tokens "
            f"with {dim} components of {bits} bits."
        )
    return StoredPassage(0, 0, start, end, QuantizedTokens.from_bytes(content, float(scale), dim, bits))


def _first_stage(data: Any, dim: int, where: str) -> FirstStage:
    from edgecolbert.fde import FdeSettings, FirstStage, PackedArrays

    try:
        blobs = [None if data[key] is None else base64.b64decode(data[key]) for key in _ARRAYS]
        arrays = PackedArrays.from_bytes(blobs, dim)
        if not isinstance(data["fitted_on"], int) or not isinstance(data["measured"], dict | None):
            raise InputError(f"{where}: the first stage lacks fitted_on or measured.")
        return FirstStage.unpack(FdeSettings.from_json(json.dumps(data["settings"], sort_keys=True)), dim, arrays)
    except (KeyError, TypeError, ValueError, struct.error, ModelError) as error:
        raise InputError(f"{where}: the first stage cannot be read: {error}.") from None


@contextmanager
def _opened_to_write(path: Path, *, compressed: bool) -> Iterator[IO[bytes]]:
    with path.open("wb") as file:
        if not compressed:
            yield file
            return
        # Level 1: base64 of token embeddings hardly becomes smaller than its own 6 bits in 8 at any level.
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=1, mtime=0) as packed:
            yield packed  # type: ignore[misc]


@contextmanager
def _opened_to_read(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    with ExitStack() as files:
        try:
            # Not `open`: it may be a database by mistake, and this process have a connection to it.
            plain = files.enter_context(read_plainly(Path(path)))
        except OSError as error:
            raise InputError(f"{os.fspath(path)} cannot be read: {error}.") from error
        packed = plain.read(2) == _GZIP
        plain.seek(0)
        # Both have a buffer, without which a line would be read byte by byte.
        yield gzip.GzipFile(fileobj=plain, mode="rb") if packed else io.BufferedReader(plain)  # type: ignore[misc]

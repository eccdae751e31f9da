"""The manifest of a model folder: every setting that encoding depends on, and a hash of every file.

A model folder holds `manifest.json` beside the files it names (graph, tokenizer, optionally FDE cells). The export
pipeline writes it, the runtime reads it, and nothing else about the checkpoint is needed to encode exactly as PyLate
does. Rule numbers (R17, R33, ...) in this package refer to docs/pylate-rules.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from edgecolbert import limits
from edgecolbert.errors import ModelFormatError, ModelIntegrityError, ModelNotFoundError
from edgecolbert.untrusted import read_bounded, read_json, shown

FORMAT = "edgecolbert-model"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"

# Far above any model this library is for; a manifest that claims more is damaged or hostile.
_LARGEST_DIM = 8_192
_LARGEST_LENGTH = 65_536
_LARGEST_ID = 2**31 - 1
_LONGEST_NAME = 200
_HASH = re.compile("[0-9a-f]{64}")
# Windows opens a device under these names, in every folder and with any ending.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)

_T = TypeVar("_T")


@dataclass(frozen=True)
class EncodingSettings:
    """How text becomes token ids, and which output rows become token embeddings.

    Attributes:
        dim: Size of one token embedding.
        query_length: Most token ids of a query, special tokens and prefix included.
        document_length: Most token ids of a passage, special tokens and prefix included.
        query_prefix: Text of the query prefix token, or "" for none.
        document_prefix: Text of the document prefix token, or "" for none.
        query_prefix_id: Its token id, inserted at index 1 (R19); None when the prefix is "".
        document_prefix_id: Likewise for documents.
        do_query_expansion: Pad queries to `query_length` with `expansion_token_id` and keep those rows (R20, R33).
        attend_to_expansion_tokens: Give the padding attention 1 (R22).
        expansion_token_id: The padding token (R13).
        skiplist_words: Words whose rows documents drop, as the checkpoint lists them.
        skiplist_ids: Their token ids as PyLate resolves them (R14).
        do_lower_case: Lower-case the text before the tokenizer (R17).
        prompts: Texts put before the stripped text, by name (R29, R30).
        default_prompt_name: A prompt that applies to queries and documents alike (R29), or None.
        truncation_side: "right" keeps the start of a long text, "left" its end (R26).
        max_positions: Longest sequence the graph accepts, or None where it has no limit.
    """

    dim: int
    query_length: int
    document_length: int
    query_prefix: str = "[Q] "
    document_prefix: str = "[D] "
    query_prefix_id: int | None = None
    document_prefix_id: int | None = None
    do_query_expansion: bool = True
    attend_to_expansion_tokens: bool = False
    expansion_token_id: int | None = None
    skiplist_words: tuple[str, ...] = ()
    skiplist_ids: tuple[int, ...] = ()
    do_lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    truncation_side: str = "right"
    max_positions: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that would encode silently wrong.

        Raises:
            ValueError: If two settings contradict each other or one is out of range.
        """
        _check(1 <= self.dim <= _LARGEST_DIM, f"dim is {self.dim}, expected 1 to {_LARGEST_DIM}")
        for side in ("query", "document"):
            length = getattr(self, f"{side}_length")
            # Three ids are the least that hold [CLS], the prefix and [SEP].
            _check(3 <= length <= _LARGEST_LENGTH, f"{side}_length is {length}, expected 3 to {_LARGEST_LENGTH}")
            _check(
                self.max_positions is None or length <= self.max_positions,
                f"{side}_length is {length}, but the graph has only {self.max_positions} positions",
            )
            prefix, prefix_id = getattr(self, f"{side}_prefix"), getattr(self, f"{side}_prefix_id")
            _check(_is_text(prefix), f"{side}_prefix is {shown(prefix)}, which is not valid Unicode")
            _check(
                bool(prefix) == (prefix_id is not None),
                f"{side}_prefix is {shown(prefix)} but {side}_prefix_id is {prefix_id}: both or neither are needed",
            )
        _check(
            not self.do_query_expansion or self.expansion_token_id is not None,
            "do_query_expansion is true but expansion_token_id is missing",
        )
        _check(
            self.do_query_expansion or not self.attend_to_expansion_tokens,
            "attend_to_expansion_tokens needs do_query_expansion",
        )
        _check(
            self.truncation_side in ("right", "left"),
            f"truncation_side is {self.truncation_side!r}, expected 'right' or 'left'",
        )
        _check(
            self.default_prompt_name is None or self.default_prompt_name in self.prompts,
            f"default_prompt_name is {self.default_prompt_name!r}, but prompts has only {sorted(self.prompts)}",
        )
        for name, prompt in self.prompts.items():
            _check(_is_text(name) and _is_text(prompt), f"prompts.{shown(name)} is not valid Unicode")
        for name, ids in (
            ("query_prefix_id", (self.query_prefix_id,)),
            ("document_prefix_id", (self.document_prefix_id,)),
            ("expansion_token_id", (self.expansion_token_id,)),
            ("skiplist_ids", self.skiplist_ids),
        ):
            for number in ids:
                _check(
                    number is None or 0 <= number <= _LARGEST_ID, f"{name} has {shown(number)}, which is no token id"
                )

    @property
    def query_prompt(self) -> str:
        """The prompt that queries get: the default one as PyLate has it, else the checkpoint's own for queries."""
        return self.prompts.get(self.default_prompt_name or "query", "")

    @property
    def document_prompt(self) -> str:
        """The prompt that documents get: the default one as PyLate has it, else the checkpoint's own for documents."""
        return self.prompts.get(self.default_prompt_name or "document", "")


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (hex) of one file of the folder."""

    size: int
    sha256: str


@dataclass(frozen=True)
class ModelManifest:
    """What `manifest.json` of a model folder says.

    Attributes:
        folder: Where the files are.
        name: Short name of the model.
        encoding: Every setting that encoding depends on.
        graph: File name of the ONNX graph.
        tokenizer: File name of the tokenizer.
        profile: How the graph is quantised: "int8", "fp32", ...
        files: Size and hash of every file that the runtime reads.
        fde: Settings of the first stage that ship with the model (see `edgecolbert.fde.FdeSettings`), or None.
        licence: SPDX expression of the model's licence, or "unknown".
        source: Where the checkpoint came from: name, revision, hashes. Free of meaning to the runtime.
        export: Versions and settings of the export. Free of meaning to the runtime.
        verification: What was compared with the reference, and the results. Free of meaning to the runtime.
    """

    folder: Path
    name: str
    encoding: EncodingSettings
    graph: str
    tokenizer: str
    profile: str
    files: dict[str, FileRecord]
    fde: dict[str, Any] | None = None
    licence: str = "unknown"
    source: dict[str, Any] = field(default_factory=dict)
    export: dict[str, Any] = field(default_factory=dict)
    verification: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str | Path) -> ModelManifest:
        """Read and check `folder/manifest.json`. File contents are checked when they are read (`read_file`).

        Args:
            folder: A model folder, as `edgecolbert export` writes it.

        Returns:
            The manifest.

        Raises:
            ModelNotFoundError: If there is no such folder, or no manifest in it.
            ModelFormatError: If the manifest is not one, is newer than this version reads, or contradicts itself.
        """
        folder = Path(folder)
        path = folder / MANIFEST_NAME
        try:
            text = read_bounded(path, limits.MANIFEST_BYTES).decode("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise ModelNotFoundError(
                f"{folder} is not a model folder: it has no {MANIFEST_NAME}. "
                "Export a checkpoint with `edgecolbert export CHECKPOINT OUT`, and name OUT here."
            ) from None
        except (UnicodeDecodeError, OSError) as error:
            raise ModelFormatError(f"{path} cannot be read: {error}. Export the model again.") from error
        return cls._parse(text, path)

    @classmethod
    def _parse(cls, text: str, path: Path) -> ModelManifest:
        try:
            data = read_json(text)
        except ValueError as error:
            raise ModelFormatError(f"{path} is not JSON: {error}. Export the model again.") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ModelFormatError(f"{path} is not a model manifest: format is {shown(found)}, expected {FORMAT!r}.")
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise ModelFormatError(
                f"{path} has format_version {shown(version)}; this version of edgecolbert reads {FORMAT_VERSION}. "
                "Upgrade edgecolbert, or export the model again."
            )
        try:
            encoding = _typed(EncodingSettings, data.get("encoding"), "encoding")
            records = _mapping(data.get("files"), "files")
            files = {_plain_name(name): _typed(FileRecord, record, f"files.{name}") for name, record in records.items()}
            manifest = cls(
                folder=path.parent,
                name=_text(data, "name"),
                encoding=encoding,
                graph=_text(data, "graph"),
                tokenizer=_text(data, "tokenizer"),
                profile=_text(data, "profile"),
                files=files,
                fde=None if data.get("fde") is None else _mapping(data["fde"], "fde"),
                licence=_text(data, "licence") if "licence" in data else "unknown",
                source=_mapping(data.get("source", {}), "source"),
                export=_mapping(data.get("export", {}), "export"),
                verification=_mapping(data.get("verification", {}), "verification"),
            )
            for name in (manifest.graph, manifest.tokenizer):
                _check(name in files, f"files has no record of {name!r}")
            for name, record in files.items():
                most = limits.TOKENIZER_BYTES if name == manifest.tokenizer else limits.MODEL_FILE_BYTES
                _check(0 <= record.size <= most, f"files.{name}.size is {record.size}, expected 0 to {most}")
                found = shown(record.sha256)
                _check(bool(_HASH.fullmatch(record.sha256)), f"files.{name}.sha256 is {found}, expected 64 hex digits")
        except ValueError as error:
            raise ModelFormatError(f"{path}: {error}. Export the model again, or correct the file.") from error
        return manifest

    def to_json(self) -> str:
        """The text of `manifest.json`, with sorted keys so that equal manifests are equal files."""
        data = {key: value for key, value in asdict(self).items() if key != "folder"}
        data |= {"format": FORMAT, "format_version": FORMAT_VERSION}
        return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of everything that token embeddings depend on; a store is pinned to it.

        The name, the card, the licence and the FDE cells do not count: they change no token embedding.
        """
        parts = {
            "encoding": asdict(self.encoding),
            "graph": self.files[self.graph].sha256,
            "tokenizer": self.files[self.tokenizer].sha256,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def read_file(self, name: str) -> bytes:
        """The content of one file of the folder, checked against the manifest.

        Args:
            name: A key of `files`.

        Returns:
            The bytes of the file.

        Raises:
            ModelIntegrityError: If the file is missing, or its size or hash is not the manifest's.
        """
        path, record = self.folder / name, self.files.get(name)
        remedy = "Copy or export the model again."
        if record is None:
            raise ModelIntegrityError(f"{path} is not listed in {self.folder / MANIFEST_NAME}. {remedy}")
        try:
            size = path.stat().st_size
            if size != record.size:
                raise ModelIntegrityError(
                    f"{path} has {size} bytes, the manifest says {record.size}: the file is cut or changed. {remedy}"
                )
            content = read_bounded(path, record.size)
        except OSError as error:
            raise ModelIntegrityError(f"{path} cannot be read: {error}. {remedy}") from error
        found = hashlib.sha256(content).hexdigest()
        if found != record.sha256:
            raise ModelIntegrityError(
                f"{path} has SHA-256 {found[:16]}…, the manifest says {record.sha256[:16]}…: "
                f"the file was changed or damaged. {remedy}"
            )
        return content


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _is_text(value: str) -> bool:
    """Whether it is valid Unicode; JSON can hold halves of characters."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {type(value).__name__}, expected an object")
    return value


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is {shown(value)}, expected a non-empty string")
    # It is shown to people, whose terminals a control character could steer.
    if len(value) > _LONGEST_NAME or not value.isprintable():
        raise ValueError(f"{key} is {shown(value)}, expected at most {_LONGEST_NAME} printable characters")
    return value


def _plain_name(name: str) -> str:
    """Refuse names that leave the folder, on any system: a manifest may come from a stranger."""
    leaves = name in ("", ".", "..") or any(character in name for character in "/\\:")
    # Windows drops dots and blanks at the end, so that two names would be one file.
    odd = not name.isprintable() or name[-1:] in (".", " ") or len(name) > _LONGEST_NAME or _DEVICE.fullmatch(name)
    if leaves or odd:
        raise ValueError(f"files names {shown(name)}, expected a plain file name inside the folder")
    return name


_EXPECTED_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "int | None": (int, type(None)),
    "str | None": (str, type(None)),
    "tuple[str, ...]": (list,),
    "tuple[int, ...]": (list,),
    "dict[str, str]": (dict,),
}


def _typed(cls: type[_T], value: object, where: str) -> _T:
    """Build a dataclass from a JSON object, checking names and types of every field."""
    data = _mapping(value, where)
    known = {f.name: str(f.type) for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(known))
    _check(not unknown, f"{where} has unknown settings {shown(unknown)}")
    arguments: dict[str, Any] = {}
    for name, item in data.items():
        kind = known[name]
        fits = isinstance(item, _EXPECTED_TYPES[kind]) and (bool in _EXPECTED_TYPES[kind] or not isinstance(item, bool))
        inner = str if "str" in kind else int
        if fits and isinstance(item, list):
            fits = all(isinstance(entry, inner) and not isinstance(entry, bool) for entry in item)
        elif fits and isinstance(item, dict):
            fits = all(isinstance(entry, str) for entry in item.values())
        _check(fits, f"{where}.{name} is {shown(item)}, expected {kind}")
        arguments[name] = tuple(item) if isinstance(item, list) else item
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error

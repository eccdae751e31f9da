"""Texts to token embeddings with onnxruntime, exactly as PyLate encodes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgecolbert.builtin import read_model
from edgecolbert.chunking import Span, split_text
from edgecolbert.errors import InputError, InputTypeError, ModelFormatError
from edgecolbert.graphs import check_self_contained
from edgecolbert.manifest import ModelManifest
from edgecolbert.sessions import import_onnxruntime
from edgecolbert.tokenizer import AS_MODEL, ColbertTokenizer, TokenIds, TokenPlace, check_special_tokens, check_text

FloatArray = npt.NDArray[np.float32]
_Item = TypeVar("_Item")


@runtime_checkable
class TokenEncoder(Protocol):
    """What an index needs of a model: two methods, and optionally a `name` that the database is pinned to.

    Both return one float32 array [n_tokens, dim] for each text, rows of unit length, the same `dim` always.
    An object that also has `split(text) -> list[tuple[int, int]]` decides how a long document becomes passages;
    without it a document is one passage, however long. One that has `query_tokens(text)` and `document_tokens(text)`,
    as `Encoder` has them, lets a hit say which words matched; without them it knows the tokens' numbers only.
    """

    def encode_queries(self, queries: list[str]) -> list[FloatArray]:
        """Token embeddings of each query."""
        ...

    def encode_documents(self, documents: list[str]) -> list[FloatArray]:
        """Token embeddings of each document."""
        ...


class Encoder:
    """A late-interaction model that turns texts into token embeddings.

    Use `Encoder.load`. An encoder may be used from several threads at once. Each text is encoded on its own, so its
    vectors never depend on what else is in the call; dynamic int8 scales would otherwise leak between texts.

    Args:
        manifest: The checked manifest of a model folder.
        threads: Threads used for encoding; None for one for each core this process may use.
        use_prompts: Put the checkpoint's own prompts before texts (ColBERT-Zero needs them); False leaves them out.
        special_tokens: What "[MASK]" and the like in a text become: "as-model" for the special token, which is what the
            checkpoint's own library does, "literal" for the tokens of the characters.
    """

    def __init__(
        self,
        manifest: ModelManifest,
        *,
        threads: int | None = None,
        use_prompts: bool = True,
        special_tokens: str = AS_MODEL,
    ) -> None:
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise InputError(f"threads is {threads!r}, expected a whole number of at least 1, or None.")
        self.manifest = manifest
        self.threads = threads or available_cores()
        self.use_prompts = use_prompts
        self.special_tokens = check_special_tokens(special_tokens)
        self.tokenizer = ColbertTokenizer(
            manifest.read_file(manifest.tokenizer),
            manifest.encoding,
            use_prompts=use_prompts,
            special_tokens=special_tokens,
            name=str(manifest.folder / manifest.tokenizer),
        )
        self._session = _load_session(manifest)
        self._inputs = [argument.name for argument in self._session.get_inputs()]
        unknown = set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown or "input_ids" not in self._inputs:
            raise ModelFormatError(
                f"{manifest.folder / manifest.graph} has the inputs {self._inputs}, expected input_ids, "
                "attention_mask and at most token_type_ids. Export the model again."
            )

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path | None = None,
        *,
        threads: int | None = None,
        use_prompts: bool = True,
        special_tokens: str = AS_MODEL,
    ) -> Encoder:
        """Load a model.

        Args:
            name_or_folder: A built-in name ("starter"), a model folder, or None for the starter model. Folders that
                next-plaid's or Answer.AI's exporter wrote are read too, with a `ModelWarning` for what they leave out.
            threads: Threads used for encoding; None for one for each core this process may use.
            use_prompts: Put the checkpoint's own prompts before texts; False leaves them out.
            special_tokens: What "[MASK]" and the like in a text become: "as-model" for the special token, "literal" for
                the tokens of the characters.

        Returns:
            The encoder.

        Raises:
            ModelNotFoundError: If there is no such model.
            ModelFormatError: If the manifest, tokenizer or graph is not usable.
            ModelIntegrityError: If a file is missing, cut or changed.
            InputError: If `threads` is not a positive whole number, or `special_tokens` is something else.
        """
        manifest = read_model(name_or_folder)
        return cls(manifest, threads=threads, use_prompts=use_prompts, special_tokens=special_tokens)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def dim(self) -> int:
        """Size of one token embedding."""
        return self.manifest.encoding.dim

    def encode_queries(self, queries: list[str]) -> list[FloatArray]:
        """Encode queries.

        Args:
            queries: Texts; an empty one is encoded as the checkpoint's rules say.

        Returns:
            One float32 array [n_tokens, dim] for each query, rows of unit length.

        Raises:
            InputTypeError: If `queries` is not a list of strings.
            InputError: If a text holds a lone surrogate.
        """
        return self._encode(queries, self.tokenizer.query, "queries")

    def encode_documents(self, documents: list[str]) -> list[FloatArray]:
        """Encode documents, each cut at the model's document length (`split` cuts a long one into passages first).

        Args:
            documents: Texts; an empty one is encoded as the checkpoint's rules say.

        Returns:
            One float32 array [n_tokens, dim] for each document, rows of unit length, rows of skiplist tokens removed.
            Where every token is skipped the array is [0, dim].

        Raises:
            InputTypeError: If `documents` is not a list of strings.
            InputError: If a text holds a lone surrogate.
        """
        return self._encode(documents, self.tokenizer.document, "documents")

    def query_tokens(self, text: str) -> list[TokenPlace]:
        """What the rows of `encode_queries([text])` stand for.

        Args:
            text: A query.

        Returns:
            One token for each row, expansion included.
        """
        return self.tokenizer.query_places(check_text(text))

    def document_tokens(self, text: str) -> list[TokenPlace]:
        """What the rows of `encode_documents([text])` stand for.

        Args:
            text: A document or passage.

        Returns:
            One token for each row; skiplist tokens have none.
        """
        skiplist = set(self.manifest.encoding.skiplist_ids)
        return [place for place in self.tokenizer.document_places(check_text(text)) if place.id not in skiplist]

    def split(self, text: str) -> list[Span]:
        """Cut a text into passages that fit the model's document length, at sentence borders where there are any.

        Args:
            text: A document.

        Returns:
            Character offsets (start, end) of each passage, in order; at least one.

        Raises:
            ModelFormatError: If the document length leaves no place for text.
        """
        room = self.tokenizer.document_room
        if room < 1:
            raise ModelFormatError(
                f"{self.manifest.folder} has a document_length of {self.manifest.encoding.document_length}, which "
                "special tokens, prefix and prompt use up. Export the model again, or open with split_documents=False."
            )
        return split_text(text, self.tokenizer.count, room)

    def encode_token_ids(self, documents: Sequence[TokenIds]) -> list[FloatArray]:
        """Encode token ids that `tokenizer` gave, each sequence on its own.

        Args:
            documents: Sequences of at most as many ids as the graph has positions.

        Returns:
            One float32 array [n_tokens, dim] for each, of the rows that are to be kept.
        """
        return self._run_all(documents, self._run)

    def _encode(self, texts: Sequence[str], tokenize: Callable[[str], TokenIds], what: str) -> list[FloatArray]:
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise InputTypeError(f"{what} is {type(texts).__name__}, expected a list of strings.")
        for position, text in enumerate(texts):
            check_text(text, f"{what}[{position}]")
        return self._run_all(texts, lambda text: self._run(tokenize(text)))

    def _run_all(self, items: Sequence[_Item], run: Callable[[_Item], FloatArray]) -> list[FloatArray]:
        if len(items) > 1 and self.threads > 1:
            from concurrent.futures import ThreadPoolExecutor  # a single query does without it

            # One text a thread: small graphs gain little from threads inside an operator.
            with ThreadPoolExecutor(self.threads) as pool:
                return list(pool.map(run, items))
        return [run(item) for item in items]

    def _run(self, tokens: TokenIds) -> FloatArray:
        feeds = {"input_ids": tokens.ids[None], "attention_mask": tokens.attention[None]}
        if "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros_like(feeds["input_ids"])  # R23: single texts are all type 0
        graph = self.manifest.folder / self.manifest.graph
        try:
            output = self._session.run(None, {name: feeds[name] for name in self._inputs})[0]
        except Exception as error:  # the package's own classes derive from Exception and RuntimeError alike
            raise ModelFormatError(
                f"{graph} failed on a text of {len(tokens.ids)} tokens: {error}. Export the model again."
            ) from error
        shape = getattr(output, "shape", ())
        if shape[:2] != (1, len(tokens.ids)) or output.dtype.kind != "f":
            raise ModelFormatError(
                f"{graph} gives {getattr(output, 'dtype', type(output).__name__)} {list(shape)} for {len(tokens.ids)} "
                f"tokens, expected float [1, {len(tokens.ids)}, {self.dim}]. Export the model again."
            )
        rows: FloatArray = np.ascontiguousarray(output[0][tokens.keep], dtype=np.float32)
        if rows.shape[1:] != (self.dim,):
            raise ModelFormatError(
                f"{graph} gives embeddings of {rows.shape[1:]}, the manifest says dim {self.dim}. Export the model "
                "again."
            )
        return rows


def available_cores() -> int:
    """Number of cores this process may use, at least 1."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Windows and macOS
        return os.cpu_count() or 1


def _load_session(manifest: ModelManifest) -> Any:
    # Imported here: whoever only reads the store or a manifest need not pay for it.
    onnxruntime = import_onnxruntime()
    content = manifest.read_file(manifest.graph)
    check_self_contained(content, str(manifest.folder / manifest.graph))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Spinning threads burn the cores of the application that embeds us.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    # Its own format, which it would recognise by the first bytes, is one that the check above cannot read.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the package's own classes derive from Exception and RuntimeError alike
        raise ModelFormatError(
            f"{manifest.folder / manifest.graph} cannot be loaded by onnxruntime {onnxruntime.__version__}: {error}. "
            "Export the model again, or upgrade onnxruntime."
        ) from error

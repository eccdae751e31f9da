"""edgecolbert: late-interaction (ColBERT) retrieval on the device, torch-free, in one SQLite file.

    from edgecolbert import Index

    with Index.open("notes.db") as index:
        index.add(["The kettle is in the left cupboard.", "Bins go out on Tuesday."])
        print(index.search("where do I find the kettle?")[0].text)

Names are imported when they are first used, so that `import edgecolbert` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgecolbert.aio import AsyncIndex as AsyncIndex
    from edgecolbert.documents import Document as Document
    from edgecolbert.encoder import Encoder as Encoder
    from edgecolbert.encoder import TokenEncoder as TokenEncoder
    from edgecolbert.errors import CancelledError as CancelledError
    from edgecolbert.errors import EdgeColbertError as EdgeColbertError
    from edgecolbert.errors import InputError as InputError
    from edgecolbert.errors import MissingExtraError as MissingExtraError
    from edgecolbert.errors import ModelError as ModelError
    from edgecolbert.errors import ModelWarning as ModelWarning
    from edgecolbert.errors import StoreError as StoreError
    from edgecolbert.errors import StoreWarning as StoreWarning
    from edgecolbert.explanation import Explanation as Explanation
    from edgecolbert.explanation import TokenMatch as TokenMatch
    from edgecolbert.fde import FdeSettings as FdeSettings
    from edgecolbert.fde import FirstStage as FirstStage
    from edgecolbert.filters import Filter as Filter
    from edgecolbert.filters import field as field
    from edgecolbert.fusion import Fusion as Fusion
    from edgecolbert.highlighting import Highlight as Highlight
    from edgecolbert.highlighting import Snippet as Snippet
    from edgecolbert.index import Index as Index
    from edgecolbert.manifest import ModelManifest as ModelManifest
    from edgecolbert.muvera import MuveraSettings as MuveraSettings
    from edgecolbert.passage_settings import PassageSettings as PassageSettings
    from edgecolbert.readers.folder import Folder as Folder
    from edgecolbert.readers.folder import read_folder as read_folder
    from edgecolbert.readers.reading import SkippedFile as SkippedFile
    from edgecolbert.reencoding import reencode as reencode
    from edgecolbert.repair import recover as recover
    from edgecolbert.results import AddReport as AddReport
    from edgecolbert.results import Facets as Facets
    from edgecolbert.results import FacetValue as FacetValue
    from edgecolbert.results import Hit as Hit
    from edgecolbert.results import IndexStats as IndexStats
    from edgecolbert.results import Passage as Passage
    from edgecolbert.results import Problem as Problem
    from edgecolbert.results import RepairReport as RepairReport
    from edgecolbert.results import VerifyReport as VerifyReport
    from edgecolbert.scoring import maxsim as maxsim
    from edgecolbert.token_settings import TokenSettings as TokenSettings
    from edgecolbert.tokenizer import TokenPlace as TokenPlace

__version__ = "0.1.0"

_HOMES = {
    "AddReport": "results",
    "AsyncIndex": "aio",
    "CancelledError": "errors",
    "Document": "documents",
    "EdgeColbertError": "errors",
    "Encoder": "encoder",
    "Explanation": "explanation",
    "FacetValue": "results",
    "Facets": "results",
    "FdeSettings": "fde",
    "Filter": "filters",
    "FirstStage": "fde",
    "Folder": "readers.folder",
    "Fusion": "fusion",
    "Highlight": "highlighting",
    "Hit": "results",
    "Index": "index",
    "IndexStats": "results",
    "InputError": "errors",
    "MissingExtraError": "errors",
    "ModelError": "errors",
    "ModelManifest": "manifest",
    "ModelWarning": "errors",
    "MuveraSettings": "muvera",
    "Passage": "results",
    "PassageSettings": "passage_settings",
    "Problem": "results",
    "RepairReport": "results",
    "SkippedFile": "readers.reading",
    "Snippet": "highlighting",
    "StoreError": "errors",
    "StoreWarning": "errors",
    "TokenEncoder": "encoder",
    "TokenMatch": "explanation",
    "TokenPlace": "tokenizer",
    "TokenSettings": "token_settings",
    "VerifyReport": "results",
    "field": "filters",
    # Its module is not called maxsim: importing a submodule sets an attribute of the package, over the function.
    "maxsim": "scoring",
    "read_folder": "readers.folder",
    "recover": "repair",
    "reencode": "reencoding",
}

__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604 - the table is what a test compares with


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, also those that are not imported yet."""
    return sorted(__all__)

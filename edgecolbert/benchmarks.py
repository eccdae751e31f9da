"""Published benchmarks by name, from the Hugging Face hub or from a folder: what `edgecolbert eval` can be given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecolbert.errors import InputError, ModelNotFoundError
from edgecolbert.hub import HubName, fetch_snapshot
from edgecolbert.layouts import Place, find_collections

# NanoBEIR's collections as the tables name them, each a dataset of its own.
NANOBEIR = (
    "ClimateFEVER",
    "DBPedia",
    "FEVER",
    "FiQA2018",
    "HotpotQA",
    "MSMARCO",
    "NFCorpus",
    "NQ",
    "QuoraRetrieval",
    "SCIDOCS",
    "ArguAna",
    "SciFact",
    "Touche2020",
)
BRIGHT = (
    "biology",
    "earth_science",
    "economics",
    "psychology",
    "robotics",
    "stackoverflow",
    "sustainable_living",
    "leetcode",
    "pony",
    "aops",
    "theoremqa_questions",
    "theoremqa_theorems",
)
LONGEMBED = ("narrativeqa", "qmsum", "2wikimqa", "summ_screen_fd", "passkey", "needle")
BENCHMARKS = {"nanobeir": NANOBEIR, "bright": BRIGHT, "longembed": LONGEMBED}
_REPOSITORIES = {"nanobeir": "zeta-alpha-ai/Nano{part}", "bright": "xlangai/BRIGHT", "longembed": "dwzhu/LongEmbed"}
_PATTERNS = {
    "nanobeir": ("corpus/*", "queries/*", "qrels/*"),
    "bright": ("documents/{part}-*", "examples/{part}-*"),
    "longembed": ("{part}/*",),
}
# Of a dataset of any layout, what `edgecolbert.layouts` reads; not BRIGHT's other settings, which are large.
_ANY = ["*.parquet", "*.jsonl", "*.tsv"]
_IGNORED = ["long_documents/*", "*_reason/*"]


@dataclass(frozen=True)
class Found:
    """A collection of a benchmark.

    Attributes:
        place: Where it is.
        commit: Commit of the hub's dataset, or "" for a folder of the user's own.
    """

    place: Place
    commit: str = ""


def find_benchmark(specification: str, *, cache: Path | None = None, offline: bool = False) -> list[Found]:
    """The collections that a specification means, downloading those of the hub.

    Args:
        specification: A folder in any of the layouts; "nanobeir", "bright" or "longembed"; or OWNER/NAME of a dataset
            of the hub. ":PART" behind it chooses one collection, "@REVISION" before that a commit, tag or branch.
        cache: The hub's cache; None for the usual place.
        offline: Use only what the cache has.

    Returns:
        The collections, in the order of the published tables.

    Raises:
        InputError: If it names nothing, or something that cannot be fetched.
        MissingExtraError: If it has to be fetched, and the package huggingface_hub is not installed.
    """
    folder = Path(specification).expanduser()
    if folder.exists():
        return [Found(place) for place in find_collections(folder)]
    head, _, part = specification.rpartition(":")
    head, part = (head, part) if head else (part, "")
    if Path(head).expanduser().is_dir():
        return [Found(place) for place in find_collections(Path(head).expanduser(), part)]
    benchmark, _, revision = head.partition("@")
    if benchmark.lower() in BENCHMARKS:
        return _fetch_known(benchmark.lower(), part, revision, cache, offline)
    name = HubName.parse(head)
    if name is None:
        raise InputError(
            f"{specification!r} is no test collection: expected a folder, {', '.join(BENCHMARKS)}, each with :NAME for "
            "one of its collections, or OWNER/NAME of a dataset on the Hugging Face hub. Check the spelling."
        )
    folder = _fetch(name, _ANY, _IGNORED, cache, offline)
    return [Found(place, folder.name) for place in find_collections(folder, part, name.repository.rpartition("/")[2])]


def _fetch_known(benchmark: str, part: str, revision: str, cache: Path | None, offline: bool) -> list[Found]:
    parts = {name.lower(): name for name in BENCHMARKS[benchmark]}
    wanted = part.lower().removeprefix("nano") if benchmark == "nanobeir" else part.lower()
    if part and wanted not in parts:
        raise InputError(f"{benchmark} has no collection {part!r}, expected one of {', '.join(parts.values())}.")
    found = []
    for chosen in [parts[wanted]] if part else parts.values():
        name = HubName(_REPOSITORIES[benchmark].format(part=chosen), revision)
        patterns = [pattern.format(part=chosen) for pattern in _PATTERNS[benchmark]]
        folder = _fetch(name, patterns, None, cache, offline)
        if benchmark == "nanobeir":
            places = find_collections(folder, name=f"Nano{chosen}")
        else:
            places = find_collections(folder, chosen)
        found += [Found(place, folder.name) for place in places]
    return found


def _fetch(name: HubName, patterns: list[str], ignored: list[str] | None, cache: Path | None, offline: bool) -> Path:
    try:
        return fetch_snapshot(name, kind="dataset", patterns=patterns, ignored=ignored, cache=cache, offline=offline)
    except ModelNotFoundError as error:
        raise InputError(str(error)) from error

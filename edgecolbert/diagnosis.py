"""What `edgecolbert doctor` reports: versions, the processor's kernels, SQLite, and whether a model works here."""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgecolbert import __version__
from edgecolbert.builtin import builtin_models
from edgecolbert.connection import sqlite_facts
from edgecolbert.errors import EdgeColbertError, MissingExtraError
from edgecolbert.known_failures import known_failures
from edgecolbert.sessions import described
from edgecolbert.smoke import find_death

_PACKAGES = ("numpy", "onnxruntime", "tokenizers", "usearch", "numkong", "sqlite-utils")


def diagnose(model: str | None = None) -> dict[str, Any]:
    """Look at this installation.

    Args:
        model: A built-in name or folder to try; None for the starter model.

    Returns:
        Sections by name; `problems` lists what does not work, and is empty when all is well.
    """
    problems: list[str] = []
    report: dict[str, Any] = {"versions": _versions(problems)}
    # What ends a child would end us: from here on nothing with compiled code is touched then.
    death = find_death(model)
    report["processor"] = _processor(with_kernels=death is None)
    report["sqlite"] = _sqlite(problems)
    # The fatal ones are what loading the model complains of.
    problems += [described(failure) for failure in known_failures() if not failure.fatal]
    if death is None:
        report["model"] = _model(model, problems)
    else:
        report["model"] = {"built in": sorted(builtin_models())}
        problems.append(death)
    report["problems"] = problems
    return report


def _versions(problems: list[str]) -> dict[str, str]:
    found = {"edgecolbert": __version__, "python": platform.python_version(), "system": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
            problems.append(f"The package {package} is missing: pip install {package}")
    return found


def _processor(*, with_kernels: bool) -> dict[str, Any]:
    if not with_kernels:
        return {"machine": platform.machine()}
    # What has compiled code is imported late: before a child has tried it, it may end the process.
    import numkong

    from edgecolbert.encoder import available_cores

    kernels = sorted(name for name, usable in numkong.get_capabilities().items() if usable)
    return {"machine": platform.machine(), "cores": available_cores(), "kernels": kernels}


def _sqlite(problems: list[str]) -> dict[str, Any]:
    facts = sqlite_facts()
    options = facts["options"]
    if "OMIT_JSON" in options or "OMIT_WAL" in options:
        problems.append("This Python's SQLite was built without JSON or WAL, which the store needs.")
    return {
        "version": facts["version"],
        "threadsafe": next((option for option in options if option.startswith("THREADSAFE")), "unknown"),
        "fts5": "ENABLE_FTS5" in options,
        "wal_reset_fault": _fault(facts),
        "encryption": _encryption(),
    }


def _fault(facts: dict[str, Any]) -> str:
    # docs/storage.md: only programs that write to a database beside this library can still meet it.
    return "present, and avoided by edgecolbert" if facts["wal_reset_fault"] else "fixed in this version"


def _encryption() -> str:
    try:
        facts = sqlite_facts(key_driver=True)
    except MissingExtraError as error:
        return f"not installed ({str(error).rpartition(': ')[2].rstrip('.')})"
    return f"SQLCipher with SQLite {facts['version']}; wal_reset_fault: {_fault(facts)}"


def _model(model: str | None, problems: list[str]) -> dict[str, Any]:
    from edgecolbert.encoder import Encoder
    from edgecolbert.goldens import check_goldens

    found: dict[str, Any] = {"built in": sorted(builtin_models())}
    try:
        begin = time.perf_counter()
        encoder = Encoder.load(model)
        found |= {
            "name": encoder.name,
            "folder": str(encoder.manifest.folder),
            "profile": encoder.manifest.profile,
            "dim": encoder.dim,
            "licence": encoder.manifest.licence,
            "load ms": round((time.perf_counter() - begin) * 1000, 1),
        }
        begin = time.perf_counter()
        rows = encoder.encode_queries(["does it work here?"])[0]
        found["query ms"] = round((time.perf_counter() - begin) * 1000, 2)
        lengths = (rows.astype("float64") ** 2).sum(axis=1) ** 0.5
        if abs(lengths - 1).max() > 1e-3:
            problems.append(f"The model {encoder.name!r} gives token embeddings that are not of unit length here.")
        goldens = check_goldens(encoder.manifest, encoder=encoder)
        if goldens is not None:
            found |= {
                "golden texts": goldens.n_texts,
                "golden cosine": round(goldens.cosine_mean, 5),
            }
            problems += goldens.problems
    except EdgeColbertError as error:
        problems.append(str(error))
    return found

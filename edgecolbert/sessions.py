"""onnxruntime, brought in at one place: nothing is reported to anybody, and no version that would end the process."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from edgecolbert.errors import RuntimeUnsafeWarning, RuntimeUnusableError
from edgecolbert.known_failures import KnownFailure, known_failures

# For a build of the user's own, where the table of released versions is wrong.
TRUST_VARIABLE = "EDGECOLBERT_TRUST_ONNXRUNTIME"


def forbid_telemetry() -> None:
    """Keep onnxruntime from collecting anything.

    From version 1.29 on its packages for Linux and macOS make an identifier for the device, keep events in a file under
    the user's cache folder, and send them; in 1.29.0 the same code ends the process in containers without a shell
    (https://github.com/microsoft/onnxruntime/issues/32173). The variable has to be set before it is first imported; a
    value that the user has set is left alone.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def import_onnxruntime() -> Any:
    """The package onnxruntime, imported late: it costs more than a search.

    Returns:
        The module.

    Raises:
        RuntimeUnusableError: If it cannot be imported, or this version is known to end the process on this machine.
    """
    forbid_telemetry()
    # Whoever has imported it before us has survived that.
    if "onnxruntime" not in sys.modules:
        _check_known_failures()
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnusableError(
            f"onnxruntime cannot be imported: {error}. Install it again with `pip install --force-reinstall "
            "onnxruntime`; on Windows it needs the Microsoft Visual C++ Redistributable."
        ) from error

    # Where the application had imported it before us, this stops what can still be stopped.
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _check_known_failures() -> None:
    if os.environ.get(TRUST_VARIABLE):
        return
    for failure in known_failures():
        if failure.fatal:
            raise RuntimeUnusableError(
                f"{described(failure)} It was not imported. (Set {TRUST_VARIABLE}=1 if yours is a build of your own.)"
            )
        warnings.warn(described(failure), RuntimeUnsafeWarning, stacklevel=4)


def described(failure: KnownFailure) -> str:
    """A known failure as a sentence with its remedy and its first thread."""
    from importlib.metadata import version

    thread = next((f" ({source})" for source in failure.sources if source.startswith("https:")), "")
    return f"onnxruntime {version('onnxruntime')} {failure.what}{thread}. {failure.remedy}"

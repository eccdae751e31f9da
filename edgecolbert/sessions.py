"""onnxruntime, brought in at one place, so that nothing on the device is reported to anybody."""

from __future__ import annotations

import os
from typing import Any


def forbid_telemetry() -> None:
    """Keep onnxruntime from collecting anything.

    From version 1.29 on its packages for Linux and macOS make an identifier for the device, keep events in a file under
    the user's cache folder, and send them. The variable has to be set before it is first imported; a value that the
    user has set is left alone.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def import_onnxruntime() -> Any:
    """The package onnxruntime, imported late: it costs more than a search."""
    forbid_telemetry()
    import onnxruntime

    # Where the application had imported it before us, this stops what can still be stopped.
    onnxruntime.disable_telemetry_events()
    return onnxruntime

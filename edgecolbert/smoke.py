"""Whether the packages with compiled code run here at all, tried in a child process.

A processor without an instruction that a package was built with ends the process by a signal. `edgecolbert doctor` runs
this module as a child first, so that it can say in a sentence what would otherwise end it too.
"""

from __future__ import annotations

import signal
import subprocess
import sys

# What the child does, in this order; it prints each step before it begins.
STEPS = ("import numpy", "import numkong", "import tokenizers", "import onnxruntime", "encode a text with the model")
_TIMEOUT = 600.0
# Windows ends a process with the exception's number as exit code.
_WINDOWS_DEATHS = {
    0xC000001D: "an illegal instruction",
    0xC0000005: "an access violation",
    0xC0000409: "an abort",
    0xC0000094: "a division by zero",
}


def find_death(model: str | None = None) -> str | None:
    """Run all steps in a child process.

    Args:
        model: The model to try, as `Encoder.load` takes it.

    Returns:
        A sentence when the child was ended by the system, otherwise None: an ordinary error is raised in the calling
        process too, with a better message.
    """
    # A frozen application has no interpreter to start.
    if not sys.executable or getattr(sys, "frozen", False):
        return None
    command = [sys.executable, "-m", "edgecolbert.smoke", *([] if model is None else [model])]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False)  # noqa: S603 - ourselves
    except (OSError, subprocess.TimeoutExpired):
        return None
    death = _death(done.returncode)
    if death is None:
        return None
    begun = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line in STEPS]
    step = begun[-1] if begun else "start Python"
    said = " ".join(done.stderr.decode("utf-8", "replace").split())[-300:]
    return (
        f"This processor or system does not run the installed packages: to {step} ended the process by {death}"
        + (f" ({said})" if said else "")
        + ". Upgrade the package, or install an older version of it."
    )


def _death(code: int) -> str | None:
    if code < 0:
        try:
            return f"the signal {signal.Signals(-code).name}"
        except ValueError:
            return f"the signal {-code}"
    return _WINDOWS_DEATHS.get(code & 0xFFFFFFFF)


def main(model: str | None) -> None:
    """Do all steps, as the child.

    Args:
        model: The model to try.
    """
    for step in STEPS:
        # At once, or it would be lost with the process.
        print(step, flush=True)
        if step.startswith("import onnxruntime"):
            from edgecolbert.sessions import import_onnxruntime

            import_onnxruntime()
        elif step.startswith("import "):
            __import__(step.removeprefix("import "))
        else:
            from edgecolbert.encoder import Encoder

            Encoder.load(model).encode_queries(["does it work here?"])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)

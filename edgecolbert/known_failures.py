"""Which released onnxruntime dies, or computes wrongly, on which machine: one table, with its sources.

onnxruntime ends the process by a signal where it meets a processor it does not expect, and Python can neither catch nor
explain that. So the table is asked before the package is imported. Where requirements alone can keep a version out,
pyproject.toml does; the table is for versions that are right on every other machine, and for environments that were put
together by hand.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

# "sme" is Arm's matrix extension: Apple M4 and phones of 2025, no board that is known to have it yet.
_SYSCTL_FEATURES = {"sme": b"hw.optional.arm.FEAT_SME", "atomics": b"hw.optional.arm.FEAT_LSE"}


class Machine(NamedTuple):
    """What the table asks of a machine.

    Attributes:
        system: "Linux", "Darwin" or "Windows".
        is_arm64: Whether this is a 64-bit Arm process.
        features: The processor's extensions by Linux's names; only those that the table asks for on macOS, and none
            where the system does not tell.
        has_cpu_lists: Whether Linux tells which processors there are, in /sys/devices/system/cpu.
        cpuinfo_is_arm: Whether /proc/cpuinfo is an Arm processor's; it is not in some emulated containers.
    """

    system: str
    is_arm64: bool
    features: frozenset[str] = frozenset()
    has_cpu_lists: bool = True
    cpuinfo_is_arm: bool = True


@dataclass(frozen=True)
class KnownFailure:
    """Versions of onnxruntime that fail on some machines.

    Attributes:
        first: The first such version.
        fixed: The first version that is right again, or None.
        fatal: Whether the process certainly dies at the import. Otherwise it may die later, or compute wrongly.
        what: What happens, and where.
        remedy: What to do.
        sources: Threads that say so; "tests/aarch64.sh" for what was seen under emulation.
        system: The system it happens on, or None for all.
        with_feature: An extension that the processor has.
        without_feature: An extension that it has not, though it names others.
        without_cpu_lists: It happens where `Machine.has_cpu_lists` is False.
        without_cpuinfo: It happens where `Machine.cpuinfo_is_arm` is False.
    """

    first: tuple[int, ...]
    fixed: tuple[int, ...] | None
    fatal: bool
    what: str
    remedy: str
    sources: tuple[str, ...]
    system: str | None = None
    with_feature: str | None = None
    without_feature: str | None = None
    without_cpu_lists: bool = False
    without_cpuinfo: bool = False

    def on_machine(self, machine: Machine) -> bool:
        """Whether some version fails on this machine. All entries are about 64-bit Arm."""
        names = machine.features
        return (
            machine.is_arm64
            and self.system in (None, machine.system)
            and (self.with_feature is None or self.with_feature in names)
            and (self.without_feature is None or (bool(names) and self.without_feature not in names))
            and not (self.without_cpu_lists and machine.has_cpu_lists)
            and not (self.without_cpuinfo and machine.cpuinfo_is_arm)
        )

    def in_version(self, installed: tuple[int, ...]) -> bool:
        """Whether this version is one of those that fail."""
        return self.first <= installed and (self.fixed is None or installed < self.fixed)


_ISSUES = "https://github.com/microsoft/onnxruntime/issues/"
_PULLS = "https://github.com/microsoft/onnxruntime/pull/"

KNOWN_FAILURES = (
    # pyproject.toml keeps this version out.
    KnownFailure(
        first=(1, 21, 0),
        fixed=(1, 21, 1),
        fatal=True,
        system="Linux",
        without_feature="atomics",
        what="dies of an illegal instruction when it is imported on Armv8.0 processors such as a Raspberry Pi 4's",
        remedy="Upgrade onnxruntime to 1.22 or later.",
        # 1.21.1 and 1.22.0 were right, and 1.21.0 died, on an emulated Cortex-A72; on a Cortex-A76 1.21.0 was right.
        sources=(_ISSUES + "23957", _ISSUES + "24112", _ISSUES + "24512", _PULLS + "23978", "tests/aarch64.sh"),
    ),
    KnownFailure(
        first=(1, 10),
        fixed=(1, 26),
        fatal=True,
        system="Linux",
        without_cpu_lists=True,
        what="aborts when it is imported where /sys/devices/system/cpu is empty, as in AWS Lambda",
        remedy="Upgrade onnxruntime to 1.26 or later, or mount /sys.",
        # 1.22.1 to 1.25.1 aborted, and 1.26.0 to 1.31.1 did not, with an empty folder in its place under emulation.
        sources=(
            _ISSUES + "10038",
            _PULLS + "28230",
            "https://github.com/NixOS/nixpkgs/pull/450587",
            "tests/aarch64.sh",
        ),
    ),
    KnownFailure(
        first=(1, 28),
        fixed=None,
        fatal=True,
        system="Linux",
        without_cpuinfo=True,
        what="dies when it is imported under an emulator that shows the host's /proc/cpuinfo, as old qemu-user does",
        remedy="Emulate with a newer qemu, or run on a real Arm machine.",
        # Seen with 1.28.0, 1.30.0 and 1.31.1 under qemu-user 7.2, not with 1.27.0, nor under qemu-user 10.0.
        sources=("tests/aarch64.sh",),
    ),
    KnownFailure(
        first=(1, 23),
        fixed=(1, 24, 4),
        fatal=False,
        with_feature="sme",
        what="was reported to die of illegal instructions on processors with the matrix extension SME",
        remedy="Upgrade onnxruntime to 1.28 or later.",
        sources=(
            _ISSUES + "26377",
            _ISSUES + "26361",
            _ISSUES + "27884",
            "https://github.com/k2-fsa/sherpa-onnx/issues/3490",
        ),
    ),
    # pyproject.toml keeps this version out.
    KnownFailure(
        first=(1, 27),
        fixed=(1, 28),
        fatal=False,
        with_feature="sme",
        what="was reported to give wrong and changing results on processors with the matrix extension SME",
        remedy="Upgrade onnxruntime to 1.28 or later.",
        sources=(
            _ISSUES + "31569",
            "https://github.com/k2-fsa/sherpa-onnx/issues/3791",
            "https://github.com/k2-fsa/sherpa-onnx/issues/3845",
        ),
    ),
)


def known_failures() -> list[KnownFailure]:
    """What is known to fail with the installed onnxruntime on this machine, without importing it."""
    machine = this_machine()
    suspects = [failure for failure in KNOWN_FAILURES if failure.on_machine(machine)]
    if not suspects:
        return []
    from importlib.metadata import PackageNotFoundError, version  # milliseconds that most machines need not spend

    try:
        installed = parsed_version(version("onnxruntime"))
    except PackageNotFoundError:  # a build of the user's own, under another name
        return []
    return [failure for failure in suspects if failure.in_version(installed)]


def parsed_version(text: str) -> tuple[int, ...]:
    """The numbers at the front of a version.

    Args:
        text: For example "1.24.1" or "1.27.0.dev20260504".

    Returns:
        The numbers.

    >>> parsed_version("1.27.0.dev20260504")
    (1, 27, 0)
    """
    parts = takewhile(str.isdigit, text.partition("+")[0].split("."))
    return tuple(int(part) for part in parts)


def this_machine() -> Machine:
    """What the table asks, of the machine that this runs on."""
    system = platform.system()
    if platform.machine().lower() not in ("aarch64", "arm64"):
        return Machine(system, is_arm64=False)
    if system == "Linux":
        return _linux(Path("/"))
    if system == "Darwin":
        return Machine(system, True, frozenset(name for name, key in _SYSCTL_FEATURES.items() if _sysctl(key)))
    return Machine(system, is_arm64=True)


def _linux(root: Path) -> Machine:
    """Read the kernel's files below `root`, which a test puts elsewhere."""
    cpu = root / "sys" / "devices" / "system" / "cpu"
    try:
        cpuinfo = (root / "proc" / "cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # no /proc: nothing is known, and nothing is claimed
        cpuinfo = ""
    parts = (line.partition(":") for line in cpuinfo.splitlines())
    lines = {name.strip(): value.strip() for name, _, value in parts}
    return Machine(
        "Linux",
        True,
        frozenset(lines.get("Features", "").split()),
        # onnxruntime aborts where it can read neither.
        (cpu / "possible").exists() or (cpu / "present").exists(),
        not cpuinfo or "CPU implementer" in lines,
    )


def _sysctl(name: bytes) -> bool:
    if sys.platform != "darwin":
        return False
    import ctypes

    try:
        value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
        failed = ctypes.CDLL(None).sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, 0)
        return not failed and bool(value.value)
    except (OSError, AttributeError):
        return False

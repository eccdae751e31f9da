"""Measure this machine: correctness, speed, memory, heat. One command, no network, a few minutes on a small board.

    python examples/board_kit.py                 prints a row for docs/boards.md and writes board.json
    python examples/board_kit.py --quick         a try-out of some seconds, whose figures are no figures

Stop what else runs on the board, and let it cool down first. The texts are sentences of the handbook, drawn again and
again with a fixed seed: enough for speed and memory, and nothing for quality.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgecolbert import Encoder, Index
from edgecolbert.diagnosis import diagnose

HANDBOOK = Path(__file__).parent / "handbook"
QUERIES = ["water keeps dripping at night", "my bread did not rise", "brakes squeal", "a burn on the hand", "slugs"]
# A size whose texts would take longer to encode than this is left out, and the row says so.
LONGEST_S = 300.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure this machine and print a row for docs/boards.md.")
    parser.add_argument("--quick", action="store_true", help="a try-out of some seconds")
    parser.add_argument("--sizes", type=int, nargs="+", help="documents in an index (default: 1000 5000 20000)")
    parser.add_argument("--json", type=Path, default=Path("board.json"), help="where the figures go (board.json)")
    options = parser.parse_args(arguments)
    sizes = options.sizes or ([40, 80] if options.quick else [1_000, 5_000, 20_000])

    said("looking at the installation")
    doctor = diagnose()
    report: dict[str, Any] = {
        "machine": machine(),
        "doctor": {name: doctor[name] for name in ("versions", "processor", "sqlite", "problems")},
        "correct": not doctor["problems"],
        "golden_cosine": doctor["model"].get("golden cosine"),
        "quick": options.quick,
        "heat_before": heat(),
    }
    if report["correct"]:
        report |= measure(sizes, rounds=2 if options.quick else 5)
    report["heat_after"] = heat()
    options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    said(f"{options.json} written; the row for docs/boards.md:")
    print(row(report))
    for problem in doctor["problems"]:
        said(f"not correct here: {problem}")
    return 0 if report["correct"] else 1


def measure(sizes: list[int], rounds: int) -> dict[str, Any]:
    """Speed of encoding, and of searching in indexes of some sizes."""
    encoder = Encoder.load()
    texts = list(synthetic_texts(40))
    said(f"encoding {len(texts)} texts of about 100 words, {rounds} times, on {encoder.threads} cores")
    encoder.encode_documents(texts[:4])  # the first call allocates
    seconds = [timed(lambda: encoder.encode_documents(texts)) for _ in range(rounds)]
    query_ms = [1000 * timed(lambda query=query: encoder.encode_queries([query])) for query in QUERIES * rounds]
    found: dict[str, Any] = {
        "documents_per_s": round(len(texts) / statistics.median(seconds), 1),
        "query_ms": round(statistics.median(query_ms), 2),
        "searches": [],
    }
    for size in sizes:
        expected = size / found["documents_per_s"]
        if expected > LONGEST_S:
            said(f"{size} documents left out: to encode them would take {expected / 60:.0f} minutes")
            found["searches"].append({"documents": size, "left_out": True})
            continue
        said(f"indexing and searching {size} documents, about {expected:.0f} s")
        found["searches"].append(search(encoder, size, rounds))
    found["peak_memory_mb"] = peak_memory_mb()
    return found


def search(encoder: Encoder, size: int, rounds: int) -> dict[str, Any]:
    """Build an index of some size in a file and search it; the file is removed again."""
    with tempfile.TemporaryDirectory() as folder, Index.open(Path(folder, "board.db"), model=encoder) as index:
        seconds = timed(lambda: index.add({"id": str(n), "text": text} for n, text in enumerate(synthetic_texts(size))))
        for query in QUERIES:  # what a second search finds in memory, every measured one does
            index.search(query)
        ms = sorted(1000 * timed(lambda query=query: index.search(query)) for query in QUERIES * rounds * 2)
        stats = index.stats()
        return {
            "documents": size,
            "passages": stats.passages,
            "add_s": round(seconds, 1),
            "p50_ms": round(statistics.median(ms), 2),
            "p95_ms": round(ms[int(0.95 * (len(ms) - 1))], 2),
            "file_mb": round(stats.file_bytes / 1e6, 1),
            "problems": len(index.verify().problems),
        }


def synthetic_texts(size: int) -> Any:
    """Texts of five to eight sentences of the handbook, the same on every machine."""
    sentences = [
        sentence.strip()
        for path in sorted(HANDBOOK.glob("*.md"))
        for sentence in path.read_text(encoding="utf-8").replace("\n", " ").split(". ")
        if sentence.strip()
    ]
    generator = random.Random(11)
    for _ in range(size):
        yield ". ".join(generator.sample(sentences, generator.randint(5, 8))) + "."


def machine() -> dict[str, Any]:
    """What kind of machine this is, without a name of the person's or the machine's own."""
    return {
        "name": board_name(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "distribution": distribution(),
        "cores": os.cpu_count(),
        "memory_gb": memory_gb(),
        "python": platform.python_version(),
    }


def board_name() -> str:
    """A board's name, or its processor's, or what Python knows."""
    model = read("/proc/device-tree/model").rstrip("\0")
    if model:
        return model
    for line in read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    if sys.platform == "darwin":
        return output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except (OSError, AttributeError):  # not Linux
        return platform.platform(terse=True)


def memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def peak_memory_mb() -> float | None:
    """The most memory that this process has held."""
    for line in read("/proc/self/status").splitlines():
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) / 1024, 0)
    try:
        import resource
    except ImportError:  # Windows
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(used / 2**20 if sys.platform == "darwin" else used / 1024, 0)


def heat() -> dict[str, Any]:
    """Temperature in degrees, clock in MHz, and what a Raspberry Pi says of throttling, where that can be read."""
    temperatures = []
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp")):
        text = read(zone).strip()
        if text.lstrip("-").isdigit():
            temperatures.append(int(text) / 1000)
    clock = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq").strip()
    return {
        "celsius": max(temperatures, default=None),
        "mhz": int(clock) // 1000 if clock.isdigit() else None,
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        # 0x0 is well; the meaning of the bits: https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
        "throttled": output("vcgencmd", "get_throttled").partition("=")[2] or None,
    }


def row(report: dict[str, Any]) -> str:
    """The figures as a row of the table in docs/boards.md."""
    versions, kind = report["doctor"]["versions"], report["machine"]
    cells = [
        f"{kind['name']}, {kind['cores']} cores, {kind['memory_gb'] or '?'} GB",
        f"{kind['distribution']}, {kind['architecture']}",
        f"{versions['edgecolbert']}, Python {versions['python']}, onnxruntime {versions['onnxruntime']}",
        f"yes ({report['golden_cosine']})" if report["correct"] else "NO",
        str(report.get("documents_per_s", "")),
        str(report.get("query_ms", "")),
        "; ".join(
            f"{entry['documents']:,}: " + ("left out" if entry.get("left_out") else f"{entry['p50_ms']}")
            for entry in report.get("searches", [])
        ),
        str(report.get("peak_memory_mb", "")),
        " to ".join(str(report[when]["celsius"] or "?") for when in ("heat_before", "heat_after")),
        report["heat_after"]["throttled"] or "not known",
    ]
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def timed(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def read(path: str | Path) -> str:
    """A file's text, or nothing where there is no such file, as on other systems."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def output(program: str, *arguments: str) -> str:
    """What a program prints, or nothing where it is missing or fails."""
    found = shutil.which(program)
    if found is None:
        return ""
    done = subprocess.run([found, *arguments], capture_output=True, text=True, encoding="utf-8", check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def said(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

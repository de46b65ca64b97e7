"""Run a command and plot the memory that it and its processes hold over time.

Usage: python benchmarks/memory.py PLOT.png COMMAND...
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from matplotlib.figure import Figure

PERIOD = 1.0  # seconds between samples


def resident(pid: int) -> int:
    """Bytes of a process that are its own: shared pages count by their share."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (OSError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def children(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        below = [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except OSError:
        below = []
    return [pid, *(found for child in below for found in children(child))]


def main() -> None:
    """Sample until the command ends; print and draw what was seen."""
    plot, *command = sys.argv[1:]
    process = subprocess.Popen(command)
    start, samples = time.time(), []
    while process.poll() is None:
        own = resident(process.pid)
        whole = sum(resident(pid) for pid in children(process.pid))
        samples.append((time.time() - start, own / 2**20, whole / 2**20))
        time.sleep(PERIOD)
    seconds, own, whole = zip(*samples, strict=True)
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(seconds, whole, label="with the processes that read images")
    axes.plot(seconds, own, label="the process that computes")
    axes.set(xlabel="seconds", ylabel="MiB", ylim=(0, None))
    axes.legend(loc="lower right")
    figure.savefig(plot, dpi=120)
    count = len(own)
    for share in (0.25, 0.5, 0.75, 1.0):
        part = own[int(count * (share - 0.25)) : int(count * share)]
        print(f"{share:.0%}: median {sorted(part)[len(part) // 2]:.0f} MiB, highest {max(part):.0f} MiB")
    sys.exit(process.returncode)


if __name__ == "__main__":
    main()

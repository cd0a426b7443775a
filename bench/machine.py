"""What the figures were measured on, and how fast it is just now."""

import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

#: Rounds of the calibration loop, about a tenth of a second; the median of so many loops counts.
LOOPS = 3_000_000
CALIBRATIONS = 5


def describe(redis_version: str) -> dict[str, Any]:
    """Cores, processor, memory, kernel, Python and Redis."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "redis": redis_version,
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def load() -> list[float]:
    """The load averages of 1, 5 and 15 minutes."""
    return [round(each, 2) for each in os.getloadavg()]


def calibrate() -> dict[str, float]:
    """Seconds that a fixed loop takes: by the clock (feels other work), and of processor time (does not)."""
    walls, cpus = zip(*(_loop() for _ in range(CALIBRATIONS)), strict=True)
    return {
        "wall_seconds": round(statistics.median(walls), 4),
        "cpu_seconds": round(statistics.median(cpus), 4),
    }


def _loop() -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    total = 0
    for number in range(LOOPS):
        total += number & 7
    return time.perf_counter() - wall, time.process_time() - cpu

"""Measures what `make run` weighs: memory and processor time of all processes, without Redis.

    python -m tests.support.weight [PYTHON]

It starts ``lastacross dev`` twice in a new data folder, with this interpreter or with PYTHON, which should
have the packages of requirements.lock only. The second start is measured: the processor time until the site's
address is printed, the memory 30 s later, and again after 10,000 tasks: the squares of a quilt of 100 by
100. Memory is PSS: each process's own memory, plus its share of what several processes have in common. The
load of the machine is printed beside each line, because a busy machine needs more processor time for the same
work.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

from lastacross.clock import SYSTEM
from tests.support.processes import Started, python, started, wait_until
from tests.support.redis_server import RedisServer
from tests.support.site import Site, free_port

IDLE_SECONDS = 30.0
QUILT_SIDE = 100
_TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """A process and its descendants, without Redis."""
    found, parents = [pid], {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text()
        except OSError:
            continue
        name, fields = stat.partition("(")[2].rpartition(")")[0], stat.rpartition(")")[2].split()
        if name not in ("valkey-server", "redis-server"):
            parents[int(process.name)] = int(fields[1])
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def cpu_seconds(pid: int) -> float:
    """The processor time of a process and its descendants, including those that have ended."""
    return sum(sum(_times(one)) for one in tree(pid)) / _TICKS


def own_cpu_seconds(pid: int) -> float:
    """The processor time of one process without its children; 0 if it has ended."""
    return sum(_times(pid)[:2]) / _TICKS


def _times(pid: int) -> list[int]:
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return [int(field) for field in fields[11:15]]


def _read(pid: int, file: str) -> str:
    """A file of a process; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def memory_mb(pid: int, *kinds: str) -> float:
    """The sum of these lines of /proc/…/smaps_rollup, in MB; 0 if the process has ended."""
    lines = _read(pid, "smaps_rollup").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.partition(":")[0] in kinds) / 1024


def private_mb(pid: int) -> float:
    """The private memory of a process in MB; 0 if it has ended."""
    return memory_mb(pid, "Private_Dirty", "Private_Clean")


def command(pid: int) -> str:
    """The first word of a process's command line that tells what it does."""
    words = _read(pid, "cmdline").split("\0")
    return next((word for word in words[1:] if word not in ("", "-m", "lastacross")), "?")


def show_memory(when: str, pid: int) -> None:
    """Print the memory of each process, and of all of them."""
    processes = tree(pid)
    load = os.getloadavg()[0]
    print(f"{when}: {sum(memory_mb(one, 'Pss') for one in processes):.0f} MB PSS (load {load:.1f})")
    for one in processes:
        print(f"  {command(one):20} {memory_mb(one, 'Pss'):6.1f} MB PSS, {private_mb(one):5.1f} MB private")


def paint(url: str) -> None:
    """Run 10,000 tasks."""
    site = Site(url, RedisServer.at(""), None, Path(), "")  # type: ignore[arg-type]
    name = site.post("/quilt", rows=QUILT_SIDE, columns=QUILT_SIDE)["name"]
    wait_until(lambda: site.json(f"/{name}.json?after=1000000")["done"], 600)


def wait_for_site(running: Started) -> None:
    """Wait until the site's address is printed."""
    running.wait_for_text("Ctrl-C stops everything.", 300)


def measure(interpreter: str) -> None:
    """Start twice, and print the figures of the second start."""
    with tempfile.TemporaryDirectory(prefix="la-weight-") as name:
        folder, port = Path(name), free_port()
        environ = {"PORT": str(port), "LASTACROSS_DATA_DIR": str(folder / "var")}
        if "LASTACROSS_PRELOAD" in os.environ:
            environ["LASTACROSS_PRELOAD"] = os.environ["LASTACROSS_PRELOAD"]
        line = [interpreter, *python("-m", "lastacross", "dev")[1:]]
        for is_second in (False, True):
            with started(line, folder, environ) as running:
                wait_for_site(running)
                if is_second:
                    load = os.getloadavg()[0]
                    print(f"second start: {cpu_seconds(running.pid):.2f} s of CPU (load {load:.1f})")
                    ready_at = SYSTEM.monotonic()
                    wait_until(lambda: SYSTEM.monotonic() - ready_at >= IDLE_SECONDS, IDLE_SECONDS * 2)  # noqa: B023
                    show_memory("30 s after ready", running.pid)
                    paint(f"http://127.0.0.1:{port}")
                    show_memory("after 10,000 tasks", running.pid)
                running.send(signal.SIGINT)
                running.wait()


if __name__ == "__main__":
    measure(sys.argv[1] if len(sys.argv) > 1 else sys.executable)

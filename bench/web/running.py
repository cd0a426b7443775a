"""The application as it is deployed, for one measure: a Redis, the web server, workers, the scheduler.

All of it is the measure's own: ports on loopback, a data folder that is deleted in the end, Redis with an
append-only file (every second), the shipped log level. Everything runs with the Python that runs the bench.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import redis

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
# Settings that a measure is to be made with instead of the defaults: ``--set`` of the command line.
SETTINGS: dict[str, str] = {}
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass
class Site:
    """A site that answers.

    Attributes:
        url: without a slash at its end.
        environ: of its processes; who uses the engine's own functions needs it too.
        folder: its data, and what its processes print.
        processes: by what they are: ``redis``, ``web``, ``worker``, ``scheduler``.
    """

    url: str
    environ: dict[str, str]
    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """Of the web server."""
        return int(self.environ["PORT"])

    def cpu_seconds(self) -> dict[str, float]:
        """What each kind of process has used of the processors so far, its children too."""
        return {kind: cpu_seconds(process.pid) for kind, process in self.processes.items()}

    def used_since(self, before: dict[str, float]) -> dict[str, float]:
        """What each kind has used since ``cpu_seconds`` was asked before."""
        now = self.cpu_seconds()
        return {f"{kind}_cpu_seconds": round(now[kind] - before[kind], 3) for kind in now}


def progress(text: str) -> None:
    """Say how far it is, where it does not get between the results."""
    print(text, file=sys.stderr, flush=True)


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_site(
    *, workers: int = 0, variables: dict[str, str] | None = None, app: Path = ROOT
) -> Iterator[Site]:
    """Start the site; end it in the end.

    Args:
        workers: worker processes; with none, there is no scheduler either.
        variables: added to the environment of all its processes.
        app: the application's folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="la-bench-"))
    redis_port, port = free_port(), free_port()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("LASTACROSS_")}
    environ = {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "DATABASE_URL": f"sqlite:///{folder}/site.db",
        "SECRET_KEY": secrets.token_hex(32),
        "LASTACROSS_DATA_DIR": str(folder / "var"),
        **SETTINGS,
        **(variables or {}),
    }
    site = Site(f"http://127.0.0.1:{port}", environ, folder)
    try:
        _start_redis(site, redis_port)
        subprocess.run(_lastacross(app, "db", "upgrade"), env=environ, check=True, capture_output=True)
        _start(site, "web", _lastacross(app, "web"))
        if workers:
            _start(site, "worker", _lastacross(app, "worker", "--processes", str(workers)))
            _start(site, "scheduler", _lastacross(app, "scheduler"))
        _wait_for_answer(site)
        if workers:
            _wait_for_workers(site, workers)
        yield site
    finally:
        _stop(site)
        shutil.rmtree(folder, ignore_errors=True)


def _lastacross(app: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "lastacross", "--app", str(app), *arguments]


def _start(site: Site, kind: str, command: Sequence[str]) -> None:
    with (site.folder / f"{kind}.log").open("wb") as file:
        site.processes[kind] = subprocess.Popen(
            command, env=site.environ, cwd=site.folder, stdout=file, stderr=subprocess.STDOUT
        )


def _start_redis(site: Site, port: int) -> None:
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(site.folder)]
    _start(site, "redis", ["redis-server", *options, "--appendonly", "yes", "--appendfsync", "everysec"])
    _wait(lambda: redis.Redis(port=port).ping(), site)


def _wait_for_answer(site: Site) -> None:
    def ask() -> bool:
        with urllib.request.urlopen(f"{site.url}/_ah/ready", timeout=5) as answer:
            return bool(answer.status == 200)

    _wait(ask, site)


def _wait_for_workers(site: Site, workers: int) -> None:
    with redis.Redis.from_url(site.environ["REDIS_URL"]) as client:
        _wait(lambda: client.scard("rq:workers") >= workers, site)


def _wait(condition: Callable[[], object], site: Site) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError, redis.RedisError):
            if condition():
                return
        logs = "\n".join(path.read_text(errors="replace") for path in site.folder.glob("*.log"))
        if any(process.poll() is not None for process in site.processes.values()):
            raise RuntimeError(f"a process of the site has ended:\n{logs}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"the site does not answer:\n{logs}")
        time.sleep(0.05)


def _stop(site: Site) -> None:
    """In order: Redis last, and with force who takes too long."""
    for process in reversed(site.processes.values()):
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_seconds(pid: int) -> float:
    """What a process and all its living descendants have used of the processors."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The second field, the name, may have blanks and brackets in it.
            fields = stat.read_text().rpartition(")")[2].split()
            one = int(stat.parent.name)
            parents[one], used[one] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {pid}
    while grown := {one for one, parent in parents.items() if parent in family} - family:
        family |= grown
    return sum(used.get(one, 0) for one in family) / TICKS_PER_SECOND


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def summary_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the longest, in milliseconds."""
    shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "max_ms": 1.0}
    return {name: round(1000 * percentile(seconds, share), 2) for name, share in shares.items()}

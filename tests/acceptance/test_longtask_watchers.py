"""A thousand long tasks, each watched by somebody's page, on the web server as it comes.

What is asserted is generous, for machines that do something else as well; the figures are printed:
``pytest -s tests/acceptance/test_longtask_watchers.py``.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lastacross import clock
from lastacross.longtasks import looking, model, progress
from tests.conftest import SECRET_KEY
from tests.support import databases
from tests.support.longtask_lab import Lab, running_lab
from tests.support.monitored import monitored
from tests.support.processes import python, started
from tests.support.redis_server import RedisServer, running_server
from tests.support.site import free_port, wait_for_answer

WATCHERS = 1000
PAGES_SECONDS = 3.0
"""A page without JavaScript is drawn anew so often."""
POLL_SECONDS = 5.0
"""A page that watches for longer than a few seconds asks so often."""
ROUNDS = 3
MOST_SECONDS = 5.0
"""That the 95th of 100 answers may take on a machine that is busy with other things."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass
class Figures:
    """What was measured."""

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    def add(self, seconds: float, status: int) -> None:
        """One answer."""
        self.seconds.append(seconds)
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def percentile(self, share: float) -> float:
        """So many of the answers came in that time."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class Watched:
    """The web server, and what is watched there."""

    url: str
    redis_server: RedisServer
    ids: list[str]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A web server, and a thousand tasks in the middle of their work."""
    root: Path = tmp_path_factory.mktemp("watched")
    (root / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    (root / "queue.yaml").write_text("queue:\n- name: default\n  rate: 5000/s\n  bucket_size: 5000\n")
    database_url = databases.migrated_sqlite(root / "watched.db", root)
    port = free_port()
    environ = {"PORT": str(port), "HOST": "127.0.0.1", "DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    with running_server() as server, running_lab(root, server.url, database_url) as lab:
        ids = [under_way(lab) for _ in range(WATCHERS)]
        environ |= {"REDIS_URL": server.url, "LASTACROSS_DATA_DIR": str(root / "var")}
        with started(python("-m", "lastacross", "web", "--app", str(root)), root, environ) as processes:
            url = f"http://127.0.0.1:{port}"
            wait_for_answer(url, processes)
            yield Watched(url, server, ids)


def under_way(lab: Lab) -> str:
    """A task whose attempt has begun and told of its progress."""
    task_id = lab.start(report="monthly")
    lab.lease()
    task = model.claim(task_id, 0, clock.SYSTEM.now())
    assert task is not None
    reporter = progress.Reporter(task)
    reporter.report("Handling invoices", 12, 33)
    return task_id


async def ask(address: str, path: str, headers: Sequence[str]) -> tuple[int, dict[str, str]]:
    """One request on a connection of its own: status and headers of the answer."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"GET {path} HTTP/1.1", f"Host: {address}", "Connection: close", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    answer = await reader.read()
    while piece := await reader.read():
        answer += piece
    writer.close()
    await writer.wait_closed()
    head = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    pairs = (line.partition(": ") for line in head[1:])
    return int(head[0].split()[1]), {name.lower(): value for name, _, value in pairs}


async def watch(watched: Watched, accept: str, every_seconds: float, figures: Figures) -> None:
    """Everybody asks again and again, one after another, as if they had come at different times."""
    address = urlsplit(watched.url).netloc
    began_at = time.monotonic()

    async def one(place: int, task_id: str) -> None:
        path = looking.urls_of("/told", task_id).status
        etag = ""
        for turn in range(ROUNDS):
            due_at = began_at + every_seconds * (turn + place / WATCHERS)
            await asyncio.sleep(max(0.0, due_at - time.monotonic()))
            headers = [f"Accept: {accept}"] + ([f"If-None-Match: {etag}"] if etag else [])
            status, found = await ask(address, path, headers)
            figures.add(time.monotonic() - due_at, status)
            etag = found.get("etag", "")

    await asyncio.gather(*(one(place, task_id) for place, task_id in enumerate(watched.ids)))


@pytest.mark.parametrize(
    ("accept", "every_seconds", "statuses"),
    [
        ("application/json", POLL_SECONDS, {200: WATCHERS, 304: (ROUNDS - 1) * WATCHERS}),
        ("text/html", PAGES_SECONDS, {200: ROUNDS * WATCHERS}),
    ],
    ids=["polls", "pages"],
)
def test_a_thousand_watchers_get_their_answers_quickly(
    watched: Watched, accept: str, every_seconds: float, statuses: dict[int, int]
) -> None:
    """Polls with ETag, as with JavaScript; whole pages, as without."""
    figures = Figures()
    with monitored(watched.redis_server) as heard:
        asyncio.run(watch(watched, accept, every_seconds, figures))
    calls = sum(not command.is_of_script for command in heard.commands()) / len(figures.seconds)
    print(
        f"\n{accept}: {len(figures.seconds)} answers, {WATCHERS / every_seconds:.0f} a second: "
        f"p50 {1000 * figures.percentile(0.5):.1f} ms, p95 {1000 * figures.percentile(0.95):.1f} ms, "
        f"p99 {1000 * figures.percentile(0.99):.1f} ms; {calls:.2f} Redis calls each"
    )

    assert figures.statuses == statuses
    assert calls < 3
    assert figures.percentile(0.95) < MOST_SECONDS

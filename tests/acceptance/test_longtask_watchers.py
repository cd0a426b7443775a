"""A hundred long tasks, each watched by somebody's page: right answers, and few calls of Redis.

The bench measures how many answers the web server gives (``polls``), so that is not asserted here.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

WATCHERS = 100
EVERY_SECONDS = 2.0
ROUNDS = 3
MAX_SECONDS = 30.0
"""A later answer counts as none."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Watched:
    """The web server, and what is watched there."""

    url: str
    redis_server: RedisServer
    ids: list[str]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A web server, and a hundred tasks in the middle of their work."""
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


async def ask(address: str, path: str, headers: Sequence[str]) -> tuple[int, dict[str, str], str]:
    """One request on a connection of its own: status, headers and body of the answer."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"GET {path} HTTP/1.1", f"Host: {address}", "Connection: close", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    answer = await reader.read()
    while piece := await reader.read():
        answer += piece
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.decode().partition("\r\n\r\n")
    lines = head.split("\r\n")
    pairs = (line.partition(": ") for line in lines[1:])
    return int(lines[0].split()[1]), {name.lower(): value for name, _, value in pairs}, body


async def watch(watched: Watched, accept: str) -> Counter[int]:
    """All watchers ask again and again, spread evenly; returns how often each status came."""
    address = urlsplit(watched.url).netloc
    began_at = time.monotonic()
    statuses: Counter[int] = Counter()

    async def one(place: int, task_id: str) -> None:
        path = looking.urls_of("/told", task_id).status
        etag = ""
        for turn in range(ROUNDS):
            due_at = began_at + EVERY_SECONDS * (turn + place / WATCHERS)
            await asyncio.sleep(max(0.0, due_at - time.monotonic()))
            headers = [f"Accept: {accept}"] + ([f"If-None-Match: {etag}"] if etag else [])
            async with asyncio.timeout(MAX_SECONDS):
                status, found, body = await ask(address, path, headers)
            statuses[status] += 1
            assert status == 304 or "Handling invoices" in body
            etag = found.get("etag", "")

    await asyncio.gather(*(one(place, task_id) for place, task_id in enumerate(watched.ids)))
    return statuses


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/json", {200: WATCHERS, 304: (ROUNDS - 1) * WATCHERS}),
        ("text/html", {200: ROUNDS * WATCHERS}),
    ],
    ids=["polls", "pages"],
)
def test_every_watcher_gets_the_right_answer(watched: Watched, accept: str, expected: dict[int, int]) -> None:
    """Polls with ETag, as with JavaScript; whole pages, as without."""
    with monitored(watched.redis_server) as heard:
        statuses = asyncio.run(watch(watched, accept))
    calls = sum(not command.is_of_script for command in heard.commands()) / statuses.total()

    assert statuses == expected
    assert 0 < calls < 3

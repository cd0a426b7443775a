"""The quilt on a site that runs whole: how soon it answers, and what it survives."""

import datetime
import json
import statistics
import threading
import time
import urllib.request
from typing import Any

import pytest

from tests.support.backend import instances
from tests.support.processes import kill, wait_until
from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.xdist_group("site")]

# Three times the promise.
SILENCE_SECONDS = 9.0


def is_done(site: Site, name: str) -> bool:
    """Whether the operation of this name is over."""
    return bool(site.json(f"/{name}.json?after=1000000")["done"])


def seconds_to_start(site: Site, rows: int, columns: int) -> tuple[float, str]:
    """How long a POST takes to answer; and the new quilt's name."""
    before = time.monotonic()
    operation = site.post("/quilt", rows=rows, columns=columns)
    return time.monotonic() - before, operation["name"]


@pytest.mark.alone
def test_starting_a_quilt_answers_at_once_whatever_its_size(site: Site) -> None:
    """The promise is 100 ms for 64 squares, and a second for 10,000."""
    seconds_to_start(site, 1, 1)
    times = []
    for _ in range(12):
        seconds, name = seconds_to_start(site, 8, 8)
        times.append(seconds)
        wait_until(lambda name=name: is_done(site, name), 20)  # type: ignore[misc]
    median = statistics.median(times)
    large_seconds, large = seconds_to_start(site, 100, 100)
    print(
        f"measured POST /quilt: median {median * 1000:.1f} ms (promised: 100), "
        f"100 by 100 {large_seconds * 1000:.1f} ms (promised: 1000)"
    )
    assert median < 0.3
    assert large_seconds < 3.0
    site.post(f"/{large}/cancel")
    wait_until(lambda: is_done(site, large), 30)


# Three times the bar.
LATER_SECONDS = 6.0


def seconds_to_finish(site: Site, rows: int, columns: int, delay_ms: int) -> float:
    """How long a quilt takes from its start to its end, by the server's clock."""
    name = site.post("/quilt", rows=rows, columns=columns, delay_ms=delay_ms)["name"]
    wait_until(lambda: is_done(site, name), 60)
    metadata = site.json(f"/{name}.json")["metadata"]
    assert metadata["state"] == "done"
    created, finished = (
        datetime.datetime.fromisoformat(metadata[at]) for at in ("created_at", "finished_at")
    )
    return (finished - created).total_seconds()


def test_a_small_quilt_is_hardly_later_beside_all_that_strangers_may_start(site: Site) -> None:
    """The bar is 2 s later than alone, at the same delay. Reports would be slow for half a minute each."""
    alone = seconds_to_finish(site, 8, 8, 500)
    reports = [site.post("/intrastat", delay_ms=900 - number) for number in range(30)]
    urls = [report["metadata"]["status_url"] for report in reports]
    counts = [f"beside-{number}" for number in range(9)]
    for name in counts:
        site.post("/count", name=name, intervals="1-120", delay_ms=1000)
    large = [site.post("/quilt", rows=16, columns=15, delay_ms=500)["name"] for _ in range(9)]
    wait_until(lambda: all(site.json(f"/{name}.json")["metadata"]["step"] >= 4 for name in large))

    beside = seconds_to_finish(site, 8, 8, 500)

    states = [site.json(url)["metadata"]["state"] for url in urls]
    are_under_way = [not is_done(site, name) for name in large]
    for path in [f"/{name}/cancel" for name in large] + [f"/count/{name}/cancel" for name in counts]:
        site.post(path)
    for url in urls:
        site.post(url.replace("=query", "=cancel"))
    print(
        f"measured 8 by 8 at 500 ms: alone {alone:.2f} s, beside nine of 240 squares, nine counts and thirty "
        f"reports {beside:.2f} s"
    )
    assert are_under_way == [True] * 9
    assert states.count("running") <= 2
    assert "ready" in states
    assert beside - alone < LATER_SECONDS
    wait_until(lambda: all(is_done(site, name) for name in large), 30)


def listen(site: Site, path: str, messages: list[dict[str, Any]]) -> threading.Thread:
    """Collect what a page's stream says, from its token on."""
    with urllib.request.urlopen(site.url + path, timeout=20) as response:
        token = response.read().decode().partition('data-token="')[2].partition('"')[0]
    stream = urllib.request.urlopen(f"{site.url}/_ah/channel/stream?token={token}", timeout=60)

    def read() -> None:
        with stream:
            messages.extend(
                json.loads(line.removeprefix(b"data:")) for line in stream if line.startswith(b"data:")
            )

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def workers_of(site: Site) -> list[int]:
    """The processes that deliver the quilt's tasks: those of the default service."""
    found = []
    for pid in site.processes.others():
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if b"worker-process" in file.read().split(b"\0"):
                found.append(pid)
    return [pid for pid in found if pid not in instances(site)]


def test_a_worker_killed_in_the_middle_costs_no_square_and_no_second_complete(site: Site) -> None:
    """kill -9: the quilt completes, every square is there once, one message says complete."""
    operation = site.post("/quilt", rows=12, columns=12, delay_ms=300)
    name = operation["name"]
    messages: list[dict[str, Any]] = []
    listen(site, f"/{name}", messages)
    wait_until(lambda: site.json(f"/{name}.json")["metadata"]["step"] >= 20)
    kill(workers_of(site)[0])
    killed_at = time.monotonic()
    wait_until(lambda: is_done(site, name), 60)
    seconds = time.monotonic() - killed_at
    print(f"measured worker kill: complete {seconds:.1f} s later")
    assert seconds < 45
    operation = site.json(f"/{name}.json")
    assert operation["metadata"]["state"] == "done"
    assert len({(row, column) for row, column, _ in operation["response"]["squares"]}) == 144
    wait_until(lambda: any("complete" in message for message in messages), 20)
    time.sleep(1)
    assert sum("complete" in message for message in messages) == 1
    sent = {(message["row"], message["column"]): message["color"] for message in messages if "row" in message}
    assert (
        sent.items()
        <= {(row, column): color for row, column, color in operation["response"]["squares"]}.items()
    )


def test_a_redis_that_is_there_and_silent_keeps_no_visitor_waiting(site: Site) -> None:
    """Frozen, not gone: nothing refuses the connection, so patience alone decides."""
    name = site.post("/quilt", rows=10, columns=10, delay_ms=500)["name"]
    wait_until(lambda: site.json(f"/{name}")["metadata"]["state"] == "running")
    with site.redis_server.frozen():
        for path in ("/", f"/{name}", f"/{name}.json"):
            asked_at = time.monotonic()
            with urllib.request.urlopen(site.url + path, timeout=20) as response:
                assert response.status == 200
            assert time.monotonic() - asked_at < SILENCE_SECONDS, path
    wait_until(lambda: site.json(f"/{name}")["metadata"]["state"] == "done", 60)

"""The counting program on a site that runs whole: two instances of the backend, stopped and killed."""

import os
import signal
import statistics
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.backend import instances
from tests.support.processes import is_alive, kill, wait_until
from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.xdist_group("site")]

# Three times the promise.
SILENCE_SECONDS = 9.0


def start(site: Site, name: str, intervals: list[tuple[int, int]], delay_ms: int = 0) -> None:
    """Start a run."""
    text = ",".join(f"{first}-{last}" for first, last in intervals)
    site.post("/count", name=name, intervals=text, delay_ms=delay_ms)


def operation(site: Site, name: str) -> Any:
    """How far it is."""
    return site.json(f"/count/{name}.json")


def wait_for_the_end(site: Site, name: str, seconds: float = 60.0) -> Any:
    """The operation of a run that is over."""
    wait_until(lambda: operation(site, name)["done"], seconds, f"the end of {name}")
    return operation(site, name)


def holders(site: Site, name: str) -> set[int]:
    """The process ids of the instances that count at this moment."""
    intervals = operation(site, name).get("response", {"intervals": []})["intervals"]
    return {int(each["instance"].split()[1]) for each in intervals if each["instance"]}


def texts(found: Any) -> list[str]:
    """The log of a run."""
    return [line["text"] for line in found["response"]["log"]]


def check_once_each(found: Any, intervals: list[tuple[int, int]]) -> None:
    """Every interval has its numbers, each once, and was finished once."""
    assert found["metadata"]["state"] == "done"
    expected = [list(range(first, last + 1)) for first, last in intervals]
    assert [each["numbers"] for each in found["response"]["intervals"]] == expected
    for first, last in intervals:
        assert sum(text.startswith(f"{first}-{last}: ") for text in texts(found)) == 1


def test_the_backend_counts_and_nobody_else(site: Site) -> None:
    intervals = [(1, 10), (11, 20), (5, 15)]
    start(site, "plain", intervals, delay_ms=20)

    found = wait_for_the_end(site, "plain")

    check_once_each(found, intervals)
    pids = {int(line["instance"].split()[1]) for line in found["response"]["log"]}
    assert pids <= set(instances(site))
    assert texts(found)[0] == "puts 3 sub tasks on queue subtasks: 1-10, 11-20, 5-15"
    assert texts(found)[-1] == "run over: 3 of 3 intervals counted"


def test_the_backend_killed_in_the_middle_costs_no_interval_and_counts_none_twice(site: Site) -> None:
    """kill -9 of every instance, at different moments: the supervisor starts others, who go on."""
    intervals = [(100 * n + 1, 100 * n + 60) for n in range(12)]
    start(site, "killed", intervals, delay_ms=60)
    wait_until(lambda: operation(site, "killed")["metadata"]["numbers"]["counted"] >= 60)
    before = instances(site)
    for pid in before:
        kill(pid)
    killed_at = time.monotonic()
    wait_until(lambda: holders(site, "killed") - set(before), 40, "others go on")
    taken_over_after = time.monotonic() - killed_at

    found = wait_for_the_end(site, "killed", 90)

    print(f"measured kill -9 of {len(before)} instances: others count {taken_over_after:.1f} s later")
    check_once_each(found, intervals)
    assert any("did not finish it" in text and "continues " in text for text in texts(found))
    assert set(instances(site)).isdisjoint(before)


def test_an_instance_that_is_stopped_gives_back_what_it_holds_and_another_goes_on(site: Site) -> None:
    """SIGTERM, as a deployment sends it: the shutdown hook logs, and no number is counted again."""
    intervals = [(1000 * n + 1, 1000 * n + 40) for n in range(8)]
    wait_until(lambda: len(instances(site)) == 2)
    start(site, "stopped", intervals, delay_ms=100)
    wait_until(lambda: operation(site, "stopped")["metadata"]["numbers"]["counted"] >= 30)
    pid = holders(site, "stopped").pop()
    os.kill(pid, signal.SIGTERM)
    stopped_at = time.monotonic()
    wait_until(lambda: not is_alive(pid), 60)
    stopped_after = time.monotonic() - stopped_at

    found = wait_for_the_end(site, "stopped", 90)

    print(f"measured SIGTERM: the instance was gone after {stopped_after:.2f} s")
    check_once_each(found, intervals)
    lines = found["response"]["log"]
    given_back = [line for line in lines if line["text"].startswith("shuts down and gives back")]
    assert given_back, "it did not wait for the end of its intervals"
    assert {line["instance"] for line in given_back} == {f"counter {pid}"}
    for line in given_back:
        span, counted = line["text"].split()[5].rstrip(","), int(line["text"].split()[6])
        first = int(span.split("-")[0])
        assert f"continues {span} from {first + counted}, retry 1" in texts(found) or counted == 0


def test_fifty_who_start_one_name_at_once_start_one_run(site: Site) -> None:
    """One 202; all others 409 that say it runs. Its intervals are those of the one who won."""
    barrier = threading.Barrier(25)

    def try_to_start(number: int) -> int:
        barrier.wait()
        try:
            site.post("/count", name="race", intervals=f"{number}-{number + 5}", delay_ms=100)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        return 202

    with ThreadPoolExecutor(25) as pool:
        codes = list(pool.map(try_to_start, range(50)))

    assert sorted(codes) == [202] + [409] * 49
    winner = codes.index(202)
    check_once_each(wait_for_the_end(site, "race"), [(winner, winner + 5)])


def test_a_redis_that_is_there_and_silent_keeps_no_visitor_waiting(site: Site) -> None:
    """Frozen, not gone: the pages answer from the datastore, and the run goes on afterwards."""
    intervals = [(1, 30)]
    start(site, "ended", [(1, 3)])
    wait_for_the_end(site, "ended")
    start(site, "frozen", intervals, delay_ms=100)
    wait_until(lambda: operation(site, "frozen")["metadata"]["numbers"]["counted"] >= 3)
    with site.redis_server.frozen():
        for path in ("/count", "/count/frozen", "/count/frozen.json", "/count/ended"):
            asked_at = time.monotonic()
            with urllib.request.urlopen(site.url + path, timeout=20) as response:
                assert response.status == 200
            assert time.monotonic() - asked_at < SILENCE_SECONDS, path
    check_once_each(wait_for_the_end(site, "frozen"), intervals)


@pytest.mark.alone
def test_starting_answers_at_once_whatever_there_is_to_count(site: Site) -> None:
    """The promise is 100 ms for three intervals, and a second for a hundred of a thousand numbers."""
    small = []
    for number in range(12):
        before = time.monotonic()
        start(site, f"small-{number}", [(1, 10), (11, 20), (21, 30)])
        small.append(time.monotonic() - before)
        wait_for_the_end(site, f"small-{number}", 20)
    before = time.monotonic()
    start(site, "large", [(n, n + 999) for n in range(100)])
    large = time.monotonic() - before
    wait_for_the_end(site, "large", 60)
    median = statistics.median(small)
    print(
        f"measured POST /count: median {median * 1000:.1f} ms (promised: 100), "
        f"100 intervals {large * 1000:.1f} ms (promised: 1000)"
    )
    assert median < 0.3
    assert large < 3.0

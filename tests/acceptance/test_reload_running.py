"""The batch reload on a site that runs whole: 10,000 accounts, and a loader that is killed at its end."""

import re
import shutil
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

import feed
from tests.support.processes import ROOT, wait_until
from tests.support.site import Site, running_site

pytestmark = pytest.mark.slow

ACCOUNTS = 10_000
RATE, AT_ONCE = 100, 20
"""As queue.yaml has them."""

# In a cron.yaml of its own: the first run comes within a minute.
CLOCK = """\
cron:
- url: /taskloader/
  schedule: every 1 minutes
"""

# At the end of the copy's feed.py: the feed notes whom it was asked for.
NOTES = """

_get = FeedHandler.get


def _noted(self, key):
    with open({path!r}, "a") as file:
        file.write(key + "\\n")
    _get(self, key)


FeedHandler.get = _noted
"""

# At the end of the copy's reloading.py: the first loader to come to its end is killed there.
KILLED = """

import signal

_note_loaded = note_loaded


def note_loaded(run_id):
    try:
        os.close(os.open({path!r}, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        _note_loaded(run_id)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


import os
"""


class Reloads:
    """A site that runs a copy of the application, and what its feed was asked.

    Args:
        site: the running copy.
        asked: the file of the keys.
        folder: of the copy.
    """

    def __init__(self, site: Site, asked: Path, folder: Path) -> None:
        self.site = site
        self._asked = asked
        self._clock = folder / "cron.yaml"

    def add(self, keys: list[str]) -> None:
        """Add accounts, as many at once as the form takes."""
        for first in range(0, len(keys), 1000):
            self.site.post("/accounts", keys=" ".join(keys[first : first + 1000]))

    def start(self) -> str:
        """Begin a run by hand; its id."""
        self.site.json("/taskloader/")
        name: str = self.site.json("/reloads")["reloads"][0]["name"]
        return name.rpartition("/")[2]

    def start_by_the_clock(self) -> str:
        """Have cron begin a run, and no other; its id."""
        self._clock.write_text(CLOCK)
        wait_until(lambda: self.site.json("/reloads")["reloads"], 100, "cron begins a run")
        self._clock.unlink()
        [run] = self.site.json("/reloads")["reloads"]
        assert run["started_by"] == "cron"
        return str(run["name"].rpartition("/")[2])

    def operation(self, run_id: str) -> Any:
        """How far a run is."""
        return self.site.json(f"/reloads/{run_id}.json")

    def wait(self, run_id: str, seconds: float) -> Any:
        """The operation of a run that is over."""
        wait_until(lambda: self.operation(run_id)["done"], seconds, f"the end of {run_id}")
        return self.operation(run_id)

    def asked(self) -> Counter[str]:
        """How often the feed was asked for each key."""
        return Counter(self._asked.read_text().split())


@contextmanager
def running_copy(folder: Path, **at_end: str) -> Iterator[Reloads]:
    """The application in another folder, with its own queue.yaml, without its clock.

    Args:
        folder: for the copy.
        at_end: text to be put at the end of these modules.
    """
    asked = folder / "asked.txt"
    asked.touch()
    copy = folder / "app"
    copy.mkdir()
    for name in ("static", "templates", "migrations"):
        shutil.copytree(ROOT / name, copy / name)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.yaml")]:
        if path.name != "cron.yaml":
            shutil.copy(path, copy)
    texts = {"feed": NOTES.format(path=str(asked)), **at_end}
    for module, text in texts.items():
        with (copy / f"{module}.py").open("a") as file:
            file.write(text)
    own = (
        f"- name: reload\n  rate: {RATE}/s\n  bucket_size: {AT_ONCE}\n  max_concurrent_requests: {AT_ONCE}\n"
    )
    assert own in (copy / "queue.yaml").read_text(), "the reload's queue is another than this test knows"
    with running_site(copy) as site:
        yield Reloads(site, asked, copy)


@pytest.mark.timeout(480)
def test_ten_thousand_accounts_are_each_fetched_once_and_the_counts_are_right(tmp_path: Path) -> None:
    """5 in 100 fail three times each, 1 in 100 is slow; "retry failed" then has those and no others.

    At 100/s that takes 1 min 52 s.
    """
    keys = [f"account-{number:05}" for number in range(ACCOUNTS)]
    failing = {key for key in keys if feed.is_failing(key)}
    assert 400 < len(failing) < 600
    with running_copy(tmp_path) as reloads:
        reloads.add(keys)
        run_id = reloads.start()

        began_at = time.monotonic()
        found = watched(reloads, run_id)
        took = time.monotonic() - began_at

        # What the bucket lets through at once, and what had run when the watching began, came sooner.
        tasks = ACCOUNTS + 2 * len(failing)
        assert took > tasks / RATE - 10, "the rate of queue.yaml holds"
        assert reloads.asked() == {key: 3 if key in failing else 1 for key in keys}
        check_end(found, failing)
        check_statuses(reloads, keys, failing)
        check_page(reloads, run_id, found)

        retried = reloads.site.post(f"/reloads/{run_id}/retry")["name"].rpartition("/")[2]
        again = reloads.wait(retried, 120)

        assert again["metadata"]["numbers"]["failed"] == len(failing)
        assert reloads.asked() == {key: 6 if key in failing else 1 for key in keys}


def watched(reloads: Reloads, run_id: str) -> Any:
    """The operation at the end; until then the numbers are right at each look, and never fall."""
    began_at = time.monotonic()
    seen = [0]
    while not (found := reloads.operation(run_id))["done"]:
        numbers = found["metadata"]["numbers"]
        assert numbers["done"] + numbers["failed"] + numbers["remaining"] == numbers["total"] == ACCOUNTS
        assert numbers["done"] >= seen[-1]
        seen.append(numbers["done"])
        assert time.monotonic() - began_at < 270
        time.sleep(0.5)
    texts = found["metadata"]["texts"]
    print(f"measured reload of {ACCOUNTS:,} accounts at {RATE}/s, {AT_ONCE} at once: ", end="")
    print(f"{texts['duration']}, {texts['rate']}/s")
    return found


def check_end(found: Any, failing: set[str]) -> None:
    """The counts, the failing and the slowest."""
    metadata, response = found["metadata"], found["response"]
    assert metadata["numbers"] == {
        "done": ACCOUNTS - len(failing),
        "failed": len(failing),
        "remaining": 0,
        "total": ACCOUNTS,
    }
    assert metadata["state"] == "failed"
    assert [each["account"] for each in response["failing"]] == sorted(failing)[:50]
    assert {each["attempts"] for each in response["failing"]} == {3}
    assert all(feed.is_slow(each["account"]) for each in response["slowest"])


def check_statuses(reloads: Reloads, keys: list[str], failing: set[str]) -> None:
    """Each account has what the feed tells of it."""
    statuses: dict[str, str | None] = {}
    address = "/accounts"
    while address:
        page = reloads.site.json(address)
        statuses |= {each["key"]: each["status"] for each in page["accounts"]}
        address = page["next"]
    assert statuses == {key: None if key in failing else feed.status_of(key) for key in keys}


def check_page(reloads: Reloads, run_id: str, found: Any) -> None:
    """The page that the server draws says the same as the JSON."""
    with urllib.request.urlopen(f"{reloads.site.url}/reloads/{run_id}", timeout=20) as answer:
        text = answer.read().decode()
    for name in ("done", "failed", "remaining"):
        shown = re.search(rf'<dd id="{name}">([^<]*)</dd>', text)
        assert shown is not None
        assert shown[1] == f"{found['metadata']['numbers'][name]:,}"
    assert found["metadata"]["message"] in text


@pytest.mark.timeout(300)
def test_a_loader_killed_after_its_last_add_loads_nothing_twice(tmp_path: Path) -> None:
    """kill -9 of its worker, in cron's run; what else ran there is fetched again, and counts once."""
    keys = [f"account-{number:05}" for number in range(1500)]
    failing = {key for key in keys if feed.is_failing(key)}
    killed = tmp_path / "killed"
    with running_copy(tmp_path, reloading=KILLED.format(path=str(killed))) as reloads:
        reloads.add(keys)
        run_id = reloads.start_by_the_clock()
        assert re.fullmatch(r"\d{8}T\d{6}Z", run_id), "the instant for which it was due"
        wait_until(killed.exists, 60, "the loader comes to its end")

        found = reloads.wait(run_id, 90)

        assert found["metadata"]["numbers"] == {
            "done": len(keys) - len(failing),
            "failed": len(failing),
            "remaining": 0,
            "total": len(keys),
        }
        with redis.Redis.from_url(reloads.site.redis_server.url, decode_responses=True) as client:
            batch = client.hgetall(f"lastacross:batch:reload-{run_id}")
        assert (batch["total"], batch["sealed"]) == (str(len(keys)), "1")
        # Ten times a process's threads, for what was under way when it was killed.
        asked = reloads.asked()
        assert [run["name"] for run in reloads.site.json("/reloads")["reloads"]] == [f"reloads/{run_id}"]
        assert set(asked) == set(keys)
        assert sum(asked.values()) <= len(keys) + 2 * len(failing) + 80

"""``lastacross batches``: an operator sees which batches are open and how far they are, and cancels them."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross import audit, config, store, taskqueue
from lastacross.store import Store
from lastacross.taskqueue import Batch, Task
from tests.conftest import SECRET_KEY
from tests.support.command_line import Capture, Command, command_line
from tests.support.redis_server import RedisServer
from tests.support.uploads import upload


@pytest.fixture
def command(
    app_root: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> Iterator[Command]:
    """Runs a command beside an open batch "b" of two members and a complete batch "e" of none."""
    for name in ("SECRET_KEY", "LASTACROSS_APP", "LASTACROSS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.chdir(app_root)
    opened = Store(redis_server.url)
    opened.redis.flushall()
    upload(opened)
    config.use(config.load(app_root, {"SECRET_KEY": SECRET_KEY, "REDIS_URL": redis_server.url}))
    store.use(opened)
    Batch(name="b").__enter__().add([Task(url="/a"), Task(url="/b")])
    with Batch(name="e"):
        pass
    assert taskqueue.Queue().fetch_statistics().tasks == 2
    store.use(None)
    config.use(None)
    with command_line(capsys) as run:
        yield run
    opened.close()


def test_open_batches_are_listed_with_their_counts(command: Command) -> None:
    code, out, err = command("batches", "list")
    [row] = json.loads(command("batches", "list", "--json")[1])

    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[:7] == ["b", "default", "open", "2", "0", "0", "0"]
    assert (row["id"], row["state"], row["total"]) == ("b", "open", 2)


def test_a_batch_is_shown_even_after_its_end(command: Command) -> None:
    row = json.loads(command("batches", "show", "e", "--json")[1])
    code, out, _ = command("batches", "show", "b")

    assert (row["state"], row["total"]) == ("complete", 0)
    assert row["finished_at"].endswith("Z")
    assert code == 0
    assert ["total", "2"] in [line.split() for line in out.splitlines()]


def test_a_batch_is_cancelled_and_recorded(command: Command, redis_server: RedisServer) -> None:
    assert command("batches", "cancel", "b") == (0, "batch b is cancelled: 2 of 2 members\n", "")
    assert json.loads(command("batches", "show", "b", "--json")[1])["state"] == "cancelled"
    assert json.loads(command("batches", "list", "--json")[1]) == []
    with contextlib.closing(Store(redis_server.url)) as opened:
        [entry] = audit.read(opened).entries
    assert (entry.action, entry.ids, entry.source) == ("batch.cancel", ("b",), "cli")


@pytest.mark.parametrize("name", ["show", "cancel"])
def test_a_batch_that_does_not_exist_is_named(command: Command, name: str) -> None:
    code, out, err = command("batches", name, "nothing")

    assert (code, out) == (1, "")
    assert err.startswith("lastacross: there is no batch 'nothing'")

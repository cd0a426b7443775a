"""A process killed anywhere around a commit: its tasks are there if, and only if, its rows are."""

import itertools
import shutil
import signal
from pathlib import Path

import pytest

from lastacross import config, datastore
from lastacross.datastore import DeferredPayload, OutboxRow, outbox, relay
from tests.support import outbox_process
from tests.support.outbox_process import count, landed, run_to_its_death
from tests.support.own_sessions import KINDS
from tests.support.processes import wait_until
from tests.support.redis_server import RedisServer
from tests.support.scripts import Scripts

pytestmark = pytest.mark.slow


def on_each_session(names: str, *values: object, brief: object) -> pytest.MarkDecorator:
    """Run a test with all values in our own transactions, and with one in SQLAlchemy's and in Django's.

    The long tests take the rest.
    """
    return pytest.mark.parametrize(
        f"session_kind, {names}",
        [
            pytest.param(
                kind,
                *(value if isinstance(value, tuple) else (value,)),
                marks=[] if kind == "ours" or value == brief else pytest.mark.long,
            )
            for kind in KINDS
            for value in values
        ],
    )


@pytest.fixture
def environ(
    configuration: config.Config, database: str, redis_server: RedisServer, scripts: Scripts, app_root: Path
) -> dict[str, str]:
    """The environment of processes on an empty database and an empty Redis."""
    outbox_process.create_table()
    # The last connection to leave takes SQLite's log of the past along.
    datastore.dispose()
    return {
        "LASTACROSS_APP": str(app_root),
        "DATABASE_URL": database,
        "REDIS_URL": redis_server.url,
        "SECRET_KEY": config.current().settings.secret_key,
    }


def relayed() -> int:
    """What the scheduler sends when it is its turn."""
    return relay.relay(outbox.now() + 60)


def unsent() -> int:
    return count(OutboxRow, OutboxRow.sent_at.is_(None))


@on_each_session("kind", "small", "large", brief="large")
def test_a_process_killed_before_its_commit_leaves_nothing(
    scripts: Scripts, environ: dict[str, str], session_kind: str, kind: str
) -> None:
    run_to_its_death(["commit", "before_commit", kind, session_kind], environ)

    assert (landed(), relayed(), scripts.ready()) == ([], 0, [])
    assert count(DeferredPayload) == 0


@on_each_session(
    "point, kind",
    *itertools.product(["after_commit", "in_sending", "after_sending", "before_marking"], ["small", "large"]),
    brief=("after_commit", "large"),
)
def test_a_process_killed_after_its_commit_has_its_task_sent_once(
    scripts: Scripts, environ: dict[str, str], session_kind: str, point: str, kind: str
) -> None:
    run_to_its_death(["commit", point, kind, session_kind], environ)
    assert (landed(), unsent()) == (["one"], 1)

    assert (relayed(), relayed()) == (1, 0)

    assert len(scripts.ready()) == 1
    assert count(DeferredPayload) == (kind == "large")


@pytest.mark.parametrize("database_kind", ["sqlite"])
@on_each_session("share", 0, 0.5, 0.9, "all but the last byte", brief="all but the last byte")
def test_a_process_killed_in_the_middle_of_writing_its_commit_leaves_nothing(
    scripts: Scripts, environ: dict[str, str], tmp_path: Path, session_kind: str, share: float | str
) -> None:
    whole = bytes_of_a_commit(environ, tmp_path, session_kind)
    written = int(whole * share) if isinstance(share, float | int) else whole - 1

    run_to_its_death(["commit", f"in_commit:{written}", "large", session_kind], environ, signal.SIGXFSZ)

    log = Path(f"{environ['DATABASE_URL'].removeprefix('sqlite:///')}-wal")
    assert log.stat().st_size == written
    assert (landed(), relayed(), scripts.ready()) == ([], 0, [])
    assert count(DeferredPayload) == 0


def bytes_of_a_commit(environ: dict[str, str], tmp_path: Path, session_kind: str) -> int:
    """The size of the log after the same commit on a copy, by a process that is killed right after it."""
    shutil.copy(environ["DATABASE_URL"].removeprefix("sqlite:///"), tmp_path / "copy.db")
    on_copy = {**environ, "DATABASE_URL": f"sqlite:///{tmp_path}/copy.db"}
    run_to_its_death(["commit", "after_commit", "large", session_kind], on_copy)
    return (tmp_path / "copy.db-wal").stat().st_size


@pytest.mark.parametrize("database_kind", ["postgresql"])
@pytest.mark.parametrize("session_kind", KINDS)
def test_a_process_killed_before_it_hears_of_its_commit_has_its_task_sent(
    scripts: Scripts, environ: dict[str, str], session_kind: str
) -> None:
    run_to_its_death(["commit", "in_commit", "large", session_kind], environ)
    wait_until(landed, what="the server to commit")

    assert relayed() == 1

    assert (len(scripts.ready()), count(DeferredPayload)) == (1, 1)


def test_a_relay_killed_after_sending_sends_nothing_twice(scripts: Scripts, environ: dict[str, str]) -> None:
    run_to_its_death(["commit", "after_commit", "small"], environ)

    run_to_its_death(["relay"], environ)

    assert (len(scripts.ready()), unsent()) == (1, 1)
    scripts.ack(*scripts.lease())
    assert (relayed(), unsent(), scripts.ready()) == (1, 0, [])

"""What the console's pages and a scrape of the metrics cost: round trips to Redis, and processor time.

The busy site has 100,000 waiting tasks, 10,000 dead letters, 200 queues, 1,000 batches and a full audit log.
"""

import resource
from collections.abc import Iterator
from typing import Any

import pytest
from redis.connection import AbstractConnection

from lastacross import audit, config, datastore, metrics, store
from lastacross.accounts import Person
from lastacross.broker import Broker, DeadGroups, NewTask, queue_directory, record
from lastacross.processes import exposition
from lastacross.store import Store
from lastacross.taskqueue import Batch, Task
from tests.conftest import SECRET_KEY
from tests.support import console, databases
from tests.support.console import Visitor
from tests.support.redis_server import RedisServer

QUEUES, WAITING, DEAD, BATCHES = 200, 100_000, 10_000, 1_000
MAX_ROUND_TRIPS = 20
MAX_CPU_SECONDS = 0.3
SLACK = 3
CHUNK = 500

PAGES = (
    *("", "?queue=q7", "queues", "queues?order=ready", "queues/q7", "tasks", "tasks?queue=q7&state=ready"),
    *("tasks?url=/nowhere", "tasks?name=none", "tasks/q7/t7", "dead", "dead/{group}", "cron", "batches"),
    *(
        "batches?batch=b7",
        "longtasks",
        "workers",
        "handlers",
        "handlers?window=24h",
        "configuration",
        "audit",
        "audit?name=nobody",
    ),
)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Visitor]:
    """The administrator of a site of this size."""
    root = tmp_path_factory.mktemp("busy")
    (root / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    rows = [f"- name: q{number}\n  rate: 5/s\n" for number in range(QUEUES)]
    (root / "queue.yaml").write_text("queue:\n" + "".join(rows))
    environ = {
        "REDIS_URL": redis_server.url,
        "DATABASE_URL": f"sqlite:///{root}/busy.db",
        "SECRET_KEY": SECRET_KEY,
        "LASTACROSS_DATA_DIR": str(root / "var"),
        "LASTACROSS_ALLOWED_HOSTS": "localhost",
    }
    configuration = config.load(root, environ)
    config.use(configuration)
    opened = Store(redis_server.url)
    opened.redis.flushall()
    store.use(opened)
    databases.upgrade()
    queue_directory.upload(opened, configuration)
    _fill(opened)
    yield console.admin(configuration)
    opened.redis.flushall()
    store.use(None)
    opened.close()
    datastore.dispose()
    config.use(None)


def _fill(opened: Store) -> None:
    broker = Broker(opened)
    _add(broker, "q7", DEAD)
    number = 0
    while tasks := _lease(broker, number):
        number += len(tasks)
        for task in tasks:
            broker.dead_letter(task, 500, f"HTTP 500: order {task.name} has no address {len(task.name)}")
    # Half of the tasks are in one queue, and the others are spread over all of them.
    _add(broker, "q7", WAITING // 2, "w")
    for queue in range(QUEUES):
        _add(broker, f"q{queue}", WAITING // 2 // QUEUES)
    for place in range(BATCHES):
        with Batch("q1", name=f"b{place}") as batch:
            batch.add(Task(url="/member"))
    recorder = metrics.Recorder(opened)
    recorder.record([(f"q{place}", f"/handler/{place}", "done", 0.01, 0.1) for place in range(QUEUES)])
    recorder.flush()
    audit.record(opened, Person("anna", "admin", "password"), "queue.pause", ["q7"])
    newest: Any = opened.redis.xrange(store.AUDIT)
    [(_, fields)] = newest
    with opened.redis.pipeline(transaction=False) as pipe:
        for _ in range(audit.MAX_ENTRIES - 1):
            pipe.xadd(store.AUDIT, fields)
        pipe.execute()


def _lease(broker: Broker, number: int) -> Any:
    # Straight from the list: the queue's rate would make this take an hour.
    request = {"token": "t" * 48, "number": number, "wanted": 500, "free": 500, "lease_seconds": 600.0}
    broker.store.redis.hset(
        store.settings_key("q7"), mapping={"rate": "1000000000", "bucket_size": "1000000000"}
    )
    return broker.lease(["q7"], **request).tasks  # type: ignore[arg-type]


def _add(broker: Broker, queue: str, count: int, prefix: str = "t") -> None:
    now = broker.now()
    for first in range(0, count, CHUNK):
        tasks = []
        for number in range(first, min(first + CHUNK, count)):
            fields = record.dump(f"POST /order/{number}", queue, now, eta=now, body=b"a=1")
            tasks.append(NewTask(record.task_id(queue, f"{prefix}{number}"), None, fields))
        broker.add(tasks)


@pytest.fixture
def round_trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what was sent to Redis, each a command or a pipeline that is answered at once."""
    sent: list[int] = []
    send: Any = AbstractConnection.send_packed_command

    def counted(self: Any, command: Any, check_health: bool = True) -> None:
        sent.append(1)
        send(self, command, check_health)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", counted)
    return sent


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", PAGES)
def test_a_page_of_a_busy_site_is_cheap(
    busy: Visitor, redis_server: RedisServer, round_trips: list[int], path: str
) -> None:
    path = path.format(group=DeadGroups(store.current()).all()[0].id if "{" in path else "")
    busy.client.get(f"/_ah/admin/{path}")  # imports, templates and scripts
    round_trips.clear()
    before = _cpu_seconds()

    answer = busy.client.get(f"/_ah/admin/{path}", status=200)

    seconds = _cpu_seconds() - before
    print(
        f"measured {path or 'overview'}: {len(round_trips)} round trips, {seconds:.3f} s,",
        f"{len(answer.body)} bytes",
    )
    assert 0 <= len(round_trips) <= MAX_ROUND_TRIPS
    assert seconds <= SLACK * MAX_CPU_SECONDS
    assert len(answer.body) < 200_000


@pytest.mark.usefixtures("busy")
def test_a_scrape_of_a_busy_site_is_cheap(round_trips: list[int]) -> None:
    exposition.scrape("")
    round_trips.clear()
    before = _cpu_seconds()

    body, _ = exposition.scrape("")

    seconds = _cpu_seconds() - before
    print(f"measured metrics: {len(round_trips)} round trips, {seconds:.3f} s, {len(body)} bytes")
    assert 0 < len(round_trips) <= MAX_ROUND_TRIPS
    assert seconds <= SLACK * MAX_CPU_SECONDS


def _cpu_seconds() -> float:
    """The processor time of this process and of Redis."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    info: Any = store.current().redis.info("cpu")
    return float(own.ru_utime + own.ru_stime + info["used_cpu_user"] + info["used_cpu_sys"])

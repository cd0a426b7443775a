"""``lastacross deploy``: one command puts files into effect, and no other process of production does."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lastacross import config, datastore, store, taskqueue
from lastacross.broker import Broker, deployments, queue_directory
from lastacross.config import Config
from lastacross.cronruns import model
from lastacross.processes import scheduler
from lastacross.processes.scheduler import DeployedCron, DeployedQueues
from lastacross.processes.start_upload import StartUpload, different_files
from lastacross.store import Store, settings_key
from tests.conftest import SECRET_KEY
from tests.support import databases
from tests.support.clock import StoppedClock
from tests.support.command_line import Capture, Command, command_line
from tests.support.redis_server import RedisServer
from tests.support.uploads import upload

QUEUES = "queue:\n- name: default\n  rate: 7/s\n- name: mail\n  rate: 5/s\n"
JOBS = "cron:\n- url: /load\n  schedule: every day 02:30\n- url: /tick\n  schedule: every 5 mins\n"


@pytest.fixture
def opened(redis_server: RedisServer) -> Iterator[Store]:
    """An empty Redis with the machine's clock."""
    opened = Store(redis_server.url)
    opened.redis.flushall()
    yield opened
    opened.close()


@pytest.fixture
def command(
    app_root: Path, opened: Store, monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> Iterator[Command]:
    """Runs a command in the application's folder; gives exit code, standard output and error."""
    for name in ("LASTACROSS_APP", "LASTACROSS_DATA_DIR", "LASTACROSS_DEV"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ(opened, tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(app_root)
    (app_root / "queue.yaml").write_text(QUEUES)
    (app_root / "cron.yaml").write_text(JOBS)
    with command_line(capsys) as run:
        yield run


def environ(opened: Store, tmp_path: Path) -> dict[str, str]:
    """The variables of every process of the site."""
    return {
        "REDIS_URL": opened.url,
        "DATABASE_URL": f"sqlite:///{tmp_path}/site.db",
        "SECRET_KEY": SECRET_KEY,
        "LASTACROSS_ALLOWED_HOSTS": "shop.example",
    }


@pytest.fixture
def machine(app_root: Path, opened: Store, tmp_path: Path, command: Command) -> Iterator[Config]:
    """The configuration of a machine with the files of the application's folder, as its processes use it."""
    databases.migrated_sqlite(tmp_path / "site.db", app_root)
    loaded = config.load(app_root, environ(opened, tmp_path))
    config.use(loaded)
    store.use(opened)
    yield loaded
    store.use(None)
    config.use(None)
    datastore.dispose()


def again(machine: Config, opened: Store, tmp_path: Path) -> Config:
    """The machine's configuration after its files have changed."""
    loaded = config.load(machine.root, environ(opened, tmp_path))
    config.use(loaded)
    store.use(opened)
    return loaded


def rate(opened: Store, queue: str = "default") -> str | None:
    """The rate that the scripts go by."""
    value = opened.redis.hget(settings_key(queue), "rate")
    return None if value is None else value.decode()  # type: ignore[union-attr]


def jobs_of(machine: Config) -> dict[str, str]:
    """URL → schedule of the jobs by which schedulers go."""
    config.use(machine)
    return {json.loads(job.entry)["url"]: job.schedule for job in model.jobs()}


# --- the command -------------------------------------------------------------------------------


def test_it_migrates_and_puts_all_files_into_effect(
    command: Command, app_root: Path, opened: Store, tmp_path: Path
) -> None:
    (app_root / "dispatch.yaml").write_text("dispatch:\n- url: '*/count*'\n  service: counter\n")

    code, out, err = command("deploy")

    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == ["deployed 2 queues", "deployed 2 cron jobs"]
    assert "engine: ran 0001" in out
    assert rate(opened) == "7.0"
    loaded = config.load(app_root, environ(opened, tmp_path))
    assert jobs_of(loaded) == {"/load": "every day 02:30", "/tick": "every 5 mins"}
    found = deployments.read(opened)
    assert found is not None
    assert (found.cause, [rule.service for rule in found.dispatch or ()]) == ("deploy", ["counter"])
    assert "@" in found.by


def test_its_answer_for_programs(command: Command, opened: Store) -> None:
    code, out, _ = command("deploy", "--json")

    answer = json.loads(out)
    assert code == 0
    assert answer["queues"] == ["default", "mail"]
    assert [name.rpartition("-")[0] for name in answer["jobs"]] == ["load", "tick"]
    assert answer["deployed_by"].count("@") == 1


@pytest.mark.parametrize("name", ["queue.yaml", "cron.yaml"])
def test_a_mistake_changes_nothing(command: Command, app_root: Path, opened: Store, name: str) -> None:
    (app_root / name).write_text(f"{name.partition('.')[0]}:\n- nme: x\n")

    code, out, err = command("deploy")

    assert (code, out) == (2, "")
    assert err.startswith(f"lastacross: {name}:2:")
    assert opened.redis.keys("*") == []


def test_it_makes_the_demands_of_production(
    command: Command, monkeypatch: pytest.MonkeyPatch, opened: Store
) -> None:
    monkeypatch.delenv("SECRET_KEY")
    monkeypatch.setenv("LASTACROSS_DEV", "1")

    code, _, err = command("deploy")

    assert code == 2
    assert err.startswith("lastacross: SECRET_KEY is not set")
    assert opened.redis.keys("*") == []


def test_a_queue_with_tasks_is_disabled_only_with_yes(
    command: Command, machine: Config, opened: Store, app_root: Path
) -> None:
    command("deploy")
    config.use(machine)
    store.use(opened)
    taskqueue.Queue("mail").add([taskqueue.Task(url="/a"), taskqueue.Task(url="/b")])
    (app_root / "queue.yaml").write_text("queue:\n- name: default\n  rate: 9/s\n")

    code, out, err = command("deploy")

    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "lastacross: queue.yaml does not list the queue mail, which would be disabled and keep its 2 tasks "
        "undelivered",
        "lastacross: nothing was deployed; use --yes to deploy anyway",
    ]
    assert rate(opened) == "7.0"
    assert command("deploy", "--yes")[0] == 0
    assert rate(opened) == "9.0"
    assert opened.redis.hget(settings_key("mail"), "is_disabled") == b"1"


def test_an_empty_queue_is_disabled_without_a_question(
    command: Command, opened: Store, app_root: Path
) -> None:
    command("deploy")
    (app_root / "queue.yaml").write_text("queue:\n- name: default\n")

    assert command("deploy")[0] == 0
    assert opened.redis.hget(settings_key("mail"), "is_disabled") == b"1"


def test_a_job_is_deleted_during_a_run_only_with_yes(
    command: Command, machine: Config, opened: Store, app_root: Path
) -> None:
    command("deploy")
    config.use(machine)
    store.use(opened)
    name = model.run_by_hand(model.jobs()[0].name, opened.now())
    (app_root / "cron.yaml").write_text("cron:\n- url: /tick\n  schedule: every 5 mins\n")

    code, _, err = command("deploy")

    assert name.startswith("load-")
    assert code == 1
    assert err.startswith("lastacross: cron.yaml does not have the job load-")
    assert len(jobs_of(machine)) == 2
    assert command("deploy", "--yes")[0] == 0
    assert list(jobs_of(machine)) == ["/tick"]


def test_a_folder_without_files_leaves_what_is_deployed(
    command: Command, machine: Config, opened: Store, app_root: Path
) -> None:
    """Another service's folder."""
    command("deploy")
    (app_root / "queue.yaml").unlink()
    (app_root / "cron.yaml").unlink()

    code, out, _ = command("deploy")

    assert code == 0
    assert out.splitlines() == [
        "deployed 2 queues (the deployed ones, since this folder has no queue.yaml)",
        "kept the deployed cron jobs, because this folder has no cron.yaml",
    ]
    assert rate(opened) == "7.0"
    assert len(jobs_of(machine)) == 2


def test_config_show_and_queues_list_tell_what_is_deployed(command: Command, app_root: Path) -> None:
    [nothing] = [line for line in command("config", "show")[1].splitlines() if line.startswith("deployed")]
    command("deploy")
    (app_root / "cron.yaml").write_text("cron:\n")
    shown = json.loads(command("config", "show", "--json")[1])["deployed"]
    [row, _] = json.loads(command("queues", "list", "--json")[1])
    footer = command("queues", "list")[1].splitlines()[-1]

    assert "nothing is deployed yet: run `lastacross deploy`" in nothing
    assert shown["source"] == "Redis"
    assert shown["value"].startswith("deployed on 20")
    assert shown["value"].endswith("; this folder's cron.yaml differ")
    assert row["deployed_by"] in shown["value"]
    assert footer == shown["value"].partition(";")[0]


# --- the processes of production ---------------------------------------------------------------


def test_a_process_uploads_where_nothing_was_ever_uploaded(machine: Config, opened: Store) -> None:
    assert StartUpload(machine).try_once()

    assert rate(opened) == "7.0"
    found = deployments.read(opened)
    assert found is not None
    assert found.cause == "start"


def test_a_process_with_another_file_warns_once_and_uploads_nothing(
    machine: Config, opened: Store, app_root: Path, tmp_path: Path
) -> None:
    queue_directory.deploy(opened, machine, cron="[]", cause="deploy")
    (app_root / "queue.yaml").write_text("queue:\n- name: default\n  rate: 1/s\n")
    (app_root / "dispatch.yaml").write_text("dispatch:\n- url: '*/x'\n  service: default\n")
    start = StartUpload(again(machine, opened, tmp_path))

    with capture_logs() as logged:
        assert all(start.try_once() for _ in range(3))

    [line] = logged
    assert (line["event"], line["log_level"]) == ("deploy.differs", "warning")
    assert line["files"] == ["queue.yaml", "dispatch.yaml", "cron.yaml"]
    assert "lastacross deploy" in line["remedy"]
    assert rate(opened) == "7.0"


def test_the_process_of_dev_uploads_a_file_that_differs(
    machine: Config, opened: Store, app_root: Path, tmp_path: Path
) -> None:
    queue_directory.deploy(opened, machine, cron="[]", cause="deploy")
    (app_root / "queue.yaml").write_text("queue:\n- name: default\n  rate: 1/s\n")
    loaded = config.load(app_root, environ(opened, tmp_path) | {"LASTACROSS_DEV": "1"})

    assert StartUpload(loaded).try_once()

    assert rate(opened) == "1.0"
    found = deployments.read(opened)
    assert found is not None
    assert found.cause == "dev"


def test_the_first_scheduler_takes_over_what_an_earlier_release_has_uploaded(
    machine: Config, opened: Store, app_root: Path, tmp_path: Path, clock: StoppedClock
) -> None:
    """That release left no deployment, only settings in Redis and jobs in the datastore."""
    upload(opened, {"default": {"rate": "3.0"}, "old": {"rate": "2.0"}, "gone": {}}, digest="earlier")
    upload(opened, {"default": {"rate": "3.0"}, "old": {"rate": "2.0"}}, digest="earlier")
    (app_root / "cron.yaml").write_text("cron:\n- url: /old\n  schedule: every day 01:00\n")
    model.deploy(again(machine, opened, tmp_path).cron, clock.now())
    (app_root / "cron.yaml").write_text(JOBS)
    loaded = again(machine, opened, tmp_path)
    steps = scheduler.steps(loaded, {})

    with capture_logs() as logged:
        for _ in range(3):
            scheduler.tick(steps, clock)
            clock.advance(2)

    found = deployments.read(opened)
    assert found is not None
    assert {name: fields["rate"] for name, fields in found.upload.queues.items()} == {
        "default": "3.0",
        "old": "2.0",
    }
    assert jobs_of(loaded) == {"/old": "every day 01:00"}
    assert different_files(opened, loaded) == ["queue.yaml", "cron.yaml"]
    assert [line["files"] for line in logged if line["event"] == "deploy.differs"] == [
        ["queue.yaml"],
        ["cron.yaml"],
    ]


def test_a_scheduler_runs_the_deployed_jobs_whatever_its_file_says(
    machine: Config, opened: Store, app_root: Path, tmp_path: Path, clock: StoppedClock, command: Command
) -> None:
    command("deploy")
    (app_root / "cron.yaml").write_text("cron:\n- url: /load\n  schedule: every 1 mins\n")
    old = again(machine, opened, tmp_path)

    scheduler.tick(scheduler.steps(old, {}), clock)

    assert jobs_of(old) == {"/load": "every day 02:30", "/tick": "every 5 mins"}


def test_jobs_that_the_former_release_has_put_in_place_are_replaced(
    machine: Config, opened: Store, app_root: Path, tmp_path: Path, clock: StoppedClock, command: Command
) -> None:
    """A scheduler of the former release deploys its own cron.yaml when it starts."""
    command("deploy")
    machine = again(machine, opened, tmp_path)
    reader = DeployedCron(machine, clock)
    assert [entry.url for entry in reader.read() or ()] == ["/load", "/tick"]
    model.deploy(machine.cron[:1], clock.now())
    assert reader.read() is None

    clock.advance(1)

    assert [entry.url for entry in reader.read() or ()] == ["/load", "/tick"]
    model.deploy(machine.cron, clock.now())
    clock.advance(1)
    assert reader.read() is None


def test_a_scheduler_takes_up_a_deployment_at_its_next_tick(
    machine: Config, opened: Store, app_root: Path, tmp_path: Path, clock: StoppedClock, command: Command
) -> None:
    command("deploy")
    machine = again(machine, opened, tmp_path)
    reader = DeployedCron(machine, clock)
    assert reader.read()
    (app_root / "cron.yaml").write_text("cron:\n- url: /new\n  schedule: every day 03:00\n")
    new = again(machine, opened, tmp_path)

    queue_directory.deploy(
        opened, new, cron='[{"name": "n", "url": "/new", "schedule": "x"}]', cause="deploy"
    )

    assert [entry.url for entry in reader.read() or ()] == ["/new"]


def test_damaged_and_missing_uploads_are_repaired_from_the_deployment(
    machine: Config, opened: Store, app_root: Path, tmp_path: Path
) -> None:
    """Whichever machine notices first has perhaps another file."""
    queue_directory.deploy(opened, machine, cron="[]", cause="deploy")
    (app_root / "queue.yaml").write_text("queue:\n- name: default\n  rate: 1/s\n")
    old = again(machine, opened, tmp_path)
    opened.redis.hset(settings_key("mail"), "rate", "a lot")

    queue_directory.repair(opened, {"mail": "rate 'a lot'"}, old)
    assert rate(opened, "mail") == "5.0"
    opened.redis.delete(store.UPLOAD, settings_key("mail"))
    DeployedQueues(old).act(0.0)

    assert rate(opened, "mail") == "5.0"


def test_a_deployment_that_was_interrupted_is_completed(machine: Config, opened: Store) -> None:
    upload(opened, {"default": {"rate": "3.0"}}, digest="earlier")
    new = deployments.Deployment(queue_directory.upload_of(machine))
    deployments.write(opened, new)

    DeployedQueues(machine).act(0.0)

    assert rate(opened) == "7.0"


def test_a_restoration_does_not_resume_queues_that_were_paused_since(
    machine: Config, opened: Store, app_root: Path, tmp_path: Path
) -> None:
    (app_root / "queue.yaml").write_text("resume_paused_queues: true\n" + QUEUES)
    loaded = again(machine, opened, tmp_path)
    queue_directory.deploy(opened, loaded, cron=None, cause="deploy")
    Broker(opened).pause("mail", True)
    upload(opened, digest="of the former release")

    DeployedQueues(loaded).act(0.0)

    assert rate(opened) == "7.0"
    assert Broker(opened).is_paused("mail")


def test_tasks_follow_the_deployed_dispatch_yaml(
    machine: Config, opened: Store, app_root: Path, tmp_path: Path
) -> None:
    (app_root / "dispatch.yaml").write_text("dispatch:\n- url: '*/count*'\n  service: counter\n")
    (app_root / "backends.yaml").write_text("backends:\n- name: counter\n")
    new = again(machine, opened, tmp_path)
    queue_directory.deploy(opened, new, cron=None, cause="deploy")
    config.use(machine)
    queue_directory.of(opened).refresh(is_urgent=True)

    task = taskqueue.add(url="/count/1")

    assert machine.dispatch == ()
    assert opened.redis.hget(store.record_key(f"default_{task.name}"), "target") == b"!counter"


@pytest.mark.parametrize("text", ["no JSON", "[1]", '{"queues": 7}'])
def test_a_deployment_that_cannot_be_read_stops_nothing(
    machine: Config, opened: Store, text: str, clock: StoppedClock
) -> None:
    queue_directory.deploy(opened, machine, cron=None, cause="deploy")
    opened.redis.hset(store.DEPLOYED, "queues", text)

    with capture_logs() as logged:
        assert deployments.read(opened) is None
        scheduler.tick(scheduler.steps(machine, {}), clock)

    assert rate(opened) == "7.0"
    assert "deploy.unreadable" in {line["event"] for line in logged}
    assert len(jobs_of(machine)) == 2

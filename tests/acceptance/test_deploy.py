"""``lastacross deploy``: one command puts files into effect, and no other process of production does."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from lastacross import config, datastore, store, taskqueue
from lastacross.broker import Broker, deployments, queue_directory
from lastacross.config import Config
from lastacross.cronruns import model, pauses, ticking
from lastacross.errors import StoreUnavailableError
from lastacross.processes import deploying, scheduler
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


def folder(machine: Config, opened: Store, name: str, **files: str) -> Config:
    """The configuration of another folder of the site, with these files and no others, in use."""
    root = machine.root / name
    root.mkdir()
    shutil.copy(machine.root / "app.yaml", root)
    for file, text in files.items():
        (root / f"{file}.yaml").write_text(text)
    loaded = config.load(root, environ(opened, machine.root))
    config.use(loaded)
    return loaded


@contextlib.contextmanager
def once_before(patched: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> Iterator[None]:
    """Let another process act just before this one first calls this function of ``deployments``."""
    real = getattr(deployments, name)
    own = config.current()

    def late(*args: Any, **options: Any) -> Any:
        context.setattr(deployments, name, real)
        act()
        config.use(own)
        return real(*args, **options)

    with patched.context() as context:
        context.setattr(deployments, name, late)
        yield


def deploy(loaded: Config) -> None:
    """Deploy a folder, as the command does."""
    config.use(loaded)
    deploying.deploy(loaded)


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


# --- several folders and processes at once -----------------------------------------------------

DISPATCH = "dispatch:\n- url: '*/count*'\n  service: counter\n"
BACKENDS = "backends:\n- name: counter\n"
NEW_QUEUES = "queue:\n- name: default\n  rate: 70/s\n- name: fresh\n  rate: 1/s\n"
NEW_JOBS = "cron:\n- url: /load\n  schedule: every day 04:00\n"


def is_disabled(opened: Store, queue: str) -> bool:
    """Whether nothing is delivered from a queue."""
    return opened.redis.hget(settings_key(queue), "is_disabled") == b"1"


def test_a_folder_without_queue_yaml_keeps_the_queues_of_which_nothing_is_recorded(
    machine: Config, opened: Store
) -> None:
    """The former release has uploaded them, and no scheduler of this one has started yet."""
    upload(opened, {"default": {"rate": "3.0"}, "mail": {"rate": "2.0"}}, digest="earlier")

    deploy(folder(machine, opened, "other", cron=NEW_JOBS))

    assert (rate(opened), rate(opened, "mail"), is_disabled(opened, "mail")) == ("3.0", "2.0", False)
    found = deployments.read(opened)
    assert found is not None
    assert (set(found.upload.queues), found.cause) == ({"default", "mail"}, "deploy")


@pytest.mark.parametrize("function", ["read", "write"])
@pytest.mark.parametrize("is_uploaded", [False, True])
def test_a_start_and_a_takeover_leave_a_deployment_of_the_same_moment(
    machine: Config, opened: Store, is_uploaded: bool, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_uploaded:
        upload(opened, {"default": {"rate": "3.0"}}, digest="earlier")
    new = folder(machine, opened, "new", queue=NEW_QUEUES, cron=NEW_JOBS)
    config.use(machine)

    with once_before(monkeypatch, function, lambda: deploy(new)):
        DeployedQueues(machine).act(0.0)
    DeployedQueues(machine).act(1.0)

    found = deployments.read(opened)
    assert found is not None
    assert (found.cause, set(found.upload.queues)) == ("deploy", {"default", "fresh"})
    assert (rate(opened), is_disabled(opened, "fresh")) == ("70.0", False)
    assert [job["schedule"] for job in json.loads(found.cron or "")] == ["every day 04:00"]


def test_a_takeover_that_found_nothing_leaves_a_deployment_made_before_it_writes(
    machine: Config, opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(opened, {"default": {"rate": "3.0"}}, digest="earlier")
    new = folder(machine, opened, "new", queue=NEW_QUEUES)
    config.use(machine)
    real = deployments.read

    def read(opened: Store) -> deployments.Deployment | None:
        found = real(opened)
        monkeypatch.setattr(deployments, "read", real)
        deploy(new)
        return found

    monkeypatch.setattr(deployments, "read", read)
    queue_directory.take_over(opened)

    found = deployments.read(opened)
    assert found is not None
    assert (found.cause, set(found.upload.queues)) == ("deploy", {"default", "fresh"})


@pytest.mark.parametrize("is_queues_first", [False, True])
def test_of_two_deployments_of_different_files_both_stay(
    machine: Config, opened: Store, is_queues_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(machine)
    queues = folder(machine, opened, "queues", queue=NEW_QUEUES)
    jobs = folder(machine, opened, "jobs", cron=NEW_JOBS)
    first, second = (queues, jobs) if is_queues_first else (jobs, queues)

    with once_before(monkeypatch, "write", lambda: deploy(first)):
        deploy(second)

    found = deployments.read(opened)
    assert found is not None
    assert set(found.upload.queues) == {"default", "fresh"}
    assert [job["schedule"] for job in json.loads(found.cron or "")] == ["every day 04:00"]
    assert (rate(opened), is_disabled(opened, "fresh")) == ("70.0", False)
    assert jobs_of(machine) == {"/load": "every day 04:00"}


def test_a_scheduler_without_files_leaves_rules_and_jobs_to_the_folders_that_have_them(
    machine: Config, opened: Store
) -> None:
    upload(opened, {"default": {}}, backends=["counter"], digest="earlier")
    bare = folder(machine, opened, "bare")
    DeployedQueues(bare).act(0.0)
    assert DeployedCron(bare).read() is None
    assert opened.redis.hmget(store.DEPLOYED, ("dispatch", "cron")) == [None, None]
    assert opened.redis.hexists(store.DEPLOYED, "queues")

    full = folder(machine, opened, "full", queue=QUEUES, cron=JOBS, dispatch=DISPATCH, backends=BACKENDS)
    queue_directory.of(opened).refresh(is_urgent=True)
    task = taskqueue.add(url="/count/1")

    assert "dispatch.yaml" not in different_files(opened, full)
    assert opened.redis.hget(store.record_key(f"default_{task.name}"), "target") == b"!counter"
    assert [entry.url for entry in DeployedCron(full).read() or ()] == ["/load", "/tick"]


def test_the_first_folder_with_a_queue_yaml_replaces_the_start_of_one_without(
    machine: Config, opened: Store
) -> None:
    bare = folder(machine, opened, "bare")
    assert StartUpload(bare).try_once()
    assert rate(opened, "mail") is None
    full = folder(machine, opened, "full", queue=QUEUES, dispatch=DISPATCH)

    assert StartUpload(full).try_once()

    assert (rate(opened), rate(opened, "mail")) == ("7.0", "5.0")
    found = deployments.read(opened)
    assert found is not None
    assert (found.cause, found.dispatch) == ("start", full.dispatch)
    assert StartUpload(folder(machine, opened, "new", queue=NEW_QUEUES)).try_once()
    assert (rate(opened), rate(opened, "fresh")) == ("7.0", None)


def test_completion_tasks_that_wait_are_counted_before_their_queue_is_disabled(
    machine: Config, opened: Store
) -> None:
    deploy(machine)
    queue_directory.of(opened).refresh(is_urgent=True)
    with taskqueue.Batch(queue_name="mail", on_complete=taskqueue.Task(url="/done"), name="x") as batch:
        batch.leave_open()

    harm = deploying.harm_of(folder(machine, opened, "new", queue=NEW_QUEUES))

    assert list(harm.sentences()) == [
        "queue.yaml does not list the queue mail, which would be disabled and keep its 1 task undelivered"
    ]


# --- while Redis fails -------------------------------------------------------------------------


def test_jobs_that_come_due_while_redis_is_unavailable_run_except_for_paused_ones(
    machine: Config, opened: Store, clock: StoppedClock
) -> None:
    deploy(machine)
    load, tick = model.jobs()
    ticker = ticking.Ticker(DeployedCron(machine, clock).read)
    ticker.act(opened.now())
    pauses.begin(opened, load.name)
    ticker.act(opened.now() + 2)
    due = max(load.next_at or 0.0, tick.next_at or 0.0)
    away = Store("redis://127.0.0.1:1/0", clock, patience_seconds=0.1)
    store.use(away)

    with contextlib.suppress(StoreUnavailableError):  # what it does after the due jobs needs Redis
        ticker.act(due)

    away.close()
    store.use(opened)
    assert [run.state for run in model.last_runs(tick.name, 5)] == ["open"]
    assert model.last_runs(load.name, 5) == []


@pytest.mark.parametrize("key", [store.DEPLOYED, store.PAUSED_JOBS])
def test_a_key_of_the_wrong_type_is_set_aside_and_schedulers_go_on(
    machine: Config, opened: Store, key: str, clock: StoppedClock
) -> None:
    deploy(machine)
    [_, tick] = model.jobs()
    opened.redis.delete(key)
    opened.redis.set(key, "x")
    ticker = ticking.Ticker(DeployedCron(machine, clock).read)

    DeployedQueues(machine).act(0.0)
    ticker.act(tick.next_at or 0.0)

    assert opened.redis.type(key) in (b"hash", b"none")
    assert [run.state for run in model.last_runs(tick.name, 5)] == ["open"]
    assert deployments.read(opened) is not None
    assert rate(opened) == "7.0"


@pytest.mark.parametrize("read", [deployments.read, deployments.read_stamps])
def test_a_deployment_of_the_wrong_type_is_set_aside_by_whoever_reads_it(
    opened: Store, read: Callable[[Store], object]
) -> None:
    opened.redis.set(store.DEPLOYED, "x")

    assert read(opened) in (None, deployments.Stamps(None, None, None))

    assert not opened.redis.exists(store.DEPLOYED)

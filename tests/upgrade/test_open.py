"""Present code opens the data that a site of the former code left when its machine went down.

It does so alone, and together with workers of the former code, as during a deployment.
"""

import contextlib
import json
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lastacross import channel, config, datastore, memcache, store, taskqueue
from tests.support.postgres import PostgresServer
from tests.support.processes import wait_until
from tests.support.redis_server import running_server
from tests.support.site import Site
from tests.upgrade import scenario, snapshot
from tests.upgrade.former import PRESENT, Code
from tests.upgrade.make_fixture import MANIFEST, REDIS, SQL
from tests.upgrade.scenario import Scene
from tests.upgrade.versions import Versions, check_history

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE = 120.0
THREADS = 16
PROGRAMS = "default errors quilt subtasks reload upgrade-suspect"


@dataclass
class Story:
    """The observations made while present code took over.

    Attributes:
        manifest: the former code's own list of its data.
        versions: the versions that share the work; the last one, the present code, runs the site.
        before: the listing of the command line before anything ran.
        values: the API's answers at that time, by name.
        answers: the pages' answers at the end.
        after: the listing of the command line at the end.
    """

    manifest: dict[str, Any]
    versions: Versions
    before: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)

    @property
    def scene(self) -> Scene:
        """The site."""
        return self.versions.scene

    def ended(self, task: str) -> int:
        """How often a task ran to its end."""
        return self.scene.noted("end").count(task)

    def ran(self, path: str) -> int:
        """How often a path did."""
        return self.scene.noted("end", "path").count(path)


@pytest.fixture(
    scope="module",
    params=["sqlite", *(pytest.param(name, marks=pytest.mark.long) for name in ("postgresql", "shared"))],
)
def story(request: pytest.FixtureRequest, former_code: Code) -> Iterator[Story]:
    """The takeover from beginning to end; the tests check its results."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="la-upgrade-")))
        url = ""
        if request.param == "postgresql":
            postgres: PostgresServer = request.getfixturevalue("postgres")
            url = postgres.url(postgres.new_database())
        server = stack.enter_context(running_server())
        codes = [former_code, PRESENT] if request.param == "shared" else [PRESENT]
        versions = Versions(codes, Scene(PRESENT, folder, server, url))
        load(versions.scene, former_code)
        yield take_over(versions, seconds=60 if request.param == "shared" else 2)


def load(scene: Scene, former_code: Code) -> None:
    """Put the fixture's data into the site's Redis and datastore."""
    made = json.loads(MANIFEST.read_text())
    shift = snapshot.Shift(made["made_at"], int(time.time() - snapshot.AGE_SECONDS - made["made_at"]))
    snapshot.load_sqlite(scene.sqlite, snapshot.read_gz(SQL), shift)
    if scene.database_url:
        # The former application's tables, too: the present one has more, which the rows are migrated to.
        environ = {**scene.environ, "LASTACROSS_APP": str(former_code.tree)}
        former_code.run(["-m", "lastacross", "db", "upgrade"], environ)
        snapshot.copy_rows(scene.sqlite, scene.database_url)
    snapshot.load_redis(scene.redis, json.loads(snapshot.read_gz(REDIS)), shift)


def take_over(versions: Versions, seconds: float) -> Story:
    """Look at the data, let the site run until nothing is left to do, and look again.

    Args:
        versions: the present code, and others that share its work.
        seconds: how long each version adds tasks meanwhile.
    """
    story = Story(json.loads(MANIFEST.read_text()), versions)
    scene = versions.scene
    story.before = scenario.listed(scene)
    with in_use(scene):
        datastore.upgrade()
        story.values = look(scene)
    with scene.running(LASTACROSS_THREADS=str(THREADS)) as site:
        with versions.working(versions.codes[:-1], THREADS):
            producers = versions.produce(seconds, pause=0.05)
            wake(story)
            assert [producer.wait(seconds + PATIENCE) for producer in producers] == [0] * len(producers)
            story.answers = finish(story, site)
        site.processes.send(signal.SIGINT)
        assert site.processes.wait() == 0
    story.after = scenario.listed(scene)
    return story


@contextlib.contextmanager
def in_use(scene: Scene) -> Iterator[None]:
    """The site's configuration, Redis and datastore, in use by this process."""
    config.use(config.load(scene.app, scene.environ))
    opened = store.Store(scene.redis_server.url)
    store.use(opened)
    try:
        yield
    finally:
        datastore.dispose()
        store.use(None)
        opened.close()
        config.use(None)


def look(scene: Scene) -> dict[str, Any]:
    """The API's answers about the data that was left."""
    pull = taskqueue.Queue("upgrade-pull")
    tagged = pull.lease_tasks_by_tag(600, 10, "red")
    leased = pull.lease_tasks(600, 10)
    [expired] = [task for task in leased if task.name == "expired"]
    pull.modify_task_lease(expired, 1200)
    return {
        "text": memcache.get("text"),
        "structure": memcache.get("structure"),
        "counter": memcache.incr("counter"),
        "for-a-day": memcache.get("for-a-day"),
        "spaced": memcache.get("spaced", namespace="other"),
        "last message": channel.last_id("upgrade-client"),
        "messages": scene.redis.xrange("lastacross:channel:upgrade-client"),
        "red": [task.name for task in tagged],
        "leased": {task.name: task.payload for task in leased},
        "refused": {name: refusal(name) for name in ("ran", "dead", "ready", "leased", "scheduled")},
        "progress": {name: taskqueue.Batch.get(name).progress() for name in ("inner", "outer", "filled")},
    }


def refusal(name: str) -> str:
    """The error that adding a task of this name raises."""
    try:
        taskqueue.Queue("upgrade").add(taskqueue.Task(url="/upgrade/act", name=name))
    except taskqueue.Error as error:
        return type(error).__name__
    return ""


def wake(story: Story) -> None:
    """Act as an operator: resume paused queues, retry dead letters, run tasks scheduled for tomorrow."""
    scene, tasks = story.scene, story.manifest["tasks"]
    [retried] = [task["name"] for task in story.before["default"] if task["state"] == "scheduled"]
    scene.ask(
        f"queues resume {PROGRAMS}",
        "tasks retry upgrade dead poison",
        "tasks retry upgrade-nested inner-2",
        "tasks run upgrade retried",
        "tasks run upgrade scheduled",
        "tasks run upgrade-nested later",
        f"tasks run default {retried}",
        *(f"tasks retry reload {name}" for name in tasks["reload"].get("dead", ())),
    )


def finish(story: Story, site: Site) -> dict[str, Any]:
    """Wait until nothing is left to do; returns the answers of the site's pages."""
    made = story.manifest
    story.versions.wait_until_done()
    wait_until(lambda: not left(story.scene), PATIENCE, "nothing to be left")
    paths = [f"/quilt/{quilt['id']}.json" for quilt in made["quilts"]]
    paths += [f"/reloads/{run['id']}.json" for run in made["reloads"]]
    paths += ["/count/counting.json", "/count/counted.json", "/errors.json", "/accounts", "/longtasks"]
    answers = {path: site.json(path) for path in paths}
    for identifier in made["long_tasks"]:
        answers[identifier] = site.json(f"/upgrade/long?_longtaskjob=query&_longtaskid={identifier}")
    return answers


def left(scene: Scene) -> dict[str, int]:
    """Lists and registries of push queues that are not empty, and open batches."""
    keys = [
        key
        for state in ("queue", "wip", "scheduled", "deferred")
        for key in scene.redis.keys(f"rq:{state}:*")
    ]
    keys += scene.redis.keys("lastacross:batches")
    return {key.decode(): 1 for key in keys}


# --- before anything runs ---------------------------------------------------------------


def test_each_task_is_listed_in_the_state_in_which_it_was_left(story: Story) -> None:
    listed: dict[str, dict[str, list[str]]] = {}
    for queue, tasks in story.before.items():
        for task in tasks:
            listed.setdefault(queue, {}).setdefault(task["state"], []).append(task["name"])
    assert listed == story.manifest["tasks"]


def test_dead_letters_and_retries_are_shown_with_their_history(story: Story) -> None:
    tasks = {task["name"]: task for task in story.before["upgrade"]}
    assert tasks["dead"]["error"] == "answered 500"
    assert "poison" in tasks["poison"]["error"]
    assert tasks["retried"]["attempts"] == 1
    assert tasks["side"]["target"] == "counter"


def test_names_that_are_in_use_or_were_used_lately_are_refused(story: Story) -> None:
    assert story.values["refused"] == {
        "ran": "TombstonedTaskError",
        "dead": "TombstonedTaskError",
        "ready": "TaskAlreadyExistsError",
        "leased": "TaskAlreadyExistsError",
        "scheduled": "TaskAlreadyExistsError",
    }


def test_pull_tasks_are_leased_unless_their_leases_still_hold(story: Story) -> None:
    assert story.values["red"] == ["red"]
    assert story.values["leased"] == {"expired": b"body expired", "blue": b"tagged"}
    held = {task["name"] for task in story.after["upgrade-pull"] if task["state"] == "leased"}
    assert held == {"leased", "held", "expired", "red", "blue"}


def test_values_of_the_cache_are_read(story: Story) -> None:
    assert story.values["text"] == "Schöne Grüße"
    assert story.values["structure"] == {"numbers": [1, 2.5], "none": None}
    assert story.values["counter"] == 42
    assert story.values["for-a-day"] == b"bytes"
    assert story.values["spaced"] == 1


def test_messages_of_a_channel_wait_for_their_page(story: Story) -> None:
    messages = story.values["messages"]
    assert [fields[b"m"] for _, fields in messages] == [b"first", b"second"]
    assert story.values["last message"] == messages[-1][0].decode()


def test_open_batches_are_as_far_as_they_were(story: Story) -> None:
    progress = story.values["progress"]
    assert (progress["inner"].total, progress["inner"].done, progress["inner"].failed) == (4, 2, 1)
    assert (progress["outer"].total, progress["outer"].done) == (3, 1)
    assert (progress["filled"].total, progress["filled"].sealed) == (3, False)


# --- after everything ran ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["ready", "due", "scheduled", "run-now", "side", "leased", "retried", "dead", "poison", "suspect"],
)
def test_a_task_of_each_state_runs_once(story: Story, name: str) -> None:
    assert story.ended(name) == 1


def test_a_rescued_task_knows_of_its_lost_attempt(story: Story) -> None:
    [note] = [note for note in story.scene.notes() if note["what"] == "end" and note["task"] == "retried"]
    assert (note["retry_count"], note["execution_count"]) == (1, 1)


def test_no_task_that_had_ended_runs_again(story: Story) -> None:
    assert story.ended("ran") == 0
    assert story.ended("cancelled-dropped") == 0
    assert story.ran("/upgrade/outbox/sent") == 0


def test_all_tasks_added_meanwhile_end_and_each_version_runs_its_share(story: Story) -> None:
    assert story.versions.accepted("task")
    check_history(story.versions)


def test_the_relay_sends_a_row_that_a_transaction_left_unsent_once(story: Story) -> None:
    assert story.ran("/upgrade/outbox/unsent") == 1


def test_the_only_new_dead_letters_are_calls_that_fail_for_good_in_any_version(story: Story) -> None:
    dead = {
        task["name"]: task["error"]
        for tasks in story.after.values()
        for task in tasks
        # The feed has trouble with some accounts.
        if task["state"] == "dead" and not task["name"].startswith("reload-")
    }
    # Their own reason, so `workers.fill_quilt` and `workers.send_color` were found and called.
    assert dead.keys() == {"fill-quilt", "send-color"}
    assert all("there is no quilt no-such-quilt" in error for error in dead.values()), dead


@pytest.mark.parametrize("batch", ["inner", "outer", "filled", "cancelled", "succeeds"])
def test_each_batch_fires_once(story: Story, batch: str) -> None:
    assert story.ran(f"/upgrade/fired/{batch}") == 1


def test_the_members_of_a_half_filled_batch_are_added_once(story: Story) -> None:
    runs = Counter(task for task in story.scene.noted("end") if task.startswith("filled-"))
    assert {name: runs[name] for name in ("filled-3", "filled-4", "filled-5")} == dict.fromkeys(
        ("filled-3", "filled-4", "filled-5"), 1
    )
    assert runs["filled-0"] == 0


def test_the_outer_batch_waits_for_the_members_of_the_inner_one(story: Story) -> None:
    tasks = [note["task"] for note in story.scene.notes() if note["what"] == "end"]
    assert tasks.index("inner-3") < tasks.index("outer-complete")


def test_deferred_calls_run_with_their_payload_wherever_it_was_kept(story: Story) -> None:
    assert sorted(len(word) for word in story.scene.noted("call", "word")) == [5, 240_000]


def test_quilts_are_completed(story: Story) -> None:
    for quilt in story.manifest["quilts"]:
        operation = story.answers[f"/quilt/{quilt['id']}.json"]
        assert operation["done"]
        assert operation["metadata"]["step"] == quilt["squares"]
        assert operation["metadata"]["failed"] == 0


def test_a_count_goes_on_where_it_was(story: Story) -> None:
    intervals = story.answers["/count/counting.json"]["response"]["intervals"]
    assert [interval["numbers"] for interval in intervals] == [
        list(range(interval["first"], interval["last"] + 1)) for interval in intervals
    ]


def test_a_reload_reaches_each_account(story: Story) -> None:
    [run] = story.manifest["reloads"]
    metadata = story.answers[f"/reloads/{run['id']}.json"]["metadata"]
    assert metadata["step"] + metadata["failed"] == run["total"]


def test_long_tasks_end_as_they_should(story: Story) -> None:
    wanted = {
        "done": "done",
        "started": "done",
        "error": "done",
        "failed": "failed",
        "cancelled": "cancelled",
    }
    for identifier, status in story.manifest["long_tasks"].items():
        operation = story.answers[identifier]
        assert operation["metadata"]["state"] == wanted[status]
        assert ("response" in operation) == (wanted[status] == "done")


def test_a_job_that_ran_while_the_machine_went_down_ends_and_the_others_stay_deployed(story: Story) -> None:
    runs = dict(story.scene.rows("SELECT job, state FROM lastacross_cron_run WHERE cause = 'hand'"))
    assert runs == dict.fromkeys(story.manifest["cron_runs"], "done")
    [[jobs]] = story.scene.rows(
        "SELECT count(*) FROM lastacross_cron_job WHERE next_at IS NOT NULL OR run_id IS NOT NULL"
    )
    # With both versions running, either has deployed its own.
    assert story.manifest["rows"]["lastacross_cron_job"] <= jobs <= scenario.cron_job_count(story.scene)


def test_a_posted_error_that_waited_is_grouped(story: Story) -> None:
    [[groups]] = story.scene.rows("SELECT count(*) FROM error_group")
    assert groups == story.manifest["rows"]["error_group"] + 1


def test_the_errors_of_the_former_release_count_for_what_they_take_up(story: Story) -> None:
    [[uncounted, size]] = story.scene.rows(
        "SELECT count(*) FILTER (WHERE size IS NULL), sum(size) FROM error_report"
    )
    [[kept]] = story.scene.rows("SELECT bytes FROM error_usage WHERE account = ''")
    assert uncounted == 0
    assert kept == size > 1000


def test_no_row_is_lost(story: Story) -> None:
    for table, count in story.manifest["rows"].items():
        [[found]] = story.scene.rows(f"SELECT count(*) FROM {table}")
        assert found >= count, table

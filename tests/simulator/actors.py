"""All processes except workers: producers, a consumer of pull tasks, operators, RQ's tools, a supervisor.

Each is a loop that runs in a greenlet. The decision that resumes it also makes its choices.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import rq
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.registry import DeferredJobRegistry, FailedJobRegistry, StartedJobRegistry

from lastacross import store, taskqueue
from lastacross.broker.answers import Upload
from lastacross.broker.current import CurrentTask, delivering
from lastacross.broker.steps import Broker
from lastacross.errors import StoreUnavailableError, TaskQueueError, UnknownBatchError
from lastacross.taskqueue import Batch, Queue, Task, TaskRetryOptions
from tests.simulator.network import Process, Request

if TYPE_CHECKING:
    from tests.simulator.world import World

PUSH_QUEUES = ("default", "slow", "narrow", "side")
PULL_QUEUE = "pulled"
BACKEND = "backend"
URLS = ("/plain", "/plain", "/plain", "/fail", "/poison", "/die")
NAMES = tuple(f"n{number}" for number in range(3))
TAGS = (None, None, "red", "blue")

# The retry options by which a pull task may be leased four times.
_PULL_RETRY = "[4, null, 0.1, 3600, 16]"
_RETRY = "[3, null, 0.1, 2, 3]"
SETTINGS: dict[str, dict[str, str]] = {
    "default": {"rate": "500.0", "bucket_size": "500", "retry": _RETRY},
    "slow": {"rate": "3.0", "bucket_size": "3", "retry": _RETRY},
    "narrow": {"rate": "500.0", "bucket_size": "500", "max_concurrent": "1", "retry": _RETRY},
    "side": {"rate": "500.0", "bucket_size": "500", "target": BACKEND, "retry": _RETRY},
    PULL_QUEUE: {"rate": "500.0", "bucket_size": "500", "mode": "pull", "retry": _PULL_RETRY},
}
_DEFAULTS = {
    "mode": "push",
    "max_concurrent": "",
    "target": "",
    "retry": "",
    "dead_letter_seconds": "2592000",
}


def upload_of(changes: dict[str, dict[str, str]], *, resumes: bool, number: int, without: str = "") -> Upload:
    """An upload of queue.yaml: the usual settings with these changes, and perhaps without one queue."""
    queues = {
        name: {**_DEFAULTS, **fields, **changes.get(name, {})}
        for name, fields in SETTINGS.items()
        if name != without
    }
    return Upload(f"digest {number}", queues, [BACKEND], [BACKEND], resumes)


class Actor:
    """One of these processes.

    Args:
        process: the process in which it runs.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.world: World = process.world
        self.broker = Broker(process.store)

    def run(self) -> None:
        """Act repeatedly, and ignore errors from Redis and the product."""
        while True:
            self.process.sleep(self.pause)
            try:
                self.act()
            except (TaskQueueError, StoreUnavailableError):
                continue

    @property
    def pause(self) -> float:
        """Seconds between two actions."""
        return 1.0 if self.world.is_calm else 0.1

    def act(self) -> None:
        """Perform one action."""
        raise NotImplementedError


class Producer(Actor):
    """Adds tasks and fills batches."""

    def act(self) -> None:
        """Add tasks, or fill a batch that another producer has left half filled."""
        if self.world.is_calm:
            self._fill_again()
            return
        choose = self.world.choose
        if len(self.world.server.seen.records) > self.world.MAX_TASKS:
            return
        choose.one_of(self._ACTS)(self)

    def _add(self) -> None:
        choose = self.world.choose
        queue = choose.one_of(PUSH_QUEUES)
        Queue(queue).add([self._task() for _ in range(1 + choose.below(3))])

    def _add_one(self) -> None:
        choose = self.world.choose
        Queue(choose.one_of(PUSH_QUEUES)).add(Task(url=choose.one_of(URLS)))

    def _add_pull(self) -> None:
        choose = self.world.choose
        name = choose.one_of(NAMES) if choose.chance(30) else None
        countdown = choose.one_of((None, 0, 2))
        task = Task("x", method="PULL", name=name, countdown=countdown, tag=choose.one_of(TAGS))
        Queue(PULL_QUEUE).add(task)

    def _add_named(self) -> None:
        """Add a named task, and retry after an error like a program that must not add the task twice."""
        choose = self.world.choose
        task = Task(
            url=choose.one_of(URLS), name=choose.one_of(NAMES), countdown=choose.one_of((None, None, 3))
        )
        queue = choose.one_of(PUSH_QUEUES)
        try:
            Queue(queue).add(task)
        except taskqueue.TransientError:
            Queue(queue).add(Task(url="/plain", name=task.name))

    def _task(self) -> Task:
        choose = self.world.choose
        countdown = choose.one_of((None, None, 0.5, 4))
        target = choose.one_of((None, None, None, BACKEND))
        options = choose.one_of((None, None, TaskRetryOptions(task_retry_limit=1)))
        return Task(url=choose.one_of(URLS), countdown=countdown, target=target, retry_options=options)

    def _open_batch(self) -> None:
        choose = self.world.choose
        jobs = self.world.jobs
        name = f"b{len(jobs)}"
        plan = [
            (
                choose.one_of((*URLS, "/nest/0", "/nest/0", "/nest/1")),
                choose.one_of((None, None, None, 2.0)),
            )
            for _ in range(choose.below(5))
        ]
        has_names = choose.chance(20)
        jobs[name] = (choose.one_of(("default", "narrow")), plan, has_names)
        self._fill(name)

    def _fill_again(self) -> None:
        """Fill a batch from its beginning again, because its producer was killed while filling it."""
        open_jobs = sorted(name for name in self.world.jobs if name not in self.world.filled)
        if open_jobs:
            self._fill(self.world.choose.one_of(open_jobs))

    def _fill(self, name: str) -> None:
        queue, plan, _ = self.world.jobs[name]
        filler = CurrentTask(f"{queue}_fills-{name}", f"fills-{name}", queue, 1, 0, 0)
        # A task that fails leaves its batch open for its next attempt. Any other program cancels it.
        is_task = len(plan) % 2 == 0
        try:
            with delivering(filler) if is_task else contextlib.nullcontext():
                self._fill_as_planned(name)
        except StoreUnavailableError:
            raise
        except TaskQueueError:
            # The batch was cancelled meanwhile, or one of its names is taken.
            with contextlib.suppress(UnknownBatchError):
                Batch.get(name).cancel()
        self.world.filled.add(name)

    def _fill_as_planned(self, name: str) -> None:
        queue, plan, has_names = self.world.jobs[name]
        end, success = Task(url="/plain"), Task(url="/plain")
        with Batch(queue, on_complete=end, on_success=success, name=name) as batch:
            for number, (url, countdown) in enumerate(plan):
                if self.world.choose.chance(30):
                    # Members run while the batch is still being filled.
                    self.process.sleep(self.world.choose.one_of((0.05, 0.2)))
                own_name = f"{name}m{number}" if has_names else None
                batch.add(Task(url=url, countdown=countdown, name=own_name))

    _ACTS: tuple[Callable[["Producer"], None], ...] = (
        _add,
        _add,
        _add_one,
        _add_one,
        _add_pull,
        _add_named,
        _open_batch,
        _open_batch,
        _open_batch,
        _open_batch,
        _fill_again,
    )


class Consumer(Actor):
    """Leases pull tasks, then deletes, returns or forgets them."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self._old: list[Task] = []

    def act(self) -> None:
        """Lease some tasks, and decide what to do with each of them."""
        choose = self.world.choose
        queue = Queue(PULL_QUEUE)
        seconds = choose.one_of((0.5, 3.0))
        if self._old and choose.chance(20):
            # Another client may hold the task by now.
            queue.modify_task_lease(self._old.pop(choose.below(len(self._old))), choose.one_of((0, 1.0, 5.0)))
        if choose.chance(60) or self.world.is_calm:
            tasks = queue.lease_tasks(seconds, 1 + choose.below(3))
        else:
            tasks = queue.lease_tasks_by_tag(seconds, 1 + choose.below(3), choose.one_of(TAGS))
        for task in tasks:
            fate = "delete" if self.world.is_calm else self.world.choose.one_of(("delete", "keep", "forget"))
            if fate == "delete":
                queue.delete_tasks(task)
            elif fate == "forget":
                self._old = [*self._old[-5:], task]
            else:
                queue.modify_task_lease(task, self.world.choose.one_of((0, 1.0, 5.0)))


class Operator(Actor):
    """Pauses and purges queues, deletes, runs and retries tasks, cancels batches, and deploys."""

    @property
    def pause(self) -> float:
        """An operator is slower than a program."""
        return 0.3

    def act(self) -> None:
        """Perform one action of an operator."""
        if not self.world.is_calm:
            self.world.choose.one_of(self._ACTS)(self)

    def _pause(self) -> None:
        queue = self.world.choose.one_of(PUSH_QUEUES)
        self.broker.pause(queue, True)
        self.process.sleep(0.3)
        self.broker.pause(queue, False)

    def _resume_all(self) -> None:
        for queue in PUSH_QUEUES:
            self.broker.pause(queue, False)

    def _delete(self) -> None:
        if task := self._some_task():
            self.broker.delete([task])

    def _purge(self) -> None:
        self.broker.purge(self.world.choose.one_of((*PUSH_QUEUES, PULL_QUEUE)))

    def _run_now(self) -> None:
        if task := self._some_task():
            self.broker.run_now(task)

    def _retry_dead(self) -> None:
        if dead := self._dead():
            self.broker.retry_dead([self.world.choose.one_of(dead)])

    def _cancel(self) -> None:
        if batches := sorted(self.world.server.seen.batches):
            Batch.get(self.world.choose.one_of(batches)).cancel()

    def _deploy(self) -> None:
        choose = self.world.choose
        changes = {
            "default": choose.one_of(({}, {"rate": "2.0", "bucket_size": "2"}, {"max_concurrent": "2"})),
            "slow": choose.one_of(({}, {"rate": "0.0"}, {"rate": "0.5", "bucket_size": "1"})),
            "narrow": choose.one_of(({}, {"max_concurrent": "2"}, {"target": BACKEND})),
            "side": choose.one_of(({}, {"target": ""})),
        }
        without = choose.one_of(("", "", "", "slow", "side"))
        self.world.uploads += 1
        upload = upload_of(changes, resumes=choose.chance(30), number=self.world.uploads, without=without)
        self.broker.upload(upload)

    def _deploy_as_usual(self) -> None:
        self.world.uploads += 1
        self.broker.upload(upload_of({}, resumes=True, number=self.world.uploads))

    def _some_task(self) -> str | None:
        tasks = sorted(task for task, record in self.world.server.seen.records.items() if record.eta)
        return self.world.choose.one_of(tasks) if tasks else None

    def _dead(self) -> list[str]:
        seen = self.world.server.seen
        return sorted(task for task, record in seen.records.items() if record.dead_at and record.eta)

    _ACTS: tuple[Callable[["Operator"], None], ...] = (
        _pause,
        _resume_all,
        _delete,
        _delete,
        _purge,
        _run_now,
        _run_now,
        _retry_dead,
        _retry_dead,
        _cancel,
        _deploy,
        _deploy_as_usual,
    )


class Tools(Actor):
    """RQ's own tools, and the expiry of tombstones.

    Redis loses either all or nothing of a tool's step. A tool that is stopped between two commands may leave
    a record that is not in any list. Nobody looks for it unless one of RQ's workers is registered.
    """

    @property
    def pause(self) -> float:
        """The tools are used only from time to time."""
        return 0.5

    def act(self) -> None:
        """Use one of the tools."""
        if not self.world.is_calm:
            self.world.choose.one_of(self._ACTS)(self)

    def _ask(self, name: str, command: tuple[Any, ...]) -> None:
        self.process.call(Request(name, commands=[command]))

    def _suspend(self) -> None:
        self._ask("rq suspend", ("SET", store.RQ_SUSPENDED, 1))
        self.process.sleep(0.3)
        self._ask("rq resume", ("DEL", store.RQ_SUSPENDED))

    def _requeue(self) -> None:
        """Requeue a dead letter as ``rq requeue`` does, without waking a worker."""
        seen = self.world.server.seen
        dead = sorted(
            task
            for task, record in seen.records.items()
            if record.dead_at and record.status == "failed" and record.eta and not record.is_pull
        )
        if dead:
            task = self.world.choose.one_of(dead)
            self.process.call(Request("rq requeue", call=lambda: self._requeue_if_dead(task), about=[task]))

    def _requeue_if_dead(self, task: str) -> None:
        queue = task.partition("_")[0]
        redis = self.world.server.redis
        if redis.zscore(store.dead_key(queue), task) is None:
            return
        with redis.pipeline() as pipeline:
            pipeline.zrem(store.dead_key(queue), task)
            pipeline.hset(store.record_key(task), "status", "queued")
            pipeline.persist(store.record_key(task))
            pipeline.rpush(store.ready_key(queue), task)
            pipeline.execute()

    def _enqueue(self) -> None:
        """Enqueue a plain RQ job in our queue by mistake."""
        self.world.foreign += 1
        job = f"job-{self.world.foreign}"
        fields = ("status", "queued", "origin", "default", "data", "x", "created_at", "2027-01-15T08:00:00Z")
        self.process.call(
            Request("rq enqueue", call=lambda: self._enqueue_job(job, fields), about=[job], breaks=[job])
        )

    def _enqueue_job(self, job: str, fields: Sequence[str]) -> None:
        with self.world.server.redis.pipeline() as pipeline:
            pipeline.hset(store.record_key(job), items=list(fields))
            pipeline.rpush(store.ready_key("default"), job)
            pipeline.execute()

    def _delete(self) -> None:
        """Delete a task as RQ's own dashboard does."""
        seen = self.world.server.seen
        tasks = sorted(task for task, record in seen.records.items() if record.eta and not record.tombstone)
        if tasks:
            task = self.world.choose.one_of(tasks)
            self.process.call(
                Request("rq delete", call=lambda: self._delete_job(task), about=[task], breaks=[task])
            )

    def _delete_job(self, task: str) -> None:
        redis = self.world.server.redis
        with contextlib.suppress(NoSuchJobError), redis.pipeline() as pipeline:
            Job.fetch(task, connection=redis).delete(pipeline=pipeline)
            pipeline.execute()

    def _take_as_stock_worker(self) -> None:
        """Let RQ's own worker take a task from the list, and then die or mark the task as failed."""
        request = Request("rq worker")
        is_killed = self.world.choose.chance(50)
        request.call = lambda: self._take(request, is_killed=is_killed)
        self.process.call(request)

    def _take(self, request: Request, *, is_killed: bool) -> None:
        redis: Any = self.world.server.redis
        key = store.ready_key("default")
        taken = redis.lmove(key, f"{key}:intermediate", "LEFT", "LEFT")
        if not taken:
            return
        task = taken.decode()
        request.about = request.breaks = [task]
        if not is_killed:
            with redis.pipeline() as pipeline:
                pipeline.lrem(f"{key}:intermediate", 1, task)
                pipeline.hset(store.record_key(task), "status", "failed")
                pipeline.zadd(store.dead_key("default"), {task: self.world.now + 31_536_000})
                pipeline.execute()

    def _clean(self) -> None:
        """Clean the registries as ``rq info`` does, which must not move any task."""
        self.process.call(Request("rq info", call=self._clean_registries))

    def _clean_registries(self) -> None:
        redis = self.world.server.redis
        for name in PUSH_QUEUES:
            queue = rq.Queue(name, connection=redis)
            for registry in (StartedJobRegistry, FailedJobRegistry, DeferredJobRegistry):
                registry(queue=queue).cleanup(int(self.world.now))

    def _free_name(self) -> None:
        """Let a tombstone expire."""
        if names := sorted(self.world.server.seen.tombstones):
            self._ask("expire", ("DEL", store.tombstone_key(self.world.choose.one_of(names))))

    _ACTS: tuple[Callable[["Tools"], None], ...] = (
        _suspend,
        _requeue,
        _requeue,
        _enqueue,
        _delete,
        _take_as_stock_worker,
        _clean,
        _free_name,
        _free_name,
    )


class Supervisor(Actor):
    """Returns the tasks of its dead workers to their queues."""

    def act(self) -> None:
        """Rescue the tasks of one dead worker."""
        if self.world.bereaved:
            token, queues, started = self.world.bereaved[0]
            self.broker.rescue_worker(token, queues, started)
            self.world.bereaved.pop(0)

"""The broker against a model in plain Python: any steps, in any order, on a real Redis.

After each step every task is in exactly the one state that the model says: nothing is lost, nothing
that is done runs again, a queue's limits hold to the task, and a batch fires at most once and only when
its last member has ended.
"""

import itertools
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lastacross import store, taskqueue
from lastacross.broker.answers import Upload
from lastacross.broker.record import Leased
from lastacross.broker.steps import Broker
from lastacross.store import Store
from tests.support import queue_model
from tests.support.clock import StoppedClock
from tests.support.queue_model import LIVES, Expected, Seen
from tests.support.scripts import Scripts
from tests.support.tries import each_number_of_lives, live

QUEUES = ("default", "other")
BATCH = "b"
END = "default_b-complete"
POISON_AFTER = 5
LEASE_SECONDS = 8.0

OUTCOMES = [
    "done",
    "dead",
    "crashed",
    "failed, again in 0",
    "failed, again in 3",
    "failed, again in 30",
    "begun",
]

# rate a second, bucket size, the most at once
Limits = tuple[float, int, int | None]
LIMITS: list[Limits] = [
    *[(1e6, 10**6, None)] * 3,
    *[(5.0, 5, None)] * 2,
    (5.0, 3, None),
    (20 / 60, 1, None),
    (1.5 / 60, 2, None),
    (1 / 3600, 1, None),
    (0.0, 5, None),
    (1e6, 10**6, 1),
    (1e6, 10**6, 2),
    (0.5, 2, 2),
]


class _Steps(RuleBasedStateMachine):
    """The rules are what workers, callers, operators and RQ's tools do."""

    server: Store

    @initialize(limits=st.tuples(st.sampled_from(LIMITS), st.sampled_from(LIMITS)))
    def begin(self, limits: tuple[Limits, Limits]) -> None:
        self.server.redis.flushall()
        self.clock = StoppedClock()
        self.server.clock = self.clock
        self.scripts = Scripts(self.server, self.clock)
        self.broker = Broker(self.server)
        self.queues = {queue: queue_model.Queue() for queue in QUEUES}
        self.uploads = 0
        self._upload(dict(zip(QUEUES, limits, strict=True)))
        self.tasks: dict[str, Expected] = {}
        self.held: list[Leased] = []
        self.number = 0
        self.members = 0
        self.is_sealed = False
        self.stale: set[str] = set()
        self.is_suspended = False
        # What the last call for leases said of the next one.
        self.is_told = True
        self.told_due: float | None = None
        self.scripts.open_batch(BATCH, complete=END)
        for queue in QUEUES:
            self._add(queue, range(3), None)

    # --- add ---------------------------------------------------------------------------------

    @rule(
        queue=st.sampled_from(QUEUES),
        countdown=st.sampled_from([None, None, 0.0, 5.0, 20.0]),
        first=st.integers(0, 30),
        count=st.integers(1, 6),
    )
    def add(self, queue: str, countdown: float | None, first: int, count: int) -> None:
        self._add(queue, range(first, first + count), countdown)

    @rule(count=st.integers(1, 3), countdown=st.sampled_from([None, 5.0]), again=st.integers(0, 2))
    def fill(self, count: int, countdown: float | None, again: int) -> None:
        first = max(0, self.members - again)
        answer = self.scripts.fill(BATCH, count, first=first, countdown=countdown)
        is_new = first + count > self.members
        if self.is_sealed and is_new:
            assert answer == -2
            return
        assert answer == [1 if index < self.members else 0 for index in range(first, first + count)]
        for index in range(self.members, first + count):
            self.tasks[f"default_{BATCH}-{index}"] = self._new(countdown, is_member=True)
        self.members = max(self.members, first + count)

    # --- workers -------------------------------------------------------------------------------

    @rule(wanted=st.integers(1, 4), busy=st.integers(0, 2), order=st.permutations(QUEUES))
    def lease(self, wanted: int, busy: int, order: list[str]) -> None:
        self.held += self._lease(order, wanted, max(0, wanted - busy))

    @rule(outcomes=st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=5), order=st.permutations(QUEUES))
    def work(self, outcomes: list[str], order: list[str]) -> None:
        """Lease and settle; what is only "begun" stays leased."""
        granted = self._lease(order, len(outcomes), len(outcomes))
        for task, outcome in zip(granted, outcomes, strict=False):
            self._settle(task, outcome)

    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES))
    def settle(self, data: st.DataObject, outcome: str) -> None:
        """What was leased at any time before: the lease may have been lost since."""
        for task in self._some_leases(data):
            self._settle(task, outcome)

    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        tasks = self._some_leases(data)
        expected = [self._holds(task) for task in tasks]
        assert self.broker.ack(tasks) == expected
        for task, is_held in zip(tasks, expected, strict=True):
            if is_held:
                self._end(task.id, "done")

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        tasks = self._some_leases(data)
        held = [task for task in tasks if self._holds(task)]
        assert self.broker.release(tasks) == len(held)
        for task in held:
            self.tasks[task.id].state = "ready"

    @rule(
        seconds=st.sampled_from([0.0, 0.25, 0.5, 2.0, 8.0, 40.0, 3600.0]),
        steps=st.sampled_from([(), ("promote",), ("rescue",), ("promote", "rescue", "sweep")]),
    )
    def pass_time(self, seconds: float, steps: tuple[str, ...]) -> None:
        self.clock.advance(seconds)
        for step in steps:
            getattr(self, f"_{step}")()

    # --- operators and RQ's tools -----------------------------------------------------------------

    @rule(data=st.data(), what=st.sampled_from(["delete", "purge", "seal", "run_now"]))
    def ask(self, data: st.DataObject, what: str) -> None:
        getattr(self, f"_{what}")(data)

    @rule(queue=st.sampled_from(QUEUES), is_paused=st.sampled_from([False, False, True]))
    def pause_or_resume(self, queue: str, is_paused: bool) -> None:
        self.queues[queue].is_paused = is_paused
        if is_paused:
            taskqueue.Queue(queue).pause()
        else:
            taskqueue.Queue(queue).resume()

    @rule(
        listed=st.sampled_from([QUEUES, QUEUES, QUEUES, QUEUES[:1], QUEUES[1:]]),
        first=st.sampled_from(LIMITS),
        second=st.sampled_from(LIMITS),
    )
    def upload(self, listed: tuple[str, ...], first: Limits, second: Limits) -> None:
        """Another queue.yaml: other limits, and what it does not list stands still."""
        self._upload(dict(zip(listed, (first, second), strict=False)))

    @rule(data=st.data(), what=st.sampled_from(["suspend", "requeue", "repeat", "restore"]))
    def ask_by_rq(self, data: st.DataObject, what: str) -> None:
        getattr(self, f"_{what}")(data)

    # --- what must hold ------------------------------------------------------------------------------

    @invariant()
    def every_task_is_in_the_one_state_that_the_model_says(self) -> None:
        self.seen = self._see()
        for task, known in self.tasks.items():
            assert self.seen.status[task] == known.status, task
            places = self.seen.places(task)
            if places == ([] if known.state == "gone" else [known.state]):
                if task not in self.seen.run_now:
                    self.stale.discard(task)
                continue
            # Only what a second entry was made for may have one, and only among those that are ready.
            assert task in self.stale, (task, known.state, places)
            assert {place for place in places if place != "ready"} <= {known.state}, (task, places)
            assert known.state in (*places, "gone"), (task, places)

    @invariant()
    def nothing_else_is_there(self) -> None:
        expected = {task for task, known in self.tasks.items() if known.state != "gone"}
        assert self.seen.records == expected | {END}.difference(self.tasks)

    @invariant()
    def what_may_run_is_not_forgotten(self) -> None:
        """Whenever a task could be leased, somebody knows: by a marker, or from the last call for leases."""
        if any(self._grants(QUEUES, 1, 1).values()):
            assert self.seen.is_marked or self.is_told or self._is_due()

    @invariant()
    def the_counts_of_the_batch_are_those_of_its_members(self) -> None:
        outcomes = [known.outcome for known in self.tasks.values() if known.is_member]
        expected = {
            "total": len(outcomes),
            "done": outcomes.count("done"),
            "failed": outcomes.count("dead"),
            "cancelled": outcomes.count("deleted"),
        }
        assert {name: int(self.seen.batch.get(name, 0)) for name in expected} == expected

    @invariant()
    def the_completion_fires_once_when_all_have_ended(self) -> None:
        assert ("finished_at" in self.seen.batch) == (END in self.tasks)
        if END not in self.tasks:
            assert self.seen.places(END) == ["deferred"]

    # --- the steps and what the model makes of them ------------------------------------------------------

    def _add(self, queue: str, numbers: range, countdown: float | None) -> None:
        ids = [f"{queue}_t{number}" for number in numbers]
        codes = self.scripts.add(*ids, countdown=countdown, tombstone=777)
        for task, code in zip(ids, codes, strict=True):
            known = self.tasks.get(task)
            if known is None:
                assert code == 0
                self.tasks[task] = self._new(countdown)
            else:
                assert code == (10 if known.state in LIVES else 11)

    def _lease(self, order: Sequence[str], wanted: int, free: int) -> list[Leased]:
        self.number += 100
        expected = self._grants(order, wanted, free)
        grant = self.broker.lease(
            order, token="w", number=self.number, wanted=wanted, free=free, lease_seconds=LEASE_SECONDS
        )
        assert [task.id for task in grant.tasks] == list(itertools.chain(*expected.values()))
        for queue in QUEUES:
            self.queues[queue].take(self.clock.now(), len(expected[queue]))
        for task in grant.tasks:
            known = self.tasks[task.id]
            assert known.outcome != "done"
            known.state, known.lease, known.has_started = "leased", task.lease_id, False
            known.expires_at = self.clock.now() + LEASE_SECONDS
        # A worker without a free thread asks again as soon as it has one.
        was_told = free == 0 and (self.is_told or self._is_due())
        self.is_told, self.told_due = was_told or grant.has_more, grant.next_due
        return grant.tasks

    def _some_leases(self, data: st.DataObject) -> list[Leased]:
        if not self.held:
            return []
        lease = st.sampled_from(self.held[-12:])
        return data.draw(st.lists(lease, min_size=1, max_size=3, unique_by=lambda task: task.entry))

    def _settle(self, task: Leased, outcome: str) -> None:
        is_held = self._holds(task)
        if outcome == "begun":
            self._renew(task)
        elif outcome == "crashed":
            assert self.broker.crash(task) == (self._lose(task.id, has_started=True) if is_held else "gone")
        elif outcome == "done":
            assert self.broker.ack([task]) == [is_held]
        elif outcome == "dead":
            assert self.broker.dead_letter(task, 500, "answered 500") == is_held
        else:
            eta = self.clock.now() + float(outcome.removeprefix("failed, again in "))
            assert self.broker.retry(task, eta, 500) == is_held
            if is_held:
                known = self.tasks[task.id]
                known.state, known.eta, known.crashes = "scheduled", eta, 0
        if is_held and outcome in ("done", "dead"):
            self._end(task.id, outcome)

    def _renew(self, task: Leased) -> None:
        assert self.broker.renew([task], {task.entry}, LEASE_SECONDS) == [self._holds(task)]
        self.held.append(task)
        if self._holds(task):
            self.tasks[task.id].has_started = True
            self.tasks[task.id].expires_at = self.clock.now() + LEASE_SECONDS

    def _promote(self) -> None:
        due = [task for task in self._all("scheduled") if self.tasks[task].eta <= self.clock.now()]
        moved, next_due = self.broker.promote_due(QUEUES)
        assert moved == len(due)
        for task in due:
            self.tasks[task].state = "ready"
        later = [self.tasks[task].eta for task in self._all("scheduled")]
        assert next_due == (min(later) if later else None)

    def _rescue(self) -> None:
        over = [task for task in self._all("leased") if self.tasks[task].expires_at <= self.clock.now()]
        assert self.broker.rescue_expired(QUEUES) == {
            task: self._lose(task, has_started=self.tasks[task].has_started) for task in over
        }

    def _sweep(self) -> None:
        assert self.broker.sweep_foreign(QUEUES) == []
        assert self.scripts.run("sweep_batches", self.scripts.now, 0, 0, 1000) == [0, 0]

    def _delete(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.tasks)))
        known = self.tasks[task]
        assert self.broker.delete([task]) == [known.state in (*LIVES, "dead")]
        if known.state in LIVES:
            self._end(task, "deleted")
        elif known.state == "dead":
            known.state = "gone"

    def _purge(self, _: st.DataObject) -> None:
        self.clock.advance(0.25)
        was_complete = END in self.tasks
        self.broker.purge("default")
        for task, known in list(self.tasks.items()):
            if task.startswith("default_") and known.state in LIVES and not known.is_kept:
                self._end(task, "deleted")
                if task != END and END in self.tasks and not was_complete:
                    self.tasks[END].is_kept = True

    def _seal(self, _: st.DataObject) -> None:
        assert self.scripts.seal(BATCH) == self.members
        self.is_sealed = True
        self._complete()

    def _run_now(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.tasks)))
        known = self.tasks[task]
        answer = {"gone": "gone", "leased": "running"}.get(known.state, "ready")
        assert self.broker.run_now(task) == answer
        if answer == "ready":
            self.stale.add(task)
            if known.state == "dead":
                known.crashes = 0
            known.state = "ready"

    def _suspend(self, _: st.DataObject) -> None:
        """For as long as a worker needs to ask."""
        self.server.redis.set(store.RQ_SUSPENDED, 1)
        self.is_suspended = True
        assert self._lease(QUEUES, 4, 4) == []
        self.is_suspended = False
        self.server.redis.delete(store.RQ_SUSPENDED)
        self.is_told = True  # RQ wakes nobody: the safety call of each second finds it

    def _requeue(self, data: st.DataObject) -> None:
        """A dead letter, as ``rq requeue`` does it."""
        if not (dead := sorted(self._all("dead"))):
            return
        task = data.draw(st.sampled_from(dead))
        queue = task.partition("_")[0]
        self.server.redis.zrem(store.dead_key(queue), task)
        self.server.redis.hset(store.record_key(task), "status", "queued")
        self.server.redis.rpush(store.ready_key(queue), task)
        self.tasks[task].state, self.tasks[task].crashes = "ready", 0
        self.is_told = True

    def _repeat(self, data: st.DataObject) -> None:
        """What a repeated command or a stock worker leaves: the lease that meets the entry drops it."""
        task = data.draw(st.sampled_from(sorted(self.tasks)))
        self.stale.add(task)
        self.server.redis.rpush(store.ready_key(task.partition("_")[0]), task)

    def _restore(self, data: st.DataObject) -> None:
        """What is no orphan gets a second entry, if it waits at all."""
        task = data.draw(st.sampled_from(sorted(self.tasks)))
        is_ready = self.tasks[task].state == "ready"
        assert self.broker.restore_orphans([task]) == ([task] if is_ready else [])
        if is_ready:
            self.stale.add(task)

    def _is_due(self) -> bool:
        # It is told a microsecond late, lest it come too early.
        return self.told_due is not None and self.told_due <= self.clock.now() + 1e-5

    def _see(self) -> Seen:
        return queue_model.see(self.server.redis, QUEUES, self.tasks, BATCH)

    def _upload(self, listed: dict[str, Limits]) -> None:
        self.uploads += 1
        settings_of = {}
        for queue, known in self.queues.items():
            known.is_listed = queue in listed
        for queue, (rate, bucket_size, most) in listed.items():
            self.queues[queue].limit(rate, bucket_size, most)
            settings_of[queue] = {
                "mode": "push",
                "rate": repr(rate),
                "bucket_size": str(bucket_size),
                "max_concurrent": "" if most is None else str(most),
            }
        self.broker.upload(Upload(str(self.uploads), settings_of))

    def _grants(self, order: Sequence[str], wanted: int, free: int) -> dict[str, list[str]]:
        """What a worker should get: by hand in front of all limits (under ""), then of each queue."""
        grants: dict[str, list[str]] = {queue: [] for queue in ("", *order)}
        if self.is_suspended:
            return grants
        for task in self.seen.run_now[: min(wanted, free)]:
            self._grant(task, "", grants)
        given = len(grants[""])
        for queue in order:
            running = [*itertools.chain(*grants.values()), *self._all("leased")]
            count = self.queues[queue].allows(
                self.clock.now(),
                sum(task.partition("_")[0] == queue for task in running),
                wanted - given,
                free - given,
            )
            for task in self.seen.ready[queue][:count]:
                self._grant(task, queue, grants)
            given += len(grants[queue])
        return grants

    def _grant(self, task: str, queue: str, grants: dict[str, list[str]]) -> None:
        is_taken = any(task in given for given in grants.values())
        if not is_taken and task in self.tasks and self.tasks[task].state == "ready":
            grants[queue].append(task)

    def _all(self, state: str) -> list[str]:
        return [task for task, known in self.tasks.items() if known.state == state]

    def _new(self, countdown: float | None, *, is_member: bool = False) -> Expected:
        if countdown:
            return Expected("scheduled", is_member, eta=self.clock.now() + countdown)
        return Expected("ready", is_member)

    def _holds(self, task: Leased) -> bool:
        known = self.tasks[task.id]
        return known.state == "leased" and known.lease == task.lease_id

    def _end(self, task: str, outcome: str) -> None:
        known = self.tasks[task]
        known.state = "dead" if outcome == "dead" else "gone"
        if known.outcome is None or (known.outcome == "dead" and outcome == "done"):
            known.outcome = outcome
        self._complete()

    def _complete(self) -> None:
        members = [known for known in self.tasks.values() if known.is_member]
        if self.is_sealed and END not in self.tasks and all(known.outcome for known in members):
            self.tasks[END] = Expected("ready")

    def _lose(self, task: str, *, has_started: bool) -> str:
        known = self.tasks[task]
        known.crashes += has_started
        if known.crashes >= POISON_AFTER:
            self._end(task, "dead")
            return "poison"
        known.state = "ready"
        return "ready"


@pytest.fixture
def machine(test_store: Store) -> Iterator[type[_Steps]]:
    """The model, bound to this test's store."""
    _Steps.server = test_store
    yield _Steps
    del _Steps.server


@each_number_of_lives
def test_no_task_is_lost_and_no_limit_passed_whatever_happens(machine: type[_Steps], lives: int) -> None:
    live(machine, lives, steps=50)

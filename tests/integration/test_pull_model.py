"""A pull queue against a model in plain Python: any steps, in any order, on a real Redis.

The model keeps a dictionary and sorts it at each lease; the scripts keep sets. Both give the same tasks in
the same order, and after each step every set has what it should have and nothing else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lastacross import store, taskqueue
from lastacross.store import Store
from lastacross.taskqueue import Queue, Task, TaskRetryOptions
from tests.support.clock import StoppedClock
from tests.support.tries import each_number_of_lives, live

pulled = Queue("pulled")
TAGS = st.sampled_from(["", "t", "ü:_"])
MICROSECOND = 0.000001


@pytest.fixture
def app_root(tmp_path: Path) -> Path:
    """An application with one pull queue."""
    (tmp_path / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    (tmp_path / "queue.yaml").write_text("queue:\n- name: pulled\n  mode: pull\n")
    return tmp_path


@dataclass
class Expected:
    """What the model knows of one task that is there; instants in microseconds."""

    eta: int
    tag: str
    limit: int | None
    leases: int = 0


class _Steps(RuleBasedStateMachine):
    """What producers, workers and operators do."""

    server: Store

    @initialize()
    def begin(self) -> None:
        self.server.redis.flushall()
        self.clock = StoppedClock()
        self.server.clock = self.clock
        self.tasks: dict[str, Expected] = {}
        self.gone: set[str] = set()
        self.dead: set[str] = set()
        self.held: dict[str, Task] = {}
        self.number = 0

    @property
    def now(self) -> int:
        """The instant in microseconds."""
        return round(self.clock.now() * 1e6)

    def eligible(self) -> list[tuple[str, Expected]]:
        """What may be leased, in its order."""
        found = [(name, task) for name, task in self.tasks.items() if task.eta < self.now]
        return sorted(found, key=lambda item: (item[1].eta, item[0]))

    @rule(countdown=st.sampled_from([-2, 0, 0, 5]), tag=TAGS, limit=st.sampled_from([None, None, 0, 1, 2]))
    def add(self, countdown: int, tag: str, limit: int | None) -> None:
        self.number += 1
        # Names in another order than that of adding.
        name = f"{self.number * 7 % 10}-{self.number}"
        options = None if limit is None else TaskRetryOptions(task_retry_limit=limit)
        pulled.add(Task(name, method="PULL", name=name, countdown=countdown, tag=tag, retry_options=options))
        self.tasks[name] = Expected(self.now + countdown * 1_000_000, tag, limit)

    @rule(seconds=st.sampled_from([0, 0.5, 4, 10]), most=st.sampled_from([1, 2, 5, 1000]))
    def lease(self, seconds: float, most: int) -> None:
        names = [name for name, _ in self.eligible()][:most]
        self._check_lease(names, pulled.lease_tasks(seconds, most), seconds)

    @rule(seconds=st.sampled_from([0, 4]), most=st.sampled_from([1, 3, 1000]), tag=TAGS)
    def lease_by_tag(self, seconds: float, most: int, tag: str) -> None:
        eligible = self.eligible()
        wanted = tag or (eligible[0][1].tag if eligible else "")
        if wanted:
            names = [name for name, task in eligible if task.tag == wanted][:most]
        else:
            names = [name for name, task in eligible[:most] if not task.tag]
        self._check_lease(names, pulled.lease_tasks_by_tag(seconds, most, tag), seconds)

    def _check_lease(self, names: list[str], leased: list[Task], seconds: float) -> None:
        expected = []
        for name in names:
            task = self.tasks[name]
            if task.limit is not None and task.leases >= task.limit:
                del self.tasks[name]
                self.dead.add(name)
                continue
            task.leases += 1
            task.eta = self.now + round(seconds * 1e6)
            expected.append((name, task.tag or None, task.leases))
        assert [(task.name, task.tag, task.retry_count) for task in leased] == expected
        self.held |= {str(task.name): task for task in leased}

    @rule(seconds=st.sampled_from([0, 3, 20]), data=st.data())
    def modify(self, seconds: int, data: st.DataObject) -> None:
        if not self.held:
            return
        name = data.draw(st.sampled_from(sorted(self.held)))
        task, expected = self.held[name], self.tasks.get(name)
        if expected is None:
            with pytest.raises(taskqueue.TombstonedTaskError):
                pulled.modify_task_lease(task, seconds)
        elif expected.eta != round(task.eta_posix * 1e6) or expected.eta < self.now:
            with pytest.raises(taskqueue.TaskLeaseExpiredError):
                pulled.modify_task_lease(task, seconds)
        else:
            pulled.modify_task_lease(task, seconds)
            expected.eta = self.now + seconds * 1_000_000

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if not self.tasks:
            return
        name = data.draw(st.sampled_from(sorted(self.tasks)))
        deleted = pulled.delete_tasks_by_name(name)
        assert isinstance(deleted, Task)
        assert deleted.was_deleted
        del self.tasks[name]
        self.gone.add(name)

    @rule(data=st.data())
    def add_a_used_name(self, data: st.DataObject) -> None:
        used = sorted({*self.tasks, *self.gone, *self.dead})
        if not used:
            return
        name = data.draw(st.sampled_from(used))
        error = taskqueue.TaskAlreadyExistsError if name in self.tasks else taskqueue.TombstonedTaskError
        with pytest.raises(error):
            pulled.add(Task("x", method="PULL", name=name))

    @rule(seconds=st.sampled_from([MICROSECOND, 1, 4, 30]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def every_set_has_what_it_should_have(self) -> None:
        assert self._set(store.pull_key("pulled")) == {name: task.eta for name, task in self.tasks.items()}
        for tag in ("t", "ü:_"):
            expected = {name: task.eta for name, task in self.tasks.items() if task.tag == tag}
            assert self._set(store.pull_tag_key("pulled", tag)) == expected
        leased = {name: task.eta for name, task in self.tasks.items() if task.leases}
        assert self._set(store.pull_leased_key("pulled")) == leased
        assert self._set(store.dead_key("pulled")).keys() == {f"pulled_{name}" for name in self.dead}

    def _set(self, key: str) -> dict[str, int]:
        redis: Any = self.server.redis
        entries = redis.zrange(key, 0, -1, withscores=True)
        return {name.decode(): round(score * 1e6) for name, score in entries}


@each_number_of_lives
def test_any_steps_in_any_order_keep_the_queue_as_the_model_says(test_store: Store, lives: int) -> None:
    class Steps(_Steps):
        server = test_store

    live(Steps, lives, steps=40)

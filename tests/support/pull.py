"""Calls the Lua scripts of pull queues for tests."""

import json
from typing import Any, NamedTuple

from lastacross import store
from lastacross.store import Arg
from tests.support.scripts import Scripts

QUEUE = "pulled"


class Held(NamedTuple):
    """A leased task as lease_pull_tasks returns it."""

    name: str
    eta: str
    leases: int
    tag: str
    body: bytes


class PullScripts:
    """Runs the scripts on the queue "pulled", on a store whose clock stands still.

    Args:
        scripts: runs scripts on that store.
    """

    def __init__(self, scripts: Scripts) -> None:
        self.scripts = scripts
        self.redis: Any = scripts.redis
        self._requests = 0

    def run(self, script: str, *args: Arg) -> Any:
        """Run a script with the task queue's keys; returns the answer with bytes as they are."""
        return self.scripts.store.run(script, (), args)

    def at(self, seconds: float) -> str:
        """The time this many seconds from now."""
        return f"{self.scripts.clock.now() + seconds:.6f}"

    def limit(self, task_retry_limit: int | None, task_age_limit: int | None = None) -> None:
        """Set the queue's retry limits, as queue.yaml would."""
        retry = json.dumps([task_retry_limit, task_age_limit, 0.1, 3600, 16])
        self.redis.hset(store.settings_key(QUEUE), "retry", retry)

    def add(
        self, *names: str, at: float = -1.0, tag: str = "", queue: str = QUEUE, **fields: Any
    ) -> list[int]:
        """Run add_pull_tasks with the same fields for all tasks."""
        args: list[Arg] = []
        for name in names:
            strings: list[Arg] = ["origin", queue, "data", b"x", "description", "PULL "]
            for pair in ({**fields, "tag": tag} if tag else fields).items():
                strings += pair
            args += [f"{queue}_{name}", self.at(at), len(strings), *strings]
        return list(self.run("add_pull_tasks", *args))

    def ask(
        self, seconds: float = 10, most: int = 1000, group: str = "", tag: str = "", request: str = ""
    ) -> tuple[list[Held], list[str]]:
        """Run lease_pull_tasks; returns the leased tasks and the names of new dead letters."""
        self._requests += 1
        args: list[Arg] = [self.at(0), QUEUE, seconds, most, group, tag, request or f"r{self._requests}"]
        tasks, buried = self.run("lease_pull_tasks", *args)
        held = [
            Held(name.decode(), eta.decode(), leases, tag_.decode(), body)
            for name, eta, leases, tag_, body in tasks
        ]
        return held, [name.decode() for name in buried]

    def lease(self, seconds: float = 10, most: int = 1000, group: str = "", tag: str = "") -> list[str]:
        """Run lease_pull_tasks; returns the leased tasks' names."""
        return [task.name for task in self.ask(seconds, most, group, tag)[0]]

    def modify(self, name: str, eta: str, seconds: float, request: str = "") -> tuple[str, str]:
        """Run modify_pull_lease; returns the result word and the new eta."""
        self._requests += 1
        args: list[Arg] = [self.at(0), QUEUE, name, eta, seconds, request or f"r{self._requests}"]
        code, new_eta = self.run("modify_pull_lease", *args)
        return code.decode(), new_eta.decode()

    def etas(self, key: str) -> dict[str, float]:
        """The names and scores in one of the sets."""
        return {name.decode(): score for name, score in self.redis.zrange(key, 0, -1, withscores=True)}

    def places(self, name: str, tag: str = "") -> list[str]:
        """All sets that contain the task."""
        keys = {"pull": store.pull_key(QUEUE), "leased": store.pull_leased_key(QUEUE)}
        if tag:
            keys["tag"] = store.pull_tag_key(QUEUE, tag)
        found = [place for place, key in keys.items() if self.redis.zscore(key, name) is not None]
        return found + self.scripts.places(f"{QUEUE}_{name}")

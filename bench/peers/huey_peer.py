"""Huey: `huey_consumer -k process -w 2`. At most once: a task is popped before it runs."""

import os
import sys

import huey
import measuring
import redis

QUEUE = "bench"

app = huey.RedisHuey(QUEUE, url=measuring.redis_url())


@app.task()
def noop() -> None:
    """Next to nothing."""
    measuring.count_run()


@app.task()
def stamp(results: object = None) -> None:
    """Note when it started; as a chord's callback it is given the results."""
    measuring.record_start()


class HueyPeer(measuring.Peer):
    """Its consumer with one worker a process; a fan-in is a chord."""

    name = "huey"
    packages = ("huey", "redis", "hiredis")
    at_least_once = False
    has_bulk = False

    def worker_commands(self, measure: str, processes: int) -> list[list[str]]:
        """One consumer; its worker processes pop by themselves."""
        program = f"{os.path.dirname(sys.executable)}/huey_consumer"
        return [[program, "huey_peer.app", "-k", "process", "-w", str(processes), "-q"]]

    def add_each(self, count: int) -> None:
        """As an application does: call the task."""
        for _ in range(count):
            noop()

    def add_timed(self) -> None:
        """One that notes its start."""
        stamp()

    def fan_in(self, count: int) -> None:
        """A chord: the members, then the callback."""
        app.enqueue(huey.chord([noop.s() for _ in range(count)], stamp.s()))

    def remaining(self, client: redis.Redis) -> int:
        """What waits; what runs is in no place that can be seen (at most one a process)."""
        return int(client.llen(app.storage.queue_key))

    def settings(self) -> dict[str, str]:
        """Its defaults, and no log lines."""
        return {
            "semantics": "at most once (a worker that dies loses its task)",
            "workers": "huey_consumer -k process -w 2 -q: blocking pop, one task at a time a process",
            "log": "no line a task (-q)",
            "fan-in": "chord",
        }


PEER = HueyPeer


if __name__ == "__main__":
    measuring.run("huey_peer")

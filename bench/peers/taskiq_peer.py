"""Taskiq: `taskiq worker --workers 2` on a Redis stream, acknowledged after the task has run."""

import asyncio
import os
import sys
from typing import Any

import measuring
import redis
from taskiq_redis import RedisStreamBroker

QUEUE = "bench"
GROUP = "taskiq"
#: Of the worker: as many waiting as running, and no pydantic for arguments, as there are none.
OPTIONS = ("--max-prefetch", "100", "--no-parse", "--log-level", "WARNING")

broker = RedisStreamBroker(measuring.redis_url(), queue_name=QUEUE, consumer_group_name=GROUP)


@broker.task
async def noop() -> None:
    """Next to nothing."""
    measuring.count_run()


@broker.task
async def stamp() -> None:
    """Note when it started."""
    measuring.record_start()


class TaskiqPeer(measuring.Peer):
    """Its command line with two processes; it has no fan-in."""

    name = "taskiq"
    packages = ("taskiq", "taskiq-redis", "uvloop", "redis", "hiredis")
    has_bulk = False
    has_fan_in = False

    def __init__(self, url: str, processes: int, variant: str) -> None:
        super().__init__(url, processes, variant)
        self.loop = asyncio.new_event_loop()

    def prepare(self) -> None:
        """Declare the consumer group: it is given what comes after its making."""
        self.loop.run_until_complete(broker.startup())

    def worker_commands(self, measure: str, processes: int) -> list[list[str]]:
        """One command, which starts the processes."""
        program = f"{os.path.dirname(sys.executable)}/taskiq"
        return [[program, "worker", "taskiq_peer:broker", "--workers", str(processes), *OPTIONS]]

    def add_each(self, count: int) -> None:
        """As an application does: one awaited after the other."""

        async def add() -> None:
            for _ in range(count):
                await noop.kiq()

        self.loop.run_until_complete(add())

    def add_timed(self) -> None:
        """One that notes its start."""
        self.loop.run_until_complete(stamp.kiq())

    def remaining(self, client: redis.Redis) -> int:
        """What the group was not given yet, and what it has not acknowledged."""
        group: Any = client.xinfo_groups(QUEUE)[0]
        return int(group["lag"]) + int(group["pending"])

    def settings(self) -> dict[str, str]:
        """Its defaults, but for the prefetch, the parsing of arguments and the log."""
        return {
            "semantics": "at least once (a stream's consumer group; acknowledged after the task has run)",
            "workers": f"taskiq worker --workers 2 {' '.join(OPTIONS)}, tasks are coroutines",
            "broker": "RedisStreamBroker, xread_count=100 (its default)",
            "bulk": "none (asyncio.gather over adds is slower than one after the other)",
        }


PEER = TaskiqPeer

if __name__ == "__main__":
    measuring.run("taskiq_peer")

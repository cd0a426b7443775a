"""streaQ: `streaq run --workers 2` on Redis streams, with a list of timeouts that gives lost tasks back."""

import atexit
import contextlib
import os
import sys

import measuring
import redis
from anyio.from_thread import start_blocking_portal
from streaq import Worker

#: Coroutines that a process runs at once, and tasks that it holds.
CONCURRENCY = 100

worker = Worker(redis_url=measuring.redis_url(), concurrency=CONCURRENCY, queue_name="bench")


@worker.task(ttl=0)
async def noop() -> None:
    """Next to nothing."""
    measuring.count_run()


@worker.task(ttl=0)
async def stamp() -> None:
    """Note when it started."""
    measuring.record_start()


class StreaqPeer(measuring.Peer):
    """Its command line with two processes; results are not kept. It has no fan-in of many tasks."""

    name = "streaq"
    packages = ("streaq", "coredis", "redis", "hiredis")
    has_fan_in = False

    def worker_commands(self, measure: str, processes: int) -> list[list[str]]:
        """One command, which starts the processes."""
        program = f"{os.path.dirname(sys.executable)}/streaq"
        return [[program, "run", "streaq_peer:worker", "--workers", str(processes)]]

    def __init__(self, url: str, processes: int, variant: str) -> None:
        super().__init__(url, processes, variant)
        self._loop = contextlib.ExitStack()
        # One loop and one connection for all adds, as an asyncio application has.
        self._portal = self._loop.enter_context(start_blocking_portal())
        self._loop.enter_context(self._portal.wrap_async_context_manager(worker))
        atexit.register(self._loop.close)

    def add_each(self, count: int) -> None:
        """As an application does: one awaited after the other."""

        async def add() -> None:
            for _ in range(count):
                await noop.enqueue()

        self._portal.call(add)

    def add_bulk(self, count: int) -> None:
        """`enqueue_many`, 1,000 a call."""

        async def add() -> None:
            for start in range(0, count, 1000):
                await worker.enqueue_many([noop.enqueue() for _ in range(min(1000, count - start))])

        self._portal.call(add)

    def add_timed(self) -> None:
        """One that notes its start."""

        async def add() -> None:
            await stamp.enqueue()

        self._portal.call(add)

    def remaining(self, client: redis.Redis) -> int:
        """What waits in the stream, and what was taken from it and is not acknowledged."""
        return int(client.xlen("streaq:bench:queues:normal"))

    def settings(self) -> dict[str, str]:
        """Its defaults, but for the concurrency and the results."""
        return {
            "semantics": "at least once (a stream's consumer group; acknowledged after the task has run)",
            "workers": f"streaq run --workers 2, concurrency {CONCURRENCY}, tasks are coroutines",
            "results": "ttl=0: no result is kept",
            "bulk": "Worker.enqueue_many, 1,000 a call",
        }


PEER = StreaqPeer

if __name__ == "__main__":
    measuring.run("streaq_peer")

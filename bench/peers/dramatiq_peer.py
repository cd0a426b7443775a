"""Dramatiq: `dramatiq --processes 2` on its Redis broker, which acknowledges after the task has run."""

import os
import sys

import dramatiq
import measuring
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import RedisBackend

broker = RedisBroker(url=measuring.redis_url())
broker.add_middleware(GroupCallbacks(RedisBackend(url=measuring.redis_url())))
dramatiq.set_broker(broker)

THREADS = 8  # the default
#: Tasks that a process holds; the default of 2 a thread leaves it waiting for Redis.
PREFETCH = 64
#: The longest pause between two looks at an empty queue; the default is 1,000 ms.
WORKER_TIMEOUT_MS = 10


@dramatiq.actor
def noop() -> None:
    """Next to nothing."""
    measuring.count_run()


@dramatiq.actor
def stamp() -> None:
    """Note when it started."""
    measuring.record_start()


class DramatiqPeer(measuring.Peer):
    """Its command line with two processes; a fan-in is a group with a completion callback."""

    name = "dramatiq"
    packages = ("dramatiq", "redis", "hiredis")
    environment = {
        "dramatiq_queue_prefetch": str(PREFETCH),
        "dramatiq_worker_timeout": str(WORKER_TIMEOUT_MS),
    }
    has_bulk = False

    def worker_commands(self, measure: str, processes: int) -> list[list[str]]:
        """One command, which starts the processes."""
        program = f"{os.path.dirname(sys.executable)}/dramatiq"
        return [[program, "dramatiq_peer", "--processes", str(processes), "--threads", str(THREADS)]]

    def add_each(self, count: int) -> None:
        """As an application does."""
        for _ in range(count):
            noop.send()

    def add_timed(self) -> None:
        """One that notes its start."""
        stamp.send()

    def fan_in(self, count: int) -> None:
        """A group with a completion callback (a barrier that counts down)."""
        members = dramatiq.group([noop.message() for _ in range(count)])
        members.add_completion_callback(stamp.message())
        members.run()

    def remaining(self, client: redis.Redis) -> int:
        """Its messages stay in this hash until they are acknowledged."""
        return int(client.hlen("dramatiq:default.msgs"))

    def settings(self) -> dict[str, str]:
        """Its default threads; the prefetch is what makes it fast, the timeout what wakes it soon."""
        return {
            "semantics": "at least once (acknowledged after the task has run)",
            "workers": f"dramatiq --processes 2 --threads {THREADS}",
            "prefetch": f"dramatiq_queue_prefetch={PREFETCH}",
            "idle": f"dramatiq_worker_timeout={WORKER_TIMEOUT_MS} (polls an empty queue each 5 to 10 ms)",
            "middleware": "the defaults and GroupCallbacks",
            "fan-in": "group with add_completion_callback",
        }


PEER = DramatiqPeer

if __name__ == "__main__":
    measuring.run("dramatiq_peer")

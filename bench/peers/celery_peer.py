"""Celery: `celery worker` with `acks_late`, on Redis; prefork or threads, whichever is better."""

import os
import sys

import measuring
import redis
from celery import Celery, chord

#: Tasks that a worker holds for each of its slots; the default of 4 leaves it waiting for Redis.
PREFETCH = 64
#: In a worker of threads. More of them contend for the interpreter with no-op tasks: 4 are slower than 1.
THREADS = 1

app = Celery("celery_peer", broker=measuring.redis_url(), backend=measuring.redis_url())
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=PREFETCH,
    task_ignore_result=True,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


@app.task
def noop() -> None:
    """Next to nothing."""
    measuring.count_run()


@app.task(ignore_result=False)
def member() -> None:
    """Next to nothing; a chord counts its results."""
    measuring.count_run()


@app.task
def stamp(results: object = None) -> None:
    """Note when it started; as a chord's callback it is given the results."""
    measuring.record_start()


class CeleryPeer(measuring.Peer):
    """Late acknowledgement, no events, no gossip; a fan-in is a chord."""

    name = "celery"
    packages = ("celery", "kombu", "redis", "hiredis")
    variants = ("prefork", "threads")

    def worker_commands(self, measure: str, processes: int) -> list[list[str]]:
        """Prefork has its processes in one worker; threads are in as many workers."""
        program = f"{os.path.dirname(sys.executable)}/celery"
        base = [program, "--app", "celery_peer", "worker", "--loglevel", "WARNING"]
        base += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        if self.variant == "prefork":
            return [[*base, "--pool", "prefork", "--concurrency", str(processes)]]
        threads = ["--pool", "threads", "--concurrency", str(THREADS)]
        return [[*base, *threads, "--hostname", f"bench{number}"] for number in range(processes)]

    def add_each(self, count: int) -> None:
        """As an application does."""
        for _ in range(count):
            noop.delay()

    def add_bulk(self, count: int) -> None:
        """In the batches of Kombu's producer: one round trip for 1,000 tasks."""
        with app.producer_pool.acquire(block=True) as producer, producer.batch():
            for _ in range(count):
                noop.apply_async(producer=producer)

    def add_timed(self) -> None:
        """One that notes its start."""
        stamp.delay()

    def fan_in(self, count: int) -> None:
        """A chord, its members added in batches too."""
        with app.producer_pool.acquire(block=True) as producer, producer.batch():
            chord([member.s() for _ in range(count)], stamp.s()).apply_async(producer=producer)

    def remaining(self, client: redis.Redis) -> int:
        """In the list, and taken but not acknowledged."""
        with client.pipeline(transaction=True) as pipe:
            pipe.llen("celery")
            pipe.hlen("unacked")
            return sum(pipe.execute())

    def settings(self) -> dict[str, str]:
        """No events, no gossip, no results: what nobody reads here is not made."""
        pools = {
            "prefork": "one celery worker --pool prefork --concurrency 2",
            "threads": f"two celery worker --pool threads --concurrency {THREADS}",
        }
        return {
            "semantics": "at least once (task_acks_late, task_reject_on_worker_lost)",
            "workers": pools[self.variant],
            "options": "--without-gossip --without-mingle --without-heartbeat --loglevel WARNING",
            "prefetch": f"worker_prefetch_multiplier={PREFETCH}",
            "results": "task_ignore_result, but for the members of a chord, which counts them",
            "bulk": "apply_async in a kombu Producer.batch()",
            "fan-in": "chord, its members added in a Producer.batch()",
        }


PEER = CeleryPeer

if __name__ == "__main__":
    measuring.run("celery_peer")

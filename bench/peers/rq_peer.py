"""RQ: `rq worker` twice, with SimpleWorker (no fork) or the default, which forks for each task."""

import itertools
import os
import sys

import measuring
import redis
from rq import Queue, Retry
from rq.job import Job

QUEUE = "bench"
#: Jobs that one dependent job waits for, in a fan-in.
WIDTH = 20
#: Without it a job whose worker died is failed, not run again.
RETRY = Retry(max=1)
WORKER_CLASSES = {"simple": "rq.SimpleWorker", "forking": "rq.Worker"}


def noop() -> None:
    """Next to nothing."""
    measuring.count_run()


def join() -> None:
    """Ends a group of a fan-in."""


class RqPeer(measuring.Peer):
    """Jobs are deleted when they are done (`result_ttl=0`), as no one asks for their result."""

    name = "rq"
    packages = ("rq", "redis", "hiredis")
    variants = tuple(WORKER_CLASSES)
    # Two workers of RQ 3.0.0 that end two members at once may leave the job after them behind for ever.
    fan_in_seconds = 120.0

    def __init__(self, url: str, processes: int, variant: str) -> None:
        super().__init__(url, processes, variant)
        self.queue = Queue(QUEUE, connection=measuring.redis_client())

    def worker_commands(self, measure: str, processes: int) -> list[list[str]]:
        """One command a process."""
        program = f"{os.path.dirname(sys.executable)}/rq"
        options = ["--url", self.url, "--worker-class", WORKER_CLASSES[self.variant], "--quiet"]
        return [[program, "worker", *options, QUEUE] for _ in range(processes)]

    def add_each(self, count: int) -> None:
        """As an application does."""
        for _ in range(count):
            self.queue.enqueue(noop, result_ttl=0, retry=RETRY)

    def add_bulk(self, count: int) -> None:
        """`enqueue_many`, in one call."""
        self.queue.enqueue_many([Queue.prepare_data(noop, result_ttl=0, retry=RETRY) for _ in range(count)])

    def add_timed(self) -> None:
        """One that notes its start."""
        self.queue.enqueue(measuring.record_start, result_ttl=0, retry=RETRY)

    def fan_in(self, count: int) -> None:
        """Dependent jobs in a tree: one after each 20 members, one after each 20 of those, …, the callback.

        One job after all members would be asked for by each of them: 10,000 times 10,000 look-ups.
        Dependents are registered before members are queued: RQ watches those, and starts over if one changes.
        """
        connection = self.queue.connection
        groups = [self._saved_jobs(min(WIDTH, count - start)) for start in range(0, count, WIDTH)]
        level = [self._after(members) for members in groups]
        while len(level) > WIDTH:
            level = [self._after(level[start : start + WIDTH]) for start in range(0, len(level), WIDTH)]
        self.queue.enqueue(measuring.record_start, depends_on=level, result_ttl=0, retry=RETRY)
        with connection.pipeline(transaction=False) as pipe:
            # Of each group in turn: neighbours of one group would make the two workers' transactions collide.
            for turn in itertools.zip_longest(*groups):
                for job in filter(None, turn):
                    self.queue.enqueue_job(job, pipeline=pipe)
            pipe.execute()

    def _after(self, jobs: list[Job]) -> Job:
        return self.queue.enqueue(join, depends_on=jobs, result_ttl=0, retry=RETRY)

    def _saved_jobs(self, count: int) -> list[Job]:
        """Jobs that are in Redis, but in no queue yet."""
        connection = self.queue.connection
        with connection.pipeline(transaction=False) as pipe:
            jobs = [Job.create(noop, connection=connection, origin=QUEUE, result_ttl=0) for _ in range(count)]
            for job in jobs:
                job.retries_left = RETRY.max
                job.save(pipeline=pipe)
            pipe.execute()
        return jobs

    def remaining(self, client: redis.Redis) -> int:
        """Queued, on the way to a worker, and started."""
        with client.pipeline(transaction=True) as pipe:
            pipe.llen(self.queue.key)
            pipe.llen(self.queue.intermediate_queue_key)
            pipe.zcard(f"rq:wip:{QUEUE}")
            return sum(pipe.execute())

    def settings(self) -> dict[str, str]:
        """The worker class decides the speed; the rest is there to spare it work."""
        return {
            "semantics": "at least once: Retry(max=1) on each job (a dead worker is known by its heartbeat)",
            "workers": f"rq worker --worker-class {WORKER_CLASSES[self.variant]} --quiet, twice",
            "results": "result_ttl=0: a finished job is deleted, no result is kept",
            "bulk": "Queue.enqueue_many",
            "fan-in": f"dependent jobs in a tree (each waits for at most {WIDTH}), registered before "
            "the members are queued; one job that depends on all is quadratic: two minutes for 2,000",
        }


PEER = RqPeer

if __name__ == "__main__":
    measuring.run("rq_peer")

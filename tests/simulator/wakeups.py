"""The rule for wake-ups: if a task can run, a worker has been notified or is about to look for it."""

from typing import TYPE_CHECKING

from tests.simulator.network import Request
from tests.simulator.steps import Violation

if TYPE_CHECKING:
    from tests.simulator.workers import SimWorker
    from tests.simulator.world import World

GROUPS = ("default", "backend")
# Even without a marker, a worker checks all lists once a second, so it finds tasks whose marker was lost.
SAFETY_SECONDS = 1.5
LATE_SECONDS = 0.01
# Steps that make tasks ready or resume queues without a marker, because RQ's tools do not know markers.
SILENT = {"rq requeue", "rq resume", "rq suspend", "rq enqueue", "rq worker", "rq delete", "expire"}
# Steps that change lists, of which workers learn within a second.
CHANGES = {"upload_queues", "register_service", "keep_queue"}


class Wakeups:
    """Checks the markers.

    A worker that takes a marker may be killed, or the answer may be lost. Each worker therefore checks all
    lists once a second. After a fault, no marker is expected until a worker has done this.

    Args:
        world: the world to check.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self._excused_at = 0
        self._excused_until = 0.0
        self._is_excused = dict.fromkeys(GROUPS, False)
        self._is_due_excused = False

    def excuse(self, until: float = 0.0) -> None:
        """Allow for a lost marker until a worker has checked all lists after this time."""
        self._excused_at = self._world.executed
        self._excused_until = max(self._excused_until, until)
        self._is_excused = dict.fromkeys(GROUPS, True)
        self._is_due_excused = True

    def note(self, request: Request) -> None:
        """Note an executed request."""
        if request.script in SILENT:
            self.excuse()
        elif request.script in CHANGES:
            self.excuse(self._world.now + SAFETY_SECONDS)

    def note_lease(self, worker: "SimWorker", request: Request) -> None:
        """Note that a worker has received the answer to a lease."""
        is_full_look = int(request.args[5]) > 0
        if is_full_look and request.executed_at > self._excused_at and self._world.now >= self._excused_until:
            for group in worker.groups:
                if self._lists_of(group) <= set(request.args):
                    self._is_excused[group] = False

    def note_look(self, request: Request) -> None:
        """Note that a worker knows which scheduled task is due next."""
        if request.executed_at > self._excused_at and self._world.now >= self._excused_until:
            self._is_due_excused = False

    def _lists_of(self, group: str) -> set[str]:
        """The lists that workers of this group check when they know the last upload."""
        found = set()
        for queue, settings in self._world.server.seen.settings.items():
            if settings.get("mode") == "push":
                found.add(queue if settings.get("group") == group else f"{queue}.{group}")
        return found

    def check(self) -> None:
        """Judge the current state.

        Raises:
            Violation: a task can run, but all workers sleep and none was notified.
        """
        world = self._world
        seen = world.server.seen
        if world.is_skewed:
            return
        if seen.scheduled and not self._is_due_excused:
            self._check_due()
        if seen.is_suspended or not (seen.ready or seen.run_now):
            return
        for group in GROUPS:
            if self._is_excused[group] or seen.markers.get(group):
                continue
            workers = [worker for worker in world.workers.values() if group in worker.groups]
            if not any(self._listens(worker) for worker in workers):
                continue
            if any(self._will_look(worker) for worker in workers):
                continue
            task = self._could_run(group)
            if task is not None:
                raise Violation(f"{task} could run, but there is no marker, and all workers sleep")

    def _check_due(self) -> None:
        """Check that a worker wakes up when a scheduled task becomes due."""
        world = self._world
        mains = [worker.process.threads[0] for worker in world.workers.values()]
        if not mains or any(main.sleep is None or main.can_go_on(world.now) for main in mains):
            return
        if any(world.server.seen.markers.values()):
            return
        for scores in world.server.seen.scheduled.values():
            for task, eta in scores.items():
                if eta <= world.now - LATE_SECONDS:
                    raise Violation(f"{task} is due, and all workers sleep")

    def _listens(self, worker: "SimWorker") -> bool:
        question = worker.wakeup.question
        return question is not None and question.is_parked

    def _will_look(self, worker: "SimWorker") -> bool:
        main = worker.process.threads[0]
        sleep = main.sleep
        if sleep is None or main.can_go_on(self._world.now):
            return True
        return sleep.question is None and not worker.runners.is_full

    def _could_run(self, group: str) -> str | None:
        """A task that a worker with a free thread would get now, if any."""
        seen = self._world.server.seen
        for ids in (seen.run_now.get(group, []),):
            for task in ids:
                if seen.status(task) == "queued":
                    return task
        for name, ids in seen.ready.items():
            queue, _, side = name.partition(".")
            settings = seen.settings.get(queue)
            if settings is None or not self._may_go(queue, settings):
                continue
            if (side or settings.get("group", "default")) != group:
                continue
            for task in ids:
                record = seen.records.get(task)
                if record is not None and record.status == "queued":
                    return task
        return None

    def _may_go(self, queue: str, settings: dict[str, str]) -> bool:
        seen = self._world.server.seen
        rate = float(settings.get("rate", 0))
        if rate == 0 or settings.get("is_disabled") == "1" or queue in seen.paused:
            return False
        if settings.get("mode") == "pull":
            return False
        most = settings.get("max_concurrent")
        if most and len(seen.leased.get(queue, ())) >= int(most):
            return False
        bucket = seen.buckets.get(queue)
        if bucket is None:
            return True
        # A worker that waits for a token wakes up a moment after the token is available.
        passed = max(0.0, self._world.now - LATE_SECONDS - float(bucket["counted_at"]))
        return min(float(settings["bucket_size"]), float(bucket["tokens"]) + passed * rate) >= 1

"""Which service a task is for: queue.yaml's target, the task's own, or the service that adds it.

Pure. Rules: docs/appengine.md, "Targets".
"""

from dataclasses import dataclass

from lastacross.config import DEFAULT_SERVICE, Config, service_of
from lastacross.taskqueue.task import Task

# Before a service that dispatch.yaml names: it counts more than the queue's own target.
DISPATCHED = "!"


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the tasks go that one process adds to one queue.

    Args:
        queue_target: the queue's own target, '' when it has none.
        configuration: of this process: its service, app.yaml's name for the default one, dispatch.yaml.
    """

    queue_target: str
    configuration: Config

    def of(self, task: Task, queue: str) -> str | None:
        """The record's ``target``: None where the queue alone decides.

        A rule of dispatch.yaml for the task's URL comes first, unless the target names a version; then the
        queue's target, which the scripts know; the task's; the service of the process that adds it.
        """
        configuration, target = self.configuration, task.target
        if configuration.dispatch and "." not in (self.queue_target or target or ""):
            service = configuration.dispatched_service(task.url_on(queue).partition("?")[0])
            if service is not None:
                return DISPATCHED + self._named(service)
        if target is not None:
            return self._named(service_of(target))
        own = configuration.settings.service
        return None if own == DEFAULT_SERVICE or self.queue_target else own

    def _named(self, service: str) -> str:
        return DEFAULT_SERVICE if service == self.configuration.app.service else service

"""Steps of another process that happen at the worst moment."""

from typing import Any

import pytest

from lastacross.broker import Broker


def retry_before_deletions(monkeypatch: pytest.MonkeyPatch, task_id: str) -> None:
    """Let another administrator retry this dead letter just before a script deletes tasks."""
    run: Any = Broker._run

    def retry_and_run(self: Broker, script: str, args: Any) -> Any:
        if script in ("delete_tasks", "delete_dead"):
            self.retry_dead([task_id])
        return run(self, script, args)

    monkeypatch.setattr(Broker, "_run", retry_and_run)

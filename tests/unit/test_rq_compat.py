"""RQ is as we rely on it in these versions. Look at another one before you name it here."""

import inspect
from importlib.metadata import version

import pytest
import rq

from lastacross.worker.rq_compat import RqWorker

# `make test-versions` runs these tests with the first and the last of each.
VERSIONS = ("2.12.0", "3.0.0")


def test_the_version_is_one_that_was_looked_at() -> None:
    assert version("rq") in VERSIONS


@pytest.mark.parametrize(
    ("name", "caller"),
    [("_set_connection", rq.Worker.__init__), ("_pubsub_exception_handler", rq.Worker.subscribe)],
)
def test_rq_calls_the_private_methods_that_ours_overrides(name: str, caller: object) -> None:
    assert name in vars(RqWorker)
    assert f"self.{name}" in inspect.getsource(caller)  # type: ignore[arg-type]


def test_the_thread_of_commands_is_where_we_look_for_it() -> None:
    assert "self.pubsub_thread = None" in inspect.getsource(rq.Worker.__init__)
    assert "self.pubsub_thread = " in inspect.getsource(rq.Worker.subscribe)

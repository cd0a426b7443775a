"""Public objects in queued calls and cached values, pickled by one release and read by the other."""

import ast
import subprocess
import sys

import pytest

from tests.upgrade.former import PRESENT, Code, former

MAKE = """
import pickle, sys
from lastacross import memcache, taskqueue
from lastacross.taskqueue import Batch, CurrentTask, Queue, QueueStatistics, Task
from lastacross.taskqueue import TaskRetryOptions, current_task

retry = TaskRetryOptions(task_retry_limit=3)
task = Task("body", name="named", url="/work", headers={"X-Own": "1"}, retry_options=retry, countdown=5)
current = CurrentTask("default_a", "a", "default", 1, 0, 0, member="b:0")
objects = {
    "task": task,
    "pull": Task("body", method="PULL", tag="t"),
    "queue": Queue("other"),
    "batch": Batch("other", on_complete=Task(url="/done"), name="b"),
    "child": Batch("other", name="c", parent=current),
    "current": current,
    "current_task": current_task,
    "statistics": QueueStatistics(Queue("other"), tasks=2),
    "error": taskqueue.UnknownQueueError("no queue"),
    "set": memcache.set,
    "class of a peeked item": type(memcache.ItemWithTimestamps.__new__(memcache.ItemWithTimestamps)),
}
print({name: pickle.dumps(each) for name, each in objects.items()})
"""

READ = """
import pickle, sys
from lastacross import memcache, taskqueue

found = {name: pickle.loads(data) for name, data in eval(sys.stdin.read()).items()}
task, batch = found["task"], found["batch"]
assert (task.name, task.payload, task.url, task.headers["X-Own"]) == (
    ("named", b"body", "/work", "1")
)
assert task.retry_options.task_retry_limit == 3
assert (found["pull"].method, found["pull"].tag) == ("PULL", "t")
assert found["queue"] == taskqueue.Queue("other") and found["queue"].name == "other"
# What an application does with it next: it fills the batch, on the queue that it was made for.
assert (batch.id, batch._queue.name, found["child"].id) == ("b", "other", "c")
assert found["current"].batch_id == "b" and type(found["current"]) is taskqueue.CurrentTask
assert found["current_task"] is taskqueue.current_task
assert (found["statistics"].queue.name, found["statistics"].tasks) == ("other", 2)
assert type(found["error"]) is taskqueue.UnknownQueueError
assert found["set"].__name__ == "set" and isinstance(found["set"].__self__, memcache.Client)
assert found["class of a peeked item"] is memcache.ItemWithTimestamps
"""


def run(code: Code, program: str, given: str = "") -> str:
    """The output of a program of this release; fails with its traceback."""
    done = subprocess.run(
        [sys.executable, "-c", program], env=code.environ(), input=given, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{code.name}: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize("direction", ["former to present", "present to former", "present to present"])
def test_each_release_reads_the_objects_of_the_other(direction: str) -> None:
    with former() as old:
        codes = {"former": old, "present": PRESENT}
        writer, _, reader = direction.partition(" to ")
        pickles = run(codes[writer], MAKE)
        assert len(ast.literal_eval(pickles)) == 11
        run(codes[reader], READ, pickles)

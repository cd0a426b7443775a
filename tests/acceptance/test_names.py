"""One name, many processes that add it at once: one wins, and each of the others is told the truth."""

import json
from collections.abc import Iterator

import pytest

from tests.support.lab import Lab, running_lab
from tests.support.processes import python, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PROCESSES = 50
ROUNDS = 100

QUEUES = """\
queue:
- name: default
  rate: 50000/s
  bucket_size: 50000
- name: standing
  rate: 0
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An application with a queue that runs and one that does not."""
    with running_lab(files={"queue.yaml": QUEUES}) as made:
        yield made


def test_of_fifty_processes_that_add_one_name_exactly_one_wins_each_round(lab: Lab) -> None:
    """In half of the rounds the tasks wait, in the others they run immediately.

    The judge of the history checks each refusal.
    """
    half = ROUNDS // 2
    plan = [str(lab.root), str(PROCESSES), f"standing:{half}:0", f"default:{half}:0.04"]
    arguments = python("-m", "tests.support.racers", *plan)
    with lab.workers(1):
        with started(arguments, lab.root, lab.environ) as running:
            assert running.wait(120) == 0, running.text()
            answer = json.loads(running.text())
        lab.wait_for(half, "/work", 60)
    kinds = list(zip(*answer["told"], strict=True))

    assert [kind.count("added") for kind in kinds] == [1] * ROUNDS
    assert {word for kind in kinds[:half] for word in kind} == {"added", "TaskAlreadyExistsError"}
    tombstoned = sum(kind.count("TombstonedTaskError") for kind in kinds)
    print(
        f"seed {answer['seed']}: {PROCESSES} processes, {ROUNDS} rounds in {answer['seconds']:.1f} s; "
        f"in the rounds that ran {tombstoned} of {half * (PROCESSES - 1)} were told of a tombstone"
    )
    assert tombstoned > 0

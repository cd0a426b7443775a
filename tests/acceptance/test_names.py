"""One name, many processes that add it at once: one wins, and each of the others is told the truth."""

import json
from collections.abc import Iterator

import pytest

from lastacross import taskqueue
from tests.support.lab import Lab, running_lab
from tests.support.monitored import Command, monitored
from tests.support.processes import python, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PROCESSES = 50
ROUNDS = 200

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
    """While the tasks stand still in one half of the rounds, and run at once in the other."""
    half = ROUNDS // 2
    plan = [str(lab.root), str(PROCESSES), f"standing:{half}:0", f"default:{half}:0.04"]
    arguments = python("-m", "tests.support.racers", *plan)
    # A server that does not know a script yet is asked twice.
    taskqueue.add(url="/first", name="first", queue_name="standing")
    with lab.workers(1), monitored(lab.redis_server) as heard:
        with started(arguments, lab.root, lab.environ) as running:
            assert running.wait(120) == 0, running.text()
            answer = json.loads(running.text())
        lab.wait_for(half, "/work", 20)
        commands = heard.commands()
    told = answer["told"]
    expected = _expected(commands, half)
    kinds = [[process[index] for process in told] for index in range(ROUNDS)]

    assert [kind.count("added") for kind in kinds] == [1] * ROUNDS
    assert told == expected
    assert {word for kind in kinds[:half] for word in kind} == {"added", "TaskAlreadyExistsError"}
    tombstoned = sum(kind.count("TombstonedTaskError") for kind in kinds)
    print(
        f"{PROCESSES} processes, {ROUNDS} rounds in {answer['seconds']:.1f} s; in the rounds that ran "
        f"{tombstoned} of {half * (PROCESSES - 1)} were told of a tombstone"
    )
    assert tombstoned > 0
    assert set(lab.ran("/work", "begin").values()) == {1}


def _expected(commands: list[Command], half: int) -> list[list[str]]:
    """What each process should be told, by the order in which the server ran the calls."""
    told = [[""] * ROUNDS for _ in range(PROCESSES)]
    is_used: set[str] = set()
    is_over: set[str] = set()
    for command in commands:
        words = command.words
        if command.is_of_script:
            if words[0].upper() == "DEL":
                # Tasks that end at one moment are deleted together.
                is_over.update(key.removeprefix("rq:job:") for key in words[1:])
            continue
        by = [word.partition("/work?by=")[2] for word in words if word.startswith("GET /work?by=")]
        if not by:
            continue
        [task] = [word for word in words if word.partition("_")[2].startswith("round-")]
        index = int(task.rpartition("-")[2])
        if task in is_over:
            told[int(by[0])][index] = "TombstonedTaskError"
        elif task in is_used:
            told[int(by[0])][index] = "TaskAlreadyExistsError"
        else:
            told[int(by[0])][index] = "added"
            is_used.add(task)
    return told

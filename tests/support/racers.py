"""Many processes that add the same named task at the same time, round after round.

Run as a module: ``python -m tests.support.racers <app root> <processes> <queue>:<rounds>:<spread>…``.
All processes start a round at the same time. Those with odd numbers then wait for up to ``spread`` seconds.
Prints the result of each process in each round as JSON: "added", or the name of the error.
"""

import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

from lastacross import config, taskqueue

PATIENCE_SECONDS = 60.0
SEED = 12


def race(number: int, rounds: Sequence[tuple[str, float]], start: Barrier, answers: Connection) -> None:
    """Run one process, which adds each round's task when all others do."""
    told = []
    chance = random.Random(f"{SEED} {number}")
    # Connect before the first round, because connecting takes longer than adding.
    taskqueue.Queue().delete_tasks_by_name("warm")
    for index, (queue, spread_seconds) in enumerate(rounds):
        start.wait(PATIENCE_SECONDS)
        if number % 2 and spread_seconds:
            time.sleep(chance.uniform(0, spread_seconds))
        try:
            taskqueue.add(url=f"/work?by={number}", method="GET", name=f"round-{index}", queue_name=queue)
        except taskqueue.InvalidTaskError as error:
            told.append(type(error).__name__)
        else:
            told.append("added")
    answers.send(told)


def main(root: str, processes: str, *plan: str) -> None:
    """Fork the processes, let them race, and print their results."""
    config.use(config.load(Path(root), os.environ))
    rounds = []
    for part in plan:
        queue, number_of_rounds, spread_seconds = part.split(":")
        rounds += [(queue, float(spread_seconds))] * int(number_of_rounds)
    forked = multiprocessing.get_context("fork")
    count = int(processes)
    start = forked.Barrier(count)
    pipes = [forked.Pipe(duplex=False) for _ in range(count)]
    began_at = time.monotonic()
    runners = [
        forked.Process(target=race, args=(number, rounds, start, answers))
        for number, (_, answers) in enumerate(pipes)
    ]
    for runner in runners:
        runner.start()
    told = [receiver.recv() for receiver, _ in pipes]
    for runner in runners:
        runner.join()
    print(json.dumps({"seed": SEED, "seconds": time.monotonic() - began_at, "told": told}))


if __name__ == "__main__":
    main(*sys.argv[1:])

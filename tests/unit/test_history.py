"""The rules of histories: each kind of bad history is caught, and a good one that looks bad is not."""

import json
import math
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lastacross import taskqueue
from lastacross.config import Config
from lastacross.store import Store
from tests.support import recording, uploads
from tests.support.evidence import Limit, State
from tests.support.history import (
    ADDED,
    ADDED_BEFORE,
    CUT,
    EMPTIED,
    EXISTS,
    FAIL,
    FOREIGN,
    KILLED,
    OK,
    STALLED,
    TOMBSTONED,
    UNKNOWN,
    Operation,
    Recorder,
    read,
)
from tests.support.history_rules import violations
from tests.support.judging import judged

EMPTY = State()


def add(*tasks: str, at: float = 0.0, code: int = ADDED, op: str = "add", **asked: Any) -> Operation:
    """An add whose answer came 0.1 s later."""
    return Operation(op, at, at + 0.1, OK, {"ids": list(tasks), **asked}, [code] * len(tasks))


def unknown_add(*tasks: str, at: float = 0.0, op: str = "add", **asked: Any) -> Operation:
    """An add whose end is unknown."""
    return Operation(op, at, asked={"ids": list(tasks), **asked})


def run(
    task: str,
    at: float = 1.0,
    status: int = 200,
    *,
    retries: int = 0,
    executions: int = 0,
    seconds: float = 0.1,
) -> Operation:
    """An attempt of 0.1 s."""
    asked = {"id": task, "pid": 7, "retry_count": retries, "execution_count": executions}
    return Operation("run", at, at + seconds, OK, asked, {"status": status, "is_success": status == 200})


def cut_off(task: str, at: float = 1.0, **asked: Any) -> Operation:
    """An attempt whose process was killed."""
    return Operation("run", at, asked={"id": task, "pid": 7, "retry_count": 0, "execution_count": 0, **asked})


def ack(*tasks: str, at: float = 1.2) -> Operation:
    """A confirmed end."""
    return Operation("ack", at, at + 0.1, OK, {"ids": list(tasks)}, [True] * len(tasks))


def fault(kind: str, at: float, **asked: Any) -> Operation:
    """Something that the test broke."""
    return Operation("fault", at, at, OK, {"kind": kind, **asked})


def batch(*members: str, sealed_at: float | None = 0.5) -> list[Operation]:
    """A batch `b` with these members, and `q_b-complete` for its end."""
    found = [
        Operation(
            "create", 0.0, 0.1, OK, {"batch": "b", "ids": ["q_b-complete"], "complete": "q_b-complete"}, 0
        )
    ]
    found += [add(*members, at=0.2, op="member", batch="b")] if members else []
    if sealed_at is not None:
        found.append(Operation("seal", sealed_at, sealed_at + 0.1, OK, {"batch": "b"}, len(members)))
    return found


def holding(tombstones: Sequence[str] = (), **places: str) -> State:
    """A Redis that has these tasks, each in its place."""
    return State({task: [place] for task, place in places.items()}, frozenset(places), frozenset(tombstones))


def one(
    history: Sequence[Operation], state: State | None = EMPTY, limits: Mapping[str, Limit] | None = None
) -> str:
    """The one violation of this history."""
    [found] = violations(history, state, limits=limits)
    return found


# --- nothing that was accepted is lost ----------------------------------------------------


def test_a_task_that_ran_is_not_lost() -> None:
    assert violations([add("q_a"), run("q_a"), ack("q_a")], EMPTY) == []


def test_an_accepted_task_that_is_nowhere_is_lost() -> None:
    assert one([add("q_a", "q_b"), run("q_b")]).startswith(
        "q_a: lost: added (ok +0.000 s to +0.100 s), runs: none"
    )


def test_a_task_whose_only_attempt_failed_or_was_cut_off_is_lost_when_redis_has_it_nowhere() -> None:
    for attempt in (run("q_a", status=500), cut_off("q_a")):
        assert "lost" in one([add("q_a"), attempt])


def test_a_task_whose_add_was_answered_only_with_added_before_is_lost_too() -> None:
    assert "lost" in one([unknown_add("q_a"), add("q_a", at=0.5, code=ADDED_BEFORE)])


@pytest.mark.parametrize("place", ["ready", "leased", "scheduled", "dead", "deferred"])
def test_a_task_that_is_still_visible_is_not_lost(place: str) -> None:
    assert violations([add("q_a"), run("q_a", status=500)], holding(q_a=place)) == []


def test_a_deleted_or_purged_task_is_not_lost_unless_the_deletion_met_none() -> None:
    deleted = Operation("delete", 0.5, 0.6, OK, {"ids": ["q_a"]}, [True])
    missed = Operation("delete", 0.5, 0.6, OK, {"ids": ["q_a"]}, [False])
    purged = Operation("purge", 0.5, 0.6, OK, {"queue": "q"}, 1)
    other = Operation("purge", 0.5, 0.6, OK, {"queue": "other"}, 1)
    assert violations([add("q_a"), deleted], EMPTY) == []
    assert violations([add("q_a"), purged], EMPTY) == []
    assert "lost" in one([add("q_a"), missed])
    assert "lost" in one([add("q_a"), other])


def test_an_emptied_redis_may_lose_earlier_tasks_but_not_later_ones() -> None:
    history = [add("q_a"), fault(EMPTIED, 1.0), add("q_b", at=2.0)]
    assert one(history).startswith("q_b: lost")
    assert one([add("q_a"), fault(CUT, 1.0)]).startswith("q_a: lost")


def test_a_redis_that_cannot_be_asked_proves_no_loss() -> None:
    assert violations([add("q_a")], None) == []


def test_an_add_with_an_unknown_end_may_have_happened_or_not() -> None:
    assert violations([unknown_add("q_a")], EMPTY) == []
    assert violations([unknown_add("q_a"), run("q_a")], EMPTY) == []


def test_an_add_with_an_unknown_end_must_not_happen_in_part() -> None:
    for op in ("add", "member"):
        history = [unknown_add("q_a", "q_b", op=op, batch="b"), run("q_a")]
        assert "in part" in one(history)
        assert violations([*history, run("q_b")], EMPTY) == []


def test_an_add_whose_other_half_was_deleted_did_not_happen_in_part() -> None:
    purged = Operation("purge", 0.5, 0.6, OK, {"queue": "q"}, 1)
    assert violations([unknown_add("q_a", "q_b"), run("q_a"), purged], EMPTY) == []


def test_a_record_in_no_place_or_in_two_places_is_caught() -> None:
    nowhere = State({}, frozenset({"q_a"}))
    twice = State({"q_a": ["ready", "leased"]}, frozenset({"q_a"}))
    without = State({"q_a": ["ready"]})
    history = [add("q_a"), run("q_a", status=500)]
    assert any("never runs" in found for found in violations(history, nowhere))
    assert "in 2 places: ready, leased" in one(history, twice)
    assert "has no record" in one(history, without)


# --- nothing runs that nobody added, and nothing runs again without a reason ---------------


def test_a_run_that_nobody_added_is_a_phantom() -> None:
    assert "nobody added it" in one([run("q_a")])


def test_a_run_before_its_add_is_a_phantom() -> None:
    assert "nobody added it" in one([add("q_a", at=2.0), run("q_a", 1.0)])


def test_a_run_of_a_task_that_was_only_ever_refused_is_a_phantom() -> None:
    refused = Operation("add", 0.0, 0.1, FAIL, {"ids": ["q_a"]})
    assert "1 adds were refused" in one([refused, run("q_a")])


def test_a_record_that_nobody_added_is_a_phantom() -> None:
    assert "nobody added it" in one([], holding(q_a="ready"))


def test_a_task_that_runs_again_after_its_end_was_confirmed_is_caught() -> None:
    history = [add("q_a"), run("q_a"), ack("q_a"), fault(KILLED, 1.4, killed=7), run("q_a", 2.0, retries=0)]
    assert "its end was confirmed at +1.300 s" in one(history)


def test_a_success_that_is_repeated_although_nothing_failed_is_caught() -> None:
    history = [add("q_a"), run("q_a"), run("q_a", 2.0)]
    assert "nothing had failed" in one(history)
    assert violations([add("q_a"), run("q_a"), fault(KILLED, 1.1), run("q_a", 2.0)], EMPTY) == []


def test_a_success_may_be_repeated_if_the_worker_that_had_to_report_it_was_killed() -> None:
    """A fork server stands between a worker process and the process that ran the task."""
    first = run("q_a")
    first = replace(first, asked={**first.asked, "parent": 6, "grandparent": 5})

    def after(killed: int) -> list[str]:
        return violations([add("q_a"), first, fault(KILLED, 1.2, killed=killed), run("q_a", 2.0)], EMPTY)

    assert after(5) == after(6) == after(7) == []
    assert "nothing had failed" in after(4)[0]


def test_a_cut_off_attempt_may_be_repeated() -> None:
    history = [add("q_a"), cut_off("q_a"), run("q_a", 2.0, retries=1)]
    assert violations(history, EMPTY) == []


def test_a_stalled_process_may_begin_an_attempt_after_its_lease_was_lost() -> None:
    history = [add("q_a"), fault(STALLED, 0.5), run("q_a"), ack("q_a"), run("q_a", 9.0)]
    assert violations(history, EMPTY) == []


def test_rqs_own_worker_may_bring_back_a_task_that_has_ended() -> None:
    history = [add("q_a"), fault(FOREIGN, 0.5), run("q_a"), ack("q_a"), run("q_a", 4.0)]
    assert violations(history, EMPTY) == []


# --- a fault excuses what it met, and nothing else ----------------------------------------

# Long before the helpers' operations, so that its traces are gone.
LONG_AGO = -100.0


@pytest.mark.parametrize("kind", [STALLED, EMPTIED, FOREIGN, CUT])
def test_a_fault_excuses_no_repetition_before_it_and_none_of_a_later_task(kind: str) -> None:
    history = [add("q_a"), run("q_a"), run("q_a", 2.0)]
    assert violations([*history, fault(kind, 1.5)], EMPTY) == []
    for at in (LONG_AGO, 3.0):
        assert any("ran again" in found for found in violations([*history, fault(kind, at)], None))


@pytest.mark.parametrize("kind", [STALLED, EMPTIED])
def test_a_fault_excuses_no_count_before_it_and_none_of_a_later_task(kind: str) -> None:
    history = [add("q_a"), run("q_a", retries=3)]
    assert violations([*history, fault(kind, 0.5)], EMPTY) == []
    for at in (LONG_AGO, 3.0):
        assert any("has retries 3" in found for found in violations([*history, fault(kind, at)], None))


def test_a_kill_long_ago_excuses_no_count() -> None:
    assert "retries 1" in one([fault(KILLED, LONG_AGO), add("q_a"), run("q_a", retries=1)])


def test_a_fault_that_lasts_excuses_all_that_it_meets() -> None:
    history = [add("q_a"), run("q_a"), ack("q_a"), run("q_a", 9.0)]
    assert violations([Operation("fault", LONG_AGO, 0.5, OK, {"kind": STALLED}), *history], EMPTY) == []


def test_an_add_that_happened_in_part_is_caught_unless_redis_was_emptied_later() -> None:
    history = [unknown_add("q_a", "q_b"), run("q_a")]
    assert violations([*history, fault(EMPTIED, 2.0)], EMPTY) == []
    assert "happened in part" in one([fault(EMPTIED, LONG_AGO), *history])


def test_a_batch_that_never_fires_is_caught_unless_redis_was_emptied_later() -> None:
    waiting = holding(**{"q_b-complete": "deferred"})
    history = [*batch("q_b-0"), run("q_b-0"), ack("q_b-0")]
    assert violations([*history, fault(EMPTIED, 5.0)], waiting) == []
    assert "q_b-complete never ran" in one([fault(EMPTIED, LONG_AGO), *history], waiting)


def test_only_the_attempts_that_a_stall_met_may_exceed_the_limit() -> None:
    limits = {"q": Limit(at_once=1)}
    history = [add("q_a", "q_b"), run("q_a", seconds=1.0), run("q_b", 1.5)]
    assert violations([*history, fault(STALLED, 1.2)], EMPTY, limits=limits) == []
    assert "2 at once" in one([fault(STALLED, LONG_AGO), *history], limits=limits)
    assert "2 at once" in one([*history, fault(STALLED, 9.0)], limits=limits)


def test_a_requeued_dead_letter_starts_with_new_counts() -> None:
    requeue = Operation("requeue", 3.0, 3.1, OK, {"ids": ["q_a"]}, [True])
    history = [add("q_a"), run("q_a", status=500), run("q_a", 2.0, 500, retries=1, executions=1)]
    assert violations([*history, requeue, run("q_a", 4.0)], EMPTY) == []
    assert "retries 0 after 1" in one([*history, run("q_a", 4.0)])


# --- names --------------------------------------------------------------------------------


def test_a_name_that_is_accepted_twice_is_caught() -> None:
    assert "accepted twice" in one([add("q_a"), add("q_a", at=0.5), run("q_a")])


def test_a_name_is_free_again_after_its_tombstones_life() -> None:
    history = [add("q_a"), run("q_a"), ack("q_a"), add("q_a", at=20.0), run("q_a", 21.0), ack("q_a", at=21.2)]
    assert "accepted twice" in one(history)
    assert violations(history, EMPTY, tombstone_seconds=10.0) == []


def test_a_task_that_is_sent_again_is_accepted_again_as_the_same_task() -> None:
    first = add("q_a", requests=["r"])
    again = add("q_a", at=0.5, requests=["r"])
    other = add("q_a", at=0.5, requests=["s"])
    assert violations([first, again, run("q_a")], EMPTY) == []
    assert "accepted twice" in one([first, other, run("q_a")])


def test_a_name_that_an_emptied_redis_forgot_is_free() -> None:
    assert violations([add("q_a"), fault(EMPTIED, 0.5), add("q_a", at=1.0), run("q_a", 2.0)], EMPTY) == []


@pytest.mark.parametrize("code", [EXISTS, TOMBSTONED])
def test_a_refused_name_that_nobody_had_added_is_caught(code: int) -> None:
    assert "nobody had added it" in one([add("q_a", code=code)])
    later = [add("q_a", code=code), add("q_a", at=1.0), run("q_a", 2.0)]
    assert "nobody had added it" in one(later)


def test_a_name_may_be_refused_because_of_an_add_with_an_unknown_end() -> None:
    history = [unknown_add("q_a"), add("q_a", at=0.5, code=EXISTS), run("q_a"), ack("q_a")]
    assert violations([*history, add("q_a", at=2.0, code=TOMBSTONED)], EMPTY) == []


def test_an_unknown_add_that_did_not_happen_leaves_the_name_to_the_next() -> None:
    assert violations([unknown_add("q_a"), add("q_a", at=0.5), run("q_a")], EMPTY) == []


def test_a_name_may_be_refused_because_of_a_concurrent_add() -> None:
    slow = Operation("add", 0.05, 0.9, OK, {"ids": ["q_a"]}, [ADDED])
    assert violations([add("q_a", code=EXISTS), slow, run("q_a")], EMPTY) == []


def test_a_name_refused_as_ended_before_its_task_has_ended_is_caught() -> None:
    history = [add("q_a"), add("q_a", at=0.5, code=TOMBSTONED), run("q_a"), ack("q_a")]
    assert "it had not ended" in one(history)


def test_a_name_refused_as_waiting_after_its_end_was_confirmed_is_caught() -> None:
    history = [add("q_a"), run("q_a"), ack("q_a"), add("q_a", at=2.0, code=EXISTS)]
    assert "and it had ended" in one(history)


def test_a_confirmed_end_is_lost_only_if_redis_is_killed_within_two_seconds() -> None:
    history = [add("q_a"), run("q_a"), ack("q_a", at=1.5), run("q_a", 9.0)]
    assert violations([*history, fault(CUT, 3.0)], EMPTY) == []
    for at in (1.0, 4.0):
        assert any("its end was confirmed" in found for found in violations([*history, fault(CUT, at)], None))


# --- fan-in -------------------------------------------------------------------------------


def test_a_batch_that_fires_once_at_its_end_is_right() -> None:
    history = [*batch("q_b-0", "q_b-1"), run("q_b-0"), run("q_b-1"), ack("q_b-0", "q_b-1")]
    assert violations([*history, run("q_b-complete", 2.0), ack("q_b-complete", at=2.2)], EMPTY) == []


def test_a_batch_that_fires_twice_is_caught() -> None:
    history = [*batch("q_b-0"), run("q_b-0"), ack("q_b-0"), fault(CUT, 1.5)]
    history += [run("q_b-complete", 2.0), ack("q_b-complete", at=2.2)]
    history += [run("q_b-complete", 3.0), ack("q_b-complete", at=3.2)]
    assert any("fired 2 times" in found for found in violations(history, EMPTY))


def test_an_on_complete_that_was_cut_off_may_run_again() -> None:
    history = [*batch("q_b-0"), run("q_b-0"), ack("q_b-0"), cut_off("q_b-complete", 2.0)]
    history += [
        fault(KILLED, 2.1, killed=7),
        run("q_b-complete", 3.0, retries=1),
        ack("q_b-complete", at=3.2),
    ]
    assert violations(history, EMPTY) == []


def test_a_batch_that_fires_before_its_last_member_has_ended_is_caught() -> None:
    history = [*batch("q_b-0", "q_b-1"), run("q_b-0"), ack("q_b-0"), run("q_b-complete", 2.0)]
    assert "before q_b-1 had ended" in one([*history, run("q_b-1", 3.0), ack("q_b-1", at=3.2)])


def test_an_ack_that_a_silent_redis_answered_to_its_repetition_may_have_ended_its_tasks() -> None:
    """The first request was carried out when Redis went on; its client had asked again meanwhile."""
    doubled = Operation("ack", 1.2, 6.0, OK, {"ids": ["q_b-0"]}, [False])
    history = [*batch("q_b-0"), run("q_b-0"), doubled, run("q_b-complete", 5.9)]
    assert "before q_b-0 had ended" in one(history)
    for kind in (STALLED, CUT):
        assert violations([*history, Operation("fault", 1.1, 5.5, OK, {"kind": kind})], EMPTY) == []
        assert "before q_b-0 had ended" in one([*history, fault(kind, LONG_AGO)])


def test_a_batch_that_fires_before_its_seal_is_caught() -> None:
    history = [*batch("q_b-0", sealed_at=5.0), run("q_b-0"), ack("q_b-0"), run("q_b-complete", 2.0)]
    assert "before the batch was sealed" in one(history)


def test_a_sealed_batch_that_never_fires_is_caught() -> None:
    history = [*batch("q_b-0"), run("q_b-0"), ack("q_b-0")]
    assert any("q_b-complete never ran" in found for found in violations(history, EMPTY))
    assert "q_b-complete never ran" in one(history, holding(**{"q_b-complete": "deferred"}))
    assert violations(history, holding(**{"q_b-complete": "ready"})) == []


def test_a_batch_that_was_not_sealed_or_has_an_open_member_need_not_fire() -> None:
    waiting = holding(**{"q_b-complete": "deferred"})
    assert violations([*batch("q_b-0", sealed_at=None), run("q_b-0"), ack("q_b-0")], waiting) == []
    both = holding(**{"q_b-complete": "deferred", "q_b-0": "scheduled"})
    assert violations([*batch("q_b-0"), run("q_b-0", status=500)], both) == []


def test_an_empty_batch_fires_too() -> None:
    assert any("never ran" in found for found in violations(batch(), EMPTY))
    assert violations([*batch(), run("q_b-complete")], EMPTY) == []


def test_a_batch_fires_though_a_member_is_dead_deleted_or_cancelled() -> None:
    dead = Operation("dead_letter", 1.2, 1.3, OK, {"ids": ["q_b-0"]}, [True])
    fired = run("q_b-complete", 2.0)
    failed = [*batch("q_b-0"), run("q_b-0", status=500), dead, fired]
    assert violations(failed, holding(**{"q_b-0": "dead"})) == []
    deleted = Operation("delete", 1.2, 1.3, OK, {"ids": ["q_b-0"]}, [True])
    assert violations([*batch("q_b-0"), deleted, fired], EMPTY) == []
    cancelled = Operation("cancel", 1.2, 1.3, OK, {"batch": "b"}, True)
    assert violations([*batch("q_b-0"), cancelled, fired], EMPTY) == []


def test_a_poison_member_ends_with_its_process() -> None:
    history = [*batch("q_b-0"), cut_off("q_b-0"), fault(KILLED, 1.1, killed=7), run("q_b-complete", 2.0)]
    assert violations(history, holding(**{"q_b-0": "dead"})) == []


def test_a_batch_that_is_filled_again_keeps_its_members() -> None:
    history = [*batch("q_b-0", sealed_at=None), *batch(sealed_at=0.9)]
    history[2] = Operation("create", 0.6, 0.7, OK, {**history[0].asked}, ADDED_BEFORE)
    history.append(add("q_b-0", at=0.8, op="member", code=ADDED_BEFORE, batch="b"))
    history += [run("q_b-0"), ack("q_b-0"), run("q_b-complete", 2.0), ack("q_b-complete", at=2.2)]
    assert violations(history, EMPTY) == []


# --- counts -------------------------------------------------------------------------------


def test_counts_that_follow_the_attempts_are_right() -> None:
    history = [add("q_a"), run("q_a", status=500), run("q_a", 2.0, 500, retries=1, executions=1)]
    assert violations([*history, run("q_a", 3.0, retries=2, executions=2)], EMPTY) == []


@pytest.mark.parametrize(
    ("second", "text"),
    [
        (run("q_a", 2.0, retries=0, executions=1), "beyond its retries"),
        (run("q_a", 2.0, retries=2, executions=2), "executions 2, and began 1 times before"),
        (run("q_a", 2.0, retries=2, executions=1), "retries 2, and began 1 times before"),
        (run("q_a", 2.0, retries=1, executions=0), "executions 0, and failed 1 times before"),
    ],
)
def test_wrong_counts_are_caught(second: Operation, text: str) -> None:
    assert text in one([add("q_a"), run("q_a", status=500), second])


def test_counts_that_fall_are_caught() -> None:
    history = [add("q_a"), fault(KILLED, 0.5), run("q_a", status=500)]
    history.append(run("q_a", 2.0, 500, retries=1, executions=1))
    assert "executions 0 after 1" in one([*history, run("q_a", 3.0, retries=2, executions=0)])


def test_an_attempt_that_was_lost_before_it_began_counts_as_a_retry_after_a_kill() -> None:
    assert "retries 1" in one([add("q_a"), run("q_a", retries=1)])
    assert violations([add("q_a"), fault(KILLED, 0.5), run("q_a", retries=1)], EMPTY) == []


# --- limits -------------------------------------------------------------------------------


def grants(*instants: float, queue: str = "q") -> list[Operation]:
    """Grants of one queue."""
    return [Operation("grant", at, at, OK, {"id": f"{queue}_{number}"}) for number, at in enumerate(instants)]


LIMIT = {"q": Limit(rate=10.0, bucket=2.0, allowance=0.1, of="grant")}


def test_a_full_bucket_and_its_rate_are_allowed() -> None:
    assert violations(grants(0.0, 0.0, 0.1, 0.2, 0.3, 1.3, 1.3), EMPTY, limits=LIMIT) == []


def test_a_window_with_too_many_starts_is_caught_and_named() -> None:
    found = one(grants(0.0, 1.0, 1.0, 1.0, 5.0), limits=LIMIT)
    assert "grants from +1.000 s to +1.000 s at 10/s needs a bucket of 3.000, and has 2" in found
    assert violations(grants(0.0, 1.0, 1.0, 1.0, 5.0, queue="other"), EMPTY, limits=LIMIT) == []


def test_a_rate_slightly_too_high_for_long_is_caught() -> None:
    assert "needs a bucket" in one(grants(*(number / 11 for number in range(40))), limits=LIMIT)


def test_too_many_attempts_at_once_are_caught() -> None:
    history = [add("q_a", "q_b", "q_c"), run("q_a", seconds=1.0), run("q_b", 1.5), run("q_c", 1.55)]
    assert violations(history, EMPTY, limits={"q": Limit(at_once=3)}) == []
    assert "queue q: 3 at once at +1.550 s, and 2 are allowed" in one(history, limits={"q": Limit(at_once=2)})


def test_an_attempt_that_was_cut_off_is_under_way_until_its_process_was_killed() -> None:
    history = [add("q_a"), cut_off("q_a", 1.0), fault(KILLED, 1.5, killed=7), run("q_a", 2.0, retries=1)]
    assert violations(history, EMPTY, limits={"q": Limit(at_once=1)}) == []
    other = [add("q_a"), cut_off("q_a", 1.0), run("q_a", 2.0, retries=1)]
    assert "2 at once" in one(other, limits={"q": Limit(at_once=1)})


# --- the recorder -------------------------------------------------------------------------


def test_a_recorder_keeps_each_operation_with_its_end(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "history")
    with recorder.operation("add", ids=["q_a"]):
        pass
    with pytest.raises(ValueError, match="refused"), recorder.operation("add", ValueError, ids=["q_b"]):
        raise ValueError("refused")
    with pytest.raises(OSError, match="cut"), recorder.operation("add", ValueError, ids=["q_c"]):
        raise OSError("cut")
    recorder.invoke("add", ids=["q_d"])
    recorder.close()

    found = read(tmp_path / "history")

    assert [operation.outcome for operation in found] == [OK, FAIL, UNKNOWN, UNKNOWN]
    assert [operation.asked["ids"] for operation in found] == [["q_a"], ["q_b"], ["q_c"], ["q_d"]]
    assert [math.isinf(operation.ended_at) for operation in found] == [False, False, True, True]
    assert found[0].began_at <= found[0].ended_at <= found[1].began_at


def test_threads_and_forked_processes_write_into_one_history(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "history")

    def write(name: str) -> None:
        for number in range(200):
            recorder.note("run", id=f"q_{name}-{number}")

    forked = multiprocessing.get_context("fork")
    processes = [forked.Process(target=write, args=(f"process{number}",)) for number in range(2)]
    threads = [threading.Thread(target=write, args=(f"thread{number}",)) for number in range(2)]
    for process in processes:
        process.start()
    for thread in threads:
        thread.start()
    for process in processes:
        process.join()
    for thread in threads:
        thread.join()
    recorder.close()

    found = read(tmp_path / "history")

    assert len({operation.asked["id"] for operation in found}) == len(found) == 800
    assert {operation.outcome for operation in found} == {OK}
    assert len({operation.asked["pid"] for operation in found}) == 3
    assert os.getpid() in {operation.asked["pid"] for operation in found}


def test_a_line_torn_by_a_kill_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "history"
    recorder = Recorder(path)
    recorder.note("run", id="q_a")
    with path.open("ab") as file:
        file.write(b'\n{"n": "1-1", "type": "invoke", "op": "ru')
    recorder.note("run", id="q_b")
    recorder.close()

    assert [operation.asked["id"] for operation in read(path)] == ["q_a", "q_b"]
    assert all(json.loads(line) for line in path.read_bytes().splitlines() if line.endswith(b"}"))


def test_a_step_on_another_redis_is_not_in_the_history_of_a_shared_site(
    test_store: Store, configuration: Config, tmp_path: Path
) -> None:
    uploads.upload(test_store)
    with judged(tmp_path / "site.jsonl", "unix:///nowhere/redis.sock"):
        with judged(tmp_path / "own.jsonl", configuration.settings.redis_url):
            taskqueue.add(url="/work")
        taskqueue.add(url="/work")

    assert read(tmp_path / "site.jsonl") == []
    assert [each.op for each in read(tmp_path / "own.jsonl")] == ["add"]


def test_a_fault_that_lasts_has_its_end_in_the_history(tmp_path: Path) -> None:
    url = "unix:///nowhere/redis.sock"
    with judged(tmp_path / "site.jsonl", url):
        end_fault = recording.begin_fault(STALLED, "a worker", 7, url)
        assert math.isinf(read(tmp_path / "site.jsonl")[0].ended_at)
        end_fault()

    [found] = read(tmp_path / "site.jsonl")
    assert (found.op, found.asked["kind"], found.asked["killed"]) == ("fault", STALLED, 7)
    assert found.began_at <= found.ended_at < math.inf


def test_a_site_whose_processes_recorded_nothing_is_caught(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match=r"did not record .*broker.*delivery"),
        judged(tmp_path / "site.jsonl", None, is_of_site=True),
    ):
        recording.fault(KILLED, "a worker", 7)


def test_a_process_says_which_modules_it_records(tmp_path: Path) -> None:
    modules = ["lastacross.broker.steps", "lastacross.worker.delivery"]
    with judged(tmp_path / "site.jsonl", None, is_of_site=True) as environ:
        lines = "; ".join(f"import {name}" for name in modules)
        subprocess.run([sys.executable, "-c", lines], env={**os.environ, **environ}, check=True)

    found = [each.asked["module"] for each in read(tmp_path / "site.jsonl") if each.op == "recording"]
    assert set(modules) <= set(found)


def test_an_add_may_be_refused_for_its_own_first_request_when_redis_ends_meanwhile() -> None:
    """Redis had added the task and was killed before it answered; its client asked again."""
    refused = [add("q_a", code=EXISTS), run("q_a", 2.0), ack("q_a", at=2.5)]

    assert violations([refused[0], fault(CUT, 0.05), *refused[1:]], EMPTY) == []
    assert violations(refused, EMPTY) != []

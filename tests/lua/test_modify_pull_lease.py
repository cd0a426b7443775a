"""modify_pull_lease: a lease ends at another instant, for whoever still holds it."""

import pytest

from lastacross import store
from tests.support.pull import QUEUE, PullScripts
from tests.support.scripts import Scripts


@pytest.fixture
def pull(scripts: Scripts) -> PullScripts:
    """The scripts of pull queues on an empty store, with one task "a" of tag "t"."""
    opened = PullScripts(scripts)
    opened.add("a", tag="t", tombstone=777)
    return opened


@pytest.fixture
def eta(pull: PullScripts) -> str:
    """The task's eta under a lease of 10 s."""
    [task], _ = pull.ask(seconds=10)
    return task.eta


@pytest.mark.parametrize("seconds", [20, 5, 0, 0.25])
def test_the_eta_counts_from_now_in_every_set_and_in_the_record(
    pull: PullScripts, eta: str, seconds: float
) -> None:
    pull.scripts.clock.advance(3)

    assert pull.modify("a", eta, seconds) == ("ok", pull.at(seconds))

    for key in (store.pull_key(QUEUE), store.pull_tag_key(QUEUE, "t"), store.pull_leased_key(QUEUE)):
        assert pull.etas(key) == {"a": 1_800_000_003 + seconds}
    assert pull.scripts.record(f"{QUEUE}_a")["leases"] == "1"


def test_no_seconds_give_the_task_back_at_once(pull: PullScripts, eta: str) -> None:
    pull.modify("a", eta, 0)
    pull.scripts.clock.advance(0.000001)

    [task], _ = pull.ask()
    assert (task.name, task.leases) == ("a", 2)


@pytest.mark.parametrize(("passed", "word"), [(9.999999, "ok"), (10, "ok"), (10.000001, "expired")])
def test_a_lease_that_has_run_out_cannot_be_changed(
    pull: PullScripts, eta: str, passed: float, word: str
) -> None:
    pull.scripts.clock.advance(passed)

    assert pull.modify("a", eta, 5)[0] == word


def test_only_who_knows_its_eta_changes_a_lease(pull: PullScripts, eta: str) -> None:
    assert pull.modify("a", pull.at(9), 5) == ("expired", "")

    pull.scripts.clock.advance(11)
    [second], _ = pull.ask(seconds=10)

    assert pull.modify("a", eta, 5) == ("expired", "")
    assert pull.modify("a", second.eta, 5)[0] == "ok"


def test_a_paused_queue_refuses_whatever_else_is_wrong(pull: PullScripts, eta: str) -> None:
    pull.redis.sadd(store.PAUSED, QUEUE)

    assert pull.modify("a", eta, 5) == ("paused", "")
    assert pull.modify("nobody", eta, 5) == ("paused", "")


def test_a_task_that_is_gone_is_told_from_one_that_never_was(pull: PullScripts, eta: str) -> None:
    pull.run("delete_tasks", pull.at(0), f"{QUEUE}_a")

    assert pull.modify("a", eta, 5) == ("tombstoned", "")
    assert pull.modify("nobody", eta, 5) == ("unknown", "")


def test_a_dead_letter_is_not_leased(pull: PullScripts, eta: str) -> None:
    pull.limit(1)
    pull.scripts.clock.advance(11)
    pull.lease()

    assert pull.modify("a", eta, 5) == ("tombstoned", "")


def test_a_repeated_request_is_told_what_it_did(pull: PullScripts, eta: str) -> None:
    done = pull.modify("a", eta, 5, request="m1")

    assert pull.modify("a", eta, 5, request="m1") == done
    assert pull.modify("a", eta, 5, request="m2") == ("expired", "")


def test_a_task_that_nobody_leased_may_be_moved_and_is_not_in_flight(pull: PullScripts) -> None:
    pull.add("b", at=60)

    assert pull.modify("b", pull.at(60), 5)[0] == "ok"
    assert pull.places("b") == ["pull"]

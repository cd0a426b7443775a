"""rescue_worker: a worker process is known to have ended; all that it had leased is given back."""

import pytest

from tests.support.scripts import Scripts


def rescue(scripts: Scripts, token: str, *started: str) -> list[str]:
    return list(scripts.run("rescue_worker", scripts.now, token, 2, "default", "other", *started))


def test_only_what_that_worker_held_comes_back(scripts: Scripts) -> None:
    scripts.add("default_a", "other_b", "default_c", "default_d")
    scripts.lease("default", "other", wanted=1, token="w1")
    scripts.lease("other", token="w1")
    scripts.lease(wanted=1, token="w11")

    assert rescue(scripts, "w1") == ["default_a", "ready", "other_b", "ready"]

    states = {task: scripts.state(task) for task in ("default_a", "other_b", "default_c", "default_d")}
    assert states == {"default_a": "ready", "other_b": "ready", "default_c": "leased", "default_d": "ready"}


def test_what_it_had_started_is_suspect_and_the_rest_is_as_it_was(scripts: Scripts) -> None:
    scripts.add("default_a", "default_b")
    (task, lease), _ = scripts.lease()

    rescue(scripts, "w", f"{task}:{lease}")

    assert scripts.record("default_a").items() >= {"crashes": "1", "lost": "1", "suspect": "1"}.items()
    assert not scripts.record("default_b").keys() & {"crashes", "lost", "suspect", "first_try_at"}


def test_a_second_rescue_finds_nothing(scripts: Scripts) -> None:
    scripts.leased("default_a")

    assert rescue(scripts, "w") == ["default_a", "ready"]
    assert rescue(scripts, "w") == []
    assert scripts.ready() == ["default_a"]


def test_five_worker_processes_lost_in_a_row_are_poison(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1)
    outcomes = []
    for _ in range(5):
        [(task, lease)] = scripts.lease()
        outcomes.append(rescue(scripts, "w", f"{task}:{lease}")[1])

    assert outcomes == ["ready"] * 4 + ["poison"]
    assert scripts.counts("b") == {"total": 1, "failed": 1}


@pytest.mark.parametrize(("is_suspect", "lost"), [(True, "1"), (False, None)])
def test_a_suspect_that_took_its_worker_with_it_had_started(
    scripts: Scripts, is_suspect: bool, lost: str | None
) -> None:
    lease = scripts.leased("default_a", **({"suspect": 1} if is_suspect else {}))
    scripts.run("renew_leases", scripts.now, "default_a", lease, 1)

    rescue(scripts, "w")

    assert scripts.record("default_a").get("lost") == lost

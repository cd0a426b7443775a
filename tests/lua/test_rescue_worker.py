"""rescue_worker: a worker process is known to have ended; all that it had leased is given back."""

import pytest

from tests.support.scripts import Scripts


def rescue(scripts: Scripts, token: str, *started: str, is_silent: bool = False) -> list[str]:
    queues = (2, "default", "other")
    return list(scripts.run("rescue_worker", scripts.now, token, int(is_silent), *queues, *started))


def test_only_what_that_worker_held_comes_back(scripts: Scripts) -> None:
    scripts.add("default_a", "other_b", "default_c", "default_d")
    scripts.lease("default", "other", wanted=1, token="w1")
    scripts.lease("other", token="w1")
    scripts.lease(wanted=1, token="w11")

    assert rescue(scripts, "w1") == ["other_b", "ready", "default_a", "ready"]

    states = {task: scripts.state(task) for task in ("default_a", "other_b", "default_c", "default_d")}
    assert states == {"default_a": "ready", "other_b": "ready", "default_c": "leased", "default_d": "ready"}


def test_what_it_had_started_is_suspect_and_the_rest_is_as_it_was(scripts: Scripts) -> None:
    scripts.add("default_a", "default_b")
    (task, lease), _ = scripts.lease()

    rescue(scripts, "w", f"{task}:{lease}")

    assert scripts.record("default_a").items() >= {"crashes": "1", "lost": "1", "suspect": "1"}.items()
    assert not scripts.record("default_b").keys() & {"crashes", "lost", "suspect", "first_try_at"}


def test_its_tasks_go_to_the_front_in_their_old_order_and_the_started_ones_first(scripts: Scripts) -> None:
    names = [f"default_{letter}" for letter in "hgfedcba"]
    scripts.add(*names)
    leases = dict(scripts.lease(wanted=12))
    scripts.add("default_new")

    rescue(scripts, "w", *(f"{name}:{leases[name]}" for name in ("default_e", "default_c")))

    rest = [name for name in names if name not in ("default_e", "default_c")]
    assert scripts.ready() == ["default_e", "default_c", *rest, "default_new"]


def test_a_silent_worker_is_no_evidence_against_its_tasks_but_they_run_alone_next(scripts: Scripts) -> None:
    scripts.add("default_a")
    for _ in range(6):
        [(task, lease)] = scripts.lease()
        scripts.run("renew_leases", scripts.now, task, lease, 1)
        assert rescue(scripts, "w", f"{task}:{lease}", is_silent=True) == ["default_a", "ready"]

    assert scripts.record("default_a").items() >= {"lost": "6", "suspect": "1"}.items()
    assert "crashes" not in scripts.record("default_a")


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

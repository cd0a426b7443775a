"""renew_leases: leased tasks stay with their worker, and it is noted which have started."""

from lastacross import store
from tests.support.scripts import Scripts


def test_a_renewed_lease_ends_later(scripts: Scripts) -> None:
    lease = scripts.leased("default_a")

    assert scripts.run("renew_leases", "1800000020.5", "default_a", lease, 0) == [1]

    assert scripts.expires_at("default_a", lease) == 1_800_000_020.5
    assert "started" not in scripts.record("default_a")


def test_that_a_task_has_started_is_noted_under_its_lease(scripts: Scripts) -> None:
    lease = scripts.leased("default_a")

    scripts.run("renew_leases", "1800000020", "default_a", lease, 1)

    assert scripts.record("default_a")["started"] == lease


def test_each_lease_has_an_answer_of_its_own_and_a_lost_one_stays_lost(scripts: Scripts) -> None:
    scripts.add("default_a", "other_b")
    a, b = scripts.lease("default", "other")
    scripts.run("delete_tasks", scripts.now, "default_a")

    assert scripts.run("renew_leases", "1800000020", *a, 1, *b, 0) == [0, 1]

    assert scripts.entries("default") == []
    assert scripts.redis.exists(store.record_key("default_a")) == 0


def test_renewing_does_not_bring_a_deleted_record_back(scripts: Scripts) -> None:
    lease = scripts.leased("default_a")
    scripts.redis.delete(store.record_key("default_a"))

    assert scripts.run("renew_leases", "1800000020", "default_a", lease, 1) == [1]
    assert scripts.record("default_a") == {}

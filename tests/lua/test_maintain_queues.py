"""maintain_queues: promoting, rescuing and a look at the last upload, in one call."""

from lastacross import store
from lastacross.store import Arg
from tests.support.scripts import LEASE_SECONDS, Scripts

MOST = 100


def look(scripts: Scripts, *queues: Arg, rescues: bool = True) -> list[object]:
    """One look."""
    return list(scripts.run("maintain_queues", scripts.now, MOST, int(rescues), *queues))


def test_an_idle_system_has_nothing_to_do(scripts: Scripts) -> None:
    assert look(scripts, "default", "other")[:3] == [0, "", []]


def test_due_tasks_become_ready_and_expired_leases_end(scripts: Scripts) -> None:
    scripts.leased("other_held")
    scripts.add("default_due", countdown=LEASE_SECONDS + 1)
    scripts.add("default_later", countdown=LEASE_SECONDS + 9)
    scripts.clock.advance(LEASE_SECONDS + 1)

    moved, next_due, rescued, *_ = look(scripts, "default", "other")

    assert (moved, rescued) == (1, ["other_held", "ready"])
    assert float(str(next_due)) == scripts.clock.now() + 8
    assert scripts.state("default_due") == scripts.state("other_held") == "ready"


def test_leases_are_left_alone_while_their_workers_may_still_renew_them(scripts: Scripts) -> None:
    scripts.leased("default_held")
    scripts.clock.advance(LEASE_SECONDS + 1)

    assert look(scripts, "default", rescues=False)[2] == []
    assert scripts.state("default_held") == "leased"


def test_it_tells_which_upload_was_the_last(scripts: Scripts) -> None:
    assert look(scripts)[3] == [None, None, None]

    scripts.redis.hset(store.UPLOAD, mapping={"digest": "d", "uploaded_at": "1.5", "version": 7})

    assert look(scripts)[3] == ["d", "1.5", "7"]


def test_it_tells_the_servers_time(scripts: Scripts) -> None:
    before = scripts.redis.time()

    told = float(str(look(scripts)[4]))

    after = scripts.redis.time()
    assert before[0] + before[1] / 1e6 <= told <= after[0] + after[1] / 1e6

"""What every worker does beside running tasks, on a real Redis with a stopped clock."""

from lastacross.runtime.upkeep import Upkeep
from lastacross.store import Store
from lastacross.taskqueue.broker import Broker
from tests.support.clock import StoppedClock
from tests.support.scripts import LEASE_SECONDS, Scripts


def test_all_that_a_machine_held_is_given_back_at_once(test_store: Store, clock: StoppedClock) -> None:
    """Each step moves at most 100 tasks of a queue, but one look makes as many as there is work for."""
    scripts = Scripts(test_store, clock)
    scripts.add(*(f"default_{number}" for number in range(350)))
    for _ in range(7):
        assert len(scripts.lease()) == 50
    clock.advance(LEASE_SECONDS + 1)

    assert Upkeep(Broker(test_store), ["default", "other"], clock).run_due()

    assert scripts.redis.llen("rq:queue:default") == 350
    assert scripts.redis.zcard("rq:wip:default") == 0

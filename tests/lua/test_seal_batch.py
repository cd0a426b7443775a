"""seal_batch: nothing more is added; the batch completes when its last member has ended."""

from lastacross import store
from tests.support.scripts import Scripts


def test_sealing_tells_the_size_and_leaves_open_members_to_come(scripts: Scripts) -> None:
    scripts.open_batch("b", complete="default_end")
    scripts.fill("b", 3)

    assert scripts.seal("b") == 3

    assert not scripts.is_finished("b")
    assert scripts.state("default_end") == "deferred"


def test_an_empty_batch_fires_when_it_is_sealed(scripts: Scripts) -> None:
    scripts.open_batch("b", complete="default_end", success="default_win")

    assert scripts.seal("b") == 0

    assert scripts.is_finished("b")
    assert scripts.ready() == ["default_end", "default_win"]


def test_members_that_are_all_done_wait_for_the_seal(scripts: Scripts) -> None:
    scripts.open_batch("b", complete="default_end")
    scripts.fill("b", 2)
    scripts.ack(*scripts.lease())
    assert scripts.state("default_end") == "deferred"

    scripts.seal("b")

    assert scripts.state("default_end") == "ready"


def test_sealing_again_fires_nothing(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 0, complete="default_end")
    scripts.ack(*scripts.lease())

    assert scripts.seal("b") == 0

    assert scripts.state("default_end") == "gone"


def test_a_batch_that_is_not_known_is_told(scripts: Scripts) -> None:
    assert scripts.seal("b") == -1
    assert scripts.redis.exists(store.batch_key("b")) == 0


def test_a_finished_batch_is_forgotten_after_thirty_days(scripts: Scripts) -> None:
    scripts.open_batch("b")
    scripts.fill_with("b", ["default_a"])
    scripts.ack(*scripts.lease())
    scripts.seal("b")

    keys = scripts.redis.keys(f"{store.OWN}batch:*")
    assert len(keys) == 4, "counts, added, finished, names"
    assert {scripts.redis.ttl(key) for key in keys} == {30 * 86400}
    assert scripts.redis.exists(store.OPEN_BATCHES) == 0


def test_a_completion_whose_record_was_deleted_is_not_made_up(scripts: Scripts) -> None:
    scripts.open_batch("b", complete="default_end")
    scripts.redis.delete(store.record_key("default_end"))

    scripts.seal("b")

    assert scripts.is_finished("b")
    assert scripts.ready() == []

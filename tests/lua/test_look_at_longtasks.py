"""The script look_at_longtasks: what it reads beside each other is what each would be alone."""

from typing import Any

from lastacross import store
from lastacross.memcache import cache
from tests.support.scripts import Scripts

NOW = 1_800_000_000_000_000
FIELDS = ("status", "eta", "missing")


def looked(scripts: Scripts, records: list[str], keys: list[str], now: int = NOW) -> Any:
    names = [store.record_key(record) for record in records]
    return scripts.store.run("look_at_longtasks", [*cache.KEYS, *names], [now, len(FIELDS), *FIELDS, *keys])


def put(scripts: Scripts, key: str, value: str) -> None:
    arguments: list[store.Arg] = [NOW, NOW + 1_000_000, "set", "a1", key, "u", value, ""]
    scripts.store.run("cache_store", list(cache.KEYS), arguments)


def test_records_and_values_come_in_the_order_in_which_they_were_asked_for(scripts: Scripts) -> None:
    scripts.add("default_a")
    scripts.add("default_b", countdown=60)
    put(scripts, "k", "value")
    alone = scripts.store.run("cache_get", list(cache.KEYS), [NOW, "k"])

    records, values = looked(scripts, ["default_b", "default_none", "default_a"], ["other", "k"])

    assert [record[0] for record in records] == [b"scheduled", None, b"queued"]
    assert all(len(record) == 3 and record[2] is None for record in records)
    assert values == [None, *alone]


def test_a_value_that_has_expired_or_was_flushed_is_none(scripts: Scripts) -> None:
    put(scripts, "k", "value")

    assert looked(scripts, [], ["k"], now=NOW + 1_000_000) == [[], [None]]
    cache.flush()
    assert looked(scripts, [], ["k"]) == [[], [None]]


def test_nothing_is_asked_for_and_nothing_comes(scripts: Scripts) -> None:
    assert looked(scripts, [], []) == [[], []]

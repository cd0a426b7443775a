"""The scripts cache_get, cache_store, cache_delete and cache_offset, each by itself."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lastacross import store
from lastacross.store import Store

KEYS = [store.CACHE_GENERATION, store.CACHE_PREFIX]
NOW = 1_800_000_000_000_000
SECOND = 1_000_000
UNSIGNED = st.integers(0, 2**64 - 1)

shared_store = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def put(opened: Store, policy: str, *items: tuple[str, str, Any, str], version: str = "a1") -> Any:
    args: list[store.Arg] = [NOW, NOW + 10 * SECOND, policy, version]
    return opened.run("cache_store", KEYS, args + [part for item in items for part in item])


def got(opened: Store, *keys: str, now: int = NOW) -> Any:
    return opened.run("cache_get", KEYS, [now, *keys])


def test_what_was_stored_is_read_with_its_kind_version_and_instants(test_store: Store) -> None:
    assert put(test_store, "set", ("k", "u", "value\nof two lines", "")) == [1]

    assert got(test_store, "k", "missing") == [
        [b"u", b"value\nof two lines", b"a1", b"%d" % (NOW + 10 * SECOND), b"%d" % NOW],
        None,
    ]


def test_a_value_is_gone_at_its_expiry_to_the_microsecond(test_store: Store) -> None:
    put(test_store, "set", ("k", "u", "value", ""))

    assert got(test_store, "k", now=NOW + 10 * SECOND - 1) != [None]
    assert got(test_store, "k", now=NOW + 10 * SECOND) == [None]


def test_redis_frees_the_memory_of_an_expired_value_itself(test_store: Store) -> None:
    put(test_store, "set", ("k", "u", "value", ""))

    [name] = test_store.redis.keys(store.CACHE_PREFIX + "*")
    assert 0 < test_store.redis.pttl(name) <= 10_000


def test_a_value_that_has_expired_already_is_not_kept(test_store: Store) -> None:
    put(test_store, "set", ("k", "u", "old", ""))
    args: list[store.Arg] = [NOW, NOW - 1, "set", "a2", "k", "u", "new", ""]

    assert test_store.run("cache_store", KEYS, args) == [1]
    assert test_store.redis.keys(store.CACHE_PREFIX + "*") == []


def test_add_takes_free_keys_only_and_replace_taken_ones_only(test_store: Store) -> None:
    put(test_store, "set", ("taken", "u", "1", ""))

    assert put(test_store, "add", ("taken", "u", "2", ""), ("free", "u", "2", "")) == [0, 1]
    assert put(test_store, "replace", ("taken", "u", "3", ""), ("none", "u", "3", "")) == [1, 0]
    assert [entry and entry[1] for entry in got(test_store, "taken", "free", "none")] == [b"3", b"2", None]


def test_cas_stores_for_the_version_it_expects_only(test_store: Store) -> None:
    put(test_store, "set", ("k", "u", "1", ""), version="a1")

    assert put(test_store, "cas", ("k", "u", "2", "b2")) == [0]
    assert put(test_store, "cas", ("k", "u", "2", "")) == [0]
    assert put(test_store, "cas", ("k", "u", "2", "a1"), version="a2") == [1]
    assert put(test_store, "cas", ("k", "u", "3", "a1")) == [0]
    assert put(test_store, "cas", ("none", "u", "3", "a1")) == [0]


def test_deleting_with_a_lock_refuses_add_until_the_lock_is_over(test_store: Store) -> None:
    put(test_store, "set", ("k", "u", "1", ""))

    deleted = test_store.run("cache_delete", KEYS, [NOW, NOW + 5 * SECOND, "a2", "k", "none"])

    assert deleted == [2, 1]
    assert got(test_store, "k")[0][0] == b"L"
    assert put(test_store, "add", ("k", "u", "2", "")) == [0]
    assert put(test_store, "replace", ("k", "u", "2", "")) == [0]
    assert put(test_store, "cas", ("k", "u", "2", "a2")) == [0]
    assert got(test_store, "k", now=NOW + 5 * SECOND) == [None]
    assert put(test_store, "set", ("k", "u", "3", "")) == [1]


def test_a_second_deletion_renews_the_lock_and_one_without_a_lock_ends_it(test_store: Store) -> None:
    """As in Google's own stub (docs/appengine.md, "memcache")."""
    put(test_store, "set", ("k", "u", "1", ""))
    test_store.run("cache_delete", KEYS, [NOW, NOW + 5 * SECOND, "a2", "k"])

    assert test_store.run("cache_delete", KEYS, [NOW, NOW + 9 * SECOND, "a3", "k"]) == [2]
    assert got(test_store, "k", now=NOW + 8 * SECOND)[0][0] == b"L"
    assert test_store.run("cache_delete", KEYS, [NOW, 0, "a4", "k"]) == [2]
    assert put(test_store, "add", ("k", "u", "2", "")) == [1]


@shared_store
@given(UNSIGNED, UNSIGNED)
def test_a_sum_wraps_at_2_to_the_64(test_store: Store, number: int, delta: int) -> None:
    put(test_store, "set", ("n", "i", number, ""))

    answer = test_store.run("cache_offset", KEYS, [NOW, NOW + SECOND, "a2", "", "n", "+", delta])

    assert int(answer[0]) == (number + delta) % 2**64


@shared_store
@given(UNSIGNED, UNSIGNED)
def test_a_difference_stops_at_0(test_store: Store, number: int, delta: int) -> None:
    put(test_store, "set", ("n", "i", number, ""))

    answer = test_store.run("cache_offset", KEYS, [NOW, NOW + SECOND, "a2", "", "n", "-", delta])

    assert int(answer[0]) == max(0, number - delta)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [("u", "seven"), ("u", ""), ("i", "-1"), ("i", str(2**64)), ("p", "7"), ("t", "1")],
)
def test_what_is_no_unsigned_number_is_not_offset(test_store: Store, kind: str, payload: str) -> None:
    put(test_store, "set", ("n", kind, payload, ""))

    args: list[store.Arg] = [NOW, NOW + SECOND, "a2", "5", "n", "+", 1]

    assert test_store.run("cache_offset", KEYS, args) == [None]
    assert got(test_store, "n")[0][1] == payload.encode()


def test_an_offset_keeps_the_kind_and_the_expiry_and_changes_the_version(test_store: Store) -> None:
    put(test_store, "set", ("n", "u", "007", ""))

    args: list[store.Arg] = [NOW, NOW + SECOND, "a2", "", "n", "+", 1]

    assert test_store.run("cache_offset", KEYS, args) == [b"8"]
    assert got(test_store, "n") == [[b"u", b"8", b"a2", b"%d" % (NOW + 10 * SECOND), b"%d" % NOW]]


def test_a_missing_number_starts_from_the_initial_one_unless_locked(test_store: Store) -> None:
    put(test_store, "set", ("locked", "i", "1", ""))
    test_store.run("cache_delete", KEYS, [NOW, NOW + 5 * SECOND, "a2", "locked"])
    head: list[store.Arg] = [NOW, NOW + SECOND, "a2", "10"]

    answer = test_store.run("cache_offset", KEYS, [*head, "new", "-", 3, "locked", "+", 1])

    assert answer == [b"7", None]
    assert test_store.run("cache_offset", KEYS, [NOW, NOW + SECOND, "a2", "", "none", "+", 1]) == [None]


def test_values_of_another_generation_are_not_seen(test_store: Store) -> None:
    put(test_store, "set", ("k", "u", "1", ""))
    test_store.redis.set(store.CACHE_GENERATION, "next")

    assert got(test_store, "k") == [None]
    assert put(test_store, "add", ("k", "u", "2", "")) == [1]

"""memcache on a real Redis: the table of App Engine's behaviour, row by row."""

import datetime
import inspect
import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastacross import memcache, store
from lastacross.config import Config
from lastacross.memcache import cache, encoding
from lastacross.signing import Signatures
from lastacross.store import Store
from tests.conftest import SECRET_KEY
from tests.support.clock import StoppedClock
from tests.support.redis_server import unavailable_store

pytestmark = pytest.mark.usefixtures("test_store")


@pytest.fixture
def unavailable(test_store: Store, tmp_path: Path, clock: StoppedClock) -> Iterator[None]:
    """A Redis that nobody answers for."""
    gone = unavailable_store(tmp_path, clock)
    store.use(gone)
    yield
    gone.close()
    store.use(test_store)


def names(test_store: Store) -> list[str]:
    return sorted(name.decode() for name in test_store.redis.scan_iter())


def test_the_status_of_a_long_task_comes_back_as_it_was_set() -> None:
    status = {"step": 12, "total_steps": 64, "started_at": datetime.datetime(2014, 1, 10)}

    assert memcache.set("longtask_status_Xk3", dict(status)) is True

    assert memcache.get("longtask_status_Xk3") == status


def test_a_missing_key_is_none() -> None:
    assert memcache.get("none") is None
    assert memcache.Client().gets("none") is None


@pytest.mark.parametrize(
    "value", [b"bytes", "text", "", True, False, 0, -5, 2**70, 1.5, None, [1], {"a": {1}}]
)
def test_a_value_keeps_its_type(value: Any) -> None:
    memcache.set("k", value)

    back = memcache.get("k")

    assert back == value
    assert type(back) is type(value)


def test_text_and_bytes_of_a_key_are_one_key() -> None:
    memcache.set("ключ", 1)

    assert memcache.get("ключ".encode()) == 1
    assert memcache.get((99, "ключ")) == 1


def test_keys_longer_than_250_bytes_work_and_do_not_meet() -> None:
    memcache.set("k" * 1000, 1)
    memcache.set("k" * 1001, 2)

    assert memcache.get("k" * 1000) == 1
    assert memcache.get_multi(["k" * 1000, "k" * 1001]) == {"k" * 1000: 1, "k" * 1001: 2}


def test_two_namespaces_never_meet() -> None:
    memcache.set("k", 1, namespace="a")
    memcache.set("k", 2, namespace="b")

    assert memcache.get("k") is None
    assert memcache.get("k", namespace="a") == 1
    assert memcache.get("k", "b") == 2


def test_many_at_once_come_back_under_their_keys_without_the_prefix() -> None:
    assert memcache.set_multi({"a": 1, "b": 2}, key_prefix="p.") == []

    assert memcache.get_multi(["a", "b", "c"], key_prefix="p.") == {"a": 1, "b": 2}
    assert memcache.get("p.a") == 1


def test_more_values_than_one_script_takes_are_stored_all() -> None:
    mapping = {f"k{number}": number for number in range(2 * cache.CHUNK + 1)}

    assert memcache.set_multi(mapping) == []
    assert memcache.get_multi(list(mapping)) == mapping


def test_multi_calls_name_the_keys_that_were_not_stored() -> None:
    memcache.set("p.a", 1)

    assert memcache.add_multi({"a": 2, "b": 2}, key_prefix="p.") == ["a"]
    assert memcache.replace_multi({"a": 3, "c": 3}, key_prefix="p.") == ["c"]
    assert memcache.get_multi(["p.a", "p.b", "p.c"]) == {"p.a": 3, "p.b": 2}


def test_add_and_replace_say_whether_they_stored() -> None:
    assert memcache.replace("k", 1) is False
    assert memcache.add("k", 1) is True
    assert memcache.add("k", 2) is False
    assert memcache.replace("k", 3) is True
    assert memcache.get("k") == 3


def test_cas_loses_against_whoever_stored_in_between() -> None:
    first, second = memcache.Client(), memcache.Client()
    memcache.set("k", 1)
    assert (first.gets("k"), second.gets("k")) == (1, 1)

    assert second.cas("k", 2) is True
    assert first.cas("k", 3) is False
    assert memcache.get("k") == 2


def test_cas_sees_a_change_that_wrote_the_same_value() -> None:
    client = memcache.Client()
    memcache.set("k", 1)
    client.gets("k")
    memcache.set("k", 1)

    assert client.cas("k", 2) is False


def test_cas_of_a_key_never_fetched_or_gone_or_forgotten_is_false() -> None:
    client = memcache.Client()
    memcache.set_multi({"never": 1, "gone": 1, "forgotten": 1})
    assert client.cas("never", 2) is False
    client.get_multi(["gone", "forgotten"], for_cas=True)
    memcache.delete("gone")
    assert client.cas("gone", 2) is False
    client.cas_reset()
    assert client.cas("forgotten", 2) is False


def test_cas_multi_names_the_keys_that_had_changed() -> None:
    client = memcache.Client()
    memcache.set_multi({"a": 1, "b": 1})
    client.get_multi(["a", "b"], for_cas=True)
    memcache.set("b", 5)

    assert client.cas_multi({"a": 2, "b": 2}) == ["b"]
    assert memcache.get_multi(["a", "b"]) == {"a": 2, "b": 5}


def test_delete_says_deleted_or_missing() -> None:
    memcache.set("k", 1)

    assert memcache.delete("k") == memcache.DELETE_SUCCESSFUL
    assert memcache.delete("k") == memcache.DELETE_ITEM_MISSING
    assert memcache.delete_multi(["k", "other"]) is True
    assert memcache.delete_multi_async(["k"]).get_result() == [memcache.DELETE_ITEM_MISSING]


def test_delete_with_seconds_locks_the_key_against_add_but_not_set(clock: StoppedClock) -> None:
    memcache.set_multi({"a": 1, "b": 1})
    memcache.delete_multi(["a", "b"], seconds=4.2)

    assert memcache.add("a", 2) is False
    assert memcache.get("a") is None
    assert memcache.set("b", 2) is True
    clock.advance(5)
    assert memcache.add("a", 2) is True


def test_a_deletion_may_be_repeated_while_the_lock_lasts(clock: StoppedClock) -> None:
    """The new lock replaces the old one, and without seconds the lock ends."""
    memcache.set("k", 1)
    assert memcache.delete("k", seconds=5) == memcache.DELETE_SUCCESSFUL
    clock.advance(4)
    assert memcache.delete("k", seconds=5) == memcache.DELETE_SUCCESSFUL
    clock.advance(4)
    assert memcache.add("k", 2) is False

    assert memcache.delete("k") == memcache.DELETE_SUCCESSFUL
    assert memcache.add("k", 2) is True
    memcache.delete("k", seconds=5)
    clock.advance(5)
    assert memcache.delete("k", seconds=5) == memcache.DELETE_ITEM_MISSING


def test_the_functions_may_use_another_client() -> None:
    """One with hooks, as its author wants persistent ids."""

    class Shouting(memcache.Client):
        def get(self, key: Any, namespace: str | None = None, for_cas: bool = False) -> Any:
            return str(super().get(key, namespace, for_cas)).upper()

    memcache.set("k", "text")
    memcache.setup_client(Shouting())
    try:
        assert memcache.get("k") == "TEXT"
        assert memcache.set("k", "other") is True
        assert memcache.get("k") == "OTHER"
    finally:
        memcache.setup_client(memcache.Client())

    assert memcache.get("k") == "other"


def test_a_value_lives_as_long_as_it_was_given(clock: StoppedClock) -> None:
    memcache.set("length", 1, time=60)
    memcache.set("instant", 1, time=clock.now() + 90)
    memcache.set("default", 1)

    clock.advance(59)
    assert memcache.get_multi(["length", "instant", "default"]).keys() == {"length", "instant", "default"}
    clock.advance(1)
    assert memcache.get_multi(["length", "instant", "default"]).keys() == {"instant", "default"}
    clock.advance(86_400 - 60)
    assert memcache.get("default") is None


def test_numbers_go_up_and_down() -> None:
    memcache.set("n", 5)

    assert memcache.incr("n") == 6
    assert memcache.incr("n", delta=10) == 16
    assert memcache.decr("n", delta=100) == 0
    assert memcache.get("n") == 0


def test_incr_wraps_at_64_bits() -> None:
    memcache.set("n", 2**64 - 1)

    assert memcache.incr("n", 3) == 2


def test_a_number_stored_as_text_stays_text() -> None:
    memcache.set("n", "41")

    assert memcache.incr("n") == 42
    assert memcache.get("n") == "42"


def test_a_missing_number_is_none_or_starts_from_the_initial_value() -> None:
    assert memcache.incr("n") is None
    assert memcache.incr("n", 2, initial_value=10) == 12
    assert memcache.incr("n", 2, initial_value=10) == 14


def test_an_iterable_of_keys_is_answered_with_a_dict() -> None:
    memcache.set_multi({"a": 1, "b": 2})

    assert memcache.incr(["a", "b", "c"], 2) == {"a": 3, "b": 4, "c": None}
    assert memcache.decr(("a", "b")) == {"a": 2, "b": 3}
    assert memcache.incr((99, "a")) == 3


def test_offset_multi_adds_and_takes_at_once() -> None:
    memcache.set_multi({"a": 10, "b": 10, "c": "no number"}, key_prefix="p.")

    assert memcache.offset_multi({"a": 5, "b": -15, "c": 1, "d": 1}, key_prefix="p.") == {
        "a": 15, "b": 0, "c": None, "d": None,
    }  # fmt: skip
    assert memcache.offset_multi({"d": -1}, key_prefix="p.", initial_value=3) == {"d": 2}


@pytest.mark.parametrize(("delta", "error"), [(-1, ValueError), (1.5, TypeError), ("1", TypeError)])
def test_a_wrong_delta_is_an_error(delta: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        memcache.incr("n", delta)
    with pytest.raises(error):
        memcache.decr("n", delta)


def test_a_wrong_initial_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="initial_value"):
        memcache.incr("n", initial_value=-1)
    with pytest.raises(TypeError):
        memcache.offset_multi({"n": 1}, initial_value="1")  # type: ignore[arg-type]


def test_wrong_keys_values_and_times_are_errors() -> None:
    with pytest.raises(TypeError):
        memcache.set(1, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1000000"):
        memcache.set("k", b"x" * 1_000_001)
    with pytest.raises(ValueError, match="time"):
        memcache.set("k", 1, time=-1)
    with pytest.raises(ValueError, match="seconds"):
        memcache.delete("k", seconds=-1)
    with pytest.raises(AttributeError):
        memcache.set("k", lambda: None)


PICKLED = pickle.dumps(["forged"])
OURS = Signatures(SECRET_KEY)
FORGERIES = {
    "not signed": PICKLED,
    "signed with another key": Signatures("another key that is long enough").sign("memcache", PICKLED),
    "signed for another purpose": OURS.sign("deferred", PICKLED),
    "with another's signature": PICKLED + OURS.sign("memcache", pickle.dumps([1]))[-44:],
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_pickle_that_we_have_not_signed_counts_as_absent(forgery: str, clock: StoppedClock) -> None:
    def store_pickle(payload: bytes) -> None:
        key = encoding.server_key("k")
        assert cache.write("set", clock.now() + 60, [(key, "p", payload, "")]) == [True]

    store_pickle(FORGERIES[forgery])
    assert memcache.get("k") is None
    assert memcache.peek("k") is None

    store_pickle(OURS.sign("memcache", PICKLED))
    assert memcache.get("k") == ["forged"]


def test_flush_all_removes_the_values_and_nothing_else(test_store: Store) -> None:
    test_store.redis.set("rq:job:default_1", "a task")
    before = names(test_store)
    memcache.set_multi({f"k{number}": number for number in range(2500)})

    assert memcache.flush_all() is True

    assert names(test_store) == sorted([*before, store.CACHE_GENERATION])
    assert memcache.get("k1") is None
    assert memcache.add("k1", 2) is True


def test_a_client_that_got_a_value_before_a_flush_cannot_cas_it() -> None:
    client = memcache.Client()
    memcache.set("k", 1)
    client.gets("k")
    memcache.flush_all()

    assert client.cas("k", 2) is False


def test_statistics_count_hits_misses_items_and_bytes(clock: StoppedClock) -> None:
    empty = memcache.get_stats()
    memcache.set("a", b"12345")
    clock.advance(7)
    memcache.set("b", "678")
    memcache.set("locked", 1)
    memcache.delete("locked", seconds=60)
    memcache.get_multi(["a", "b", "none", "locked"])
    memcache.get("a")

    stats = memcache.get_stats()

    assert empty is not None
    assert stats is not None
    counted = {name: stats[name] - empty[name] for name in stats}
    assert counted == {
        "hits": 3, "misses": 2, "byte_hits": 13, "items": 2, "bytes": 8, "oldest_item_age": 7,
    }  # fmt: skip


def test_a_get_writes_to_redis_once_a_second_at_most(test_store: Store, clock: StoppedClock) -> None:
    clock.advance(10)
    memcache.get("k")
    test_store.redis.delete(store.CACHE_STATISTICS)

    for _ in range(10):
        memcache.get("k")
    assert not test_store.redis.exists(store.CACHE_STATISTICS)

    clock.advance(1)
    memcache.get("k")
    assert test_store.redis.hget(store.CACHE_STATISTICS, "misses") == b"11"


def test_peek_shows_the_instants_of_a_value_and_of_a_lock(clock: StoppedClock) -> None:
    memcache.set("k", "v", time=60)
    item = memcache.peek("k")
    assert item is not None
    assert (item.get_value(), item.get_expiration_time_sec()) == ("v", int(clock.now()) + 60)
    assert item.get_last_access_time_sec() == int(clock.now())
    assert item.get_delete_lock_time_sec() == 0

    memcache.delete("k", seconds=30)
    locked = memcache.peek_multi(["k", "none"])["k"]
    assert (locked.get_value(), locked.get_delete_lock_time_sec()) == ("", int(clock.now()) + 30)
    assert locked.get_expiration_time_sec() == 0
    assert memcache.peek("none") is None


def test_the_async_methods_answer_through_get_result() -> None:
    client = memcache.Client()

    assert client.set_multi_async({"a": 1, "n": 1}).get_result() == {
        "a": memcache.STORED,
        "n": memcache.STORED,
    }
    assert client.add_multi_async({"a": 1}).get_result() == {"a": memcache.NOT_STORED}
    assert client.replace_multi_async({"a": 2}).get_result() == {"a": memcache.STORED}
    result = client.get_multi_async(["a"], for_cas=True)
    result.wait()
    result.check_success()
    assert result.get_result() == {"a": 2}
    memcache.set("a", 3)
    assert client.cas_multi_async({"a": 4}).get_result() == {"a": memcache.EXISTS}
    assert client.incr_async("n").get_result() == 2
    assert client.decr_async("n").get_result() == 1
    assert client.offset_multi_async({"n": 5}).get_result() == {"n": 6}
    assert client.peek_multi_async(["n"]).get_result()["n"].get_value() == 6
    assert client.delete_multi_async(["n"]).get_result() == [memcache.DELETE_SUCCESSFUL]
    assert client.flush_all_async().get_result() is True
    assert client.get_stats_async().get_result() is not None


def test_a_twin_calls_the_method_of_a_subclass() -> None:
    class Own(memcache.Client):
        def incr(self, *_: object) -> int:
            return 41

        def delete_multi_async(self, keys: Any, *rest: Any, **options: Any) -> Any:
            return memcache.Result(self.delete_multi(keys, *rest, **options))

    assert Own().incr_async("n").get_result() == 41
    assert Own().delete_multi_async(["n"]).get_result() is True
    assert Own().delete("n") == memcache.DELETE_ITEM_MISSING


@pytest.mark.usefixtures("unavailable")
def test_the_cache_never_raises_when_it_is_unavailable() -> None:
    client = memcache.Client()

    assert client.get("k") is None
    assert client.get_multi(["k"]) == {}
    assert client.peek("k") is None
    assert client.set("k", 1) is False
    assert client.add("k", 1) is False
    assert client.replace("k", 1) is False
    assert client.cas("k", 1) is False
    assert client.set_multi({"a": 1, "b": 2}) == ["a", "b"]
    assert client.set_multi_async({"a": 1}).get_result() is None
    assert client.delete("k") == memcache.DELETE_NETWORK_FAILURE
    assert client.delete_multi(["k"]) is False
    assert client.delete_multi_async(["k"]).get_result() is None
    assert client.incr("k") is None
    assert client.incr(["a", "b"]) == {"a": None, "b": None}
    assert client.flush_all() is False
    assert client.get_stats() is None


@pytest.mark.usefixtures("unavailable")
def test_a_mistake_of_the_caller_is_an_error_although_the_cache_is_unavailable() -> None:
    with pytest.raises(ValueError, match="time"):
        memcache.set("k", 1, time=-1)


def test_the_default_life_is_a_setting(configuration: Config) -> None:
    assert configuration.settings.cache_seconds == 86_400


def test_app_engines_calls_that_do_nothing_are_there(test_store: Store) -> None:
    client = memcache.Client(["127.0.0.1:11211"], debug=1)
    client.set("k", 1)
    before = names(test_store)

    client.set_servers([])
    client.disconnect_all()
    client.forget_dead_hosts()
    client.debuglog()

    assert names(test_store) == before
    assert client.get("k") == 1


# --- deferred calls of methods -------------------------------------------------------------------

# The pickled default client of the release before this one, as a queued ``deferred.defer(memcache.set, …)``
# holds it.
FORMER_CLIENT = (
    b"\x80\x04\x95\xf5\x00\x00\x00\x00\x00\x00\x00\x8c\x1alastacross.memcache.client\x94\x8c\x06Client\x94\x93\x94"
    b")\x81\x94}\x94(\x8c\x06_codec\x94\x8c\x1clastacross.memcache.encoding\x94\x8c\x05Codec\x94\x93\x94)\x81\x94}"
    b"\x94(\x8c\x0b_signatures\x94\x8c\x1blastacross.memcache.reading\x94h\x0b\x93\x94\x8c\t_protocol\x94K\x05\x8c"
    b"\x08_pickler\x94\x8c\x07_pickle\x94\x8c\x07Pickler\x94\x93\x94\x8c\n_unpickler\x94h\x10\x8c\tUnpickler\x94\x93"
    b"\x94ub\x8c\t_versions\x94}\x94ub."
)


def words_in(pickled: bytes) -> set[str]:
    return {word for _, word, _ in pickletools.genops(pickled) if isinstance(word, str)}


def test_a_client_that_the_former_release_pickled_stores_and_reads() -> None:
    client = pickle.loads(FORMER_CLIENT)

    assert client.set("k", ["pickled"]) is True
    assert client.get("k") == ["pickled"]


def test_a_pickled_client_names_nothing_that_the_former_release_lacks() -> None:
    assert words_in(pickle.dumps(memcache.Client(), 4)) == words_in(FORMER_CLIENT)


@pytest.mark.parametrize("name", [name for name in dir(memcache.Client) if not name.startswith("_")])
def test_a_method_carries_its_own_name_and_says_what_it_does(name: str) -> None:
    method = getattr(memcache.Client, name)

    assert method.__name__ == name
    assert method.__doc__


def test_help_shows_the_parameters_of_methods_that_share_an_implementation() -> None:
    assert [*inspect.signature(memcache.add).parameters] == [
        *("key", "value", "time", "min_compress_len", "namespace")
    ]
    assert [*inspect.signature(memcache.decr_async).parameters] == [
        *("key", "delta", "namespace", "initial_value", "rpc")
    ]

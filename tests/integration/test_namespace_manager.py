"""The namespace of memcache's keys: whose it is, and when it ends."""

import contextvars
from typing import Any

import pytest

from lastacross import memcache, namespace_manager
from lastacross.broker import CurrentTask, delivering
from lastacross.store import Store
from lastacross.webapp.request_scope import CurrentRequest, answering

REQUEST = CurrentRequest(method="GET", host="localhost", path="/")


@pytest.fixture(autouse=True)
def no_namespace(test_store: Store) -> Any:
    """Each test begins and ends without a namespace."""
    namespace_manager.begin_request()
    yield
    namespace_manager.begin_request()


def task(name: str) -> CurrentTask:
    return CurrentTask(f"default:{name}", name, "default", 1, 0, 0)


def test_the_current_namespace_is_that_of_keys_without_one() -> None:
    memcache.set("k", "none")
    namespace_manager.set_namespace("shop")
    memcache.set("k", "shop")
    memcache.set_multi({"n": 1})

    assert memcache.get("k") == memcache.get("k", namespace="shop") == "shop"
    assert memcache.get("k", namespace="") == "none"
    assert memcache.incr("n") == 2
    assert memcache.get("n", namespace="") is None
    assert memcache.peek("k", namespace="shop") is not None
    memcache.delete("k")
    namespace_manager.set_namespace(None)
    assert (memcache.get("k"), memcache.get("k", namespace="shop")) == ("none", None)


def test_a_cas_keeps_to_its_namespace() -> None:
    client = memcache.Client()
    namespace_manager.set_namespace("shop")
    client.set("k", 1)
    client.gets("k")

    assert client.cas("k", 2) is True
    assert client.cas("k", 3, namespace="") is False


def test_a_request_begins_without_a_namespace_and_its_late_body_keeps_its_own() -> None:
    namespace_manager.set_namespace("before")
    with answering(REQUEST):
        assert namespace_manager.get_namespace() == ""
        namespace_manager.set_namespace("inside")
        assert contextvars.copy_context().run(namespace_manager.get_namespace) == "inside"

    assert namespace_manager.get_namespace() == "inside", "a body is produced while it is sent"
    with answering(REQUEST):
        assert namespace_manager.get_namespace() == ""


def test_the_next_task_of_a_thread_begins_without_a_namespace() -> None:
    with delivering(task("a")):
        namespace_manager.set_namespace("shop")
        assert namespace_manager.get_namespace() == "shop"
    assert namespace_manager.get_namespace() == ""

    with delivering(task("b")):
        assert namespace_manager.get_namespace() == ""


@pytest.mark.parametrize("wrong", ["a b", "ü", "x" * 101, "a\n", 5])
def test_a_namespace_has_letters_digits_and_three_signs(wrong: Any) -> None:
    with pytest.raises(namespace_manager.BadValueError, match="must be at most 100 letters"):
        namespace_manager.set_namespace(wrong)
    with pytest.raises(KeyError):
        namespace_manager.validate_namespace(wrong, KeyError)
    assert namespace_manager.get_namespace() == ""
    assert namespace_manager.google_apps_namespace() is None

"""Keys, values and expiry times of memcache, without Redis."""

import enum
import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastacross.memcache import encoding
from lastacross.signing import Signatures

NOW = 1_800_000_000.0
DAY = 86_400


class Colour(enum.IntEnum):
    """A subclass of int, which must not come back as an int."""

    RED = 1


def a_codec(secret_key: str = "a secret key of the tests") -> encoding.Codec:
    return encoding.Codec(lambda: Signatures(secret_key))


def test_a_key_carries_its_prefix_and_its_namespace() -> None:
    assert encoding.server_key("c", "b.", "a") == b"a:b.c"
    assert encoding.server_key(b"c") == b":c"


def test_the_key_of_a_pair_is_its_second_part() -> None:
    assert encoding.server_key((7, "key")) == encoding.server_key("key")


def test_a_key_of_250_bytes_stays_and_a_longer_one_becomes_its_sha1() -> None:
    longest = "k" * 249
    assert encoding.server_key(longest) == b":" + longest.encode()
    assert encoding.server_key(longest + "k") == hashlib.sha1(f":{longest}k".encode()).hexdigest().encode()


@pytest.mark.parametrize("key", [1, None, ["k"], (1, 2), (1, 2, 3)])
def test_a_key_that_is_no_text_is_a_type_error(key: object) -> None:
    with pytest.raises(TypeError):
        encoding.server_key(key)  # type: ignore[arg-type]


@pytest.mark.parametrize("namespace", ["a:b", "a b", "ä", "n" * 101])
def test_a_namespace_that_could_run_into_a_key_is_refused(namespace: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        encoding.server_key("k", "", namespace)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (0, NOW + DAY),
        (1, NOW + 1),
        (0.2, NOW + 1),
        (30 * DAY, NOW + 30 * DAY),
        (30 * DAY + 1, 30 * DAY + 1),
        (NOW + 60.5, NOW + 61),
    ],
)
def test_a_time_up_to_a_month_is_a_length_and_beyond_it_an_instant(time: float, expected: float) -> None:
    assert encoding.expires_at(time, NOW, DAY) == expected


@pytest.mark.parametrize("time", [-1, -0.5, float("inf"), float("nan")])
def test_a_negative_or_endless_time_is_a_value_error(time: float) -> None:
    with pytest.raises(ValueError, match="time"):
        encoding.expires_at(time, NOW, DAY)


def test_a_time_that_is_no_number_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        encoding.expires_at("60", NOW, DAY)  # type: ignore[arg-type]


@given(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.lists(st.integers()) | st.dictionaries(st.text(), st.text())
)  # fmt: skip
def test_every_value_comes_back_as_it_was_with_its_type(value: object) -> None:
    codec = a_codec()
    back = codec.decode(*codec.encode(value))
    assert back == value
    assert type(back) is type(value)


def test_a_subclass_of_int_comes_back_as_itself() -> None:
    codec = a_codec()
    assert codec.decode(*codec.encode(Colour.RED)) is Colour.RED


def test_a_value_of_1000000_bytes_is_taken_and_a_larger_one_refused() -> None:
    codec = a_codec()
    codec.encode(b"x" * 1_000_000)
    with pytest.raises(ValueError, match="1000001"):
        codec.encode(b"x" * 1_000_001)


@pytest.mark.parametrize(
    "stored",
    [
        pickle.dumps([1]),
        b"",
        b".",
        Signatures("another secret key").sign("memcache", pickle.dumps([1])),
        Signatures("a secret key of the tests").sign("deferred", pickle.dumps([1])),
    ],
)
def test_a_pickle_without_our_signature_is_never_loaded(stored: bytes) -> None:
    with pytest.raises(encoding.UnreadableValueError):
        a_codec().decode("p", stored)


def test_a_pickle_of_a_class_that_is_gone_is_unreadable() -> None:
    gone = Signatures("a secret key of the tests").sign("memcache", b"cno.such.module\nThing\n.")
    with pytest.raises(encoding.UnreadableValueError):
        a_codec().decode("p", gone)


def test_the_persistent_hooks_replace_objects_by_their_ids() -> None:
    held = object()
    codec = encoding.Codec(
        lambda: Signatures("a secret key of the tests"),
        persistent=(lambda value: "held" if value is held else None, lambda name: held),
    )
    assert codec.decode(*codec.encode([held])) == [held]


@pytest.mark.parametrize("number", [-1, 2**64])
def test_a_number_outside_64_bits_is_a_value_error(number: int) -> None:
    with pytest.raises(ValueError, match="delta"):
        encoding.unsigned(number, "delta")


def test_a_number_that_is_no_int_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        encoding.unsigned(1.0, "delta")

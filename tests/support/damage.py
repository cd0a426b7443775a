"""Ways to damage a key or a field."""

from typing import Any

MISSING = object()
WRONG_TYPE = object()

BAD_VALUES: dict[str, object] = {
    "missing": MISSING,
    "empty": b"",
    "a word": b"x",
    "negative": b"-1",
    "too large": b"1e400",
    "NaN": b"nan",
    "NUL bytes": b"1\0\0",
    "not UTF-8": b"\xff\xfe1",
}


def flip(redis: Any, key: str, field: str, value: object) -> None:
    """Write a bad value into a field of a hash."""
    if value is MISSING:
        redis.hdel(key, field)
    else:
        redis.hset(key, field, value)


def write_over(redis: Any, key: str) -> None:
    """Overwrite a key, as another program does that uses the same key for its own data."""
    kind = redis.type(key)
    redis.delete(key)
    if kind == b"string":
        redis.rpush(key, "another program's")
    else:
        redis.set(key, "another program's")

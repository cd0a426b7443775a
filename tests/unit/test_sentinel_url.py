"""REDIS_URL for a Redis that Sentinel watches."""

import pytest

from lastacross.config import sentinel_url
from lastacross.config.diagnostics import UnusableError
from lastacross.config.settings import masked_url
from lastacross.config.variables import redis_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "redis+sentinel://one/mymaster",
            ("redis://sentinel/0", (("one", 26379),), "mymaster", None, None),
        ),
        (
            "redis+sentinel://u:p%40@one:1,two,[::1]:3/my.master/5?socket_timeout=1",
            (
                "redis://u:p%40@sentinel/5?socket_timeout=1",
                (("one", 1), ("two", 26379), ("::1", 3)),
                "my.master",
                None,
                None,
            ),
        ),
        (
            "rediss+sentinel://:p@one/m/?sentinel_username=a&sentinel_password=b%26c&ssl_ca_certs=%2Fca.pem",
            ("rediss://:p@sentinel/0?ssl_ca_certs=%2Fca.pem", (("one", 26379),), "m", "a", "b&c"),
        ),
    ],
)
def test_a_url_has_these_parts(url: str, expected: tuple[object, ...]) -> None:
    assert sentinel_url.parse(url) == expected
    assert redis_url(url) == url


@pytest.mark.parametrize("url", ["redis://one/0", "rediss://one/0", "unix:///socket", "", "sentinel"])
def test_another_url_names_no_sentinels(url: str) -> None:
    assert sentinel_url.parse(url) is None


@pytest.mark.parametrize(
    ("url", "problem", "hint"),
    [
        ("redis+sentinel://one", "does not name the master", "redis+sentinel://one/mymaster/0"),
        (
            "redis+sentinel://one:1,two:2/?db=1",
            "does not name the master",
            "redis+sentinel://one:1,two:2/mymaster/0?db=1",
        ),
        ("redis+sentinel:///mymaster/0", "does not name a host", None),
        ("redis+sentinel://u:p@/mymaster/0", "does not name a host", None),
        ("redis+sentinel://one:port/mymaster", "invalid host or port", None),
        ("redis+sentinel://one:70000/mymaster", "invalid host or port", None),
        ("redis+sentinel://one;two/mymaster", "invalid host or port", None),
        ("redis+sentinel://one,,two/mymaster", "invalid host or port", None),
        ("redis+sentinel://one/mymaster/zero", "invalid database number", None),
        ("redis+sentinel://one/0/mymaster", "invalid database number", None),
        ("redis+sentinel://one/my%20master", "invalid name", None),
        (f"redis+sentinel://{','.join(['h'] * 21)}/m", "more than 20 sentinels", None),
        ("sentinel://one/mymaster/0", "does not begin with", "redis+sentinel://one/mymaster/0"),
        ("sentinels://one/mymaster/0", "does not begin with", "rediss+sentinel://one/mymaster/0"),
    ],
)
def test_a_wrong_url_is_explained(url: str, problem: str, hint: str | None) -> None:
    with pytest.raises(UnusableError, match=problem) as raised:
        redis_url(url)
    assert raised.value.hint == hint


def test_no_password_is_shown() -> None:
    url = "redis+sentinel://u:hunter2@one:1,two:2/m/0?sentinel_password=hunter2"

    assert "hunter2" not in masked_url(url)
    assert masked_url(url).startswith("redis+sentinel://u:********@one:1,two:2/m/0")

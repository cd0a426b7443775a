"""The quilt's code as printed (``tests/support/quilt_as_printed.py``) colours every square."""

import json
import re
import threading
import urllib.request

import pytest

from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("small")]


def first_messages(site: Site, token: str, count: int, is_open: threading.Event) -> list[dict[str, object]]:
    """What the channel's stream says, until there are so many messages."""
    url = f"{site.url}/_ah/channel/stream?token={token}"
    messages: list[dict[str, object]] = []
    with urllib.request.urlopen(url, timeout=30) as stream:
        is_open.set()
        while len(messages) < count:
            line = stream.readline().decode()
            assert line, "the stream ended early"
            if line.startswith("data:"):
                messages.append(json.loads(line.removeprefix("data:")))
    return messages


def test_the_quilts_worker_as_printed_colours_every_square(small_site: Site) -> None:
    """64 deferred calls in another folder's application; each message reaches the listener once."""
    token = small_site.json("/begin")["token"]
    is_open = threading.Event()
    messages: list[dict[str, object]] = []
    listener = threading.Thread(
        target=lambda: messages.extend(first_messages(small_site, token, 64, is_open)), daemon=True
    )
    listener.start()
    assert is_open.wait(20)
    small_site.post("/begin")
    listener.join(60)
    assert {(message["row"], message["column"]) for message in messages} == {
        (row, column) for row in range(8) for column in range(8)
    }
    assert len(messages) == 64
    assert all(re.fullmatch("#[0-9A-F]{6}", str(message["color"])) for message in messages)

"""Server-sent events: a thousand open streams, and how late their messages are."""

import os
import selectors
import socket
import subprocess
import sys
import time
from typing import Any
from urllib.parse import quote

import redis

from bench.web import running
from lastacross import channel, config, store

STREAMS = 1_000
PER_SECOND = 10
SECONDS = 10.0
WARM_UP_SECONDS = 3.0
TICK_SECONDS = 0.01

# One message is about as long as a quilt's square.
TEXT = '{"row": 12, "column": 34, "color": "#A1B2C3", "position": 1234, "at": %.6f}'
MARK = b'"at": '


def streams(client_ids: int = STREAMS) -> dict[str, Any]:
    """A thousand streams with 10 messages a second each, from ``channel.send_message``'s step to the client.

    Args:
        client_ids: how many different ones; 1000 is one page each, 1 is all pages at the same one.
    """
    # All of them come from one address.
    with running.running_site(variables={"LASTACROSS_STREAMS_PER_CLIENT": str(STREAMS)}) as site:
        os.environ.update(site.environ)
        config.use(config.load(running.ROOT, os.environ))
        ids = [f"client-{number}" for number in range(client_ids)]
        tokens = [channel.create_channel(ids[number % client_ids]) for number in range(STREAMS)]
        sockets, refused = _open(site.port, tokens)
        running.progress(f"{len(sockets)} streams are open, {refused} were refused")
        sender = _start_sender(site, client_ids)
        listener = _Listener(sockets)
        listener.listen(WARM_UP_SECONDS)
        listener.lags.clear()
        before = site.cpu_seconds()
        listener.listen(SECONDS)
        used = site.used_since(before)
        lags = list(listener.lags)
        sender.kill()
        sender.wait()
        store.use(None)
    sent = len(sockets) * PER_SECOND * SECONDS
    return {
        "streams": len(sockets),
        "refused": refused,
        "client_ids": client_ids,
        "per_second": round(len(lags) / SECONDS, 1),
        "share_delivered": round(len(lags) / max(1, sent), 4),
        **running.summary_ms(lags or [0.0]),
        "web_cpu_share": round(used["web_cpu_seconds"] / SECONDS, 3),
        "web_cpu_us": round(1e6 * used["web_cpu_seconds"] / max(1, len(lags)), 1),
        "redis_cpu_us": round(1e6 * used["redis_cpu_seconds"] / max(1, len(lags)), 1),
    }


def _open(port: int, tokens: list[str]) -> tuple[list[socket.socket], int]:
    """Open a stream for each token; those that were opened, and how many were refused."""
    opened, refused = [], 0
    for token in tokens:
        connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        connection.sendall(
            f"GET /_ah/channel/stream?token={quote(token)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        )
        if connection.recv(65_536)[9:12] == b"200":
            connection.setblocking(False)
            opened.append(connection)
        else:
            connection.close()
            refused += 1
    return opened, refused


class _Listener:
    """All browsers in one: notes how late each message is."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self.lags: list[float] = []
        self._selector = selectors.DefaultSelector()
        for connection in sockets:
            self._selector.register(connection, selectors.EVENT_READ)

    def listen(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        while (now := time.monotonic()) < ends_at:
            for key, _ in self._selector.select(ends_at - now):
                connection: Any = key.fileobj
                received = connection.recv(262_144)
                if not received:
                    raise EOFError("the server has closed a stream")
                now = time.monotonic()
                for piece in received.split(MARK)[1:]:
                    self.lags.append(now - float(piece[: piece.index(b"}")]))


def _start_sender(site: running.Site, client_ids: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, str(client_ids)], env=site.environ)


def send(client_ids: int) -> None:
    """Send 10 messages a second to each client id, evenly: the whole life of the sending process.

    In one pipeline each 10 ms: what is measured is the server, not so many workers.
    """
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    text = (running.ROOT / "lastacross/channel/lua/send_message.lua").read_text()
    script = client.script_load(text)
    keys = [store.channel_key(f"client-{number}") for number in range(client_ids)]
    began_at, sent = time.monotonic(), 0
    while True:
        wanted = int((time.monotonic() - began_at) * PER_SECOND * client_ids)
        with client.pipeline(transaction=False) as pipeline:
            for number in range(sent, wanted):
                message = TEXT % time.monotonic()
                pipeline.evalsha(script, 1, keys[number % client_ids], 12_000, 7_200, message)
            pipeline.execute()
        sent = wanted
        time.sleep(TICK_SECONDS)


if __name__ == "__main__":
    send(int(sys.argv[1]))

"""The channel's two URLs on a real gunicorn, with a page that uses the script."""

import contextlib
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lastacross.channel import web
from tests.support.processes import ROOT, wait_until

# The environment variable for a site whose reader writes to the browsers itself, as in `lastacross web`.
WRITES_DIRECTLY = "TEST_WRITES_DIRECTLY"
if os.environ.get(WRITES_DIRECTLY):
    web.write_directly()

CONTENT_SECURITY_POLICY = "default-src 'self'; base-uri 'none'; frame-ancestors 'none'"

PAGE = b"<!doctype html><title>channel</title><script src='/_ah/channel/jsapi'></script>"


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The site's WSGI application."""
    path = environ["PATH_INFO"]
    if path == "/_ah/channel/stream":
        return web.stream(environ, start_response)
    if path == "/_ah/channel/jsapi":
        return web.jsapi(environ, start_response)
    if path == "/streams":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(web.open_streams()).encode()]
    if path == "/":
        policy = ("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), policy])
        return [PAGE]
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"not found"]


class ChannelSite:
    """A running site.

    Args:
        process: the gunicorn process.
        port: the port on the loopback interface where it listens.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def open_streams(self) -> int:
        """How many streams are open on the site."""
        with urllib.request.urlopen(f"{self.url}/streams", timeout=10) as answer:
            return int(answer.read())

    def is_up(self) -> bool:
        """Whether the site responds."""
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            return self.open_streams() >= 0
        return False


@contextlib.contextmanager
def running_channel_site(
    root: Path, environ: dict[str, str], *, threads: int = 64, listener: socket.socket | None = None
) -> Iterator[ChannelSite]:
    """Run the site in one gunicorn process for the block.

    Args:
        root: a folder with app.yaml and queue.yaml.
        environ: environment variables such as REDIS_URL and SECRET_KEY.
        threads: the number of gunicorn's threads.
        listener: a listening socket, so that a second site can start at the address of the first.
    """
    with contextlib.ExitStack() as stack:
        if listener is None:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        command = [sys.executable, "-m", "gunicorn", "-k", "gthread", "--threads", str(threads)]
        command += ["--bind", f"fd://{listener.fileno()}", "--no-control-socket", "--log-level", "warning"]
        command += ["--worker-connections", "2000", "--graceful-timeout", "3"]
        process = subprocess.Popen(
            [*command, "tests.support.channel_site:application"],
            cwd=ROOT,
            env={**os.environ, **environ, "LASTACROSS_APP": str(root)},
            pass_fds=[listener.fileno()],
        )
        site = ChannelSite(process, listener.getsockname()[1])
        try:
            wait_until(site.is_up, what="the site is up")
            yield site
        finally:
            process.terminate()
            process.wait(timeout=20)

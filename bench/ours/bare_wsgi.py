"""Calls the measured application's handler by WSGI, with nothing else round it, so many times.

``python -m bench.ours.bare_wsgi ROOT CALLS``: says "ready", waits for a line, calls, and prints a line of
JSON with the instants at which it began and ended, and its processor time.
"""

import importlib
import io
import json
import sys
import time
from typing import Any

BASE: dict[str, Any] = {
    "REQUEST_METHOD": "POST",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/work",
    "QUERY_STRING": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_HOST": "localhost",
    "REMOTE_ADDR": "127.0.0.1",
    "CONTENT_TYPE": "application/x-www-form-urlencoded",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.errors": sys.stderr,
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    # As the engine's own deliveries say it: without this WebOb copies each body into a temporary file.
    "webob.is_body_seekable": True,
}
_WARM_UP = 200


def call(app: Any, index: int) -> None:
    """One request, to its end.

    Raises:
        RuntimeError: the answer is not 200.
    """
    body = b"row=%d&column=%d" % divmod(index, 100)
    environ = {**BASE, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    statuses: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        statuses.append(status)

    for _ in app(environ, start_response):
        pass
    if not statuses[0].startswith("200 "):
        raise RuntimeError(f"the handler answered {statuses[0]}")


def main(root: str, calls: int) -> None:
    """Run the command line."""
    sys.path.insert(0, root)
    app = importlib.import_module("main").app
    for index in range(_WARM_UP):
        call(app, index)
    print("ready", flush=True)
    if not sys.stdin.readline():
        return  # whoever asked is gone
    cpu_before, began_at = time.process_time(), time.monotonic()
    for index in range(calls):
        call(app, index)
    ended_at = time.monotonic()
    cpu_seconds = time.process_time() - cpu_before
    print(json.dumps({"began_at": began_at, "ended_at": ended_at, "cpu_seconds": cpu_seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

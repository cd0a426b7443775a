"""A supervisor that only asks a preload process for children, one at a time, each of which makes a request.

    python -m tests.support.preloading APP COUNT

It prints the children's exit codes as JSON, with None for each that did not end in time. The preload process
is this program with the arguments ``serve APP``.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lastacross import config as configs
from lastacross import logs, memcache
from lastacross.clock import SYSTEM
from lastacross.processes import application, ending, preload
from lastacross.processes.child_process import ForkedProcess
from lastacross.processes.preload_client import SOCKET_FD, ForkRequest, PreloadClient, become_subreaper
from lastacross.worker import base_environ
from tests.support.processes import wait_until

PATIENCE_SECONDS = 30.0


def configured(root: Path) -> configs.Config:
    """The configuration for this environment, in use."""
    found = configs.load(root, os.environ)
    configs.use(found)
    logs.configure(found.settings)
    return found


def first_request(root: Path, arguments: Sequence[str]) -> int:
    """Load the application like any process, and make a request that uses Redis; returns the exit code."""
    app = application.load(configured(root))
    statuses: list[str] = []

    def start_response(status: str, headers: Any, exc_info: Any = None, /) -> Any:
        statuses.append(status)
        return lambda data: None

    environ = {**base_environ("localhost"), "REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": ""}
    body = b"".join(app.inside({**environ, "CONTENT_LENGTH": "0"}, start_response))
    memcache.set(f"request {arguments[0]}", body)
    return 0 if statuses == ["200 OK"] else 1


def serve(root: Path) -> int:
    """Be the preload process."""
    return preload.run(
        lambda: configured(root), tuple(preload.KINDS), lambda arguments: first_request(root, arguments)
    )


def ask(root: Path, count: int) -> list[int | None]:
    """Have children forked; returns their exit codes."""
    assert become_subreaper()
    client = PreloadClient(os.environ, SYSTEM)
    fd = client.open()
    command = [sys.executable, "-m", "tests.support.preloading", "serve", str(root)]
    process = subprocess.Popen(
        command, env={**os.environ, SOCKET_FD: str(fd)}, pass_fds=(fd,), stdin=subprocess.DEVNULL
    )
    os.close(fd)
    codes = [_one(client, number) for number in range(count)]
    client.stop()
    process.wait()
    return codes


def _one(client: PreloadClient, number: int) -> int | None:
    answers: list[ForkedProcess | str | None] = []
    name = f"child-{number}"
    client.ask(ForkRequest(name, ["python", name], [str(number)], os.environ), answers.append)

    def is_answered() -> bool:
        client.take()
        return bool(answers)

    wait_until(is_answered, PATIENCE_SECONDS * 2, name)
    [child] = answers
    assert isinstance(child, ForkedProcess), child
    try:
        wait_until(lambda: child.poll() is not None, PATIENCE_SECONDS, name)
    except AssertionError:
        child.send_signal(9)
    return child.returncode


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        ending.end_process(serve(Path(sys.argv[2])))
    print(json.dumps(ask(Path(sys.argv[1]), int(sys.argv[2]))))

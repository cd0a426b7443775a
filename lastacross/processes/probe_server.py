"""The HTTP server of ``probes``, in a module of its own because it takes time to load."""

import http.server
import socket
import socketserver
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

REQUEST_SECONDS = 5.0
MAX_REQUESTS = 20


class ProbeServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Answers with the problems that one process's probes report.

    Args:
        address: the host and port to listen on.
        problem_of: a callable that returns the problem that a path reports, or None if there is none. It
            raises KeyError for an unknown path.

    Raises:
        OSError: the address cannot be used.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], problem_of: Callable[[str], str | None]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.problem_of = problem_of
        self._slots = threading.BoundedSemaphore(MAX_REQUESTS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without looking up the host's name, which may wait for a name server."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, unless slow clients occupy all of them."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, then free the thread for the next request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not log clients that disconnect."""


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    timeout = REQUEST_SECONDS
    server: ProbeServer
    server_version = "lastacross"
    sys_version = ""

    def do_GET(self) -> None:
        """Respond with 200 if there is no problem, otherwise with 503 and the problem in one line."""
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        """Respond like GET, but without the body."""
        self._answer(has_body=False)

    def _answer(self, *, has_body: bool) -> None:
        try:
            problem = self.server.problem_of(self.path.partition("?")[0])
        except KeyError:
            status, text = HTTPStatus.NOT_FOUND, "not found"
        else:
            status = HTTPStatus.OK if problem is None else HTTPStatus.SERVICE_UNAVAILABLE
            text = problem or "ok"
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if has_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Do not log requests, because probes arrive every few seconds."""

"""Measures of single requests: the form that starts a long task, and the status polls."""

import time
from typing import Any

from bench.web import clients, running

FORM_HEADERS = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
JSON_HEADERS = {"Accept": "application/json"}

STARTS = 300
PAUSE_SECONDS = 0.02
POLL_SECONDS = 6.0
POLL_CLIENTS = 16


def form() -> dict[str, Any]:
    """POST of a long task's form, to the whole answer that leads to its page; two workers run them."""
    with running.running_site(workers=2) as site:
        # A client starts 4 in a minute at most.
        connections = [clients.Connection(site.port, f"127.0.0.{2 + number}") for number in range(100)]
        for number, connection in enumerate(connections):
            _start_long_task(connection, STARTS + number)
        before = site.cpu_seconds()
        seconds = []
        for number in range(STARTS):
            connection = connections[number % len(connections)]
            time.sleep(PAUSE_SECONDS)
            asked_at = time.monotonic()
            _start_long_task(connection, number)
            seconds.append(time.monotonic() - asked_at)
        used = site.used_since(before)
    web_ms = round(1000 * used["web_cpu_seconds"] / STARTS, 3)
    return {"requests": STARTS, **running.summary_ms(seconds), "web_cpu_ms": web_ms}


def _start_long_task(connection: clients.Connection, number: int) -> str:
    """Start one that no other equals; where its page is."""
    year, month = divmod(number % 360, 12)
    body = f"month={1995 + year}-{month + 1:02}&delay_ms={number // 360}".encode()
    answer = connection.ask(clients.request("POST", "/intrastat", FORM_HEADERS, body))
    if answer.status != 303:
        raise RuntimeError(f"the form was answered {answer.status}: {answer.body[:300]!r}")
    return answer.header("Location")


def polls() -> dict[str, Any]:
    """Status polls of kept-alive clients, of a long task and of a quilt, with news (200) and without (304).

    And the long task's whole page, which a browser without JavaScript asks for again and again.

    There is no worker, so that both are open and each poll asks the datastore and Redis.
    """
    with running.running_site() as site:
        connection = clients.Connection(site.port)
        long_task = _start_long_task(connection, 0) + "&format=json"
        body = b"rows=8&columns=8"
        quilt = connection.ask(clients.request("POST", "/quilt", FORM_HEADERS, body)).header("Location")
        found: dict[str, Any] = {"clients": POLL_CLIENTS}
        for name, path in (("long_task", long_task), ("quilt", f"{quilt}.json?after=0")):
            # A new one: the server closes connections that nobody has used for some seconds.
            connection = clients.Connection(site.port)
            etag = connection.ask(clients.request("GET", path, JSON_HEADERS)).header("ETag")
            nothing: dict[str, str] = {}
            for status, headers in ((200, nothing), (304, {"If-None-Match": etag})):
                request = clients.request("GET", path, {**JSON_HEADERS, **headers})
                found |= _polled(site, f"{name}_{status}", request, status)
        page = clients.request("GET", long_task.removesuffix("&format=json"), {"Accept": "text/html"})
        found |= _polled(site, "long_task_page", page, 200)
    found["per_second"] = found["long_task_304_per_second"]
    return found


def _polled(site: running.Site, name: str, request: bytes, status: int) -> dict[str, float]:
    clients.storm(site.port, [request], clients=POLL_CLIENTS, seconds=1.0)
    before = site.cpu_seconds()
    began_at = time.monotonic()
    answered = clients.storm(site.port, [request], clients=POLL_CLIENTS, seconds=POLL_SECONDS)
    seconds = time.monotonic() - began_at
    if set(answered) != {status}:
        raise RuntimeError(f"the polls of {name} were answered {answered}")
    used = site.used_since(before)
    running.progress(f"{name}: {answered[status] / seconds:.0f}/s")
    return {
        f"{name}_per_second": round(answered[status] / seconds, 1),
        f"{name}_web_cpu_us": round(1e6 * used["web_cpu_seconds"] / answered[status], 1),
    }

"""Posted errors and answers of webhooks are bounded where they are read."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from lastacross import datastore
from programs.errors import fields as error_fields
from programs.errors import limits as error_limits
from programs.errors import notifying
from programs.errors import pages as error_pages
from programs.errors import queries as error_queries
from programs.errors import steps as error_steps
from programs.errors.models import ErrorGroup, ErrorNotification
from tests.support import databases
from tests.support.processes import ROOT
from tests.support.raw_server import raw_server
from tests.support.root_application import with_unavailable_store

GIVEN = {"account": "shop", "url": "https://shop.example/a", "status": 500, "type": "KeyError", "msg": "no 7"}
LONG = error_fields.MAX_LENGTHS["traceback"]


@pytest.fixture
def tables(new_database: Callable[[Path], str], tmp_path: Path) -> Iterator[None]:
    """The tables of the application in the root, in an empty database."""
    variables = {"LASTACROSS_FETCH_PRIVATE_HOSTS": "127.0.0.1"}
    with with_unavailable_store(new_database(ROOT), tmp_path, **variables):
        yield


def accept_grouped(**changes: object) -> str:
    """Take in an error that differs so from the usual one, and run its task; its id."""
    error_id = error_steps.accept(error_fields.parse({**GIVEN, **changes}))
    assert error_steps.group(error_id)
    return error_id


def group_id() -> str:
    """The id of the only group."""
    with datastore.session(read_only=True) as session:
        return session.scalars(select(ErrorGroup.id)).one()


def disk_bytes() -> int:
    """What the tables of an SQLite file take up, but for the outbox, whose rows go when they are sent."""
    with datastore.engine().begin() as connection:
        connection.exec_driver_sql("DELETE FROM lastacross_outbox")
    with datastore.engine().connect() as connection:
        names = ("page_count", "freelist_count", "page_size")
        pages, free, size = (connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names)
    return int((pages - free) * size)


@pytest.mark.parametrize(
    ("errors", "changes"),
    [
        (150, {"msg": "x"}),
        (40, {"msg": "::: " * 1024}),
        (40, {"msg": "🧵" * 500}),
        (40, {"msg": "🧵" * 4096}),
        (40, {"url": f"http://{'🧵' * 255}/", "server": "🧵" * 200}),
        (40, {"msg": '"' * 200, "server": '"' * 200}),
    ],
    ids=["short", "longer when masked", "just over half a page", "long", "a long domain", "longer as JSON"],
)
def test_errors_of_many_groups_take_up_no_more_than_is_counted(
    tmp_path: Path, errors: int, changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifying, "MAX_TOLD", 1000)
    url = databases.migrated_sqlite(tmp_path / "data" / "lastacross.db", ROOT)
    with with_unavailable_store(url, tmp_path):
        empty = disk_bytes()
        for number in range(errors):
            accept_grouped(type=f"Error{number}", **changes)

        assert disk_bytes() - empty <= error_limits.kept_bytes()


@pytest.mark.usefixtures("tables")
def test_a_group_of_the_largest_errors_is_less_than_a_megabyte_of_json() -> None:
    # A character outside of the first plane is twelve of JSON.
    largest = accept_grouped(traceback="🙂" * LONG, request="é" * LONG)
    small = accept_grouped(username="kim")
    large = [accept_grouped(traceback="x" * LONG, request="y" * LONG) for _ in range(10)]

    found = error_pages.newest_json(group_id())
    group = error_queries.group(group_id())

    assert group is not None
    whole = json.dumps({**error_pages.group_json(group), **found})
    assert 500_000 < len(whole) < 1_000_000
    listed = [each["id"] for each in found["errors"]]
    assert sorted([*listed, *found["left_out"]]) == sorted([largest, small, *large])
    assert small in listed
    assert largest in found["left_out"]
    assert len(listed) == 8


@pytest.mark.usefixtures("tables")
def test_the_page_of_a_group_reads_no_long_texts() -> None:
    accept_grouped(traceback="x" * LONG, request="y" * LONG)

    [line] = error_queries.lines_of(group_id())

    assert (line.msg, line.url) == ("no 7", "https://shop.example/a")
    assert "traceback" not in line.__dict__
    assert "request" not in line.__dict__


@pytest.mark.usefixtures("tables")
def test_all_errors_of_a_group_are_listed_while_they_are_small() -> None:
    ids = [accept_grouped(msg=f"no {number}") for number in range(60)]

    found = error_pages.newest_json(group_id())

    assert len(found["errors"]) == error_queries.ERRORS_LISTED
    assert found["left_out"] == []
    assert {each["id"] for each in found["errors"]} <= set(ids)


@pytest.mark.usefixtures("tables")
def test_a_webhook_whose_answer_has_no_end_has_taken_its_notification() -> None:
    accept_grouped()
    with datastore.session(read_only=True) as session:
        notification = session.scalars(select(ErrorNotification)).one()
    sent = 0

    def endless(connection: socket.socket) -> None:
        nonlocal sent
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            sent += connection.send(b"x" * 1024)

    with raw_server(endless) as server:
        assert notifying._post(f"{server.url}/hook", notification) == ""

    # Read are 64 kB; the rest lies in the buffers of two sockets.
    assert sent < 8 * 2**20

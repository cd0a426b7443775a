"""The statements that code sends to a database, and how SQLite finds the rows for each of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event

from lastacross import datastore


@contextmanager
def seen_statements() -> Iterator[list[tuple[str, Any]]]:
    """Collect all engines' statements and their parameters during the block."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        seen.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def plans_of(seen: list[tuple[str, Any]]) -> list[str]:
    """SQLite's query plans for the queries among them, step by step, such as ``SCAN quilt``."""
    with datastore.engine().connect() as connection:
        return [
            row[3]
            for statement, parameters in seen
            if statement.startswith("SELECT")
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]

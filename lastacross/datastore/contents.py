"""Finds data in a database, whichever program wrote it."""

from sqlalchemy import exists, inspect, literal, select, table

from lastacross.datastore.engines import engines, make_folder
from lastacross.datastore.transactions import session


def find_filled_table() -> str | None:
    """The name of a table with rows, except the migrations' tables; None if all tables are empty.

    Raises:
        DatastoreUnavailableError: the database is unavailable.
    """
    make_folder(engines().database)
    with session(read_only=True) as opened:
        for name in sorted(inspect(opened.connection()).get_table_names()):
            has_rows = exists(select(literal(1)).select_from(table(name)))
            if not name.endswith("alembic_version") and opened.scalar(select(has_rows)):
                return name
    return None

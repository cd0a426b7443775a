"""What a database holds, whoever wrote it."""

from sqlalchemy import exists, inspect, literal, select, table

from lastacross.datastore.engines import engines, make_folder
from lastacross.datastore.transactions import session


def find_filled_table() -> str | None:
    """The name of a table that has rows, those of the migrations aside; None if no table has any.

    Raises:
        DatastoreUnavailableError: the database is away.
    """
    make_folder(engines().database)
    with session(read_only=True) as opened:
        for name in sorted(inspect(opened.connection()).get_table_names()):
            has_rows = exists(select(literal(1)).select_from(table(name)))
            if not name.endswith("alembic_version") and opened.scalar(select(has_rows)):
                return name
    return None

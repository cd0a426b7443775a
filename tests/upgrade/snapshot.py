"""The data of a site as text that can be read and compared: its Redis as JSON, its SQLite file as SQL.

A snapshot grows old: leases, ETAs, retention times and Redis's own expiries would all have passed. So it is
loaded as though it had been taken a minute ago. Every value that is an instant of the snapshot's time
moves, and each key gets the time to live that it had. Task bodies, signatures, names, the reports of long
tasks and the hours of the error chart stay as they are: nothing but their display depends on their age.
"""

import datetime
import gzip
import json
import re
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy

AGE_SECONDS = 60
"""How long ago a loaded snapshot seems to have been taken."""

_NEAR_SECONDS = 400 * 86_400
_SECONDS = re.compile(r"\d{10}(?:\.\d+)?")
_MILLISECONDS = re.compile(r"(\d{13})-(\d+)")
_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_CACHE_ENTRY = re.compile(r"([A-Za-z]) (\d{16}) (\d{16}) ")
_TEMPORARY = re.compile(re.escape(tempfile.gettempdir()) + r"/la-[a-z]+-\w+")
_SECOND_IN_KEY = re.compile(r"(lastacross:executed:[^:]+:)(\d{10})")


@dataclass(frozen=True)
class Shift:
    """Moves the instants near one moment by the same number of seconds.

    Attributes:
        near: seconds since the epoch; a number far from it is not an instant.
        by: whole seconds.
    """

    near: float
    by: int

    def seconds(self, value: float) -> float:
        """An instant, moved; any other number, as it is."""
        return value + self.by if abs(value - self.near) < _NEAR_SECONDS else value

    def text(self, value: str) -> str:
        """A value of Redis, moved if it is an instant as a whole."""
        if _SECONDS.fullmatch(value):
            _, point, digits = value.partition(".")
            return f"{self.seconds(float(value)):.{len(digits)}f}" if point else str(self.whole(value))
        if _ISO.fullmatch(value):
            moved = datetime.datetime.fromisoformat(value) + datetime.timedelta(seconds=self.by)
            return moved.isoformat(timespec="microseconds").replace("+00:00", "Z")
        if entry := _CACHE_ENTRY.match(value):
            expires, stored = (int(micros) + self.by * 1_000_000 for micros in entry.groups()[1:])
            return f"{entry[1]} {expires} {stored} {value[entry.end() :]}"
        return value

    def whole(self, value: str) -> int:
        """An instant in whole seconds."""
        return int(self.seconds(int(value)))

    def key(self, name: str) -> str:
        """The name of a key, moved if a second is part of it."""
        return _SECOND_IN_KEY.sub(lambda found: found[1] + str(self.whole(found[2])), name)

    def stream_id(self, value: str) -> str:
        """The id of a message."""
        found = _MILLISECONDS.fullmatch(value)
        assert found is not None, value
        return f"{int(found[1]) + self.by * 1000}-{found[2]}"


# --- Redis --------------------------------------------------------------------------------


def read_redis(server: Any) -> dict[str, dict[str, Any]]:
    """Every key with its type, its time to live in milliseconds, and its value; bytes are Latin-1 text.

    RQ's own records of workers are left out: they name a machine and its processes, and nobody goes by them.
    """
    keys = sorted(key for key in server.keys("*") if not key.startswith(b"rq:worker"))
    return {_text(key): _read_key(server, key) for key in keys}


def _read_key(server: Any, key: bytes) -> dict[str, Any]:
    kind = _text(server.type(key))
    value: Any
    if kind == "string":
        value = _text(server.get(key))
    elif kind == "list":
        value = [_text(entry) for entry in server.lrange(key, 0, -1)]
    elif kind == "set":
        value = sorted(_text(entry) for entry in server.smembers(key))
    elif kind == "hash":
        value = {_text(name): _text(entry) for name, entry in sorted(server.hgetall(key).items())}
    elif kind == "zset":
        value = {_text(member): score for member, score in server.zrange(key, 0, -1, withscores=True)}
    elif kind == "stream":
        entries = server.xrange(key)
        value = [[_text(at), {_text(k): _text(v) for k, v in fields.items()}] for at, fields in entries]
    else:
        raise AssertionError(f"{key!r} is a {kind}")
    return {"type": kind, "ttl_ms": server.pttl(key), "value": value}


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _bytes(value: str) -> bytes:
    return value.encode("latin-1")


def load_redis(server: Any, keys: dict[str, dict[str, Any]], shift: Shift) -> None:
    """Put all keys into an empty server."""
    for name, found in keys.items():
        key = _bytes(shift.key(name))
        _load_key(server, key, found["type"], found["value"], shift)
        if found["ttl_ms"] > 0:
            server.pexpire(key, found["ttl_ms"])


def _load_key(server: Any, key: bytes, kind: str, value: Any, shift: Shift) -> None:
    if kind == "string":
        server.set(key, _bytes(shift.text(value)))
    elif kind == "list":
        server.rpush(key, *(_bytes(entry) for entry in value))
    elif kind == "set":
        server.sadd(key, *(_bytes(entry) for entry in value))
    elif kind == "hash":
        server.hset(key, mapping={_bytes(n): _bytes(shift.text(v)) for n, v in value.items()})
    elif kind == "zset":
        server.zadd(key, {_bytes(member): shift.seconds(score) for member, score in value.items()})
    else:
        for at, fields in value:
            server.xadd(key, {_bytes(n): _bytes(v) for n, v in fields.items()}, id=shift.stream_id(at))


# --- SQLite -------------------------------------------------------------------------------


def read_sqlite(file: Path) -> str:
    """The whole database as SQL; its tracebacks do not name the temporary folders that it was made in."""
    with closing(sqlite3.connect(file)) as database:
        return _TEMPORARY.sub("/site", "\n".join(database.iterdump()) + "\n")


def load_sqlite(file: Path, sql: str, shift: Shift) -> None:
    """Make the file that the SQL describes, its instants moved."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as database:
        database.executescript(sql)
        for table, columns in instants(database).items():
            for column in columns:
                database.execute(
                    f'UPDATE "{table}" SET "{column}" = "{column}" + ? WHERE abs("{column}" - ?) < ?',
                    (shift.by, shift.near, _NEAR_SECONDS),
                )
        database.commit()


def instants(database: sqlite3.Connection) -> dict[str, list[str]]:
    """The columns of each table that may hold instants: its floating-point numbers."""
    return {
        table: [name for name, kind in columns.items() if kind.upper().startswith(("DOUBLE", "FLOAT"))]
        for table, columns in columns_of(database).items()
    }


def columns_of(database: sqlite3.Connection) -> dict[str, dict[str, str]]:
    """The tables of a database: column → type."""
    names = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
    return {
        table: {row[1]: row[2] for row in database.execute(f'PRAGMA table_info("{table}")')}
        for (table,) in names.fetchall()
        if not table.startswith("sqlite_")
    }


def copy_rows(file: Path, url: str) -> None:
    """Copy all rows into the tables of a PostgreSQL database, which are there and empty."""
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1))
    metadata = sqlalchemy.MetaData()
    metadata.reflect(engine)
    with closing(sqlite3.connect(file)) as source, engine.begin() as target:
        source.row_factory = sqlite3.Row
        for table in metadata.sorted_tables:
            rows = source.execute(f'SELECT * FROM "{table.name}"').fetchall()
            if rows and not table.name.endswith("alembic_version"):
                target.execute(table.insert(), [_row_for(table, row) for row in rows])
                _count_on(target, table)
    engine.dispose()


def _row_for(table: sqlalchemy.Table, row: sqlite3.Row) -> dict[str, Any]:
    """SQLite has no booleans and no dates of its own."""
    values = {column.name: row[column.name] for column in table.columns}
    for column in table.columns:
        value = values[column.name]
        if isinstance(column.type, sqlalchemy.Boolean) and value is not None:
            values[column.name] = bool(value)
        elif isinstance(column.type, sqlalchemy.Date) and value is not None:
            values[column.name] = datetime.date.fromisoformat(value)
    return values


def _count_on(target: sqlalchemy.Connection, table: sqlalchemy.Table) -> None:
    """Let a table go on numbering its rows after the copied ones."""
    for column in table.primary_key.columns:
        if column.autoincrement is True or (column.server_default is not None):
            sequence = f"pg_get_serial_sequence('{table.name}', '{column.name}')"
            target.execute(
                sqlalchemy.text(f"SELECT setval({sequence}, max({column.name})) FROM {table.name}")
            )


# --- files --------------------------------------------------------------------------------


def write_gz(file: Path, text: str) -> None:
    """Write a compressed file; the same text gives the same bytes."""
    file.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def read_gz(file: Path) -> str:
    """The text of a compressed file."""
    return gzip.decompress(file.read_bytes()).decode()


def pretty(value: object) -> str:
    """JSON for people and for diffs."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

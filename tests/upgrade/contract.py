"""The names that another version may depend on: of keys, fields, columns, settings, log events and JSON.

``fixture/contract.json`` has those of the former code. Present code must have them all; what it adds is free.
"""

import ast
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.upgrade import snapshot

_KEY_PATTERNS = (
    (re.compile(r"rq:queue:[^.]+\..+"), "rq:queue:*.*"),
    (re.compile(r"lastacross:batch:[^:]+"), "lastacross:batch:*"),
    (re.compile(r"lastacross:batch:[^:]+:(\w+)"), r"lastacross:batch:*:\1"),
    (re.compile(r"lastacross:executed:.+"), "lastacross:executed:*:*"),
    (re.compile(r"lastacross:pull-tag:.+"), "lastacross:pull-tag:*:*"),
    (re.compile(r"lastacross:metrics:(\w+)(:.+)?"), r"lastacross:metrics:\1"),
    (re.compile(r"(rq|lastacross):([^:]+):.+"), r"\1:\2:*"),
)
_EVENT = re.compile(r"[a-z_*]+(\.[a-z_*]+)+")
_LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
_NOT_READ = {"tests", "bench", "build", "versions"}
_BY_CHANCE = ("lastacross:wakeup:*",)
"""There at one moment and gone at the next."""


def redis_names(keys: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each kind of key its type, and the fields of its hashes or messages."""
    found: dict[str, dict[str, Any]] = {}
    for name, key in keys.items():
        if kind_of_key(name) in _BY_CHANCE:
            continue
        kind = found.setdefault(kind_of_key(name), {"type": key["type"], "fields": []})
        assert kind["type"] == key["type"], name
        fields = set(kind["fields"]) | {re.sub(r"\d+", "#", field) for field in _fields_of(key)}
        kind["fields"] = sorted(fields)
    return found


def kind_of_key(name: str) -> str:
    """The name of a key, with stars for the parts that differ from key to key."""
    for pattern, kind in _KEY_PATTERNS:
        if found := pattern.fullmatch(name):
            return found.expand(kind)
    return name


def _fields_of(key: Mapping[str, Any]) -> set[str]:
    if key["type"] == "hash":
        return set(key["value"])
    if key["type"] == "stream":
        return {field for _, fields in key["value"] for field in fields}
    return set()


def sql_names(database: sqlite3.Connection) -> dict[str, dict[str, str]]:
    """The columns of each table with their types."""
    return snapshot.columns_of(database)


def sql_names_of(sql: str) -> dict[str, dict[str, str]]:
    """The same of a database that SQL describes."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(sql)
        return sql_names(database)


def json_names(value: Any, path: str = "") -> set[str]:
    """The paths of all names in a JSON value: ``metadata.state``, ``groups[].id``."""
    if isinstance(value, dict):
        names = {f"{path}.{name}".lstrip(".") for name in value}
        return names.union(
            *(json_names(entry, f"{path}.{name}".lstrip(".")) for name, entry in value.items())
        )
    if isinstance(value, list):
        return set().union(*(json_names(entry, f"{path}[]") for entry in value))
    return set()


# --- log events ---------------------------------------------------------------------------


def log_names(tree: Path) -> dict[str, list[str]]:
    """For each event that the code logs, the fields that it logs with it, wherever it does."""
    events: dict[str, set[str]] = {}
    for file in _files(tree):
        for call in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr in _LEVELS
            ):
                for event in _texts(call.args[0]) if call.args else ():
                    if _EVENT.fullmatch(event):
                        events.setdefault(event, set()).update(_logged_fields(call))
    return {event: sorted(fields) for event, fields in sorted(events.items())}


def _files(tree: Path) -> Iterator[Path]:
    """The code of the engine and the programs: no tests, no migrations, no virtual environment."""
    for entry in sorted(tree.iterdir()):
        if entry.suffix == ".py":
            yield entry
        elif entry.is_dir() and entry.name[0] != "." and not (entry / "pyvenv.cfg").exists():
            for file in sorted(entry.rglob("*.py")):
                if not _NOT_READ.intersection(file.relative_to(tree).parts):
                    yield file


def _texts(node: ast.expr) -> Iterator[str]:
    """The strings that an expression may be; a star for each value in an f-string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)


def _logged_fields(call: ast.Call) -> set[str]:
    fields = {keyword.arg for keyword in call.keywords if keyword.arg not in (None, "extra", "exc_info")}
    for keyword in call.keywords:
        if keyword.arg == "extra" and isinstance(keyword.value, ast.Dict):
            fields |= {str(key.value) for key in keyword.value.keys if isinstance(key, ast.Constant)}
    return {str(field) for field in fields}


# --- the whole ------------------------------------------------------------------------------


def contract(tree: Path, keys: Mapping[str, Any], sql: str, answers: Mapping[str, Any]) -> dict[str, Any]:
    """All names of a version: of its code, and of the data and the answers of a site that it runs."""
    return {
        "redis": redis_names(keys),
        "sql": sql_names_of(sql),
        "settings": sorted(row["name"] for row in _settings(answers)),
        "log events": log_names(tree),
        "json": {_question(name): sorted(json_names(answer)) for name, answer in answers.items()},
    }


def _settings(answers: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = answers["config show"]
    if isinstance(found, dict):
        return [{"name": name} for name in found]
    return list(found)


def _question(name: str) -> str:
    """The name of an answer, without the part that differs from run to run."""
    return "cron history" if name.startswith("cron history") else name


def missing(old: Any, new: Any, path: str = "") -> list[str]:
    """The names of one contract that another lacks or changes."""
    if isinstance(old, dict):
        lost = []
        for name, value in old.items():
            if not isinstance(new, dict) or name not in new:
                lost.append(f"{path}/{name}")
            else:
                lost += missing(value, new[name], f"{path}/{name}")
        return lost
    if isinstance(old, list):
        return [f"{path}/{name}" for name in old if not isinstance(new, list) or name not in new]
    return [] if old == new else [f"{path}: {old} is now {new}"]

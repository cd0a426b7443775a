"""Present code keeps every name that another version depends on; a rename needs a migration."""

import json
import lzma
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lastacross import config, datastore
from tests.support.postgres import PostgresServer
from tests.support.redis_server import running_server
from tests.upgrade import contract, former, scenario, snapshot
from tests.upgrade.contract import missing
from tests.upgrade.former import PRESENT, Code
from tests.upgrade.make_fixture import CONTRACT, MANIFEST, REDIS, SQL
from tests.upgrade.scenario import Scene

FORMER: dict[str, Any] = json.loads(CONTRACT.read_text())


# --- the fixture itself ---------------------------------------------------------------------


def test_the_archive_and_the_fixture_are_of_the_commit() -> None:
    commit, files = archived()
    assert commit == former.COMMIT
    assert json.loads(MANIFEST.read_text())["commit"] == former.COMMIT
    if former.history_has_commit():
        assert files == former.contents(former.tar_from_history())[1]
    assert "lastacross/__init__.py" in files


def archived() -> tuple[str | None, dict[str, bytes]]:
    return former.contents(lzma.decompress(former.ARCHIVE.read_bytes()))


def test_the_committed_contract_is_that_of_the_archived_code(former_code: Code) -> None:
    assert contract.log_names(former_code.tree) == FORMER["log events"]
    keys = json.loads(snapshot.read_gz(REDIS))
    assert contract.redis_names(keys) == FORMER["redis"]
    assert contract.sql_names_of(snapshot.read_gz(SQL)) == FORMER["sql"]


def test_the_fixture_stays_small() -> None:
    folder = former.FOLDER
    files = [former.ARCHIVE, *(folder / "fixture").iterdir()]
    assert sum(file.stat().st_size for file in files) < 500_000


def test_a_renamed_field_a_changed_type_and_a_lost_key_are_noticed() -> None:
    old = {"rq:job:*": {"type": "hash", "fields": ["eta", "lost"]}, "lastacross:paused": {"type": "set"}}
    new = {"rq:job:*": {"type": "string", "fields": ["eta", "losses", "more"]}, "another": {"type": "set"}}
    assert missing(old, old) == []
    assert missing(old, new) == [
        "/rq:job:*/type: hash is now string",
        "/rq:job:*/fields/lost",
        "/lastacross:paused",
    ]


# --- present code -------------------------------------------------------------------------


def test_log_events_and_their_fields_keep_their_names() -> None:
    assert missing(FORMER["log events"], contract.log_names(PRESENT.tree)) == []


def test_settings_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    loaded = config.load(tmp_path, {"SECRET_KEY": "a secret key of the tests, long enough"})
    assert missing(FORMER["settings"], [name for name, _, _ in config.describe(loaded)]) == []


def test_tables_and_columns_keep_their_names_and_types(tmp_path: Path) -> None:
    """Of a new database, and of the fixture's after its migration."""
    migrated = tmp_path / "migrated.db"
    snapshot.load_sqlite(migrated, snapshot.read_gz(SQL), snapshot.Shift(0, 0))
    for file in (migrated, tmp_path / "new.db"):
        datastore.upgrade(f"sqlite:///{file}", PRESENT.tree)
        with closing(sqlite3.connect(file)) as database:
            assert missing(FORMER["sql"], contract.sql_names(database)) == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_keys_fields_and_json_keep_their_names() -> None:
    """Present code plays the part that the former one played when the fixture was made."""
    with tempfile.TemporaryDirectory(prefix="la-contract-") as name, running_server() as server:
        scene = Scene(PRESENT, Path(name), server)
        answers = scenario.play(scene, with_poison=False)
        keys, sql = scenario.taken(scene)
    present = contract.contract(PRESENT.tree, keys, sql, answers)
    assert missing(FORMER, present) == []


@pytest.mark.slow
def test_postgresql_is_migrated_with_all_rows(
    former_code: Code, postgres: PostgresServer, tmp_path: Path
) -> None:
    """From the former code's own tables, with the rows of the fixture in them."""
    url = postgres.url(postgres.new_database())
    (tmp_path / "app").mkdir()
    app = former_code.lay_out(tmp_path / "app")
    environ = {
        "DATABASE_URL": url,
        "SECRET_KEY": "a secret key of the tests, long enough",
        "LASTACROSS_APP": str(app),
    }
    former_code.run(["-m", "lastacross", "db", "upgrade"], environ)
    file = tmp_path / "former.db"
    snapshot.load_sqlite(file, snapshot.read_gz(SQL), snapshot.Shift(0, 0))
    snapshot.copy_rows(file, url)
    datastore.upgrade(url, PRESENT.tree)
    assert datastore.is_current(url, PRESENT.tree)
    with closing(sqlite3.connect(file)) as database, psycopg.connect(url) as migrated:
        for table in FORMER["sql"]:
            query = f'SELECT count(*) FROM "{table}"'
            assert migrated.execute(query.encode()).fetchall() == database.execute(query).fetchall(), table

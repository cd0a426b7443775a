"""DATABASE_URL: what is taken, and what is said of the rest."""

import pytest
from sqlalchemy import make_url

from lastacross.datastore.url import parse, place_of
from lastacross.errors import ConfigError


def test_a_sqlite_file_is_safe_against_the_death_of_processes_by_default() -> None:
    database = parse("sqlite:////srv/app/data.db")
    assert database.is_sqlite
    assert database.url.database == "/srv/app/data.db"
    assert database.synchronous == "normal"


def test_a_sqlite_file_can_be_made_safe_against_loss_of_power() -> None:
    database = parse("sqlite:////srv/app/data.db?synchronous=FULL")
    assert database.synchronous == "full"
    assert not database.url.query


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_usual_spelling_of_postgresql_means_psycopg(scheme: str) -> None:
    database = parse(f"{scheme}://ada:secret@db.example:5433/app?sslmode=require")
    assert not database.is_sqlite
    assert database.url.drivername == "postgresql+psycopg"
    assert database.url.query == {"sslmode": "require"}


def test_a_password_is_never_shown() -> None:
    shown = str(parse("postgresql://ada:secret@db.example/app"))
    assert "postgresql+psycopg://ada:***@db.example/app" in shown
    assert "secret" not in shown
    assert "secret" not in str(parse("postgresql://ada@db.example/app?password=secret&sslpassword=secret"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not the URL of a database"),
        ("ada:secret@db", "is not the URL of a database"),
        ("mysql://ada:secret@db/app", "'mysql'"),
        ("postgresql://ada:secret@db/app?sslmod=require", "no parameter 'sslmod'"),
        ("postgresql+psycopg2://ada:secret@db/app", "'postgresql+psycopg2'"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite:///file:app.db?uri=true", "must name a file"),
        ("sqlite://data/app.db", "four an absolute"),
        ("sqlite:////srv/app.db?sync=full", "'sync'"),
        ("sqlite:////srv/app.db?synchronous=off", "'off'"),
        ("sqlite:////srv/app.db?synchronous=full&synchronous=normal", "not one of normal, full, extra"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_what_to_write(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"DATABASE_URL") as caught:
        parse(text)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("postgresql://ann:a@db/shop", "postgresql+psycopg2://bob:b@DB:5432/shop?sslmode=require"),
        ("postgresql://ann@localhost/shop", "postgresql://ann@127.0.0.1/shop"),
        (
            "postgresql://ann@/shop?host=/run/postgresql",
            "postgresql://ann@/?host=/run/postgresql&dbname=shop",
        ),
        ("postgresql://ann@db", "postgresql://bob@db/ann"),
        ("sqlite:////srv/data/../shop.db", "sqlite:////srv/shop.db?timeout=5"),
        ("sqlite:///shop.db", "sqlite:///./shop.db"),
        ("sqlite:////srv/shop.db", "sqlite:///file:/srv/shop.db?mode=rw&uri=true"),
    ],
)
def test_two_urls_of_one_database_have_one_place(
    one: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)

    assert place_of(make_url(one)) == place_of(make_url(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("postgresql://ann@db/shop", "postgresql://ann@db/store"),
        ("postgresql://ann@db/shop", "postgresql://ann@other/shop"),
        ("postgresql://ann@db/shop", "postgresql://ann@db:6432/shop"),
        ("postgresql://ann@db/shop", "mysql://ann@db:5432/shop"),
        ("postgresql://ann@localhost/shop", "postgresql://ann@/shop?host=/run/postgresql"),
        ("sqlite:////srv/shop.db", "sqlite:////srv/store.db"),
        ("sqlite:////srv/shop.db", "sqlite://"),
        ("sqlite:////srv/shop.db", "sqlite:///file:/srv/shop.db?mode=memory&uri=true"),
    ],
)
def test_two_databases_have_two_places(one: str, other: str) -> None:
    assert place_of(make_url(one)) != place_of(make_url(other))

"""The environment: defaults, what each variable takes, and what may be shown of it."""

import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from lastacross import config
from lastacross.config.settings import _make_secret_key, masked_url, read_or_make_secret_key
from lastacross.errors import ConfigError

KEY = "a secret key of the tests, long enough"
ENVIRON = {"SECRET_KEY": KEY}


def settings(root: Path, **environ: str) -> config.Settings:
    """The settings with these variables beside the secret key."""
    return config.load(root, ENVIRON | environ).settings


def test_the_defaults_are_those_of_the_documentation(app_root: Path) -> None:
    """With nothing set but the key."""
    found = settings(app_root)

    assert (found.port, found.host, found.is_dev) == (8080, "0.0.0.0", False)
    assert found.redis_url == "redis://127.0.0.1:6379/0"
    assert found.data_dir == app_root / "var"
    assert found.database_url == f"sqlite:///{app_root}/var/lastacross.db"
    assert (found.tombstone_seconds, found.lease_seconds, found.threads) == (777_600, 8.0, 8)
    assert (found.allowed_hosts, found.log_level, dict(found.services)) == (("*",), "INFO", {})
    assert found.service == "default"
    assert (found.web_processes, found.worker_processes, found.web_threads, found.max_streams) == (
        2,
        2,
        1280,
        1024,
    )
    assert (found.max_streams_per_client, found.open_longtasks, found.longtask_bytes) == (256, 1000, 2**31)
    assert (found.max_body_bytes, found.dead_letter_seconds) == (10 * 2**20, 30 * 86_400)
    assert (found.cache_seconds, found.longtask_seconds) == (86_400, 30 * 86_400)


def test_dev_listens_to_this_machine_only(app_root: Path) -> None:
    """And answers for its names alone."""
    found = settings(app_root, LASTACROSS_DEV="1")

    assert (found.host, found.is_dev) == ("127.0.0.1", True)
    assert found.allowed_hosts == ("localhost", "127.0.0.1", "[::1]")


EVERY_VARIABLE = {
    "PORT": "9000",
    "HOST": "::1",
    "REDIS_URL": "rediss://:secret@redis.example:6380/3",
    "DATABASE_URL": "postgres://me:pw@db/name?sslmode=require",
    "LASTACROSS_DATA_DIR": "data",
    "LASTACROSS_DEV": "0",
    "LASTACROSS_SERVICE": "counter",
    "LASTACROSS_SERVICES": "counter=http://10.0.0.5:8080/, other=https://other.example/base",
    "RQ_KEY_PREFIX": "rq",
    "LASTACROSS_ALLOWED_HOSTS": "Example.com, .example.org",
    "LASTACROSS_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8, [2001:DB8::1], 127.0.0.1",
    "LASTACROSS_USER_HEADER": "X-Forwarded-Email",
    "LASTACROSS_ADMINS": "Anna@shop.example",
    "LASTACROSS_VIEWERS": "ben@shop.example",
    "LASTACROSS_FETCH_PRIVATE_HOSTS": "Feed.local:8081, [::1]",
    "LASTACROSS_TOMBSTONE_SECONDS": "60",
    "LASTACROSS_LEASE_SECONDS": "2.5",
    "LASTACROSS_DEAD_LETTER_SECONDS": "3600",
    "LASTACROSS_CACHE_SECONDS": "120",
    "LASTACROSS_LONGTASK_SECONDS": "3600",
    "LASTACROSS_PROCESSES": "4",
    "LASTACROSS_THREADS": "16",
    "LASTACROSS_PRELOAD": "0",
    "WEB_CONCURRENCY": "3",
    "LASTACROSS_WEB_THREADS": "64",
    "LASTACROSS_STREAMS": "32",
    "LASTACROSS_STREAMS_PER_CLIENT": "8",
    "LASTACROSS_OPEN_LONGTASKS": "50",
    "LASTACROSS_LONGTASK_BYTES": "2000000",
    "LASTACROSS_MAX_BODY_BYTES": "1048576",
    "LASTACROSS_MAX_FORM_BYTES": "65536",
    "LASTACROSS_MAX_FORM_FIELDS": "100",
    "LASTACROSS_LOG_LEVEL": "debug",
    "LASTACROSS_TRACES": "1",
    "LASTACROSS_METRICS_TOKEN": "a token of letters and digits".replace(" ", "-"),
}


def test_every_variable_is_read(app_root: Path) -> None:
    """All at once; each is known to come from the environment."""
    found = settings(app_root, **EVERY_VARIABLE)

    assert (found.port, found.host, found.redis_url) == (9000, "::1", EVERY_VARIABLE["REDIS_URL"])
    assert found.database_url == "postgresql+psycopg://me:pw@db/name?sslmode=require"
    assert found.data_dir == app_root / "data"
    assert dict(found.services) == {
        "counter": "http://10.0.0.5:8080",
        "other": "https://other.example/base",
    }
    assert found.service == "counter"
    assert found.allowed_hosts == ("example.com", ".example.org")
    assert list(map(str, found.trusted_proxies)) == ["127.0.0.1/32", "10.0.0.0/8", "2001:db8::1/128"]
    assert found.fetch_private_hosts == ("feed.local:8081", "[::1]")
    assert (found.tombstone_seconds, found.lease_seconds, found.dead_letter_seconds) == (60, 2.5, 3600)
    assert (found.worker_processes, found.threads, found.web_processes) == (4, 16, 3)
    assert not found.preload
    assert (found.web_threads, found.max_streams, found.max_body_bytes) == (64, 32, 1_048_576)
    assert (found.max_streams_per_client, found.open_longtasks, found.longtask_bytes) == (8, 50, 2_000_000)
    assert found.log_level == "DEBUG"
    assert set(found.sources.values()) == {"environment"}


@pytest.mark.parametrize(
    ("environ", "is_warned"),
    [
        ({}, True),
        ({"LASTACROSS_ALLOWED_HOSTS": "shop.example, *"}, True),
        ({"LASTACROSS_ALLOWED_HOSTS": "shop.example"}, False),
    ],
)
def test_outside_of_dev_there_is_a_warning_where_any_host_is_answered(
    app_root: Path, environ: dict[str, str], is_warned: bool
) -> None:
    found = config.check(app_root, ENVIRON | environ, is_production=True).warnings

    assert [text.partition(":")[0] for text in found] == ["LASTACROSS_ALLOWED_HOSTS=*"] * is_warned
    assert config.warnings(settings(app_root, **environ)) == list(found)
    assert config.warnings(settings(app_root, **environ, LASTACROSS_DEV="1")) == []
    assert config.check(app_root, ENVIRON | environ).warnings == ()


def test_an_empty_variable_counts_as_unset(app_root: Path) -> None:
    """``PORT= make run`` means the default."""
    found = settings(app_root, PORT="", REDIS_URL="  ")

    assert (found.port, found.sources["PORT"]) == (8080, "default")


def test_fewer_web_threads_leave_fewer_streams(app_root: Path) -> None:
    """The default cap of streams stays below the threads there are."""
    assert settings(app_root, LASTACROSS_WEB_THREADS="10").max_streams == 8


def test_one_client_has_half_of_a_few_streams_unless_it_is_set(app_root: Path) -> None:
    assert settings(app_root, LASTACROSS_STREAMS="10").max_streams_per_client == 5
    assert settings(app_root, LASTACROSS_STREAMS="1").max_streams_per_client == 1
    few = settings(app_root, LASTACROSS_STREAMS="10", LASTACROSS_STREAMS_PER_CLIENT="9")
    assert few.max_streams_per_client == 9


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("postgres://h/d", "postgresql+psycopg://h/d"),
        ("postgresql://u:p@h:5/d", "postgresql+psycopg://u:p@h:5/d"),
        ("postgresql+psycopg:///d?host=/run", "postgresql+psycopg:///d?host=/run"),
        ("sqlite:////abs/x.db", "sqlite:////abs/x.db"),
        ("sqlite:///x.db?timeout=5", "sqlite:///{root}/x.db?timeout=5"),
    ],
)
def test_a_database_url_is_normalised(app_root: Path, text: str, url: str) -> None:
    """Providers write postgres://; a relative SQLite file is in the application's folder."""
    assert settings(app_root, DATABASE_URL=text).database_url == url.format(root=app_root)


WRONG = [
    ("PORT", "http", "PORT 'http' is not a whole number", None),
    ("PORT", "65536", "PORT '65536' is not between 0 and 65535", None),
    ("HOST", "http://x", "HOST 'http://x' is not an IP address", None),
    ("REDIS_URL", "localhost:6379", "does not begin with redis://", "redis://localhost:6379"),
    ("REDIS_URL", "http://x", "does not begin with redis://", None),
    ("REDIS_URL", "redis://h:port/0", "is not a URL", None),
    ("REDIS_URL", "redis://:6379", "does not name a host", None),
    ("REDIS_URL", "redis://h/zero", "an invalid database number", None),
    ("REDIS_URL", "unix://", "does not begin with", None),
    ("RQ_KEY_PREFIX", "a b", "must be 1 to 100 letters, digits or characters from _ . : - { }", None),
    ("RQ_KEY_PREFIX", "lastacross", "is reserved for installations without a prefix", None),
    ("RQ_KEY_PREFIX", "it's", "must be 1 to 100 letters, digits or characters from", None),
    ("RQ_KEY_PREFIX", "x" * 101, "must be 1 to 100 letters, digits or characters from", None),
    ("DATABASE_URL", "mysql://h/d", "must be the URL of a SQLite (sqlite://) or PostgreSQL", None),
    ("DATABASE_URL", "app.db", "DATABASE_URL 'app.db' is not a URL", None),
    ("DATABASE_URL", "sqlite://app.db", "write three", "sqlite:///app.db"),
    ("DATABASE_URL", "sqlite://", "is a database in one process's memory", None),
    ("DATABASE_URL", "sqlite:///:memory:", "is a database in one process's memory", None),
    ("DATABASE_URL", "postgresql+psycopg2://h/d", "uses another driver", "postgresql://…"),
    ("SECRET_KEY", "short", "SECRET_KEY ******** has 5 characters; it needs at least 16", None),
    ("LASTACROSS_DEV", "yes", "LASTACROSS_DEV 'yes' must be 0 or 1", "1"),
    ("LASTACROSS_DEV", "Off", "LASTACROSS_DEV 'Off' must be 0 or 1", "0"),
    ("LASTACROSS_DEV", "maybe", "LASTACROSS_DEV 'maybe' must be 0 or 1", None),
    ("LASTACROSS_DATA_DIR", "app.yaml", "LASTACROSS_DATA_DIR 'app.yaml' is not a folder", None),
    ("LASTACROSS_DATA_DIR", "a\0b", "is not a folder", None),
    ("LASTACROSS_USER_HEADER", "X Forwarded", "is not the name of a header", None),
    ("LASTACROSS_USER_HEADER", "X_Forwarded_Email", "is not the name of a header", None),
    ("LASTACROSS_USER_HEADER", "Cookie", "is a header with another meaning", "X-Forwarded-Email"),
    ("LASTACROSS_USER_HEADER", "X-Forwarded-For", "is a header with another meaning", "X-Forwarded-Email"),
    ("LASTACROSS_USER_HEADER", "X-AppEngine-User", "is a header with another meaning", "X-Forwarded-Email"),
    ("LASTACROSS_ADMINS", "anna, *", "contains '*': name each administrator", None),
    ("LASTACROSS_TRUSTED_PROXIES", "*", "contains '*', which is neither an address nor a network", None),
    (
        "LASTACROSS_TRUSTED_PROXIES",
        "nginx",
        "contains 'nginx', which is neither an address nor a network",
        None,
    ),
    ("LASTACROSS_TRUSTED_PROXIES", "10.0.0.5/8", "contains '10.0.0.5/8', which is neither", "10.0.0.0/8"),
    (
        "LASTACROSS_TRUSTED_PROXIES",
        "10.0.0.1, 0.0.0.0/0",
        "contains '0.0.0.0/0', which matches every address",
        None,
    ),
    ("LASTACROSS_TRUSTED_PROXIES", "::/0", "contains '::/0', which matches every address", None),
    ("LASTACROSS_TRUSTED_PROXIES", "127.0.0.1:80", "contains '127.0.0.1:80', which is neither", None),
    (
        "LASTACROSS_TRUSTED_PROXIES",
        "fe80::1%eth0/64",
        "contains 'fe80::1%eth0/64', which is neither",
        "fe80::/64",
    ),
    ("LASTACROSS_SERVICE", "My Service", "must be 1 to 100 lowercase letters", "my-service"),
    ("LASTACROSS_SERVICE", "v1.counter", "LASTACROSS_SERVICE 'v1.counter' must be 1 to 100", "v1-counter"),
    ("LASTACROSS_SERVICE", "-", "LASTACROSS_SERVICE '-' must be 1 to 100", None),
    ("LASTACROSS_SERVICES", "counter", "contains 'counter', which is not of the form name=url", None),
    ("LASTACROSS_SERVICES", "c=10.0.0.5:8080", "which is not a base URL", "c=http://10.0.0.5:8080"),
    ("LASTACROSS_SERVICES", "a_b=http://x", "contains 'a_b', which is not a valid service name", None),
    ("LASTACROSS_SERVICES", "v1.b=http://x", "contains 'v1.b', which is not a valid", "b=http://x"),
    ("LASTACROSS_SERVICES", "a=http://x,a=http://y", "contains 'a' twice", None),
    ("LASTACROSS_SERVICES", "a=ftp://x", "which is not a base URL", None),
    ("LASTACROSS_SERVICES", "a=http://:80", "which is not a base URL", None),
    ("LASTACROSS_SERVICES", "a=http://x?q=1", "which is not a base URL", None),
    ("LASTACROSS_SERVICES", "a=http://x#top", "which is not a base URL", None),
    ("LASTACROSS_SERVICES", "v1.B_C=http://x", "contains 'v1.B_C', which is not a valid", None),
    ("LASTACROSS_ALLOWED_HOSTS", "https://x.example/", "is not a host name without a port", "x.example"),
    ("LASTACROSS_ALLOWED_HOSTS", "x.example:80", "is not a host name without a port", "x.example"),
    ("LASTACROSS_FETCH_PRIVATE_HOSTS", "http://h:81/", "is neither a host nor host:port", "h:81"),
    ("LASTACROSS_FETCH_PRIVATE_HOSTS", "h:70000", "'h:70000', which is neither a host nor", None),
    ("LASTACROSS_FETCH_PRIVATE_HOSTS", "::1", "is neither a host nor host:port", "[::1]"),
    ("LASTACROSS_TOMBSTONE_SECONDS", "9d", "'9d' is not a whole number", None),
    ("LASTACROSS_LEASE_SECONDS", "0", "is not between 0.5 and 3600", None),
    ("LASTACROSS_LEASE_SECONDS", "8s", "'8s' is not a number of seconds", "8"),
    ("LASTACROSS_THREADS", "0", "is not between 1 and 1024", None),
    ("LASTACROSS_STREAMS", "1280", "would use all 1280 threads", None),
    ("WEB_CONCURRENCY", "auto", "WEB_CONCURRENCY 'auto' is not a whole number", None),
    ("LASTACROSS_LOG_LEVEL", "warn", "LASTACROSS_LOG_LEVEL 'warn' is not one of", "WARNING"),
]


@pytest.mark.parametrize(("name", "value", "words", "hint"), WRONG)
def test_a_wrong_variable_is_named_with_its_value(
    app_root: Path, name: str, value: str, words: str, hint: str | None
) -> None:
    """And with the likely one where there is one."""
    with pytest.raises(ConfigError) as refused:
        settings(app_root, **{name: value})

    message = str(refused.value)
    assert message.startswith(name)
    assert words in message
    assert message.endswith(f". Did you mean {hint!r}?") if hint else "Did you mean" not in message


# The least and the most that each variable of this kind takes.
BOUNDS = [
    ("PORT", 0, 65_535),
    ("LASTACROSS_TOMBSTONE_SECONDS", 1, 365 * 86_400),
    ("LASTACROSS_DEAD_LETTER_SECONDS", 60, 3650 * 86_400),
    ("LASTACROSS_CACHE_SECONDS", 1, 365 * 86_400),
    ("LASTACROSS_LONGTASK_SECONDS", 1, 3650 * 86_400),
    ("LASTACROSS_PROCESSES", 1, 1024),
    ("LASTACROSS_THREADS", 1, 1024),
    ("WEB_CONCURRENCY", 1, 1024),
    ("LASTACROSS_MAX_BODY_BYTES", 1024, 2**31),
    ("LASTACROSS_OPEN_LONGTASKS", 1, 1_000_000),
    ("LASTACROSS_LONGTASK_BYTES", 2**20, 2**50),
    ("LASTACROSS_STREAMS_PER_CLIENT", 1, 4095),
    ("LASTACROSS_MAX_FORM_BYTES", 1024, 2**31),
    ("LASTACROSS_MAX_FORM_FIELDS", 10, 1_000_000),
]


@pytest.mark.parametrize(("name", "least", "most"), BOUNDS)
def test_a_number_may_be_as_large_and_as_small_as_its_bounds(
    app_root: Path, name: str, least: int, most: int
) -> None:
    for number in (least, most):
        assert settings(app_root, **{name: str(number)}).sources[name] == "environment"
    for number in (least - 1, most + 1):
        with pytest.raises(ConfigError, match=rf"^{name} '{number}' is not between {least} and {most}"):
            settings(app_root, **{name: str(number)})


def test_a_misspelt_variable_gives_a_notice(app_root: Path) -> None:
    """Variables of others are left alone."""
    environ = ENVIRON | {"LASTACROSS_DATADIR": "x", "LASTACROSS_OWN_THING": "y", "PROT": "1"}

    [notice] = config.load(app_root, environ).notices

    assert (
        notice
        == "the variable LASTACROSS_DATADIR is unknown and has no effect. Did you mean 'LASTACROSS_DATA_DIR'?"
    )


def test_a_url_for_the_default_service_gives_a_notice(app_root: Path) -> None:
    """Its tasks wait for the workers here; a URL would be without effect, silently."""
    [notice] = config.load(app_root, ENVIRON | {"LASTACROSS_SERVICES": "default=http://x"}).notices

    assert notice.startswith("LASTACROSS_SERVICES: this installation's own workers run the default service")


def test_a_setting_in_env_variables_gives_a_notice(app_root: Path) -> None:
    """The engine's settings would otherwise be without effect there, silently."""
    (app_root / "app.yaml").write_text("env_variables:\n  REDIS_URL: redis://x\n")

    [notice] = config.load(app_root, ENVIRON).notices

    assert notice.startswith("app.yaml:2:3: only the application sees this REDIS_URL")


def test_who_only_looks_needs_no_secret_key(app_root: Path) -> None:
    """``config show`` and ``db upgrade``; a wrong one is a mistake all the same."""
    loaded = config.load(app_root, {}, needs_secret_key=False)

    assert loaded.settings.secret_key == ""
    assert ("SECRET_KEY", "", "not set") in config.describe(loaded)
    with pytest.raises(ConfigError, match=r"^SECRET_KEY \*+ has 5 characters"):
        config.load(app_root, {"SECRET_KEY": "short"}, needs_secret_key=False)


def test_who_only_looks_makes_no_key(app_root: Path) -> None:
    """Nor does it hide that there is one."""
    environ = {"LASTACROSS_DEV": "1"}
    before = config.load(app_root, environ, needs_secret_key=False)
    assert not (app_root / "var").exists()

    made = config.load(app_root, environ).settings.secret_key
    after = config.load(app_root, environ, needs_secret_key=False)

    assert (before.settings.secret_key, after.settings.secret_key) == ("", made)
    shown = {name: (value, source) for name, value, source in config.describe(after)}
    assert shown["SECRET_KEY"] == ("********", f"file {app_root}/var/secret_key")


def test_a_missing_secret_key_is_told_together_with_the_other_mistakes(app_root: Path) -> None:
    """One start is enough to mend everything."""
    with pytest.raises(ConfigError) as refused:
        config.load(app_root, {"PORT": "http"})

    assert [str(mistake).split()[0] for mistake in refused.value.mistakes] == ["PORT", "SECRET_KEY"]


def test_outside_of_dev_a_secret_key_is_required(app_root: Path) -> None:
    """The message has the command that makes one."""
    with pytest.raises(ConfigError, match=r"^SECRET_KEY is not set; generate one with python -c"):
        config.load(app_root, {})


def test_dev_makes_a_key_once_and_keeps_it_to_itself(app_root: Path) -> None:
    """Mode 0600, the same at the next start."""
    first = config.load(app_root, {"LASTACROSS_DEV": "1"}).settings
    again = config.load(app_root, {"LASTACROSS_DEV": "1"}).settings

    path = app_root / "var" / "secret_key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first.secret_key == again.secret_key == path.read_text().strip()
    assert len(first.secret_key) == 64
    assert first.sources["SECRET_KEY"] == f"file {path}"
    assert [one.name for one in path.parent.iterdir()] == ["secret_key"]


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    """None of them reads half of a key, or its own."""
    with ProcessPoolExecutor(4) as pool:
        keys = set(pool.map(read_or_make_secret_key, [tmp_path / "var"] * 16))

    assert len(keys) == 1


def test_the_loser_of_the_race_takes_the_winner_s_key(tmp_path: Path) -> None:
    """The key that was there first is never replaced."""
    winner = read_or_make_secret_key(tmp_path)

    _make_secret_key(tmp_path)

    assert read_or_make_secret_key(tmp_path) == winner
    assert [one.name for one in tmp_path.iterdir()] == ["secret_key"]


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"short", 0o600, "is too short; delete the file"),
        (b"", 0o600, "is too short; delete the file"),
        (b"\xff" * 40, 0o600, "cannot be read"),
        (b"x" * 40, 0o644, "other users can read .* run: chmod 600"),
    ],
)
def test_a_kept_key_that_cannot_be_trusted_is_refused(
    app_root: Path, content: bytes, mode: int, words: str
) -> None:
    """Never replaced silently: sessions and payloads are signed with it."""
    path = app_root / "var" / "secret_key"
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(mode)

    with pytest.raises(ConfigError, match=words):
        config.load(app_root, {"LASTACROSS_DEV": "1"})


def test_a_data_folder_that_cannot_be_made_is_told(app_root: Path) -> None:
    """For instance below a file."""
    environ = {"LASTACROSS_DEV": "1", "LASTACROSS_DATA_DIR": "app.yaml/var"}

    with pytest.raises(ConfigError, match=r"^SECRET_KEY: .*app\.yaml/var"):
        config.load(app_root, environ)


def test_what_is_shown_has_no_secret_in_it(app_root: Path) -> None:
    """``config show`` is pasted into tickets."""
    environ = ENVIRON | {
        "REDIS_URL": "redis://user:hunter2@h/0?password=hunter2",
        "DATABASE_URL": "postgresql://me:hunter2@db/x?sslpassword=hunter2&sslmode=require",
        "LASTACROSS_SERVICES": "a=http://u:hunter2@h",
    }

    loaded = config.load(app_root, environ)
    rows = {name: (shown, source) for name, shown, source in config.describe(loaded)}

    assert rows["SECRET_KEY"] == ("********", "environment")
    assert rows["REDIS_URL"] == ("redis://user:********@h/0?password=********", "environment")
    assert rows["DATABASE_URL"][0].startswith("postgresql+psycopg://me:********@db/x?sslpassword=********")
    assert rows["LASTACROSS_SERVICES"][0] == "a=http://u:********@h"
    assert rows["PORT"] == ("8080", "default")
    assert "hunter2" not in str(rows)
    assert KEY not in repr(loaded)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "redis://u:hunter2@h/zero"),
        ("REDIS_URL", "redis://u:hunter2/3@h/0"),
        ("REDIS_URL", "redis://h/zero?password=hunter2"),
        ("REDIS_URL", "redis://u:" + "x" * 60 + "hunter2@h/zero"),
        ("DATABASE_URL", "postgresql://u:hunter2/3@h/x"),
        ("REDIS_URL", "http://u:hunter2@h"),
        ("REDIS_URL", "u:hunter2@h"),
        ("DATABASE_URL", "mysql://u:hunter2@h/x"),
        ("DATABASE_URL", "postgresql+psycopg2://u:hunter2@h/x"),
        ("DATABASE_URL", "sqlite://u:hunter2@h/x"),
        ("LASTACROSS_SERVICES", "a=ftp://u:hunter2@h"),
        ("LASTACROSS_SERVICES", "http://u:hunter2@h"),
        ("LASTACROSS_SERVICES", "a=u:hunter2@h"),
        ("SECRET_KEY", "hunter2"),
    ],
)
def test_a_mistake_does_not_give_a_secret_away(app_root: Path, name: str, value: str) -> None:
    """Messages go to logs."""
    findings = config.check(app_root, ENVIRON | {name: value})

    assert len(findings.mistakes) == 1
    assert "hunter2" not in str(findings.mistakes[0])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://:pw@h/0", "redis://:********@h/0"),
        ("redis://u@h/0", "redis://u@h/0"),
        ("postgresql://u:1/2@h/d", "postgresql:********@h/d"),
        ("unix:///run/redis.sock?password=a&db=1", "unix:///run/redis.sock?password=********&db=1"),
        ("sqlite:////var/app.db", "sqlite:////var/app.db"),
        ("redis://[", "********"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    """The rest of it stays readable."""
    assert masked_url(url) == shown


def test_a_proxys_users_are_named_in_lower_case(app_root: Path) -> None:
    found = settings(
        app_root,
        LASTACROSS_TRUSTED_PROXIES="10.0.0.1",
        LASTACROSS_USER_HEADER="X-Forwarded-Email",
        LASTACROSS_ADMINS="Anna@shop.example, ben, anna@shop.example",
        LASTACROSS_VIEWERS="*",
    )

    assert found.user_header == "X-Forwarded-Email"
    assert (found.admins, found.viewers) == (("anna@shop.example", "ben"), ("*",))


def test_a_users_header_without_the_proxies_that_may_send_it_is_a_mistake(app_root: Path) -> None:
    with pytest.raises(ConfigError, match="LASTACROSS_USER_HEADER has no effect without"):
        settings(app_root, LASTACROSS_USER_HEADER="X-Forwarded-Email")


def test_users_without_the_header_that_names_them_are_noticed(app_root: Path) -> None:
    notices = config.load(app_root, ENVIRON | {"LASTACROSS_ADMINS": "anna"}).notices

    assert [line for line in notices if "LASTACROSS_ADMINS has no effect" in line]


# --- values in files ----------------------------------------------------------------------


def test_a_secret_may_be_in_a_file(app_root: Path, tmp_path: Path) -> None:
    """Containers give secrets to their processes like this."""
    (tmp_path / "key").write_text(f"{KEY}\n")
    (app_root / "redis").write_text("redis://:secret@redis.example:6380/1\n")
    found = config.load(
        app_root, {"SECRET_KEY_FILE": str(tmp_path / "key"), "REDIS_URL_FILE": "redis"}
    ).settings

    assert (found.secret_key, found.redis_url) == (KEY, "redis://:secret@redis.example:6380/1")
    assert found.sources["SECRET_KEY"] == f"file {tmp_path / 'key'}"
    assert found.sources["REDIS_URL"] == f"file {app_root / 'redis'}"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"SECRET_KEY": KEY, "SECRET_KEY_FILE": "key"}, "SECRET_KEY and SECRET_KEY_FILE are both set"),
        (
            {"SECRET_KEY_FILE": "./nothing"},
            "the file that SECRET_KEY_FILE names cannot be read: No such file",
        ),
        ({"SECRET_KEY_FILE": "hunter2"}, "the file that SECRET_KEY_FILE names cannot be read: No such file"),
        ({"SECRET_KEY_FILE": "./"}, "SECRET_KEY_FILE names cannot be read: Is a directory"),
        ({"SECRET_KEY_FILE": "./empty"}, "SECRET_KEY_FILE names is empty"),
        ({"SECRET_KEY_FILE": "./binary"}, "names cannot be read: it is not UTF-8 text"),
        ({"SECRET_KEY": KEY, "DATABASE_URL_FILE": "postgresql://a:hunter2@db/a"}, "DATABASE_URL_FILE names"),
        ({"SECRET_KEY_FILE": "hunter2/abc+def"}, "SECRET_KEY_FILE names cannot be read"),
        ({"SECRET_KEY_FILE": "short"}, "SECRET_KEY ******** has 7 characters"),
        ({"SECRET_KEY": KEY, "DATABASE_URL_FILE": "url"}, "DATABASE_URL 'mysql:"),
    ],
)
def test_a_file_that_does_not_help_is_named(app_root: Path, environ: dict[str, str], message: str) -> None:
    (app_root / "empty").write_text(" \n")
    (app_root / "binary").write_bytes(b"\xff" * 32)
    (app_root / "short").write_text("hunter2")
    (app_root / "url").write_text("mysql://ann:hunter2@db.example/shop")

    with pytest.raises(ConfigError) as caught:
        config.load(app_root, environ)
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_misspelt_file_variable_gives_a_notice_and_a_right_one_none(app_root: Path) -> None:
    (app_root / "token").write_text("0123456789abcdef0123456789abcdef")
    assert config.load(app_root, ENVIRON | {"LASTACROSS_METRICS_TOKEN_FILE": "token"}).notices == ()
    [notice] = config.load(app_root, ENVIRON | {"LASTACROSS_METRIC_TOKEN_FILE": "token"}).notices
    assert "LASTACROSS_METRICS_TOKEN" in str(notice)

"""Loading: the configuration of this process, and checking without starting."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross import config
from lastacross.errors import ConfigError

KEY = "a secret key of the tests, long enough"


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """No configuration in use, before and after."""
    config.use(None)
    yield
    config.use(None)


def test_the_configuration_in_use_is_the_current_one(app_root: Path) -> None:
    """What ``use`` was given, until it is forgotten."""
    loaded = config.load(app_root, {"SECRET_KEY": KEY})

    config.use(loaded)

    assert config.current() is loaded


def test_the_first_call_reads_the_folder_that_the_environment_names(
    app_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LASTACROSS_APP, once: the second call is the same value."""
    monkeypatch.setenv("LASTACROSS_APP", str(app_root))
    monkeypatch.setenv("SECRET_KEY", KEY)

    first = config.current()

    assert first.root == app_root
    assert config.current() is first


def test_without_a_name_the_current_folder_is_the_application(
    app_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty LASTACROSS_APP counts as none."""
    monkeypatch.setenv("LASTACROSS_APP", "")
    monkeypatch.setenv("SECRET_KEY", KEY)
    monkeypatch.chdir(app_root)

    assert config.current().root == app_root


def test_a_failed_first_call_is_tried_again(app_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mended file is read without a new process."""
    monkeypatch.setenv("LASTACROSS_APP", str(app_root))
    monkeypatch.delenv("SECRET_KEY", raising=False)
    monkeypatch.delenv("LASTACROSS_DEV", raising=False)
    with pytest.raises(ConfigError):
        config.current()

    monkeypatch.setenv("SECRET_KEY", KEY)

    assert config.current().settings.secret_key == KEY


def test_a_check_finds_what_load_would_say(app_root: Path) -> None:
    """Mistakes and notices over all files and the environment."""
    (app_root / "app.yaml").write_text("runtime: python27\nhandelrs:\n")
    (app_root / "queue.yaml").write_text("queue:\n- name: q\n")

    findings = config.check(app_root, {"PORT": "x", "LASTACROSS_DEV": "1"}, is_production=True)

    assert str(findings.mistakes[0]).startswith("app.yaml:2:1: ")
    assert [str(mistake).split()[0] for mistake in findings.mistakes[1:]] == ["PORT", "SECRET_KEY"]
    assert [notice.split(":")[0] for notice in findings.notices] == ["app.yaml", "queue.yaml"]


def test_a_check_of_the_files_demands_nothing_of_production(app_root: Path) -> None:
    assert config.check(app_root, {}).mistakes == ()
    [mistake] = config.check(app_root, {}, is_production=True).mistakes
    assert str(mistake).startswith("SECRET_KEY is not set")


def test_a_check_makes_no_file(app_root: Path) -> None:
    """Under dev the key is made by the first start, not by looking."""
    findings = config.check(app_root, {"LASTACROSS_DEV": "1"})

    assert findings == config.Findings((), (), ("app.yaml", "queue.yaml"))
    assert not (app_root / "var").exists()


def test_a_refused_configuration_leaves_no_key_behind(app_root: Path) -> None:
    """Nothing is made before everything is right."""
    (app_root / "queue.yaml").write_text("queue: x\n")

    with pytest.raises(ConfigError):
        config.load(app_root, {"LASTACROSS_DEV": "1"})

    assert not (app_root / "var").exists()

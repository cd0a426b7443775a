"""A configuration that a process reads once for all processes that it will fork."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lastacross import config
from lastacross.config import loading
from lastacross.errors import ConfigError
from tests.conftest import SECRET_KEY

ENVIRON = {"SECRET_KEY": SECRET_KEY}


@pytest.fixture(autouse=True)
def keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep files for this test only."""
    monkeypatch.setattr(loading, "_kept", None)
    monkeypatch.setattr(loading, "_keeps_files", False)
    config.keep_files()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose files were read, one for each pass."""
    found: list[Path] = []
    whole = loading._Reading.__init__

    def noted(self: loading._Reading, root: Path, *args: object, **options: object) -> None:
        found.append(root)
        whole(self, root, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loading._Reading, "__init__", noted)
    return found


def test_files_that_are_unchanged_are_not_read_again(app_root: Path, passes: list[Path]) -> None:
    first = config.load(app_root, ENVIRON)

    again = config.load(app_root, ENVIRON)

    assert again == first
    assert again.app is first.app
    assert len(passes) == 1


def test_the_environment_is_read_again(app_root: Path, passes: list[Path]) -> None:
    config.load(app_root, ENVIRON)

    again = config.load(app_root, {**ENVIRON, "PORT": "9000", "LASTACROSS_SERVICE": "counter"})

    assert (again.settings.port, again.settings.service) == (9000, "counter")
    with pytest.raises(ConfigError, match="PORT 'x' is not"):
        config.load(app_root, {**ENVIRON, "PORT": "x"})
    assert len(passes) == 1


def append(path: Path) -> None:
    """Change a file's content."""
    path.write_text(path.read_text() + "# changed\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda root: append(root / "app.yaml"),
        lambda root: append(root / "queue.yaml"),
        lambda root: (root / "cron.yaml").write_text("cron: []\n"),
        lambda root: (root / "queue.yaml").rename(root / "queue.yml"),
        lambda root: (root / ".gcloudignore").touch(),
    ],
    ids=["app", "queue", "new", "renamed", "ignored"],
)
def test_a_file_that_has_changed_is_read_again(
    app_root: Path, passes: list[Path], change: Callable[[Path], object]
) -> None:
    config.load(app_root, ENVIRON)

    change(app_root)
    config.load(app_root, ENVIRON)
    config.load(app_root, ENVIRON)

    assert len(passes) == 2


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_read_again(
    app_root: Path, passes: list[Path]
) -> None:
    path = app_root / "queue.yaml"
    config.load(app_root, ENVIRON)
    before = path.stat()

    new = app_root / "new"
    new.write_text(path.read_text().replace("500/s", "400/s"))
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(path)

    assert config.load(app_root, ENVIRON).queues["default"].rate == 400
    assert len(passes) == 2


def test_a_static_folder_that_has_gone_is_a_mistake_again(app_root: Path) -> None:
    (app_root / "static").mkdir()
    (app_root / "app.yaml").write_text("handlers:\n- url: /s\n  static_dir: static\n")
    config.load(app_root, ENVIRON)

    (app_root / "static").rmdir()

    with pytest.raises(ConfigError, match="static_dir 'static' does not exist"):
        config.load(app_root, ENVIRON)


def test_other_services_are_looked_up_in_the_files_again(app_root: Path, passes: list[Path]) -> None:
    """A queue's target may name one of them, or be a mistake."""
    (app_root / "queue.yaml").write_text("queue:\n- name: default\n  rate: 5/s\n  target: elsewhere\n")
    assert "elsewhere" in " ".join(config.load(app_root, ENVIRON).notices)

    known = config.load(app_root, {**ENVIRON, "LASTACROSS_SERVICES": "elsewhere=http://10.0.0.5:8080"})

    assert known.notices == ()
    assert len(passes) == 2


def test_another_folder_is_read(app_root: Path, tmp_path: Path, passes: list[Path]) -> None:
    config.load(app_root, ENVIRON)
    other = tmp_path / "other"
    other.mkdir()
    (other / "app.yaml").write_text("handlers:\n- url: /.*\n  script: other.app\n")

    assert config.load(other, ENVIRON).app.handlers[0].script == "other.app"
    assert len(passes) == 2

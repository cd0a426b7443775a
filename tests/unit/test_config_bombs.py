"""Files made to hurt: refused at once, before anything is built from them."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lastacross import config
from lastacross.config import yaml_file
from lastacross.config.document import Document
from lastacross.errors import ConfigError

ENVIRON = {"SECRET_KEY": "a secret key of the tests, long enough"}

# Of processor time, so that other work does not count; the aim is half a second.
BOUND_SECONDS = 2.0

LEVELS = "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

BOMBS = {
    "aliases": ("a: &a [x,x,x,x,x,x,x,x,x]\n" + LEVELS, r":1:4: the anchor '&a'"),
    "self reference": ("&a [*a]\n", r":1:1: the anchor '&a'"),
    "merge keys": ("a: {<<: *x}\n", r":1:9: the alias '\*x'"),
    "brackets": ("[" * 40_000, r":1:21: nested more than 20 levels deep"),
    "braces": ("{a: " * 40_000, r"nested more than 20 levels deep"),
    "dashes": ("- " * 40_000, r"nested more than 20 levels deep"),
    "questions": ("? " * 40_000, r"nested more than 20 levels deep|a key must be a word"),
    "indentation": ("".join(" " * n + f"k{n}:\n" for n in range(600)), r"nested more than 20 levels deep"),
    "ten megabytes": ("#" * 10_000_000, r"is larger than 256 kB"),
    "just too large": ("#" * (256 * 1024 + 1), r"is larger than 256 kB"),
    "a long flat list": ("queue: [" + "a," * 120_000 + "]", r"more than 20000 values"),
    "many documents": ("---\n" * 60_000, r":2:1: a second document"),
    "exclamation marks": ("queue: " + "!" * 200_000, r"invalid YAML|the tag"),
    "ampersands": ("queue: " + "&" * 200_000, r"invalid YAML|the anchor"),
    "colons": (":" * 200_000, r"invalid YAML|expected"),
    "quotes": ('"' + "\n" * 200_000, r"invalid YAML"),
    "percent signs": ("%A B\n" * 50_000, r"invalid YAML"),
    "a regular expression's digits": ("queue:\n- name: q\n  rate: " + "1" * 200_000 + "/x\n", r"3:9: rate"),
    "an exponent": ("queue:\n- name: q\n  retry_parameters: {task_age_limit: 1e99999999d}\n", r"too large"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once(app_root: Path, name: str) -> None:
    """Each with the place where it begins."""
    text, message = BOMBS[name]
    (app_root / "queue.yaml").write_text(text)
    started = time.process_time()

    with pytest.raises(ConfigError, match=message):
        config.load(app_root, ENVIRON)

    assert time.process_time() - started < BOUND_SECONDS


@pytest.mark.parametrize("depth", [17, 18])
def test_twenty_levels_are_allowed(app_root: Path, depth: int) -> None:
    """The limit itself passes the parser; the schema then says what it thinks."""
    (app_root / "queue.yaml").write_text("a: " + "[" * depth + "]" * depth)

    with pytest.raises(ConfigError, match=r"queue\.yaml has no key 'a'"):
        config.load(app_root, ENVIRON)


def test_a_file_of_just_256_kb_is_read(app_root: Path) -> None:
    """The limit itself is allowed."""
    text = "queue:\n- name: q\n  rate: 1/s\n#"
    (app_root / "queue.yaml").write_text(text + "x" * (256 * 1024 - len(text)))

    assert config.load(app_root, ENVIRON).queues["q"].rate == 1


def test_a_text_from_elsewhere_may_be_as_large_as_a_file() -> None:
    """A text counts by its bytes in UTF-8."""
    assert yaml_file.parse("#" + "ä" * (128 * 1024 - 1), "queue.yaml").root is None

    with pytest.raises(ConfigError, match=r"^queue\.yaml: the file is larger than 256 kB$"):
        yaml_file.parse("#" + "ä" * (128 * 1024), "queue.yaml")


def test_a_mistake_in_an_empty_file_is_on_its_first_line() -> None:
    document = Document("# nothing yet\n", "dispatch.yaml", None)

    document.mistake(("dispatch", 0), "url is missing")

    assert [str(mistake) for mistake in document.mistakes] == ["dispatch.yaml:1:1: url is missing"]


def test_a_thousand_queues_are_no_bomb(app_root: Path) -> None:
    """Ten times what App Engine allowed."""
    text = "queue:\n" + "".join(f"- {{name: q{n}, rate: {n}/m, bucket_size: 9}}\n" for n in range(1000))
    (app_root / "queue.yaml").write_text(text)

    assert len(config.load(app_root, ENVIRON).queues) == 1001


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: os.mkfifo(path), "not a regular file"),
        (lambda path: os.symlink("/dev/zero", path), "not a regular file"),
        (lambda path: os.symlink(path, path), "cannot be read"),
        (lambda path: os.symlink("/nowhere/at/all", path), "cannot be read"),
    ],
    ids=["pipe", "endless device", "link to itself", "link to nothing"],
)
def test_what_is_no_file_is_never_waited_for(
    app_root: Path, make: Callable[[Path], None], message: str
) -> None:
    """Opening a pipe would wait for a writer for ever."""
    (app_root / "app.yaml").unlink()
    make(app_root / "app.yaml")

    with pytest.raises(ConfigError, match=message):
        config.load(app_root, ENVIRON)


LONG = "a" * 120_000

LONG_VALUES = {
    "a host": (
        "dispatch.yaml",
        f"dispatch:\n- url: {LONG}-/x\n  service: x\n",
        r"2:8: url .* host of 120001",
    ),
    "a host without a path": (
        "dispatch.yaml",
        f"dispatch:\n- url: {LONG}-\n  service: x\n",
        r"has no path; end it with '/\*' to match any path",
    ),
    "a path": ("dispatch.yaml", f"dispatch:\n- url: '*/{LONG}*'\n  service: x\n", r"a path of 120002"),
    "dots": (
        "dispatch.yaml",
        f"dispatch:\n- url: {'a.' * 60_000}\n  service: x\n",
        r"has no path; end it with '/\*' to match any path",
    ),
    "a service": ("dispatch.yaml", f"dispatch:\n- url: '*/'\n  service: {LONG}-\n", r"3:12: service "),
    "a name": ("backends.yaml", f"backends:\n- name: {LONG}-\n", r"2:9: name "),
    "a file": ("backends.yaml", f"backends:\n- name: b\n  start: {'a/' * 60_000}.py\n", r"3:10: start "),
    "options": ("backends.yaml", f"backends:\n- name: b\n  options: {'a,' * 60_000}\n", r"3:12: options "),
    "instances": ("backends.yaml", f"backends:\n- name: b\n  instances: {'1' * 120_000}\n", r"too large"),
}


@pytest.mark.parametrize("name", LONG_VALUES)
def test_a_value_without_end_is_refused_at_once(app_root: Path, name: str) -> None:
    """No expression takes longer than the text is long, and the message stays short."""
    file, text, message = LONG_VALUES[name]
    (app_root / file).write_text(text)
    started = time.process_time()

    with pytest.raises(ConfigError, match=message) as refused:
        config.load(app_root, ENVIRON)

    assert time.process_time() - started < BOUND_SECONDS
    assert len(str(refused.value)) < 700

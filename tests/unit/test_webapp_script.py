"""How app.yaml's `script:` finds the application's code, and what becomes of its answers."""

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lastacross import webapp
from lastacross.errors import ConfigError
from lastacross.webapp.environ import Body, Environ, Start, Wsgi
from lastacross.webapp.script import contained
from tests.support.modules import own_modules


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An application's folder; what is imported from it is forgotten."""
    with own_modules(tmp_path):
        yield tmp_path


def test_a_script_is_found_in_the_application_and_imported_once(root: Path) -> None:
    """Modules and packages, and `auto`."""
    (root / "package").mkdir()
    (root / "package" / "front.py").write_text("def serve(environ, start_response): ...")
    (root / "main.py").write_text("def app(environ, start_response): ...")
    found = webapp.load_script("package.front.serve", root)
    assert found is webapp.load_script("package.front.serve", root)
    assert webapp.load_script("auto", root) is webapp.load_script("main.app", root)
    assert sys.path[0] == str(root)
    assert sys.path.count(str(root)) == 1


@pytest.mark.parametrize(
    ("dotted", "words"),
    [
        ("nowhere.app", "there is no module `nowhere`"),
        ("front.nowhere.app", "there is no module `front.nowhere`"),
        ("front.nothing", "has no `nothing`"),
        ("front.number", "is a int, not a WSGI or ASGI application"),
        ("needy.app", "imports `a_package_that_is_not_there`, which is not installed"),
        (
            "sdk.ndb",
            "`sdk` imports `google`, which is not installed: set `google_names: true` in app.yaml; "
            'see docs/appengine.md, "Imports"',
        ),
        ("wrong.app", "SyntaxError"),
        ("raising.app", "ZeroDivisionError: division by zero (raising.py, line 2)"),
        ("calling.app", "ZeroDivisionError: division by zero (raising.py, line 2)"),
        ("ending.app", "SystemExit: not today (ending.py, line 1)"),
        ("front", "must be a module and a name"),
        ("", "must be a module and a name"),
        ("json.app", "rename json.py"),
    ],
)
def test_a_script_that_cannot_be_used_is_a_clear_error(root: Path, dotted: str, words: str) -> None:
    """It names the script, and what to do."""
    (root / "front.py").write_text("number = 1")
    (root / "needy.py").write_text("import a_package_that_is_not_there")
    (root / "sdk.py").write_text("from google.appengine.ext import ndb")
    (root / "wrong.py").write_text("def app(:")
    (root / "raising.py").write_text("\n1 / 0")
    (root / "calling.py").write_text("import raising")
    (root / "ending.py").write_text("raise SystemExit('not today')")
    (root / "json.py").write_text("app = print")
    with pytest.raises(ConfigError) as caught:
        webapp.load_script(dotted, root)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"app.yaml: script: {dotted}")


def test_a_module_of_another_application_does_not_stand_in(root: Path) -> None:
    """Two folders, one process, one name."""
    for name in ("one", "two"):
        (root / name).mkdir()
        (root / name / "shared_name.py").write_text("def app(environ, start_response): ...")
    webapp.load_script("shared_name.app", root / "one")
    with pytest.raises(ConfigError, match=r"was imported from .*one"):
        webapp.load_script("shared_name.app", root / "two")


# --- its answers --------------------------------------------------------------------------------


def answered(application: Wsgi) -> Body:
    """The body of a response, as the server gets it."""
    return contained(application)({}, lambda status, headers, exc_info=None, /: lambda chunk: None)


def test_a_body_that_is_made_while_it_is_sent_is_closed_after_it() -> None:
    closed = []

    class Chunks:
        def __iter__(self) -> Iterator[bytes]:
            yield from (b"one", b"two")

        def close(self) -> None:
            closed.append(self)

    chunks = Chunks()
    body = answered(lambda environ, start_response: chunks)

    assert (list(body), closed) == ([b"one", b"two"], [])
    body.close()  # type: ignore[attr-defined]
    assert closed == [chunks]


def test_a_body_that_wants_a_signal_while_it_is_sent_is_told_why_it_gets_none() -> None:
    def serve(environ: Environ, start_response: Start) -> Body:
        yield b"one"
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    with ThreadPoolExecutor(1) as runner, pytest.raises(ValueError, match="set_shutdown_hook"):
        runner.submit(lambda: list(answered(serve))).result()

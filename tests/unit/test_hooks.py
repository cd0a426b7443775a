"""The shutdown hook and the question whether the process ends, as App Engine's ``runtime`` has them."""

import subprocess
import sys

import pytest

from lastacross import runtime
from lastacross.runtime import Shutdown


def first() -> None:
    """A hook."""


def second() -> None:
    """Another."""


def test_setting_a_hook_gives_back_the_one_before() -> None:
    shutdown = Shutdown()

    assert shutdown.set_hook(first) is None
    assert shutdown.set_hook(second) is first
    assert shutdown.set_hook(None) is second
    assert shutdown.set_hook(first) is None


@pytest.mark.parametrize("hook", ["first", 0, (), object()])
def test_what_cannot_be_called_is_no_hook_and_the_one_before_stays(hook: object) -> None:
    shutdown = Shutdown()
    shutdown.set_hook(first)

    with pytest.raises(TypeError, match=f"hook must be callable, got {type(hook).__name__}"):
        shutdown.set_hook(hook)  # type: ignore[arg-type]

    assert shutdown.take_hook() is first


def test_a_hook_is_taken_once() -> None:
    shutdown = Shutdown()
    shutdown.set_hook(first)

    assert [shutdown.take_hook(), shutdown.take_hook()] == [first, None]


def test_a_process_is_shutting_down_once_that_has_begun() -> None:
    shutdown = Shutdown()
    assert not shutdown.has_begun

    shutdown.begin()

    assert shutdown.has_begun


def test_the_public_names_speak_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "PROCESS", Shutdown())

    assert runtime.set_shutdown_hook(first) is None
    assert runtime.set_shutdown_hook(None) is first
    with pytest.raises(TypeError):
        runtime.set_shutdown_hook("first")  # type: ignore[arg-type]
    assert not runtime.is_shutting_down()
    runtime.PROCESS.begin()
    assert runtime.is_shutting_down()


def test_an_application_that_imports_it_imports_nothing_of_the_processes() -> None:
    program = "import sys; from lastacross import runtime; print(*sorted(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    names = {name for name in loaded.stdout.split() if name.startswith("lastacross")}
    assert names == {"lastacross", "lastacross.runtime"}

"""The shutdown hook and the question whether the process ends, as App Engine's ``runtime`` has them."""

import subprocess
import sys

import pytest

from lastacross import runtime
from lastacross.runtime import MEBIBYTE, Shutdown, Usage
from tests.support.clock import StoppedClock


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
    assert names == {"lastacross", "lastacross.clock", "lastacross.runtime"}


class Machine:
    """A process that uses as much as it is told."""

    def __init__(self) -> None:
        self.cpu_seconds = 2.0
        self.megabytes = 100
        self.clock = StoppedClock()
        self.usage = Usage(self.clock, lambda: self.cpu_seconds, lambda: self.megabytes * MEBIBYTE)

    def run(self, seconds: float, cpu_seconds: float, megabytes: int) -> None:
        """Let time pass, and measure at its end."""
        self.clock.advance(seconds)
        self.cpu_seconds += cpu_seconds
        self.megabytes = megabytes
        self.usage.memory()


def test_processor_time_is_counted_in_megacycles_of_app_engines_machines() -> None:
    machine = Machine()
    machine.run(540, 54, 100)
    machine.run(60, 30, 100)

    found = machine.usage.cpu()

    assert found.total == pytest.approx(86 * 1200)
    assert found.rate1m == pytest.approx(0.5 * 1200, rel=0.01)
    assert found.rate10m == pytest.approx(0.14 * 1200, rel=0.01)


def test_the_rate_of_a_young_process_is_that_of_its_life() -> None:
    machine = Machine()
    assert machine.usage.cpu().rate1m == 0
    machine.run(10, 5, 100)

    assert machine.usage.cpu().rate1m == machine.usage.cpu().rate10m == pytest.approx(600, rel=0.01)


def test_memory_is_averaged_over_the_calls_of_the_period() -> None:
    machine = Machine()
    machine.run(400, 0, 300)
    machine.run(50, 0, 500)
    machine.clock.advance(20)

    found = machine.usage.memory()

    assert found.current == 500
    assert found.average1m == 500
    assert found.average10m == pytest.approx((100 + 300 + 500 + 500) / 4)


def test_many_calls_do_not_fill_the_memory() -> None:
    machine = Machine()
    for _ in range(5000):
        machine.run(0.5, 0.1, 100)

    assert len(machine.usage._samples) <= 602


def test_this_process_uses_something() -> None:
    assert runtime.cpu_usage().total > 0
    assert runtime.memory_usage().current > 5

"""How many examples Hypothesis tries: more in `make test-long` than in `make test`. Prints the run's seed."""

import secrets
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

LONG = [pytest.mark.long, pytest.mark.timeout(1800)]

# For a test with the argument `lives`: the number of a state machine's runs, each from an empty store.
each_number_of_lives = pytest.mark.parametrize("lives", [120, pytest.param(500, marks=LONG)])
# For a test with the argument `tries`: the number of inputs that it gets.
each_number_of_tries = pytest.mark.parametrize("tries", [100, pytest.param(2000, marks=LONG)])


def live(machine: type[RuleBasedStateMachine], lives: int, steps: int) -> None:
    """Run a state machine ``lives`` times, each time for up to ``steps`` steps."""
    options = settings(max_examples=lives, stateful_step_count=steps, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=options)


def try_out(check: Callable[..., None], tries: int, **arguments: st.SearchStrategy[object]) -> None:
    """Call the check ``tries`` times, each time with different arguments."""
    settings(max_examples=tries)(given(**arguments)(check))()


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads its options
def pytest_configure(config: pytest.Config) -> None:
    """Choose the run's seed, and the same profile on every machine."""
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(secrets.randbits(32))
    # If the variable CI is set, Hypothesis would try the same examples each time.
    # Explanations need a trace function, which makes a run twice as long, and in which CPython 3.11 has hung.
    phases = [phase for phase in Phase if phase is not Phase.explain]
    settings.register_profile("lastacross", derandomize=False, print_blob=True, deadline=None, phases=phases)
    settings.load_profile("lastacross")


def pytest_report_header(config: pytest.Config) -> str:
    """Print the seed, which pytest-xdist's workers get from their controller."""
    return f"repeat this run's random inputs with --hypothesis-seed={config.option.hypothesis_seed}"

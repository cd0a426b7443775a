"""Which process runs a module: modules that share a running site stay together."""

from pathlib import Path

from tests.support.scheduling import group_of

TESTS = Path(__file__).parent.parent


def test_the_browser_tests_are_one_group() -> None:
    modules = [f"tests/browser/{path.name}" for path in (TESTS / "browser").glob("test_*.py")]

    assert len(modules) >= 8
    assert {group_of(module) for module in modules} == {"browser"}


def test_a_module_without_a_mark_is_its_own_group() -> None:
    assert group_of("tests/acceptance/test_dev.py") == "tests/acceptance/test_dev.py"

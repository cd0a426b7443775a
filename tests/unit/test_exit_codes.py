"""The exit code of a process that ends with an exception, wherever it is worked out."""

import subprocess
import sys

import pytest

from lastacross.exit_codes import exit_code_of, print_reason

CODES = [None, 0, 3, 255, 256, 300, -1, True, False, "", "a reason", (1, 2)]


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_it_is_the_interpreters(code: object) -> None:
    ran = subprocess.run([sys.executable, "-S", "-c", f"raise SystemExit({code!r})"], capture_output=True)

    assert exit_code_of(SystemExit(code)) == ran.returncode


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), GeneratorExit()])
def test_any_other_exception_is_a_failure(error: BaseException) -> None:
    assert exit_code_of(error) == 1


@pytest.mark.parametrize(
    ("code", "printed"), [(None, ""), (3, ""), ("a reason", "a reason\n"), ((1, 2), "(1, 2)\n")]
)
def test_a_reason_is_printed_as_the_interpreter_prints_it(
    code: object, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_reason(SystemExit(code))

    assert capsys.readouterr() == ("", printed)

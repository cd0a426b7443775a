"""How many files the web server may open: in a process of its own, whose limit is set."""

import subprocess
import sys

import pytest

from tests.support.processes import ROOT

PROGRAM = """
import resource, types
from lastacross.processes import web
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
web.allow_connections(types.SimpleNamespace(web_threads=100))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "expected", "is_warned"),
    [(256, 4096, 1612, False), (2000, 4096, 2000, False), (256, 1024, 1024, True)],
)
def test_the_limit_is_raised_to_what_the_connections_need_as_far_as_it_may_be(
    soft: int, hard: int, expected: int, is_warned: bool
) -> None:
    program = PROGRAM.format(soft=soft, hard=hard)
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert result.stdout.split()[-1] == str(expected)
    assert ("web.few_files" in result.stdout + result.stderr) == is_warned

"""Checks a shell block: bash parses it, and its commands are ones that this project can check by itself."""

import importlib.util
import re
import shlex
import subprocess

from lastacross import cli
from lastacross.config import settings
from tests.docs.blocks import Block
from tests.support.processes import ROOT

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
VARIABLES = {variable.name for variable in settings.VARIABLES} | {settings.APP}
# These commands are the reader's environment; bash checks their form.
PLAIN = {"cd", "pip", "pytest", "python3 -m venv", ".", "set"}
_ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)")
# An explanation stands after three spaces or more.
_EXPLAINED = re.compile(r"^(\S.*?) {3,}.*$")


class UncheckableError(Exception):
    """The block calls a program that only another machine has."""


def check(block: Block) -> None:
    """Check a block.

    Raises:
        AssertionError: a command, target or setting is unknown.
        UncheckableError: see the class.
    """
    lines = [_EXPLAINED.sub(r"\1", line) for line in block.text.replace("\\\n", " ").splitlines()]
    text = "\n".join(lines)
    parsed = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert parsed.returncode == 0, f"{block}: {parsed.stderr}"
    for line in lines:
        words = shlex.split(line, comments=True)
        if words:
            _check_words(words, f"{block}: {line}")


def _check_words(words: list[str], where: str) -> None:
    words = words[1:] if words[0] == "export" else words
    while words and (assigned := _ASSIGNMENT.fullmatch(words[0])):
        assert assigned[1] in VARIABLES, f"{where}: {assigned[1]} is not a setting"
        words = words[1:]
    if not words or words[0] in PLAIN or " ".join(words[:3]) in PLAIN:
        return
    program = words[0].rpartition("/")[2]
    if program == "lastacross":
        # With --help everything before it is parsed, and nothing runs.
        assert cli.run([*words[1:], "--help"]) == 0, where
    elif program == "make":
        wanted = [word for word in words[1:] if "=" not in word]
        assert set(wanted) <= TARGETS, where
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None, where
    elif words[:2] in (["python", "-c"], ["python3", "-c"]):
        compile(words[2], where, "exec")
    else:
        raise UncheckableError(f"{where}: {program}")

"""Queued calls keep their names: a former release runs calls of this one, and this one runs its calls."""

import ast
import pickle
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import pytest

from programs.quilt import tasks
from tests.upgrade.former import ARCHIVE

ROOT = Path(__file__).parents[2]

FORMER = ("workers.fill_quilt", "workers.send_color")
"""The functions of deferred calls that former releases queue, and know."""


def deferred_in(sources: Mapping[str, str]) -> set[str]:
    """The functions that modules defer, by module and name; ``sources`` has the modules' texts."""
    return {
        called
        for module, text in sources.items()
        for tree in [ast.parse(text)]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"deferred.defer", "deferred.task"}
        for called in [_resolved(ast.unparse(node.args[0]), module, tree)]
    }


def _resolved(name: str, module: str, tree: ast.Module) -> str:
    first, dot, rest = name.partition(".")
    for node in tree.body:
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            if (alias.asname or alias.name) == first:
                package = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                return f"{package}{alias.name}{dot}{rest}"
    return f"{module}.{name}"


def modules(paths: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Texts by module, of these paths and texts."""
    return {".".join(PurePosixPath(path).with_suffix("").parts): text for path, text in paths}


def test_the_list_of_former_names_is_complete() -> None:
    with tarfile.open(ARCHIVE) as archive:
        texts = [
            (member.name, file.read().decode())
            for member in archive
            if member.name.endswith(".py") and not member.name.startswith(("lastacross/", "tests/", "bench/"))
            if (file := archive.extractfile(member)) is not None
        ]

    assert len(texts) > 20
    assert deferred_in(modules(texts)) == set(FORMER)


@pytest.mark.parametrize("name", FORMER)
def test_a_former_call_finds_its_function(name: str) -> None:
    module, _, function = name.rpartition(".")
    # As a former release pickles it: protocol 0 has the plain names.
    call = f"c{module}\n{function}\n.".encode()

    assert pickle.loads(call) is getattr(tasks, function)


def test_each_call_that_the_programs_defer_has_a_former_name() -> None:
    paths = [*ROOT.glob("*.py"), *ROOT.glob("programs/**/*.py")]
    named = deferred_in(modules((str(path.relative_to(ROOT)), path.read_text()) for path in paths))
    # Only `lastacross dev` kills workers, and no former release runs beside it.
    named.discard("programs.quilt.tasks.kill_worker")
    assert named == {"programs.quilt.tasks.fill_quilt", "programs.quilt.tasks.send_color"}

    for name in named:
        function = getattr(tasks, name.rpartition(".")[2])
        pickled = pickle.dumps(function, 0)
        assert pickled.splitlines()[:2] == [b"cworkers", function.__name__.encode()]

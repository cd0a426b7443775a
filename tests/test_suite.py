"""The tests themselves: each of them can fail.

A test asserts by ``assert``, by the means of pytest, Playwright or Hypothesis, by the status that it expects
of an answer, or through a function of the suite that does.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ASSERTING = {"raises", "warns", "fail", "expect", "run_state_machine_as_test"}
# WebTest fails when an answer has another status.
REQUESTS = {"get", "post", "post_json", "put", "delete", "head", "options", "request", "follow", "patch"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """A module of the suite: its functions and methods by name, and where its other names come from."""

    tree: ast.Module
    functions: dict[str, list[Function]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)


def module_of(text: str) -> Module:
    """What a text defines and imports."""
    found = Module(ast.parse(text))
    for node in ast.walk(found.tree):
        if isinstance(node, Function):
            found.functions.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found.origins[alias.asname or alias.name] = str(node.module)
                found.origins[f"{node.module}.{alias.name}"] = f"{node.module}.{alias.name}"
    return found


def asserts(function: Function, module: Module, suite: Mapping[str, Module]) -> bool:
    """Whether a function of this module can fail, by itself or through others of the suite."""
    return _asserts(function, module, suite, set())


def _asserts(function: Function, module: Module, suite: Mapping[str, Module], seen: set[Function]) -> bool:
    seen.add(function)
    for node in ast.walk(function):
        if isinstance(node, ast.Assert) or (
            isinstance(node, ast.Raise) and "AssertionError" in ast.dump(node)
        ):
            return True
        if isinstance(node, ast.Call) and _is_asserting(node):
            return True
        # A function that is called, or handed to one that calls it.
        name = getattr(node, "id", None) or getattr(node, "attr", None)
        if isinstance(name, str) and any(
            _asserts(called, home, suite, seen)
            for called, home in _called(name, module, suite)
            if called not in seen
        ):
            return True
    return False


def _is_asserting(call: ast.Call) -> bool:
    name = ast.unparse(call.func).rpartition(".")[2]
    is_request = name in REQUESTS and "status" in {keyword.arg for keyword in call.keywords}
    return name in ASSERTING or name.startswith("assert_") or is_request


def _called(name: str, module: Module, suite: Mapping[str, Module]) -> Iterator[tuple[Function, Module]]:
    """The functions that a name may call: of this module, or of one from which it imports something."""
    for home in [module, *(suite[origin] for origin in set(module.origins.values()) if origin in suite)]:
        yield from ((found, home) for found in home.functions.get(name, []))


def without_assertion(suite: Mapping[str, Module]) -> list[str]:
    """The tests that fail only if something raises."""
    return [
        f"{name}: {function.name}"
        for name, module in suite.items()
        for functions in module.functions.values()
        for function in functions
        if function.name.startswith("test_") and not _is_fixture(function)
        if not asserts(function, module, suite)
    ]


def _is_fixture(function: Function) -> bool:
    return any("fixture" in ast.unparse(decorator) for decorator in function.decorator_list)


SUITE = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): module_of(path.read_text())
    for path in sorted(ROOT.glob("tests/**/*.py"))
}


def test_every_test_asserts_something() -> None:
    assert without_assertion(SUITE) == []


HELPERS = """
def checked(value):
    return inner(value)

def inner(value):
    assert value

def plain(value):
    return value

class Lab:
    def wait(self):
        raise AssertionError("too late")
"""


@pytest.mark.parametrize(
    "body",
    [
        "assert value",
        "pytest.raises(ValueError, int, value)",
        "expect(page).to_have_title('a')",
        "client.get('/', status=404)",
        "checked(value)",
        "lab.wait()",
        "own(value)",
        "try_out(checked, value)",
    ],
)
def test_a_test_that_asserts_is_known_by_each_of_its_means(body: str) -> None:
    text = f"from tests.made_up import Lab, checked\ndef own(value): checked(value)\ndef test_it(): {body}"

    assert without_assertion({"tests.made_up": module_of(HELPERS), "tests.test_it": module_of(text)}) == []


@pytest.mark.parametrize("body", ["pass", "plain(value)", "client.get('/')", "lab.wait()", "round(value)"])
def test_a_test_that_asserts_nothing_is_found(body: str) -> None:
    text = f"from elsewhere import Lab\nfrom tests.other import plain\ndef test_it():\n    {body}"
    suite = {"tests.made_up": module_of(HELPERS), "tests.test_it": module_of(text)}
    suite["tests.other"] = module_of("def plain(value): return value")

    assert without_assertion(suite) == ["tests.test_it: test_it"]


STATUSES = {"status", "status_int", "status_code"}
# Its rules say what no answer to any of an attack's requests may be.
JUDGES_MANY = {"tests.security.attacks"}
LOOSE = """
assert answer.status_int >= 400
assert 400 <= answer.status_code < 500
assert answer.status // 100 == 4
client.get("/", status="4*")
client.get("/", status="*")
assert answer.status_int in range(400, 500)
assert answer.status_int != 200
assert answer.status.startswith("4")
assert str(answer.status_code)[0] == "4"
assert answer.status_code in (401, 403, 405)
assert get("/x")[0] >= 400
assert response.code // 100 == 4
assert status not in [200, 302]
assert 400 <= status < 500
assert get("/x")[0] != 200
assert status_of(answer) in range(400, 500)
"""
EXACT = """
assert answer.status_int == 404
assert caught.value.code == 403
assert get("/x")[0] == 200
assert [answer.status_int for answer in answers] == [200, 503]
assert answer.status_int in EITHER_SIDE_OF_THE_RACE
assert length in (1, 2)
assert sizes(page)[0] > 640
client.get("/", status=404)
"""


def loose_statuses(tree: ast.AST) -> list[int]:
    """The lines that accept several statuses of an answer, such as 4xx.

    Where chance decides, as in a race, a constant with a telling name may hold both statuses.
    """
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.expr) and _is_loose(node)]


def _is_loose(node: ast.expr) -> bool:
    match node:
        case ast.Compare(left=left, ops=operators, comparators=others) if _has_status(node):
            is_part = re.search(r"// 100|^str\(.*\]$", ast.unparse(left)) is not None
            pairs = zip(operators, others, strict=True)
            return is_part or any(_accepts_several(*pair) for pair in pairs)
        case ast.Call(func=ast.Name("range"), args=[ast.Constant(value=int(first)), _]):
            return 99 <= first < 600 and first % 100 in (0, 99)
        case ast.Call(
            func=ast.Attribute(attr="startswith", value=owner), args=[ast.Constant(value=str(start))]
        ):
            return len(start) < 3 and _has_status(owner)
        case ast.Call(keywords=keywords):
            return any(each.arg == "status" and "*" in ast.unparse(each.value) for each in keywords)
    return False


def _has_status(node: ast.expr) -> bool:
    for each in ast.walk(node):
        match each:
            case ast.Attribute(attr=name) if name in STATUSES or name == "code":
                return True
            case ast.Name(id=name) if name in STATUSES:
                return True
            # A helper that returns the status and the body.
            case ast.Subscript(value=ast.Call(func=called), slice=ast.Constant(value=0)) if (
                ast.unparse(called).rpartition(".")[2] in REQUESTS
            ):
                return True
    return False


def _accepts_several(operator: ast.cmpop, other: ast.expr) -> bool:
    match operator, other:
        case (ast.In() | ast.NotIn(), ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items)):
            return len(items) > 1 and all(ast.unparse(item).strip("'").isdigit() for item in items)
        case (ast.NotEq(), ast.Constant(value=int(number))):
            return 100 <= number < 600
        case (ast.Lt() | ast.LtE() | ast.Gt() | ast.GtE(), _):
            return True
    return False


def test_every_test_names_the_status_that_it_expects() -> None:
    found = {name: loose_statuses(module.tree) for name, module in SUITE.items() if name not in JUDGES_MANY}

    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("line", LOOSE.split("\n")[1:-1])
def test_a_loose_status_is_found(line: str) -> None:
    assert loose_statuses(ast.parse(line)) == [1]


def test_an_exact_status_is_accepted() -> None:
    assert loose_statuses(ast.parse(EXACT)) == []

"""Our regular expressions: each with where it stands and how it is used, and texts that are hard for it."""

import ast
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

ROOT = Path(__file__).parent.parent.parent
METHODS = ("fullmatch", "match", "search", "sub", "subn", "findall", "finditer", "split")
# A repeat of fewer is not worth an attack.
FEW = 20
ENDS = ("", "\0", "!", "a", " ")

_USE = re.compile(rf"\bre\.(compile|{'|'.join(METHODS)})\(")

Item = tuple[Any, Any]


@dataclass(frozen=True)
class Expression:
    """One regular expression of a module, and by which methods of a pattern it is used."""

    where: str
    pattern: re.Pattern[Any]
    methods: tuple[str, ...]


def modules() -> dict[str, Path]:
    """The modules of the engine and of the programs that have any, by their names."""
    paths = [*ROOT.glob("*.py"), *ROOT.glob("programs/**/*.py"), *ROOT.glob("lastacross/**/*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name: path for name, path in sorted(names.items()) if _USE.search(path.read_text())}


def of_module(name: str, path: Path) -> list[Expression]:
    """All of a module, which is imported for it."""
    return [*_compiled(path, name), *_inline(path, name)]


def _compiled(path: Path, name: str) -> Iterator[Expression]:
    source = path.read_text()
    if "re.compile(" not in source:
        return
    # Where it is used under another name, as in a table, it may be used in any of the ways of its module.
    others = _methods(r"\w+", source) - {"split"}
    for variable, value in vars(importlib.import_module(name.removesuffix(".__init__"))).items():
        used = _methods(variable, source) or others
        for pattern in _patterns(value):
            yield Expression(f"{name}.{variable}", pattern, tuple(sorted(used)))


def _methods(variable: str, source: str) -> set[str]:
    return {found for found in re.findall(rf"\b{variable}\.(\w+)\(", source) if found in METHODS}


def _patterns(value: Any, depth: int = 3) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif depth and isinstance(value, list | tuple):
        for each in value:
            yield from _patterns(each, depth - 1)


def _inline(path: Path, name: str) -> Iterator[Expression]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
            continue
        module, _, method = ast.unparse(node.func).rpartition(".")
        if module == "re" and method in METHODS:
            flags = [keyword.value for keyword in node.keywords if keyword.arg == "flags"] + [
                each for each in node.args if ast.unparse(each).startswith("re.")
            ]
            value = eval(ast.unparse(flags[0]), {"re": re}) if flags else 0
            yield Expression(f"{name}:{node.lineno}", re.compile(node.args[0].value, value), (method,))


def hostile(pattern: re.Pattern[Any], length: int) -> Iterator[Any]:
    """Texts of about this length that may take long: each repeats what a part of the expression repeats."""
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    tree = _parser.parse(text, pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else 0)
    seen = set()
    for before, pump in _pumps(tree, ""):
        for beginning in {before, ""}:
            for end in ENDS:
                if pump and (beginning, pump, end) not in seen:
                    seen.add((beginning, pump, end))
                    whole = beginning + pump * (length // len(pump)) + end
                    yield whole if isinstance(pattern.pattern, str) else whole.encode("latin-1", "replace")


def _pumps(items: Sequence[Item], before: str) -> Iterator[tuple[str, str]]:
    """Of each repeat: the text before it, and the text that it repeats."""
    for operator, argument in items:
        if operator in _REPEATS:
            _, most, inside = argument
            if most - argument[0] >= FEW:
                yield from ((before, pump) for pump in _samples(inside))
            yield from _pumps(inside, before)
        elif operator is _constants.BRANCH:
            for branch in argument[1]:
                yield from _pumps(branch, before)
        elif operator is _constants.SUBPATTERN:
            yield from _pumps(argument[3], before)
        elif operator is _constants.ATOMIC_GROUP:
            yield from _pumps(argument, before)
        before += next(iter(_samples([(operator, argument)])), "")


_REPEATS = {_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT}
# One of each kind of character.
_CHARACTERS = "a0 -_.:/,;=\"'\\<>%@?Zé\n\t"
_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    _constants.CATEGORY_DIGIT: str.isdigit,
    _constants.CATEGORY_SPACE: str.isspace,
    _constants.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
    _constants.CATEGORY_NOT_DIGIT: lambda c: not c.isdigit(),
    _constants.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
    _constants.CATEGORY_NOT_WORD: lambda c: not (c.isalnum() or c == "_"),
}
MOST_SAMPLES = 4


def _samples(items: Sequence[Item]) -> list[str]:
    """A few texts that a sequence matches."""
    found = [""]
    for item in items:
        found = [text + more for text in found for more in _of_item(*item)][:MOST_SAMPLES]
    return found


def _of_item(operator: Any, argument: Any) -> list[str]:
    if operator is _constants.LITERAL:
        return [chr(argument)]
    if operator is _constants.NOT_LITERAL:
        return [next(c for c in _CHARACTERS if ord(c) != argument)]
    if operator is _constants.ANY:
        return ["a", '"']
    if operator is _constants.IN:
        return [c for c in _of_class(argument)][:MOST_SAMPLES]
    if operator is _constants.BRANCH:
        return [text for branch in argument[1] for text in _samples(branch)][:MOST_SAMPLES]
    if operator is _constants.SUBPATTERN:
        return _samples(argument[3])
    if operator is _constants.ATOMIC_GROUP:
        return _samples(argument)
    if operator in _REPEATS:
        return [text * max(argument[0], 1) for text in _samples(argument[2])]
    return [""]


def _of_class(members: Sequence[Item]) -> list[str]:
    is_negated = members[0][0] is _constants.NEGATE
    return [c for c in _CHARACTERS if is_negated != any(_has(member, c) for member in members)] or [
        chr(argument if isinstance(argument, int) else argument[0])
        for operator, argument in members
        if operator in (_constants.LITERAL, _constants.RANGE)
    ]


def _has(member: Item, character: str) -> bool:
    operator, argument = member
    if operator is _constants.LITERAL:
        return bool(ord(character) == argument)
    if operator is _constants.RANGE:
        return bool(argument[0] <= ord(character) <= argument[1])
    if operator is not _constants.CATEGORY:
        return False
    is_of = _CATEGORIES[argument]
    return is_of(character)


def run(expression: Expression, text: Any) -> None:
    """Use it on a text as the product does."""
    for method in expression.methods:
        if method in ("sub", "subn"):
            getattr(expression.pattern, method)(text[:0], text)
        elif method == "finditer":
            for _ in expression.pattern.finditer(text):
                pass
        else:
            getattr(expression.pattern, method)(text)

"""The mutants of a module: one small fault each, made by Cosmic Ray and one operator of our own."""

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.ast.ast_query import ASTQuery
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator

# Of the many replacements of one operator, the one that a person would write by mistake.
# Left out: decorators (a class without `dataclass` fails at once) and `|`, which most often stands in a type.
COSMIC_RAY = (
    *(
        f"ReplaceBinaryOperator_{pair}"
        for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul")
    ),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt")),
    *("AddNot", "ReplaceUnaryOperator_Delete_Not", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "NumberReplacer", "ExceptionReplacer"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop"),
)
DROP_CALL = "DropCall"

# Path of a module → its path when the sample was drawn. The sample is drawn by path, so without its former
# path a moved module would get other mutants, and other survivors without an explanation.
FORMER_PATHS: dict[str, str] = {
    "lastacross/broker/headers.py": "lastacross/taskqueue/headers.py",
    "lastacross/broker/listing.py": "lastacross/taskqueue/listing.py",
    "lastacross/broker/pull.py": "lastacross/taskqueue/pull.py",
    "lastacross/broker/queue_directory.py": "lastacross/taskqueue/known.py",
    "lastacross/broker/record.py": "lastacross/taskqueue/record.py",
    "lastacross/broker/retry.py": "lastacross/taskqueue/retry.py",
    "lastacross/broker/steps.py": "lastacross/taskqueue/broker.py",
    "lastacross/config/diagnostics.py": "lastacross/config/mistakes.py",
    "lastacross/processes/connection_shares.py": "lastacross/runtime/connection_shares.py",
    "lastacross/webapp/error_pages.py": "lastacross/webapp/answers.py",
    "lastacross/webapp/webapp2_compat.py": "lastacross/webapp/adopt.py",
    "lastacross/worker/deadline.py": "lastacross/runtime/deadline.py",
    "lastacross/worker/delivery.py": "lastacross/runtime/delivery.py",
    "lastacross/worker/leasing.py": "lastacross/runtime/leasing.py",
    "lastacross/worker/maintenance.py": "lastacross/runtime/upkeep.py",
    "lastacross/worker/outcomes.py": "lastacross/runtime/settle.py",
    "lastacross/worker/remote.py": "lastacross/runtime/remote.py",
    "lastacross/worker/runners.py": "lastacross/runtime/runners.py",
    "programs/count/models.py": "models.py",
    "programs/count/pages.py": "count.py",
    "programs/count/runs.py": "runs.py",
    "programs/count/tasks.py": "counting.py",
    "programs/count/view.py": "count_view.py",
    "programs/errors/browsers.py": "browsers.py",
    "programs/errors/chart.py": "error_chart.py",
    "programs/errors/fields.py": "error_fields.py",
    "programs/errors/grouping.py": "grouping.py",
    "programs/errors/intake.py": "errorlog.py",
    "programs/errors/limits.py": "error_limits.py",
    "programs/errors/models.py": "error_models.py",
    "programs/errors/notifying.py": "notifying.py",
    "programs/errors/pages.py": "error_pages.py",
    "programs/errors/queries.py": "error_queries.py",
    "programs/errors/statements.py": "error_statements.py",
    "programs/errors/steps.py": "error_steps.py",
    "programs/intrastat/commodities.py": "commodities.py",
    "programs/intrastat/demo.py": "demo.py",
    "programs/intrastat/invoices.py": "invoices.py",
    "programs/intrastat/models.py": "models.py",
    "programs/intrastat/pages.py": "intrastat.py",
    "programs/intrastat/report.py": "dispatches.py",
    "programs/quilt/models.py": "models.py",
    "programs/quilt/pages.py": "quilt.py",
    "programs/quilt/tasks.py": "workers.py",
    "programs/quilt/together.py": "together.py",
    "programs/reload/accounts.py": "accounts.py",
    "programs/reload/feed.py": "feed.py",
    "programs/reload/models.py": "reload_models.py",
    "programs/reload/pages.py": "reloads.py",
    "programs/reload/runs.py": "reloading.py",
    "programs/reload/tasks.py": "reloads.py",
    "programs/reload/view.py": "reload_view.py",
    "programs/shared/forms.py": "forms.py",
    "programs/shared/operations.py": "operations.py",
    "programs/shared/pruning.py": "pruning.py",
    "programs/shared/starting.py": "starting.py",
}


class DropCall(Operator):  # type: ignore[misc]
    """Leaves out a call whose result nobody uses: nobody is woken, nothing is stored."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Where such a call stands."""
        if node.type == "simple_stmt" and _is_call(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The statement without its call."""
        call = node.children[0]
        prefix = call.get_first_leaf().prefix
        node.children[0] = parso.python.tree.Keyword("pass", call.start_pos, prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """Cosmic Ray wants examples of each operator."""
        return (Example("wake()", "pass"),)


def _is_call(node: Any) -> bool:
    if node.type not in ("atom_expr", "power") or node.children[0] == "await":
        return False
    return bool(node.children[-1].type == "trailer" and node.children[-1].children[0] == "(")


@cache
def operators() -> dict[str, Any]:
    """The operators, by name."""
    return {**{name: get_operator(f"core/{name}")() for name in COSMIC_RAY}, DROP_CALL: DropCall()}


@dataclass(frozen=True)
class Mutant:
    """One fault: the ``occurrence``-th place of this operator in the module.

    ``line`` is the first line that it touches and ``nth`` tells equal places of a function apart, so that
    a mutant keeps its place in the sample while other functions change.
    """

    module: str
    function: str
    operator: str
    line: str
    nth: int
    occurrence: int

    def rank(self, seed: int) -> bytes:
        """The sample takes the lowest."""
        module = FORMER_PATHS.get(self.module, self.module)
        text = f"{seed} {module} {self.function} {self.operator} {self.line} {self.nth}"
        return hashlib.sha256(text.encode()).digest()

    def change(self, source: str) -> tuple[str, str] | None:
        """The lines before and after; None where the fault is not Python (``except a.b`` → ``except aX``)."""
        code = mutate_code(source, operators()[self.operator], self.occurrence)
        try:
            compile(code, self.module, "exec")
        except SyntaxError:
            return None
        lines = list(difflib.ndiff(source.splitlines(), code.splitlines()))
        before, after = ([line[2:].strip() for line in lines if line[0] == sign] for sign in "-+")
        return "\n".join(before), "\n".join(after)


class Key(NamedTuple):
    """Identifies a mutant by its changed lines, so that it may move within its module."""

    module: str
    function: str
    before: str
    after: str


def mutants_of(root: Path, module: str) -> list[Mutant]:
    """All mutants of a module."""
    source = (root / module).read_text()
    lines = source.splitlines()
    nodes = list(ast_nodes(get_ast(source)))
    seen: Counter[tuple[str, str, str]] = Counter()
    found: list[Mutant] = []
    for name, operator in operators().items():
        places = [(node, start) for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, (node, (row, _)) in enumerate(places):
            function, line = _function(node), lines[row - 1].strip()
            if _is_beyond_tests(node, line):
                continue
            nth = seen[function, name, line]
            seen[function, name, line] += 1
            found.append(Mutant(module, function, name, line, nth, occurrence))
    return found


def _is_beyond_tests(node: Any, line: str) -> bool:
    """Types and assertions are not tested: `dataclass`'s arguments, imports for mypy, `*`, zip's `strict`."""
    if (
        node.type == "keyword"
        and node.parent.type == "argument"
        and node.parent.children[0].value == "strict"
    ):
        return True
    return line.startswith("@") or "TYPE_CHECKING" in line or node.parent.type == "parameters"


def _function(node: Any) -> str:
    return str(ASTQuery(node).get_definition_name() or "")


def sample(root: Path, found: Iterable[Mutant], most: int, seed: int) -> dict[Key, Mutant]:
    """A seed always chooses the same mutants; a small change of the code changes few of them.

    At most one of each operator in a line: a number can be one more or one less, and often stands in a list.
    """
    chosen: dict[Key, Mutant] = {}
    places: set[tuple[str, ...]] = set()
    for mutant in sorted(found, key=lambda mutant: mutant.rank(seed)):
        if len(chosen) == most:
            break
        place = (mutant.module, mutant.function, mutant.line, mutant.operator)
        change = None if place in places else mutant.change((root / mutant.module).read_text())
        if change is not None:
            places.add(place)
            chosen[Key(mutant.module, mutant.function, *change)] = mutant
    return chosen

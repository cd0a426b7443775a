"""The table of states and steps is what docs/lifecycle.md and the heads of the Lua files say."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from lastacross.broker import Listing
from lastacross.broker.states import ALL, GONE, NEW, STATES, TRANSITIONS, Transition

ROOT = Path(__file__).parent.parent.parent
LIFECYCLE = (ROOT / "docs" / "lifecycle.md").read_text()
LUA = ROOT / "lastacross" / "broker" / "lua"
SCRIPTS = {path.stem: path.read_text() for path in LUA.glob("*.lua")}
SHARED = {path.stem: path.read_text() for path in (LUA / "shared").glob("*.lua")}

# A record's status written, or the record deleted, by a script's own words.
_WRITES = re.compile(r"'HSET', [^\n]*'status'|call\('DEL', (RECORD|unpack\(records)|call\('DEL', unpack")
_FUNCTION = re.compile(r"^local function (\w+)\(.*?^end$", re.MULTILINE | re.DOTALL)


def stated(text: str) -> set[str]:
    """The transitions in the head of a Lua file."""
    return set(re.findall(r"^-- States +(.+)$", text.partition("\n\n")[0], re.MULTILINE))


def moving_functions(shared: Mapping[str, str]) -> set[str]:
    """The functions that change a task's state, themselves or by a function that they call."""
    bodies = {
        found[1]: found[0].partition("\n")[2]
        for text in shared.values()
        for found in _FUNCTION.finditer(text)
    }
    moving: set[str] = set()
    while True:
        found = {name for name, body in bodies.items() if _WRITES.search(body) or calls(body, moving)}
        if found == moving:
            return found
        moving = found


def calls(text: str, functions: set[str]) -> bool:
    """Whether a text calls one of these functions."""
    return not functions.isdisjoint(re.findall(r"\b(\w+)\(", text))


def disagreements(
    transitions: tuple[Transition, ...], scripts: Mapping[str, str], shared: Mapping[str, str]
) -> list[str]:
    """The differences between the table and the Lua files."""
    moving, texts = moving_functions(shared), {**shared, **scripts}
    expected: dict[str, set[str]] = {}
    for each in transitions:
        expected.setdefault(each.script, set()).add(each.line)
    found = [f"{script}: no such file" for script in expected if script not in texts]
    for script, text in texts.items():
        lines = expected.get(script, set())
        if stated(text) != lines:
            found.append(f"{script}: its head has {sorted(stated(text))}, the table {sorted(lines)}")
        elif script in scripts and not lines and (_WRITES.search(text) or calls(text, moving)):
            found.append(f"{script}: it changes a task's state, and is not in the table")
    return found


def rows_of(heading: str) -> list[list[str]]:
    """The rows of the first table of docs/lifecycle.md whose head begins so."""
    table = LIFECYCLE[LIFECYCLE.index(heading) :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_table_is_what_the_lua_files_say() -> None:
    assert disagreements(TRANSITIONS, SCRIPTS, SHARED) == []


def test_the_scripts_that_change_a_state_are_found() -> None:
    moving = moving_functions(SHARED)

    assert {
        "make_dead_letter",
        "lose",
        "fire",
        "complete_upwards",
        "promote_of",
        "restore_pull_task",
    } <= moving
    assert moving.isdisjoint({"split_member", "tag_set", "wake_group"})


@pytest.mark.parametrize(
    ("script", "text", "complaint"),
    [
        ("release_tasks", "-- release_tasks: …\ncall('HSET', key, 'status', 'queued')", "its head has"),
        ("release_tasks", "-- States   release: leased → dead\n", "its head has"),
        ("hide_tasks", "call('HSET', key, 'status', 'deferred')", "is not in the table"),
        ("hide_tasks", "call('DEL', RECORD .. id)", "is not in the table"),
        ("hide_tasks", "finish_member(member, 'done', now)", "is not in the table"),
        ("hide_tasks", "-- States   hide: ready → gone\n", "its head has"),
    ],
)
def test_a_script_that_differs_from_the_table_is_seen(script: str, text: str, complaint: str) -> None:
    [found] = disagreements(TRANSITIONS, {**SCRIPTS, script: text}, SHARED)

    assert found.startswith(f"{script}: ")
    assert complaint in found


def test_a_transition_without_its_script_is_seen() -> None:
    hidden = Transition("hide", "hide_tasks", "ready", GONE, "")

    assert disagreements((*TRANSITIONS, hidden), SCRIPTS, SHARED) == ["hide_tasks: no such file"]


def test_the_transitions_name_states() -> None:
    for each in TRANSITIONS:
        assert set(each.before.split(", ")) <= {*STATES, NEW}, each
        assert set(each.after.split(", ")) <= {*STATES, GONE}, each


def test_every_state_is_entered_and_left() -> None:
    entered = {state for each in TRANSITIONS for state in each.after.split(", ")}
    left = {state for each in TRANSITIONS for state in each.before.split(", ")}

    assert set(STATES) <= entered & left


def test_the_page_shows_the_same_states() -> None:
    rows = rows_of("| state | where it is in Redis")

    assert [(name.partition(" ")[0], status) for name, _, status in rows] == [
        (state.name, state.status) for state in sorted(ALL, key=lambda state: _ORDER.index(state.name))
    ]
    for (_, where, _), name in zip(rows, _ORDER, strict=True):
        [state] = [state for state in ALL if state.name == name]
        assert where.startswith(f"`{state.key('<queue>')}`")


_ORDER = ("scheduled", "ready", "leased", "dead", "waiting")


def test_the_page_shows_the_same_steps() -> None:
    rows = rows_of("| step | Lua file")

    assert rows == [
        [each.step, f"`{each.script}`", each.before, each.after, each.written] for each in TRANSITIONS
    ]


def test_the_drawing_shows_steps_of_the_table() -> None:
    drawing = LIFECYCLE.partition("```\n")[2].partition("```")[0]
    steps = {each.step for each in TRANSITIONS}

    drawn = set(re.findall(r"[─├└┴▶ ]([a-z-]*[a-z])─", drawing)) | {"add"}
    assert {"add", "promote", "lease", "ack", "retry", "release", "rescue"} <= drawn
    assert drawn <= steps


def test_the_scripts_know_every_status() -> None:
    [known] = re.findall(r"local STATUSES = '(.+)'", SHARED["fan_in"])

    unknown = {state.status for state in ALL} - set(known.split())
    assert unknown == set()


def test_the_listing_uses_these_states() -> None:
    assert inspect.signature(Listing.tasks).parameters["states"].default is STATES

"""The faults that `make mutants` makes, and which tests it runs against them."""

from pathlib import Path

import pytest

from tests.mutation.bench import Answer
from tests.mutation.mutants import DROP_CALL, FORMER_PATHS, Key, mutants_of, sample
from tests.mutation.run import MIN_MUTANTS, MIN_RATE, Result, complaints, print_table, repeated_alone
from tests.mutation.table import PARTS

ROOT = Path(__file__).parents[2]
SOURCE = """
def woken(queue, *, least=0):
    if queue.size > 0:
        queue.wake()
    return list(zip(queue, queue.names, strict=True))
"""
OTHER = """
def other(size):
    return size + 1
"""


def keys(folder: Path, source: str, most: int = 1000) -> set[Key]:
    (folder / "module.py").write_text(source)
    return set(sample(folder, mutants_of(folder, "module.py"), most, seed=1))


def test_the_table_names_modules_and_tests_that_are_there() -> None:
    assert [name for part in PARTS for name in part.missing(ROOT)] == []


def test_each_place_of_a_module_has_its_faults(tmp_path: Path) -> None:
    found = {(key.before, key.after.replace("( ", "(")) for key in keys(tmp_path, SOURCE)}

    assert {
        ("if queue.size > 0:", "if queue.size >= 0:"),
        ("if queue.size > 0:", "if not queue.size > 0:"),
        ("queue.wake()", "pass"),
    } <= found
    # A call whose result is used stays, and so do the star of a signature and an assertion.
    assert {before for before, _ in found} == {
        "if queue.size > 0:",
        "queue.wake()",
        "def woken(queue, *, least=0):",
    }
    assert not any("/" in after for _, after in found)


def test_a_fault_is_named_by_its_function_and_its_operator(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(SOURCE)

    [dropped] = [one for one in mutants_of(tmp_path, "module.py") if one.operator == DROP_CALL]

    assert (dropped.function, dropped.line, dropped.nth) == ("woken", "queue.wake()", 0)


def test_the_sample_of_a_function_stays_when_lines_above_it_change(tmp_path: Path) -> None:
    before = keys(tmp_path, SOURCE, most=2)

    after = keys(tmp_path, OTHER + SOURCE)

    assert len(before) == 2
    assert before <= after
    assert {key.function for key in after} == {"woken", "other"}


def test_a_moved_module_keeps_its_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(tmp_path, SOURCE, most=2)
    (tmp_path / "moved.py").write_text(SOURCE)
    monkeypatch.setitem(FORMER_PATHS, "moved.py", "module.py")

    after = sample(tmp_path, mutants_of(tmp_path, "moved.py"), 2, seed=1)

    assert {key[1:] for key in after} == {key[1:] for key in before}
    assert {key.module for key in after} == {"moved.py"}


def result(key: Key, status: int | None) -> Result:
    return Result("cron", key, Answer(status=status, failed="", seconds=1.0))


def test_only_equivalent_survivors_are_left_out_of_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = [
        "killed",
        "killed",
        "timed out",
        "equivalent: the same",
        "tuning: a number",
        "words: a message",
        "",
    ]
    names = {Key("module.py", "", str(number), ""): reason for number, reason in enumerate(reasons)}
    statuses = {"killed": 1, "timed out": None}
    results = [result(key, statuses.get(reason, 0)) for key, reason in names.items()]

    rate = print_table(results, {key: reason for key, reason in names.items() if ":" in reason})

    assert rate == 3 / 6
    head, *_, last = capsys.readouterr().out.splitlines()[1:]
    assert head.split() == ["group", "mutants", "killed", "timed", "out", "equivalent", "survived", "rate"]
    assert last.split() == ["all", "7", "2", "1", "1", "3", "50.0%"]


def test_tests_that_had_to_be_stopped_run_once_more_when_all_others_have_ended() -> None:
    keys = [Key("module.py", "", str(number), "") for number in range(3)]
    repeats = []

    def repeat(key: Key) -> Result:
        repeats.append(key)
        return result(key, 1)

    first = [result(keys[0], None), result(keys[1], 0), result(keys[2], 1)]
    found = list(repeated_alone(first, repeat))

    assert [(each.key, each.answer["status"]) for each in found] == [(keys[1], 0), (keys[2], 1), (keys[0], 1)]
    assert repeats == [keys[0]]


# A line that is there, so that its explanation is not out of date.
SURVIVOR = Key("lastacross/broker/queue_directory.py", "", "CRON_BUCKET_SIZE = 500", "CRON_BUCKET_SIZE = 499")


def test_a_whole_run_fails_for_each_of_its_reasons() -> None:
    explained = {SURVIVOR: "tuning: a number"}
    killed = [result(Key("module.py", "", str(number), ""), 1) for number in range(MIN_MUTANTS - 1)]
    whole = [*killed, result(SURVIVOR, 0)]

    assert complaints(whole, explained, MIN_RATE, is_whole=True) == []
    assert complaints(whole[1:], explained, MIN_RATE, is_whole=False) == []
    [few] = complaints(whole[1:], explained, MIN_RATE, is_whole=True)
    assert few == f"only {MIN_MUTANTS - 1} mutants; a whole run has at least {MIN_MUTANTS}"
    [rate] = complaints(whole, explained, 0.914, is_whole=True)
    assert rate == "only 91.4% were noticed; 92% are required"
    [unexplained] = complaints(whole, {}, MIN_RATE, is_whole=True)
    assert unexplained.startswith("survivors.toml does not explain Key(")
    [old] = complaints([*whole[:-1], result(SURVIVOR, 1)], explained, MIN_RATE, is_whole=True)
    assert old.startswith("survivors.toml explains what is noticed now, or is gone: Key(")

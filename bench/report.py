"""Makes the table, the bars and the page of results.json. Pure: figures in, text out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.contenders import CONTENDERS, FREE, OUR_OWN, OUR_WEB, OURS, SETTINGS, Contender

Results = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        measure: which run it is of.
        figure: the key in what the drivers tell.
        label: what a reader sees.
        more_is_better: a rate, not a cost.
        digits: after the point.
    """

    measure: str
    figure: str
    label: str
    more_is_better: bool = False
    digits: int = 0


ROWS = (
    Row("drain", "per_second", "drain, tasks/s", more_is_better=True),
    Row("enqueue", "per_second", "enqueue one by one, /s", more_is_better=True),
    Row("bulk", "per_second", "enqueue in bulk, /s", more_is_better=True),
    Row("fanin", "seconds", "fan-out → one callback, s", digits=2),
    Row("latency", "p50_ms", "idle worker, enqueue → start, p50 ms", digits=2),
    Row("latency", "p99_ms", "the same, p99 ms", digits=2),
    Row("drain", "redis_cpu_us", "Redis CPU per task, µs"),
    Row("drain", "redis_commands", "Redis commands per task", digits=1),
    Row("drain", "worker_cpu_us", "worker CPU per task, µs"),
    Row("drain", "bytes_per_task", "Redis memory per waiting task, bytes"),
)


def best(results: Results, contender: str, row: Row, setting: str = FREE) -> dict[str, Any] | None:
    """The median that counts: of the variant that is best at what the measure is about; None without one."""
    found = [
        each
        for each in results["medians"]
        if (each["contender"], each["measure"], each.get("setting", FREE))
        == (contender, row.measure, setting)
        and "figures" in each
    ]
    if not found:
        return None
    # One variant for all figures of a measure: none may take its speed from one and its cost from another.
    leading = next(each for each in ROWS if each.measure == row.measure)
    ordered: list[dict[str, Any]] = sorted(found, key=lambda each: each["figures"].get(leading.figure, 0))
    return ordered[-1] if leading.more_is_better else ordered[0]


def value(results: Results, contender: str, row: Row, setting: str = FREE) -> float | None:
    """The figure of a cell."""
    median = best(results, contender, row, setting)
    return None if median is None else median["figures"].get(row.figure)


def times_better(ours: float | None, theirs: float | None, row: Row) -> float | None:
    """How many times better ours is: 2.0 is twice as fast, or half the cost; below 1 it is worse."""
    if not ours or not theirs:
        return None
    return ours / theirs if row.more_is_better else theirs / ours


def number(figure: float, digits: int = 0) -> str:
    """With a comma at thousands."""
    return f"{figure:,.{digits}f}"


def ratio(times: float) -> str:
    """Two digits that count, as the figures have no more: 0.85x, 4.2x, 66x."""
    return f"{times:.2f}x" if times < 1 else f"{times:.1f}x" if times < 10 else f"{times:,.0f}x"


def cell(results: Results, contender: Contender, row: Row, setting: str = FREE) -> str:
    """A figure with its range and our ratio to it; - for what a library lacks; failed without a run."""
    median = best(results, contender.name, row, setting)
    figure = None if median is None else median["figures"].get(row.figure)
    if median is None or figure is None:
        return "failed" if _has_failed(results, contender.name, row.measure) else "-"
    text = number(figure, row.digits)
    lowest, highest = median.get("ranges", {}).get(row.figure, (figure, figure))
    if lowest != highest:
        text += f" [{number(lowest, row.digits)}…{number(highest, row.digits)}]"
    if contender.is_ours:
        return text
    times = times_better(value(results, OURS, row, setting), figure, row)
    return text if times is None else f"{text} ({ratio(times)})"


def _has_failed(results: Results, contender: str, measure: str) -> bool:
    return any(
        "failed" in each and each["contender"] == contender and each["measure"] == measure
        for each in results["medians"]
    )


def table(results: Results, setting: str = FREE) -> list[str]:
    """All contenders that ran in this setting, side by side."""
    of_it = [each for each in results["medians"] if each.get("setting", FREE) == setting]
    ran, measures = {each["contender"] for each in of_it}, {each["measure"] for each in of_it}
    columns = [contender for contender in CONTENDERS if contender.name in ran]
    lines = [_line(["", *(contender.label for contender in columns)]), "|---" + "|---:" * len(columns) + "|"]
    rows = [row for row in ROWS if setting == FREE or row.measure in measures]
    lines += [
        _line([row.label, *(cell(results, column, row, setting) for column in columns)]) for row in rows
    ]
    return lines


def other_tables(results: Results) -> list[str]:
    """The tables of the other settings that were run."""
    ran = {each.get("setting", FREE) for each in results["medians"]}
    lines: list[str] = []
    for name, setting in SETTINGS.items():
        if name != FREE and name in ran:
            lines += ["", f"## The same with {setting.label}", "", *table(results, name)]
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def own_table(results: Results) -> list[str]:
    """What only ours is measured at, figure for figure."""
    own = [each for each in results["medians"] if each["contender"] in (OUR_OWN.name, OUR_WEB.name)]
    if not own:
        return []
    lines = ["", "## Ours only", "", "| measure | figures (medians) |", "|---|---|"]
    for each in own:
        figures = each.get("figures", {})
        told = (
            ", ".join(f"{key} {figure:,g}" for key, figure in figures.items())
            or f"failed: {each.get('failed', 'it told no figure')}"
        )
        lines.append(_line([each["measure"], told]))
    return lines


def settings(results: Results) -> list[str]:
    """How each contender was run, so that a reader can check it."""
    lines = ["", "## Settings", ""]
    for contender in CONTENDERS:
        medians = [each for each in results["medians"] if each["contender"] == contender.name]
        told = [each for each in medians if "figures" in each]
        if not told:
            continue
        versions = ", ".join(f"{name} {text}" for name, text in told[0]["versions"].items())
        command = " ".join([f"bench/{contender.program} MEASURE", *contender.options])
        lines += [f"### {contender.label.replace('*', '')}", "", f"`{command}` with {versions}", ""]
        for variant in contender.variants:
            of_it = next((each for each in told if each["variant"] == variant), None)
            lines += _settings_of(variant, of_it["settings"] if of_it else {})
        lines += _choices(results, contender)
        lines.append("")
    return lines[:-1]


def _settings_of(variant: str, told: Mapping[str, object]) -> list[str]:
    head = f"{variant}: " if variant else ""
    return [f"- {head}{key}: {text}" for key, text in told.items()]


def _choices(results: Results, contender: Contender) -> list[str]:
    if len(contender.variants) == 1:
        return []
    measures = dict.fromkeys(row.measure for row in ROWS if len(contender.variants_of(row.measure)) > 1)
    leading = [next(row for row in ROWS if row.measure == measure) for measure in measures]
    chosen = [(row.measure, best(results, contender.name, row)) for row in leading]
    shown = ", ".join(f"{measure} {median['variant']}" for measure, median in chosen if median)
    return [f"- best of its variants, shown above: {shown}"] if shown else []


def runs(results: Results) -> list[str]:
    """How many runs the medians are of, and what failed."""
    lines = ["", "## Runs", ""]
    counts: dict[int, list[str]] = {}
    for each in results["medians"]:
        counts.setdefault(each["runs"], []).append(_name(each))
    usual = max(counts, key=lambda count: len(counts[count]), default=0)
    lines.append(f"Medians of {usual} runs each, interleaved (in each round, each measure by all in turn).")
    for count, names in sorted(counts.items()):
        if count != usual:
            lines.append(f"- of {count}: {', '.join(names)}")
    lines += [f"- failed: {_name(each)}: {each['failed']}" for each in results["medians"] if "failed" in each]
    loads = "; ".join(f"{' '.join(map(str, each['load']))}" for each in results["rounds"])
    return [*lines, "", f"Load averages (1, 5, 15 minutes) before each round: {loads}."]


def _name(median: Mapping[str, str]) -> str:
    setting = median.get("setting", FREE)
    parts = [median["contender"], median["variant"], median["measure"], "" if setting == FREE else setting]
    return " ".join(filter(None, parts))


def page(results: Results) -> str:
    """All of RESULTS.md."""
    machine = results["machine"]
    lines = [
        "# Results",
        "",
        f"Written by `{results['command']}` on {results['date']}; "
        "[README.md](README.md) says what each measure is.",
        f"{results['tasks']:,} no-op tasks, two worker processes each, a fresh Redis server for each run "
        "(append-only file synced each second for ours, none for the peers).",
        "",
        f"Machine: {machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, "
        f"{machine['kernel']}, Python {machine['python']}, Redis {machine['redis']}.",
        "",
        "In brackets: how many times better Last Across (deferred) is at it; below 1 it is worse. In square "
        "brackets: the range of the runs.",
        "",
        "![tasks drained a second](chart.svg)",
        "",
        *table(results),
        *other_tables(results),
        *own_table(results),
        *settings(results),
        *runs(results),
    ]
    return "\n".join(lines) + "\n"


def bars(results: Results) -> list[tuple[str, float]]:
    """Of the chart: who drains how many tasks a second, the fastest first."""
    found = [(each.label.replace("*", ""), value(results, each.name, ROWS[0])) for each in CONTENDERS]
    return sorted(((label, figure) for label, figure in found if figure), key=lambda bar: -bar[1])

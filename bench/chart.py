"""Draws chart.svg: `python -m bench.chart results.json chart.svg`, in the environment that has pygal."""

import json
import sys
from pathlib import Path

import pygal
from pygal.style import Style

from bench import report

OURS = "#d2691e"
THEIRS = "#6b8fb5"
#: Readable on white and on black.
TEXT = "#808080"
ROW_HEIGHT = 26


def draw(bars: list[tuple[str, float]]) -> bytes:
    """Horizontal bars, their figures in the labels, on nothing: the page's own ground shows through."""
    style = Style(
        background="transparent",
        plot_background="transparent",
        foreground=TEXT,
        foreground_strong=TEXT,
        foreground_subtle=TEXT,
        guide_stroke_color="transparent",
        major_guide_stroke_color="transparent",
        label_font_size=12,
        major_label_font_size=12,
        title_font_size=14,
        opacity="1",
        font_family="sans-serif",
    )
    chart = pygal.HorizontalBar(
        style=style,
        width=720,
        height=60 + ROW_HEIGHT * len(bars),
        title="No-op tasks drained a second by two worker processes",
        show_legend=False,
        show_x_labels=False,
        js=(),
        explicit_size=True,
        margin=12,
        spacing=4,
    )
    chart.uuid = "drained"  # not by chance: the same figures are the same file
    # Pygal draws from below.
    chart.x_labels = [f"{label}: {report.number(figure)}" for label, figure in reversed(bars)]
    colours = {True: OURS, False: THEIRS}
    chart.add(
        "tasks a second",
        [
            {"value": figure, "color": colours[label.startswith("Last Across")]}
            for label, figure in reversed(bars)
        ],
    )
    drawn: bytes = chart.render()
    return drawn


if __name__ == "__main__":
    source, target = sys.argv[1:]
    Path(target).write_bytes(draw(report.bars(json.loads(Path(source).read_text()))))

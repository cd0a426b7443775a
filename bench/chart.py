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
    """Horizontal bars with their figures, on nothing: the page's own ground shows through."""
    style = Style(
        background="transparent",
        plot_background="transparent",
        foreground=TEXT,
        foreground_strong=TEXT,
        foreground_subtle=TEXT,
        value_font_size=12,
        label_font_size=12,
        major_label_font_size=12,
        title_font_size=14,
        value_colors=(TEXT,),
        opacity="1",
        font_family="sans-serif",
    )
    chart = pygal.HorizontalBar(
        style=style,
        width=720,
        height=90 + ROW_HEIGHT * len(bars),
        title="No-op tasks drained a second by two worker processes",
        show_legend=False,
        show_y_guides=False,
        print_values=True,
        js=(),
        explicit_size=True,
        margin=12,
        spacing=4,
        value_formatter=report.number,
    )
    # Pygal draws from below.
    chart.x_labels = [label for label, _ in reversed(bars)]
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

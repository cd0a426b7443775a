"""What the browser tests do with a quilt's page, and read from it."""

import json
import re
import time
from typing import Any

from playwright.sync_api import Page, expect

# Kept from before the first script runs: what the live region says, when the first square shows,
# and what keeps the page from answering.
RECORDER = """
window.record = {said: [], firstSquareAt: null, longTasks: [], gaps: []};
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.record.longTasks.push(entry.duration);
}).observe({type: "longtask", buffered: true});
document.addEventListener("DOMContentLoaded", () => {
  const said = document.getElementById("said");
  if (!said) return;
  window.record.said.push(said.textContent);
  new MutationObserver(() => window.record.said.push(said.textContent))
    .observe(said, {childList: true, characterData: true, subtree: true});
  let last = performance.now();
  const look = (now) => {
    window.record.gaps.push(now - last);
    last = now;
    const count = document.getElementById("count").textContent;
    if (!count.startsWith("0 ")) window.record.firstSquareAt ??= Date.now();
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
});
"""

# The middle of each square on the canvas, row by row; null where nothing is drawn.
READ_CANVAS = """() => {
  const canvas = document.querySelector("canvas");
  const box = document.getElementById("quilt").dataset;
  const side = canvas.width / Number(box.columns);
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const colors = [];
  for (let row = 0; row < Number(box.rows); row += 1) {
    for (let column = 0; column < Number(box.columns); column += 1) {
      const at = 4 * (Math.floor((row + 0.5) * side) * canvas.width + Math.floor((column + 0.5) * side));
      const [red, green, blue, alpha] = pixels.slice(at, at + 4);
      const hex = [red, green, blue].map((part) => part.toString(16).padStart(2, "0")).join("");
      colors.push(alpha === 255 ? "#" + hex.toUpperCase() : null);
    }
  }
  return colors;
}"""

IS_OVER = "#quilt.is-done, #quilt.is-failed, #quilt.is-cancelled"


def record_from_the_start(page: Page) -> None:
    """Keep what the page says and how it keeps up, from its first moment on."""
    page.add_init_script(RECORDER)


def recorded(page: Page) -> Any:
    """What was kept: ``said``, ``firstSquareAt`` (ms since the epoch), ``longTasks`` and ``gaps`` (ms)."""
    return page.evaluate("window.record")


def fill_in(page: Page, rows: int, columns: int, delay_ms: int = 0) -> None:
    """Open the form and fill it in."""
    page.goto("/quilt")
    page.get_by_label("Rows").fill(str(rows))
    page.get_by_label("Columns").fill(str(columns))
    page.get_by_label("Work per square").fill(str(delay_ms))


def start(page: Page, rows: int, columns: int, delay_ms: int = 0) -> str:
    """Start a quilt through the form; answers its path."""
    fill_in(page, rows, columns, delay_ms)
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/quilt/*")
    return page.url[page.url.index("/quilt/") :]


def wait_for_the_end(page: Page, seconds: float = 30.0) -> None:
    """Wait until the page says that the quilt is over."""
    page.locator(IS_OVER).wait_for(timeout=seconds * 1000)
    expect(page).to_have_title(re.compile("^(Done|Failed|Cancelled) "))


def wait_for_squares(page: Page, count: int, seconds: float = 30.0) -> None:
    """Wait until the page shows so many squares."""
    # Playwright's own waiting for a condition needs eval, which the pages' policy forbids.
    deadline = time.monotonic() + seconds
    while page.evaluate("document.getElementById('bar').value") < count:
        assert time.monotonic() < deadline, f"not {count} squares within {seconds} s"
        page.wait_for_timeout(20)


def painted(page: Page) -> list[str | None]:
    """The colours on the canvas, row by row, None for a square that is not there."""
    colors: list[str | None] = page.evaluate(READ_CANVAS)
    return colors


def expected(operation: dict[str, Any]) -> list[str | None]:
    """The colours that the datastore has, in the same order."""
    response = operation["response"]
    colors: list[str | None] = [None] * (response["rows"] * response["columns"])
    for row, column, color in response["squares"]:
        colors[row * response["columns"] + column] = color
    return colors


def report(name: str, **numbers: object) -> None:
    """Print a measurement; pytest shows it with -s or -rP."""
    print(f"measured {name}: {json.dumps(numbers)}")

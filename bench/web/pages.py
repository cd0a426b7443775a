"""Measures in a real browser: how soon a square is on the screen, and a quilt from click to complete."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from bench.web import running

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

# Notes when the form was sent, and when the page says that the quilt is over.
ENDS = """
window.endedAt = null;
const now = () => (performance.timeOrigin + performance.now()) / 1000;
document.addEventListener("DOMContentLoaded", () => {
  const box = document.getElementById("quilt");
  if (!box) return;
  const look = () => {
    if (!/ is-(done|failed|cancelled)/.test(box.className)) return;
    window.endedAt ??= now();
  };
  new MutationObserver(look).observe(box, {attributes: true});
  look();
});
document.addEventListener("submit", () => sessionStorage.setItem("clickedAt", now()));
"""

# Notes when each square has been drawn: after the frame that draws it, not when the message came.
DRAWINGS = """
window.drawn = [];
const fillRect = CanvasRenderingContext2D.prototype.fillRect;
let fresh = [];
const frame = new MessageChannel();
frame.port1.onmessage = () => {
  const at = now();
  for (const [x, y] of fresh) window.drawn.push([x, y, at]);
  fresh = [];
};
CanvasRenderingContext2D.prototype.fillRect = function (x, y, width, height) {
  if (fresh.length === 0) requestAnimationFrame(() => frame.port2.postMessage(null));
  fresh.push([x, y]);
  return fillRect.call(this, x, y, width, height);
};
"""

# In the workers of the site that is measured: when each square was committed.
COMMIT_TIMES = """

import os as _os
import time as _time

_paint_all = models.paint_all


def _timed_paint_all(strokes):
    painted = _paint_all(strokes)
    at = _time.time()
    with open(_os.environ["BENCH_COMMITS"], "a") as file:
        file.write("".join(f"{stroke.row} {stroke.column} {at}\\n" for stroke in strokes))
    return painted


models.paint_all = _timed_paint_all
"""

SCREEN_SIDE = 20
SCREEN_DELAY_MS = 300
QUILT_SIDE = 100
ROUNDS = 5
PAGE_SECONDS = 120.0


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        raise RuntimeError("the measures of pages need Chromium: apt install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=binary, args=CHROMIUM_FLAGS)
        yield opened
        opened.close()


def screen() -> dict[str, Any]:
    """From the commit of a square, in its worker, to the frame that shows it, by the machine's clock."""
    with TemporaryDirectory(prefix="la-bench-app-") as name:
        app, commits = _timed_application(Path(name)), Path(name) / "commits.txt"
        with running.running_site(workers=2, variables={"BENCH_COMMITS": str(commits)}, app=app) as site:
            with browser() as chromium:
                page = chromium.new_page(base_url=site.url)
                page.add_init_script(ENDS + DRAWINGS)
                _start(page, SCREEN_SIDE, SCREEN_DELAY_MS)
                _wait_for_end(page)
                drawn = page.evaluate("window.drawn")
                side = page.evaluate("document.querySelector('canvas').width") / SCREEN_SIDE
            committed = {
                (int(row), int(column)): float(at)
                for row, column, at in (line.split() for line in commits.read_text().splitlines())
            }
    lags = [at - committed[int(y // side), int(x // side)] for x, y, at in drawn]
    # The first ones are drawn when the page opens.
    return {"squares": len(lags), **running.summary_ms(lags[SCREEN_SIDE:])}


def _timed_application(folder: Path) -> Path:
    """A copy of the application with workers that write down when they have committed."""
    app = folder / "app"
    app.mkdir()
    for path in [*running.ROOT.glob("*.py"), *running.ROOT.glob("*.yaml")]:
        shutil.copy(path, app)
    for name in ("static", "templates", "migrations"):
        shutil.copytree(running.ROOT / name, app / name)
    with (app / "workers.py").open("a") as file:
        file.write(COMMIT_TIMES)
    return app


def quilt(rounds: int = ROUNDS) -> dict[str, Any]:
    """100 by 100 squares without delay: from the click to the page that says it is complete; the median."""
    seconds, used = [], []
    with running.running_site(workers=2) as site, browser() as chromium:
        page = chromium.new_page(base_url=site.url)
        page.add_init_script(ENDS)
        _start(page, 8, 0)
        _wait_for_end(page)
        for _ in range(rounds):
            time.sleep(1.0)
            before, own_before = site.cpu_seconds(), running.cpu_seconds(os.getpid())
            _start(page, QUILT_SIDE, 0)
            ended_at = _wait_for_end(page)
            seconds.append(ended_at - float(page.evaluate("sessionStorage.getItem('clickedAt')")))
            browser_seconds = running.cpu_seconds(os.getpid()) - own_before
            # What the site's processes use is in it, too: they are ours.
            used.append(site.used_since(before))
            used[-1]["browser_cpu_seconds"] = round(browser_seconds - sum(used[-1].values()), 3)
            running.progress(f"{seconds[-1]:.2f} s {used[-1]}")
    cpu = {name: running.percentile([each[name] for each in used], 0.5) for name in used[0]}
    return {
        "squares": QUILT_SIDE**2,
        "seconds": round(running.percentile(seconds, 0.5), 3),
        "all_seconds": [round(each, 3) for each in seconds],
        **cpu,
    }


def _start(page: Page, side: int, delay_ms: int) -> None:
    page.goto("/quilt")
    page.get_by_label("Rows").fill(str(side))
    page.get_by_label("Columns").fill(str(side))
    page.get_by_label("Work per square").fill(str(delay_ms))
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/quilt/*")


def _wait_for_end(page: Page) -> float:
    """Wait until the page says that the quilt is over; when it did."""
    page.locator("#quilt.is-done").wait_for(timeout=PAGE_SECONDS * 1000)
    return float(page.evaluate("window.endedAt"))

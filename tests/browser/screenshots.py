"""Makes the README's pictures from the running site: ``make screenshots``."""

import io
import sys
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.browser import watching
from tests.browser.conftest import CHROMIUM_FLAGS, chromium_binary, signed_in
from tests.support.processes import ROOT, wait_until
from tests.support.site import Site, running_site

FOLDER = ROOT / "docs" / "pictures"
MAX_BYTES = 1_000_000
"""The maximum size of all pictures together."""

WINDOW = {"width": 1200, "height": 800}
ANIMATED_WIDTH = 800
FRAME_MS = 150
LAST_FRAME_MS = 3000
MAX_FRAMES = 60


def make(site: Site, chromium: Browser, folder: Path = FOLDER) -> dict[str, int]:
    """Make all pictures of this site; returns their sizes in bytes by name."""
    folder.mkdir(exist_ok=True)

    def open_context(**options: object) -> BrowserContext:
        return chromium.new_context(base_url=site.url, viewport=WINDOW, **options)  # type: ignore[arg-type]

    context = signed_in(open_context, site)()
    page = context.new_page()
    _quilt(page, folder)
    _longtask(page, site, folder)
    _console(page, site, folder)
    context.close()
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    assert sum(sizes.values()) <= MAX_BYTES, sizes
    return sizes


def _quilt(page: Page, folder: Path) -> None:
    """A quilt from its first square to its last, and the finished page."""
    watching.start(page, 12, 12, delay_ms=600)
    frames: list[Image.Image] = []
    while len(frames) < MAX_FRAMES:
        began = time.monotonic()
        is_over = page.locator(watching.IS_OVER).count() > 0
        frames.append(_picture(page).resize((ANIMATED_WIDTH, ANIMATED_WIDTH * 2 // 3)))
        if is_over:
            break
        page.wait_for_timeout(max(0, FRAME_MS - 1000 * (time.monotonic() - began)))
    watching.wait_for_the_end(page)
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    frames[0].save(
        folder / "quilt.webp", save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=60
    )
    _save(page, folder / "quilt.png")


def _longtask(page: Page, site: Site, folder: Path) -> None:
    """A report in the middle of its work."""
    page.goto("/intrastat?delay_ms=300")
    path = page.url.removeprefix(site.url)
    wait_until(lambda: (site.json(path)["metadata"]["percent"] or 0) >= 40, 60, "the report's middle")
    page.wait_for_timeout(500)
    _save(page, folder / "longtask.png")


def _console(page: Page, site: Site, folder: Path) -> None:
    """The overview while a quilt is sewn."""
    site.administrator.post("/quilt", rows=30, columns=30, delay_ms=130)
    page.goto("/_ah/admin/")
    page.wait_for_timeout(3000)
    page.reload()
    _save(page, folder / "console.png")


def _picture(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def _save(page: Page, path: Path) -> None:
    """Save the window in 128 colours, which a page's picture can do with."""
    _picture(page).quantize(128).save(path, optimize=True)


def main() -> int:
    """Start the site, make the pictures and print their sizes."""
    with running_site() as site, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_binary(), args=CHROMIUM_FLAGS)
        for name, size in make(site, chromium).items():
            print(f"docs/pictures/{name}: {size:,} bytes")
        chromium.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Builds the documentation as a site: `python -m tests.docs.build_site [FOLDER]`.

Any warning of Sphinx is an error. The site has every page of docs/README.md as HTML and as plain Markdown, a
search that needs no server, and llms.txt and llms-full.txt for language models. Nothing in it is fetched from
another site.
"""

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sphinx.cmd.build import build_main

from tests.support.processes import ROOT

INDEX = "docs/README.md"
# Pages outside of docs/ that the pages link to.
OTHERS = ("README.md", "CHANGELOG.md", "bench/README.md", "bench/RESULTS.md")
FILES = ("bench/chart.svg", "deploy", "LICENSE", "docs/pictures")
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


@dataclass(frozen=True)
class Section:
    """A section of the index: its title, and the paths of its pages below the repository's root."""

    title: str
    pages: tuple[str, ...]


def sections() -> list[Section]:
    """The sections of docs/README.md, with each page where it is named first."""
    seen: set[str] = set()
    found = []
    for text in re.split(r"^## ", (ROOT / INDEX).read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        pages = [f"docs/{link}" for link in _LINK.findall(text)]
        fresh = tuple(dict.fromkeys(page for page in pages if page not in seen))
        seen.update(fresh)
        found.append(Section(text.partition("\n")[0], fresh))
    return [*found, Section("Project", OTHERS)]


def stage(folder: Path) -> None:
    """Copy the pages into a folder for Sphinx, with an index that has the tables of contents."""
    shutil.rmtree(folder, ignore_errors=True)
    for page in page_paths():
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        (folder / page).write_text(_without_index(page), encoding="utf-8")
    for name in FILES:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.exists():
            shutil.copy(source, target)
    (folder / "index.md").write_text(index_page(), encoding="utf-8")


def page_paths() -> Iterator[str]:
    """Every page: also those that the index forgot, so that Sphinx complains about them."""
    below = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    yield from (page for page in [*OTHERS, *below] if page != INDEX)


def _without_index(page: str) -> str:
    """A page's text, whose links to docs/README.md lead to the site's index."""
    text = (ROOT / page).read_text(encoding="utf-8")
    up = "../" * page.count("/")
    # A folder has no page on the site.
    text = re.sub(r"\[([^\]]+)\]\((?:docs/)?howto\)", r"\1", text)
    return text.replace("](docs/README.md)", "](index.md)").replace(
        "](../docs/README.md)", f"]({up}index.md)"
    )


def index_page() -> str:
    """docs/README.md with the links as they are at the site's root, and a hidden toctree per section."""
    text = _LINK.sub(lambda link: f"](docs/{link[1]}", (ROOT / INDEX).read_text(encoding="utf-8"))
    trees = [
        "\n".join(["```{toctree}", ":hidden:", f":caption: {section.title}", "", *section.pages, "```"])
        for section in sections()
    ]
    return "\n\n".join([text, *trees]) + "\n"


def add_plain_text(site: Path) -> None:
    """Add each page as Markdown beside its HTML, llms.txt, and llms-full.txt with all pages."""
    summary = "> Push queues, cron jobs, long tasks and live progress for Python on Redis and RQ."
    lines = ["# Last Across", "", summary, ""]
    whole = []
    for section in sections():
        lines += [f"## {section.title}", ""]
        for page in section.pages:
            text = (ROOT / page).read_text(encoding="utf-8")
            (site / page).write_text(text, encoding="utf-8")
            lines.append(f"- [{text.partition(chr(10))[0].lstrip('# ')}]({page})")
            whole.append(f"<!-- {page} -->\n\n{text}")
        lines.append("")
    (site / "llms.txt").write_text("\n".join(lines), encoding="utf-8")
    (site / "llms-full.txt").write_text("\n".join(whole), encoding="utf-8")


def build(folder: Path) -> int:
    """Build the site into ``folder``/site; returns Sphinx' exit status."""
    stage(folder / "pages")
    shutil.rmtree(folder / "site", ignore_errors=True)
    options = ["-q", "-W", "--keep-going", "-n", "-E", "-c", str(ROOT / "docs"), "-d", str(folder / "trees")]
    status = build_main([*options, "-b", "html", str(folder / "pages"), str(folder / "site")])
    if status == 0:
        add_plain_text(folder / "site")
    return status


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build"
    status = build(target)
    if status == 0:
        print(f"open {target / 'site' / 'index.html'}")
    sys.exit(status)

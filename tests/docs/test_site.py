"""`make docs`: the site builds without a warning, its links work, and nothing comes from other sites."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs import build_site
from tests.support.processes import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

# Attributes that make a browser fetch something; links that a reader follows are not among them.
FETCHED = re.compile(r'<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]+)"')
LINK = re.compile(r'<a\b[^>]*?\bhref="([^"]+)"')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; Sphinx found nothing to warn of."""
    folder = tmp_path_factory.mktemp("docs")
    # Not in this process, where the warnings of Sphinx' own libraries are errors.
    command = [sys.executable, "-m", "tests.docs.build_site", str(folder)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return folder / "site"


def test_the_index_names_each_page() -> None:
    named = {page for section in build_site.sections() for page in section.pages}

    assert set(build_site.page_paths()) - named == set()


def test_nothing_is_fetched_from_another_site(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))

    assert len(pages) > 40
    assert [(page.name, found) for page in pages for found in FETCHED.findall(page.read_text())] == []
    styles = [path for path in site.rglob("*.css") if re.search(r"url\(['\"]?(https?:)?//", path.read_text())]
    assert styles == []


def test_each_link_of_the_built_pages_leads_to_a_file_and_an_anchor(site: Path) -> None:
    texts = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    missing = []
    for page, text in texts.items():
        for link in LINK.findall(text):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and target in texts and f'id="{anchor}"' not in texts[target]):
                missing.append((page.name, link))

    assert missing == []


def test_the_search_knows_the_pages(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")

    assert "idempot" in index
    assert '"docs/tutorial"' in index


def test_the_pages_are_there_as_plain_text(site: Path) -> None:
    listed = re.findall(r"\]\(([^)]+)\)", (site / "llms.txt").read_text(encoding="utf-8"))
    whole = (site / "llms-full.txt").read_text(encoding="utf-8")

    assert len(listed) > 40
    assert [page for page in listed if not (site / page).exists() or f"<!-- {page} -->" not in whole] == []

"""A guestbook's pages, and a count of its words that keeps its reader waiting."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jinja2
import webapp2

PAGES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True
)

VOLUMES = {"2024": 30, "2025": 45, "all": 900}
"""How many pages were written in a year, or in all years."""

READING_SECONDS = 0.05
"""It takes this long to read one page."""


class Handler(webapp2.RequestHandler):
    """What all pages share."""

    def render(self, template: str, **values: object) -> None:
        """Answer with a template."""
        self.response.write(PAGES.get_template(template).render(values))


class FrontPage(Handler):
    """Shows the volumes and a form for a new entry."""

    def get(self) -> None:
        """Show the page."""
        self.render("guestbook.html", volumes=VOLUMES)


class Sign(Handler):
    """Takes an entry."""

    def post(self) -> None:
        """Thank the guest."""
        self.render("thanks.html", name=self.request.get("name"))


class Report(Handler):
    """Counts the words of a volume."""

    def get(self) -> None:
        """Answer with the words, after seconds or minutes."""
        self.response.content_type = "text/plain"
        self.response.write(count_words(self.request.get("volume")))


def count_words(volume: str, progress: Callable[[str, int, int], None] = lambda *_: None) -> str:
    """Count the words that guests have written."""
    words: Counter[str] = Counter()
    for number in range(VOLUMES[volume]):
        progress(f"Reading page {number + 1}", number, VOLUMES[volume])
        words.update(read_page(number).split())
    return "\n".join(f"{word}: {count}" for word, count in words.most_common())


def read_page(number: int) -> str:
    """Read one page of the book."""
    time.sleep(READING_SECONDS)
    return "thank you for " + ("a lovely evening", "the soup", "everything")[number % 3]


app = webapp2.WSGIApplication([("/", FrontPage), ("/sign", Sign), ("/report", Report)])

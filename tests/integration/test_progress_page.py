"""``longtask.ProgressPage``: a progress page of an application's own, for people and for programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import webapp2
from webob import Request, exc

import longtask
from lastacross import channel, store, webapp
from tests.support.redis_server import unavailable_store

JSON = {"Accept": "application/json"}


@dataclass(frozen=True)
class Bath(longtask.ProgressView):
    """A bath that fills up."""

    litres: int
    state: str = "running"
    is_blind: bool = False

    @property
    def percent(self) -> int:
        """A bath has 200 litres."""
        return self.litres // 2

    @property
    def etag(self) -> str:
        """Its level."""
        return f"{self.litres}-{self.state}"


class BathPage(longtask.ProgressPage[Bath]):
    """Shows the baths by their names."""

    baths: ClassVar[dict[str, Bath]] = {}
    looked: ClassVar[list[str | None]] = []

    def read_query(self, *, is_json: bool) -> None:
        """Take ``?unit=litre``, and of programs nothing else."""
        if is_json and self.request.GET.get("unit", "litre") != "litre":
            raise webapp.BadInputError("unit", "takes litre")

    def look(self, bath: str) -> Bath:
        """A bath is known by its name."""
        if bath not in self.baths:
            raise exc.HTTPNotFound("There is no bath of this name.")
        self.looked.append(channel.last_id("bath") if not self.baths[bath].is_blind else None)
        return self.baths[bath]

    def client_id(self, view: Bath) -> str:
        """All baths have one channel."""
        return "bath"

    def show(self, view: Bath, token: str | None) -> None:
        """A short page."""
        self.response.text = f"{view.mark}, {'watched' if token else 'still'}"

    def operation(self, view: Bath) -> dict[str, Any]:
        """Its level."""
        return {"done": view.is_over, "litres": view.litres}


APP = webapp2.WSGIApplication(
    [
        webapp2.Route("/<bath:[a-z]+>.json", BathPage, handler_method="get_json", methods=["GET", "HEAD"]),
        webapp2.Route("/<bath:[a-z]+>", BathPage),
    ]
)


@pytest.fixture(autouse=True)
def _baths(test_store: store.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    baths = {"big": Bath(50), "full": Bath(200, "done"), "dark": Bath(50, is_blind=True)}
    monkeypatch.setattr(BathPage, "baths", baths)
    monkeypatch.setattr(BathPage, "looked", [])


def ask(path: str, method: str = "GET", **headers: str) -> Any:
    return Request.blank(path, method=method, headers=headers).get_response(APP)


def test_a_page_of_something_under_way_is_watched_from_before_it_was_looked_at() -> None:
    answer = ask("/big")

    assert (answer.status_int, answer.text) == (200, "25 %, watched")
    assert len(BathPage.looked) == 2, "once for the token, and once for all that came in between"
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert "ETag" not in answer.headers


def test_a_page_of_something_that_is_over_is_not_watched() -> None:
    assert ask("/full").text == "Done, still"
    assert len(BathPage.looked) == 1


def test_nobody_waits_twice_for_a_redis_that_does_not_answer() -> None:
    assert ask("/dark").text == "25 %, still"
    assert len(BathPage.looked) == 1


def test_a_page_whose_token_cannot_be_made_is_drawn_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BathPage, "look", lambda page, bath: page.baths[bath])
    store.use(unavailable_store(tmp_path))

    assert ask("/big").text == "25 %, still"


@pytest.mark.parametrize(("path", "headers"), [("/big.json", {}), ("/big", JSON)])
def test_programs_get_the_operation_and_304_while_nothing_is_new(path: str, headers: dict[str, str]) -> None:
    answer = ask(path, **headers)

    assert (answer.status_int, answer.json) == (200, {"done": False, "litres": 50})
    assert answer.headers["Cache-Control"] == "private, no-cache"
    again = ask(path, **headers, **{"If-None-Match": answer.headers["ETag"]})
    assert (again.status_int, again.body) == (304, b"")
    BathPage.baths["big"] = Bath(51)
    assert ask(path, **headers, **{"If-None-Match": answer.headers["ETag"]}).json["litres"] == 51


def test_a_head_request_has_no_body() -> None:
    answer = ask("/big.json", "HEAD")

    assert (answer.status_int, answer.body) == (200, b"")
    assert answer.headers["ETag"] == ask("/big.json").headers["ETag"]


def test_the_query_is_checked_before_anything_is_looked_for() -> None:
    assert ask("/none.json?unit=gallon").status_int == 400
    assert ask("/big?unit=gallon").status_int == 200
    assert ask("/none.json").status_int == ask("/none").status_int == 404

"""The pages of long tasks as the engine draws them: in its own frame, and in the one of an application."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from lastacross.longtasks.view import Urls, View
from lastacross.webapp import templating
from tests.support.processes import ROOT

URLS = Urls(
    status="/report?_longtaskjob=query&_longtaskid=abc",
    page="/report?_longtaskjob=status&_longtaskid=abc",
    json="/report?_longtaskjob=status&_longtaskid=abc",
    result="/report?_longtaskjob=result&_longtaskid=abc",
    cancel="/report?_longtaskjob=cancel&_longtaskid=abc",
    restart="/report?_longtaskjob=restart&_longtaskid=abc",
    start="/report",
)
DASH = "\N{EN DASH}"
MARKUP = "<b>&\"'</b>"
RUNNING = View(
    id="abc",
    title="Report",
    path="/report",
    parameters=(("month", "5"), ("note", "")),
    fields=(("month", "5"), ("note", "")),
    state="running",
    status="It runs.",
    message="Reading",
    step=3,
    total_steps=12,
    percent=25,
    elapsed_seconds=12.3,
    elapsed_text="12.3 s",
    eta_text="about 40 seconds",
    attempts=1,
    created_at=1.0,
    expires_at=2.0,
    created_text="2026-11-21 03:14:07 UTC",
    started_text="2026-11-21 03:14:08 UTC",
    urls=URLS,
    token="a.b.c",
    may_cancel=True,
)
RETRYING = dataclasses.replace(
    RUNNING,
    state="retrying",
    status="The last attempt failed; it is tried again.",
    attempts=2,
    error_text="Something went wrong.",
    next_try_at=1234.0,
    next_try_text="12:34:56 UTC",
    next_try_seconds=8,
)
DONE = dataclasses.replace(
    RUNNING,
    state="done",
    status="Done.",
    percent=100,
    eta_text="",
    token=None,
    finished_at=20.0,
    finished_text="2026-11-21 03:15:00 UTC",
    expires_text="2026-12-21 03:15:00 UTC",
    result_kind="text",
    result_size=5000,
    result_text="a;b;c",
)
FAILED = dataclasses.replace(DONE, state="failed", status="Failed.", percent=25, error_text="No invoices.")
ENDED = [DONE, FAILED, dataclasses.replace(FAILED, state="cancelled", status="Cancelled.", error_text="")]

# The engine in an application that has no templates at all, and in ours.
FRAMES = {"bare": Path("/nonexistent"), "ours": ROOT}


@pytest.fixture(params=FRAMES)
def root(request: pytest.FixtureRequest) -> Path:
    return FRAMES[request.param]


def draw(root: Path, template: str, **values: Any) -> str:
    """The page."""
    return templating.environment(root).get_template(f"longtask/{template}.html").render(values)


def text_of(page: str, place: str) -> str:
    """The text of the element with this id."""
    found = re.search(rf'id="{place}"[^>]*>(.*?)</', page, re.DOTALL)
    assert found, place
    return found[1].strip()


# --- while it runs --------------------------------------------------------------------------


def test_the_page_of_a_running_task_says_what_runs_and_how_far_it_is(root: Path) -> None:
    page = draw(root, "status", view=RUNNING)

    assert f"<title>25 % {DASH} Report</title>" in page
    assert '<progress id="bar" max="12" value="3">' in page
    assert text_of(page, "count") == "Step 3 of 12"
    assert text_of(page, "percent") == "25 %"
    assert text_of(page, "message") == "Reading"
    assert text_of(page, "remaining") == "about 40 seconds"
    assert "<dt>month</dt><dd>5</dd>" in page
    assert '<form method="post" action="/report?_longtaskjob=cancel&amp;_longtaskid=abc"' in page


def test_a_total_that_nobody_knows_has_a_bar_without_a_value(root: Path) -> None:
    page = draw(root, "status", view=dataclasses.replace(RUNNING, total_steps=0, percent=None, step=7))

    assert '<progress id="bar" max="1">' in page
    assert text_of(page, "count") == "Step 7"
    assert f"<title>Running {DASH} Report</title>" in page


def test_a_running_page_reloads_itself_only_where_no_script_runs(root: Path) -> None:
    page = draw(root, "status", view=RUNNING)

    assert '<noscript><meta http-equiv="refresh" content="3"></noscript>' in page
    assert page.count("http-equiv") == 1
    assert '<script src="/_ah/channel/jsapi" defer></script>' in page
    assert 'data-token="a.b.c"' in page


@pytest.mark.parametrize("view", ENDED, ids=lambda view: view.state)
@pytest.mark.parametrize("template", ["status", "result"])
def test_a_page_that_is_over_stands_still(root: Path, template: str, view: View) -> None:
    page = draw(root, template, view=view)

    assert "http-equiv" not in page
    assert "<script" not in page
    assert "_longtaskjob=cancel" not in page
    assert "_longtaskjob=restart" in page


def test_without_redis_there_is_no_stream_and_the_page_says_so(root: Path) -> None:
    page = draw(root, "status", view=dataclasses.replace(RUNNING, token=None, is_blind=True))

    assert "jsapi" not in page
    assert text_of(page, "blind").endswith("The work continues when the task store is back.")
    assert 'id="blind">' in page
    assert 'id="blind" hidden>' in draw(root, "status", view=RUNNING)


@pytest.mark.parametrize(
    ("percent", "said"),
    [
        (None, "It runs."),
        (0, "It runs."),
        (1, "1 % done."),
        (48, "48 % done."),
        (99, "99 % done."),
    ],
)
def test_the_headline_has_the_current_number(root: Path, percent: int | None, said: str) -> None:
    page = draw(root, "status", view=dataclasses.replace(RUNNING, percent=percent))

    assert text_of(page, "headline") == said
    assert page.count('role="status"') == 1


def test_the_headline_of_a_retry_says_so_beside_the_number(root: Path) -> None:
    page = draw(
        root,
        "status",
        view=dataclasses.replace(RUNNING, attempts=2, status="A retry is under way.", percent=50),
    )

    assert text_of(page, "headline") == "A retry is under way. 50 % done."


def test_a_page_that_reloads_itself_has_no_form_to_type_into_unless_a_script_shows_it(root: Path) -> None:
    assert 'id="other" hidden>' in draw(root, "status", view=RUNNING)
    assert 'id="other">' in draw(root, "status", view=FAILED)


# --- when it fails --------------------------------------------------------------------------


def test_a_failed_attempt_says_what_and_when_it_is_tried_again(root: Path) -> None:
    page = draw(root, "status", view=RETRYING)

    sentence = re.sub(r"<[^>]*>", "", page[page.index('id="next"') :].split("</p>")[0]).partition(">")[2]
    assert sentence == "Retrying: attempt 3 begins at 12:34:56 UTC, in 8 s."
    assert text_of(page, "error") == "Something went wrong."
    assert 'id="trouble">' in page
    assert 'data-next-try="8"' in page


def test_no_trouble_is_shown_where_there_is_none(root: Path) -> None:
    assert 'id="trouble" hidden>' in draw(root, "status", view=RUNNING)


def test_a_task_that_failed_can_be_started_again_with_the_same_or_other_parameters(root: Path) -> None:
    page = draw(root, "status", view=FAILED)

    assert "What went wrong" in page
    assert "Start again</button>" in page
    assert 'name="month" value="5"' in page
    assert "Start another</button>" in page


def test_a_long_parameter_is_edited_in_a_field_of_several_lines_that_keeps_its_first_line_end(
    root: Path,
) -> None:
    page = draw(root, "status", view=dataclasses.replace(FAILED, fields=(("text", "\none\ntwo"),)))

    # HTML drops one line end after the tag.
    assert 'spellcheck="false">\n\none\ntwo</textarea>' in page


def test_parameters_that_no_form_can_hold_are_not_offered_for_editing(root: Path) -> None:
    page = draw(root, "status", view=dataclasses.replace(FAILED, fields=None))

    assert "other parameters" not in page
    assert "Start again</button>" in page


# --- when it is done ------------------------------------------------------------------------


def test_the_page_of_a_done_task_leads_to_its_result(root: Path) -> None:
    page = draw(root, "status", view=DONE)

    assert f"<title>Done {DASH} Report</title>" in page
    assert (
        '<a class="button" href="/report?_longtaskjob=result&amp;_longtaskid=abc">Open the result</a>' in page
    )
    assert "<dt>Done</dt><dd>2026-11-21 03:15:00 UTC</dd>" in page


def test_the_result_page_shows_text_and_offers_bytes_for_download(root: Path) -> None:
    text = draw(root, "result", view=DONE)
    binary = draw(root, "result", view=dataclasses.replace(DONE, result_kind="bytes", result_text=""))
    cut = draw(root, "result", view=dataclasses.replace(DONE, is_result_cut=True))

    assert text_of(text, "result") == "a;b;c"
    assert "Open the result</a>" in text
    assert "5.0 kB" in text
    assert 'id="result"' not in binary
    assert " download>Download the result</a>" in binary
    assert "This is its beginning" in cut
    assert "This is its beginning" not in text


def test_an_empty_result_is_said_to_be_so(root: Path) -> None:
    page = draw(root, "result", view=dataclasses.replace(DONE, result_text="", result_size=0))

    assert "The result is empty." in page


# --- the others -----------------------------------------------------------------------------


def test_the_list_shows_each_with_its_state_and_reloads_while_one_runs(root: Path) -> None:
    page = draw(root, "list", views=[RUNNING, FAILED, RETRYING])

    assert f"<title>2 running {DASH} Your long tasks</title>" in page
    assert page.count('<li class="card"') == 3
    assert page.count("<progress") == 2
    assert f"25 % {DASH} Reading (about 40 seconds)" in page
    assert f"took 12.3 s {DASH} No invoices." in page
    assert '<noscript><meta http-equiv="refresh" content="3"></noscript>' in page
    assert ">month: 5</p>" in page
    assert ">The last attempt failed; it is tried again.<" in page


def test_a_list_in_which_nothing_runs_stands_still(root: Path) -> None:
    assert "http-equiv" not in draw(root, "list", views=[DONE])
    assert "<script" not in draw(root, "list", views=[DONE])
    assert "No tasks yet." in draw(root, "list", views=[])


@pytest.mark.parametrize("is_expired", [True, False])
def test_an_address_without_a_task_says_why_and_leads_on(root: Path, is_expired: bool) -> None:
    page = draw(root, "missing", is_expired=is_expired, message=MARKUP, start_url="/report")

    assert ("No longer here" in page) == is_expired
    assert MARKUP not in page
    assert '<form method="get" action="/report">' in page, "no link begins work"


@pytest.mark.parametrize("template", ["status", "result"])
def test_markup_in_whatever_a_task_says_is_text(root: Path, template: str) -> None:
    changes: dict[str, Any] = dict.fromkeys(
        ("title", "message", "error_text", "result_text", "status"), MARKUP
    )
    for view in (RETRYING, DONE):
        page = draw(
            root,
            template,
            view=dataclasses.replace(
                view, **changes, parameters=((MARKUP, MARKUP),), fields=((MARKUP, MARKUP),)
            ),
        )

        assert "<b>" not in page
        assert "&lt;b&gt;" in page


@pytest.mark.parametrize("template", ["status", "result", "list"])
def test_no_page_needs_an_inline_script_or_style(root: Path, template: str) -> None:
    page = draw(root, template, view=RUNNING, views=[RUNNING])

    assert re.search(r"<script[^>]*\ssrc=", page)
    assert not re.search(r"<style|style=|\son\w+=", page)
    assert not re.search(r"<script(?![^>]*\ssrc=)", page)

"""backends.yaml: what a good file means, and whose processes it concerns."""

import textwrap
from pathlib import Path

import pytest

from lastacross import config

ENVIRON = {"SECRET_KEY": "a secret key of the tests, long enough"}


def load(root: Path, text: str, **environ: str) -> config.Config:
    """The configuration with this backends.yaml."""
    (root / "backends.yaml").write_text(textwrap.dedent(text))
    return config.load(root, ENVIRON | environ)


def test_every_key_of_a_backend_is_read(app_root: Path) -> None:
    """All that App Engine documented, at once."""
    loaded = load(
        app_root,
        """
        backends:
        - name: counter
          class: B4_1G
          instances: 5
          max_concurrent_requests: 10
          options: dynamic, failfast
          start: counter.app
          state: STOP
        - name: crawler
        """,
    )

    assert dict(loaded.backends) == {
        "counter": config.Backend(
            name="counter",
            instances=5,
            max_concurrent_requests=10,
            start="counter.app",
            state="STOP",
            options=frozenset({"dynamic", "failfast"}),
            instance_class="B4_1G",
        ),
        "crawler": config.Backend("crawler"),
    }


def test_what_is_left_out_is_as_app_engine_had_it(app_root: Path) -> None:
    """One instance of class B2, started; how much at once is the worker's own setting."""
    backend = load(app_root, "backends:\n- name: counter\n").backends["counter"]

    assert (backend.instances, backend.instance_class, backend.state) == (1, "B2", "START")
    assert (backend.max_concurrent_requests, backend.start, backend.options) == (None, None, frozenset())


@pytest.mark.parametrize("text", ["backends:\n", "backends: []\n"])
def test_a_file_may_list_no_backend(app_root: Path, text: str) -> None:
    """As with queue.yaml, an empty list is a list."""
    assert load(app_root, text).backends == {}


def test_without_a_file_there_is_no_backend(app_root: Path) -> None:
    """A missing backends.yaml is no mistake."""
    loaded = config.load(app_root, ENVIRON)

    assert (loaded.backends, loaded.services) == ({}, frozenset())


@pytest.mark.parametrize("written", ["b1", "B1"])
def test_a_class_is_read_in_either_case(app_root: Path, written: str) -> None:
    """App Engine took both."""
    loaded = load(app_root, f"backends:\n- name: x\n  class: {written}\n")

    assert loaded.backends["x"].instance_class == "B1"


@pytest.mark.parametrize(
    "written",
    ["dynamic, public", "dynamic,public,", "public dynamic".replace(" ", " , "), "[dynamic, public]"],
)
def test_options_are_separated_by_commas_or_in_a_list(app_root: Path, written: str) -> None:
    """Both ways are in use."""
    loaded = load(app_root, f"backends:\n- name: x\n  options: {written}\n")

    assert loaded.backends["x"].options == {"dynamic", "public"}


@pytest.mark.parametrize(
    ("lines", "notice"),
    [
        ("class: B8", "backends.yaml:3:3: 'class' of a backend has no effect here"),
        ("options: failfast", "backends.yaml:3:3: 'options' of a backend has no effect here"),
        ("start: a/crawler.py", "backends.yaml:3:10: start 'a/crawler.py' is interpreted as a.crawler.app"),
    ],
)
def test_what_is_not_acted_on_as_written_gives_a_notice(app_root: Path, lines: str, notice: str) -> None:
    """A file from App Engine loads."""
    assert load(app_root, f"backends:\n- name: x\n  {lines}\n").notices == (notice,)


def test_a_file_that_says_what_is_acted_on_gives_no_notice(app_root: Path) -> None:
    """Nothing to hear of what holds."""
    text = "backends:\n- {name: x, instances: 2, max_concurrent_requests: 3, start: a.app, state: START}\n"

    assert load(app_root, text).notices == ()


def test_a_backends_processes_ask_its_start_script_first(app_root: Path) -> None:
    """Before app.yaml's handlers, and for nobody from outside."""
    loaded = load(
        app_root, "backends:\n- name: counter\n  start: counter.app\n", LASTACROSS_SERVICE="counter"
    )

    first, rest = loaded.app.handlers
    assert (first.script, first.login, rest.url) == ("counter.app", "admin", "/.*")
    assert first.pattern.match("/_ah/start")
    assert not first.pattern.match("/_ah/started")


@pytest.mark.parametrize("service", ["default", "other", "elsewhere"])
def test_other_processes_have_app_yamls_handlers_alone(app_root: Path, service: str) -> None:
    """A backend without ``start`` too."""
    text = "backends:\n- name: counter\n  start: counter.app\n- name: other\n"

    loaded = load(app_root, text, LASTACROSS_SERVICE=service)

    assert [handler.url for handler in loaded.app.handlers] == ["/.*"]


@pytest.mark.parametrize(
    ("service", "scaling", "seconds"),
    [
        ("default", "", 600),
        ("counter", "", 86_400),
        ("elsewhere", "", 600),
        ("default", "manual_scaling: {}\n", 86_400),
        ("counter", "automatic_scaling: {}\n", 86_400),
    ],
)
def test_a_backends_tasks_may_run_for_a_day(app_root: Path, service: str, scaling: str, seconds: int) -> None:
    """Long work is what backends were for; app.yaml's scaling counts for the rest."""
    (app_root / "app.yaml").write_text(scaling + "handlers:\n- url: /.*\n  script: main.app\n")

    loaded = load(app_root, "backends:\n- name: counter\n", LASTACROSS_SERVICE=service)

    assert loaded.deadline_seconds == seconds


def test_the_services_are_those_of_the_file_and_of_the_environment(app_root: Path) -> None:
    """Where a target can lead."""
    loaded = load(
        app_root,
        "backends:\n- name: counter\n- name: both\n",
        LASTACROSS_SERVICES="mail=http://10.0.0.5,both=http://10.0.0.6",
    )

    assert loaded.services == {"counter", "mail", "both"}

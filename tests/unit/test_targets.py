"""Which service a task is for: docs/appengine.md, "Targets", as a table."""

import dataclasses
from pathlib import Path

import pytest

from lastacross import config
from lastacross.config import AppConfig, Config, DispatchRule, service_of
from lastacross.taskqueue import Task
from lastacross.taskqueue.task import Targets
from tests.conftest import SECRET_KEY

RULES = (
    DispatchRule("*", "/work/*", "dispatched"),
    DispatchRule("*", "/work/two", "second"),
    DispatchRule("other.example.com", "/elsewhere/*", "other"),
    DispatchRule("*", "/home/*", "default"),
    DispatchRule("*", "/shop/*", "shop"),
    DispatchRule("*", "/_ah/queue/mail", "mailer"),
)


@pytest.fixture
def plain(tmp_path: Path) -> Config:
    """An application without files but app.yaml, whose service has a name of its own: shop."""
    (tmp_path / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    loaded = config.load(tmp_path, {"SECRET_KEY": SECRET_KEY})
    return dataclasses.replace(loaded, app=AppConfig(service="shop"))


def of_service(configuration: Config, service: str) -> Config:
    """The configuration in a process of this service."""
    return dataclasses.replace(
        configuration, settings=dataclasses.replace(configuration.settings, service=service)
    )


@pytest.mark.parametrize(
    ("target", "service"),
    [("counter", "counter"), ("v1.counter", "counter"), ("3.v1.counter", "counter"), ("default", "default")],
)
def test_of_instance_version_and_service_the_last_counts(target: str, service: str) -> None:
    assert service_of(target) == service


@pytest.mark.parametrize(
    ("queue", "task", "own", "url", "expected"),
    [
        # nobody says anything: the queue alone decides
        ("", None, "default", "/a", None),
        # the service of the process that adds it
        ("", None, "counter", "/a", "counter"),
        # the task's own target counts more than that
        ("", "other", "default", "/a", "other"),
        ("", "other", "counter", "/a", "other"),
        ("", "v1.other", "counter", "/a", "other"),
        ("", "2.v1.other", "counter", "/a", "other"),
        ("", "default", "counter", "/a", "default"),
        # the queue's counts more than the adding process, and more than the task's, which is kept beside it
        ("mailer", None, "default", "/a", None),
        ("mailer", None, "counter", "/a", None),
        ("mailer", "other", "counter", "/a", "other"),
        # dispatch.yaml counts more than all of them
        ("", None, "default", "/work/1", "!dispatched"),
        ("", None, "counter", "/work/1", "!dispatched"),
        ("", "other", "default", "/work/1", "!dispatched"),
        ("mailer", None, "default", "/work/1", "!dispatched"),
        ("mailer", "other", "counter", "/work/1", "!dispatched"),
        # the first rule whose URL it is; the query does not matter; a rule for another host is not for tasks
        ("", None, "default", "/work/two", "!dispatched"),
        ("", None, "default", "/work/1?a=/b", "!dispatched"),
        ("", None, "default", "/a?b=/work/1", None),
        ("", None, "default", "/elsewhere/1", None),
        ("", None, "counter", "/home/1", "!default"),
        # unless the target that counts names a version or an instance
        ("", "v1.other", "default", "/work/1", "other"),
        ("", "1.v1.other", "default", "/work/1", "other"),
        ("v1.mailer", None, "default", "/work/1", None),
        ("v1.mailer", "other", "counter", "/work/1", "other"),
        ("mailer", "v1.other", "default", "/work/1", "!dispatched"),
        # app.yaml's name for its own service is another word for default
        ("", "shop", "counter", "/a", "default"),
        ("", "v1.shop", "default", "/a", "default"),
        ("", None, "default", "/shop/1", "!default"),
        # '' is no target
        ("", "", "default", "/a", None),
        ("", "", "counter", "/a", "counter"),
    ],
)
def test_the_first_that_says_something_decides(
    plain: Config, *, queue: str, task: str | None, own: str, url: str, expected: str | None
) -> None:
    configuration = of_service(dataclasses.replace(plain, dispatch=RULES), own)

    assert Targets(queue, configuration).of(Task(url=url, method="GET", target=task), "mail") == expected


def test_the_url_that_a_task_has_by_default_is_dispatched_like_any_other(plain: Config) -> None:
    targets = Targets("", dataclasses.replace(plain, dispatch=RULES))

    assert targets.of(Task(b"body"), "mail") == "!mailer"
    assert targets.of(Task(b"body"), "other") is None


def test_without_dispatch_yaml_the_url_does_not_matter(plain: Config) -> None:
    assert Targets("", plain).of(Task(url="/work/1"), "mail") is None

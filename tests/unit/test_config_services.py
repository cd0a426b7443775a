"""Services across the files: a slip in a target's name is told, and stops nothing."""

from pathlib import Path

import pytest

from lastacross import config

ENVIRON = {
    "SECRET_KEY": "a secret key of the tests, long enough",
    "LASTACROSS_SERVICES": "mail=http://10.0.0.5,web=http://10.0.0.6",
}


@pytest.fixture
def root(app_root: Path) -> Path:
    """An application of the service ``shop`` with the backend ``counter``."""
    (app_root / "app.yaml").write_text("service: shop\nhandlers:\n- url: /.*\n  script: main.app\n")
    (app_root / "backends.yaml").write_text("backends:\n- name: counter\n")
    return app_root


def notices(root: Path, file: str, text: str) -> list[str]:
    """The notices with this text in a file."""
    (root / file).write_text(text)
    return list(config.load(root, ENVIRON).notices)


def of_target(root: Path, target: str) -> list[str]:
    """The notices about a queue with this target."""
    return notices(root, "queue.yaml", f"queue:\n- name: q\n  rate: 1/s\n  target: {target}\n")


@pytest.mark.parametrize("target", ["default", "shop", "counter", "v2.counter", "mail", "web", "v9.web"])
def test_a_target_that_some_file_knows_is_no_notice(root: Path, target: str) -> None:
    """backends.yaml, LASTACROSS_SERVICES, app.yaml; of ``version.service`` the service counts."""
    assert of_target(root, target) == []


@pytest.mark.parametrize("target", ["nobody", "counter.nobody"])
def test_a_target_that_no_file_knows_is_a_notice(root: Path, target: str) -> None:
    """With what happens to its tasks, and what would serve them."""
    [notice] = of_target(root, target)

    assert notice == (
        f"queue.yaml:4:11: target '{target}' names a service that is not in backends.yaml, "
        "LASTACROSS_SERVICES or app.yaml; its tasks run on the default service unless "
        "`lastacross worker --service nobody` is running"
    )


def test_a_misspelt_target_is_told_the_likely_one(root: Path) -> None:
    """The slip that sends a queue's tasks to the wrong place."""
    [notice] = of_target(root, "conuter")

    assert notice.endswith(". Did you mean 'counter'?")


def test_a_pull_queues_target_is_one_notice_not_two(root: Path) -> None:
    """It means nothing, known or not."""
    [notice] = notices(root, "queue.yaml", "queue:\n- name: q\n  mode: pull\n  target: nobody\n")

    assert "target has no effect on the pull queue" in notice


def of_job(root: Path, target: str) -> list[str]:
    """The notices about a cron job with this target."""
    return notices(root, "cron.yaml", f"cron:\n- url: /x\n  schedule: every 5 mins\n  target: {target}\n")


@pytest.mark.parametrize("target", ["default", "shop", "counter", "mail", "counter:v2", "web:v9"])
def test_a_jobs_target_that_some_file_knows_is_no_notice(root: Path, target: str) -> None:
    """A service alone, or with a version of it."""
    assert of_job(root, target) == []


def test_a_jobs_target_that_no_file_knows_is_a_notice(root: Path) -> None:
    """It may be meant for a version; whether or not, it runs on the default service."""
    [notice] = of_job(root, "nobody")

    assert notice == (
        "cron.yaml:4:11: target 'nobody' names a service that is not in backends.yaml, "
        "LASTACROSS_SERVICES or app.yaml; it is treated as a version of the default service, which runs its "
        "tasks"
    )
    assert of_job(root, "conuter")[0].endswith(". Did you mean 'counter'?")
    assert "unless `lastacross worker --service nobody` is running" in of_job(root, "nobody:v1")[0]


@pytest.mark.parametrize("key", ["service", "module"])
def test_a_rules_unknown_service_is_a_notice(root: Path, key: str) -> None:
    """dispatch.yaml likewise."""
    found = notices(root, "dispatch.yaml", f'dispatch:\n- url: "*/a"\n  {key}: nobody\n')

    place = 3 + len(key) + 2
    assert (
        f"dispatch.yaml:3:{place}: {key} 'nobody' names a service that is not in backends.yaml" in found[-1]
    )
    assert len(found) == (1 if key == "service" else 2)


@pytest.mark.parametrize("service", ["default", "shop", "counter", "web"])
def test_a_rules_known_service_is_no_notice(root: Path, service: str) -> None:
    """Any that a task can be sent to."""
    assert notices(root, "dispatch.yaml", f'dispatch:\n- {{url: "*/a", service: {service}}}\n') == []


def test_a_backend_with_the_name_of_app_yamls_service_is_refused(root: Path) -> None:
    """A target could mean the one or the other."""
    (root / "backends.yaml").write_text("backends:\n- name: counter\n- name: shop\n")

    [mistake] = config.check(root, ENVIRON).mistakes

    assert str(mistake).startswith("backends.yaml:3:9: name 'shop' is app.yaml's own service")


@pytest.mark.parametrize(
    ("named", "service"), [("shop", "default"), ("default", "default"), ("counter", "counter"), ("x", "x")]
)
def test_who_belongs_to_app_yamls_service_belongs_to_the_default_one(
    root: Path, named: str, service: str
) -> None:
    """Two names for one service."""
    assert config.load(root, ENVIRON | {"LASTACROSS_SERVICE": named}).settings.service == service


def test_the_names_are_not_compared_while_a_file_is_wrong(root: Path) -> None:
    """A name in the part that could not be read would seem unknown."""
    (root / "backends.yaml").write_text("backends:\n- name: counter\n  instances: many\n")
    (root / "queue.yaml").write_text("queue:\n- name: q\n  rate: 1/s\n  target: counter\n")

    findings = config.check(root, ENVIRON)

    assert [mistake.file for mistake in findings.mistakes] == ["backends.yaml"]
    assert findings.notices == ()

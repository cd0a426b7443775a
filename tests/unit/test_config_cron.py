"""cron.yaml: what a good file means, and how twenty wrong ones are told of."""

import re
import textwrap
from pathlib import Path

import pytest

from lastacross import cli, config
from lastacross.config import CronEntry, RetryParameters
from lastacross.errors import ConfigError

ENVIRON = {"SECRET_KEY": "a secret key of the tests, long enough"}
J = "cron:\n- url: /x\n  schedule: every 5 mins\n"


def load(root: Path, text: str) -> config.Config:
    """The configuration with this cron.yaml."""
    (root / "cron.yaml").write_text(textwrap.dedent(text))
    return config.load(root, ENVIRON)


def test_every_key_of_a_job_is_read(app_root: Path) -> None:
    loaded = load(
        app_root,
        """
        cron:
        - description: "daily summary"
          url: /tasks/summary?full=1
          schedule: every monday 09:00
          timezone: Australia/Lord_Howe
          target: beta
          retry_parameters:
            job_retry_limit: 3
            job_age_limit: 1d
            min_backoff_seconds: 2.5
            max_backoff_seconds: 60
            max_doublings: 0
          attempt_deadline: 90.5s
          misfire: skip
        """,
    )

    [job] = loaded.cron
    assert job == CronEntry(
        name=job.name,
        url="/tasks/summary?full=1",
        schedule="every monday 09:00",
        timezone="Australia/Lord_Howe",
        description="daily summary",
        target="beta",
        retry=RetryParameters(3, 86_400, 2.5, 60.0, 0),
        attempt_deadline_seconds=90.5,
        misfire="skip",
    )
    assert job.name.startswith("tasks-summary-full-1-")
    assert loaded.has_cron_file


def test_what_is_left_out_is_as_app_engine_had_it(app_root: Path) -> None:
    [job] = load(app_root, J).cron

    assert (job.timezone, job.retry, job.target, job.description) == ("UTC", None, None, "")
    assert (job.attempt_deadline_seconds, job.misfire) == (None, "run")


def test_a_block_of_retries_without_a_limit_allows_five(app_root: Path) -> None:
    [job] = load(app_root, J + "  retry_parameters:\n    job_age_limit: 0s\n").cron

    assert job.retry == RetryParameters(5, 0, 5.0, 3600.0, 5)


@pytest.mark.parametrize("text", ["cron:\n", "cron: []\n"])
def test_a_file_may_list_no_job(app_root: Path, text: str) -> None:
    loaded = load(app_root, text)

    assert (loaded.cron, loaded.has_cron_file) == ((), True)


def test_without_a_file_there_is_no_job(app_root: Path) -> None:
    loaded = config.load(app_root, ENVIRON)

    assert (loaded.cron, loaded.has_cron_file) == ((), False)


def test_a_job_keeps_its_name_when_its_schedule_changes_and_shares_it_with_nobody(app_root: Path) -> None:
    before = load(app_root, J)
    after = load(app_root, "cron:\n- url: /y\n  schedule: every 5 mins\n" + J[6:].replace("5", "9") + J[6:])

    names = [job.name for job in after.cron]
    assert names[1] == before.cron[0].name
    assert len(set(names)) == 3


def test_the_name_of_a_job_has_up_to_60_characters_of_its_url(app_root: Path) -> None:
    """The datastore keeps the job and its runs under this name."""
    found = load(app_root, f"cron:\n- url: /tasks/{'x' * 100}\n  schedule: every 5 mins\n")

    assert re.fullmatch(r"tasks-x{54}-[0-9a-f]{8}", found.cron[0].name)


@pytest.mark.parametrize(
    ("line", "remark"),
    [
        ("  retry_parameters: {job_retry_limit: 9}\n", "exceeds App Engine's limit of 5"),
        ("  attempt_deadline: -1s\n", "would prevent every run"),
        ("  attempt_deadline: 0s\n", "would prevent every run"),
        ("  attempt_deadline: 99999s\n", "24 hours are used instead"),
        ("  target: nobody:v1\n", "names a service that"),
    ],
)
def test_what_is_odd_is_read_with_a_notice(app_root: Path, line: str, remark: str) -> None:
    assert any(remark in notice for notice in load(app_root, J + line).notices)


WRONG = [
    ("cron:\n- url: /x\n  schedule: every 5 minuts\n", "3:13", "has 'minuts' at column 9", "minutes"),
    ("cron:\n- url: /x\n  schedule: every 5 parsecs\n", "3:13", "'hours', 'mins' or 'minutes'", None),
    (
        "cron:\n- url: /x\n  schedule: '*/5 * * * *'\n",
        "3:13",
        "is written in Unix cron syntax",
        "every 5 minutes synchronized",
    ),
    ("cron:\n- url: /x\n  schedule: 30 of feb 09:00\n", "3:13", "do not exist in these months", None),
    ("cron:\n- url: /x\n  schedule: [1]\n", "3:13", "schedule (a list) must be a single value", None),
    ("cron:\n- url: /x\n", "2:3", "schedule is missing: a cron job needs one", None),
    ("cron:\n- schedule: every 5 mins\n", "2:3", "url is missing: a cron job needs one", None),
    ("cron:\n- url: x\n  schedule: every 5 mins\n", "2:8", "url 'x' does not begin with '/'", "/x"),
    ("cron:\n- url: http://a.b/x y\n  schedule: every 5 mins\n", "2:8", "does not begin with '/'", "/x y"),
    ("cron:\n- url: /x#y\n  schedule: every 5 mins\n", "2:8", "contains '#'", "/x"),
    (J + "  timezone: Mars/X\n", "4:13", "timezone 'Mars/X' is not a time zone", None),
    (J + "  timezone: Europe/berlin\n", "4:13", "timezone 'Europe/berlin'", "Europe/Berlin"),
    (
        J + "  target: 1.module\n",
        "4:11",
        r"Value '1.module' for target does not match expression '^(?:^(?:(?:((?!-)[a-z\d\-]{1,63}):)?)"
        r"((?!-)[a-z\d\-]{1,100})$)$'",
        "module:1",
    ),
    (J + "  target: my_service\n", "4:11", "target 'my_service' must be", "my-service"),
    (J + "  retries: 5\n", "4:3", "a cron job has no key 'retries'", None),
    (J + "  time_zone: UTC\n", "4:3", "a cron job has no key 'time_zone'", "timezone"),
    (J + "  retry_parameters: {job_retry_limit: -1}\n", "4:39", "'-1' must not be negative", "1"),
    (J + "  retry_parameters: {task_retry_limit: 1}\n", "4:22", "'task_retry_limit'", "job_retry_limit"),
    (J + "  retry_parameters: {job_age_limit: 5}\n", "4:37", "job_age_limit '5'", "5s"),
    (
        J + "  retry_parameters: {min_backoff_seconds: 9, max_backoff_seconds: 1}\n",
        "4:43",
        "is greater",
        None,
    ),
    (J + "  attempt_deadline: 5m\n", "4:21", "attempt_deadline '5m' is not a number of seconds", "5s"),
    (J + f"  description: {'x' * 500}\n", "4:16", "is longer than 499 characters", None),
    (J + "  misfire: skpi\n", "4:12", "misfire 'skpi' must be run or skip", "skip"),
    ("crom:\n- url: /x\n  schedule: every 5 mins\n", "1:1", "cron.yaml has no key 'crom'", "cron"),
    (
        "cron:\n  url: /x\n  schedule: every 5 mins\n",
        "2:3",
        "must be a list of cron jobs; begin each item with '- '",
        None,
    ),
    (
        "cron:\nurl: /x\nschedule: every 5 mins\n",
        "2:1",
        "'url' belongs to a cron job; write 'cron:' first, begin each job under it with '- '",
        None,
    ),
    ("url: /x\nschedule: every 5 mins\n", "1:1", "'url' belongs to a cron job; write 'cron:' first", None),
    (
        "cron:\n- url: /x\nschedule: every 5 mins\n",
        "3:1",
        "'schedule' belongs to a cron job; indent it by two spaces, like the other keys of the job above",
        None,
    ),
    ("- url: /x\n", "1:1", "found (a list); write 'cron:' on a line above it", None),
    ("", "1:1", "Empty cron configuration", None),
    (J + "---\n" + J, "4:1", "a second document starts here", None),
    (J + "\turl: /y\n", "4:1", "indent with spaces, not tabs", None),
]


@pytest.mark.parametrize(("text", "place", "words", "hint"), WRONG)
def test_a_wrong_file_is_told_of_with_its_place_and_what_was_likely_meant(
    app_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    text: str,
    place: str,
    words: str,
    hint: str | None,
) -> None:
    """As `lastacross config check` says it: exit code 2, one line, no traceback."""
    monkeypatch.setenv("SECRET_KEY", ENVIRON["SECRET_KEY"])
    (app_root / "cron.yaml").write_text(text)

    code = cli.run(["--app", str(app_root), "config", "check"])

    told = capsys.readouterr()
    assert code == 2
    [line] = [line for line in (told.out + told.err).splitlines() if f"cron.yaml:{place}:" in line]
    assert words in line
    assert (f"Did you mean {hint!r}?" in line) == (hint is not None)
    assert "Traceback" not in told.out + told.err


def test_a_queue_may_not_have_the_name_of_the_engines_own(app_root: Path) -> None:
    (app_root / "queue.yaml").write_text("queue:\n- name: lastacross-cron\n  rate: 1/s\n")

    [mistake] = config.check(app_root, ENVIRON).mistakes

    assert "is the engine's own queue" in str(mistake)


def test_cron_yaml_alone_is_read_again_without_the_other_files(app_root: Path) -> None:
    """The scheduler does it while it runs: a wrong queue.yaml does not stop it."""
    (app_root / "queue.yaml").write_text("queue: x\n")
    assert config.read_cron(app_root) is None

    (app_root / "cron.yaml").write_text(J)

    assert [job.url for job in config.read_cron(app_root) or ()] == ["/x"]


def test_a_wrong_cron_yaml_is_refused_when_it_is_read_again(app_root: Path) -> None:
    (app_root / "cron.yaml").write_text(J + "  misfire: skpi\n")

    with pytest.raises(ConfigError, match="misfire"):
        config.read_cron(app_root)

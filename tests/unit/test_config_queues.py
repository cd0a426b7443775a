"""queue.yaml: what a good file means."""

import textwrap
from pathlib import Path

import pytest

from lastacross import config
from lastacross.errors import ConfigError

ENVIRON = {"SECRET_KEY": "a secret key of the tests, long enough"}


def load(root: Path, text: str) -> config.Config:
    """The configuration with this queue.yaml."""
    (root / "queue.yaml").write_text(textwrap.dedent(text))
    return config.load(root, ENVIRON)


def queue(root: Path, lines: str) -> config.QueueConfig:
    """A queue ``q`` with these lines in it."""
    body = "queue:\n- name: q\n" + textwrap.indent(textwrap.dedent(lines).strip(), "  ") + "\n"
    return load(root, body).queues["q"]


def test_every_key_of_a_push_queue_is_read(app_root: Path) -> None:
    """All of APPENGINE's push columns at once."""
    loaded = load(
        app_root,
        """
        application: my-app
        total_storage_limit: 1.5M
        resume_paused_queues: False
        queue:
        - name: Fast-1
          mode: push
          rate: 20/m
          bucket_size: 40
          max_concurrent_requests: 10
          target: v1.default
          retry_parameters:
            task_retry_limit: 7
            task_age_limit: 2d
            min_backoff_seconds: 10
            max_backoff_seconds: 200
            max_doublings: 0
        """,
    )

    assert loaded.queues["Fast-1"] == config.QueueConfig(
        name="Fast-1",
        rate=20 / 60,
        bucket_size=40,
        max_concurrent_requests=10,
        target="v1.default",
        retry=config.RetryParameters(7, 172_800, 10.0, 200.0, 0),
    )
    assert loaded.total_storage_limit_bytes == 1_572_864
    assert loaded.resume_paused_queues is False
    assert loaded.notices == ()


def test_a_pull_queue_has_an_acl(app_root: Path) -> None:
    """Who may use it over REST."""
    found = queue(
        app_root,
        """
        mode: pull
        acl:
        - user_email: a@example.com
        - writer_email: b@example.com
        retry_parameters:
          task_retry_limit: 3
        """,
    )

    assert found.mode == "pull"
    assert found.acl == (config.Acl("a@example.com"), config.Acl(None, "b@example.com"))
    assert found.retry == config.RetryParameters(task_retry_limit=3)


@pytest.mark.parametrize(
    "text", ["queue:\n", "queue: []\n", "application: x\n", "queue:\n- name: other\n  rate: 1/s\n"]
)
def test_the_default_queue_is_there_unasked(app_root: Path, text: str) -> None:
    """5/s, bucket 5."""
    assert load(app_root, text).queues["default"] == config.QueueConfig("default", rate=5.0, bucket_size=5)


def test_without_a_file_there_is_the_default_queue_alone(app_root: Path) -> None:
    """A missing queue.yaml is no mistake."""
    (app_root / "queue.yaml").unlink()

    assert list(config.load(app_root, ENVIRON).queues) == ["default"]


def test_a_yml_file_is_read_too(app_root: Path) -> None:
    """App Engine took both endings."""
    (app_root / "queue.yaml").rename(app_root / "queue.yml")

    assert config.load(app_root, ENVIRON).queues["default"].rate == 500


def test_two_files_of_one_kind_are_refused(app_root: Path) -> None:
    """Which of the two is meant cannot be known."""
    (app_root / "queue.yml").write_text("queue:\n")

    with pytest.raises(ConfigError, match=r"queue\.yaml: queue\.yml exists too"):
        config.load(app_root, ENVIRON)


def test_rate_zero_is_a_paused_queue(app_root: Path) -> None:
    """Not App Engine's default rate."""
    assert queue(app_root, "rate: 0").rate == 0


def test_words_stay_the_text_that_was_written(app_root: Path) -> None:
    """``no`` is a service's name here, not False, and 1.10 is not 1.1."""
    assert queue(app_root, "rate: 1/s\ntarget: no").target == "no"
    assert queue(app_root, "rate: 1/s\ntarget: 1.10").target == "1.10"
    assert load(app_root, "queue:\n- name: 007\n  rate: 1/s\n").queues["007"].name == "007"


def test_a_key_with_nothing_after_it_counts_as_absent(app_root: Path) -> None:
    """As App Engine read it."""
    found = queue(app_root, "rate: 1/s\nbucket_size:\nretry_parameters:\ntarget: ~")

    assert (found.bucket_size, found.retry, found.target) == (5, None, None)


@pytest.mark.parametrize(
    ("lines", "shortest", "longest"),
    [
        ("task_retry_limit: 1", 0.1, 3600),
        ("min_backoff_seconds: 5000", 5000, 5000),
        ("min_backoff_seconds: 3600", 3600, 3600),
        ("max_backoff_seconds: 0.05", 0.05, 0.05),
        ("max_backoff_seconds: 0", 0, 0),
        ("min_backoff_seconds: 2.5", 2.5, 3600),
        ("min_backoff_seconds: 1e1\nmax_backoff_seconds: 2e2", 10, 200),
    ],
)
def test_a_bound_left_out_gives_way_to_the_one_written(
    app_root: Path, lines: str, shortest: float, longest: float
) -> None:
    """App Engine's adjustment of the back-off."""
    found = queue(app_root, "rate: 1/s\nretry_parameters:\n" + textwrap.indent(lines, "  "))

    assert found.retry is not None
    assert (found.retry.min_backoff_seconds, found.retry.max_backoff_seconds) == (shortest, longest)
    assert found.retry.max_doublings == 16


@pytest.mark.parametrize(
    ("lines", "notice"),
    [
        ("bucket_size: 5", "queue.yaml:2:3: queue 'q' has no rate; the default of 5/s applies"),
        ("rate: 501/s", "queue.yaml:3:9: rate 501/s exceeds App Engine's limit of 500/s"),
        ("rate: 1/s\nbucket_size: 501", "queue.yaml:4:16: bucket_size 501 exceeds App Engine's limit of 500"),
        ("rate: 1/s\nmax_concurrent_requests: 5001", "5001 exceeds App Engine's limit of 5000"),
        (
            "rate: 1/s\nbucket_size: -1",
            "bucket_size -1 would keep every task from running; 5 is used instead",
        ),
        ("rate: 1/s\nbucket_size: 0", "bucket_size 0 would keep every task from running; 5 is used instead"),
        ("rate: 1/s\nmax_concurrent_requests: 0", "would keep every task from running; it is ignored"),
        ("mode: pull\nrate: 1/s", "queue.yaml:4:3: rate has no effect on the pull queue 'q'"),
        ("mode: pull\nbucket_size: 5", "queue.yaml:4:3: bucket_size has no effect on the pull"),
        ("mode: pull\nmax_concurrent_requests: 5", "max_concurrent_requests has no effect on the pull"),
        ("mode: pull\ntarget: default", "queue.yaml:4:3: target has no effect on the pull queue"),
        (
            "mode: pull\nretry_parameters: {task_age_limit: 1d}",
            "4:22: task_age_limit has no effect on the pull",
        ),
        ("rate: 1/s\nacl: [{user_email: a@b}]", "queue.yaml:4:3: acl has no effect on the push queue"),
    ],
)
def test_what_app_engine_would_not_take_is_accepted_with_a_notice(
    app_root: Path, lines: str, notice: str
) -> None:
    """A peer's file that loads on App Engine must load here."""
    text = "queue:\n- name: q\n" + textwrap.indent(lines, "  ") + "\n"

    loaded = load(app_root, text)

    assert len(loaded.notices) == 1
    assert notice in loaded.notices[0]


def test_of_two_queues_with_one_name_the_last_counts(app_root: Path) -> None:
    """App Engine's parser takes such a file; a notice says which is used."""
    loaded = load(app_root, "queue:\n- name: q\n  rate: 1/s\n- name: q\n  rate: 2/s\n")

    assert loaded.queues["q"].rate == 2
    assert loaded.notices == ("queue.yaml:4:9: queue 'q' is defined twice; this definition is used",)


def test_the_digest_follows_the_meaning_not_the_looks(app_root: Path) -> None:
    """Order, comments and spelling do not matter; a rate does."""
    first = load(app_root, "queue:\n- name: a\n  rate: 60/m\n- name: b\n  rate: 2/s\n")
    same = load(app_root, "queue: # other looks\n- {rate: 2/s, name: b}\n- {name: a, rate: '1/s'}\n")
    other = load(app_root, "queue:\n- name: a\n  rate: 1/s\n- name: b\n  rate: 3/s\n")

    assert config.digest(first.queues) == config.digest(same.queues)
    assert config.digest(first.queues) != config.digest(other.queues)


def test_what_was_read_cannot_be_changed(app_root: Path) -> None:
    """Frozen, so that nobody changes another's settings."""
    loaded = load(app_root, "queue:\n")

    with pytest.raises(TypeError):
        loaded.queues["x"] = loaded.queues["default"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        loaded.queues["default"].rate = 1.0  # type: ignore[misc]


def test_an_instance_as_target_is_refused_in_app_engines_words(app_root: Path) -> None:
    """A peer's test compares them."""
    expression = r"^(?:^(?:(?:((?!-)[a-z\d\-]{1,100})\.)?)((?!-)[a-z\d\-]{1,63})$)$"

    with pytest.raises(ConfigError) as refused:
        queue(app_root, "rate: 1/s\ntarget: 1.1.module")

    assert f"Value '1.1.module' for target does not match expression '{expression}'" in str(refused.value)


@pytest.mark.parametrize("target", ["module", "v-1.module", "1.2", "0", "a" * 63, "a" * 100 + "." + "b" * 63])
def test_a_target_is_a_service_or_a_version_of_one(app_root: Path, target: str) -> None:
    """Up to 100 characters of version, 63 of service."""
    assert queue(app_root, f"rate: 1/s\ntarget: {target}").target == target


@pytest.mark.parametrize(
    "target", ["a" * 64, "a" * 101 + ".b", "-a", "a.-b", "a_b", "A", "a.", ".a", "a b", "1.1.1.1"]
)
def test_any_other_target_is_refused(app_root: Path, target: str) -> None:
    """By App Engine's expression."""
    with pytest.raises(ConfigError, match=r"^queue\.yaml:4:11: target "):
        queue(app_root, f"rate: 1/s\ntarget: '{target}'")


@pytest.mark.parametrize("name", ["q", "Q-1", "-", "0", "q" * 100])
def test_a_queues_name_is_letters_digits_and_hyphens(app_root: Path, name: str) -> None:
    """Up to 100 of them, as the client library takes them."""
    assert name in load(app_root, f"queue:\n- name: '{name}'\n  rate: 1/s\n").queues


@pytest.mark.parametrize(
    ("lines", "field", "value"),
    [
        ("task_retry_limit: 0", "task_retry_limit", 0),
        ("task_age_limit: 1e-1h", "task_age_limit_seconds", 360),
        ("task_age_limit: 1.9s", "task_age_limit_seconds", 1),
        ("min_backoff_seconds: 0", "min_backoff_seconds", 0),
        ("max_backoff_seconds: 1.5e3", "max_backoff_seconds", 1500),
        ("max_doublings: 0", "max_doublings", 0),
    ],
)
def test_each_retry_parameter_has_its_form(app_root: Path, lines: str, field: str, value: float) -> None:
    """Zero is a value, not an absence."""
    found = queue(app_root, f"rate: 1/s\nretry_parameters:\n  {lines}")

    assert getattr(found.retry, field) == value


def test_retry_parameters_left_out_are_app_engines_defaults(app_root: Path) -> None:
    """Without limit, 0.1 s to an hour, 16 doublings."""
    found = queue(app_root, "rate: 1/s\nretry_parameters: {}")

    assert found.retry == config.RetryParameters(None, None, 0.1, 3600, 16)


def test_without_retry_parameters_there_is_no_block(app_root: Path) -> None:
    """So that a task's own options, or the defaults, hold whole."""
    assert queue(app_root, "rate: 1/s").retry is None


def test_queue_yaml_alone_is_read_again(app_root: Path) -> None:
    """Whatever has become of the other files since the start."""
    (app_root / "app.yaml").write_text("handlers: broken\n")
    (app_root / "queue.yaml").write_text("queue:\n- name: q\n  rate: 2/s\n  target: nobody\n")

    assert {name: found.rate for name, found in config.read_queues(app_root).items()} == {
        "q": 2,
        "default": 5,
    }


def test_a_wrong_queue_yaml_read_again_has_all_its_mistakes(app_root: Path) -> None:
    """From the top of the file to its end."""
    (app_root / "queue.yaml").write_text("queue:\n- name: a_b\n  rate: 5/x\n- nam: c\n  rate: 1/s\n")

    with pytest.raises(ConfigError, match=r"^queue\.yaml:2:9: name 'a_b'") as refused:
        config.read_queues(app_root)

    assert [mistake.line for mistake in refused.value.mistakes] == [2, 3, 4, 4]


def test_a_queue_yaml_that_went_away_leaves_the_default_queue(app_root: Path) -> None:
    """As at a start without one."""
    (app_root / "queue.yaml").unlink()

    assert list(config.read_queues(app_root)) == ["default"]


@pytest.mark.parametrize(("name", "is_there"), [("queue.yaml", True), ("queue.yml", True), ("other", False)])
def test_the_configuration_knows_whether_there_is_a_queue_file(
    app_root: Path, name: str, is_there: bool
) -> None:
    """Only a file's queues are uploaded in place of others."""
    (app_root / "queue.yaml").rename(app_root / name)

    assert config.load(app_root, ENVIRON).has_queue_file is is_there

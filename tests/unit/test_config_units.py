"""The notations of the YAML files: rates, lengths of time, sizes."""

import pytest

from lastacross.config import units
from lastacross.config.diagnostics import MAX_HINT_CHARACTERS, UnusableError, sentence


@pytest.mark.parametrize(
    ("text", "per_second"),
    [
        ("0", 0),
        ("1/s", 1),
        ("20/m", 1 / 3),
        ("2000/d", 1 / 43.2),
        ("1.5/m", 0.025),
        ("7200./h", 2),
        ("0/s", 0),
        ("501/s", 501),
        ("50000/s", 50_000),
        ("007/s", 7),
    ],
)
def test_a_rate_is_read_as_tasks_a_second(text: str, per_second: float) -> None:
    """The accepted rows of App Engine's own table."""
    assert units.parse_rate(text) == pytest.approx(per_second, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("5/q", "5/s"),
        ("5/x", "5/s"),
        ("abc", None),
        ("/s", None),
        ("", None),
        ("-1/s", "1/s"),
        ("1 /s", "1/s"),
        ("1e2/s", "100/s"),
        (".5/s", "0.5/s"),
        ("1/", "1/s"),
        ("5/ss", "5/s"),
        ("5", "5/s"),
        ("5/S", "5/s"),
        ("5/min", "5/m"),
        ("5 per hour", "5/h"),
        ("5/s\n", "5/s"),
        ("\u0665/s", None),
        ("1e999/s", None),
    ],
)
def test_a_wrong_rate_is_refused_with_the_likely_one(text: str, hint: str | None) -> None:
    """The refused rows, and the ways in which people write rates."""
    with pytest.raises(UnusableError) as refused:
        units.parse_rate(text)

    assert refused.value.hint == hint


def test_a_rate_beyond_counting_is_refused() -> None:
    """An infinite float never reaches a script."""
    with pytest.raises(UnusableError, match="too large"):
        units.parse_rate("9" * 400 + "/s")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("2d", 172_800), ("1.5m", 90), ("1e1h", 36_000), ("1.9s", 1), (".5m", 30), (" 3s ", 3)],
)
def test_an_age_limit_is_whole_seconds(text: str, seconds: int) -> None:
    """Fractions are cut off, as App Engine did."""
    assert units.parse_age_limit(text) == seconds


@pytest.mark.parametrize("text", ["0s", "0.9s", "-1s", "5", "5x", "s", "", "infd", "nans", "1e400d"])
def test_an_age_limit_that_is_none_is_refused(text: str) -> None:
    """Zero, no unit, no number, too much."""
    with pytest.raises(UnusableError):
        units.parse_age_limit(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("4d 5h", 363_600), ("10m", 600), ("30", 30), ("1D 2H 3M 4S", 93_784), (" 1s\t2s ", 3), ("0", 0)],
)
def test_an_expiration_adds_up_its_parts(text: str, seconds: int) -> None:
    """Units in either case; a number alone is seconds."""
    assert units.parse_expiration(text) == seconds


@pytest.mark.parametrize(
    ("text", "hint"), [("4d5h", "4d"), ("4 days", "4d"), ("1.5h", "1.5h"), ("", None), ("-1d", "1d")]
)
def test_a_wrong_expiration_is_refused(text: str, hint: str | None) -> None:
    """What App Engine's expression does not take."""
    with pytest.raises(UnusableError):
        units.parse_expiration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("10", 10), ("10B", 10), ("1K", 1024), ("1.5M", 1_572_864), ("2G", 2**31), ("1T", 2**40), ("2.", 2)],
)
def test_a_storage_limit_counts_in_powers_of_1024(text: str, size: int) -> None:
    """B, K, M, G, T."""
    assert units.parse_storage_limit(text) == size


@pytest.mark.parametrize(
    ("text", "hint"), [("1KB", "1K"), ("1k", "1K"), ("x", None), ("", None), ("-1M", None), ("1 M", None)]
)
def test_a_wrong_storage_limit_is_refused(text: str, hint: str | None) -> None:
    """With the likely one where there is one."""
    with pytest.raises(UnusableError) as refused:
        units.parse_storage_limit(text)

    assert refused.value.hint == hint


@pytest.mark.parametrize(
    ("text", "hint"), [("1.5", "1"), ("1,000", "1000"), ("1_000", "1000"), ("x", None), (".inf", None)]
)
def test_a_wrong_whole_number_is_refused(text: str, hint: str | None) -> None:
    """Python's own int() would take an underscore; a YAML file means something else by it."""
    with pytest.raises(UnusableError) as refused:
        units.parse_integer(text)

    assert refused.value.hint == hint


@pytest.mark.parametrize("text", ["9" * 5000, "1" + "0" * 300])
def test_a_number_of_thousands_of_digits_is_refused(text: str) -> None:
    """It is the text's mistake, not an error of Python's int()."""
    with pytest.raises(UnusableError, match="too large"):
        units.parse_integer(text)


@pytest.mark.parametrize(
    ("text", "hint"), [("10s", "10"), ("10 seconds", "10"), ("-1", "1"), ("nan", None), ("inf", None)]
)
def test_a_wrong_number_of_seconds_is_refused(text: str, hint: str | None) -> None:
    """Infinity and not-a-number too, which float() would take."""
    with pytest.raises(UnusableError) as refused:
        units.parse_seconds(text)

    assert refused.value.hint == hint


@pytest.mark.parametrize(("text", "value"), [("True", True), ("on", True), ("no", False), ("FALSE", False)])
def test_a_switch_takes_every_spelling_of_yaml_1_1(text: str, value: bool) -> None:
    """The files are older than YAML 1.2."""
    assert units.parse_switch(text) is value


def test_a_hint_that_is_too_long_to_be_read_is_left_out() -> None:
    """A hint repeats the text, which may be a megabyte."""
    assert sentence("is wrong", "x" * MAX_HINT_CHARACTERS).endswith("xx'?")
    assert sentence("is wrong", "x" * (MAX_HINT_CHARACTERS + 1)) == "is wrong"

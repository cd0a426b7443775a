"""Which errors are one group, what a field may be, and what a chart shows."""

import time

import pytest

from programs.errors import browsers, grouping, notifying
from programs.errors import chart as error_chart
from programs.errors import fields as error_fields
from programs.shared import forms

GIVEN = {"account": "shop", "url": "https://shop.example/a", "status": 500, "type": "KeyError", "msg": "no 7"}
DAY = 86_400.0


@pytest.mark.parametrize(
    ("msg", "masked"),
    [
        ("user 17 has 3.5 GB and -2 left", "user <n> has <n> GB and <n> left"),
        ("at 0x7f3a2b001c10 of web-12", "at <hex> of web-<n>"),
        ("order 123e4567-e89b-12d3-a456-426614174000 is gone", "order <uuid> is gone"),
        ("session deadbeef01 expired", "session <hex> expired"),
        ("10.0.0.5:6379 and ::1 and fe80::1:2:3 refuse", "<address> and ::<n> and <address> refuse"),
        ("no mailbox for kim.lee+x@mail.shop.example", "no mailbox for <mail>"),
        ("'name'", "'name'"),
        ("'article 12'", "'article <n>'"),
        ("took 12:30:45 in\n\n  two  lines", "took <n> in two lines"),
        ("٣ articles", "<n> articles"),
        ("", ""),
    ],
)
def test_what_changes_from_time_to_time_is_masked_in_a_message(msg: str, masked: str) -> None:
    assert grouping.masked(msg) == masked


@pytest.mark.parametrize("piece", ["a", "1", "a1", "1.", ":", "a:", "@", "a@", "a.", "0x", "f-", "é", "-1"])
def test_masking_takes_no_longer_than_the_longest_message_deserves(piece: str) -> None:
    begun = time.process_time()

    grouping.masked(piece * (error_fields.MAX_LENGTHS["msg"] // len(piece)))

    assert time.process_time() - begun < 1.0


def test_an_error_is_like_another_in_type_server_message_status_and_domain() -> None:
    def of(error_type: str = "KeyError", server: str = "web", msg: str = "no 7", **more: object) -> str:
        named = {"status": 500, "url": "https://shop.example/a", **more}
        return grouping.likeness(error_type, server, msg, **named).fingerprint  # type: ignore[arg-type]

    assert of() == of(msg="no 8") == of(url="http://SHOP.example:8080/b?c")
    others = [
        of("ValueError"),
        of(server="web2"),
        of(msg="none"),
        of(status=404),
        of(url="https://b.example/"),
    ]
    assert len({of(), *others}) == 6
    assert of("ab", "c") != of("a", "bc")


def test_a_long_message_is_cut_in_its_group_and_its_fingerprint_is_of_the_whole() -> None:
    def of(msg: str) -> grouping.Likeness:
        return grouping.likeness("KeyError", "web", msg, status=500, url="https://shop.example/a")

    long = of("order 7 is gone " * 40)

    assert len(long.msg) == grouping.MAX_MSG_LENGTH
    assert long.msg.startswith("order <n> is gone order")
    # As releases had it that kept the whole message: the same errors stay one group.
    assert long.fingerprint == "edf66551f8823a61da5abe402ee68293379b35004de37a323b82a161b407e4be"
    assert of("order 8 is gone " * 40) == long != of("order 7 is gone " * 39 + "order 7 is lost")


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://user:pass@Shop.Example:8443/x", "shop.example"),
        ("shop.example/x", "shop.example"),
        ("//[::1]:80/", "::1"),
        ("http://[broken/", ""),
        ("/only/a/path", ""),
    ],
)
def test_a_domain_is_the_host_of_an_address_without_port_and_user(url: str, domain: str) -> None:
    assert grouping.domain_of(url) == domain


def test_a_user_agent_says_browser_system_and_device() -> None:
    phone = (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
        "Version/17.0 Mobile/15E148 Safari/604.1"
    )

    assert browsers.parse(phone) == browsers.Client("Mobile Safari 17", "iOS 17", "iPhone")
    assert browsers.parse("") == browsers.parse("nobody knows") == browsers.Client()
    begun = time.process_time()
    browsers.parse("Mozilla/5.0 (" + "a; " * 100_000)
    assert time.process_time() - begun < 1.0


# --- fields -------------------------------------------------------------------------------


def mistakes_of(**changes: object) -> dict[str, str]:
    """What is wrong with an error that differs so from one that is right."""
    with pytest.raises(forms.FormError) as caught:
        error_fields.parse({**GIVEN, **changes})
    return caught.value.mistakes


def test_every_missing_field_is_named_with_what_it_takes() -> None:
    with pytest.raises(forms.FormError) as caught:
        error_fields.parse({"url": "  ", "server": "web-1"})

    assert list(caught.value.mistakes) == ["account", "url", "status", "type", "msg"]
    assert caught.value.mistakes["status"].endswith("a whole number from 100 to 599; it is missing.")
    assert caught.value.mistakes["url"].endswith("it is empty.")


@pytest.mark.parametrize(
    ("changes", "takes"),
    [
        ({"priority": 11}, "must be a whole number from 1 to 10, not “11”."),
        ({"priority": 0}, "must be a whole number from 1 to 10, not “0”."),
        ({"status": "fine"}, "must be a whole number from 100 to 599, not “fine”."),
        ({"status": True}, "must be a whole number from 100 to 599, not “true”."),
        ({"timestamp": "yesterday"}, "or seconds since 1970, not “yesterday”."),
        ({"timestamp": "9" * 12}, "in a year from 1970 to 2099"),
        ({"timestamp": "0001-01-01T00:00:00+23:59"}, "must be a time such as"),
        ({"uid": "u" * 101}, "must have at most 100 characters, not 101."),
        ({"msg": object()}, "must be text, not a file."),
    ],
)
def test_a_field_that_cannot_be_used_says_what_it_takes(changes: dict[str, object], takes: str) -> None:
    found = mistakes_of(**changes)

    assert list(found) == list(changes)
    assert takes in next(iter(found.values()))


def test_a_time_is_iso_8601_or_seconds() -> None:
    at = 1_795_249_800.0

    assert error_fields.instant_of("2026-11-21T08:30:00Z") == at
    assert error_fields.instant_of("2026-11-21 09:30:00+01:00") == at
    assert error_fields.instant_of("2026-11-21T08:30:00") == at
    assert error_fields.instant_of(" 1795249800.5 ") == at + 0.5


def test_a_time_may_be_a_date_of_http_or_javascript_s_milliseconds() -> None:
    at = 1_795_249_800.0

    assert error_fields.instant_of("Sat, 21 Nov 2026 08:30:00 GMT") == at
    assert error_fields.instant_of("Sat, 21 Nov 2026 09:30:00 +0100") == at
    assert error_fields.instant_of("1795249800500") == at + 0.5
    for wrong in ("9999999999999", "17952498005001", "Sat, 31 Feb 2026 08:30:00 GMT", "Sat, 21 Nov"):
        with pytest.raises(ValueError, match="must be a time such as"):
            error_fields.instant_of(wrong)


def test_a_time_of_eight_digits_is_a_date_and_a_small_number_is_no_time() -> None:
    assert error_fields.instant_of("20261121") == error_fields.instant_of("2026-11-21")
    assert error_fields.instant_of(" 19700102 ") == DAY
    assert error_fields.instant_of("1000000000") == 1e9
    assert error_fields.instant_of("1000000000000") == 1e9
    for small in ("0", "2026", "202611", "20261121.5", "999999999", "999999999.9"):
        with pytest.raises(ValueError, match=f"seconds since 1970, 1,000,000,000 or more, not “{small}”"):
            error_fields.instant_of(small)
    for wrong in ("20261321", "20260231", "1234567.", "20261121083000", "202611210083000", "9" * 5000):
        with pytest.raises(ValueError, match="must be a time such as"):
            error_fields.instant_of(wrong)


def test_what_may_be_left_out_has_a_usual_value_and_what_nobody_knows_is_ignored() -> None:
    found = error_fields.parse({**GIVEN, "color": "red", "uid": " "})

    assert (found.priority, found.uid, found.happened_at) == (5, None, None)
    assert set(found.texts) == set(error_fields.MAX_LENGTHS)
    assert found.texts["username"] == ""


def test_what_is_too_long_is_cut_with_a_mark_and_a_traceback_keeps_its_end() -> None:
    found = error_fields.parse({**GIVEN, "traceback": "a" * 5_000_000 + "THE END", "server": "s" * 300})

    traceback = found.texts["traceback"]
    assert len(traceback) == 65_536
    assert traceback.endswith("THE END")
    assert traceback.index(" […") == pytest.approx(65_536 / 4, rel=0.01)
    assert "[… cut from 5,000,007 to 65,536 characters …]" in traceback
    assert len(found.texts["server"]) == 200
    assert error_fields.parse({**GIVEN, "msg": "m" * 4096}).texts["msg"] == "m" * 4096


def test_what_a_database_would_refuse_is_replaced() -> None:
    found = error_fields.parse({**GIVEN, "msg": "a\0b\ud800c\x1b[1m\r\nd", "request": {"path": "/é"}})

    assert found.texts["msg"] == "a\ufffdb\ufffdc\ufffd[1m\nd"
    assert found.texts["request"] == '{"path": "/é"}'


# --- the chart ----------------------------------------------------------------------------


def test_a_chart_has_a_bar_for_each_hour_of_a_day_and_the_last_is_this_hour() -> None:
    now = 1_795_249_800.0
    this_hour = int(now // 3600) * 3600
    first = error_chart.beginning(now, "day")

    drawn = error_chart.chart({this_hour: 30, first: 1, first - 3600: 99}, now, "day")

    assert len(drawn.bars) == 24
    assert [bar.count for bar in drawn.bars] == [1] + [0] * 22 + [30]
    assert (drawn.top, drawn.total) == (50, 31)
    assert drawn.bars[-1].height == error_chart.HEIGHT * 30 / 50
    assert drawn.text == "31 errors in the last 24 hours; most of them, 30, 21 Nov 08:00 to 09:00 UTC."


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([], "No errors in the last 24 hours."),
        ([1], "1 error in the last 24 hours: 21 Nov 08:00 to 09:00 UTC."),
        ([2], "2 errors in the last 24 hours; all of them 21 Nov 08:00 to 09:00 UTC."),
        ([2, 1], "3 errors in the last 24 hours; most of them, 2, 21 Nov 08:00 to 09:00 UTC."),
    ],
)
def test_a_chart_says_in_words_what_it_shows(counts: list[int], text: str) -> None:
    now = 1_795_249_800.0
    hour = int(now // 3600) * 3600

    found = error_chart.chart({hour - 3600 * place: n for place, n in enumerate(counts)}, now, "day")

    assert found.text == text


def test_a_week_is_summed_up_by_six_hours() -> None:
    now = 1_795_249_800.0
    first = error_chart.beginning(now, "week")

    drawn = error_chart.chart({first + hour * 3600: 1 for hour in range(168)}, now, "week")

    assert [bar.count for bar in drawn.bars] == [6] * 28
    assert error_chart.chart({}, now, "week").text == "No errors in the last 7 days."


@pytest.mark.parametrize(("count", "top"), [(0, 1), (1, 1), (2, 2), (3, 5), (10, 10), (11, 20), (999, 1000)])
def test_an_axis_ends_at_a_round_number(count: int, top: int) -> None:
    assert error_chart.nice(count) == top


def test_an_error_is_counted_with_the_usual_thresholds_when_others_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(notifying.THRESHOLDS, "a")

    assert notifying._thresholds_or_usual() == notifying.DEFAULT_THRESHOLDS

    [record] = caplog.records
    assert (record.levelname, "The defaults are used" in record.getMessage()) == ("ERROR", True)


@pytest.mark.parametrize("text", ["1,,2", "a", "0", "1.5", "-1"])
def test_thresholds_that_cannot_be_used_are_said(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(notifying.THRESHOLDS, text)
    with pytest.raises(ValueError, match="ERROR_THRESHOLDS must be whole numbers"):
        notifying.thresholds()
    monkeypatch.setenv(notifying.THRESHOLDS, " 5, 50 ")
    assert notifying.thresholds() == (5, 50)


def test_a_group_is_told_of_on_one_line_whatever_is_in_it() -> None:
    told = notifying.label("Key\nError:\t new", "no\r\n\tarticle  7", "shop.example")

    assert told == "Key Error: new: no article 7 on shop.example"


def test_a_digest_names_twenty_groups_and_counts_the_others() -> None:
    lines = [notifying.Line(f"g{new}", f"what {new}", new, 2 * new) for new in range(22, 2, -1)]

    told = notifying.digest_text(lines, 253, 22).split("\n")

    assert told[0] == "253 errors in 22 groups:"
    assert (told[1], told[20]) == ("22 times what 22 (44 in all)", "3 times what 3 (6 in all)")
    assert told[21:] == ["and 2 groups more"]
    assert notifying.digest_text(lines, 250, 20).split("\n")[20:] == ["3 times what 3 (6 in all)"]

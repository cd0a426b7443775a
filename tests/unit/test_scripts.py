"""Scripts: the texts of Lua files with what they include in front."""

from lastacross.store.scripts import Scripts

NAMES = {"RECORD": "rq:job:", "READY": "rq:queue:"}
LINE = "local RECORD, READY = 'rq:job:', 'rq:queue:'"


def test_what_is_included_stands_once_and_after_what_it_includes_itself() -> None:
    text, _ = Scripts(NAMES).find("lease_tasks")
    places = [text.index(part) for part in (LINE, "-- arrival:", "-- keys:", "-- fan_in:", "-- lease_tasks:")]
    assert places == sorted(places)
    assert text.count(LINE) == text.count("-- arrival:") == text.count("local function wake_group") == 1


def test_a_script_that_uses_no_names_has_none() -> None:
    text = Scripts(NAMES).find("cache_get")[0]
    assert "redis.call" in text
    assert "local RECORD" not in text


def test_the_sum_is_the_one_that_redis_knows_it_by() -> None:
    found = Scripts({}).find("cache_get")
    assert len(found[1]) == 40
    assert Scripts({}).find("cache_get") == found

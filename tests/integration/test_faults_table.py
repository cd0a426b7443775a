"""The rows of `make faults`: their table, their network, and one of them in short."""

import math
import socket
from pathlib import Path

import pytest
import redis

from tests.faults import __main__ as program
from tests.faults import kills, outages
from tests.faults.figures import HEAD, Figures, Line, percentile, table
from tests.faults.network import Network
from tests.faults.settings import SETTINGS, Setting, all_settings
from tests.support.redis_server import RedisServer

HUNDRED = [float(number) for number in range(1, 101)]


@pytest.mark.parametrize(("part", "value"), [(0.5, 50.0), (0.95, 95.0), (1.0, 100.0)])
def test_a_percentile_is_one_of_the_values(part: float, value: float) -> None:
    assert percentile(HUNDRED, part) == value
    assert percentile([7.0], part) == 7.0


def test_the_table_has_a_cell_for_each_figure() -> None:
    figures = Figures(12_345, 2, 0, 3, 20, 20, HUNDRED, 4.44, 1.26, ["one remark"])
    lines = [Line("a fault", "its parts", 1.5, figures), Line("another", "parts", 2.0, None, "it | failed")]

    head, rule, first, second = table(lines).splitlines()

    assert head.count("|") == rule.count("|") == first.count("|") == second.count("|") == len(HEAD) + 1
    assert first == (
        "| a fault | its parts | 12,345 | 2 | 0 | 3 | 20/20 "
        "| 50.00 / 95.00 / 100.00 s of 100 | 4.4 | 1.3 | 1.5 | one remark |"
    )
    assert second.endswith("| 2.0 | **failed**: it / failed |")


def test_a_row_that_fails_is_in_the_table() -> None:
    def fail(setting: Setting) -> Figures:
        raise AssertionError(f"lost {setting}")

    line = program.run(program.Row("a fault", "usual", fail), Setting())

    assert line.figures is None
    assert line.failure == "AssertionError: lost SQLite, Valkey, preload"


def test_four_settings_have_every_pair_of_parts() -> None:
    def pairs(settings: list[Setting]) -> set[tuple[str, str]]:
        found = set()
        for each in settings:
            parts = each.database, each.server, each.preload
            found |= {(parts[one], parts[other]) for one in range(3) for other in range(one)}
        return found

    assert len(SETTINGS["pairs"]) == 4
    assert pairs(list(SETTINGS["pairs"])) == pairs(all_settings())


def test_the_command_line_chooses_parts(capsys: pytest.CaptureFixture[str]) -> None:
    options = program.parsed(["--rows", "kill,storm", "--server", "redis", "--preload", "0"])
    assert options.rows == ["kill", "storm"]
    assert program.chosen_settings(program.ROWS["kill"], options) == [Setting("sqlite", "redis", "0")]
    every = program.parsed([])
    assert [len(program.chosen_settings(row, every)) for row in program.ROWS.values()] == [
        len(SETTINGS[row.settings]) for row in program.ROWS.values()
    ]
    with pytest.raises(SystemExit):
        program.parsed(["--rows", "flood"])
    assert "there is no row 'flood'" in capsys.readouterr().err


def test_a_silent_network_delays_and_loses_nothing(redis_server: RedisServer) -> None:
    path = Path(redis_server.url.removeprefix("unix://"))
    with Network(path) as network, redis.Redis.from_url(network.url, socket_timeout=0.3) as client:
        assert client.ping()
        with network.silent(), pytest.raises(redis.TimeoutError):
            client.ping()
        assert client.ping()
        port = int(network.url.rpartition(":")[2].partition("/")[0])
        with network.silent(), socket.create_connection(("127.0.0.1", port), timeout=5) as fresh:
            fresh.sendall(b"PING\r\n")
            fresh.settimeout(0.3)
            with pytest.raises(TimeoutError):
                fresh.recv(100)
        assert math.isfinite(client.time()[0])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("count", "batches", "members"),
    [(4, 1, 40), pytest.param(200, 20, 500, marks=[pytest.mark.long, pytest.mark.timeout(1800)])],
)
def test_a_storm_of_kills_of_running_processes_loses_nothing(count: int, batches: int, members: int) -> None:
    found = kills.storm(
        Setting(server="redis"), kills=count, every_seconds=0.5, batches=batches, members=members
    )

    assert (found.kills, found.lost, found.fired) == (count, 0, found.batches)
    assert found.batches >= batches
    assert found.tasks == found.batches * (members + 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_full_disk_of_redis_and_of_the_workers_loses_nothing() -> None:
    found = outages.full_disk(Setting(server="redis"), seconds=1.5)

    assert (found.lost, len(found.recovery)) == (0, 2)
    assert found.tasks > 50

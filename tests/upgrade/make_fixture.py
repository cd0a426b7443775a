"""Makes the upgrade fixture from the former code: ``python -m tests.upgrade.make_fixture``.

It writes ``former.tar.xz`` and the files of ``fixture/``: the former site's Redis and SQLite file, a manifest
of their contents, and the contract of names. It needs the repository's history.
"""

import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.redis_server import running_server
from tests.upgrade import contract, former, scenario, snapshot
from tests.upgrade.scenario import Scene

FIXTURE = former.FOLDER / "fixture"
REDIS = FIXTURE / "redis.json.gz"
SQL = FIXTURE / "database.sql.gz"
MANIFEST = FIXTURE / "manifest.json"
CONTRACT = FIXTURE / "contract.json"

_COUNTED = ("quilt", "count_run", "account", "error_group", "invoice", "invoice_line", "lastacross_cron_job")


def manifest(scene: Scene, made_at: float) -> dict[str, Any]:
    """The fixture's contents, as the former code itself lists them."""
    tasks: dict[str, dict[str, list[str]]] = {}
    for queue, listed in scenario.listed(scene).items():
        for task in listed:
            tasks.setdefault(queue, {}).setdefault(task["state"], []).append(task["name"])
    outbox = Counter(
        is_sent for (is_sent,) in scene.rows("SELECT sent_at IS NOT NULL FROM lastacross_outbox")
    )
    return {
        "commit": former.COMMIT,
        "made_at": made_at,
        "tasks": tasks,
        "long_tasks": dict(scene.rows("SELECT id, status FROM lastacross_long_task")),
        "outbox": {"sent": outbox[1], "unsent": outbox[0]},
        "quilts": [
            dict(zip(("id", "squares", "painted"), row, strict=True))
            for row in scene.rows("SELECT id, rows * columns, painted FROM quilt ORDER BY created_at")
        ],
        "counted": dict(
            scene.rows("SELECT run_id || '/' || place, counted FROM count_interval ORDER BY run_id, place")
        ),
        "reloads": [
            dict(zip(("id", "total", "done"), row, strict=True))
            for row in scene.rows("SELECT id, total, done FROM reload_run")
        ],
        "cron_runs": dict(scene.rows("SELECT job, state FROM lastacross_cron_run")),
        "rows": {table: scene.rows(f"SELECT count(*) FROM {table}")[0][0] for table in _COUNTED},
    }


def check(made: dict[str, Any]) -> None:
    """Fail unless everything is as far as it should be; on a busy machine it may have gone on too long."""
    states = {state for by_state in made["tasks"].values() for state in by_state}
    assert states >= {"ready", "scheduled", "leased", "dead", "waiting"}, states
    assert made["outbox"]["unsent"] == 1, made["outbox"]
    assert made["outbox"]["sent"] >= 1, made["outbox"]
    assert sorted(made["long_tasks"].values()) == ["cancelled", "done", "error", "failed", "started"]
    finished, half, waiting = made["quilts"]
    assert finished["painted"] == finished["squares"]
    assert 0 < half["painted"] < half["squares"], made
    assert waiting["painted"] == 0
    assert 0 in made["counted"].values(), made["counted"]
    assert any(3 < counted < 60 for counted in made["counted"].values()), made["counted"]
    assert all(0 < run["done"] < run["total"] for run in made["reloads"]), made
    assert sorted(made["cron_runs"].values()) == ["done", "open"]


def main() -> None:
    """Write all files."""
    former.write_archive()
    FIXTURE.mkdir(exist_ok=True)
    with (
        former.former() as code,
        tempfile.TemporaryDirectory(prefix="la-upgrade-") as name,
        running_server() as server,
    ):
        scene = Scene(code, Path(name), server)
        answers = scenario.play(scene, with_poison=True)
        made_at = time.time()
        keys, sql = scenario.taken(scene)
        made = manifest(scene, made_at)
        check(made)
        names = contract.contract(code.tree, keys, sql, answers)
    snapshot.write_gz(REDIS, snapshot.pretty(keys))
    snapshot.write_gz(SQL, sql)
    MANIFEST.write_text(snapshot.pretty(made))
    CONTRACT.write_text(snapshot.pretty(names))
    size = sum(file.stat().st_size for file in (former.ARCHIVE, *FIXTURE.iterdir()))
    print(f"made from {former.COMMIT}: {size // 1000} kB")


if __name__ == "__main__":
    main()

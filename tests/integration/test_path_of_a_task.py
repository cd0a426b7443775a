"""How many files and rooms one task passes, from ``taskqueue.add`` to the ack that fires its batch's task."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.frames import Frames, room_of
from tests.support.processes import ROOT
from tests.support.redis_server import RedisServer
from tests.test_architecture import FOUNDATION

# The goal is 20 files. The worker, webapp and the store have most of them; the number may only fall. It rose
# once, by the file that counts attempts for the metrics.
MAX_FILES = 31
MAX_BORDERS = 8


def test_one_task_passes_few_files_and_rooms(app_root: Path, redis_server: RedisServer) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.path_of_a_task", str(app_root), redis_server.url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    print(ended.stdout)

    # Once a second, a process checks whether the queues have changed; on a slow machine, that is in between.
    files = [path for path in found["files"] if path != "config/process.py"]
    own = [path for path in files if room_of(path) not in FOUNDATION]
    borders = [(one, other) for one, other, _ in found["borders"] if other not in FOUNDATION]
    print(f"{len(files)} files, {len(own)} outside the foundation; {len(borders)} borders of rooms")
    assert {"broker/steps.py", "taskqueue/task.py", "worker/delivery.py"}.issubset(found["files"])
    assert len(files) <= MAX_FILES
    assert len(borders) <= MAX_BORDERS


def test_a_border_is_seen() -> None:
    program = (
        "from tests.support.frames import Frames\n"
        "from lastacross import taskqueue\n"
        "with Frames() as frames:\n"
        "    frames.is_on = True\n"
        "    taskqueue.Task(url='/work', headers={'a': 'b'})\n"
        "    frames.is_on = False\n"
        "print(sorted(frames.files), sorted(frames.borders))\n"
    )
    printed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True).stdout

    assert "'taskqueue/task.py'" in printed
    assert "('taskqueue', 'broker')" in printed
    assert "('taskqueue', 'taskqueue')" not in printed
    assert Frames().files == set()

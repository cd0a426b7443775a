"""The release that the present code must be able to take over from, and how to run it.

``COMMIT`` is the only place that names the release. To move it forward, change it and run
``python -m tests.upgrade.make_fixture``.

The release's own code is kept here as ``former.tar.xz``. A full clone has it in its history, but a source
tarball and a shallow clone (the usual one in CI) do not, and the tests must run there as well. A test
compares the archive with the history wherever the history has the commit.
"""

import contextlib
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT

COMMIT = "3e3fb6a796629d5d9bd34f6620446dc3afd7b51a"

FOLDER = Path(__file__).parent
ARCHIVE = FOLDER / "former.tar.xz"
OVERLAY = FOLDER / "overlay"

_NOT_NEEDED = ("tests", "bench", "docs", ".ci", ".github", "Makefile", "*.md")
_NOT_THE_APPLICATION = (
    "lastacross",
    "tests",
    "bench",
    "docs",
    "build",
    "var",
    "__pycache__",
    ".*",
    "*.egg-info",
)

_RUN_COMMANDS = """
import sys
from lastacross import cli
for command in sys.argv[1:]:
    code = cli.run([*command.split(), "--json"])
    if code:
        sys.exit(code)
    print(end="\\0")
"""


@dataclass(frozen=True)
class Code:
    """One version of Last Across: ``former`` or ``present``.

    Attributes:
        name: which of the two.
        tree: the folder that holds its ``lastacross`` and its demo application.
    """

    name: str
    tree: Path

    def environ(self) -> dict[str, str]:
        """The variables that make this interpreter import this version, whatever its working folder is."""
        return {"PYTHONPATH": str(self.tree), "PYTHONSAFEPATH": "1", "UPGRADE_CODE": self.name}

    def run(self, arguments: list[str], environ: Mapping[str, str], app: Path | None = None) -> str:
        """The standard output of Python with these arguments; fails if the exit code is not 0.

        Args:
            arguments: of the interpreter.
            environ: added to this process's environment.
            app: a folder whose modules can be imported, too.
        """
        own = self.environ()
        if app is not None:
            own["PYTHONPATH"] = f"{app}{os.pathsep}{own['PYTHONPATH']}"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("LASTACROSS_")}
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**inherited, **environ, **own},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{self.name} {arguments}: {done.stderr or done.stdout}"
        return done.stdout

    def ask(self, environ: Mapping[str, str], *commands: str) -> list[Any]:
        """The JSON outputs of ``lastacross`` commands, which share one process: starting takes longest."""
        output = self.run(["-c", _RUN_COMMANDS, *commands], environ)
        return [json.loads(text) for text in output.split("\0")[:-1]]

    def lay_out(self, folder: Path) -> Path:
        """Copy this version's demo application into a folder, and add the tests' handlers and queues."""
        shutil.copytree(
            self.tree, folder, ignore=shutil.ignore_patterns(*_NOT_THE_APPLICATION), dirs_exist_ok=True
        )
        shutil.copy(OVERLAY / "upgrade_app.py", folder)
        handlers = "handlers:\n- url: /upgrade/.*\n  script: upgrade_app.app\n  login: admin\n"
        app_yaml = folder / "app.yaml"
        app_yaml.write_text(app_yaml.read_text().replace("handlers:\n", handlers, 1))
        backends = folder / "backends.yaml"
        small = backends.read_text().replace("instances: 2", "instances: 1")
        backends.write_text(small.replace("max_concurrent_requests: 8", "max_concurrent_requests: 2"))
        for name in ("queue.yaml", "cron.yaml"):
            with (folder / name).open("a") as file:
                file.write((OVERLAY / name).read_text())
        return folder


PRESENT = Code("present", ROOT)


@contextlib.contextmanager
def former() -> Iterator[Code]:
    """The former code, unpacked into a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="la-former-") as name:
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(name, filter="data")
        yield Code("former", Path(name))


def history_has_commit() -> bool:
    """Whether this is a checkout whose history reaches back to the commit."""
    command = ["git", "-C", str(ROOT), "cat-file", "-e", f"{COMMIT}^{{commit}}"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def tar_from_history() -> bytes:
    """The commit as a tar file, without files that nobody runs."""
    left_out = [f":(exclude){path}" for path in _NOT_NEEDED]
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", COMMIT, "--", ".", *left_out]
    return subprocess.run(command, capture_output=True, check=True).stdout


def write_archive() -> None:
    """Write ``former.tar.xz``."""
    ARCHIVE.write_bytes(lzma.compress(tar_from_history(), preset=9 | lzma.PRESET_EXTREME))


def contents(data: bytes) -> tuple[str | None, dict[str, bytes]]:
    """The commit that a tar file names in its header, and its files."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {
            member.name: reader.read()
            for member in archive
            if (reader := archive.extractfile(member)) is not None
        }
        return archive.pax_headers.get("comment"), files

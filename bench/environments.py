"""An environment a peer, below .bench/: Python ones with venv and pip, BullMQ's with npm."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
STATE = ROOT / ".bench"
INSTALL_SECONDS = 600


class NotInstalledError(Exception):
    """Raised when an environment cannot be made; tells what failed and what to do."""


#: What could not be made is not tried again for each run.
_failed: dict[str, NotInstalledError] = {}


def python_of(name: str) -> Path:
    """The Python of a peer's environment, made if it is not there, or not of these pins.

    Raises:
        NotInstalledError: pip or venv failed.
    """
    requirements = HERE / "requirements" / f"{name}.txt"
    folder = STATE / name
    python = folder / "bin" / "python"
    stamp = _Stamp(folder, [requirements.read_bytes(), sys.version.encode()])
    if not stamp.is_current():
        print(f"making .bench/{name}", file=sys.stderr)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run(
            [
                str(python),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-r",
                str(requirements),
            ]
        )
        stamp.write()
    return python


def node_folder(name: str) -> Path:
    """The folder with BullMQ's node_modules, which its driver is run in.

    Raises:
        NotInstalledError: there is no Node here, or npm failed.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NotInstalledError("there is no Node here: apt-get install nodejs npm")
    files = [HERE / "package.json", HERE / "package-lock.json"]
    folder = STATE / name
    stamp = _Stamp(folder, [file.read_bytes() for file in files])
    if not stamp.is_current():
        print(f"making .bench/{name}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, folder)
        # Not `npm ci`: it refuses a lock file that lacks the builds for other systems.
        _run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder)
        stamp.write()
    return folder


class _Stamp:
    """What an environment was made of, so that it is made once."""

    def __init__(self, folder: Path, parts: list[bytes]) -> None:
        self.path = folder / "made-of"
        self.digest = hashlib.sha256(b"\0".join(parts)).hexdigest()

    def is_current(self) -> bool:
        return self.path.exists() and self.path.read_text() == self.digest

    def write(self) -> None:
        self.path.write_text(self.digest)


def _run(command: list[str], cwd: Path | None = None) -> None:
    name = " ".join(command)
    if name in _failed:
        raise _failed[name]
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.CalledProcessError as error:
        _failed[name] = NotInstalledError(f"{name} failed: {error.stderr.strip()[-1000:]}")
        raise _failed[name] from error
    except subprocess.TimeoutExpired as error:
        _failed[name] = NotInstalledError(f"{name} took more than {INSTALL_SECONDS} s")
        raise _failed[name] from error

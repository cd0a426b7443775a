"""The backend of a running site."""

import contextlib
from pathlib import Path

from tests.support.site import Site

SERVICE = b"LASTACROSS_SERVICE=counter"


def instances(site: Site) -> list[int]:
    """The pids of the service ``counter``'s processes that deliver tasks."""
    found = []
    for pid in site.processes.others():
        process = Path(f"/proc/{pid}")
        # The process may end while it is being inspected.
        with contextlib.suppress(OSError):
            is_worker = b"worker-process" in (process / "cmdline").read_bytes().split(b"\0")
            if is_worker and SERVICE in (process / "environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found

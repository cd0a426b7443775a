"""The backend of a running site."""

import contextlib
from pathlib import Path

from tests.support.site import Site

SERVICE = b"\0worker-process\0--service\0counter\0"


def instances(site: Site) -> list[int]:
    """The pids of the service ``counter``'s processes that deliver tasks."""
    found = []
    for pid in site.processes.others():
        process = Path(f"/proc/{pid}")
        # The process may end while it is being inspected.
        with contextlib.suppress(OSError):
            if SERVICE in (process / "cmdline").read_bytes():
                found.append(pid)
    return found

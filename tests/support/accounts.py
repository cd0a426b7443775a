"""Gives a test its own accounts on a running site, so that a reload fetches only these."""

import contextlib
import itertools
from collections.abc import Iterator

from programs.reload import feed
from tests.support.processes import wait_until
from tests.support.site import Site

ENDS = ("done", "failed", "cancelled")

_numbers = itertools.count()


@contextlib.contextmanager
def active_accounts(site: Site) -> Iterator[list[str]]:
    """Provide a hundred accounts, of which ten fail and two are slow. No others are active in the block."""
    wait_until_no_reload_runs(site)
    prefix = f"account-{next(_numbers)}"
    names = [f"{prefix}-{number}" for number in range(3000)]
    fine = [name for name in names if not feed.is_failing(name) and not feed.is_slow(name)][:88]
    slow = [name for name in names if feed.is_slow(name)][:2]
    made = fine + slow + [name for name in names if feed.is_failing(name)][:10]
    site.administrator.post("/accounts", keys=" ".join(made))
    try:
        yield made
    finally:
        for key in made:
            site.administrator.post(f"/accounts/{key}/deactivate")


def wait_until_no_reload_runs(site: Site) -> None:
    """Wait until another test's reload has ended, because it would prevent the next one from starting."""
    wait_until(lambda: all(run["state"] in ENDS for run in site.json("/reloads")["reloads"]), 60)

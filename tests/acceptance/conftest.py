"""Running sites that the acceptance tests share; each is started once."""

from collections.abc import Iterator

import pytest

from tests.support import (
    errors_as_printed,
    fetching_app,
    longtask_as_printed,
    quilt_as_printed,
    reload_as_printed,
)
from tests.support.site import Site, running_site, write_together
from tests.support.webhook import Webhook, running_webhook

SMALL_APPLICATIONS = {
    "errors_as_printed": errors_as_printed.FILES,
    "fetching": fetching_app.FILES,
    "longtask_as_printed": longtask_as_printed.FILES,
    "quilt_as_printed": quilt_as_printed.FILES,
    "reload_as_printed": reload_as_printed.FILES,
}


@pytest.fixture(scope="session")
def webhook() -> Iterator[Webhook]:
    """The server that gets the notifications of ``site``."""
    with running_webhook() as running:
        yield running


@pytest.fixture(scope="session")
def site(webhook: Webhook) -> Iterator[Site]:
    """The application in the root, running, asked by its administrator, who may start any number of runs."""
    variables = {"ERROR_WEBHOOK_URL": webhook.url, "LASTACROSS_FETCH_PRIVATE_HOSTS": "127.0.0.1"}
    with running_site(variables=variables) as running:
        yield running.administrator


@pytest.fixture(scope="session")
def small_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Several small applications, running as one; each has URLs of its own."""
    folder = tmp_path_factory.mktemp("small") / "app"
    write_together(folder, SMALL_APPLICATIONS)
    with running_site(folder, {"ASKED": str(folder / reload_as_printed.ASKED)}) as running:
        yield running

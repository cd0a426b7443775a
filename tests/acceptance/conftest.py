"""Running sites that the acceptance tests share; each is started once."""

from collections.abc import Iterator

import pytest

from tests.acceptance import (
    test_errors_as_printed,
    test_fetch_own_site,
    test_longtask_as_printed,
    test_quilt_as_printed,
    test_reload_as_printed,
)
from tests.support.site import Site, running_site, write_together
from tests.support.webhook import Webhook, running_webhook

SMALL_APPLICATIONS = {
    "errors_as_printed": test_errors_as_printed.FILES,
    "fetch_own_site": test_fetch_own_site.FILES,
    "longtask_as_printed": test_longtask_as_printed.FILES,
    "quilt_as_printed": test_quilt_as_printed.FILES,
    "reload_as_printed": test_reload_as_printed.FILES,
}


@pytest.fixture(scope="session")
def webhook() -> Iterator[Webhook]:
    """The server that gets the notifications of ``site``."""
    with running_webhook() as running:
        yield running


@pytest.fixture(scope="session")
def site(webhook: Webhook) -> Iterator[Site]:
    """The application in the root, running."""
    variables = {"ERROR_WEBHOOK_URL": webhook.url, "LASTACROSS_FETCH_PRIVATE_HOSTS": "127.0.0.1"}
    with running_site(variables=variables) as running:
        yield running


@pytest.fixture(scope="session")
def small_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Several small applications, running as one; each has URLs of its own."""
    folder = tmp_path_factory.mktemp("small") / "app"
    write_together(folder, SMALL_APPLICATIONS)
    with running_site(folder, {"ASKED": str(folder / test_reload_as_printed.ASKED)}) as running:
        yield running

"""What the tests of single scripts may ask for."""

import pytest

from lastacross.store import Store
from tests.support.clock import StoppedClock
from tests.support.scripts import Scripts


@pytest.fixture
def scripts(test_store: Store, clock: StoppedClock) -> Scripts:
    """The scripts on an empty store; queues "default" and "other" are not throttled."""
    return Scripts(test_store, clock)

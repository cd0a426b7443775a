"""Fixtures of the upgrade tests: a real PostgreSQL, and the former code."""

from collections.abc import Iterator

import pytest

from tests.support.postgres import PostgresServer, running_postgres
from tests.upgrade import former
from tests.upgrade.former import Code


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A real server of a module's own."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def former_code() -> Iterator[Code]:
    """The former code, unpacked and compiled once for all modules."""
    with former.former() as code:
        yield code

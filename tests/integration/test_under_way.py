"""As many quilts and counts are under way as may be, and not one more, whoever asks at the same moment."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lastacross import datastore
from lastacross.clock import SYSTEM
from programs.count import runs
from programs.count.models import CountRun
from programs.quilt import models
from programs.quilt.models import Quilt
from programs.shared import starting
from tests.support.processes import ROOT
from tests.support.root_application import configured

ASKING = 30


@pytest.fixture(autouse=True)
def tables(new_database: Callable[[Path], str], tmp_path: Path) -> Iterator[None]:
    """The tables of the application in the root, in an empty database."""
    with configured(new_database(ROOT), tmp_path):
        yield


def begin_quilt(_number: int) -> None:
    """Begin a quilt if there is room."""
    with datastore.transaction() as transaction:
        starting.require_room(transaction.session, Quilt)
        models.add_quilt(transaction.session, 2, 2, 0)


def begin_count(number: int) -> None:
    """Begin a count if there is room."""
    run = CountRun(id=str(number), name=f"run-{number}", delay_ms=0, created_at=SYSTEM.now())
    runs.begin(run, [(1, 2)], is_limited=True)


@pytest.mark.parametrize(("begin", "table"), [(begin_quilt, Quilt), (begin_count, CountRun)])
def test_of_many_who_begin_at_once_as_many_may_as_there_is_room_for(
    begin: Callable[[int], None], table: type[Quilt] | type[CountRun]
) -> None:
    def has_begun(number: int) -> bool:
        try:
            begin(number)
        except starting.TooManyError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        begun = sum(pool.map(has_begun, range(ASKING)))

    with datastore.session(read_only=True) as session:
        assert begun == starting.count_under_way(session, table) == starting.MAX_UNDER_WAY

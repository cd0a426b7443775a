"""Squares of quilts that are painted together, on SQLite and on PostgreSQL."""

import pytest
from sqlalchemy import text

from lastacross import datastore
from lastacross.runtime import WORKER_NUMBER
from programs.quilt import models
from programs.quilt.models import Painted, Stroke

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def quilts(database: str) -> list[str]:
    """The ids of two empty quilts of 4 by 4 squares."""
    tables = [models.Quilt.__table__, models.Square.__table__]
    datastore.Model.metadata.create_all(datastore.engine(), tables=tables)  # type: ignore[arg-type]
    with datastore.session() as session:
        return sorted(models.add_quilt(session, 4, 4, 0) for _ in range(2))


@pytest.fixture(autouse=True)
def standing_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each square is painted 1.84 s after its quilt was started, by worker 2."""
    monkeypatch.setattr(models, "_after_ms", lambda _created_at: 1840)
    monkeypatch.setenv(WORKER_NUMBER, "2")


def by_worker_2(color: str, position: int) -> Painted:
    """A square as it is stored."""
    return Painted(color, position, 2, 1840)


def painted(quilt_id: str) -> int:
    """How many squares the quilt counts."""
    quilt = models.find_quilt(quilt_id)
    assert quilt is not None
    return quilt.painted


def test_new_squares_of_several_quilts_are_numbered_in_the_order_in_which_they_came(
    quilts: list[str],
) -> None:
    first, second = quilts
    strokes = [Stroke(second, 0, 0, "#1"), Stroke(first, 0, 0, "#2"), Stroke(second, 0, 1, "#3")]

    assert models.paint_all(strokes) == [by_worker_2("#1", 1), by_worker_2("#2", 1), by_worker_2("#3", 2)]
    assert (painted(first), painted(second)) == (1, 2)
    assert models.squares_after(second, 0) == [(0, 0, "#1", 2, 1840), (0, 1, "#3", 2, 1840)]


def test_a_square_that_is_there_keeps_its_colour_and_leaves_no_gap_in_the_numbers(quilts: list[str]) -> None:
    first, _ = quilts
    models.paint_all([Stroke(first, 0, 0, "#1")])

    strokes = [Stroke(first, 0, 1, "#2"), Stroke(first, 0, 0, "#3"), Stroke(first, 0, 2, "#4")]
    assert models.paint_all(strokes) == [by_worker_2("#2", 2), by_worker_2("#1", 1), by_worker_2("#4", 3)]
    assert painted(first) == 3
    assert models.squares_after(first, 0) == [
        (0, 0, "#1", 2, 1840),
        (0, 1, "#2", 2, 1840),
        (0, 2, "#4", 2, 1840),
    ]


def test_the_same_square_twice_is_painted_once(quilts: list[str]) -> None:
    first, _ = quilts

    assert (
        models.paint_all([Stroke(first, 0, 0, "#1"), Stroke(first, 0, 0, "#2")]) == [by_worker_2("#1", 1)] * 2
    )
    assert painted(first) == 1


def test_a_quilt_that_is_not_there_takes_no_others_squares_with_it(quilts: list[str]) -> None:
    first, _ = quilts

    strokes = [Stroke("a" * 22, 0, 0, "#1"), Stroke(first, 0, 0, "#2"), Stroke("z" * 22, 0, 0, "#3")]
    assert models.paint_all(strokes) == [None, by_worker_2("#2", 1), None]


def test_a_process_that_is_no_worker_paints_without_a_number(
    quilts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WORKER_NUMBER)
    first, _ = quilts

    assert models.paint(first, 0, 0, "#1") == Painted("#1", 1, None, 1840)


def test_squares_of_the_previous_release_have_neither_worker_nor_time(quilts: list[str]) -> None:
    """It names the columns that it knows."""
    first, _ = quilts
    with datastore.session() as session:
        statement = 'INSERT INTO quilt_square (quilt_id, "row", "column", color, position)'
        session.execute(text(f"{statement} VALUES (:quilt, 0, 0, '#1', 1)"), {"quilt": first})

    assert models.squares_after(first, 0) == [(0, 0, "#1", None, None)]

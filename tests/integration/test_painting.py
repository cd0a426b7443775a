"""Squares of quilts that are painted together, on SQLite and on PostgreSQL."""

import pytest

from lastacross import datastore
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

    assert models.paint_all(strokes) == [Painted("#1", 1), Painted("#2", 1), Painted("#3", 2)]
    assert (painted(first), painted(second)) == (1, 2)
    assert models.squares_after(second, 0) == [(0, 0, "#1"), (0, 1, "#3")]


def test_a_square_that_is_there_keeps_its_colour_and_leaves_no_gap_in_the_numbers(quilts: list[str]) -> None:
    first, _ = quilts
    models.paint_all([Stroke(first, 0, 0, "#1")])

    strokes = [Stroke(first, 0, 1, "#2"), Stroke(first, 0, 0, "#3"), Stroke(first, 0, 2, "#4")]
    assert models.paint_all(strokes) == [Painted("#2", 2), Painted("#1", 1), Painted("#4", 3)]
    assert painted(first) == 3
    assert models.squares_after(first, 0) == [(0, 0, "#1"), (0, 1, "#2"), (0, 2, "#4")]


def test_the_same_square_twice_is_painted_once(quilts: list[str]) -> None:
    first, _ = quilts

    assert models.paint_all([Stroke(first, 0, 0, "#1"), Stroke(first, 0, 0, "#2")]) == [Painted("#1", 1)] * 2
    assert painted(first) == 1


def test_a_quilt_that_is_not_there_takes_no_others_squares_with_it(quilts: list[str]) -> None:
    first, _ = quilts

    strokes = [Stroke("a" * 22, 0, 0, "#1"), Stroke(first, 0, 0, "#2"), Stroke("z" * 22, 0, 0, "#3")]
    assert models.paint_all(strokes) == [None, Painted("#2", 1), None]

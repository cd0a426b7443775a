"""Lines of code, as tests/support/code_lines.py counts them."""

import pytest

from tests.support.code_lines import code_lines, lua_lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", 0),
        ('"""A module."""\n\nX = 1\n"""Of X."""\n', 1),
        ("# a comment\nx = 1  # another\n\n", 1),
        ('def one() -> None:\n    """Say so.\n\n    At length.\n    """\n    print("x")\n', 2),
        ('class One:\n    """Empty."""\n', 1),
        ('x = """\n# no comment\n\nend"""\n', 3),
        ("f(\n    1,\n    2,\n)\n", 4),
    ],
)
def test_blanks_comments_and_docstrings_do_not_count(text: str, lines: int) -> None:
    assert code_lines(text) == lines


def test_lua_counts_likewise() -> None:
    assert lua_lines("-- head\n\nlocal x = 1 -- why\n  -- inside\nreturn x\n") == 2

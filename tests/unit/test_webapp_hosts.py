"""Which Host headers are ours."""

import pytest

from lastacross.webapp import boundary


@pytest.mark.parametrize(
    ("host", "allowed", "is_ours"),
    [
        ("localhost:8080", ("localhost",), True),
        ("[::1]:8080", ("[::1]",), True),
        ("127.0.0.1", ("localhost",), False),
        ("EXAMPLE.com.", ("example.com",), True),
        ("www.example.com", ("example.com",), False),
        ("www.example.com", (".example.com",), True),
        ("example.com", (".example.com",), True),
        ("badexample.com", (".example.com",), False),
        ("anything.at.all", ("*",), True),
        ("not a host", ("*",), False),
        ("a.example:", ("*",), False),
        ("a.example:123456", ("*",), False),
        ("a.example:80:80", ("*",), False),
        ("a.example\n", ("*",), False),
        ("a,b", ("*",), False),
        ("\uff41.example", ("*",), False),
        ("", ("*",), False),
        (None, ("*",), False),
    ],
)
def test_a_host_is_ours_if_it_is_listed(host: str | None, allowed: tuple[str, ...], is_ours: bool) -> None:
    """Port and case aside; what is no host's name is nobody's."""
    assert (boundary.host_problem(host, allowed) is None) == is_ours


def test_the_refusal_names_the_host() -> None:
    """Whoever set it up can see what to list."""
    assert "other.example" in (boundary.host_problem("other.example", ("a.example",)) or "")

"""dispatch.yaml: what a good file means, and which service takes a task's URL."""

import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastacross import config
from lastacross.config import DispatchRule

ENVIRON = {
    "SECRET_KEY": "a secret key of the tests, long enough",
    "LASTACROSS_SERVICES": "mobile=http://m.example,work=http://w.example",
}


def load(root: Path, text: str) -> config.Config:
    """The configuration with this dispatch.yaml."""
    (root / "dispatch.yaml").write_text(textwrap.dedent(text))
    return config.load(root, ENVIRON)


def test_the_rules_are_read_in_their_order(app_root: Path) -> None:
    """The forms of App Engine's own page."""
    loaded = load(
        app_root,
        """
        application: simple-sample
        dispatch:
        - url: "simple-sample.appspot.com/"
          service: default
        - url: "*/favicon.ico"
          service: default
        - {url: "*.example.com/mobile/*", service: mobile}
        - {url: "*-dot-shop.example.com/*", service: mobile}
        - {url: "*/work/*", service: work}
        """,
    )

    assert loaded.dispatch == (
        DispatchRule("simple-sample.appspot.com", "/", "default"),
        DispatchRule("*", "/favicon.ico", "default"),
        DispatchRule("*.example.com", "/mobile/*", "mobile"),
        DispatchRule("*-dot-shop.example.com", "/*", "mobile"),
        DispatchRule("*", "/work/*", "work"),
    )


def test_without_a_file_nothing_is_dispatched(app_root: Path) -> None:
    """A missing dispatch.yaml is no mistake."""
    loaded = config.load(app_root, ENVIRON)

    assert (loaded.dispatch, loaded.dispatched_service("/work/1")) == ((), None)


@pytest.mark.parametrize("text", ["dispatch:\n", "dispatch: []\n", "application: x\n"])
def test_a_file_may_have_no_rule(app_root: Path, text: str) -> None:
    """Only one with nothing in it at all is refused."""
    assert load(app_root, text).dispatch == ()


RULES = """
dispatch:
- {url: "example.com/*", service: nobody-can-reach-this}
- {url: "*.com/*", service: nor-this}
- {url: "*/work/special", service: default}
- {url: "*/work/*", service: work}
- {url: "*/exact", service: mobile}
- {url: "*/prefix*", service: mobile}
- {url: "*/work/never", service: mobile}
"""


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/work/special", "default"),
        ("/work/1", "work"),
        ("/work/", "work"),
        ("/work/never", "work"),
        ("/work/special/1", "work"),
        ("/work", None),
        ("/Work/1", None),
        ("/exact", "mobile"),
        ("/exact?a=1/2", "mobile"),
        ("/exact/", None),
        ("/prefix", "mobile"),
        ("/prefixes/1", "mobile"),
        ("/a/prefix", None),
        ("/", None),
        ("", None),
    ],
)
def test_the_first_rule_for_any_host_takes_a_tasks_url(
    app_root: Path, path: str, service: str | None
) -> None:
    """A task has no host, so a rule for one cannot be meant; the query does not matter."""
    assert load(app_root, RULES).dispatched_service(path) == service


@pytest.mark.parametrize(
    ("rule", "host", "path", "is_for"),
    [
        (("a.example.com", "/"), "a.example.com", "/", True),
        (("a.example.com", "/"), "A.Example.COM", "/", True),
        (("a.example.com", "/"), "a.example.com", "/x", False),
        (("a.example.com", "/"), "b.a.example.com", "/", False),
        (("*.example.com", "/*"), "b.a.example.com", "/x/y", True),
        (("*.example.com", "/*"), "example.com", "/", False),
        (("*example.com", "/*"), "example.com", "/", True),
        (("*", "/a*"), "any.host", "/ab", True),
        (("*", "/a*"), "", "/b", False),
    ],
)
def test_a_rule_compares_host_and_path(rule: tuple[str, str], host: str, path: str, is_for: bool) -> None:
    """``*`` stands for any text, none included."""
    assert DispatchRule(*rule, "x").has(host, path) is is_for


@given(st.text("ab/*", max_size=6), st.text("ab/*", max_size=6))
def test_a_glob_is_a_prefix_and_anything_else_is_equality(pattern: str, path: str) -> None:
    """However the path looks; an asterisk in the task's own path is a character like any other."""
    exact, glob = DispatchRule("*", pattern + "x", "s"), DispatchRule("*", pattern + "*", "s")

    assert exact.has("", path + "x") is (path == pattern)
    assert glob.has("", pattern + path)
    assert glob.has("", path) is path.startswith(pattern)


def test_module_is_read_as_service_with_a_notice(app_root: Path) -> None:
    """Files from before 2015."""
    loaded = load(app_root, 'dispatch:\n- url: "*/a"\n  module: work\n')

    assert loaded.dispatch == (DispatchRule("*", "/a", "work"),)
    assert loaded.notices == ("dispatch.yaml:3:3: 'module' is the old name for 'service'",)


def test_of_module_and_service_the_service_counts(app_root: Path) -> None:
    """App Engine's rule while both were taken."""
    loaded = load(app_root, 'dispatch:\n- url: "*/a"\n  module: mobile\n  service: work\n')

    assert loaded.dispatch == (DispatchRule("*", "/a", "work"),)
    [notice] = loaded.notices
    assert notice == "dispatch.yaml:3:3: 'module' is the old name for 'service'; the service work is used"


def test_a_rule_for_one_host_gives_a_notice(app_root: Path) -> None:
    """It would otherwise be without effect, silently."""
    loaded = load(app_root, 'dispatch:\n- url: "a.example.com/*"\n  service: work\n')

    [notice] = loaded.notices
    assert notice.startswith("dispatch.yaml:2:8: the rule for the host a.example.com has no effect")


def test_twenty_rules_and_a_hundred_characters_are_allowed(app_root: Path) -> None:
    """The limits themselves."""
    host, path = "*" + "h" * 99, "/" + "p" * 99
    rules = "".join(f'- {{url: "{host}{path}", service: work}}\n' for _ in range(20))

    assert load(app_root, "dispatch:\n" + rules).dispatch == (DispatchRule(host, path, "work"),) * 20

"""app.yaml's includes: App Engine's order and paths, bounded, and every mistake at its own file and line."""

import contextlib
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from lastacross import config
from lastacross.config import includes
from lastacross.errors import ConfigError
from tests.support import web
from tests.support.tries import each_number_of_tries, try_out

ENVIRON = {"SECRET_KEY": "a secret key of the tests, long enough"}


def write(root: Path, files: dict[str, str]) -> None:
    """Write files below a folder."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def load(root: Path, files: dict[str, str]) -> config.Config:
    """The configuration with these files."""
    write(root, files)
    return config.load(root, ENVIRON)


def urls(loaded: config.Config) -> list[str]:
    """The handlers' URLs in their order."""
    return [handler.url for handler in loaded.app.handlers]


def handlers(*entries: str) -> str:
    """A file's handlers: ``/a`` or ``/a tail``."""
    lines = ["handlers:"]
    for entry in entries:
        url, _, position = entry.partition(" ")
        lines.append(f"- {{url: {url}, script: main.app{f', position: {position}' if position else ''}}}")
    return "\n".join(lines) + "\n"


def problems(root: Path, files: dict[str, str]) -> list[str]:
    """The mistakes in these files, one line each."""
    with pytest.raises(ConfigError) as refused:
        load(root, files)
    return [str(mistake) for mistake in refused.value.mistakes]


def test_included_handlers_go_before_and_tails_behind(app_root: Path) -> None:
    """Without a position, and with ``head``, they come first."""
    loaded = load(
        app_root,
        {
            "app.yaml": "includes: [lib/a.yaml, b.yaml]\n" + handlers("/own", "/.*"),
            "lib/a.yaml": handlers("/a1", "/a2 tail", "/a3 head"),
            "b.yaml": handlers("/b1 tail", "/b2"),
        },
    )

    assert urls(loaded) == ["/a1", "/a3", "/b2", "/own", "/.*", "/a2", "/b1"]
    assert loaded.app.included == ("lib/a.yaml", "b.yaml")
    assert [(one.file, one.line) for one in loaded.app.handlers][:4] == [
        ("lib/a.yaml", 2),
        ("lib/a.yaml", 4),
        ("b.yaml", 3),
        ("app.yaml", 3),
    ]
    assert loaded.notices == ()


def test_a_files_own_includes_follow_it_and_come_before_its_neighbours(app_root: Path) -> None:
    """As App Engine's SDK merges them: down into each file before the next one."""
    loaded = load(
        app_root,
        {
            "app.yaml": "includes: [a.yaml, b.yaml]\n" + handlers("/.*"),
            "a.yaml": handlers("/a", "/a-last tail") + "includes: [deep/c.yaml]\n",
            "deep/c.yaml": handlers("/c", "/c-last tail"),
            "b.yaml": handlers("/b"),
        },
    )

    assert urls(loaded) == ["/a", "/c", "/b", "/.*", "/a-last", "/c-last"]


def test_the_value_that_is_met_last_counts_for_a_variable(app_root: Path) -> None:
    """An included file's before app.yaml's, and the author learns which one lost."""
    loaded = load(
        app_root,
        {
            "app.yaml": "env_variables: {A: own, B: own, C: own}\nincludes: [a.yaml, b.yaml]\n",
            "a.yaml": "env_variables:\n  B: from a\n  D: from a\n",
            "b.yaml": "env_variables: {B: from b, C: own}\n",
        },
    )

    assert dict(loaded.app.env_variables) == {"A": "own", "B": "from b", "C": "own", "D": "from a"}
    assert loaded.notices == (
        "a.yaml:2:3: this value of B overrides the one at app.yaml:1",
        "b.yaml:1:17: this value of B overrides the one at a.yaml:2",
    )


def test_skip_files_add_up(app_root: Path) -> None:
    """To app.yaml's list, or to App Engine's own where app.yaml has none."""
    files = {"app.yaml": "includes: [a.yaml]\n", "a.yaml": "skip_files: ['.*\\.bak$']\n"}

    usual = load(app_root, files).app
    own = load(app_root, files | {"app.yaml": "includes: [a.yaml]\nskip_files: private/.*\n"}).app

    assert [usual.is_skipped(path) for path in ("x.bak", "a/x~", "private/x", "a")] == [
        True,
        True,
        False,
        False,
    ]
    assert [own.is_skipped(path) for path in ("x.bak", "a/x~", "private/x", "a")] == [
        True,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("own", "included", "instances"),
    [
        ("", "manual_scaling: {instances: 3}", 3),
        ("manual_scaling: {instances: 5}", "manual_scaling: {instances: 3}", 5),
        ("manual_scaling: {instances: 2}", "manual_scaling: {instances: 3}", 3),
        ("manual_scaling:", "manual_scaling:", None),
    ],
)
def test_the_most_instances_count(app_root: Path, own: str, included: str, instances: int | None) -> None:
    """And the kind of scaling is the included file's too."""
    app_yaml = f"includes: [a.yaml]\n{own}\n" + handlers("/.*")

    loaded = load(app_root, {"app.yaml": app_yaml, "a.yaml": included})

    assert (loaded.app.scaling.mode, loaded.app.scaling.instances) == ("manual", instances)
    assert loaded.app.deadline_seconds == 86_400


@pytest.mark.parametrize(
    ("includer", "text", "found"),
    [
        ("lib/a.yaml", "b.yaml", "lib/b.yaml"),
        ("lib/a.yaml", "deep", "deep/include.yaml"),
        ("lib/a.yaml", "./deep/", "deep/include.yaml"),
        ("lib/a.yaml", "../c.yaml", "c.yaml"),
        ("lib/a.yaml", "c.yaml", "c.yaml"),
        ("lib/a.yaml", "lib/b.yaml", "lib/b.yaml"),
        ("lib/a.yaml", "../lib/../deep/include.yaml", "deep/include.yaml"),
    ],
)
def test_a_path_is_looked_for_beside_its_file_and_then_in_the_folder(
    app_root: Path, includer: str, text: str, found: str
) -> None:
    """A folder means its include.yaml."""
    loaded = load(
        app_root,
        {
            "app.yaml": f"includes: [{includer}]\n",
            includer: f"includes: [{text}]\n",
            "lib/b.yaml": handlers("/lib/b"),
            "b.yaml": handlers("/b"),
            "c.yaml": handlers("/c"),
            "deep/include.yaml": handlers("/deep"),
        },
    )

    assert loaded.app.included == (includer, found)


def test_a_file_counts_once_and_a_circle_ends(app_root: Path) -> None:
    """As on App Engine; here there is a notice beside."""
    loaded = load(
        app_root,
        {
            "app.yaml": "includes: [a.yaml, b.yaml]\n" + handlers("/.*"),
            "a.yaml": handlers("/a") + "includes: [b.yaml, a.yaml]\n",
            "b.yaml": handlers("/b") + "includes: [a.yaml]\n",
        },
    )

    assert urls(loaded) == ["/a", "/b", "/.*"]
    assert loaded.notices == (
        "app.yaml:1:20: b.yaml is already included by a.yaml, so this line has no effect",
        "a.yaml:3:20: a.yaml is already included by app.yaml, so this line has no effect",
        "b.yaml:3:12: a.yaml is already included by app.yaml, so this line has no effect",
    )


def test_a_link_to_an_included_file_is_the_same_file(app_root: Path) -> None:
    """A circle of links is one too."""
    write(app_root, {"a.yaml": handlers("/a") + "includes: [b.yaml]\n"})
    (app_root / "b.yaml").symlink_to("a.yaml")

    loaded = load(app_root, {"app.yaml": "includes: [a.yaml]\n"})

    assert urls(loaded) == ["/a"]


@pytest.mark.parametrize("depth", [includes.MAX_DEPTH, includes.MAX_DEPTH + 1])
def test_files_are_nested_ten_deep_at_most(app_root: Path, depth: int) -> None:
    """The file that goes too deep names the limit."""
    files = {f"f{n}.yaml": handlers(f"/f{n}") + f"includes: [f{n + 1}.yaml]\n" for n in range(1, depth)}
    files |= {"app.yaml": "includes: [f1.yaml]\n", f"f{depth}.yaml": handlers("/last")}

    if depth == includes.MAX_DEPTH:
        assert len(urls(load(app_root, files))) == depth
    else:
        [problem] = problems(app_root, files)
        assert problem == "f10.yaml:3:12: includes 'f11.yaml' is nested more than 10 levels deep"


@pytest.mark.parametrize("count", [includes.MAX_FILES, includes.MAX_FILES + 1])
def test_fifty_files_are_included_at_most(app_root: Path, count: int) -> None:
    """One more is named."""
    names = [f"f{n}.yaml" for n in range(count)]
    files = {name: handlers(f"/{name}") for name in names} | {"app.yaml": f"includes: [{', '.join(names)}]\n"}

    if count == includes.MAX_FILES:
        assert len(load(app_root, files).app.included) == count
    else:
        [problem] = problems(app_root, files)
        assert problem.startswith("app.yaml:1:")
        assert problem.endswith("includes 'f50.yaml' exceeds the limit of 50 included files")


def test_the_included_files_have_256_kb_together(app_root: Path) -> None:
    """As one file may have."""
    names = [f"f{n}.yaml" for n in range(5)]
    files = dict.fromkeys(names, "#" * 64 * 1024) | {"app.yaml": f"includes: [{', '.join(names)}]\n"}

    [problem] = problems(app_root, files)

    assert "includes 'f4.yaml' brings the total size of the included files above 256 kB" in problem


WRONG_INCLUDES = [
    ("includes: lib/a.yaml\n", "1:11: includes 'lib/a.yaml' must be a list of files"),
    ("includes:\n- {a: b}\n", "2:3: includes (a mapping) must be the path of a file"),
    ("includes:\n-\n", "2:2: includes (empty) must be the path of a file"),
    ("includes: ['']\n", "1:12: includes '' must be the path of a file"),
    ("includes: [gone.yaml]\n", "1:12: includes 'gone.yaml' is not there"),
    ("includes: [empty]\n", "1:12: includes 'empty' is a folder that does not contain include.yaml"),
    ("includes: [pipe]\n", "1:12: includes 'pipe' is not there"),
    (
        "includes: [/etc/passwd]\n",
        "1:12: includes '/etc/passwd' must be a path relative to the application's folder. "
        "Did you mean 'etc/passwd'?",
    ),
    ("includes: [../out.yaml]\n", "1:12: includes '../out.yaml' points outside the application's folder"),
    ("includes: [a/../../out.yaml]\n", "1:12: includes 'a/../../out.yaml' points outside the"),
    (
        "includes: [link.yaml]\n",
        "1:12: includes 'link.yaml' is a symbolic link that points outside the application's",
    ),
    (
        "includes: [outfolder/out.yaml]\n",
        "1:12: includes 'outfolder/out.yaml' is a symbolic link that points outside",
    ),
    ("includes: [app.yaml]\n", "1:12: includes 'app.yaml' is app.yaml itself; remove this line"),
    (
        "includes: [$PYTHON_LIB/google/appengine/ext/deferred/include.yaml]\n",
        "is in App Engine's own library, which is not available here; remove this line",
    ),
    ('includes: ["a\\0b"]\n', "1:12: includes 'a\\x00b' is not a valid file name"),
    ("includes: [" + "a/" * 5000 + "b]\n", "is not there"),
]


@pytest.mark.parametrize(("text", "problem"), WRONG_INCLUDES, ids=range(len(WRONG_INCLUDES)))
def test_a_path_that_cannot_be_included_is_named(tmp_path: Path, text: str, problem: str) -> None:
    """At the line that includes it."""
    root = tmp_path / "app"
    (root / "empty").mkdir(parents=True)
    write(tmp_path, {"out.yaml": handlers("/out")})
    (root / "link.yaml").symlink_to(tmp_path / "out.yaml")
    (root / "outfolder").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")

    [found] = problems(root, {"app.yaml": text})

    assert found.startswith("app.yaml:1:" if text[9] in " [" else "app.yaml:2:")
    assert problem in found


WRONG_INCLUDED_FILES = [
    (
        "runtime: python27\n",
        "a.yaml:1:1: runtime belongs in app.yaml; an included file may have only admin_console,",
    ),
    ("service: x\n", "a.yaml:1:1: service belongs in app.yaml"),
    ("error_handlers:\n- file: a\n", "a.yaml:1:1: error_handlers belongs in app.yaml"),
    ("handelrs:\n", "a.yaml:1:1: an included file has no key 'handelrs'. Did you mean 'handlers'?"),
    ("handlers:\n- url: /a\n  script: main.py\n", "a.yaml:3:11: script 'main.py' is a file"),
    (
        "handlers:\n- {url: /a, script: m.a, position: first}\n",
        "a.yaml:2:36: position 'first' must be head or tail",
    ),
    ("handlers:\n- {url: /a, static_dir: gone}\n", "a.yaml:2:25: static_dir 'gone' does not exist"),
    ("skip_files: '['\n", "a.yaml:1:13: skip_files '[' is not a valid regular expression"),
    ("env_variables: {A-B: c}\n", "a.yaml:1:17: 'A-B' is not a valid variable name"),
    ("builtins:\n- defered: on\n", "a.yaml:2:3: there is no builtin 'defered'. Did you mean 'deferred'?"),
    ("basic_scaling:\n", "a.yaml:1:1: basic_scaling is a second kind of scaling; keep only one"),
    ("includes: [gone.yaml]\n", "a.yaml:1:12: includes 'gone.yaml' is not there"),
    ("- a\n", "a.yaml:1:1: expected lines of 'key: value', found (a list)"),
    ("handlers: *a\n", "a.yaml:1:11: the alias '*a'"),
    ("#" * (256 * 1024 + 1), "a.yaml: the file is larger than 256 kB"),
]


@pytest.mark.parametrize(("text", "problem"), WRONG_INCLUDED_FILES)
def test_a_mistake_in_an_included_file_is_reported_there(app_root: Path, text: str, problem: str) -> None:
    """With that file's name, line and column."""
    app_yaml = "includes: [lib/a.yaml]\nmanual_scaling:\n" + handlers("/.*")

    [found] = problems(app_root, {"app.yaml": app_yaml, "lib/a.yaml": text})

    assert found.startswith(f"lib/{problem}")


def test_all_mistakes_come_at_once_file_after_file(app_root: Path) -> None:
    """app.yaml's, then those of each file in the order of reading."""
    places = [
        problem.partition(": ")[0]
        for problem in problems(
            app_root,
            {
                "app.yaml": "includes: [a.yaml, gone.yaml, b.yaml]\nhandlrs:\n",
                "a.yaml": "runtime: x\nhandlers: [{url: a, script: main.app}]\n",
                "b.yaml": "[",
                "queue.yaml": "queeu:\n",
            },
        )
    ]

    assert places == [
        *["app.yaml:1:20", "app.yaml:2:1", "a.yaml:1:1", "a.yaml:2:18"],
        *["b.yaml:1:2", "queue.yaml:1:1"],
    ]


def test_a_missing_script_is_reported_at_its_handler(tmp_path: Path) -> None:
    """The import comes after the reading; the place is still known."""
    write(tmp_path, {"a.yaml": handlers("/a").replace("main.app", "gone.app")})

    with pytest.raises(ConfigError) as refused, web.site(tmp_path, "", "includes: [a.yaml]\n"):
        raise AssertionError("it must not start")

    assert str(refused.value).startswith("a.yaml:2: script: gone.app: there is no module `gone`")


def test_an_empty_file_includes_nothing(app_root: Path) -> None:
    """With a notice, as on App Engine."""
    loaded = load(app_root, {"app.yaml": "includes: [a.yaml]\n" + handlers("/x"), "a.yaml": "# soon\n"})

    assert urls(loaded) == ["/x"]
    assert loaded.notices == ("app.yaml:1:12: a.yaml is empty, so this line has no effect",)


def test_included_files_are_named_by_the_check(app_root: Path) -> None:
    """Whoever checks sees that they were read."""
    write(app_root, {"app.yaml": "includes: [lib/queue.x.yaml]\n", "lib/queue.x.yaml": handlers("/a")})

    findings = config.check(app_root, ENVIRON)

    assert findings.files == ("app.yaml", "lib/queue.x.yaml", "queue.yaml")
    assert findings.mistakes == ()


def test_an_included_file_is_no_queue_file(tmp_path: Path) -> None:
    """Whatever it is called."""
    loaded = load(tmp_path, {"app.yaml": "includes: [queue.part.yaml]\n", "queue.part.yaml": handlers("/a")})

    assert not loaded.has_queue_file


BUILTINS = [
    ("builtins:\n- deferred: on\n- default: true\n", []),
    ("builtins:\n  deferred: on\n", []),
    ("builtins:\n- remote_api: off\n- appstats: no\n", []),
    ("builtins:\n- remote_api: on\n", ["app.yaml:2:3: the builtin 'remote_api' is not available"]),
    ("builtins:\n- appstats: on\n", ["app.yaml:2:3: the builtin 'appstats' is not available"]),
    ("builtins:\n- admin_redirect: on\n", ["app.yaml:2:3: the builtin 'admin_redirect' has no effect"]),
    ("builtins:\n- datastore_admin: on\n", ["app.yaml:2:3: the builtin 'datastore_admin' is not available"]),
    ("builtins:\n- deferred: off\n", ["app.yaml:2:3: the builtin 'deferred' is always on"]),
]


@pytest.mark.parametrize(("text", "notices"), BUILTINS)
def test_each_builtin_is_honoured_or_named(app_root: Path, text: str, notices: list[str]) -> None:
    """A builtin that is not here gives one notice."""
    found = load(app_root, {"app.yaml": text}).notices

    assert [notice[: len(start)] for notice, start in zip(found, notices, strict=True)] == notices


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("builtins: deferred\n", "1:11: builtins 'deferred' must be a list"),
        ("builtins:\n- deferred\n", "2:3: builtins 'deferred' must be a name with on or off"),
        ("builtins:\n- deferred: maybe\n", "2:13: deferred 'maybe' must be on or off"),
        ("builtins:\n- deferred:\n", "2:3: deferred (empty) must be on or off"),
        (
            "builtins:\n- remote_apis: on\n",
            "2:3: there is no builtin 'remote_apis'. Did you mean 'remote_api'?",
        ),
    ],
)
def test_a_wrong_builtin_is_a_mistake(app_root: Path, text: str, problem: str) -> None:
    """At its place."""
    [found] = problems(app_root, {"app.yaml": text})

    assert found.startswith(f"app.yaml:{problem}")


# --- served -------------------------------------------------------------------------------

MAIN = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"app"]
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[web.Site]:
    """An application whose protection is in included files."""
    write(
        tmp_path,
        {
            "lib/admin.yaml": "handlers:\n- {url: /admin/.*, script: main.app, login: admin}\n",
            "lib/last.yaml": "handlers:\n- {url: /.*, script: main.app, login: admin, position: tail}\n",
            "lib/files.yaml": "handlers:\n- {url: /files, static_dir: lib, secure: always}\n",
            "lib/a.txt": "a",
        },
    )
    app_yaml = """
includes: [lib/admin.yaml, lib/last.yaml, lib/files.yaml]
handlers:
- {url: /admin/open, script: main.app}
- {url: /open, script: main.app}
- {url: /all, static_dir: .}
"""
    with web.site(tmp_path, MAIN, app_yaml) as found:
        yield found


@pytest.mark.parametrize(
    ("path", "status"),
    [("/admin/x", 403), ("/admin/open", 403), ("/open", 200), ("/else", 403), ("/files/a.txt", 301)],
)
def test_the_protection_of_an_included_file_protects(site: web.Site, path: str, status: int) -> None:
    """Its ``login`` and ``secure`` hold for the world."""
    assert site.get(path).status_int == status


@pytest.mark.parametrize("name", ["lib/admin.yaml", "app.yaml", "lib/last.yaml"])
def test_an_included_file_is_never_served(site: web.Site, name: str) -> None:
    """Nor is app.yaml: secrets are in env_variables."""
    assert site.get("/all/lib/a.txt").text == "a"
    assert site.get(f"/all/{name}").status_int == 404


# --- anything -----------------------------------------------------------------------------

NAMES = ["a.yaml", "b.yaml", "d/a.yaml", "d/include.yaml", "d/e/c.yaml"]
PATHS = st.one_of(
    st.sampled_from(
        [*NAMES, "d", "./d", "d/", "../a.yaml", "e/c.yaml", "..", "/", ".", "app.yaml", "d/../../x"]
    ),
    st.lists(st.sampled_from(["..", ".", "a.yaml", "d", "e", "", "\0", "~", "$PYTHON_LIB"])).map("/".join),
    st.text(max_size=12),
)
POSITIONS = st.sampled_from(["", ", position: head", ", position: tail"])


@each_number_of_tries
def test_any_net_of_files_loads_or_is_a_mistake(tmp_path: Path, tries: int) -> None:
    """Circles, depths and strange paths: each file counts once, and nothing from outside does."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "e").mkdir()
    (tmp_path / "d" / "out").symlink_to(tmp_path.parent)

    def check(net: list[tuple[list[str], str]], first: list[str]) -> None:
        for name, (paths, position) in zip(NAMES, net, strict=True):
            listed = ", ".join(quoted(path) for path in paths)
            entry = f"{{url: /{name}, script: main.app{position}}}"
            (tmp_path / name).write_text(f"includes: [{listed}]\nhandlers:\n- {entry}\n")
        (tmp_path / "app.yaml").write_text(
            f"includes: [{', '.join(map(quoted, first))}]\n" + handlers("/own")
        )
        with contextlib.suppress(ConfigError):
            loaded = config.load(tmp_path, ENVIRON)
            assert len(set(loaded.app.included)) == len(loaded.app.included)
            assert set(loaded.app.included) <= set(NAMES)
            assert sorted(urls(loaded)) == sorted(["/own", *(f"/{name}" for name in loaded.app.included)])
        for mistake in config.check(tmp_path, ENVIRON).mistakes:
            assert mistake.file in {"app.yaml", *NAMES}
            assert mistake.line
            assert str(mistake).isprintable()

    nodes: st.SearchStrategy[Any] = st.tuples(st.lists(PATHS, max_size=4), POSITIONS)
    try_out(check, tries, net=st.lists(nodes, min_size=5, max_size=5), first=st.lists(PATHS, max_size=4))


def quoted(text: str) -> str:
    """A text as YAML's double quotes take it, whatever is in it."""
    return '"' + "".join(f"\\U{ord(letter):08x}" for letter in text) + '"'

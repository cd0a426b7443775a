"""Static files: the right one with the right headers, and nothing from outside of the folder."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import pytest
import redis
from sqlalchemy import make_url

from lastacross import config, webapp
from lastacross.errors import ConfigError
from tests.support import web
from tests.support.redis_server import running_server

MAIN = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"app"]
"""
APP_YAML = r"""
default_expiration: 1h
handlers:
- url: /static
  static_dir: static
  expiration: 4d 5h
  http_headers: {X-Made-By: hand, Access-Control-Allow-Origin: "*"}
- url: /plain
  static_dir: static
  mime_type: text/plain; charset=utf-8
- url: /maybe
  static_dir: static
  require_matching_file: true
- url: /(.*)\.png
  static_files: images/\1.png
  upload: images/[a-z]+\.png
- url: /all/(.*)
  static_files: \1
  upload: .*
- url: /members
  static_dir: static
  login: admin
- url: /.*
  script: main.app
"""
CANARY = "the canary outside of the folder"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[web.Site]:
    """A folder with files, one secret beside it, and links of every kind."""
    root = tmp_path / "app"
    for folder in ("static/deep", "static/.git", "images", "var"):
        (root / folder).mkdir(parents=True)
    (tmp_path / "secret.txt").write_text(CANARY)
    (root / "secret.txt").write_text(CANARY)
    (root / "secret.png").write_text(CANARY)
    (root / "var" / "secret_key").write_text(CANARY)
    (root / "static" / "site.css").write_text("body { color: red }")
    (root / "static" / "deep" / "page.html").write_text("<p>deep")
    (root / "static" / "grün.txt").write_text("green")
    (root / "static" / ".env").write_text(CANARY)
    (root / "static" / ".git" / "config").write_text(CANARY)
    (root / "images" / "logo.png").write_bytes(b"\x89PNG")
    (root / "static" / "inside.css").symlink_to("site.css")
    (root / "static" / "out.txt").symlink_to(tmp_path / "secret.txt")
    (root / "static" / "outfolder").symlink_to(tmp_path)
    (root / "static" / "up").symlink_to("..")
    (root / "static" / "loop").symlink_to("loop")
    (root / "static" / "zipped.css").write_text("x" * 1000)
    (root / "static" / "zipped.css.gz").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(root / "static" / "pipe")
    with web.site(root, MAIN, APP_YAML) as site:
        yield site


def test_a_file_comes_with_its_type_and_what_app_yaml_says(app: web.Site) -> None:
    """Type by name, expiration, own headers."""
    answer = app.get("/static/site.css")
    assert (answer.status_int, answer.text) == (200, "body { color: red }")
    assert answer.headers["Content-Type"] == 'text/css; charset="utf-8"'
    assert answer.headers["Cache-Control"] == "max-age=363600, public"
    assert answer.headers["X-Made-By"] == "hand"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_mime_type_of_app_yaml_wins_and_the_default_expiration_counts(app: web.Site) -> None:
    """And no header that nobody asked for."""
    answer = app.get("/plain/site.css")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "max-age=3600, public"
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_browser_that_has_the_file_gets_304(app: web.Site) -> None:
    """By its ETag."""
    tag = app.get("/static/site.css").headers["ETag"]
    assert app.get("/static/site.css", HTTP_IF_NONE_MATCH=tag).status_int == 304


def test_a_part_of_a_file_can_be_asked_for(app: web.Site) -> None:
    """Range."""
    answer = app.get("/static/site.css", HTTP_RANGE="bytes=0-3")
    assert (answer.status_int, answer.text) == (206, "body")


def test_a_file_is_only_read(app: web.Site) -> None:
    """HEAD has no body; POST is refused."""
    head = app.request("/static/site.css", method="HEAD")
    assert (head.status_int, head.body, head.content_length) == (200, b"", 19)
    assert app.post("/static/site.css").status_int == 405


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/static/deep/page.html", "<p>deep"),
        ("/static/gr%C3%BCn.txt", "green"),
        ("/static/inside.css", "body { color: red }"),
        ("/maybe/site.css", "body { color: red }"),
        ("/all/static/site.css", "body { color: red }"),
    ],
)
def test_files_are_found(app: web.Site, path: str, text: str) -> None:
    """In folders, with any name, through a link that stays inside."""
    assert app.get(path).text == text


def test_static_files_take_what_the_expression_matched(app: web.Site) -> None:
    """`\\1`, guarded by `upload`."""
    assert app.get("/logo.png").body == b"\x89PNG"
    assert app.get("/logo.png").content_type == "image/png"
    assert app.get("/LOGO.png").status_int == 404
    assert app.get("/../secret.png").status_int == 400
    assert app.get("/%2e%2e/secret.png").status_int == 400


def test_a_missing_file_is_404_or_the_next_handlers(app: web.Site) -> None:
    """As `require_matching_file` says."""
    assert app.get("/static/nothing.css").status_int == 404
    assert app.get("/static/").status_int == 404
    assert app.get("/static/deep").status_int == 404
    assert app.get("/maybe/nothing.css").text == "app"


def test_login_guards_files_too(app: web.Site) -> None:
    """Whether or not they are there."""
    assert app.get("/members/site.css").status_int == 403
    assert app.get("/members/nothing").status_int == 403
    admitted = app.deliver("/members/site.css", "GET")
    assert (admitted.status_int, admitted.headers["Cache-Control"]) == (200, "max-age=3600, private")
    assert app.deliver("/members/nothing", "GET").status_int == 404


DOTS = (
    "..",
    "%2e%2e",
    "%2E.",
    ".%2e",
    "%252e%252e",
    "..%00",
    "..;",
    "...",
    ".. ",
    "%c0%ae%c0%ae",
    "\uff0e\uff0e",
)
SLASHES = ("/", "%2f", "%5c", "//", "%252f", "/./")
ATTEMPTS = [
    *(f"/static/{dots}{slash}secret.txt" for dots in DOTS for slash in SLASHES),
    *(f"/static{slash}{dots}{slash}{dots}{slash}secret.txt" for dots in DOTS for slash in SLASHES),
    *(f"/all/{dots}{slash}secret.txt" for dots in DOTS for slash in SLASHES),
    "/static/out.txt",
    "/static/outfolder/secret.txt",
    "/static/up/secret.txt",
    "/static/up/static/up/secret.txt",
    "/static/loop",
    "/static/zipped.css",
    "/static/zipped.css.gz",
    "/static/pipe",
    "/static/.env",
    "/static/.git/config",
    "/static/deep/../.env",
    "/static//secret.txt",
    "/static/%00",
    "/static/site.css%00.txt",
    "/static/site.css/",
    "/static/site.css/secret.txt",
    "/static/" + "a" * 5000,
    "/static/" + "a/" * 3000 + "b",
    "/all/var/secret_key",
    "/all/static/out.txt",
    "/all//secret.txt",
    "/static/C:/secret.txt",
    "/static/~/secret.txt",
    "/static/file:///secret.txt",
]


def expected_status(attempt: str) -> int:
    """400 for a path that no client sends, 404 below a static prefix; the script answers anything else."""
    path = unquote_to_bytes(attempt)
    if b"\0" in path or b"\xc0" in path or {b".", b".."}.intersection(path.split(b"/")):
        return 400
    return 404 if path.startswith((b"/static/", b"/all/")) else 200


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=range(len(ATTEMPTS)))
def test_nothing_from_outside_of_the_folder_is_served(app: web.Site, attempt: str) -> None:
    """Over 200 spellings and links."""
    answer = app.get(quote(attempt, safe="/%~:;"))
    assert answer.status_int == expected_status(attempt)
    assert (answer.text == "app") == (answer.status_int == 200)
    assert CANARY not in answer.text


def test_an_absolute_path_is_not_served(app: web.Site, tmp_path: Path) -> None:
    """Joining it to the folder would forget the folder."""
    for prefix in ("/static/", "/all/"):
        answer = app.get(f"{prefix}{tmp_path}/secret.txt")
        assert answer.status_int == 404


def test_under_dev_a_changed_file_is_seen_at_once(tmp_path: Path) -> None:
    """And a browser asks again each time."""
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "a.txt").write_text("one")
    app_yaml = "handlers:\n- {url: /static, static_dir: static}\n"
    with web.site(tmp_path, MAIN, app_yaml, variables={"LASTACROSS_DEV": "1"}) as site:
        assert site.get("/static/a.txt").text == "one"
        (tmp_path / "static" / "a.txt").write_text("and two")
        answer = site.get("/static/a.txt")
        assert (answer.text, answer.headers["Cache-Control"]) == ("and two", "max-age=0, public")


def test_the_engine_has_its_own_stylesheet(app: web.Site) -> None:
    """The error page is drawn with it."""
    assert app.get("/_ah/static/engine.css").content_type == "text/css"
    assert app.get("/_ah/static/nothing.css").status_int == 404
    assert app.get("/_ah/static/%2e%2e/stack.py").status_int == 400


@pytest.mark.parametrize("folder", ["missing", "file", "outside"])
def test_a_static_dir_that_cannot_be_served_is_a_configuration_error(tmp_path: Path, folder: str) -> None:
    """At the start, not at the first visitor."""
    root = tmp_path / "app"
    root.mkdir()
    (root / "file").write_text("")
    (root / "outside").symlink_to(tmp_path)
    (root / "app.yaml").write_text(f"handlers:\n- {{url: /s, static_dir: {folder}}}\n")
    with pytest.raises(ConfigError, match=folder):
        webapp.outside(config.load(root, {"SECRET_KEY": web.SECRET_KEY}), webapp.load_script, {})


# --- files that were never uploaded -------------------------------------------------------

SKIPPING = r"""
skip_files:
- ^(.*/)?drafts$
- .*\.bak$
- .*\.gz$
includes: [lib/more.yaml]
handlers:
- url: /s
  static_dir: static
  http_headers:
    Vary: Origin
    X-Frame-Options: DENY
    Content-Type: text/x-own
    Content-Security-Policy: "default-src 'none'"
- url: /maybe
  static_dir: static
  require_matching_file: true
- url: /all/(.*)
  static_files: \1
  upload: .*
- url: /members
  static_dir: static
  login: admin
  auth_fail_action: unauthorized
- url: /secure
  static_dir: static
  secure: always
  redirect_http_response_code: 303
- url: /.*
  script: main.app
"""
SKIPPED = ["a.bak", "drafts/a.txt", "deep/drafts/a.txt", "a.tmp", "kept.css.gz"]


@pytest.fixture
def skipping(tmp_path: Path) -> Iterator[web.Site]:
    """An application that leaves files out."""
    for folder in ("static/deep/drafts", "static/drafts", "static/.git", "lib", "db"):
        (tmp_path / folder).mkdir(parents=True)
    for name in (*SKIPPED, ".git/config", "kept.css", "deep/kept.txt", "a.pyc"):
        (tmp_path / "static" / name).write_text(name)
    (tmp_path / "static" / "kept.css.br").write_text("br")
    (tmp_path / "lib" / "more.yaml").write_text("skip_files: .*\\.tmp$\n")
    for name in ("app", "app-wal", "app-journal", "other"):
        (tmp_path / "db" / name).write_text(CANARY)
    (tmp_path / "static" / "link.txt").symlink_to(tmp_path / "app.yaml")
    for name in ("queue.yaml", "cron.yaml", "dispatch.yaml", "backends.yaml"):
        (tmp_path / name).write_text(f"{name.partition('.')[0]}:\n")
    (tmp_path / "index.yaml").write_text("indexes:\n")
    variables = {"DATABASE_URL": "sqlite:///db/app?timeout=5"}
    with web.site(tmp_path, MAIN, SKIPPING, variables=variables) as site:
        yield site


@pytest.mark.parametrize("name", [*SKIPPED, ".git/config"])
def test_a_file_that_skip_files_leaves_out_is_not_there(skipping: web.Site, name: str) -> None:
    """Neither by its folder nor by its path; the next handler gets the URL where files may be missing."""
    assert skipping.get(f"/s/{name}").status_int == 404
    assert skipping.get(f"/all/static/{name}").status_int == 404
    assert skipping.get(f"/maybe/{name}").text == "app"


@pytest.mark.parametrize("name", ["kept.css", "deep/kept.txt", "a.pyc"])
def test_a_file_that_skip_files_does_not_name_is_served(skipping: web.Site, name: str) -> None:
    """Own expressions take the place of the usual ones."""
    assert skipping.get(f"/s/{name}").text == name
    assert skipping.get(f"/all/static/{name}").text == name


def test_a_compressed_file_that_is_left_out_stands_for_no_other(skipping: web.Site) -> None:
    """The other compressed file does."""
    assert "Content-Encoding" not in skipping.get("/s/kept.css", HTTP_ACCEPT_ENCODING="gzip").headers
    assert skipping.get("/s/kept.css", HTTP_ACCEPT_ENCODING="br").headers["Content-Encoding"] == "br"


OWN_FILES = [
    "app.yaml",
    "queue.yaml",
    "cron.yaml",
    "dispatch.yaml",
    "backends.yaml",
    "index.yaml",
    "lib/more.yaml",
]


@pytest.mark.parametrize("name", [*OWN_FILES, "db/app", "db/app-wal", "db/app-journal"])
def test_the_configuration_and_the_database_are_never_served(skipping: web.Site, name: str) -> None:
    """Whatever the expressions say."""
    assert skipping.get(f"/all/{name}").status_int == 404
    assert skipping.get("/all/db/other").text == CANARY


EVERYTHING = """
handlers:
- {url: /all, static_dir: .}
- {url: '/one/(.*)', static_files: '\\1', upload: '.*'}
- {url: /deep, static_dir: deep}
- {url: /.*, script: main.app}
"""
PRIVATE_NAMES = [
    *(f"{name}.yaml" for name in ("app", "backends", "cron", "dispatch", "dos", "index", "queue")),
    "App.YAML",
    "queue.yml",
    "app.yaml.gz",
    "shop.db",
    "shop.sqlite3",
    "shop.sqlite3-wal",
    "shop.SQLITE-shm",
    "shop.db3-journal",
    "shop.db.br",
    "dump.rdb",
    "temp-17.rdb",
    "appendonly.aof",
    "appendonly.aof.1.incr.aof",
    "appendonly.aof.manifest",
]
PUBLIC_NAMES = [
    "my-app.yaml",
    "openapi.yaml",
    "rdb",
    "db",
    "shop.dbx",
    "data.json",
    "yaml",
    "my-journal",
    "a-wal",
]


@pytest.fixture
def open_site(tmp_path: Path) -> Iterator[web.Site]:
    """An application that serves its whole folder."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    with web.site(tmp_path, MAIN, EVERYTHING) as site:
        yield site


def statuses(site: web.Site, name: str) -> set[int]:
    """Of this file in the folder deep/er, by each of the handlers."""
    return {site.get(f"{url}{name}").status_int for url in ("/all/deep/er/", "/one/deep/er/", "/deep/er/")}


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_configuration_and_data_are_not_served_in_any_folder(
    open_site: web.Site, tmp_path: Path, name: str
) -> None:
    """By their names."""
    (tmp_path / "deep" / "er" / name).write_text(CANARY)
    (tmp_path / "deep" / "er" / "link.txt").symlink_to(name)

    assert statuses(open_site, name) == {404}
    assert statuses(open_site, "link.txt") == {404}
    assert open_site.get("/all/app.yaml").status_int == 404


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_files_with_similar_names_are_served(open_site: web.Site, tmp_path: Path, name: str) -> None:
    (tmp_path / "deep" / "er" / name).write_text("*1 is no log")

    assert statuses(open_site, name) == {200}


@pytest.mark.parametrize("mode", ["delete", "persist", "wal"])
def test_a_database_is_not_served_whatever_it_is_called(
    open_site: web.Site, tmp_path: Path, mode: str
) -> None:
    """Nor its journals, while they are written and afterwards."""
    folder = tmp_path / "deep" / "er"
    with contextlib.closing(sqlite3.connect(folder / "shop", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE a (b TEXT)")
        connection.execute("INSERT INTO a VALUES ('x')")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE a SET b = 'y'")
        found = {path.name for path in folder.iterdir()}
        assert found == {"shop", "shop-wal", "shop-shm"} if mode == "wal" else {"shop", "shop-journal"}
        assert {status for name in found for status in statuses(open_site, name)} == {404}
        connection.execute("COMMIT")
        found = {path.name for path in folder.iterdir()}
        assert {status for name in found for status in statuses(open_site, name)} == {404}
    assert (mode == "persist") is (folder / "shop-journal").exists()


def test_what_redis_has_written_is_not_served_whatever_it_is_called(
    open_site: web.Site, tmp_path: Path
) -> None:
    """A snapshot, and both parts of a log."""
    with running_server(append_only=True) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("a", "b")
            client.save()
        written = [path for path in server.folder.rglob("*") if path.suffix in (".rdb", ".aof")]
        for number, path in enumerate(written):
            (tmp_path / "deep" / "er" / f"copy{number}").write_bytes(path.read_bytes())

    assert len(written) == 3
    assert [statuses(open_site, f"copy{number}") for number in range(3)] == [{404}] * 3


@pytest.mark.parametrize(
    "url", ["sqlite:///shop%2Ebin", "sqlite+pysqlite:///./x/../shop.bin?synchronous=full"]
)
def test_the_database_is_known_however_its_url_is_written(tmp_path: Path, url: str) -> None:
    """Before there is anything in it, too."""
    (tmp_path / "deep").mkdir()
    # SQLAlchemy before 2.1 does not decode the path.
    own = Path(make_url(url).database or "").name
    for name in (own, "other.bin"):
        (tmp_path / name).write_text(CANARY)
    with web.site(tmp_path, MAIN, EVERYTHING, variables={"DATABASE_URL": url}) as site:
        assert site.get(f"/all/{quote(own)}").status_int == 404
        assert site.get("/all/other.bin").status_int == 200


def test_a_link_to_the_configuration_is_not_served_either(skipping: web.Site) -> None:
    """Its real path counts."""
    assert skipping.get("/all/static/link.txt").status_int == 404


@pytest.mark.parametrize("name", ["a.pyc", "a.pyo", "a.txt~", "#a.txt#", "d/RCS/a.txt"])
def test_the_usual_skip_files_are_those_of_app_engine(tmp_path: Path, name: str) -> None:
    """Where app.yaml gives none."""
    path = tmp_path / "static" / name
    path.parent.mkdir(parents=True)
    path.write_text(CANARY)
    (tmp_path / "static" / "a.txt").write_text("a")
    with web.site(tmp_path, MAIN, "handlers:\n- {url: /s, static_dir: static}\n") as site:
        assert site.get(f"/s/{quote(name)}").status_int == 404
        assert site.get("/s/a.txt").text == "a"


# --- headers and refusals -----------------------------------------------------------------


WITH_A_BODY = {200, 206}


@pytest.mark.parametrize(
    ("environ", "method", "status"),
    [
        ({}, "GET", 200),
        ({}, "HEAD", 200),
        ({"HTTP_RANGE": "bytes=0-3"}, "GET", 206),
        ({"HTTP_RANGE": "bytes=99-"}, "GET", 416),
        ({"HTTP_IF_NONE_MATCH": "tag"}, "GET", 304),
        ({"HTTP_IF_MODIFIED_SINCE": "Fri, 31 Dec 2049 23:59:59 GMT"}, "GET", 304),
        ({}, "DELETE", 405),
    ],
)
def test_own_headers_come_with_every_answer(
    skipping: web.Site, environ: dict[str, str], method: str, status: int
) -> None:
    """A 304 replaces the headers that a browser has kept: without ours, its protection would be gone."""
    if "HTTP_IF_NONE_MATCH" in environ:
        environ = {"HTTP_IF_NONE_MATCH": skipping.get("/s/kept.css").headers["ETag"]}

    answer = skipping.request("/s/kept.css", environ, method=method)

    assert answer.status_int == status
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'"
    assert "Origin" in answer.headers["Vary"]
    assert len(answer.headers.getall("Vary")) == 1
    assert answer.headers.get("Content-Type") == ("text/x-own" if status in WITH_A_BODY else None)


def test_a_file_for_the_administrator_asks_who_it_is(skipping: web.Site) -> None:
    """`auth_fail_action` counts for files as for scripts, whether or not the file is there."""
    for name in ("kept.css", "nothing", "a.bak"):
        answer = skipping.get(f"/members/{name}")
        assert (answer.status_int, answer.headers["WWW-Authenticate"]) == (401, "LastAcross")


def test_the_redirect_to_https_has_the_code_of_app_yaml(skipping: web.Site) -> None:
    """Files too; a task needs none."""
    answer = skipping.get("/secure/kept.css?a=b")

    assert (answer.status_int, answer.headers["Location"]) == (303, "https://app.example/secure/kept.css?a=b")
    assert skipping.deliver("/secure/kept.css", "GET").text == "kept.css"

"""Whatever stands in the files and the environment: it loads or it is a ConfigError, nothing else."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lastacross import config
from lastacross.config import app, backends, cron, dispatch, dos, handlers, queues
from lastacross.config.document import Document, Entry
from lastacross.config.settings import VARIABLES
from lastacross.errors import ConfigError
from tests.support.tries import each_number_of_tries, try_out

WORDS = [
    *["queue", "name", "rate", "5/s", "bucket_size", "mode", "pull", "retry_parameters", "task_age_limit"],
    *[
        "handlers",
        "url",
        "/.*",
        "script",
        "main.app",
        "static_dir",
        "static_files",
        "upload",
        "\\1",
        "(",
        "[",
    ],
    *["backends", "instances", "options", "dynamic", "start", "a/b.py", "state", "START", "class", "b8"],
    *["cron", "schedule", "every 5 mins", "every day 09:00", "timezone", "UTC", "misfire", "90s", "a:b"],
    *["dispatch", "*/a", "*.b/*", "module", "1.2.3.4/", "h:80/p"],
    *["skip_files", "builtins", "deferred", "remote_api", "position", "tail", "network", "instance_tag"],
    *["env_variables", "service", "acl", "target", "a.b.c", "expiration", "4d 5h", "http_headers"],
    *[":", ": ", "- ", "\n", "\n  ", "\n- ", "{", "}", "]", ",", "'", '"', "&a", "*a", "!t", "|", ">", "#"],
    *[
        "---",
        "...",
        "%YAML 1.1\n",
        "%TAG ! x\n",
        "? ",
        "~",
        "null",
        "<<",
        "\t",
        "\\x",
        "\\U99999999",
        "\ufeff",
    ],
]

TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from(WORDS), max_size=30).map("".join),
    st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=3)), max_size=20).map("".join),
)


def read_app(document: Document) -> None:
    """The text as app.yaml, and as a file that it includes."""
    app.read(document, [document])


FILES: dict[str, tuple[Callable[[Document], object], list[type[Entry]]]] = {
    "queue.yaml": (queues.read, [queues.FileEntry, queues.QueueEntry]),
    "app.yaml": (read_app, [app.FileEntry, handlers.HandlerEntry]),
    "dos.yaml": (dos.read, [dos.FileEntry]),
    "backends.yaml": (backends.read, [backends.FileEntry, backends.BackendEntry]),
    "cron.yaml": (cron.read, [cron.FileEntry, cron.JobEntry]),
    "dispatch.yaml": (dispatch.read, [dispatch.FileEntry, dispatch.RuleEntry]),
}
KEYS = {
    field.alias or name
    for _, entries in FILES.values()
    for entry in entries
    for name, field in entry.model_fields.items()
}

TOP_KEYS = sorted({name for _, entries in FILES.values() for name in entries[0].model_fields})

SCALARS = st.one_of(st.sampled_from(WORDS), st.text(max_size=20), st.integers().map(str), st.none())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(sorted(KEYS)), inner),
    ),
    max_leaves=15,
)


def read_as_each(text: str) -> None:
    """Read a text as every file; every mistake must be one line with a place."""
    for name, (read, _) in FILES.items():
        with contextlib.suppress(ConfigError):
            document = Document(text, name, "empty")
            read(document)
            for mistake in document.mistakes:
                assert mistake.line
                assert mistake.column
                assert str(mistake).isprintable()
                assert len(str(mistake)) < 700


@each_number_of_tries
def test_any_text_loads_or_is_a_mistake(tries: int) -> None:
    """Syntax: the parser's surprises never leave as themselves."""
    try_out(read_as_each, tries, text=TEXTS)


def flow(value: object) -> str:
    """A value in YAML's flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    if value is None:
        return "~"
    return "'" + str(value).replace("'", "''") + "'"


@each_number_of_tries
def test_any_value_at_any_key_loads_or_is_a_mistake(tries: int) -> None:
    """Meaning: the right keys with the wrong things in them."""
    contents = st.dictionaries(st.sampled_from([*TOP_KEYS, "runtime"]), VALUES)
    try_out(read_as_each, tries, text=contents.map(flow))


@each_number_of_tries
def test_any_environment_loads_or_is_a_mistake(app_root: Path, tries: int) -> None:
    """Variables too, and what is shown of them never fails."""

    def load(environ: dict[str, str]) -> None:
        with contextlib.suppress(ConfigError):
            assert config.describe(config.load(app_root, {"SECRET_KEY": "x" * 16} | environ))
        assert {"app.yaml", "queue.yaml"} <= set(config.check(app_root, environ).files)

    names = st.sampled_from([one.name for one in VARIABLES])
    try_out(load, tries, environ=st.dictionaries(names, st.text(max_size=60)))


@pytest.mark.parametrize("variable", [one.name for one in VARIABLES])
@given(
    text=st.one_of(
        st.text(max_size=40), st.from_regex(r"[a-z]{0,12}://[^/]{0,20}(/.{0,10})?", fullmatch=True)
    )
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_of_a_variable_is_named_in_its_mistake(app_root: Path, variable: str, text: str) -> None:
    """The message begins with the variable's name, on one line."""
    for mistake in config.check(app_root, {"SECRET_KEY": "x" * 16, variable: text}).mistakes:
        assert str(mistake).startswith((variable, "LASTACROSS_STREAMS", "SECRET_KEY"))
        assert str(mistake).isprintable()


URLS = st.from_regex(r"[*a-z0-9.-]{0,12}/?[a-z/*?]{0,8}", fullmatch=True)


@each_number_of_tries
def test_any_files_together_load_or_are_mistakes(app_root: Path, tries: int) -> None:
    """What one file says of another is compared without surprises, and what loads can be asked."""

    def load(queue: object, rules: object, entries: object, error_file: object) -> None:
        texts = {"queue": queue, "dispatch": rules, "backends": entries, "app": [{"file": error_file}]}
        for name, value in texts.items():
            key = "error_handlers" if name == "app" else name
            (app_root / f"{name}.yaml").write_text(flow({key: value}), errors="surrogatepass")
        with contextlib.suppress(ConfigError):
            loaded = config.load(app_root, {"SECRET_KEY": "x" * 16})
            assert loaded.dispatched_service("/a") in {None, *(rule.service for rule in loaded.dispatch)}
        for mistake in config.check(app_root, {}).mistakes:
            assert str(mistake).isprintable()

    try_out(
        load,
        tries,
        queue=st.lists(st.fixed_dictionaries({"name": SCALARS, "rate": st.just("1/s"), "target": SCALARS})),
        rules=st.lists(
            st.fixed_dictionaries({"url": URLS}, optional={"service": SCALARS, "module": SCALARS})
        ),
        entries=st.lists(st.fixed_dictionaries({"name": SCALARS}, optional={"start": SCALARS})),
        error_file=SCALARS,
    )

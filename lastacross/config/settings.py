"""Reads the environment: every variable, its default, and the source of its value.

Secret values are masked wherever they are shown. A development set-up's secret key is generated once and
kept in the data folder.
"""

import functools
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from lastacross.config import variables
from lastacross.config.diagnostics import UnusableError, likely, sentence, shown, together
from lastacross.config.values import DEFAULT_SERVICE, Config, Settings
from lastacross.errors import ConfigError

ENVIRONMENT = "environment"
DEFAULT = "default"
NOT_SET = "not set"

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
NEW_KEY = "python -c 'import secrets; print(secrets.token_urlsafe(48))'"

SECRET_KEY_FILE = "secret_key"
SECRET_KEY_BYTES = 48

MASK = "********"
_PARAMETER = re.compile(r"((?:password|passwd|sslpassword|secret|token)=)[^&#\s,']*", re.IGNORECASE)


def masked_url(url: str) -> str:
    """Hide a URL's password, and any query parameter that holds a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    if "@" in parts.path:
        # The password contains a slash, so its end is uncertain.
        return masked_text(url)
    credentials, at, place = parts.netloc.rpartition("@")
    user, colon, _ = credentials.partition(":")
    netloc = f"{user}{colon}{MASK}{at}{place}" if colon else parts.netloc
    return _PARAMETER.sub(rf"\1{MASK}", url.replace(f"//{parts.netloc}", f"//{netloc}", 1))


def masked_text(text: str) -> str:
    """Hide a possible password: everything between a text's first ``:`` and last ``@``."""
    start, end = text.find(":"), text.rfind("@")
    if 0 <= start < end:
        text = f"{text[: start + 1]}{MASK}{text[end:]}"
    return _PARAMETER.sub(rf"\1{MASK}", text)


def read_secret_key(data_dir: Path) -> str | None:
    """Return the stored key, or None if no key has been generated yet.

    Raises:
        ConfigError: the file cannot be read, is too short, or is readable by other users.
    """
    path = data_dir / SECRET_KEY_FILE
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(4096).decode("ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"SECRET_KEY: {path} cannot be read: {error}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"SECRET_KEY: other users can read {path}; run: chmod 600 {path}")
    if len(key) < variables.MIN_SECRET_KEY_CHARACTERS:
        raise ConfigError(
            f"SECRET_KEY: the key in {path} is too short; delete the file to generate a new key"
        )
    return key


def read_or_make_secret_key(data_dir: Path) -> str:
    """Return the stored key, or generate it. Processes that start simultaneously agree on one key.

    Raises:
        ConfigError: the file cannot be read or created.
    """
    kept = read_secret_key(data_dir)
    if kept is not None:
        return kept
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_secret_key(data_dir)
    except OSError as error:
        raise ConfigError(f"SECRET_KEY: a key cannot be stored in {data_dir}: {error.strerror}") from error
    kept = read_secret_key(data_dir)
    if kept is None:
        raise ConfigError(f"SECRET_KEY: {data_dir / SECRET_KEY_FILE} disappeared while it was being created")
    return kept


def _make_secret_key(data_dir: Path) -> None:
    """Write a key to a temporary file and link it, so the file appears with all of its content.

    If another process got there first, the link fails and that process's key is used.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{SECRET_KEY_FILE}.", dir=data_dir)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(SECRET_KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, data_dir / SECRET_KEY_FILE)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)


@dataclass(frozen=True)
class Variable:
    """An environment variable: its field in Settings, its parser and its display format."""

    name: str
    field: str
    parse: Callable[[str], Any]
    is_secret: bool = False
    show: Callable[[Any], str] = str


def _between(lowest: int, highest: int) -> Callable[[str], int]:
    return functools.partial(variables.whole_number, lowest=lowest, highest=highest)


def _show_networks(value: tuple[object, ...]) -> str:
    return ",".join(map(str, value))


def _show_services(value: Mapping[str, str]) -> str:
    return ",".join(f"{name}={masked_url(url)}" for name, url in value.items())


DEV = "LASTACROSS_DEV"
DATA_DIR = "LASTACROSS_DATA_DIR"
APP = "LASTACROSS_APP"

# All variables, in the order in which `config show` lists them.
VARIABLES = (
    Variable("PORT", "port", _between(0, 65_535)),
    Variable("HOST", "host", variables.host),
    Variable("REDIS_URL", "redis_url", variables.redis_url, show=masked_url),
    Variable("RQ_KEY_PREFIX", "key_prefix", variables.key_prefix),
    Variable("DATABASE_URL", "database_url", str, show=masked_url),
    Variable("SECRET_KEY", "secret_key", variables.secret_key, is_secret=True),
    Variable(DATA_DIR, "data_dir", Path),
    Variable(DEV, "is_dev", variables.switch, show=lambda value: "1" if value else "0"),
    Variable("LASTACROSS_SERVICE", "service", variables.service),
    Variable("LASTACROSS_SERVICES", "services", variables.services, show=_show_services),
    Variable("LASTACROSS_ALLOWED_HOSTS", "allowed_hosts", variables.allowed_hosts, show=",".join),
    Variable("LASTACROSS_TRUSTED_PROXIES", "trusted_proxies", variables.networks, show=_show_networks),
    Variable("LASTACROSS_USER_HEADER", "user_header", variables.user_header),
    Variable("LASTACROSS_ADMINS", "admins", variables.users, show=",".join),
    Variable("LASTACROSS_VIEWERS", "viewers", variables.users_or_all, show=",".join),
    Variable("LASTACROSS_FETCH_PRIVATE_HOSTS", "fetch_private_hosts", variables.fetch_hosts, show=",".join),
    Variable("LASTACROSS_TOMBSTONE_SECONDS", "tombstone_seconds", _between(1, 31_536_000)),
    Variable(
        "LASTACROSS_LEASE_SECONDS",
        "lease_seconds",
        functools.partial(variables.seconds, lowest=0.5, highest=3600),
        show=lambda value: f"{value:g}",
    ),
    Variable("LASTACROSS_DEAD_LETTER_SECONDS", "dead_letter_seconds", _between(60, 315_360_000)),
    Variable("LASTACROSS_CACHE_SECONDS", "cache_seconds", _between(1, 31_536_000)),
    Variable("LASTACROSS_LONGTASK_SECONDS", "longtask_seconds", _between(1, 315_360_000)),
    Variable("LASTACROSS_OPEN_LONGTASKS", "open_longtasks", _between(1, 1_000_000)),
    Variable("LASTACROSS_LONGTASK_BYTES", "longtask_bytes", _between(2**20, 2**50)),
    Variable("LASTACROSS_PROCESSES", "worker_processes", _between(1, 1024)),
    Variable("LASTACROSS_THREADS", "threads", _between(1, 1024)),
    Variable("LASTACROSS_PRELOAD", "preload", variables.switch, show=lambda value: "1" if value else "0"),
    Variable("WEB_CONCURRENCY", "web_processes", _between(1, 1024)),
    Variable("LASTACROSS_WEB_THREADS", "web_threads", _between(2, 4096)),
    Variable("LASTACROSS_STREAMS", "max_streams", _between(0, 4095)),
    Variable("LASTACROSS_STREAMS_PER_CLIENT", "max_streams_per_client", _between(1, 4095)),
    Variable("LASTACROSS_MAX_BODY_BYTES", "max_body_bytes", _between(1024, 2**31)),
    Variable("LASTACROSS_MAX_FORM_BYTES", "max_form_bytes", _between(1024, 2**31)),
    Variable("LASTACROSS_MAX_FORM_FIELDS", "max_form_fields", _between(10, 1_000_000)),
    Variable("LASTACROSS_LOG_LEVEL", "log_level", variables.log_level),
    Variable("LASTACROSS_TRACES", "traces", variables.switch, show=lambda value: "1" if value else "0"),
    Variable("LASTACROSS_METRICS_TOKEN", "metrics_token", variables.token, is_secret=True),
)


FROM_FILES = ("REDIS_URL", "DATABASE_URL", "SECRET_KEY", "LASTACROSS_METRICS_TOKEN")
"""The variables that may be in a file, which ``<name>_FILE`` names, as with container secrets."""
FILE_SUFFIX = "_FILE"
MAX_FILE_BYTES = 65_536


class Environment:
    """The environment variables while they are being read; an empty value counts as unset.

    ``root`` is the application's folder, and relative paths are resolved against it.
    """

    def __init__(self, root: Path, environ: Mapping[str, str]) -> None:
        self.root = root
        self.given = {name: value for name, value in environ.items() if value.strip()}
        self.mistakes: list[ConfigError] = []
        self.notices: list[str] = []
        self.sources: dict[str, str] = {}
        self.values: dict[str, Any] = {}

    def read_given(self) -> None:
        """Read every variable that is set."""
        for variable in VARIABLES:
            text = self.given.get(variable.name)
            self.sources[variable.name] = DEFAULT if text is None else ENVIRONMENT
            if variable.name in FROM_FILES and variable.name + FILE_SUFFIX in self.given:
                text = self._text_of_file(variable.name)
            if text is not None:
                self._read(variable, text)

    def _text_of_file(self, name: str) -> str | None:
        """The value in the file that ``<name>_FILE`` names; None after a mistake."""
        given = self.given[name + FILE_SUFFIX]
        path = self.root / os.path.expanduser(given)
        # The secret itself, set by mistake, must not appear in the message.
        label = f"the file that {name}_FILE names"
        self.sources[name] = f"file {path}"
        if name in self.given:
            self.mistakes.append(ConfigError(f"{name} and {name}_FILE are both set; unset one of them"))
            return None
        try:
            with path.open("rb") as file:
                text = file.read(MAX_FILE_BYTES).decode().strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            self.mistakes.append(ConfigError(f"{label} cannot be read: {reason}"))
            return None
        if not text:
            self.mistakes.append(ConfigError(f"{label} is empty"))
            return None
        return text

    def _read(self, variable: Variable, text: str) -> None:
        try:
            if variable.name == "DATABASE_URL":
                self.values[variable.field] = variables.database_url(text, self.root)
            elif variable.name == DATA_DIR:
                self.values[variable.field] = self._folder(text)
            else:
                self.values[variable.field] = variable.parse(text)
        except UnusableError as error:
            self.mistakes.append(self._mistake(variable, text, error))

    @staticmethod
    def _mistake(variable: Variable, text: str, error: UnusableError) -> ConfigError:
        """Return the error, without any secret that the variable's value may contain."""
        value = MASK if variable.is_secret else shown(masked_text(text))
        hint = None if error.hint is None else masked_text(error.hint)
        problem = f"{variable.name} {value} {masked_text(error.problem)}"
        return ConfigError(sentence(problem, hint))

    def _folder(self, text: str) -> Path:
        # pathlib raises for a name that is too long or an unknown ~user; os.path does not.
        folder = (self.root / os.path.expanduser(text)).absolute()
        if "\0" in text or (os.path.lexists(folder) and not os.path.isdir(folder)):
            raise UnusableError("is not a folder")
        return folder

    def add_defaults(self) -> None:
        """Set the defaults that depend on other values; constant defaults are declared in Settings."""
        is_dev = self.values.setdefault("is_dev", False)
        data_dir = self.values.setdefault("data_dir", (self.root / "var").absolute())
        self.values.setdefault("port", 8080)
        self.values.setdefault("host", "127.0.0.1" if is_dev else "0.0.0.0")
        self.values.setdefault("redis_url", "redis://127.0.0.1:6379/0")
        self.values.setdefault("database_url", f"sqlite:///{data_dir}/lastacross.db")
        self.values.setdefault("allowed_hosts", LOOPBACK_HOSTS if is_dev else ("*",))
        self._check_streams()
        self._check_user_header()
        self._note_default_service()
        self._suspect_misspellings()

    def _check_streams(self) -> None:
        threads = self.values.get("web_threads", Settings.web_threads)
        streams = self.values.setdefault("max_streams", min(Settings.max_streams, threads * 4 // 5))
        per_client = min(Settings.max_streams_per_client, max(1, streams // 2))
        self.values.setdefault("max_streams_per_client", per_client)
        if streams >= threads:
            self.mistakes.append(
                ConfigError(
                    f"LASTACROSS_STREAMS {streams} would use all {threads} threads of "
                    "LASTACROSS_WEB_THREADS; leave some for other requests"
                )
            )

    def _check_user_header(self) -> None:
        if self.values.get("user_header") and not self.values.get("trusted_proxies"):
            remark = "has no effect without LASTACROSS_TRUSTED_PROXIES, the addresses that may send it"
            self.mistakes.append(ConfigError(f"LASTACROSS_USER_HEADER {remark}"))
        for name in ("admins", "viewers"):
            if self.values.get(name) and not self.values.get("user_header"):
                remark = "has no effect without LASTACROSS_USER_HEADER, the header that names the user"
                self.notices.append(f"LASTACROSS_{name.upper()} {remark}")

    def _note_default_service(self) -> None:
        if DEFAULT_SERVICE in self.values.get("services", ()):
            remark = "this installation's own workers run the default service, so its URL is not used"
            self.notices.append(f"LASTACROSS_SERVICES: {remark}")

    def _suspect_misspellings(self) -> None:
        names = [variable.name for variable in VARIABLES if variable.name.startswith("LASTACROSS_")] + [APP]
        names += [name + FILE_SUFFIX for name in FROM_FILES if name.startswith("LASTACROSS_")]
        for name in sorted(self.given):
            if name.startswith("LASTACROSS") and name not in names:
                hint = likely(name, names, 0.85)
                if hint is not None:
                    self.notices.append(sentence(f"the variable {name} is unknown and has no effect", hint))

    def add_secret_key(self, *, may_make: bool, is_needed: bool) -> None:
        """Take the secret key from the environment or, under ``dev``, from the data folder.

        ``may_make`` allows creating the file. Outside ``dev``, a missing key is an error if ``is_needed``.
        """
        if self.sources["SECRET_KEY"] != DEFAULT:
            return
        if not self.values["is_dev"] and not is_needed:
            self.values["secret_key"], self.sources["SECRET_KEY"] = "", NOT_SET
            return
        if not self.values["is_dev"]:
            problem = f"SECRET_KEY is not set; generate one with {NEW_KEY} and set it for every process"
            self.mistakes.append(ConfigError(problem))
            return
        data_dir = self.values["data_dir"]
        try:
            key = read_or_make_secret_key(data_dir) if may_make else read_secret_key(data_dir)
        except ConfigError as error:
            self.mistakes.append(error)
            return
        self.values["secret_key"] = key or ""
        self.sources["SECRET_KEY"] = f"file {data_dir / SECRET_KEY_FILE}" if key else NOT_SET


def read(
    root: Path, environ: Mapping[str, str], *, may_make_key: bool = True, needs_key: bool = True
) -> Environment:
    """Read every variable; the result also includes any errors and notices."""
    environment = Environment(root, environ)
    environment.read_given()
    environment.add_defaults()
    is_right = not environment.mistakes
    environment.add_secret_key(may_make=may_make_key and is_right, is_needed=needs_key)
    return environment


def build(environment: Environment) -> Settings:
    """Build the settings from an environment without errors."""
    return Settings(**environment.values, sources=MappingProxyType(environment.sources))


def read_settings(root: Path, environ: Mapping[str, str]) -> Settings:
    """Return the settings without reading any file, for read-only commands; no SECRET_KEY is needed.

    Args:
        root: the application's folder.
        environ: the environment, as ``os.environ``.

    Raises:
        ConfigError: a variable is invalid; ``mistakes`` lists all of its errors.
    """
    environment = read(Path(root).absolute(), environ, may_make_key=False, needs_key=False)
    if environment.mistakes:
        raise together(environment.mistakes)
    return build(environment)


def warnings(own: Settings) -> list[str]:
    """Return a line for each setting that is valid but leaves the site open."""
    if own.is_dev or "*" not in own.allowed_hosts:
        return []
    remark = "requests for any host are accepted; list the site's host names, such as shop.example"
    return [f"LASTACROSS_ALLOWED_HOSTS=*: {remark}"]


def describe(config: Config) -> list[tuple[str, str, str]]:
    """Return (variable, displayable value, source) for each setting.

    Secrets are masked; an unset secret is shown as an empty string.
    """
    rows = []
    for variable in VARIABLES:
        value = getattr(config.settings, variable.field)
        # Showing stars for an unset secret would be misleading.
        text = (value and MASK) if variable.is_secret else variable.show(value)
        rows.append((variable.name, text, config.settings.sources.get(variable.name, DEFAULT)))
    return rows

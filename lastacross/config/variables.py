"""Parses each environment variable. All functions are pure, and raise UnusableError for a bad value."""

import ipaddress
import re
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from urllib.parse import SplitResult, urlsplit

from lastacross.config import sentinel_url
from lastacross.config.diagnostics import UnusableError, likely
from lastacross.config.units import parse_between, parse_seconds

MIN_SECRET_KEY_CHARACTERS = 16
DEFAULT_KEY_PREFIX = "rq"
OWN_KEY_PREFIX = "lastacross"
FIRST_RQ_WITH_PREFIX = 3
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_REDIS_SCHEMES = {"redis", "rediss", "unix", *sentinel_url.SCHEMES}
_KEY_PREFIX = re.compile(r"[A-Za-z0-9_.:{}-]{1,100}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9_.:%\[\]-]{1,255}", re.ASCII)
_ALLOWED_HOST = re.compile(r"\*|(\*?\.)?[a-z0-9_.-]{1,253}|\[?[0-9a-f:.]+\]?", re.ASCII)
_FETCH_HOST = re.compile(r"([a-z0-9_.-]{1,253}|\[[0-9a-f:.]+\])(:(?P<port>\d{1,5}))?", re.ASCII)
_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}", re.ASCII)
# These headers carry other information, which clients may choose.
_OTHER_HEADERS = frozenset(
    {
        *("host", "cookie", "origin", "referer", "user-agent", "accept", "content-type", "content-length"),
        *("authorization", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"),
        *("x-forwarded-port", "x-real-ip", "x-client-ip", "client-ip", "true-client-ip", "cf-connecting-ip"),
        *("sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "x-request-id", "accept-language"),
    }
)
_PLAIN_SERVICE = re.compile(r"(?!-)[a-z0-9-]{1,100}", re.ASCII)


def whole_number(text: str, lowest: int, highest: int) -> int:
    """Parse a whole number within bounds."""
    return parse_between(text.strip(), lowest, highest)


def seconds(text: str, lowest: float, highest: float) -> float:
    """Parse a duration in seconds within bounds, with an optional fraction."""
    number = parse_seconds(text.strip())
    if not lowest <= number <= highest:
        raise UnusableError(f"is not between {lowest:g} and {highest:g}")
    return number


def key_prefix(text: str) -> str:
    """Parse the prefix of all key names, with the same rule as RQ 3 and later (``rq.defaults``)."""
    if text == DEFAULT_KEY_PREFIX:
        return text
    if not _KEY_PREFIX.fullmatch(text):
        raise UnusableError("must be 1 to 100 letters, digits or characters from _ . : - { }")
    if text == OWN_KEY_PREFIX:
        raise UnusableError("is reserved for installations without a prefix")
    installed = metadata.version("rq")
    if int(installed.partition(".")[0]) < FIRST_RQ_WITH_PREFIX:
        raise UnusableError(f"is ignored by RQ {installed}: install rq>={FIRST_RQ_WITH_PREFIX}, or unset it")
    return text


def host(text: str) -> str:
    """Parse a host name or an IP address to listen on."""
    if "://" in text or not _HOST.fullmatch(text):
        raise UnusableError("is not an IP address or a host name")
    return text


def secret_key(text: str) -> str:
    """Check a secret, which must have at least 16 characters."""
    if len(text) < MIN_SECRET_KEY_CHARACTERS:
        raise UnusableError(f"has {len(text)} characters; it needs at least {MIN_SECRET_KEY_CHARACTERS}")
    return text


def token(text: str) -> str:
    """Check a bearer token: at least 16 characters, all allowed in a header (RFC 6750, section 2.1)."""
    if re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", text) is None:
        raise UnusableError("has characters that a bearer token cannot have", "letters, digits and -._~+/")
    return secret_key(text)


def log_level(text: str) -> str:
    """Parse the name of a log level, in upper or lower case."""
    level = text.strip().upper()
    if level not in LOG_LEVELS:
        raise UnusableError(f"is not one of {', '.join(LOG_LEVELS)}", likely(level, LOG_LEVELS))
    return level


def redis_url(text: str) -> str:
    """Check a Redis URL. ``sentinel_url`` describes the form that names sentinels."""
    scheme, _, rest = text.partition("://")
    if scheme not in _REDIS_SCHEMES or not rest:
        raise UnusableError(
            "does not begin with redis://, rediss://, redis+sentinel://, rediss+sentinel:// or unix://",
            _likely_redis_url(text, scheme, rest),
        )
    if sentinel_url.parse(text) is not None:
        return text
    parts = _split(text)
    if scheme == "unix":
        if not parts.path:
            raise UnusableError("does not name a socket", "unix:///path/to/redis.sock")
        return text
    if not parts.hostname:
        raise UnusableError("does not name a host")
    if not re.fullmatch(r"/?|/\d{1,5}", parts.path, re.ASCII):
        raise UnusableError("has an invalid database number; write one such as /0")
    return text


def _likely_redis_url(text: str, scheme: str, rest: str) -> str | None:
    if scheme in {"sentinel", "sentinels"} and rest:
        return f"redis{'s' * (scheme == 'sentinels')}+sentinel://{rest}"
    if "://" not in text and re.fullmatch(r"[\w.-]+(:\d+)?(/\d+)?", text):
        return f"redis://{text}"
    return None


def database_url(text: str, root: Path) -> str:
    """Parse a SQLAlchemy URL for SQLite or PostgreSQL; a relative SQLite path is resolved from ``root``."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise UnusableError(
            "is not a URL such as sqlite:////data/app.db or postgresql://user:password@host/name"
        )
    if scheme in {"postgres", "postgresql", "postgresql+psycopg"}:
        _split(text)
        return f"postgresql+psycopg://{rest}"
    if scheme in {"sqlite", "sqlite+pysqlite"}:
        return _sqlite_url(rest, root)
    if scheme.startswith("postgres"):
        raise UnusableError("uses another driver, but only psycopg is installed", "postgresql://…")
    raise UnusableError("must be the URL of a SQLite (sqlite://) or PostgreSQL (postgresql://) database")


def _sqlite_url(rest: str, root: Path) -> str:
    if rest and not rest.startswith("/"):
        raise UnusableError("has two slashes before a relative path; write three", f"sqlite:///{rest}")
    file, question, query = rest[1:].partition("?")
    if not file or file == ":memory:":
        raise UnusableError(
            "is a database in one process's memory; name a file that all processes share, such as sqlite:///app.db"
        )
    if file.startswith(("/", "file:")):
        return f"sqlite://{rest}"
    return f"sqlite:///{root / file}{question}{query}"


def service(text: str) -> str:
    """Check a service's name, by the rules for a name in backends.yaml."""
    if not _PLAIN_SERVICE.fullmatch(text):
        plain = re.sub(r"[^a-z0-9-]+", "-", text[:100].lower()).strip("-")
        raise UnusableError("must be 1 to 100 lowercase letters, digits or hyphens", plain or None)
    return text


def services(text: str) -> MappingProxyType[str, str]:
    """Parse ``counter=http://10.0.0.5:8080,…``, the base URL of each service that runs elsewhere."""
    found: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, url = (part.strip() for part in item.partition("="))
        if not equals:
            raise UnusableError(
                f"contains {item!r}, which is not of the form name=url",
                f"name={item}" if "//" in item else None,
            )
        if not _PLAIN_SERVICE.fullmatch(name):
            last = name.rpartition(".")[2]
            hint = f"{last}={url}" if last != name and _PLAIN_SERVICE.fullmatch(last) else None
            raise UnusableError(f"contains {name!r}, which is not a valid service name", hint)
        if name in found:
            raise UnusableError(f"contains {name!r} twice")
        parts = _split(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            hint = f"{name}=http://{url}" if "://" not in url and url else None
            raise UnusableError(
                f"contains {url!r} for {name}, which is not a base URL (http:// or https://)", hint
            )
        found[name] = url.rstrip("/")
    return MappingProxyType(found)


def allowed_hosts(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of hosts: ``example.com``, ``.example.com`` (plus subdomains), ``*``."""
    names = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    for name in names:
        if not _ALLOWED_HOST.fullmatch(name):
            bare = re.sub(r"^[a-z]+://|[:/].*$", "", name, count=0)
            hint = bare if _ALLOWED_HOST.fullmatch(bare) and bare != name else None
            raise UnusableError(f"contains {name!r}, which is not a host name without a port", hint)
    return names


def fetch_hosts(text: str) -> tuple[str, ...]:
    """Parse comma-separated hosts with an optional port: ``localhost:8081``, ``10.0.0.5``, ``[::1]``."""
    names = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    for name in names:
        found = _FETCH_HOST.fullmatch(name)
        if found is None or not 0 < int(found["port"] or 80) <= 65_535:
            bare = re.sub(r"^[a-z]+://|/.*$", "", name)
            bare = f"[{bare}]" if re.fullmatch(r"[0-9a-f]*(:[0-9a-f.]*){2,}", bare) else bare
            hint = bare if _FETCH_HOST.fullmatch(bare) and bare != name else None
            raise UnusableError(f"contains {name!r}, which is neither a host nor host:port", hint)
    return names


def networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Parse comma-separated addresses and networks: ``127.0.0.1``, ``10.0.0.0/8``, ``fd00::/8``."""
    items = dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip())
    return tuple(_network(item) for item in items)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    bare = re.sub(r"[\[\]]", "", text)
    try:
        network = ipaddress.ip_network(bare)
    except ValueError as error:
        try:
            hint = str(ipaddress.ip_network(bare, strict=False))
        except ValueError:
            hint = None
        raise UnusableError(f"contains {text!r}, which is neither an address nor a network", hint) from error
    if network.prefixlen == 0:
        raise UnusableError(
            f"contains {text!r}, which matches every address; list only the proxies' addresses"
        )
    return network


def user_header(text: str) -> str:
    """Check the name of the header in which a proxy names the user, such as ``X-Forwarded-Email``."""
    name = text.strip()
    if not _HEADER.fullmatch(name):
        raise UnusableError("is not the name of a header, such as X-Forwarded-Email")
    if name.lower() in _OTHER_HEADERS or name.lower().startswith(("x-appengine-", "x-google-")):
        raise UnusableError("is a header with another meaning", "X-Forwarded-Email")
    return name


def users(text: str) -> tuple[str, ...]:
    """Parse comma-separated names of users, whose case does not matter."""
    names = users_or_all(text)
    if "*" in names:
        raise UnusableError("contains '*': name each administrator")
    return names


def users_or_all(text: str) -> tuple[str, ...]:
    """Parse comma-separated names of users; ``*`` is everybody."""
    return tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))


def switch(text: str) -> bool:
    """1 or 0."""
    if text.strip() in {"0", "1"}:
        return text.strip() == "1"
    on, off = {"true", "yes", "on"}, {"false", "no", "off"}
    word = text.strip().lower()
    raise UnusableError("must be 0 or 1", "1" if word in on else "0" if word in off else None)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        # The parser's message may quote part of a password that it mistook for a port.
        reason = "write special characters in the password as %XX" if "@" in url else str(error)
        raise UnusableError(f"is not a URL: {reason}") from error
    return parts

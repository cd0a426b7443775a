"""Finds out what is wrong with a set-up; each finding names the command or setting that fixes it.

Nothing is changed, except for a key that is written and deleted again to learn what Redis permits.
"""

import contextlib
import http.client
import resource
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lastacross import config, datastore, signing, store
from lastacross.broker import DEFAULT_GROUP, KnownQueue, Listing, WorkerDirectory, queue_directory
from lastacross.clock import SYSTEM
from lastacross.config import CRON_QUEUE, Config, Settings
from lastacross.errors import (
    ConfigError,
    DatastoreError,
    DatastoreSchemaError,
    StartupError,
    StoreUnavailableError,
)
from lastacross.processes import listening, presence
from lastacross.processes.start_upload import different_files
from lastacross.store import (
    RQ_COMMANDS_PREFIX,
    RQ_QUEUES,
    NoPermissionError,
    ResponseError,
    Store,
    side_list,
    translated_errors,
)

ADVISED_KEY_CHARACTERS = 32
MAX_CLOCK_SECONDS = 1.0
MANY_FAILURES = 10
# How many waiting tasks per queue are searched for ones with many failed attempts.
SEARCHED_TASKS = 1000
_ANSWER_SECONDS = 1.0
_PROBE_SECONDS = 10


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        name: a stable, machine-readable identifier.
        problem: a sentence for people.
        remedy: the command that fixes it, or the setting to change.
    """

    name: str
    problem: str
    remedy: str


Check = Callable[[Config], Iterator[Finding]]


def examine(configuration: Config) -> list[Finding]:
    """Examine the set-up of this folder and environment, using the current store.

    Parts that cannot be examined because another part, such as Redis, is broken are left out.
    """
    found = [*_secret_key(configuration), *_port(configuration), *_open_files(configuration)]
    found += _datastore(configuration)
    unreachable = list(_redis(configuration))
    found += unreachable
    if not unreachable:
        for check in _OF_REDIS:
            found += _checked(check, configuration)
    return found


def _checked(check: Check, configuration: Config) -> list[Finding]:
    try:
        return list(check(configuration))
    except (ResponseError, StoreUnavailableError) as error:
        # The rights check names the missing right.
        if "NOPERM" in str(error) or "not permit" in str(error):
            return []
        return [Finding("redis_unreachable", f"Redis: {error}", "check REDIS_URL and the server's log")]


# --- this machine ----------------------------------------------------------------------------


def _secret_key(configuration: Config) -> Iterator[Finding]:
    settings = configuration.settings
    key = settings.secret_key
    if not key:
        problem = "SECRET_KEY is not set, so no process of production starts"
        yield Finding("secret_key", problem, f"export SECRET_KEY=$({config.NEW_KEY})")
    elif len(key) < ADVISED_KEY_CHARACTERS:
        problem = f"SECRET_KEY has {len(key)} characters, so it may be guessed"
        yield Finding("secret_key", problem, f"export SECRET_KEY=$({config.NEW_KEY})")


def _port(configuration: Config) -> Iterator[Finding]:
    try:
        listening.require_free_port(configuration.settings)
    except StartupError as error:
        if not _is_our_site(configuration.settings):
            port = configuration.settings.port + 1
            yield Finding("port", str(error), f"PORT={port} lastacross web")


def _is_our_site(settings: Settings) -> bool:
    address = listening.browsable_url(settings).removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(address, timeout=_ANSWER_SECONDS)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/_ah/health")
        return connection.getresponse().status == http.client.OK
    return False


def _open_files(configuration: Config) -> Iterator[Finding]:
    needed = listening.needed_files(configuration.settings)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        problem = f"a process may open {hard} files, and a web server with all its connections needs {needed}"
        yield Finding("open_files", problem, f"ulimit -n {needed}, or LimitNOFILE={needed} under systemd")


# --- the datastore ---------------------------------------------------------------------------


def _datastore(configuration: Config) -> Iterator[Finding]:
    try:
        datastore.require_current(configuration.settings.database_url, configuration.root)
    except DatastoreSchemaError as error:
        if "newer version" in str(error):
            yield Finding("database_ahead", str(error), "run the newer release")
        else:
            yield Finding("database_behind", str(error), "lastacross db upgrade")
    except (DatastoreError, ConfigError) as error:
        yield Finding("database_unreachable", str(error), "start the database, or correct DATABASE_URL")


# --- Redis -----------------------------------------------------------------------------------


def _redis(configuration: Config) -> Iterator[Finding]:
    try:
        store.current().sync_clock()
    except StoreUnavailableError as error:
        if "is needed" in str(error):
            yield Finding("redis_version", str(error), "upgrade the server to Redis 6.2 or Valkey 7.2")
        else:
            yield Finding("redis_unreachable", str(error), "start Redis, or correct REDIS_URL")


def _redis_settings(configuration: Config) -> Iterator[Finding]:
    redis: Any = store.current().redis
    with translated_errors():
        memory, persistence = redis.info("memory"), redis.info("persistence")
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if memory.get("maxmemory") and policy != "noeviction":
        problem = (
            f"Redis deletes keys when its memory is full (maxmemory-policy {policy}), and tasks with them"
        )
        yield Finding("redis_evicting", problem, "redis-cli CONFIG SET maxmemory-policy noeviction")
    if not persistence.get("aof_enabled"):
        problem = "Redis keeps no append-only file, so its restart loses the last minutes of tasks"
        yield Finding("redis_without_aof", problem, "redis-cli CONFIG SET appendonly yes")


# docs/operations.md lists them as well, for use in an ACL file.
NEEDED_RIGHTS = (
    "'~rq:*' '~lastacross:*' '&rq:pubsub:*' +@read +@write +@connection +@scripting +@transaction +@blocking "
    "+@pubsub -@dangerous +time '+client|unblock'"
)

# Command → its arguments after the key; each is run on a key of its own type.
_NEEDED: dict[str, Sequence[object]] = {
    "SET": ("1", "EX", _PROBE_SECONDS),
    "HSET": ("a", "1"),
    "SADD": ("a",),
    "ZADD": ("1", "a"),
    "RPUSH": ("a",),
    "XADD": ("*", "a", "1"),
    "SETBIT": (1, 1),
    "INCRBY": (1,),
}


def _rights(configuration: Config) -> Iterator[Finding]:
    redis: Any = store.current().redis
    missing = []
    for command, arguments in _NEEDED.items():
        key = f"{store.PROBE_PREFIX}{secrets.token_hex(4)}"
        missing += _refused(redis, command, key, *arguments)
        missing += _refused(redis, "DEL", key)
    missing += _refused(redis, "EVAL", "return 1", 0)
    missing += _refused(redis, "PUBLISH", f"{RQ_COMMANDS_PREFIX}doctor", "1")
    missing += _refused(redis, "BLPOP", f"{store.PROBE_PREFIX}list", "0.001")
    if missing:
        problem = f"the user in REDIS_URL may not run {', '.join(dict.fromkeys(missing))}"
        yield Finding("redis_rights", problem, f"redis-cli ACL SETUSER USER {NEEDED_RIGHTS}")


def _refused(redis: Any, *command: object) -> list[str]:
    try:
        with translated_errors():
            redis.execute_command(*command)
    except StoreUnavailableError as error:
        if isinstance(error.__cause__, NoPermissionError):
            return [str(command[0])]
        raise
    return []


def _clock(configuration: Config) -> Iterator[Finding]:
    redis: Any = store.current().redis
    with translated_errors():
        before = SYSTEM.now()
        seconds, microseconds = redis.time()
        after = SYSTEM.now()
    there = seconds + microseconds / 1e6
    off = there - (before + after) / 2
    if abs(off) > MAX_CLOCK_SECONDS + (after - before):
        where = "ahead of" if off > 0 else "behind"
        problem = f"the clock of the Redis server is {abs(off):.1f} s {where} this machine's"
        yield Finding("clock", problem, "timedatectl set-ntp true, on both machines")


# --- the site --------------------------------------------------------------------------------


def _deployed(configuration: Config) -> Iterator[Finding]:
    files = different_files(store.current(), configuration)
    if files:
        problem = f"{', '.join(files)} of this folder differ from the deployed files"
        yield Finding("not_deployed", problem, "lastacross deploy")


def _scheduler(configuration: Config) -> Iterator[Finding]:
    if not any(process.kind == "scheduler" for process in presence.living(store.current())):
        problem = "no scheduler runs, so cron jobs do not start and tasks of transactions may wait"
        yield Finding("no_scheduler", problem, "lastacross scheduler")


def _keys(configuration: Config) -> Iterator[Finding]:
    opened = store.current()
    found = {process.name: process.key for process in presence.living(opened)}
    workers = WorkerDirectory(opened).all()
    found |= {worker.name: worker.status.key for worker in workers if worker.status and worker.status.key}
    if configuration.settings.secret_key:
        found["this command"] = signing.fingerprint(configuration.settings.secret_key)
    by_key: dict[str, list[str]] = {}
    for name, key in sorted(found.items()):
        by_key.setdefault(key, []).append(name)
    if len(by_key) > 1:
        groups = " / ".join(", ".join(names) for names in by_key.values())
        problem = f"processes have different SECRET_KEYs ({groups}), so they refuse each other's calls"
        yield Finding("different_keys", problem, "start all of them with the same SECRET_KEY")


def _workers(configuration: Config) -> Iterator[Finding]:
    opened = store.current()
    workers = WorkerDirectory(opened).all()
    foreign = [worker.name for worker in workers if not worker.is_ours]
    if foreign:
        problem = f"RQ's own workers serve our queues: {', '.join(foreign)}"
        yield Finding("foreign_workers", problem, "stop them, and run `lastacross worker`")
    reached = frozenset(configuration.settings.services)
    for queue in queue_directory.current().all().values():
        if queue.mode != "push" or queue.is_disabled:
            continue
        for group in _waiting_groups(opened, queue):
            is_served = any(
                worker.serves(queue.name, group)
                or (group in reached and worker.serves(queue.name, DEFAULT_GROUP))
                for worker in workers
            )
            if not is_served:
                yield _unserved(queue.name, group)


def _unserved(queue: str, group: str) -> Finding:
    if group == DEFAULT_GROUP:
        return Finding("unserved", f"no worker serves the queue {queue}", "lastacross worker")
    problem = f"no worker serves the tasks of queue {queue} for the service {group}"
    return Finding("unserved", problem, f"lastacross worker --service {group}")


def _waiting_groups(opened: Store, queue: KnownQueue) -> Iterator[str]:
    """The groups that a queue's tasks go to: its own, and those that have tasks in side lists."""
    if queue.name != CRON_QUEUE:
        yield queue.group
    redis: Any = opened.redis
    with translated_errors():
        names = [name.decode("utf-8", "replace") for name in redis.smembers(RQ_QUEUES)]
    prefix = store.ready_key(side_list(queue.name, ""))
    for name in sorted(names):
        if name.startswith(prefix):
            with translated_errors():
                waiting = redis.llen(name)
            if waiting:
                yield name.removeprefix(prefix)


def _failing(configuration: Config) -> Iterator[Finding]:
    opened = store.current()
    listing = Listing(opened)
    for name in sorted(queue_directory.current().all()):
        dead = listing.count_dead(name)
        if dead:
            problem = f"queue {name} has {dead} dead {'letter' if dead == 1 else 'letters'}"
            yield Finding("dead_letters", problem, f"lastacross tasks list {name} --state dead")
        waiting = listing.tasks(name, ["scheduled", "ready"], SEARCHED_TASKS)
        many = sorted((task for task in waiting if _attempts(task.attempts) >= MANY_FAILURES), key=_name_of)
        if many:
            problem = f"{len(many)} tasks of queue {name} have failed {MANY_FAILURES} times or more"
            yield Finding("failing_tasks", problem, f"lastacross tasks show {name} {many[0].name}")


def _attempts(attempts: object) -> int:
    return attempts if isinstance(attempts, int) else 0


def _name_of(task: Any) -> str:
    return str(task.name)


_OF_REDIS: Sequence[Check] = (
    _rights,
    _redis_settings,
    _clock,
    _deployed,
    _scheduler,
    _keys,
    _workers,
    _failing,
)

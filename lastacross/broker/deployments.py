"""Keeps the last deployment in Redis: what was deployed from which files, when, and by whom.

The deployment is stored beside the settings that the scripts read. Any process can therefore upload the
deployed settings again, after a key was emptied or the previous release made an upload, whatever its own
files say.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from lastacross import logs
from lastacross.broker.answers import Upload
from lastacross.broker.steps import transient_errors
from lastacross.config import Config, DispatchRule
from lastacross.store import DEPLOYED, UPLOAD, ResponseError, Store, WatchError

_FIELDS = ("digest", "queues", "dispatch", "cron", "at", "by", "cause")
_log = logs.get("lastacross.queues")
# What was last reported as unreadable.
_unreadable: list[bytes | None] | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """The files in effect on all machines.

    Attributes:
        upload: queue.yaml and backends.yaml.
        dispatch: the rules of dispatch.yaml, in order; None if each process uses its own.
        cron: the jobs of cron.yaml as JSON; None if no cron.yaml has been deployed yet.
        at: the time of the deployment in seconds since the epoch.
        by: ``user@host``.
        cause: ``deploy`` (the command), ``dev`` (a changed file), or ``start`` (a process found no
            deployment).
    """

    upload: Upload
    dispatch: tuple[DispatchRule, ...] | None = ()
    cron: str | None = None
    at: float = 0.0
    by: str = ""
    cause: str = "start"

    def differences(self, upload: Upload, configuration: Config, cron: str) -> list[str]:
        """The names of the folder's files that differ from the deployed ones.

        ``upload`` and ``cron`` are the folder's. A file that the folder does not have is not listed.
        """
        found = []
        if configuration.has_queue_file:
            if _comparable(upload) != _comparable(self.upload):
                found.append("queue.yaml")
            if list(upload.backends) != list(self.upload.backends):
                found.append("backends.yaml")
            if self.dispatch is not None and configuration.dispatch != self.dispatch:
                found.append("dispatch.yaml")
        if configuration.has_cron_file and self.cron is not None and _jobs(cron) != _jobs(self.cron):
            found.append("cron.yaml")
        return found


def _comparable(upload: Upload) -> Mapping[str, Mapping[str, str]]:
    """The queues without the setting that depends on the environment."""
    return {
        name: {key: value for key, value in fields.items() if key != "dead_letter_seconds"}
        for name, fields in upload.queues.items()
    }


def _jobs(text: str) -> Any:
    return json.loads(text)


def read(opened: Store) -> Deployment | None:
    """Read the last deployment; None if there is none, or a newer release wrote it in an unknown format.

    Raises:
        TransientError: Redis is unavailable.
    """
    with transient_errors():
        try:
            values = cast("list[bytes | None]", opened.redis.hmget(DEPLOYED, _FIELDS))
        except ResponseError:
            if not opened.set_aside({DEPLOYED: "hash"}):
                raise
            return None
    if values[0] is None:
        return None
    try:
        return _load({name: value.decode() for name, value in zip(_FIELDS, values, strict=True) if value})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        global _unreadable
        if values != _unreadable:  # a scheduler reads it every second
            _unreadable = values
            _log.error("deploy.unreadable", error=str(error), remedy="run `lastacross deploy`")
        return None


def _load(fields: Mapping[str, str]) -> Deployment:
    queues = json.loads(fields["queues"])
    cron = fields.get("cron")
    if cron is not None and not isinstance(json.loads(cron), list):
        raise ValueError("its jobs are not a list")
    return Deployment(
        upload=Upload(
            digest=fields["digest"],
            queues={
                name: {str(key): str(value) for key, value in settings.items()}
                for name, settings in queues["queues"].items()
            },
            services=[str(name) for name in queues["services"]],
            backends=[str(name) for name in queues["backends"]],
        ),
        dispatch=rules_of(fields["dispatch"].encode()) or () if "dispatch" in fields else None,
        cron=cron,
        at=float(fields.get("at", "0")),
        by=fields.get("by", ""),
        cause=fields.get("cause", "start"),
    )


def rules_of(text: bytes | None) -> tuple[DispatchRule, ...] | None:
    """The rules of the deployed dispatch.yaml; None if they are missing or malformed."""
    if text is None:
        return None
    try:
        return tuple(DispatchRule(*map(str, rule)) for rule in json.loads(text))
    except (ValueError, TypeError):
        return None


# The cause if a process started in a folder without a queue.yaml; the first folder that has one replaces it.
DEFAULT = "default"
# The fields that a folder without a queue.yaml leaves unchanged.
OF_QUEUES = frozenset({"digest", "queues", "dispatch"})


def write(
    opened: Store, deployment: Deployment, *, is_first: bool = False, keeps: frozenset[str] = frozenset()
) -> bool:
    """Replace the last deployment, except for the fields in ``keeps``; returns whether it was replaced.

    With ``is_first``, a deployment that another process has made in the meantime is kept.

    Raises:
        TransientError: Redis is unavailable.
    """
    upload = deployment.upload
    queues = {
        "queues": {name: dict(fields) for name, fields in upload.queues.items()},
        "services": list(upload.services),
        "backends": list(upload.backends),
    }
    fields = {
        "digest": upload.digest,
        "queues": json.dumps(queues),
        "at": f"{deployment.at:.6f}",
        "by": deployment.by,
        "cause": deployment.cause,
    }
    if deployment.cron is not None:
        fields["cron"] = deployment.cron
    if deployment.dispatch is not None:
        rules = [[rule.host, rule.path, rule.service] for rule in deployment.dispatch]
        fields["dispatch"] = json.dumps(rules)
    absent = {"cron", "dispatch"} - fields.keys() - keeps
    with transient_errors(), opened.redis.pipeline(transaction=True) as pipeline:
        if is_first:
            pipeline.watch(DEPLOYED)
            last = read(opened)
            if last is not None and last.cause != DEFAULT:
                return False
            pipeline.multi()
        new = {name: text for name, text in fields.items() if name not in keeps}
        pipeline.hset(DEPLOYED, mapping=cast("dict[Any, Any]", new))
        if absent:
            pipeline.hdel(DEPLOYED, *sorted(absent))
        pipeline.hincrby(DEPLOYED, "version", 1)
        try:
            pipeline.execute()
        except WatchError:
            return False
    return True


def keep_jobs(opened: Store, cron: str) -> str:
    """Deploy these jobs unless some are already deployed; returns the deployed jobs as JSON.

    Raises:
        TransientError: Redis is unavailable.
    """
    with transient_errors():
        opened.redis.hsetnx(DEPLOYED, "cron", cron)
        kept = opened.redis.hget(DEPLOYED, "cron")
    return cast(bytes, kept).decode()


@dataclass(frozen=True, slots=True)
class Stamps:
    """Tell whether anything was deployed or uploaded since the last check, using two short reads.

    ``uploaded`` is the digest that the scripts use, and ``deployed`` that of the last deployment; each is
    None if there is none. ``version`` changes with every deployment.
    """

    uploaded: str | None
    deployed: str | None
    version: str | None


def read_stamps(opened: Store) -> Stamps:
    """Read the stamps.

    Raises:
        TransientError: Redis is unavailable.
    """
    try:
        with transient_errors(), opened.redis.pipeline(transaction=False) as pipeline:
            pipeline.hget(UPLOAD, "digest")
            pipeline.hmget(DEPLOYED, ("digest", "version"))
            uploaded, (deployed, version) = pipeline.execute()
    except ResponseError:
        # Another program wrote to these keys. The next check finds that they are missing.
        if not opened.set_aside({UPLOAD: "hash", DEPLOYED: "hash"}):
            raise
        return read_stamps(opened)
    return Stamps(*(None if value is None else value.decode() for value in (uploaded, deployed, version)))


def without_resuming(upload: Upload) -> Upload:
    """A copy of the upload for sending it again, which must not resume queues that have been paused since."""
    return replace(upload, resumes=False)

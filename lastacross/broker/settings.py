"""The queues' settings as the scripts read them: queue.yaml, uploaded to Redis.

As on App Engine, queue.yaml is deployed: starting with a file that differs from the last upload uploads it,
and the last upload wins on all machines.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping

from lastacross import config, logs
from lastacross.broker.record import dump_retry
from lastacross.broker.steps import Broker, Upload
from lastacross.config import CRON_QUEUE, DEFAULT_SERVICE, Config, QueueConfig, service_of
from lastacross.errors import ConfigError
from lastacross.store import UPLOAD, Store, settings_key, translated_errors

CRON_RATE = 500.0
CRON_BUCKET_SIZE = 500
# A run is looked up in its history, and the next one may be a minute away.
CRON_DEAD_LETTER_SECONDS = 86_400

_log = logs.get("lastacross.queues")


def upload_if_changed(opened: Store, configuration: Config) -> bool:
    """Upload the queues unless the last upload said the same; returns whether it did.

    A folder without queue.yaml (another service of the application, say) leaves alone what is there.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    with translated_errors():
        last = opened.redis.hget(UPLOAD, "digest")
    if last == _digest(configuration).encode() or (last is not None and not configuration.has_queue_file):
        return False
    upload(opened, configuration)
    return True


def upload_if_missing(opened: Store, read: Callable[[], Config] = config.current) -> bool:
    """Upload the queues if Redis was emptied since; returns whether it did.

    Args:
        opened: the Redis.
        read: gives the configuration as it is now; called only then.
    """
    with translated_errors():
        if opened.redis.exists(UPLOAD):
            return False
    upload(opened, read())
    return True


def upload(opened: Store, configuration: Config) -> None:
    """Upload the queues whatever was uploaded before.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    added = Broker(opened).upload(
        Upload(
            digest=_digest(configuration),
            queues={queue.name: _fields(queue, configuration) for queue in configuration.queues.values()},
            services=sorted(configuration.services),
            backends=sorted(configuration.backends),
            resumes=bool(configuration.resume_paused_queues),
        )
    )
    _log.info("queues.upload", queues=len(configuration.queues), added=sorted(added))


def mend(opened: Store, damaged: Mapping[str, str], configuration: Config) -> None:
    """Upload the queues again because the settings of some cannot be read.

    Args:
        opened: the Redis.
        damaged: name of a queue → what is wrong with its settings.
        configuration: with queue.yaml as it is now.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    for name, problem in damaged.items():
        _log.error("queues.damaged", queue=name, problem=problem, remedy="they are uploaded again")
        opened.run("forget_queue", (), [name, problem])
    upload(opened, configuration)


def keep_cron_queue(opened: Store, configuration: Config) -> None:
    """See to it that the queue of cron's runs is there, whatever queue.yaml of any machine says.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    with translated_errors():
        if opened.redis.exists(settings_key(CRON_QUEUE)):
            return
    kept = min(configuration.settings.dead_letter_seconds, CRON_DEAD_LETTER_SECONDS)
    queue = QueueConfig(CRON_QUEUE, rate=CRON_RATE, bucket_size=CRON_BUCKET_SIZE)
    Broker(opened).keep_queue(CRON_QUEUE, _fields(queue, configuration) | {"dead_letter_seconds": str(kept)})
    _log.info("queues.keep", queue=CRON_QUEUE)


def read_again(configuration: Config) -> Config:
    """The configuration with queue.yaml as it stands in its folder now; as it was if that cannot be used."""
    try:
        queues = config.read_queues(configuration.root)
    except ConfigError:
        return configuration
    return dataclasses.replace(configuration, queues=queues)


def _digest(configuration: Config) -> str:
    """Of all that is uploaded: queue.yaml, the services, and what the environment says for all queues."""
    parts = [
        config.digest(configuration.queues),
        str(configuration.settings.dead_letter_seconds),
        *(["resumes"] if configuration.resume_paused_queues else []),
        *sorted(configuration.backends),
    ]
    return "-".join(parts)


def _fields(queue: QueueConfig, configuration: Config) -> dict[str, str]:
    most = queue.max_concurrent_requests
    target = queue.target or ""
    if target and service_of(target) == configuration.app.service:
        # The version stays: no rule of dispatch.yaml moves a task whose target names one.
        target = target.removesuffix(configuration.app.service) + DEFAULT_SERVICE
    return {
        "mode": queue.mode,
        "rate": repr(queue.rate),
        "bucket_size": str(queue.bucket_size),
        "max_concurrent": "" if most is None else str(most),
        "target": target,
        "retry": json.dumps(dump_retry(queue.retry)) if queue.retry is not None else "",
        "dead_letter_seconds": str(configuration.settings.dead_letter_seconds),
    }

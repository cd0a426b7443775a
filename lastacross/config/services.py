"""Services across the files: a name that one file uses and no other knows."""

from collections.abc import Iterable, Iterator, Mapping

from lastacross.config.diagnostics import likely, sentence, shown
from lastacross.config.document import Document, Path_
from lastacross.config.values import DEFAULT_SERVICE

# Where it is, the key, the target, and what becomes of its tasks when nobody knows its service.
_Use = tuple[Path_, str, str, str]

_UNTIL_SERVED = "its tasks run on the default service unless `lastacross worker --service {service}` runs"
_AS_VERSION = "it is taken for a version of the default service, which runs its tasks"


def service_of(target: str) -> str:
    """The service in ``[instance.][version.]service``: there is one version, and any instance serves."""
    return target.rpartition(".")[2]


def refuse_own_name(document: Document, app_service: str) -> None:
    """Leave a mistake at a backend that has the name of the service it belongs to: a target could mean both.

    Args:
        document: backends.yaml.
        app_service: app.yaml's ``service``.
    """
    for path, value in document.entries("backends", "backends"):
        if value["name"] == app_service:
            problem = f"name {shown(app_service)} is app.yaml's service; a backend needs another name"
            document.mistake((*path, "name"), problem)


def known(app_service: str, backends: Iterable[str], elsewhere: Iterable[str]) -> frozenset[str]:
    """The names that a target may have without a remark.

    Args:
        app_service: app.yaml's ``service``.
        backends: the names in backends.yaml.
        elsewhere: the names in LASTACROSS_SERVICES.
    """
    return frozenset({DEFAULT_SERVICE, app_service, *backends, *elsewhere})


def note_unknown(documents: Mapping[str, Document], names: frozenset[str]) -> None:
    """Leave a notice at each unknown target of queue.yaml and cron.yaml, and service of dispatch.yaml.

    Args:
        documents: by the name of the file, without its ending; free of mistakes.
        names: the services that are known.
    """
    for file, uses in (("queue", _targets), ("cron", _cron_targets), ("dispatch", _dispatched)):
        document = documents.get(file)
        if document is None:
            continue
        for path, what, target, becomes in uses(document):
            service = service_of(target)
            if service not in names:
                remark = (
                    f"{what} {shown(target)} names a service that backends.yaml, LASTACROSS_SERVICES and "
                    f"app.yaml do not know; {becomes.format(service=service)}"
                )
                document.notice(path, sentence(remark, likely(service, names, 0.75)))


def _targets(document: Document) -> Iterator[_Use]:
    """The targets of push queues, each with its path; a pull queue's means nothing."""
    for path, value in document.entries("queue", "queues"):
        if value.get("target") is not None and value.get("mode") != "pull":
            yield (*path, "target"), "target", value["target"], _UNTIL_SERVED


def _cron_targets(document: Document) -> Iterator[_Use]:
    """The targets of cron jobs, each with its path; a word alone may be meant for a version."""
    for path, value in document.entries("cron", "cron jobs"):
        if value.get("target") is not None:
            service, colon, _ = value["target"].partition(":")
            yield (*path, "target"), "target", service, _UNTIL_SERVED if colon else _AS_VERSION


def _dispatched(document: Document) -> Iterator[_Use]:
    """The service of each rule, with its path."""
    for path, value in document.entries("dispatch", "dispatch rules"):
        key = "module" if value.get("service") is None else "service"
        yield (*path, key), key, value[key], _UNTIL_SERVED

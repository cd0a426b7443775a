"""Checks services across the files, to find names that a file uses but no file declares."""

from collections.abc import Iterable, Iterator, Mapping

from lastacross.config.diagnostics import likely, sentence, shown
from lastacross.config.document import Document, Path_
from lastacross.config.values import DEFAULT_SERVICE, service_of

# Path, key, target, and a description of what happens to the tasks if the service is unknown.
_Use = tuple[Path_, str, str, str]

_UNTIL_SERVED = (
    "its tasks run on the default service unless `lastacross worker --service {service}` is running"
)
_AS_VERSION = "it is treated as a version of the default service, which runs its tasks"


def refuse_own_name(document: Document, app_service: str) -> None:
    """Report a backend named like app.yaml's service, because a target with that name is ambiguous."""
    for path, value in document.entries("backends", "backends"):
        if value["name"] == app_service:
            problem = f"name {shown(app_service)} is app.yaml's own service; give the backend another name"
            document.mistake((*path, "name"), problem)


def known(app_service: str, backends: Iterable[str], elsewhere: Iterable[str]) -> frozenset[str]:
    """Return the known names, which need no notice; ``elsewhere`` contains those in LASTACROSS_SERVICES."""
    return frozenset({DEFAULT_SERVICE, app_service, *backends, *elsewhere})


def note_unknown(documents: Mapping[str, Document], names: frozenset[str]) -> None:
    """Record a notice for each unknown target in queue.yaml and cron.yaml, and service in dispatch.yaml.

    ``documents`` must not contain errors. Their keys are file names without the extension.
    """
    for file, uses in (("queue", _targets), ("cron", _cron_targets), ("dispatch", _dispatched)):
        document = documents.get(file)
        if document is None:
            continue
        for path, what, target, becomes in uses(document):
            service = service_of(target)
            if service not in names:
                remark = (
                    f"{what} {shown(target)} names a service that is not in backends.yaml, "
                    f"LASTACROSS_SERVICES or app.yaml; {becomes.format(service=service)}"
                )
                document.notice(path, sentence(remark, likely(service, names, 0.75)))


def _targets(document: Document) -> Iterator[_Use]:
    """Yield the targets of push queues with their paths; a pull queue's target has no meaning."""
    for path, value in document.entries("queue", "queues"):
        if value.get("target") is not None and value.get("mode") != "pull":
            yield (*path, "target"), "target", value["target"], _UNTIL_SERVED


def _cron_targets(document: Document) -> Iterator[_Use]:
    """Yield the targets of cron jobs with their paths; a single word may mean a version."""
    for path, value in document.entries("cron", "cron jobs"):
        if value.get("target") is not None:
            service, colon, _ = value["target"].partition(":")
            yield (*path, "target"), "target", service, _UNTIL_SERVED if colon else _AS_VERSION


def _dispatched(document: Document) -> Iterator[_Use]:
    """Yield each dispatch rule's service, with its path."""
    for path, value in document.entries("dispatch", "dispatch rules"):
        key = "module" if value.get("service") is None else "service"
        yield (*path, key), key, value[key], _UNTIL_SERVED

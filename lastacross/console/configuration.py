"""The configuration page, with every setting and its source, and the audit log's page."""

from typing import Any

from lastacross import audit, config, store
from lastacross.console import deployment
from lastacross.console.page import Page, address
from lastacross.errors import StoreUnavailableError


class ConfigurationPage(Page):
    """Every setting of this web process, with its source; secrets are masked."""

    template = "configuration.html"
    title = "Configuration"
    here = "configuration"

    def facts(self, **route: str) -> dict[str, Any]:
        """The settings, divided into those that somebody has set and the defaults."""
        rows = [
            {"name": name, "value": value, "source": source}
            for name, value, source in config.describe(config.current())
        ]
        return {
            "deployment": _deployment(),
            "settings": rows,
            "_set": [row for row in rows if row["source"] != "default"],
            "_defaults": [row for row in rows if row["source"] == "default"],
        }


def _deployment() -> dict[str, Any] | None:
    try:
        return deployment.facts()
    except StoreUnavailableError as error:
        store.current().end_wait(error)
        return None


class AuditPage(Page):
    """The operators' actions, newest first."""

    template = "audit.html"
    title = "Audit"
    here = "audit"

    def facts(self, **route: str) -> dict[str, Any]:
        """One page of the entries that match the filters."""
        filters = {each: self.query(each) for each in ("name", "action", "text")}
        page = audit.read(
            store.current(),
            older_than=self.query("older_than") or None,
            name=filters["name"],
            action=filters["action"],
            text=filters["text"],
        )
        older = page.older_than and address("audit", **filters, older_than=page.older_than)
        return {
            "entries": [_entry(entry) for entry in page.entries],
            "older_than": page.older_than,
            "_older": older,
            "_filters": filters,
        }


def _entry(entry: audit.Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "happened_at": entry.at,
        "name": entry.name,
        "role": entry.role,
        "source": entry.source,
        "action": entry.action,
        "ids": list(entry.ids),
        "count": entry.count,
        "address": entry.address,
    }

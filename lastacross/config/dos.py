"""Reads dos.yaml. If it lists networks, that is an error, because this engine cannot block them."""

from typing import Any

from lastacross.config.document import Document, Entry


class FileEntry(Entry):
    """The top level."""

    WHAT = "dos.yaml"

    application: str | None = None
    blacklist: Any = None


def read(document: Document) -> None:
    """Record an error if the file lists any networks."""
    document.validate(FileEntry, document.content, ())
    if document.content.get("blacklist"):
        problem = (
            "blacklist: this engine does not block networks; block them in the firewall or in a reverse "
            "proxy, and remove this file"
        )
        document.mistake(("blacklist",), problem, is_of_key=True)

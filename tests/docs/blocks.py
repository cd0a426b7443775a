"""Finds every block of code in README.md, CONTRIBUTING.md and docs/, whether fenced or indented by four."""

import re
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import ROOT

_FENCE = re.compile(r"( *)```([\w-]*)\s*")
_LIST_ITEM = re.compile(r" *([-*+]|\d+\.) ")
_FILE_NAME = re.compile(r"(?:# |// |<!-- )(/?[\w./-]*\.\w+|Dockerfile)(?: -->)?")
_INDENT = "    "


@dataclass(frozen=True)
class Block:
    """A block of a page: its language, its text without the common indent, and the line where it starts."""

    page: str
    line: int
    language: str
    text: str

    @property
    def first(self) -> str:
        """The first line, which identifies the block in not_run.toml."""
        return self.text.splitlines()[0].strip() if self.text.strip() else ""

    @property
    def file(self) -> str | None:
        """The name of the file that the block is, if its first line says so."""
        named = _FILE_NAME.fullmatch(self.first)
        return named[1] if named else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class NotRun:
    """An entry of not_run.toml: a block that cannot run here, and the reason."""

    page: str
    first: str
    reason: str


def pages() -> list[Path]:
    """The pages whose blocks are checked."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
    return [*(page for page in top if page.exists()), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(page: str, text: str) -> Iterator[Block]:
    """The blocks of a page, in order.

    Raises:
        AssertionError: a fence is not closed.
    """
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.fullmatch(lines[number])
        if fence:
            end = _end_of_fence(page, lines, number, fence[1])
            yield _block(page, number + 2, fence[2], lines[number + 1 : end])
            number = end + 1
        elif lines[number].startswith(_INDENT) and _starts_indented(lines, number):
            end = number
            while end < len(lines) and (lines[end].startswith(_INDENT) or not lines[end].strip()):
                end += 1
            yield _block(page, number + 1, "sh", lines[number:end])
            number = end
        else:
            number += 1


def _end_of_fence(page: str, lines: list[str], start: int, indent: str) -> int:
    for number in range(start + 1, len(lines)):
        if lines[number].rstrip() == f"{indent}```":
            return number
    raise AssertionError(f"{page}:{start + 1}: the fence is not closed")


def _starts_indented(lines: list[str], number: int) -> bool:
    """Whether an indented line begins a block, and does not continue a list item."""
    before = [line for line in lines[:number] if line.strip()]
    is_after_blank = number > 0 and not lines[number - 1].strip()
    return is_after_blank and not (before and (_LIST_ITEM.match(before[-1]) or before[-1].startswith("  ")))


def _block(page: str, line: int, language: str, lines: list[str]) -> Block:
    return Block(page, line, language or "text", textwrap.dedent("\n".join(lines)).strip("\n") + "\n")


def not_run() -> list[NotRun]:
    """The entries of not_run.toml."""
    entries = tomllib.loads((Path(__file__).parent / "not_run.toml").read_text())
    return [NotRun(**entry) for entry in entries.get("block", [])]


ALL = [
    block
    for path in pages()
    for block in blocks_of(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
]
NOT_RUN = {(entry.page, entry.first): entry.reason for entry in not_run()}


def is_listed(block: Block) -> bool:
    """Whether not_run.toml says that the block cannot run here."""
    return (block.page, block.first) in NOT_RUN

"""Draws random sentences that people read in this project, for a judgement of its English.

    python -m tests.support.sentences --seed 7 --count 120

Readers who see only these sentences call each natural, awkward or obscure (docs/tests.md).
"""

import argparse
import ast
import io
import random
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = ("docs/internals.md", "docs/lifecycle.md", "docs/glossary.md")
SOURCES = {"lastacross", "programs", "templates", "docs", "main.py", "workers.py", "longtask.py"}
MIN_WORDS = 4

_SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields):$")
_NAMED = re.compile(r"^\*{0,2}[\w.`, ]+: ")
_JINJA = re.compile(r"{[{%#].*?[}%#]}", re.DOTALL)
_TAG = re.compile(r"<(script|style)\b.*?</\1>|<[^>]+>", re.DOTALL)


def python_texts(source: str) -> Iterator[str]:
    """The docstrings, comments and message texts in a module."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from paragraphs(ast.get_docstring(node) or "")
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            text = message_of(node.exc.args[0])
            if text:
                yield text
    block: list[str] = []
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and "type: ignore" not in token.string:
            if token.start[0] != last + 1:
                yield " ".join(block)
                block = []
            block.append(token.string.lstrip("# "))
            last = token.start[0]
    yield " ".join(block)


def message_of(node: ast.expr) -> str:
    """The text of a string literal, with … for inserted values; '' for other expressions."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(each.value) if isinstance(each, ast.Constant) else "…" for each in node.values)
    return ""


def paragraphs(text: str) -> Iterator[str]:
    """The prose of a docstring, without code blocks and the names of arguments."""
    for part in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in part.splitlines()]
        if any(line.startswith((">>>", "|", "```")) for line in lines) or part.startswith("    "):
            continue
        plain: list[str] = []
        is_list = False
        for line in lines:
            if _SECTION.match(line):
                is_list = True
            elif is_list and _NAMED.match(line):
                yield " ".join(plain)
                plain = [_NAMED.sub("", line)]
            else:
                plain.append(line)
        yield " ".join(plain)


def lua_texts(source: str) -> Iterator[str]:
    """The comments of a script."""
    for block in re.findall(r"(?:^[ \t]*--.*\n)+", source, re.MULTILINE):
        lines = [re.sub(r"^\s*--\s?", "", line) for line in block.splitlines()]
        yield " ".join(line.strip() for line in lines if not line.startswith("include:"))


def page_texts(source: str) -> Iterator[str]:
    """The prose of a Markdown page."""
    source = re.sub(r"```.*?```", "", source, flags=re.DOTALL)
    for part in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", source):
        if not part.lstrip().startswith(("|", "#")):
            yield re.sub(r"^\s*(?:[-*]|\d+\.)\s+", "", " ".join(line.strip() for line in part.splitlines()))


def template_texts(source: str) -> Iterator[str]:
    """The visible texts of a template."""
    text = _TAG.sub("\n", _JINJA.sub("…", source))
    yield from (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))


def texts() -> Iterator[tuple[Path, str]]:
    """Every text, with its file."""
    for path in sorted(ROOT.glob("**/*")):
        inside = path.relative_to(ROOT)
        if inside.parts[0] not in {
            "lastacross",
            "programs",
            "templates",
            "docs",
            "main.py",
            "workers.py",
            "longtask.py",
        }:
            continue
        readers = {".py": python_texts, ".lua": lua_texts, ".html": template_texts}
        read = page_texts if str(inside) in PAGES else readers.get(path.suffix)
        if read is not None:
            yield from ((inside, text) for text in read(path.read_text()))


def sentences(text: str) -> Iterator[str]:
    """The sentences in a text that have enough words to be judged."""
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z`])", text):
        if len(re.findall(r"[A-Za-z]{2,}", sentence)) >= MIN_WORDS:
            yield sentence.strip()


def main() -> None:
    """Print numbered sentences, without their files unless asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--files", action="store_true", help="name the file of each")
    options = parser.parse_args()
    found = sorted({(str(path), sentence) for path, text in texts() for sentence in sentences(text)})
    for number, (path, sentence) in enumerate(random.Random(options.seed).sample(found, options.count), 1):
        print(f"{number}. {sentence}" + (f"   [{path}]" if options.files else ""))


if __name__ == "__main__":
    main()

"""Every block of the pages runs here, or not_run.toml says why it cannot."""

import configparser
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import jinja2
import pytest
from ruamel.yaml import YAML

from lastacross import config
from tests.docs import run_page, shell_lines
from tests.docs.blocks import ALL, NOT_RUN, Block, blocks_of, is_listed, not_run
from tests.support.processes import ROOT
from tests.support.redis_server import RedisServer

APP_YAML = "handlers:\n- url: /.*\n  script: no_application.app\n"
NO_APPLICATION = "def app(environ, start_response):\n    raise NotImplementedError\n"
ENGINE_YAML = {"app.yaml", "queue.yaml", "cron.yaml", "backends.yaml", "dispatch.yaml", "dos.yaml"}


def belongs_to_application(block: Block) -> bool:
    """Whether the block is run as a part of its page's application."""
    return block.language == "python" or block.file in ENGINE_YAML


# These modules run a page's files step by step.
ELSEWHERE = {
    "docs/tutorial.md": "tests/browser/test_tutorial.py",
    "docs/testing.md": "tests/acceptance/test_testing_page.py",
}
RUN = [block for block in ALL if not is_listed(block)]
WITH_BLOCKS = sorted({block.page for block in RUN if belongs_to_application(block)} - {*ELSEWHERE})
# Pages that consist of short examples are run in one process.
WITH_FILES = [page for page in WITH_BLOCKS if any(block.file for block in RUN if block.page == page)]
EXAMPLES = [page for page in WITH_BLOCKS if page not in WITH_FILES]
SINGLE = [block for block in RUN if not belongs_to_application(block) and block.language != "text"]


def check_ini(block: Block) -> None:
    """An ini file or a systemd unit parses, and the unit's command exists."""
    parsed = configparser.RawConfigParser(strict=False)
    parsed.read_string(block.text)
    for section in parsed.values():
        if command := section.get("ExecStart"):
            shell_lines.check(Block(block.page, block.line, "sh", command + "\n"))


def check_yaml(block: Block, folder: Path) -> None:
    """A file of another program parses; an unnamed block is a part of app.yaml."""
    parsed = list(YAML(typ="safe").load_all(block.text))
    if block.file is None:
        (folder / "app.yaml").write_text(APP_YAML + block.text)
        (folder / "no_application.py").write_text(NO_APPLICATION)
        config.load(folder, {}, needs_secret_key=False)
    assert all(isinstance(document, dict) for document in parsed), block


def check_javascript(block: Block) -> None:
    """Node parses it."""
    command = ["node", "--check", "-"]
    ran = subprocess.run(command, input=block.text, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{block}: {ran.stderr}"


CHECKS: dict[str, Callable[[Block], object]] = {
    "sh": shell_lines.check,
    "console": shell_lines.check,
    "ini": check_ini,
    "js": check_javascript,
    "json": lambda block: json.loads(block.text),
    "toml": lambda block: tomllib.loads(block.text),
    "html": lambda block: jinja2.Environment(autoescape=True).parse(block.text),
    "jinja": lambda block: jinja2.Environment(autoescape=True).parse(block.text),
}


@pytest.mark.parametrize("block", [each for each in SINGLE if each.language != "yaml"], ids=str)
def test_the_block_is_understood(block: Block) -> None:
    assert block.language in CHECKS, f"{block}: no check for {block.language}; list it in not_run.toml"
    try:
        CHECKS[block.language](block)
    except shell_lines.UncheckableError as error:
        pytest.fail(f"{error}: list the block in tests/docs/not_run.toml")


@pytest.mark.parametrize("block", [each for each in SINGLE if each.language == "yaml"], ids=str)
def test_the_yaml_is_understood(block: Block, tmp_path: Path) -> None:
    check_yaml(block, tmp_path)


def states_of(page: str) -> list[list[Block]]:
    """The page's blocks up to each point where one of its modules is replaced, and up to its end."""
    seen: set[str] = set()
    states: list[list[Block]] = []
    written: list[Block] = []
    for block in (block for block in RUN if block.page == page and block.language != "text"):
        if block.file in seen and any(
            each.file not in {b.file for s in states for b in s} for each in written
        ):
            states.append(list(written))
        seen.add(block.file or "")
        written.append(block)
    return [*states, written]


def write_files(blocks: list[Block], folder: Path) -> None:
    """Write the blocks that are files, and the unnamed Python ones into a folder of their own."""
    files = {
        "app.yaml": APP_YAML,
        "no_application.py": NO_APPLICATION,
        "pytest.ini": "[pytest]\npythonpath = .\n",
    }
    for number, block in enumerate(blocks):
        if block.file and not block.file.startswith("/"):
            files[block.file] = block.text
        elif block.language == "python":
            files[f"{run_page.UNNAMED}/{block.page.replace('/', '-')}/{number:03}.py"] = block.text
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def run_python(folder: Path, *arguments: str) -> None:
    """Run Python in a folder of its own; it must succeed."""
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": f"{ROOT}:{folder}", "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_FILES)
def test_the_files_of_the_page_run(page: str, tmp_path: Path, redis_server: RedisServer) -> None:
    for number, blocks in enumerate(states_of(page)):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_files(blocks, folder)
        run_python(folder, "-m", "tests.docs.run_page", str(folder), redis_server.url)


@pytest.mark.slow
def test_the_examples_of_the_other_pages_run(tmp_path: Path, redis_server: RedisServer) -> None:
    write_files([block for block in RUN if block.page in EXAMPLES and block.language == "python"], tmp_path)

    run_python(tmp_path, "-m", "tests.docs.run_page", str(tmp_path), redis_server.url)


@pytest.mark.parametrize("page", sorted(ELSEWHERE))
def test_a_page_that_is_run_elsewhere_is_named_there(page: str) -> None:
    assert f'"{Path(page).name}"' in (ROOT / ELSEWHERE[page]).read_text()


def test_each_entry_of_not_run_names_a_block() -> None:
    there = {(block.page, block.first) for block in ALL}

    assert [entry for entry in not_run() if (entry.page, entry.first) not in there] == []
    assert len(not_run()) == len(NOT_RUN)
    assert all(len(entry.reason) > 10 for entry in not_run())


@pytest.mark.parametrize("block", [block for block in ALL if is_listed(block)], ids=str)
def test_no_entry_of_not_run_hides_a_block_that_could_run(block: Block) -> None:
    assert block.language not in ("yaml", "json", "text"), "this needs no entry"
    if block.language in ("sh", "console"):
        with pytest.raises((shell_lines.UncheckableError, AssertionError)):
            shell_lines.check(block)


def test_the_blocks_of_a_page_are_found() -> None:
    page = "A text:\n\n    make run\n\n- a list\n\n    goes on\n\n```python\n# main.py\nx = 1\n```\n"

    found = list(blocks_of("a.md", page))

    assert [(each.line, each.language, each.file) for each in found] == [
        (3, "sh", None),
        (10, "python", "main.py"),
    ]
    with pytest.raises(AssertionError, match="the fence is not closed"):
        list(blocks_of("a.md", "```sh\nmake run\n"))


@pytest.mark.parametrize(
    "line", ["lastacross nonsense", "make nonsense", "PROT=1", "python -m tests.nonsense", "(("]
)
def test_a_wrong_shell_line_is_noticed(line: str) -> None:
    with pytest.raises((AssertionError, ModuleNotFoundError)):
        shell_lines.check(Block("a.md", 1, "sh", line + "\n"))


def test_a_program_of_another_machine_must_be_listed() -> None:
    with pytest.raises(shell_lines.UncheckableError, match="redis-cli"):
        shell_lines.check(Block("a.md", 1, "sh", "redis-cli PING\n"))

"""The simulation's real Redis, and the Lua that it runs, which is the product's or a mutant."""

import hashlib
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lastacross import store
from lastacross.store.scripts import Scripts
from tests.simulator import snapshot
from tests.simulator.snapshot import Record, Snapshot
from tests.support.redis_server import RedisServer

MUTANTS = Path(__file__).parent / "mutants"


@dataclass(frozen=True)
class Mutant:
    """One line of the Lua, and its replacement.

    Args:
        name: the name of its file.
        script: the Lua file, without its extension.
        line: the text to replace, which occurs once in the file.
        instead: the replacement.
        breaks: the consequence of the fault.
        complaint: a part of the simulator's complaint about the fault.
        seed: the seed that kills it in the tests: a word, or ``<word>:<number>`` for one run.
    """

    name: str
    script: str
    line: str
    instead: str
    breaks: str
    complaint: str = ""
    seed: str = "1"

    def applied(self, text: str) -> str:
        """A script's text, mutated if the script contains the mutant's file."""
        own = store.own_text(self.script)
        if own.count(self.line) != 1:
            raise ValueError(f"{self.name}: the line stands {own.count(self.line)} times in {self.script}")
        return text.replace(own, own.replace(self.line, self.instead))


def read_mutants() -> list[Mutant]:
    """All mutants."""
    return [
        Mutant(name=path.stem, **tomllib.loads(path.read_text())) for path in sorted(MUTANTS.glob("*.toml"))
    ]


class Server:
    """Runs scripts one by one, and reads the complete contents after each of them.

    Args:
        process: the started server.
        scripts: the texts of the product's Lua files.
        mutant: a deliberate fault in them.
    """

    def __init__(self, process: RedisServer, scripts: Scripts, mutant: Mutant | None = None) -> None:
        self.process = process
        self._scripts = scripts
        self._mutant = mutant
        self._texts: dict[str, tuple[str, str]] = {}
        self.redis = store.Store(process.url).redis
        self._dump_sha = ""
        self._connection: Any = None
        self.seen = Snapshot({})
        self.reset()

    def reset(self) -> None:
        """Flush the server."""
        self.redis.flushall()
        self._load()
        self.seen = Snapshot({})

    def _load(self) -> None:
        self._dump_sha = str(self.redis.script_load(snapshot.DUMP))
        if self._connection is not None:
            self._connection.disconnect()
        self._connection = self.redis.connection_pool.get_connection()

    def close(self) -> None:
        """Drop the connections."""
        self.redis.close()

    def run(self, script: str, args: list[Any]) -> Any:
        """Run a Lua file and return its answer; ``seen`` then has the contents after this step."""
        text, sha = self._find(script)
        try:
            return self.commands(("EVALSHA", sha, 0, *args))[0]
        except store.NoScriptError:
            return self.commands(("EVAL", text, 0, *args))[0]

    def commands(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Run commands and read the contents, with nothing in between."""
        connection = self._connection
        dump = ("EVALSHA", self._dump_sha, 0, *Record._fields)
        connection.send_packed_command(connection.pack_commands([*commands, dump]))
        replies, error = [], None
        for _ in commands:
            try:
                replies.append(connection.read_response())
            except store.ResponseError as refused:
                error = refused
        flat = connection.read_response()
        if error is not None:
            raise error
        self.seen = snapshot.parse(flat, self.seen)
        return replies

    def cut(self, lost_bytes: int) -> None:
        """Kill the server, cut the end off its append-only file, and start it again."""
        self.process.kill()
        [path] = self.process.folder.glob("appendonlydir/*.incr.aof")
        os.truncate(path, max(0, path.stat().st_size - lost_bytes))
        self.process.start()
        self._load()
        self.seen = Snapshot({})
        self.commands()

    def _find(self, script: str) -> tuple[str, str]:
        found = self._texts.get(script)
        if found is None:
            text, sha = self._scripts.find(script)
            if self._mutant is not None:
                text = self._mutant.applied(text)
                sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            found = self._texts[script] = text, sha
        return found

"""Processes without threads: their code runs in greenlets, and each call to Redis is a message.

A call stops the code that makes it. The world decides what becomes of the message: it arrives, arrives
twice, late, or never; and so does the answer.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import greenlet

from lastacross.store import Arg, Store

if TYPE_CHECKING:
    from tests.simulator.world import World

# What stands for an answer that has not come yet.
NOTHING = object()


class Request:
    """A message to Redis.

    Args:
        script: the Lua file to run, or the name of what a tool does with plain commands.
        args: of the script.
        commands: the plain commands.
        call: what is done to Redis instead, by another library.
        about: ids of the tasks that a tool changes.
        breaks: those of them that may be anywhere afterwards.
    """

    def __init__(
        self,
        script: str,
        args: Sequence[Any] = (),
        *,
        commands: Sequence[tuple[Any, ...]] = (),
        call: Callable[[], object] | None = None,
        about: Sequence[str] = (),
        breaks: Sequence[str] = (),
    ) -> None:
        self.script = script
        self.args = list(args)
        self.commands = commands
        self.call = call
        self.about = about
        self.breaks = breaks
        self.sender = ""
        self.sent_at = 0.0
        self.executed_at = 0
        self.times = 0


class Question(Request):
    """The lease that waits at the server for a marker: ``BLPOP``, and behind it the script.

    Args:
        groups: whose markers it waits for.
        script: what runs then.
        args: of the script.
    """

    def __init__(self, groups: Sequence[str], script: str, args: Sequence[Any]) -> None:
        super().__init__(script, args)
        self.groups = list(groups)
        self.is_parked = False
        self.is_lost = False
        self.reply: Any = NOTHING


class Sleep:
    """What a thread does between its steps.

    Args:
        until: the virtual instant at which it goes on.
        question: whose answer ends the sleep as well.
    """

    def __init__(self, until: float, question: Question | None = None) -> None:
        self.until = until
        self.question = question
        self.is_interrupted = False


class Death:
    """A thread ends its whole process."""


class Thread:
    """A thread of a process: it waits for Redis, sleeps, or has something to do.

    Args:
        process: its process.
        name: for the trace.
        run: its code.
    """

    def __init__(self, process: "Process", name: str, run: Callable[[], None]) -> None:
        self.process = process
        self.name = name
        # Whoever starts it, it comes back to the world when it ends.
        self.code = greenlet.greenlet(lambda _value: run(), parent=process.world.hub)
        self.request: Request | None = None
        self.reply: Any = NOTHING
        self.sleep: Sleep | None = None

    @property
    def is_dead(self) -> bool:
        """Whether its code has ended."""
        return bool(self.code.dead)

    def can_go_on(self, now: float) -> bool:
        """Whether a step of it is possible at this instant."""
        sleep = self.sleep
        if sleep is None:
            return True
        question = sleep.question
        if question is not None and (question.is_lost or not question.is_parked):
            return True
        return sleep.is_interrupted or sleep.until <= now


class Process:
    """A process of the simulation, with a clock and a connection to Redis of its own.

    Args:
        world: where it lives.
        slot: its place; the next process in that place has another generation.
        generation: which one it is.
        offset: how far its clock is ahead of the server's, in seconds.
    """

    def __init__(self, world: "World", slot: int, generation: int, offset: float) -> None:
        self.world = world
        self.slot = slot
        self.generation = generation
        self.clock = OwnClock(world, offset)
        self.store = SimStore(self)
        self.threads: list[Thread] = []
        self.is_alive = True

    @property
    def name(self) -> str:
        """For the trace."""
        return f"{self.slot}.{self.generation}"

    def start(self, name: str, run: Callable[[], None]) -> Thread:
        """Start a thread."""
        thread = Thread(self, name, run)
        self.threads.append(thread)
        return thread

    def call(self, request: Request) -> Any:
        """Send a message and wait for the answer; from one of its threads."""
        self._require_life()
        return self.world.hub.switch(request)

    def sleep(self, seconds: float, question: Question | None = None) -> None:
        """Let virtual time pass; from one of its threads."""
        self._require_life()
        self.world.hub.switch(Sleep(self.world.now + max(0.0, seconds), question))

    def die(self) -> None:
        """End it where it stands; from one of its threads."""
        self._require_life()
        self.world.hub.switch(Death())

    def _require_life(self) -> None:
        if not self.is_alive:
            # Its code has a `finally` or a `with` that talks to Redis: the dead do not.
            raise greenlet.GreenletExit


class OwnClock:
    """A process's clock: the server's time, give or take.

    Args:
        world: which has the server's.
        offset: in seconds.
    """

    def __init__(self, world: "World", offset: float) -> None:
        self._world = world
        self.offset = offset

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._world.now + self.offset

    def monotonic(self) -> float:
        """Seconds since an unknown instant."""
        return self._world.now - 1_700_000_000.0


class SimStore(Store):
    """The product's door to Redis, behind which there is the simulated network.

    What does not change anything, such as reading queue.yaml's last upload, goes to the server directly.

    Args:
        process: whose store it is.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.url = process.world.server.process.url
        self.redis = process.world.server.redis
        self.clock = process.clock

    def now(self) -> float:
        """The Redis server's time, as this process knows it."""
        return self.clock.now()

    def sync_clock(self) -> None:
        """It has been measured as well as it can be."""

    def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        """Send a message, and wait."""
        assert not keys
        return self._process.call(Request(script, args))

    @property
    def has_server_time(self) -> bool:
        """As in production; the server puts in the virtual time."""
        return True

"""Processes without threads: their code runs in greenlets, and each call to Redis is a message.

A call suspends the calling code. The world decides whether the message arrives on time, late, twice or never,
and does the same with the answer.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import greenlet

from lastacross.store import Arg, Store

if TYPE_CHECKING:
    from tests.simulator.world import World

# Stands for an answer that has not arrived yet.
NOTHING = object()


class Request:
    """A message to Redis.

    Args:
        script: the Lua file to run, or a name for the plain commands of a tool.
        args: the script's arguments.
        commands: the plain commands.
        call: a function that uses Redis through another library instead.
        about: the ids of the tasks that a tool changes.
        breaks: the ids of the tasks that may be anywhere afterwards.
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
    """A lease that waits for a marker at the server: ``BLPOP``, followed by the script.

    Args:
        groups: the groups whose markers it waits for.
        script: the script that runs afterwards.
        args: the script's arguments.
    """

    def __init__(self, groups: Sequence[str], script: str, args: Sequence[Any]) -> None:
        super().__init__(script, args)
        self.groups = list(groups)
        self.is_parked = False
        self.is_lost = False
        self.reply: Any = NOTHING


class Sleep:
    """The pause of a thread between two steps.

    Args:
        until: the virtual time at which it ends.
        question: a question whose answer also ends the pause.
    """

    def __init__(self, until: float, question: Question | None = None) -> None:
        self.until = until
        self.question = question
        self.is_interrupted = False


class Death:
    """The event in which a thread ends its whole process."""


class Thread:
    """A thread of a process: it waits for Redis, sleeps, or can run.

    Args:
        process: the thread's process.
        name: the thread's name in the trace.
        run: the thread's code.
    """

    def __init__(self, process: "Process", name: str, run: Callable[[], None]) -> None:
        self.process = process
        self.name = name
        # When the code ends, control returns to the world, wherever the thread was started.
        self.code = greenlet.greenlet(lambda _value: run(), parent=process.world.hub)
        self.request: Request | None = None
        self.reply: Any = NOTHING
        self.sleep: Sleep | None = None

    @property
    def is_dead(self) -> bool:
        """Whether the thread's code has ended."""
        return bool(self.code.dead)

    def can_go_on(self, now: float) -> bool:
        """Whether the thread can run a step at this time."""
        sleep = self.sleep
        if sleep is None:
            return True
        question = sleep.question
        if question is not None and (question.is_lost or not question.is_parked):
            return True
        return sleep.is_interrupted or sleep.until <= now


class Process:
    """A simulated process with its own clock and its own connection to Redis.

    Args:
        world: the world of the process.
        slot: the place of the process; the next process in this place has the next generation.
        generation: how many processes had this place before.
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
        """The name in the trace."""
        return f"{self.slot}.{self.generation}"

    def start(self, name: str, run: Callable[[], None]) -> Thread:
        """Start a thread."""
        thread = Thread(self, name, run)
        self.threads.append(thread)
        return thread

    def call(self, request: Request) -> Any:
        """Send a message from one of the process's threads, and wait for the answer."""
        self._require_life()
        return self.world.hub.switch(request)

    def sleep(self, seconds: float, question: Question | None = None) -> None:
        """Let virtual time pass in one of the process's threads."""
        self._require_life()
        self.world.hub.switch(Sleep(self.world.now + max(0.0, seconds), question))

    def die(self) -> None:
        """Kill the process from one of its threads."""
        self._require_life()
        self.world.hub.switch(Death())

    def _require_life(self) -> None:
        if not self.is_alive:
            # The code has a `finally` or a `with` that uses Redis, but a killed process cannot do that.
            raise greenlet.GreenletExit


class OwnClock:
    """A process's clock: the server's time and an offset.

    Args:
        world: the world, which knows the server's time.
        offset: the offset in seconds.
    """

    def __init__(self, world: "World", offset: float) -> None:
        self._world = world
        self.offset = offset

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._world.now + self.offset

    def monotonic(self) -> float:
        """Seconds since an arbitrary point in time."""
        return self._world.now - 1_700_000_000.0


class SimStore(Store):
    """The product's store on top of the simulated network.

    Reads without effects, such as those of queue.yaml's last upload, go directly to the server.

    Args:
        process: the process that uses the store.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.url = process.world.server.process.url
        self.redis = process.world.server.redis
        self.clock = process.clock

    def now(self) -> float:
        """The Redis server's time as far as this process knows it."""
        return self.clock.now()

    def sync_clock(self) -> None:
        """Do nothing: the simulated clocks need no measurement."""

    def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        """Send a message, and wait for the answer."""
        assert not keys
        return self._process.call(Request(script, args))

    def note_server_time(self, text: bytes, asked_at: float) -> None:
        """Do nothing, because the server's own clock is not simulated."""

    @property
    def clock_jumps(self) -> int:
        """0, because the virtual time never jumps."""
        return 0

    @property
    def can_compare_time(self) -> bool:
        """False, because the server's own clock is not the virtual time."""
        return False

    @property
    def has_server_time(self) -> bool:
        """True, as in production. The simulated server inserts the virtual time."""
        return True

"""Who is measured, at what, how often, and what that takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MEASURES = ("drain", "enqueue", "bulk", "fanin", "latency")
OURS = "deferred"
FREE = "free"


@dataclass(frozen=True, slots=True)
class Setting:
    """The machine of a run: driver, workers and Redis alike.

    Attributes:
        label: its heading.
        measures: the measures that are run in it; None: all.
        is_for_all: whether the slow contenders run in it, too.
        core: the one core of all processes; None: every core of the machine.
        delay_seconds: what a proxy adds to each way between a process and Redis.
        max_rounds: the number of rounds at most.
    """

    label: str
    measures: Sequence[str] | None = None
    is_for_all: bool = False
    core: int | None = None
    delay_seconds: float = 0.0
    max_rounds: int = 5


SETTINGS = {
    FREE: Setting("every core of the machine", is_for_all=True),
    "one": Setting("everything on one core", ("drain", "fanin"), core=0),
    "far": Setting(
        "1 ms each way between a process and Redis",
        ("drain", "enqueue", "fanin", "latency"),
        delay_seconds=0.001,
        max_rounds=1,
    ),
}


@dataclass(frozen=True, slots=True)
class Contender:
    """A column of the table.

    Attributes:
        name: of the column, and of PEERS=….
        label: its heading.
        program: of its driver, below bench/.
        environment: below .bench/; empty for ours, which runs in this one.
        seconds: what one run of a measure takes for 10,000 tasks, start and end included; those it has.
        options: of the driver.
        variants: settings of which the best is shown, measure for measure.
        most_rounds: of measures that are slow.
        task_shares: by measure, how many times the usual number of tasks, so that a run takes at least 2 s,
            and a slow library ends.
        is_lean: whether it is fast enough to run in every setting.
        has_own_site: its driver starts a whole site, Redis included, and knows how many tasks it takes.
    """

    name: str
    label: str
    program: str
    environment: str
    seconds: Mapping[str, float]
    options: Sequence[str] = ()
    variants: Sequence[str] = ("",)
    most_rounds: Mapping[str, int] = field(default_factory=dict)
    task_shares: Mapping[str, float] = field(default_factory=dict)
    is_lean: bool = False
    has_own_site: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether it is Last Across."""
        return not self.environment

    def rounds(self, measure: str, rounds: int) -> int:
        """How often this measure is run, of so many rounds."""
        return min(rounds, self.most_rounds.get(measure, rounds))

    def variants_of(self, measure: str) -> Sequence[str]:
        """Adding does not depend on how workers are set."""
        return self.variants[:1] if measure in ("enqueue", "bulk") else self.variants


def _ours(kind: str, seconds: Mapping[str, float], shares: Mapping[str, float]) -> Contender:
    label = f"**Last Across**, {kind}"
    options = ("--kind", kind)
    return Contender(
        kind, label, "ours/ours.py", "", seconds, options, task_shares={**_ADDING, **shares}, is_lean=True
    )


_ADDING = {"enqueue": 2.0, "bulk": 8.0}


#: In the order of the table's columns.
CONTENDERS = (
    _ours("deferred", {"drain": 9, "enqueue": 6, "bulk": 4, "fanin": 6, "latency": 16}, {"drain": 8}),
    _ours("handler", {"drain": 9, "enqueue": 6, "bulk": 4, "fanin": 6, "latency": 16}, {"drain": 5}),
    Contender(
        "rq",
        "rq, SimpleWorker",
        "peers/rq_peer.py",
        "rq",
        {"drain": 17, "enqueue": 8, "bulk": 3, "fanin": 50, "latency": 17},
        options=("--variant", "simple"),
        most_rounds={"fanin": 1, "latency": 2},
        task_shares={"drain": 0.5, "bulk": 4.0},
    ),
    Contender(
        "rq-forking",
        "rq, forking",
        "peers/rq_peer.py",
        "rq",
        {"drain": 16, "latency": 24},
        options=("--variant", "forking"),
        most_rounds={"latency": 1},
        task_shares={"drain": 0.05},
    ),
    Contender(
        "celery",
        "celery",
        "peers/celery_peer.py",
        "celery",
        {"drain": 17, "enqueue": 9, "bulk": 4, "fanin": 36, "latency": 20},
        variants=("prefork", "threads"),
        most_rounds={"fanin": 1, "latency": 2},
        task_shares={"bulk": 2.0},
    ),
    Contender(
        "dramatiq",
        "dramatiq",
        "peers/dramatiq_peer.py",
        "dramatiq",
        {"drain": 10, "enqueue": 5, "fanin": 15, "latency": 16},
        task_shares={"drain": 2.0, "enqueue": 2.0},
        is_lean=True,
    ),
    Contender(
        "huey",
        "huey (at most once)",
        "peers/huey_peer.py",
        "huey",
        {"drain": 9, "enqueue": 4, "fanin": 10, "latency": 15},
        task_shares={"drain": 2.0, "enqueue": 2.0},
        is_lean=True,
    ),
    Contender(
        "taskiq",
        "taskiq, streams",
        "peers/taskiq_peer.py",
        "taskiq",
        {"drain": 15, "enqueue": 6, "latency": 16},
        most_rounds={"latency": 2},
        task_shares={"drain": 2.0},
    ),
    Contender(
        "streaq",
        "streaQ",
        "peers/streaq_peer.py",
        "streaq",
        {"drain": 14, "enqueue": 8, "bulk": 4, "latency": 16},
    ),
    Contender(
        "bullmq",
        "BullMQ on Node",
        "peers/bullmq_peer.mjs",
        "bullmq",
        {"drain": 8, "enqueue": 5, "bulk": 4, "fanin": 7, "latency": 14},
        variants=("100", "400"),
        task_shares={"drain": 4.0, "enqueue": 2.0, "bulk": 6.0},
        is_lean=True,
    ),
)

#: Measures of ours that no peer has, and what each takes; they are shown in a table of their own.
OUR_OWN = Contender(
    "own",
    "**Last Across**",
    "ours/ours.py",
    "",
    {"lpush": 1, "memory": 2, "wsgi": 8, "idle": 30, "fairness": 35, "million": 150},
    # Memory is counted, not timed; a million is one run of minutes.
    most_rounds={"wsgi": 5, "memory": 1, "idle": 1, "fairness": 3, "million": 1},
)


#: Our web side: gunicorn, a browser and all.
OUR_WEB = Contender(
    "web",
    "**Last Across**, web",
    "web/web.py",
    "",
    {"form": 20, "polls": 42, "streams": 25, "streams-shared": 25, "screen": 20, "quilt": 50},
    # Each is of many requests; `quilt` is the median of five.
    most_rounds={"form": 3, "polls": 3, "streams": 3, "streams-shared": 1, "screen": 3, "quilt": 1},
    has_own_site=True,
)
ALL = (*CONTENDERS, OUR_OWN, OUR_WEB)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one driver."""

    contender: Contender
    variant: str
    measure: str
    round: int
    setting: str = FREE


def plan(
    contenders: Sequence[Contender],
    measures: Sequence[str],
    rounds: int,
    settings: Sequence[str] = tuple(SETTINGS),
) -> list[Run]:
    """A B A B: in each round, each measure by all in turn, so that neighbours meet the same weather."""
    return [
        Run(contender, variant, measure, number, setting)
        for number in range(1, rounds + 1)
        for setting in settings
        for measure in measures
        for contender in contenders
        if _takes_part(contender, measure, setting)
        and number <= min(contender.rounds(measure, rounds), SETTINGS[setting].max_rounds)
        for variant in contender.variants_of(measure)
    ]


def _takes_part(contender: Contender, measure: str, setting: str) -> bool:
    found = SETTINGS[setting]
    return (
        measure in contender.seconds
        and (found.is_for_all or contender.is_lean)
        and (found.measures is None or measure in found.measures)
    )


def expected_seconds(runs: Sequence[Run], tasks: int) -> float:
    """What they take together; latency is of a fixed number of tasks, and so are starts."""
    shares = {"latency": 1.0}
    return sum(
        run.contender.seconds[run.measure] * shares.get(run.measure, max(0.3, tasks / 10_000)) for run in runs
    )

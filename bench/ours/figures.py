"""Figures: what Redis has spent, and the percentiles of what was measured."""

import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import redis

import lastacross

Figures = dict[str, Any]

_PACKAGES = ("redis", "hiredis", "rq", "webapp2", "WebOb")


@dataclass(frozen=True, slots=True)
class Spent:
    """What a Redis server has spent since it started.

    Attributes:
        cpu_seconds: processor time, its background threads' too.
        commands: that it has run, those of scripts too.
        memory: bytes in use.
    """

    cpu_seconds: float
    commands: float
    memory: int

    @classmethod
    def of(cls, client: redis.Redis) -> "Spent":
        """Until now."""
        info: dict[str, Any] = client.info()
        return cls(
            info["used_cpu_user"] + info["used_cpu_sys"],
            info["total_commands_processed"],
            info["used_memory"],
        )

    def since(self, before: "Spent") -> "Spent":
        """The difference to an earlier instant."""
        return Spent(
            self.cpu_seconds - before.cpu_seconds,
            self.commands - before.commands,
            self.memory - before.memory,
        )

    def without(self, times: int, each: "Spent") -> "Spent":
        """Less what the measuring itself has spent, so many times."""
        return Spent(
            self.cpu_seconds - times * each.cpu_seconds, self.commands - times * each.commands, self.memory
        )

    def per_task(self, tasks: int) -> Figures:
        """Microseconds of processor and commands a task."""
        return {
            "redis_cpu_us": microseconds(self.cpu_seconds, tasks),
            "redis_commands": round(self.commands / tasks, 2),
        }


def microseconds(seconds: float, tasks: int) -> float:
    """For each task, to a tenth."""
    return round(seconds * 1e6 / tasks, 1)


def rate(tasks: int, seconds: float) -> Figures:
    """The figures of so many tasks in so many seconds."""
    return {"tasks": tasks, "seconds": round(seconds, 4), "per_second": round(tasks / seconds, 1)}


def milliseconds(seconds: Sequence[float], *percents: int) -> Figures:
    """Percentiles in milliseconds, interpolated as for the peers: ``p50_ms``, …"""
    # Of one value there are no percentiles but itself.
    cuts = statistics.quantiles([*seconds] * (2 if len(seconds) == 1 else 1), n=100, method="inclusive")
    return {f"p{percent}_ms": round(cuts[percent - 1] * 1000, 3) for percent in percents}


def versions(client: redis.Redis) -> dict[str, str]:
    """What was measured with what."""
    server: dict[str, Any] = client.info("server")
    return {
        "lastacross": lastacross.__version__,
        "python": platform.python_version(),
        "redis-server": str(server["redis_version"]),
        **{name: metadata.version(name) for name in _PACKAGES},
    }

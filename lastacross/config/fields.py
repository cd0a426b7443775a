"""Kinds of value that entries of several files have."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator

from lastacross.config import units
from lastacross.config.diagnostics import UnusableError, likely


def parsed(parse: Callable[[str], Any]) -> BeforeValidator:
    """A value written as one text, which ``parse`` reads or refuses with UnusableError."""

    def check(value: Any) -> Any:
        if not isinstance(value, str):
            raise UnusableError("is not a single value")
        return parse(value)

    return BeforeValidator(check)


def one_of(*choices: str) -> BeforeValidator:
    """One of a few words."""

    def check(text: str) -> str:
        if text not in choices:
            listed = ", ".join(choices[:-1]) + f" or {choices[-1]}"
            raise UnusableError(f"is not {listed}", likely(text, choices))
        return text

    return parsed(check)


Integer = Annotated[int, parsed(units.parse_integer)]
Count = Annotated[int, parsed(units.parse_count)]
Seconds = Annotated[float, parsed(units.parse_seconds)]
Switch = Annotated[bool, parsed(units.parse_switch)]

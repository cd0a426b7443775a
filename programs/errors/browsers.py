"""Extracts the browser, the operating system and the device from a User-Agent header."""

from dataclasses import dataclass

import ua_parser

MAX_USER_AGENT_LENGTH = 500
"""How much of it is parsed. Longer strings are fabricated, and the rules' expressions are not linear."""
MAX_NAME_LENGTH = 100


@dataclass(frozen=True)
class Client:
    """A client's browser, system and device with their major versions (``Chrome 120``); "" if unknown."""

    browser: str = ""
    system: str = ""
    device: str = ""


def parse(user_agent: str) -> Client:
    """Parse a User-Agent header. This takes a millisecond, but the first call takes a tenth of a second."""
    found = ua_parser.parse(user_agent[:MAX_USER_AGENT_LENGTH])
    browser, system, device = found.user_agent, found.os, found.device
    return Client(
        _named(browser.family, browser.major) if browser else "",
        _named(system.family, system.major) if system else "",
        _named(device.family, None) if device else "",
    )


def _named(family: str, version: str | None) -> str:
    return f"{family} {version}"[:MAX_NAME_LENGTH] if version else family[:MAX_NAME_LENGTH]

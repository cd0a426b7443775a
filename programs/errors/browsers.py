"""What a user agent is: browser, system, device."""

from dataclasses import dataclass

import ua_parser

LONGEST_USER_AGENT = 500
"""Characters that are looked at. A longer one is made up, and the rules' expressions are not linear."""
LONGEST_NAME = 100


@dataclass(frozen=True)
class Client:
    """Names with the version's first number, such as ``Chrome 120``; "" for what is not known."""

    browser: str = ""
    system: str = ""
    device: str = ""


def parse(user_agent: str) -> Client:
    """What this User-Agent header says. Takes a millisecond, the first time a tenth of a second."""
    found = ua_parser.parse(user_agent[:LONGEST_USER_AGENT])
    browser, system, device = found.user_agent, found.os, found.device
    return Client(
        _named(browser.family, browser.major) if browser else "",
        _named(system.family, system.major) if system else "",
        _named(device.family, None) if device else "",
    )


def _named(family: str, version: str | None) -> str:
    return f"{family} {version}"[:LONGEST_NAME] if version else family[:LONGEST_NAME]

"""Hashes and checks passwords with argon2id.

The parameters are OWASP's: 19 MiB of memory and two passes, which take about 0.03 s. A process checks at most
two passwords at a time, so that strangers at the sign-in page cost it at most 38 MiB and two processors.
"""

import importlib
import threading
import unicodedata
from typing import Any

from lastacross import logs
from lastacross.errors import AccountError, TooManyChecksError

MEMORY_KIB = 19_456
PASSES = 2
LANES = 1
MIN_CHARACTERS = 12
MAX_CHARACTERS = 1_000
# How many checks may run at a time, and how long another one waits for its turn.
MAX_CHECKS = 2
TURN_SECONDS = 2.0

# The hash of a random password that nobody knows. Checking a password against it takes as long as checking
# a real account's, so the response time does not reveal whether an account exists.
_NOBODYS = "$argon2id$v=19$m=19456,t=2,p=1$ThkV2IlSrhXFK7Va54bxxA$LT7WwiOH01o3BRqM72gMtgDmQ3CVwZ4cgtTqE0YLWng"

_turns = threading.BoundedSemaphore(MAX_CHECKS)
_log = logs.get(__name__)


def check_new(name: str, password: str) -> None:
    """Refuse a new password that is too easy to guess.

    Args:
        name: the account's name.
        password: the new password.

    Raises:
        AccountError: the password is too short, too long, or made up of the account's name.
    """
    count = len(_bytes(password).decode())
    if count < MIN_CHARACTERS:
        raise AccountError(f"the password has {count} characters; it needs at least {MIN_CHARACTERS}")
    if count > MAX_CHARACTERS:
        raise AccountError(f"the password has {count:,} characters; the limit is {MAX_CHARACTERS:,}")
    if len(set(password)) < MIN_CHARACTERS // 3 or not password.lower().replace(name.lower(), ""):
        raise AccountError("the password is too easy to guess; use several words, or a password manager's")


def hashed(password: str) -> str:
    """The password's hash, in the PHC string format."""
    return str(_hasher().hash(_bytes(password)))


def is_password(password_hash: str | None, password: str) -> bool:
    """Whether this is the hash's password. It takes the same time for every outcome.

    Args:
        password_hash: the account's hash; None if there is no such account.
        password: the given password.

    Raises:
        TooManyChecksError: two other checks are running, and neither finished within two seconds.
    """
    if not _turns.acquire(timeout=TURN_SECONDS):
        raise TooManyChecksError("too many passwords are being checked at the moment")
    try:
        is_right = _is_match(password_hash or _NOBODYS, password)
    finally:
        _turns.release()
    return is_right and password_hash is not None


def _is_match(password_hash: str, password: str) -> bool:
    exceptions: Any = importlib.import_module("argon2.exceptions")
    try:
        return bool(_hasher().verify(password_hash, _bytes(password)[: 4 * MAX_CHARACTERS]))
    except exceptions.VerifyMismatchError:
        return False
    except (exceptions.Argon2Error, exceptions.InvalidHashError) as error:
        _log.error("account.damaged", error=str(error), remedy="lastacross admin set-password")
        return False


def _hasher() -> Any:
    return importlib.import_module("argon2").PasswordHasher(
        time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES
    )


def _bytes(password: str) -> bytes:
    """The password's bytes. Keyboards and systems differ in how they compose letters such as é."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "replace")

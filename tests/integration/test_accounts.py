"""The accounts in the datastore: who is let in by which password, and what a person's name may be."""

import pytest

from lastacross import accounts
from lastacross.accounts import passwords
from lastacross.errors import AccountError
from tests.support.clock import StoppedClock

PASSWORD = "correct horse battery"

pytestmark = pytest.mark.usefixtures("database")


def is_password_of(name: str, password: str) -> bool:
    """Whether the account has this password."""
    account = accounts.find(name)
    return accounts.is_password(None if account is None else account.password_hash, password)


def test_an_account_is_found_with_its_role_and_its_password(clock: StoppedClock) -> None:
    assert not accounts.has_any()
    assert accounts.set_password("Anna", PASSWORD, clock=clock) == "admin"
    assert accounts.set_password("ben@shop.example", PASSWORD, "viewer", clock) == "viewer"

    assert accounts.has_any()
    assert [(each.name, each.role) for each in accounts.list_all()] == [
        ("anna", "admin"),
        ("ben@shop.example", "viewer"),
    ]
    found = accounts.find("ANNA")
    assert found is not None
    assert found.changed_at == clock.now()
    assert found.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PASSWORD not in repr(found)
    assert is_password_of("anna", PASSWORD)
    assert not is_password_of("anna", f"{PASSWORD}!")
    assert not is_password_of("carla", PASSWORD)


def test_a_new_password_replaces_the_old_one_and_the_session_key_and_keeps_the_role() -> None:
    accounts.set_password("ben", PASSWORD, "viewer")
    before = accounts.find("ben")
    assert accounts.set_password("ben", "another long password") == "viewer"
    after = accounts.find("ben")

    assert before is not None
    assert after is not None
    assert before.session_key != after.session_key
    assert is_password_of("ben", "another long password")
    assert not is_password_of("ben", PASSWORD)
    assert accounts.set_password("ben", PASSWORD, "admin") == "admin"


def test_a_removed_account_is_gone() -> None:
    accounts.set_password("ben", PASSWORD)
    assert accounts.remove("BEN")
    assert not accounts.remove("ben")
    assert accounts.find("ben") is None


def test_letters_that_are_composed_differently_are_the_same_password() -> None:
    accounts.set_password("anna", "caf\u00e9 au lait, bitte")
    assert is_password_of("anna", "cafe\u0301 au lait, bitte")


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("short", "has 5 characters; it needs at least 12"),
        ("x" * 1_001, "has 1,001 characters; the limit is 1,000"),
        ("aaaaaaaaaaaaaaaa", "too easy to guess"),
        ("annaannaannaAnna", "too easy to guess"),
    ],
)
def test_a_password_that_is_easy_to_guess_is_refused(password: str, reason: str) -> None:
    with pytest.raises(AccountError, match=reason):
        accounts.set_password("anna", password)
    assert not accounts.has_any()


@pytest.mark.parametrize("name", ["", "an na", "\u0430nna", "../anna", "a" * 101, "-anna", "anna\n.b"])
def test_a_name_that_could_be_mistaken_for_another_is_refused(name: str) -> None:
    with pytest.raises(AccountError, match="cannot be a name"):
        accounts.set_password(name, PASSWORD)
    assert accounts.find(name) is None


@pytest.mark.parametrize("name", ["administrator", " Administrator "])
def test_the_name_of_whoever_used_a_link_is_refused(name: str) -> None:
    with pytest.raises(AccountError, match="'administrator' stands for whoever used a link"):
        accounts.set_password(name, PASSWORD)
    assert not accounts.has_any()


def test_a_damaged_hash_lets_nobody_in() -> None:
    assert not accounts.is_password("damaged", PASSWORD)
    assert not accounts.is_password("$argon2id$v=19$m=19456,t=2,p=1$AAAA$BBBB", PASSWORD)


def test_nobody_has_the_password_of_nobody() -> None:
    assert not passwords.is_password(None, PASSWORD)
    assert passwords._NOBODYS.rsplit("$", 2)[0] == passwords.hashed(PASSWORD).rsplit("$", 2)[0]

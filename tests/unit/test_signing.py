"""Signatures: what is altered, foreign or too old is refused."""

import hashlib
import hmac

import pytest
from itsdangerous import Signer

from lastacross.errors import BadSignatureError, ConfigError, ExpiredSignatureError
from lastacross.signing import Signatures

OURS = Signatures("a secret key of the tests, long enough")
FOREIGN = Signatures("another secret key, of another site")


def test_what_was_signed_is_verified() -> None:
    """Any bytes, the signature's own separator among them."""
    payload = b"\x00.a.b\xff" * 100
    assert OURS.verify("deferred", OURS.sign("deferred", payload)) == payload


def test_releases_that_sign_with_itsdangerous_understand_ours_and_we_understand_theirs() -> None:
    key = hmac.digest(b"a secret key of the tests, long enough", b"lastacross.deferred", "sha256")
    theirs = Signer(key, key_derivation="none", digest_method=hashlib.sha256)
    for payload in (b"", b"payload", b"\x00.a.b\xff" * 100):
        signed = theirs.sign(payload)
        assert signed == OURS.sign("deferred", payload)
        assert OURS.verify("deferred", signed) == payload


@pytest.mark.parametrize(
    "signed",
    [
        b"",
        b"payload",
        b"payload.",
        OURS.sign("memcache", b"payload"),
        FOREIGN.sign("deferred", b"payload"),
        OURS.sign("deferred", b"payload")[:-1],
        b"x" + OURS.sign("deferred", b"payload"),
    ],
)
def test_a_signature_that_is_missing_foreign_or_altered_is_refused(signed: bytes) -> None:
    """A signature for one purpose is none for another."""
    with pytest.raises(BadSignatureError):
        OURS.verify("deferred", signed)


def test_a_token_carries_a_value() -> None:
    """JSON, for one purpose."""
    token = OURS.dump_token("channel", {"client": "é"})
    assert OURS.load_token("channel", token) == {"client": "é"}
    with pytest.raises(BadSignatureError):
        OURS.load_token("session", token)


def test_a_token_that_is_too_old_says_so() -> None:
    """An age below zero is older than any."""
    token = OURS.dump_token("channel", 1)
    with pytest.raises(ExpiredSignatureError):
        OURS.load_token("channel", token, max_age_seconds=-1)


def test_nothing_is_signed_without_a_key() -> None:
    """A command that only looks runs without SECRET_KEY; what it signed would be anybody's."""
    with pytest.raises(ConfigError, match="SECRET_KEY is not set"):
        Signatures("")

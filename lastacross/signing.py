"""Signs values; a value from Redis or a browser is trusted only if it has a valid signature from us.

A signature for one ``purpose`` is invalid for any other, so a channel token cannot pass as a deferred call.
"""

import base64
import hashlib
import hmac
from typing import Any

from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer

from lastacross.errors import BadSignatureError, ConfigError, ExpiredSignatureError


def fingerprint(secret_key: str) -> str:
    """A few characters that show whether two processes have the same key, without giving it away."""
    return hmac.digest(secret_key.encode(), b"lastacross.fingerprint", "sha256").hex()[:8]


class _Signer:
    """Signs in the format of itsdangerous: the payload, a dot, and its HMAC-SHA-256 as URL-safe Base64.

    itsdangerous would hash the key again for each task, which takes longer than a short payload.
    """

    def __init__(self, key: bytes) -> None:
        self._keyed = hmac.new(key, digestmod="sha256")

    def sign(self, payload: bytes) -> bytes:
        return b"%b.%b" % (payload, self._signature(payload))

    def unsign(self, signed: bytes) -> bytes:
        payload, dot, signature = signed.rpartition(b".")
        if not dot or not hmac.compare_digest(signature, self._signature(payload)):
            raise BadSignature("the signature does not match")
        return payload

    def _signature(self, payload: bytes) -> bytes:
        found = self._keyed.copy()
        found.update(payload)
        return base64.urlsafe_b64encode(found.digest()).rstrip(b"=")


class Signatures:
    """Signs and verifies values with one secret key.

    Args:
        secret_key: the application's SECRET_KEY, at least 16 characters.

    Raises:
        ConfigError: the key is missing. Read-only commands run without a key, so they must not sign anything.
    """

    def __init__(self, secret_key: str) -> None:
        if not secret_key:
            raise ConfigError("SECRET_KEY is not set, but it is needed to sign data")
        self._secret_key = secret_key
        self._signers: dict[str, _Signer] = {}

    def sign(self, purpose: str, payload: bytes) -> bytes:
        """Return the payload with its signature appended."""
        return self._signer(purpose).sign(payload)

    def verify(self, purpose: str, signed: bytes) -> bytes:
        """Return the payload of a value created by ``sign``.

        Raises:
            BadSignatureError: the value was not created by ``sign`` with this key and purpose.
        """
        try:
            return self._signer(purpose).unsign(signed)
        except BadSignature as error:
            raise BadSignatureError(f"the signature of this {purpose} is missing or wrong") from error

    def dump_token(self, purpose: str, value: Any) -> str:
        """Create a URL-safe, timestamped token that contains a JSON value."""
        return str(self._serializer(purpose).dumps(value))

    def load_token(self, purpose: str, token: str, max_age_seconds: float | None = None) -> Any:
        """Return a token's JSON value.

        Raises:
            ExpiredSignatureError: the token is older than ``max_age_seconds``.
            BadSignatureError: the token was not signed with our key for this purpose.
        """
        try:
            return self._serializer(purpose).loads(token, max_age=max_age_seconds)  # type: ignore[arg-type]
        except SignatureExpired as error:
            raise ExpiredSignatureError(f"this {purpose} has expired") from error
        except BadSignature as error:
            raise BadSignatureError(f"this {purpose} is not valid") from error

    def _signer(self, purpose: str) -> "_Signer":
        signer = self._signers.get(purpose)
        if signer is None:
            key = hmac.digest(self._secret_key.encode(), f"lastacross.{purpose}".encode(), "sha256")
            signer = self._signers[purpose] = _Signer(key)
        return signer

    def _serializer(self, purpose: str) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(
            self._secret_key,
            salt=f"lastacross.{purpose}",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

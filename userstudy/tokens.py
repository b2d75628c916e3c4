"""Links nobody can guess or change, and identifiers that only the study's key can recognise."""

from __future__ import annotations

import hashlib
import hmac

from itsdangerous import BadData, SignatureExpired, URLSafeTimedSerializer

from userstudy.errors import StudyError

__all__ = ["keyed_hash", "sign", "verify"]

_LONGEST = 512  # characters; ours have about 80


def sign(secret: bytes, purpose: str, value: str) -> str:
    """Return a value with the time and a signature, fit for an address.

    Args:
        secret: the study's key.
        purpose: a token made for one purpose is refused for every other.
        value: what the token stands for.
    """
    return str(_serializer(secret, purpose).dumps(value))


def verify(secret: bytes, purpose: str, token: str, valid_seconds: float) -> str:
    """Return the value that was signed.

    Raises:
        StudyError: the token has run out (link_expired) or was not made by `sign` for this purpose
            (link_invalid).
    """
    if not isinstance(token, str) or not token.isascii() or len(token) > _LONGEST:
        raise StudyError("link_invalid")
    try:
        value = _serializer(secret, purpose).loads(token, max_age=int(valid_seconds))
    except SignatureExpired:
        raise StudyError("link_expired") from None
    except BadData:
        raise StudyError("link_invalid") from None
    if not isinstance(value, str):
        raise StudyError("link_invalid")
    return value


def keyed_hash(secret: bytes, purpose: str, value: str) -> str:
    """Return HMAC-SHA256 of an identifier, 64 hex digits: the same for the same study only."""
    return hmac.new(
        secret, f"{purpose}\0{value}".encode("utf-8", "surrogatepass"), hashlib.sha256
    ).hexdigest()


def _serializer(secret: bytes, purpose: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(
        secret, salt=f"quantxai.study.{purpose}", signer_kwargs={"digest_method": hashlib.sha256}
    )

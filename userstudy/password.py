"""The password of the admin page: only its argon2 hash is kept, in STUDY/admin.json."""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from typing import TYPE_CHECKING

from quantxai.errors import ConfigError, InputError, MissingExtra
from quantxai.files import write_atomically
from userstudy.study import Study
from userstudy.tokens import keyed_hash

if TYPE_CHECKING:
    from argon2 import PasswordHasher

__all__ = ["matches", "set_password", "version"]

_FILE = "admin.json"
_SHORTEST, _LONGEST = 10, 1024  # characters


def set_password(study: Study, password: str) -> None:
    """Keep the hash of a password, which closes all admin sessions begun with another one.

    Raises:
        InputError: it is too short to withstand guessing, or too long.
        MissingExtra: argon2 is not installed.
    """
    if not _SHORTEST <= len(password) <= _LONGEST:
        raise InputError(
            f"the password must have {_SHORTEST} to {_LONGEST} characters; a sentence is a good one."
        )
    content = json.dumps({"password": _hasher().hash(_normal(password))}).encode()
    write_atomically(study.path / _FILE, content, mode=0o600)


def version(study: Study) -> str | None:
    """Return what tells one password from the next without saying it; None where none is set.

    Raises:
        ConfigError: admin.json is not as it was written.
    """
    kept = _hash(study)
    return None if kept is None else keyed_hash(study.secret, "admin-password", kept)[:16]


def matches(study: Study, password: str) -> bool:
    """Return whether it is the password; takes as long when it is not.

    Raises:
        ConfigError: admin.json is not as it was written.
    """
    from argon2.exceptions import InvalidHashError, VerificationError

    kept = _hash(study)
    if kept is None or len(password) > _LONGEST:
        return False
    try:
        return _hasher().verify(kept, _normal(password))
    except InvalidHashError:
        raise _unreadable(study) from None
    except VerificationError:
        return False


def _hash(study: Study) -> str | None:
    try:
        kept = json.loads((study.path / _FILE).read_text(encoding="utf-8"))["password"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise _unreadable(study) from None
    return str(kept)


@cache
def _hasher() -> PasswordHasher:
    """argon2id, with its authors' parameters (RFC 9106's second choice)."""
    try:
        from argon2 import PasswordHasher
    except ImportError:
        raise MissingExtra("argon2-cffi", "study", "the admin page's password") from None
    return PasswordHasher()


def _unreadable(study: Study) -> ConfigError:
    return ConfigError(
        f"{study.path / _FILE} cannot be read as it was written. Set the password again: "
        f"quantxai study password {study.path}"
    )


def _normal(password: str) -> bytes:
    """One way of writing what keyboards write in several: NFKC, as NIST SP 800-63B 5.1.1.2 asks."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")

"""Signed links and keyed hashes."""

from __future__ import annotations

import hashlib
import hmac
import tomllib
from importlib.resources import files
from pathlib import Path
from threading import Timer

import pytest

pytest.importorskip("itsdangerous")

from quantxai.errors import InputError
from userstudy.errors import KINDS, StudyError
from userstudy.study import Study
from userstudy.tokens import keyed_hash, sign, verify

SECRET, OTHER = b"a" * 64, b"b" * 64


def test_a_key_that_another_process_is_making_is_waited_for(tmp_path: Path) -> None:
    file, whole = tmp_path / "secret.key", "c" * 64
    file.touch()  # as it is between being made and being written
    writing = Timer(0.1, file.write_text, [whole])
    writing.start()
    assert Study(tmp_path).secret == whole.encode()
    writing.join()


def test_a_key_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userstudy.study._MOMENT", 0.0)
    (tmp_path / "secret.key").write_text("short")
    with pytest.raises(InputError, match="too short to be a key"):
        _ = Study(tmp_path).secret
    (tmp_path / "secret.key").write_bytes(b"\xff" * 64)
    with pytest.raises(InputError, match=r"secret\.key, the study's key, cannot be read"):
        _ = Study(tmp_path).secret
    with pytest.raises(InputError, match="cannot be read or made"):
        _ = Study(tmp_path / "nowhere").secret


def test_there_and_back() -> None:
    token = sign(SECRET, "participant", "value")
    assert verify(SECRET, "participant", token, 60) == "value"
    assert all(c.isalnum() or c in "._-" for c in token)


@pytest.mark.parametrize(
    ("secret", "purpose", "change"),
    [
        (OTHER, "participant", lambda t: t),
        (SECRET, "admin", lambda t: t),
        (SECRET, "participant", lambda t: t[:-1]),
        (SECRET, "participant", lambda t: "A" + t[1:]),
        (SECRET, "participant", lambda t: t.rpartition(".")[0]),
        (SECRET, "participant", lambda t: ""),
        (SECRET, "participant", lambda t: None),
        (SECRET, "participant", lambda t: t + "\n"),
    ],
)
def test_anything_else_is_refused(secret: bytes, purpose: str, change: object) -> None:
    token = change(sign(SECRET, "participant", "value"))  # type: ignore[operator]
    with pytest.raises(StudyError) as caught:
        verify(secret, purpose, token, 60)
    assert caught.value.kind == "link_invalid"


def test_tokens_run_out() -> None:
    token = sign(SECRET, "participant", "value")
    with pytest.raises(StudyError) as caught:
        verify(SECRET, "participant", token, -1)
    assert caught.value.kind == "link_expired"


def test_a_keyed_hash_is_hmac_sha256() -> None:
    expected = hmac.new(SECRET, b"who\x00me", hashlib.sha256).hexdigest()
    assert keyed_hash(SECRET, "who", "me") == expected
    assert (
        len(
            {
                keyed_hash(*given)
                for given in ((SECRET, "who", "me"), (OTHER, "who", "me"), (SECRET, "w", "me"))
            }
        )
        == 3
    )


def test_every_kind_has_a_sentence() -> None:

    for language in ("en", "de"):
        texts = tomllib.loads((files("userstudy") / "texts" / f"{language}.toml").read_text(encoding="utf-8"))
        assert set(KINDS) <= set(texts["errors"])

"""The admin page: who gets in, and what it does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from study_support import make_study
from typer.testing import CliRunner

pytest.importorskip("argon2")

import argon2

from quantxai.cli import app as command
from quantxai.errors import ConfigError, InputError
from userstudy import password
from userstudy.password import matches, set_password, version

PASSWORD = "a horse and a staple"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes that are fast to make; one test makes a real one."""
    quick = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    monkeypatch.setattr("userstudy.password._hasher", lambda: quick)


def test_a_password_is_kept_as_its_hash_for_the_owner_alone(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    assert version(study) is None
    assert not matches(study, "")

    set_password(study, PASSWORD)

    kept = tmp_path / "study" / "admin.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert json.loads(kept.read_text())["password"].startswith("$argon2id$v=19$m=64,t=1,p=1$")
    assert PASSWORD not in kept.read_text()
    assert matches(study, PASSWORD)
    assert not matches(study, PASSWORD + " ")
    first = version(study)
    set_password(study, "stra\u00dfe, ohm \u2126 und e\u0301")
    assert matches(study, "stra\u00dfe, ohm \u03a9 und \u00e9")  # the same as other keyboards write it
    assert version(study) not in (None, first)


def test_hashes_are_as_slow_as_they_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    hasher = password._hasher()

    # RFC 9106, section 4, second recommended option.
    assert (hasher.type, hasher.time_cost, hasher.memory_cost, hasher.parallelism) == (
        argon2.Type.ID,
        3,
        2**16,
        4,
    )


def test_a_password_that_cannot_be_is_refused(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")

    for wrong in ("", "too short", "x" * 1025):
        with pytest.raises(InputError, match="10 to 1024 characters"):
            set_password(study, wrong)
    assert not (tmp_path / "study" / "admin.json").exists()
    for content in ("", "{}", "[]", '{"password": "plain"}'):
        (tmp_path / "study" / "admin.json").write_text(content)
        with pytest.raises(ConfigError, match="quantxai study password"):
            matches(study, PASSWORD)


def test_the_command_sets_it_from_a_pipe_and_says_what_is_wrong(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    where = str(tmp_path / "study")

    done = CliRunner().invoke(command, ["study", "password", where, "--stdin"], input=PASSWORD + "\r\n")

    assert done.exit_code == 0
    assert PASSWORD not in done.output
    assert matches(study, PASSWORD)
    refused = CliRunner().invoke(command, ["study", "password", where, "--stdin"], input="short\n")
    assert refused.exit_code == 2
    assert "10 to 1024" in refused.output
    assert CliRunner().invoke(command, ["study", "password", where]).exit_code == 2  # no keyboard
    assert CliRunner().invoke(command, ["study", "password", str(tmp_path)]).exit_code == 2
    assert matches(study, PASSWORD)

"""`quantxai study status`, `open`, `pause`, `close`, `exclude` and `include`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("study_contract")

from study_contract import SMALL, World  # noqa: E402
from study_support import make_study  # noqa: E402
from typer.testing import CliRunner, Result  # noqa: E402

from quantxai.cli import app  # noqa: E402
from userstudy.database.engine import open_database  # noqa: E402


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    study = make_study(tmp_path / "study", **SMALL | {"recruitment": {"participants": 2}})
    engine = open_database(study)
    yield World(study, engine)
    engine.dispose()


def run(world: World, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["study", command, str(world.study.path), *arguments])


def told(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_status_before_and_after(world: World) -> None:
    assert run(world, "status").stdout.startswith("The study is open. 0 of 2 sessions are completed.")
    world.finished()
    world.rating()
    output = run(world, "status").stdout
    assert "1 of 2 sessions are completed" in output
    assert "gave consent     2" in output
    assert "Of 1 attention checks" not in output  # this study has none
    assert re.search(r"^full +\d+ +\d+ +\d+$", output, re.MULTILINE)
    found = told(run(world, "status", "--json"))
    assert (found["recruited"], found["completed"], found["active"]) == (2, 1, 1)


def test_simulated_participants_are_called_so(world: World) -> None:
    world.finished(kind="simulated")
    assert "SIMULATED" in run(world, "status").stdout


def test_admission(world: World) -> None:
    for command, status in (("pause", "paused"), ("close", "closed"), ("open", "open")):
        assert f"The study is {status}. " in run(world, command).stdout
        assert f"The study is {status} already. " in run(world, command).stdout
        assert told(run(world, command, "--json"))["changed"] is False
        assert told(run(world, "status", "--json"))["admission"] == status


def test_exclude_and_include(world: World) -> None:
    world.finished()
    assert "Participant 1 is set aside" in run(world, "exclude", "1", "--reason", "a test of ours").stdout
    assert "a test of ours" in run(world, "status").stdout
    assert told(run(world, "include", "1", "--json"))["excluded"] is False
    assert told(run(world, "exclude", "1", "--reason", "once more", "--json"))["excluded"] is True
    failed = run(world, "exclude", "1", "--reason", "again")
    assert (failed.exit_code, "set aside already" in failed.stderr) == (2, True)
    assert run(world, "include", "9").exit_code == 2


def test_no_study_and_no_database(world: World, tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["study", "status", str(tmp_path)]).exit_code == 2
    failed = run(world, "status", "--database", "postgresql://me:hush@127.0.0.1:1/db")
    assert (failed.exit_code, "hush" in failed.output) == (2, False)
    assert "cannot be opened" in failed.stderr

"""`quantxai study status`, `open`, `pause`, `close`, `exclude`, `include` and `withdraw`."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.register_assert_rewrite("study_contract")

from study_contract import SMALL, World, open_quickly  # noqa: E402
from study_support import make_study  # noqa: E402
from typer.testing import CliRunner, Result  # noqa: E402

from quantxai.cli import app  # noqa: E402
from userstudy.errors import StudyError  # noqa: E402
from userstudy.operation import admission_status  # noqa: E402
from userstudy.ratings import ratings  # noqa: E402


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    study = make_study(tmp_path / "study", **SMALL | {"recruitment": {"participants": 2}})
    engine = open_quickly(study)
    yield World(study, engine)
    engine.dispose()


def run(world: World, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["study", command, str(world.study.path), *arguments])


def told(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_status_before_and_after(world: World) -> None:
    world.finished()
    world.rating()
    output = run(world, "status").stdout
    assert output.startswith("The study is open. 1 of 2 sessions are completed.")
    assert "gave consent     2" in output
    assert "Of 1 attention checks" not in output  # this study has none
    assert re.search(r"^full +\d+ +\d+ +\d+$", output, re.MULTILINE)


def test_status_as_json_of_simulated_participants(world: World) -> None:
    world.sessions.enrol("en", "desktop", kind="simulated")
    found = told(run(world, "status", "--json"))
    assert (found["kind"], found["recruited"], found["completed"], found["active"]) == ("simulated", 1, 0, 1)


def test_admission(world: World) -> None:
    for command, status in (("pause", "paused"), ("close", "closed")):
        assert f"The study is {status}. " in run(world, command).stdout
    assert admission_status(world.engine) == "closed"
    assert told(run(world, "open", "--json"))["changed"] is True
    assert "The study is open already. " in run(world, "open").stdout


def test_exclude_and_include(world: World) -> None:
    world.sessions.enrol("en", "desktop")
    assert "Participant 1 is set aside" in run(world, "exclude", "1", "--reason", "a test of ours").stdout
    failed = run(world, "exclude", "1", "--reason", "again")
    assert (failed.exit_code, "set aside already" in failed.stderr) == (2, True)
    assert told(run(world, "include", "1", "--json"))["excluded"] is False


def test_no_study_and_no_database(world: World, tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["study", "status", str(tmp_path)]).exit_code == 2
    failed = run(world, "status", "--database", "postgresql://me:hush@127.0.0.1:1/db")
    assert (failed.exit_code, "hush" in failed.output) == (2, False)
    assert "cannot be opened" in failed.stderr


def answers(world: World) -> int:
    return len(ratings(world.study, world.engine))


def test_withdrawn_by_number_or_by_a_link_that_has_run_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.finished()
    token = world.finished()
    given = answers(world)
    assert given > 0
    command = ["study", "withdraw", str(world.study.path), "1"]
    assert "nothing was deleted" in CliRunner().invoke(app, command, input="n\n").output
    assert answers(world) == given
    assert told(run(world, "withdraw", "1", "--yes", "--json"))["withdrawn"] is True
    assert answers(world) == given / 2
    later = time.time() + 1000 * 24 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(StudyError, match="link expired"):
        world.sessions.view(token)
    result = run(world, "withdraw", f"http://study.example/?lang=de&t={token}", "--yes")
    assert result.stdout == "All that participant 2 has given is deleted.\n"
    assert answers(world) == 0


@pytest.mark.parametrize(
    ("whom", "said"),
    [
        ("1", "there is no participant 1"),
        ("7", "there is no participant 7"),
        ("http://study.example/?t=forged", "neither a participant's number nor a link of this study"),
        ("x" * 600, "neither a participant's number nor a link of this study"),
    ],
)
def test_nobody_is_withdrawn_who_is_not_there(world: World, whom: str, said: str) -> None:
    world.finished()
    run(world, "withdraw", "1", "--yes")
    result = run(world, "withdraw", whom, "--yes")
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output

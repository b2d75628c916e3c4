"""The study's SQLite file with several processes, and on a disk that is full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.register_assert_rewrite("study_contract")

from study_contract import SMALL, ProcessesContract, World, answer_page, refused  # noqa: E402
from study_support import make_study  # noqa: E402

from userstudy.database.engine import open_database  # noqa: E402
from userstudy.database.models import Answer, Participant  # noqa: E402

pytestmark = pytest.mark.e2e


class TestProcessesOnSQLite(ProcessesContract):
    """Everything in the contract."""

    @pytest.fixture
    def url(self) -> None:
        return None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_fills_and_is_emptied(small_disk: Path) -> None:
    study = make_study(small_disk / "study", **SMALL)
    engine = open_database(study)
    world = World(study, engine)
    token = world.rating()
    answer_page(world.sessions, token, 0)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):  # noqa: PT012
        for _ in range(1000):
            file.write(b"x" * 4096)
    for number in range(3):
        key = f"full-{number}"
        refused("unavailable", lambda key=key: world.sessions.answer(token, 0, "remark", "x" * 5000, key))
        refused("unavailable", lambda: world.sessions.enrol("en", "desktop"))
    assert world.count(Answer) == 2
    assert world.count(Participant) == 1
    ballast.unlink()
    world.sessions.answer(token, 0, "remark", "x" * 5000, "full-0")
    assert world.sessions.turn(token, 0, 1, 1.0).position == 1
    assert world.count(Answer) == 3
    engine.dispose()

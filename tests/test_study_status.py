"""How a study stands, against what was done in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.register_assert_rewrite("study_contract")

from study_contract import World, answer_page, open_quickly  # noqa: E402
from study_support import make_study  # noqa: E402

from quantxai.errors import InputError, UnknownName  # noqa: E402
from userstudy.operation import admission_status, exclude, include, set_admission  # noqa: E402
from userstudy.sessions import Prolific  # noqa: E402
from userstudy.status import status  # noqa: E402


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    study = make_study(tmp_path / "study", design={"items": 3, "per_participant": 3, "repeats": 0}, items=3)
    engine = open_quickly(study)
    yield World(study, engine)
    engine.dispose()


def test_a_study_nobody_has_seen(world: World) -> None:
    found = status(world.study, world.engine)
    assert (found.admission, found.kind, found.wanted, found.recruited) == ("open", "human", 12, 0)
    assert {cell.ratings for cell in found.cells} == {0}
    assert len(found.cells) == 3 * 3
    assert (found.median_minutes, found.median_seconds_per_page, found.people) == (None, None, ())
    assert {agreement.alpha for agreement in found.agreement} == {None}


def test_what_has_happened_is_counted(world: World) -> None:
    world.sessions.enrol("en", "desktop", kind="preview")
    done = [world.finished() for _ in range(3)]
    world.clock.goes(minutes=10)
    slow = world.rating()
    for position in range(4):
        answer_page(world.sessions, slow, position, "5")
        if position < 3:
            world.sessions.turn(slow, position, position + 1, 30.0)
    world.clock.goes(minutes=12)
    world.sessions.finish(slow, 30.0)
    out = world.sessions.enrol("en", "desktop")
    world.sessions.start_check(out)
    world.sessions.check(out, [1])
    with pytest.raises(Exception, match="screened out"):
        world.sessions.check(out, [1])
    world.sessions.withdraw(done[0])
    stopped = world.rating()
    answer_page(world.sessions, stopped, 0)
    world.sessions.turn(stopped, 0, 1, 5.0)
    answer_page(world.sessions, stopped, 1)  # and never leaves it: its time is not known
    world.sessions.enrol("en", "desktop", Prolific("P", "S", "X"))
    world.clock.goes(minutes=123)
    world.rating()  # those before are silent, and released by this one
    found = status(world.study, world.engine, world.clock())
    assert (found.recruited, found.active, found.silent, found.completed) == (8, 1, 0, 3)
    assert (found.released, found.withdrawn, found.screened_out, found.excluded) == (2, 1, 1, 0)
    assert sum(form.completed for form in found.forms) == 3
    assert sum(form.active for form in found.forms) == 1
    assert found.median_minutes == 0.0  # 0, 0 and 12
    assert found.median_seconds_per_page == 10.0
    assert [(drop.page, drop.participants) for drop in found.drop_out] == [(0, 1), (2, 1)]
    people = {person.participant: person for person in found.people}
    assert set(people) == {3, 4, 5, 6, 7, 8, 9}
    assert (people[5].minutes, people[5].seconds_per_page, people[5].pages) == (12.0, 30.0, 4)
    assert people[5].attention_seen == 1
    assert (people[7].seconds_per_page, people[7].pages) == (5.0, 2)
    assert sum(cell.ratings for cell in found.cells) + sum(p.attention_seen for p in found.people) == 14
    assert max(Counter(cell.item for cell in found.cells).values()) == 3


def test_silent_sessions_are_seen_before_anybody_comes(world: World) -> None:
    world.rating()
    world.clock.goes(minutes=120)
    assert status(world.study, world.engine, world.clock()).silent == 0
    world.clock.goes(minutes=1.1)
    assert status(world.study, world.engine, world.clock()).silent == 1


def test_excluded_and_included_again(world: World) -> None:
    world.finished()
    before = status(world.study, world.engine)
    exclude(world.engine, 1, "  asked\n to be left out ")
    found = status(world.study, world.engine)
    assert (found.excluded, found.people[0].excluded) == (1, "asked to be left out")
    assert {cell.ratings for cell in found.cells} == {0}
    assert sum(form.completed for form in found.forms) == 0
    with pytest.raises(InputError, match="set aside already"):
        exclude(world.engine, 1, "again")
    include(world.engine, 1)
    assert status(world.study, world.engine) == before
    with pytest.raises(InputError, match="not set aside"):
        include(world.engine, 1)
    for nobody in (0, -1, 2, 10**12):
        with pytest.raises(InputError, match="no participant"):
            exclude(world.engine, nobody, "reason")
    for reason in ("", "  ", "x" * 501):
        with pytest.raises(InputError, match="reason"):
            exclude(world.engine, 1, reason)


def test_admission_is_on_record(world: World) -> None:
    assert not set_admission(world.study, world.engine, "open")
    assert set_admission(world.study, world.engine, "paused")
    assert not set_admission(world.study, world.engine, "paused")
    assert admission_status(world.engine) == "paused"
    with pytest.raises(UnknownName):
        set_admission(world.study, world.engine, "shut")  # type: ignore[arg-type]

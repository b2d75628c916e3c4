"""A study with people in its database, analysed by the command, its report in a real browser."""

from __future__ import annotations

import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from study_support import make_study
from typer.testing import CliRunner

from quantxai.cli import app
from userstudy.database.engine import open_database, transaction
from userstudy.database.models import Answer, Participant, Trial
from userstudy.order import order
from userstudy.study import Study

pytestmark = pytest.mark.e2e

BLOCKING = ("serious", "critical")
AT = datetime(2026, 3, 1, 12)


def take_part(study: Study, participants: int) -> None:
    """Let participants answer everything: gptq-3 is two points worse in their eyes."""
    rng = random.Random(0)
    engine = open_database(study)
    checks = {check.id: check for check in study.design.attention}
    with transaction(engine) as session:
        for number in range(1, participants + 1):
            form = study.design.forms[number % len(study.design.forms)]
            session.add(
                Participant(
                    id=number, key=f"key-{number}", kind="human", language="en", form=form.id, seed=number,
                    status="completed", stage="debrief", position=0, check_failures=0, code="C", device="desktop",
                    consented_at=AT, seen_at=AT, ended_at=AT.replace(minute=20),
                )
            )  # fmt: skip
            session.flush()
            for position, planned in enumerate(order(form, seed=number)):
                trial = Trial(
                    participant_id=number, position=position, kind=planned.kind, stimuli=list(planned.stimuli),
                    seconds=20.0, shown_at=AT, left_at=AT,
                )  # fmt: skip
                session.add(trial)
                session.flush()
                check = checks.get(planned.stimuli[0])
                for question in ("understandability", "overall"):
                    mean = 3 if not check and study.stimuli[planned.stimuli[0]].variant == "gptq-3" else 5
                    value = check.answer if check else str(mean + rng.randint(-2, 2))
                    session.add(
                        Answer(
                            participant_id=number, trial_id=trial.id, question=question, value=value,
                            key=f"{position}-{question}", at=AT,
                        )
                    )  # fmt: skip
    engine.dispose()


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = make_study(tmp_path_factory.mktemp("analysed") / "study")
    take_part(study, 24)
    result = CliRunner().invoke(app, ["study", "analyze", str(study.path)])
    assert result.exit_code == 0, result.output
    assert "Yes: people rated gptq-3 worse than full" in " ".join(result.stdout.split())
    assert result.stdout.splitlines()[0].split() == [
        "question", "variant", "change", "interval", "adjusted", "p", "answers", "verdict",
    ]  # fmt: skip
    return study.path / "analysis" / "report.html"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_is_accessible_and_loads_nothing(
    browser: Any, analysed: Path, width: int, scheme: Any
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(
        offline=True, viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=False
    )
    page = context.new_page()
    complaints: list[str] = []
    address = analysed.as_uri()
    page.on("request", lambda asked: asked.url.partition("#")[0] == address or complaints.append(asked.url))
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("link", name="Results", exact=True).click()
    assert page.get_by_role("heading", name="Results", exact=True).is_visible()
    page.locator(".summary a").first.click()
    assert page.locator("td:target").is_visible()
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert complaints == []
    found = Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in BLOCKING] == []
    context.close()

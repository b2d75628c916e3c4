"""Power: simulated studies have the study's form, and the search finds the smallest design."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from click.testing import Result
from scipy import stats
from study_support import make_study
from typer.testing import CliRunner

from quantxai.commands.study import study as study_commands
from userstudy import power as power_module
from userstudy.analysis import find
from userstudy.order import order
from userstudy.power import PowerSimulation, Size, decisive, resized, smallest
from userstudy.raters import Truth
from userstudy.ratings import COLUMNS
from userstudy.simulation import Simulator
from userstudy.study import Study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("power") / "study")


def test_simulated_table_has_the_pages_of_the_forms(study: Study) -> None:
    table = Simulator(study.settings, study.stimuli, study.design, 5).draw(
        Truth(drop_out=0.0), np.random.default_rng(0)
    )
    assert list(table) == list(COLUMNS)
    assert set(table["status"]) == {"completed"}
    for participant, rows in table.groupby("participant"):
        form = study.design.forms[(participant - 1) % len(study.design.forms)]
        assert set(rows["form"]) == {form.id}
        pages = rows.drop_duplicates("position").sort_values("position")
        planned = order(form, participant - 1)
        assert list(pages["kind"]) == [trial.kind for trial in planned]
        assert list(pages["stimulus"]) == [trial.stimuli[0] for trial in planned]
        rated = rows[rows["kind"] != "attention"]
        assert set(rated["question"]) == {"understandability", "overall"}
        for row in rated.itertuples():
            stimulus = study.stimuli[row.stimulus]
            assert (row.item, row.variant, row.group) == (stimulus.item, stimulus.variant, stimulus.group)
    checks = table[table["kind"] == "attention"]
    assert list(checks["question"]) == [study.design.attention[0].question] * 5
    assert set(checks["value"]) <= {0.0, 1.0}


def test_those_who_leave_leave_the_last_pages_empty(study: Study) -> None:
    simulator = Simulator(study.settings, study.stimuli, study.design, 60)
    table = simulator.draw(Truth(drop_out=0.5), np.random.default_rng(0))
    pages = len(study.design.forms[0].trials)
    seen = table.groupby("participant")["position"].agg(["max", "nunique"])
    assert (seen["max"] + 1 == seen["nunique"]).all()
    left = table[table["status"] == "released"].groupby("participant")["position"].nunique()
    stayed = table[table["status"] == "completed"].groupby("participant")["position"].nunique()
    assert (stayed == pages).all()
    assert 15 < len(left) < 45
    assert left.nunique() > 3


def test_draws_differ_by_seed_alone(study: Study) -> None:
    simulator = Simulator(study.settings, study.stimuli, study.design, 6)
    one, again, other = (simulator.draw(Truth(), np.random.default_rng(seed))["value"] for seed in (1, 1, 2))
    assert one.equals(again)
    assert not one.equals(other)


@pytest.mark.parametrize("items", [4, 6, 15])
def test_resized(study: Study, items: int) -> None:
    settings, stimuli, design = resized(study, items)
    assert len({s.item for s in stimuli.values()}) == items == len(stimuli) / 3
    assert len({s.group for s in stimuli.values()}) == -(-items // 2)
    assert settings.design.per_participant == min(6, items)
    shown = {s for form in design.forms for trial in form.trials for s in trial.stimuli}
    assert shown - {check.id for check in design.attention} == set(stimuli)
    assert (design is study.design) == (items == 6)


@pytest.mark.parametrize("needed", [1, 4, 5, 12, 47, 48, 49, 200, 768, 769, 2000])
@pytest.mark.parametrize("start", [3, 48])
def test_smallest(needed: int, start: int) -> None:
    asked = []

    def reaches(people: int) -> bool:
        asked.append(people)
        return people >= needed

    found = smallest(reaches, start, 4, 768)
    assert found == (None if needed > 768 else -(-needed // 4) * 4)
    assert len(asked) == len(set(asked)) <= 18


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate in this process, where nothing has to be imported again."""
    monkeypatch.setattr(power_module, "ProcessPoolExecutor", lambda *given, **named: ThreadPoolExecutor(1))


@pytest.mark.usefixtures("here")
def test_power_counts_what_the_analysis_finds(study: Study) -> None:
    truth = Truth(effects={"gptq-3": -3.0, "nf4": 0.0}, drop_out=0.0, careless=0.0, straight_lining=0.0)
    advanced: list[int] = []
    with PowerSimulation(study, truth, 6, advanced.append, seed=3) as simulation:
        powers = simulation.power(Size(12, 6))
        assert simulation.power(Size(12, 6)) is powers
    assert sum(advanced) == 6
    simulator = Simulator(study.settings, study.stimuli, study.design, 12)
    seeds = np.random.SeedSequence([3, 12, 6]).spawn(6)
    found = [
        {
            (f.variant, f.question): f
            for f in find(simulator.draw(truth, np.random.default_rng(s)), study.settings, study.design)
        }
        for s in seeds
    ]
    questions = ("understandability", "overall")
    assert [(p.variant, p.question) for p in powers] == [
        (v, q) for v in ("gptq-3", "nf4") for q in (None, *questions)
    ]
    for power in powers:
        asked = [power.question] if power.question else questions
        comparisons = [[one[power.variant, q] for q in asked] for one in found]
        if power.variant == "gptq-3":
            hits = sum(any(f.p_adjusted < 0.05 and f.estimate < 0 for f in one) for one in comparisons)
            assert power.aim == "difference"
        else:
            hits = sum(all(f.p_equivalence_adjusted < 0.05 for f in one) for one in comparisons)
            assert power.aim == "equivalence"
        interval = stats.binomtest(hits, 6).proportion_ci(0.95, method="exact")
        assert (power.power, power.ci_low, power.ci_high) == pytest.approx(
            (hits / 6, interval.low, interval.high)
        )
    assert powers[0].power >= 0.5
    assert powers[1].expected == pytest.approx(
        truth.expected(study.settings.questions[0], "gptq-3", "full")
        - truth.expected(study.settings.questions[0], "full", "full")
    )
    assert [(p.variant, p.question) for p in decisive(powers)] == [("gptq-3", None)]
    assert [p.variant for p in decisive(p for p in powers if p.variant == "nf4")] == ["nf4"]


@pytest.mark.usefixtures("here")
def test_false_findings_are_counted_under_the_null(study: Study) -> None:
    truth = Truth(effects={"gptq-3": -6.0, "nf4": -6.0}, by_question={"overall": {"nf4": 3.0}})
    with PowerSimulation(study, truth, 4) as simulation:
        found = simulation.false_findings(Size(9, 6))
    assert found.rate == 0.0  # by this seed; with the effects stated it would be some
    assert found.simulations == 4


def run(*words: str) -> Result:
    return CliRunner().invoke(study_commands, ["power", *words])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--effects", "nf4"], "is not VARIANT=POINTS"),
        (["--effects", "nf4=nan"], "is not VARIANT=POINTS"),
        (["--effects", "nf5=-1"], "Did you mean 'nf4'?"),
        (["--effects", "nf4=-1", "--truth", "x.toml"], "give one of them"),
        (["--truth", "x.toml"], "x.toml: no such file"),
        (["--participants", "12,many"], "--participants 12,many: give whole numbers"),
        (["--items", "1"], "--items 1: give whole numbers"),
    ],
)
def test_what_cannot_be_understood_is_said(study: Study, words: list[str], said: str) -> None:
    result = run(str(study.path), *words)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.usefixtures("here")
def test_command(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = Truth(effects={"gptq-3": -5.0}, others=0.0)
    drawn = Simulator(study.settings, study.stimuli, study.design, 12).draw(truth, np.random.default_rng(0))
    findings = find(drawn, study.settings, study.design)
    assert any(f.variant == "gptq-3" and f.verdict == "degraded" for f in findings)
    # Every simulated study finds the same, so that it is the command that is tested.
    monkeypatch.setattr(power_module, "find", lambda *given: findings)
    words = ("--effects", "gptq-3=-5,nf4=0.1", "--participants", "12,16", "--simulations", "10")
    result = run(str(study.path), *words)
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stdout.split())
    assert "12 6 gptq-3 any difference 1.00 0.69 to 1.00" in said
    assert "12 participants and 6 items find some in 100.0% of 10 studies (69.2% to 100.0%)" in said
    assert "calls them equivalent: nf4." in said
    assert "Even 768 participants with 6 items do not reach a power of 0.8." in said
    told = json.loads(run(str(study.path), *words[2:], "--effects", "gptq-3=-5", "--json").stdout)
    assert told["truth"]["effects"] == {"gptq-3": -5.0}
    assert [f["participants"] for f in told["false_findings"]] == [12, 16]
    assert [(p["participants"], p["power"]) for p in told["suggested"]] == [(4, 1.0)]

"""The analysis of ratings: findings, exclusions, and what happens where there is little to analyse.

R's numbers were computed once by tests/oracles/r/ratings.R, which says how to compute them again; they are
stored beside it, so that no R is needed here.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats
from study_support import make_study

from quantxai import statistics
from quantxai.statistics.crossed import Crossed
from userstudy.analysis import RatingFinding, StudyAnalysis, analyze, find
from userstudy.analysis.comparison import Comparison, compared, interval, two_sided
from userstudy.analysis.crossed import Clusters, regress
from userstudy.analysis.exclusions import exclusions
from userstudy.analysis.mixed import failed, mixed_model
from userstudy.analysis.ordinal import estimating_equations, log_odds, scores_and_hessian
from userstudy.analysis.whole import first_answers
from userstudy.raters import Truth
from userstudy.settings import Exclusion
from userstudy.simulation import Simulator
from userstudy.study import Study

pytestmark = pytest.mark.filterwarnings("error")

FOLDER = Path(__file__).parent / "oracles" / "r"
R: dict[str, Any] = json.loads((FOLDER / "ratings.json").read_text())
DATA = pd.read_csv(FOLDER / "ratings.csv").assign(dataset="d", question="q")
CLUSTERS = Clusters.of(DATA)
VALUES = DATA["value"].to_numpy(float)
COLUMNS = np.stack([DATA["variant"] == "a", DATA["variant"] == "b"], axis=1).astype(float)
GOOD = Truth(
    others=0, effects={"nf4": -1.5}, noise=0.1, item_by_variant=0.03, participant_by_variant=0.02, drop_out=0,
    careless=0, straight_lining=0, attention_failure=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(
        tmp_path_factory.mktemp("analysis") / "study", items=18, design={"items": 18, "per_participant": 18}
    )


@pytest.fixture(scope="module")
def ratings(study: Study) -> pd.DataFrame:
    return draw(study, GOOD, 15)


@pytest.fixture(scope="module")
def analysis(study: Study, ratings: pd.DataFrame) -> StudyAnalysis:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return analyze(ratings, study.settings, study.design, resamples=50)


def draw(study: Study, truth: Truth, participants: int, seed: int = 3) -> pd.DataFrame:
    simulator = Simulator(study.settings, study.stimuli, study.design, participants)
    return simulator.draw(truth, np.random.default_rng(seed))


def by_name(findings: tuple[RatingFinding, ...]) -> dict[tuple[str, str], RatingFinding]:
    return {(one.question, one.variant): one for one in findings}


def variances(found: list[Crossed | None]) -> dict[str, list[float]]:
    known = [one for one in found if one is not None]
    return {
        "estimate": [one.mean for one in known],
        "by_participant": [one.by_seed for one in known],
        "by_group": [one.by_group for one in known],
        "both": [one.residual for one in known],
    }


# Estimators against R


def test_least_squares_with_two_way_clusters() -> None:
    found = variances(regress(VALUES[:, None], COLUMNS, CLUSTERS)[0])
    for name, values in found.items():
        assert values == pytest.approx(R["linear"][name], rel=1e-8), name


def test_many_outcomes_at_once_are_each_by_itself() -> None:
    both = regress(np.stack([VALUES, VALUES**2], axis=1), COLUMNS, CLUSTERS)
    for found, values in zip(both, (VALUES, VALUES**2), strict=True):
        alone = variances(regress(values[:, None], COLUMNS, CLUSTERS)[0])
        for name, numbers in variances(found).items():
            assert numbers == pytest.approx(alone[name], rel=1e-9)


def test_the_mean_of_one_variant() -> None:
    own = DATA["variant"] == "a"
    constant = np.ones((int(own.sum()), 1))
    found = variances(regress(VALUES[own, None], constant, CLUSTERS.of_rows(own.to_numpy()), fixed=False)[0])
    for name, (value,) in found.items():
        assert value == pytest.approx(R["constant"][name], rel=1e-8), name


def test_error_and_degrees_of_freedom_are_those_of_what_varies() -> None:
    (a, _) = regress(VALUES[:, None], COLUMNS, CLUSTERS)[0]
    assert a is not None
    assert (a.seeds, a.groups) == (14, 7)
    # by participants and by groups each vary less than what both contain: neither is taken to be negative
    assert a.error == pytest.approx(np.sqrt(a.residual), rel=1e-12)


def test_proportional_odds_with_two_way_clusters() -> None:
    found = variances(log_odds(VALUES, COLUMNS, CLUSTERS))
    assert found["estimate"] == pytest.approx(R["ordinal"]["estimate"], abs=5e-4)
    for name in ("by_participant", "by_group", "both"):
        assert found[name] == pytest.approx(R["ordinal"][name], rel=2e-3), name


def test_scores_and_hessian_are_derivatives_of_the_likelihood() -> None:
    levels = np.unique(VALUES, return_inverse=True)[1]
    at = np.array([*R["ordinal"]["estimate"], *R["ordinal"]["thresholds"]]) + 0.1

    def likelihood(parameters: np.ndarray) -> float:
        ends = np.concatenate([[-np.inf], parameters[2:], [np.inf]])
        position = COLUMNS @ parameters[:2]
        shares = stats.logistic.cdf(ends[levels + 1] - position) - stats.logistic.cdf(ends[levels] - position)
        return float(np.log(shares).sum())

    def slopes(parameters: np.ndarray) -> np.ndarray:
        return np.asarray(scores_and_hessian(levels, COLUMNS, parameters[:2], parameters[2:])[0].sum(0))

    scores, hessian = scores_and_hessian(levels, COLUMNS, at[:2], at[2:])
    assert scores.sum(0) == pytest.approx(optimize.approx_fprime(at, likelihood, 1e-7), abs=1e-4)
    numeric = np.array(
        [optimize.approx_fprime(at, lambda p, k=k: slopes(p)[k], 1e-7) for k in range(len(at))]
    )
    assert hessian == pytest.approx(numeric, abs=1e-3)


def test_estimating_equations_agree_with_maximum_likelihood() -> None:
    found = [one for one in estimating_equations(VALUES, COLUMNS, CLUSTERS.participants) if one is not None]
    assert [estimate for estimate, _ in found] == pytest.approx(R["ordinal"]["estimate"], abs=1e-4)
    # Clustered by participant alone: V_participants with 13 / 14 of it, and the normal distribution.
    z = R["ordinal"]["estimate"][1] / np.sqrt(R["ordinal"]["by_participant"][1] * 13 / 14)
    assert found[1][1] == pytest.approx(2 * stats.norm.sf(abs(z)), rel=0.01)


def test_mixed_model() -> None:
    found, note = mixed_model(VALUES, COLUMNS, CLUSTERS)
    assert not note
    known = [one for one in found if one is not None]
    assert [one.estimate for one in known] == pytest.approx(R["mixed"]["estimate"], abs=1e-4)
    assert [one.error for one in known] == pytest.approx(R["mixed"]["error"], rel=2e-3)
    # Items at random instead of fixed change little.
    assert [one.estimate for one in known] == pytest.approx(R["mixed_crossed"]["estimate"], abs=0.02)


def test_known_failures_of_the_mixed_model_are_told() -> None:
    plain, zero = np.array([-1.0, 3.0]), np.zeros(2)
    assert failed(zero, -100.0, plain, -120.0)
    assert failed(plain, np.inf, plain, -120.0)
    assert failed(plain, -121.0, plain, -120.0)
    assert not failed(plain, -100.0, plain, -120.0)
    assert not failed(zero, -100.0, zero, -120.0)


def test_the_mixed_models_guard_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from statsmodels.regression.mixed_linear_model import MixedLM

    fit = MixedLM.fit

    def broken(self: Any, **options: Any) -> Any:
        found = fit(self, **options)
        found._results.fe_params[:] = 0.0
        return found

    monkeypatch.setattr(MixedLM, "fit", broken)
    found, note = mixed_model(VALUES, COLUMNS, CLUSTERS)
    assert found == [None, None]
    assert "failed" in note


def test_signed_ranks_and_effect_size(study: Study) -> None:
    from userstudy.analysis.checks import add_checks

    question = study.settings.questions[0]
    one = Comparison(question, "a", DATA[DATA["variant"] == "a"], DATA[DATA["variant"] == "full"])
    assert statistics.paired_effect_size(one.by_participant) == pytest.approx(R["d_z"], rel=1e-12)
    add_checks([one], {}, ["a"], 0.05)
    assert one.values["p_wilcoxon"] == pytest.approx(R["wilcoxon"], rel=1e-10)


# Findings


def test_the_truth_is_found(study: Study, analysis: StudyAnalysis) -> None:
    found = by_name(analysis.findings)
    assert set(found) == {(q, v) for q in ("understandability", "overall") for v in ("gptq-3", "nf4")}
    for (name, variant), one in found.items():
        question = study.settings.question(name)
        truth = GOOD.expected(question, variant, "full") - GOOD.expected(question, "full", "full")
        assert one.ci_low is not None
        assert one.ci_high is not None
        assert one.ci_low <= truth <= one.ci_high
        assert one.verdict in (("degraded",) if variant == "nf4" else ("equivalent", "unresolved"))
        assert one.unit == "points"
        assert (one.n, one.participants, one.items, one.groups) == (180, 15, 18, 9)
        assert (one.confirmatory, one.correction, one.family) == (True, "holm", 4)


def test_estimate_is_the_difference_of_means_where_nothing_is_missing(study: Study) -> None:
    # 15 participants use 3 forms five times each: plain means hold participants and items equal.
    for one in find(draw(study, GOOD, 15), study.settings, study.design):
        assert one.reference_mean is not None
        assert one.variant_mean is not None
        assert one.estimate == pytest.approx(one.variant_mean - one.reference_mean, rel=1e-9)


def test_checks_agree_and_are_left_out_of_find(
    study: Study, ratings: pd.DataFrame, analysis: StudyAnalysis
) -> None:
    bare = by_name(find(ratings, study.settings, study.design))
    ranks = statistics.adjusted([one.p_wilcoxon for one in analysis.findings], "holm")
    assert [one.p_wilcoxon_adjusted for one in analysis.findings] == ranks
    assert ranks != [one.p_wilcoxon for one in analysis.findings]
    for key, one in by_name(analysis.findings).items():
        assert one.mixed_estimate == pytest.approx(one.estimate, abs=0.05)
        assert one.log_odds is not None
        assert one.gee_log_odds == pytest.approx(one.log_odds, abs=0.01)
        assert one.estimate is not None
        if one.variant == "nf4":
            assert one.log_odds * one.estimate > 0
            assert one.cliffs_delta is not None
            assert one.cliffs_delta < -0.3
            assert one.p_wilcoxon is not None
            assert one.p_wilcoxon < 0.001
        assert bare[key].p_ordinal is None
        same = {name: getattr(one, name) for name in ("estimate", "ci_low", "p_adjusted", "verdict", "d_z")}
        assert same == {name: getattr(bare[key], name) for name in same}


def test_intervals_tests_and_equivalence_agree_with_each_other(analysis: StudyAnalysis) -> None:
    for one in analysis.findings:
        assert one.p is not None
        assert one.ci_low is not None
        assert one.ci_high is not None
        assert one.estimate is not None
        assert one.error is not None
        assert (one.p < 0.05) == (not one.ci_low <= 0 <= one.ci_high)
        half = (one.ci_high - one.ci_low) / 2
        assert half / one.error == pytest.approx(stats.t.isf(0.025, 10), abs=0.2)  # between 8 and 14
        assert one.minimum_detectable is not None
        assert one.minimum_detectable / half == pytest.approx(1 + 0.87 / 2.2, abs=0.03)
    found = Crossed(0.3, 0.01, 0.02, 0.005, 12, 9, 9.0)
    p = two_sided(found)
    assert p is not None
    low, _ = interval(found, p)
    assert low == pytest.approx(0, abs=1e-9)


def test_families_are_corrected_apart(study: Study, ratings: pd.DataFrame) -> None:
    chosen = study.settings.analysis.model_copy(update={"confirmatory": ("overall",)})
    settings = study.settings.model_copy(update={"analysis": chosen})
    found = find(ratings, settings, study.design)
    named = [one for one in found if one.confirmatory]
    others = [one for one in found if not one.confirmatory]
    assert {one.question for one in named} == {"overall"}
    for group, correction in ((named, "holm"), (others, "benjamini-hochberg")):
        assert {one.correction for one in group} == {correction}
        p = statistics.adjusted([one.p for one in group], group[0].correction)
        assert [one.p_adjusted for one in group] == p
        p = statistics.adjusted([one.p_equivalence for one in group], group[0].correction)
        assert [one.p_equivalence_adjusted for one in group] == p


def test_a_scale_that_is_better_when_low_turns_the_verdict(study: Study, ratings: pd.DataFrame) -> None:
    questions = tuple(q.model_copy(update={"higher_is_better": False}) for q in study.settings.questions)
    found = find(ratings, study.settings.model_copy(update={"questions": questions}), study.design)
    assert {one.verdict for one in found if one.variant == "nf4"} == {"improved"}


def test_the_order_of_rows_does_not_matter(study: Study, ratings: pd.DataFrame) -> None:
    shuffled = ratings.sample(frac=1, random_state=1)
    for one, other in zip(
        find(ratings, study.settings, study.design), find(shuffled, study.settings, study.design), strict=True
    ):
        assert one.estimate == pytest.approx(other.estimate, rel=1e-9)
        assert one.p == pytest.approx(other.p, rel=1e-6)


def test_repeats_and_checks_are_no_ratings(analysis: StudyAnalysis, ratings: pd.DataFrame) -> None:
    assert analysis.ratings == 15 * 18 * 2
    assert {"rating", "repeat", "attention"} == set(ratings["kind"])


def test_pairs_and_guesses(tmp_path: Path) -> None:
    pair = {"id": "better", "kind": "pairwise", "text": "?"}
    study = make_study(
        tmp_path / "pairs", items=12, questions=[pair], design={"show": "pair", "items": 12},
        exclusion={"straight_lining": False},
    )  # fmt: skip
    ratings = draw(study, GOOD.model_copy(update={"item": 0.0}), 12)
    one = by_name(find(ratings, study.settings, study.design))["better", "nf4"]
    own = ratings[(ratings["kind"] == "rating") & (ratings["variant"] == "nf4")]["value"]
    assert one.estimate == pytest.approx(own.mean())
    assert one.variant_mean == pytest.approx((own == 1).mean())
    assert one.reference_mean == pytest.approx((own == -1).mean())
    assert (one.unit, one.margin, one.verdict) == ("share", 0.1, "degraded")
    guess = {"id": "guess", "kind": "label", "text": "?"}
    study = make_study(tmp_path / "guesses", items=12, questions=[guess])
    found = find(draw(study, GOOD, 12), study.settings, study.design)
    assert all(one.unit == "share" and one.confirmatory for one in found)
    assert {one.verdict for one in found if one.variant == "nf4"} <= {"degraded", "unresolved"}
    assert all(-1 <= (one.ci_low or 0) <= (one.ci_high or 0) <= 1 for one in found)


# Exclusions


def answers(participant: int, values: list[float], **changes: Any) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "participant": participant, "status": "completed", "position": range(len(values)), "kind": "rating",
            "scale": "likert", "value": values, "text": "", "seconds": 10.0, "excluded": "",
        }
    )  # fmt: skip
    return table.assign(**changes)


def test_every_rule_leaves_out_whom_it_should() -> None:
    good = [1.0, 2, 3, 4, 5, 6, 7]
    ratings = pd.concat(
        [
            answers(1, good),
            answers(2, good, status="released"),
            answers(3, good, kind=["rating"] * 5 + ["attention"] * 2, value=[1, 2, 3, 4, 5, 0, 1]),
            answers(4, good, seconds=[1.0, 1, 1, 1, 9, 9, 9]),
            answers(5, [4.0] * 7),
            answers(6, good, excluded="took part twice"),
            answers(7, [4.0] * 5),  # too few to say
            answers(8, [1.0, -1, 1, 1, -1, 0, 1], scale="pairwise", text="left", seconds=1.0),
            answers(9, [1.0] * 7, scale="pairwise", text=["left", "right"] * 3 + ["left"]),
        ]
    )
    found = exclusions(ratings, Exclusion())
    assert {one.participant: one.rules for one in found.excluded} == {
        2: ("incomplete",),
        3: ("attention",),
        4: ("too_fast",),
        5: ("straight_lining",),
        6: ("manual",),
        8: ("too_fast", "straight_lining"),
    }
    assert (found.seen, found.kept) == (9, 3)
    assert found.by_rule == {
        "incomplete": 1,
        "attention": 1,
        "too_fast": 2,
        "straight_lining": 2,
        "manual": 1,
    }
    reasons = {one.participant: one.reason for one in found.excluded}
    assert reasons[3] == "1 of 2 attention checks failed"
    assert reasons[6] == "took part twice"
    lenient = Exclusion(
        max_attention_failures=1, min_seconds_per_page=0, straight_lining=False, incomplete=False
    )
    assert [one.participant for one in exclusions(ratings, lenient).excluded] == [6]


def test_findings_are_also_told_without_exclusions(study: Study, ratings: pd.DataFrame) -> None:
    worse = ratings.assign(excluded=np.where(ratings["participant"] == 1, "asked to", ""))
    settings = study.settings.model_copy(update={"questions": study.settings.questions[:1]})
    found = analyze(worse, settings, study.design, resamples=50)
    assert found.participants == 14
    assert [one.participants for one in found.findings] == [14] * 2
    assert [one.participants for one in found.findings_without_exclusions] == [15] * 2
    kept = ratings[ratings["participant"] != 1]
    plain = find(kept, settings, study.design)
    assert [one.estimate for one in found.findings] == [one.estimate for one in plain]


def test_nobody_excluded_needs_no_second_look(analysis: StudyAnalysis) -> None:
    assert analysis.exclusions.kept == analysis.exclusions.seen == 15
    assert analysis.findings_without_exclusions == ()


# Little to analyse


def nothing_said(one: RatingFinding) -> bool:
    said = (
        one.ci_low,
        one.ci_high,
        one.p,
        one.p_adjusted,
        one.p_equivalence,
        one.minimum_detectable,
        one.d_z,
    )
    return all(value is None for value in said) and len(one.notes) > 0


@pytest.mark.parametrize(
    "case", ["nobody", "one participant", "one item", "one answer", "alike", "no reference"]
)
def test_no_data_is_none_and_a_note(study: Study, ratings: pd.DataFrame, case: str) -> None:
    few = {
        "nobody": ratings.iloc[:0],
        "one participant": ratings[ratings["participant"] == 1],
        "one item": ratings[ratings["item"] == ratings["item"].iloc[0]],
        "one answer": ratings[ratings["kind"] == "rating"].iloc[:1],
        "alike": ratings.assign(value=4.0),
        "no reference": ratings[ratings["variant"] != "full"],
    }[case]
    exclusion = Exclusion(straight_lining=False, max_attention_failures=9)
    settings = study.settings.model_copy(update={"exclusion": exclusion})
    found = analyze(few, settings, study.design, measurements(study), resamples=50)
    assert len(found.findings) == 4
    for one in found.findings:
        assert nothing_said(one) or case in ("one participant", "one item")
        assert one.p is None
        assert one.verdict == ("unresolved" if case == "alike" else None)
        assert one.estimate == (0 if case == "alike" else None)
    if case == "nobody":
        assert found.notes == ("There are no ratings to analyse.",)
    if case == "alike":
        assert all(one.alpha is None and one.notes for one in found.agreement)
        effects = [one for one in found.order_effects if one.outcome == "rating"]
        assert len(effects) == 6
        assert all(one.p is None and one.notes for one in effects)
        assert all(one.ci_low is None and one.mean == 4 for one in found.descriptives)
        assert all(one.rho is None for one in found.correlations)


def test_a_variant_without_ratings_leaves_the_others(study: Study, ratings: pd.DataFrame) -> None:
    found = by_name(find(ratings[ratings["variant"] != "gptq-3"], study.settings, study.design))
    assert found["overall", "gptq-3"].estimate is None
    assert found["overall", "gptq-3"].verdict is None
    assert "No answers about the variant" in found["overall", "gptq-3"].notes[0]
    assert found["overall", "nf4"].family == 2
    assert found["overall", "nf4"].verdict == "degraded"


def test_a_variant_with_only_the_lowest_answer(study: Study, ratings: pd.DataFrame) -> None:
    lowest = np.where(DATA["variant"] == "a", 1.0, VALUES.clip(2))
    assert [one is None for one in log_odds(lowest, COLUMNS, CLUSTERS)] == [True, False]
    worst = ratings.assign(value=np.where(ratings["variant"] == "nf4", 1.0, ratings["value"].clip(3, 5)))
    found = by_name(find(worst.assign(kind="rating"), study.settings, study.design))
    assert found["overall", "nf4"].verdict == "degraded"


def test_variants_that_are_people_cannot_be_told_from_them(study: Study, ratings: pd.DataFrame) -> None:
    # Everybody sees one variant only.
    own = np.array(["full", "gptq-3", "nf4"])[ratings["participant"] % 3]
    for one in find(ratings[ratings["variant"] == own], study.settings, study.design):
        assert one.p is None
        assert "cannot be told" in one.notes[0]


def test_a_difference_that_one_participant_alone_determines_is_not_judged() -> None:
    # Two forms that exchange two variants, and noise; whoever alone has a form decides the difference.
    rng = np.random.default_rng(0)
    for people, known in (
        ([0, 1], False),
        ([0, 0, 1], False),
        ([0, 0, 0, 0, 1], False),
        ([0, 0, 1, 1], True),
    ):
        person, item = np.divmod(np.arange(len(people) * 12), 12)
        shown = (np.array(people)[person] + item) % 2
        found = regress(
            rng.normal(size=(len(item), 1)), shown[:, None].astype(float), Clusters(person, item, item)
        )
        assert (found[0][0] is not None) == known
    # The same with items in the place of participants: of two items each decides.
    item, person = np.divmod(np.arange(2 * 12), 12)
    shown = (item + person) % 2
    columns = shown[:, None].astype(float)
    assert regress(rng.normal(size=(24, 1)), columns, Clusters(person, item, item)) == [[None]]


def test_a_reference_that_few_have_rated_counts_as_few(study: Study, ratings: pd.DataFrame) -> None:
    asked, names = [q for q in study.settings.questions if q.numeric], ["gptq-3", "nf4"]
    few = ratings[(ratings["variant"] != "full") | ratings["participant"].isin([1, 2])]
    own = first_answers(few, study.design)
    for one in compared(own, asked, "full", names):
        assert one.found is not None
        assert one.found.seeds == 2
        assert one.found.groups == own[own["variant"] == "full"]["group"].nunique()
    for one in compared(first_answers(ratings, study.design), asked, "full", names):
        assert one.found is not None
        assert (one.found.seeds, one.found.groups) == (15, 9)
    alone = ratings[(ratings["variant"] != "full") | (ratings["participant"] == 1)]
    assert all(one.verdict is None and one.notes for one in find(alone, study.settings, study.design))


def test_missing_answers(study: Study, ratings: pd.DataFrame) -> None:
    lost = ratings.assign(value=ratings["value"].where(np.random.default_rng(0).random(len(ratings)) > 0.2))
    lost.loc[lost["kind"] == "attention", "value"] = 1.0
    for one in find(lost, study.settings, study.design):
        assert one.n < 180
        assert one.verdict in (("degraded",) if one.variant == "nf4" else ("equivalent", "unresolved"))


def measurements(study: Study) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "variant": stimulus.variant, "explainer": stimulus.explainer, "dataset": stimulus.dataset,
            "item": stimulus.item.split("/", 2)[2], "group": stimulus.group, "scorer": "s", "metric": "length",
            "value": float(len(stimulus.parts[-1].text) + number % 7),
        }
        for number, stimulus in enumerate(study.stimuli.values())
    )  # fmt: skip

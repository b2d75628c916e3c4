"""Agreement, descriptions, order effects and correlations with metrics, against numbers worked out otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_support import make_study

from userstudy.analysis.agreement import agreements, alpha, intra_rater
from userstudy.analysis.correlation import metric_correlations, spearman
from userstudy.analysis.describe import descriptives
from userstudy.analysis.order_effects import order_effects
from userstudy.settings import StudySettings

pytestmark = pytest.mark.filterwarnings("error")

NAN = np.nan
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)
"""Krippendorff 2011, Computing Krippendorff's alpha-reliability, section E: four observers, twelve units."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    return make_study(tmp_path_factory.mktemp("settings") / "study").settings


def ratings(
    values: np.ndarray, question: str = "overall", scale: str = "likert", **changes: Any
) -> pd.DataFrame:
    """Every participant's answer about every item; the variant rotates."""
    people, items = values.shape
    person, item = np.divmod(np.arange(people * items), items)
    variants = np.array(["full", "gptq-3", "nf4"])
    table = pd.DataFrame(
        {
            "participant": person + 1, "position": item, "kind": "rating", "item": [f"e/d/{i}" for i in item],
            "group": [f"g{i}" for i in item], "dataset": "d", "explainer": "e",
            "variant": variants[(person + item) % 3], "question": question, "scale": scale,
            "value": values.ravel().astype(float), "text": "", "seconds": 10.0,
        }
    )  # fmt: skip
    table = table.assign(**changes)
    return table.assign(stimulus=table["item"] + table["variant"])


# Agreement


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_alpha_of_the_published_example(level: Any, published: float) -> None:
    rater, unit = np.nonzero(~np.isnan(PUBLISHED))
    found = alpha(list(PUBLISHED[rater, unit]), list(unit), list(unit), level, resamples=200)
    assert found.value == pytest.approx(published, abs=5e-4)
    assert (found.units, found.answers) == (11, 40)
    assert found.low is not None
    assert found.high is not None
    assert found.low < published < found.high


def test_alpha_worked_out_by_hand() -> None:
    # Units (1, 1), (1, 2), (2, 2): coincidences o11 = 2, o12 = o21 = 1, o22 = 2; n = 6, three of each.
    # Nominal: observed disagreement 2 / 6, expected 2 * 3 * 3 / (6 * 5) = 0.6; alpha = 1 - (1 / 3) / 0.6.
    found = alpha(
        ["a", "a", "a", "b", "b", "b"], [0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], "nominal", resamples=50
    )
    assert found.value == pytest.approx(4 / 9)


def test_alpha_without_anything_to_compare() -> None:
    assert alpha([], [], [], "ordinal").value is None
    assert alpha([1.0, 2.0], [0, 1], [0, 1], "ordinal")[:4] == (None, None, None, 0)
    assert alpha([3.0] * 4, [0, 0, 1, 1], [0, 0, 1, 1], "ordinal").value is None
    one_group = alpha([1.0, 2.0, 3.0, 3.0], [0, 0, 1, 1], [0, 0, 0, 0], "ordinal")
    assert one_group.value is not None
    assert one_group.low is None


def test_the_interval_is_for_groups_of_items() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 8, 12)
    answers = np.clip(truth[None] + rng.integers(-2, 3, (6, 12)), 1, 7)
    unit = np.tile(np.arange(12), 6)
    single = alpha(list(answers.ravel()), list(unit), list(unit), "ordinal", resamples=400)
    # Each unit four times, its copies in one group: nothing more is known than of one.
    copies = np.tile(answers, 4)
    codes = np.tile(np.arange(48), 6)
    grouped = alpha(list(copies.ravel()), list(codes), list(codes % 12), "ordinal", resamples=400)
    apart = alpha(list(copies.ravel()), list(codes), list(codes), "ordinal", resamples=400)
    assert single.low is not None
    assert single.high is not None
    assert grouped.high is not None
    assert grouped.low is not None
    assert apart.high is not None
    assert apart.low is not None
    assert grouped.high - grouped.low == pytest.approx(single.high - single.low, rel=0.2)
    assert apart.high - apart.low < 0.7 * (single.high - single.low)


def test_agreement_of_each_question_and_of_all(settings: StudySettings) -> None:
    values = np.random.default_rng(0).integers(1, 8, (9, 6))
    both = pd.concat([ratings(values), ratings(values, "understandability")])
    found = {one.question: one for one in agreements(both, settings, resamples=20)}
    assert set(found) == {"overall", "understandability", None}
    one = found["overall"]
    assert (one.units, one.participants, one.n, one.points, one.level) == (18, 9, 54, 7, "ordinal")
    assert (found[None].units, found[None].n) == (36, 108)
    # Two questions with the same answers agree, together, a little less by chance than each.
    assert found[None].alpha == pytest.approx(one.alpha, abs=0.03)


def test_repeated_pages(settings: StudySettings) -> None:
    first = np.array([[1, 2, 3], [4, 5, 6]])
    again = np.array([[1, 2, 4], [4, 7, 6]])
    table = pd.concat([ratings(first), ratings(again, kind="repeat", position=9)])
    (found,) = intra_rater(table, settings, resamples=20)
    assert (found.pairs, found.participants) == (6, 2)
    assert found.exact == pytest.approx(4 / 6)
    assert found.mean_change == pytest.approx(3 / 6)
    # Cohen's weighted kappa: 1 - sum of squared distances / the same of all 36 pairs of a first and a second
    # answer, over 6. Squared distances: 1 + 4 = 5, and of all pairs:
    chance = sum((a - b) ** 2 for a in first.ravel() for b in again.ravel()) / 6
    assert found.kappa == pytest.approx(1 - 5 / chance)
    assert found.alpha is not None
    assert found.kappa_low is not None
    assert found.kappa_low <= found.kappa <= found.kappa_high or found.kappa_high is None


def test_kappa_of_labels_is_not_weighted(tmp_path: Path) -> None:
    question = {"id": "guess", "kind": "label", "text": "?"}
    guesses = make_study(tmp_path / "study", questions=[question]).settings
    # 20 both a, 15 both b, 10 a then b, 5 b then a: agreement 0.7, by chance 0.5, kappa 0.4.
    first = ["a"] * 20 + ["b"] * 15 + ["a"] * 10 + ["b"] * 5
    again = ["a"] * 20 + ["b"] * 15 + ["b"] * 10 + ["a"] * 5
    zeros = np.zeros((5, 10))
    table = pd.concat(
        [
            ratings(zeros, "guess", "label", text=first),
            ratings(zeros, "guess", "label", text=again, kind="repeat", position=20),
        ]
    )
    (found,) = intra_rater(table, guesses, resamples=20)
    assert found.exact == pytest.approx(0.7)
    assert found.kappa == pytest.approx(0.4)
    assert found.mean_change is None


# Descriptions


def test_descriptions(settings: StudySettings) -> None:
    values = np.random.default_rng(0).integers(1, 8, (9, 6))
    found = list(descriptives(ratings(values), settings, ("full", "gptq-3", "nf4")))
    assert len(found) == 6
    assert [one.n for one in found if one.question == "understandability"] == [0, 0, 0]
    assert all(one.mean is None and one.notes for one in found if one.question == "understandability")
    table = ratings(values)
    own = table[table["variant"] == "nf4"]["value"]
    (one,) = (one for one in found if one.question == "overall" and one.variant == "nf4")
    assert one.mean == pytest.approx(own.mean())
    assert one.sd == pytest.approx(own.std())
    assert one.median == own.median()
    assert one.counts == {str(k): int((own == k).sum()) for k in range(1, 8)}
    assert one.ci_low is not None
    assert one.ci_high is not None
    # No clusters in these numbers: about the interval of independent ones, with the t of few clusters.
    assert one.ci_high - one.ci_low == pytest.approx(2 * stats.t.isf(0.025, 5) * own.sem(), rel=0.5)


# Order


def test_fatigue_is_found_for_the_variant_that_has_it(settings: StudySettings) -> None:
    rng = np.random.default_rng(0)
    person, item = np.divmod(np.arange(24 * 12), 12)
    table = ratings(np.zeros((24, 12)))
    table["position"] = np.concatenate([rng.permutation(12) for _ in range(24)])
    tired = np.where(table["variant"] == "nf4", -0.2, 0.0) * table["position"]
    table["value"] = (
        4 + rng.normal(size=24)[person] + rng.normal(size=12)[item] + tired + 0.1 * rng.normal(size=288)
    )
    table["seconds"] = np.exp(3 - 0.05 * table["position"] + 0.1 * rng.normal(size=288))
    found = {(one.outcome, one.variant): one for one in order_effects(table, settings, ("gptq-3", "nf4"))}
    assert len(found) == 6
    assert found["rating", None].estimate == pytest.approx(-0.2 / 3, abs=0.02)
    assert found["rating", "nf4"].estimate == pytest.approx(-0.2, abs=0.02)
    assert found["rating", "gptq-3"].estimate == pytest.approx(0, abs=0.02)
    assert found["seconds", None].estimate == pytest.approx(-0.05, abs=0.005)
    for key in (("rating", "nf4"), ("seconds", None)):
        adjusted = found[key].p_adjusted
        assert adjusted is not None
        assert adjusted < 0.001
    assert found["rating", "gptq-3"].unit == "points a page"


# Metrics


def test_weighted_ranks_are_those_of_a_table_with_repetitions() -> None:
    from userstudy.analysis.correlation import _resampled

    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 6, 15).astype(float), rng.normal(size=15)
    groups = np.repeat(np.arange(5), 3)
    found = _resampled(first, second, groups, 40)
    draws = np.random.default_rng(0).integers(5, size=(40, 5))
    expected = []
    for drawn in draws:
        rows = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
        expected.append(stats.spearmanr(first[rows], second[rows]).statistic)
    assert found == pytest.approx(expected)


def test_spearman_where_there_is_little() -> None:
    line = np.arange(12.0)
    assert spearman(line[:2], line[:2], np.arange(2)).rho is None
    assert spearman(line, np.ones(12), np.arange(12)).rho is None
    few = spearman(line, line, np.arange(12) % 5)
    assert few.rho == pytest.approx(1)
    assert few.p is None


def test_a_metric_that_sees_what_people_see(settings: StudySettings) -> None:
    rng = np.random.default_rng(0)
    person, item = np.divmod(np.arange(12 * 15), 15)
    quality = rng.normal(size=(15, 3))
    table = ratings(np.zeros((12, 15)))
    code = (person + item) % 3
    # Every third participant is mild, and those see other variants of an item than the rest.
    table["value"] = 4 + 3.0 * (person % 3 == 0) + quality[item, code] + 0.2 * rng.normal(size=180)
    variants = ("full", "gptq-3", "nf4")
    rows = [
        {
            "variant": variants[v], "explainer": "e", "dataset": "d", "item": str(i), "group": f"g{i}", "scorer": "s",
            "metric": metric, "value": value, "higher_is_better": metric != "errors",
        }
        for i in range(15)
        for v in range(3)
        for metric, value in (("score", quality[i, v]), ("errors", -quality[i, v]), ("noise", rng.normal()))
    ]  # fmt: skip
    found = metric_correlations(table, pd.DataFrame(rows), settings, "full", variants[1:], resamples=300)
    assert len(found) == 3 * 4
    overall = {one.metric: one for one in found if one.variant is None}
    for name in ("score", "errors"):
        one = overall[name]
        assert one.rho is not None
        assert one.rho > 0.85
        assert one.p_adjusted is not None
        assert one.p_adjusted < 0.001
        assert (one.stimuli, one.groups) == (45, 15)
    noise = overall["noise"]
    assert noise.ci_low is not None
    assert noise.ci_high is not None
    assert noise.ci_low < 0 < noise.ci_high
    assert {one.stimuli for one in found if one.variant} == {15}
    low = tuple(q.model_copy(update={"higher_is_better": False}) for q in settings.questions)
    turned = settings.model_copy(update={"questions": low})
    worse = table.assign(value=8 - table["value"])
    again = metric_correlations(worse, pd.DataFrame(rows), turned, "full", variants[1:], resamples=300)
    assert {one.metric: one.rho for one in again if one.variant is None} == pytest.approx(
        {name: one.rho for name, one in overall.items()}
    )


def test_preferences_are_held_against_differences_of_the_metric(tmp_path: Path) -> None:
    question = {"id": "better", "kind": "pairwise", "text": "?"}
    pairs = make_study(tmp_path / "study", questions=[question], design={"show": "pair"}).settings
    rng = np.random.default_rng(0)
    score = rng.normal(size=(20, 2))
    table = ratings(np.zeros((6, 20)), "better", "pairwise", variant="nf4")
    item = np.tile(np.arange(20), 6)
    table["value"] = np.sign(score[item, 1] - score[item, 0] + 0.3 * rng.normal(size=120))
    rows = [
        {
            "variant": variant, "explainer": "e", "dataset": "d", "item": str(i), "group": f"g{i}", "scorer": "s",
            "metric": "m", "value": score[i, v] + 10 * (i % 2),
        }
        for i in range(20)
        for v, variant in enumerate(("full", "nf4"))
    ]  # fmt: skip
    overall, own = metric_correlations(
        table, pd.DataFrame(rows), pairs, "full", ("gptq-3", "nf4"), resamples=200
    )
    assert (overall.variant, own.variant) == (None, "nf4")
    assert own.rho is not None
    assert own.rho > 0.7
    assert own.higher_is_better is None

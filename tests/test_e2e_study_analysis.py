"""The analysis of ratings is right as often as it says, on simulated studies of which the truth is known.

benchmarks/study_validity.py has the same with more studies and cases. Seeds are fixed, so that a test either passes
or fails; bounds leave room for three Monte Carlo errors, the two variants of a study counting as one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from conftest import benchmark
from scipy import stats

from userstudy.analysis import RatingFinding, find
from userstudy.analysis.correlation import spearman

pytestmark = pytest.mark.e2e

validity: Any = benchmark("study_validity")
SIZE = validity.Size(24, 10)
STUDIES = 150


def errors(rate: float, studies: int = STUDIES) -> float:
    return 3 * math.sqrt(rate * (1 - rate) / studies)


def found(raters: str, kind: str, difference: float, size: Any = SIZE) -> dict[str, float]:
    truth = validity.shifted(validity.TRUTHS[raters], kind, difference)
    findings: list[RatingFinding] = [
        one
        for ratings, settings, design in validity.drawn(size, truth, STUDIES, 5, pair=kind == "pairwise")
        for one in find(ratings, settings, design)
        if one.question == kind
    ]
    rates: dict[str, float] = validity.rates(findings, difference)
    return rates


@pytest.mark.parametrize(
    ("raters", "kind"),
    [
        ("as by default", "likert"),
        ("large slopes", "likert"),
        ("as by default", "pairwise"),
        ("near the top", "label"),
    ],
)
def test_no_difference_is_found_at_the_nominal_rate_at_most(raters: str, kind: str) -> None:
    rates = found(raters, kind, 0.0)
    assert rates["known"] == 1
    assert rates["found"] < 0.05 + errors(0.05)
    assert rates["covered"] > 0.95 - errors(0.05)


def test_differences_as_large_as_the_margin_are_not_called_equivalent() -> None:
    rates = found("as by default", "likert", -0.5)
    assert rates["equivalent"] < 0.05 + errors(0.05)
    assert rates["covered"] > 0.95 - errors(0.05)
    assert abs(rates["bias"]) < 3 * rates["sd"] / math.sqrt(STUDIES)
    assert rates["error"] / rates["sd"] == pytest.approx(1, abs=0.2)


def test_large_differences_are_found() -> None:
    assert found("no slopes", "likert", -0.5, validity.Size(24, 20))["found"] > 0.8


def test_metrics_that_see_nothing_correlate_at_the_nominal_rate() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 3)
    wrong, covered, truth = 0, 0, 6 / math.pi * math.asin(0.6 / 2)
    for _ in range(200):
        common, own = rng.standard_normal((2, 20))[:, groups], rng.standard_normal((2, 60))
        first, second = math.sqrt(0.5) * (common + own)
        mixed = 0.6 * first + 0.8 * second
        blind, seeing = (spearman(first, other, groups, resamples=200) for other in (second, mixed))
        assert blind.p is not None
        assert seeing.low is not None
        assert seeing.high is not None
        wrong += blind.p < 0.05
        covered += seeing.low <= truth <= seeing.high
    assert wrong < 200 * (0.05 + errors(0.05, 200))
    assert covered > 200 * (0.95 - errors(0.05, 200))


def test_expected_answers_are_those_that_are_drawn() -> None:
    """The truth the rates are held against: the mean over many studies, by the simulator alone."""
    truth = validity.shifted(validity.TRUTHS["as by default"], "likert", -0.5)
    means: dict[str, list[float]] = {"full": [], "a": []}
    for ratings, _, _ in validity.drawn(SIZE, truth, 300, 6, pair=False):
        own = ratings[(ratings["kind"] == "rating") & (ratings["question"] == "likert")]
        for variant, values in means.items():
            values.append(own[own["variant"] == variant]["value"].mean())
    apart = np.array(means["a"]) - np.array(means["full"])
    assert stats.ttest_1samp(apart, -0.5).pvalue > 0.001

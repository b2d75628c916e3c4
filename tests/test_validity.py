"""Validity is shown, not asserted: simulated studies of which the truth is known, judged by compare itself.

benchmarks/validity.py has the same with thousands of studies, and docs/statistics.md its results. Seeds are
fixed, so that a test either passes or fails; bounds leave room for three Monte Carlo errors.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from conftest import benchmark

from quantxai.records import Finding

pytestmark = pytest.mark.bare

validity: Any = benchmark("validity")
RELATIONS, UNEQUAL, SINGLE = validity.DESIGNS[:3]


def studies(design: Any, kind: str, effect: float, number: int, **options: Any) -> list[Finding]:
    return list(validity.simulated(design, kind, effect, number, np.random.default_rng(7), **options))


def errors(rate: float, number: int, *, times: float = 3) -> float:
    return times * math.sqrt(rate * (1 - rate) / number)


def covered(findings: list[Finding], truth: float) -> float:
    share: float = validity.covered(findings, truth)
    return share


def significant(findings: list[Finding], name: str = "p") -> float:
    share: float = validity.significant(findings, name)
    return share


# The simulations are what they say they are


def test_studies_have_the_effect_the_spread_and_the_groups_they_should() -> None:
    for kind in ("normal", "skewed"):
        before, after = validity.draw(RELATIONS, kind, 0.7, 2000, np.random.default_rng(1))
        table = (after - before).reshape(2000, 27, 8)
        assert table.mean() == pytest.approx(0.7, abs=0.01)
        assert table.var() == pytest.approx(1, abs=0.02)
        pairs = ((table[:, :, 0] - 0.7) * (table[:, :, 1] - 0.7)).mean()
        assert pairs == pytest.approx(validity.SHARED, abs=0.03)
    before, after = validity.draw(RELATIONS, "binary", -0.2, 2000, np.random.default_rng(1))
    assert before.mean() == pytest.approx(0.6, abs=0.01)
    assert after.mean() == pytest.approx(0.4, abs=0.01)


def test_a_study_is_compares_own_finding() -> None:
    (found,) = studies(SINGLE, "binary", -0.2, 1)
    before, after = validity.draw(SINGLE, "binary", -0.2, 1, np.random.default_rng(7))
    assert found.estimate == pytest.approx((after - before).mean())
    assert (found.n, found.groups, found.test) == (60, 60, "mcnemar-exact")
    (clustered,) = studies(RELATIONS, "normal", 0, 1)
    assert (clustered.n, clustered.groups, clustered.test) == (216, 27, "sign-flip-permutation")


# Few studies


@pytest.mark.parametrize("design", [RELATIONS, SINGLE], ids=lambda design: design.name)
def test_without_a_difference_one_study_in_twenty_finds_one(design: Any) -> None:
    found = studies(design, "normal", 0, 600, resamples=1000)
    assert significant(found) == pytest.approx(0.05, abs=errors(0.05, 600))
    assert significant(found, "p_rank") == pytest.approx(0.05, abs=errors(0.05, 600))
    assert covered(found, 0) == pytest.approx(0.95, abs=errors(0.05, 600))


def test_outcomes_of_yes_and_no_are_judged_with_care() -> None:
    found = studies(RELATIONS, "binary", 0, 200, resamples=1000)
    assert significant(found) <= 0.05 + errors(0.05, 200)
    assert covered(found, 0) >= 0.95 - errors(0.05, 200)


def test_an_analysis_that_does_not_know_of_groups_is_wrong_and_this_shows_it() -> None:
    found = studies(RELATIONS, "normal", 0, 300, clustered=False, resamples=1000)
    assert significant(found) > 0.15
    assert covered(found, 0) < 0.85
    binary = studies(UNEQUAL, "binary", 0, 100, clustered=False, resamples=1000)
    assert binary[0].test == "mcnemar-exact"
    assert significant(binary) > 0.15
    assert covered(binary, 0) < 0.85


def test_a_difference_on_the_margin_is_seldom_called_equivalent() -> None:
    error = validity.spread(studies(RELATIONS, "normal", 0, 200, resamples=1000))
    found = studies(RELATIONS, "normal", -4 * error, 400, margin=4 * error, resamples=1000)
    assert significant(found, "p_equivalence") <= 0.05 + errors(0.05, 400)
    assert covered(found, -4 * error) == pytest.approx(0.95, abs=errors(0.05, 400))


def test_a_difference_that_is_called_detectable_is_found_four_times_in_five() -> None:
    null = studies(RELATIONS, "normal", 0, 200, resamples=1000)
    detectable = float(np.mean([f.minimum_detectable for f in null]))
    found = studies(RELATIONS, "normal", -detectable, 400, resamples=1000)
    assert significant(found) == pytest.approx(0.8, abs=errors(0.8, 400))
    assert all(f.estimate < 0 for f in found if f.p < 0.05)  # type: ignore[operator]


@pytest.mark.parametrize("number", [0, 1])
def test_a_trend_is_found_one_time_in_twenty_where_there_is_none(number: int) -> None:
    name, widths, shifts = validity.TRENDS[number]
    found = validity.trend(name, widths, shifts, 600, 1)["found"]
    assert found == pytest.approx(0.05, abs=errors(0.05, 600))


def test_a_trend_is_found_where_there_is_one() -> None:
    assert validity.trend(*validity.TRENDS[2], 200, 1)["found"] > 0.8


# Many studies


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["normal", "binary"])
@pytest.mark.parametrize("place", range(5))
def test_designs_of_twelve_groups_and_more_hold_their_bounds(place: int, kind: str) -> None:
    row = validity.single(validity.DESIGNS[place], kind, 1000, 1)
    assert row["false_positives"] <= 0.05 + errors(0.05, 1000)
    assert row["coverage"] >= 0.93 - errors(0.05, 1000, times=1)
    assert row["coverage_shifted"] >= 0.93 - errors(0.05, 500, times=1)
    assert row["false_equivalence"] <= 0.05 + errors(0.05, 500)
    assert row["power_at_detectable"] >= 0.75 - errors(0.8, 500)
    if row["naive_coverage"] is not None:
        assert row["naive_false_positives"] > 0.1
        assert row["naive_coverage"] < 0.9


@pytest.mark.e2e
def test_whole_comparisons_hold_the_rates_of_their_families() -> None:
    null = validity.families("null", 100, 1)
    assert null["holm_any_false"] <= 0.05 + errors(0.05, 100)
    assert null["holm_any_wrong_verdict"] <= 0.05 + errors(0.05, 100)
    assert null["bh_false_share"] <= 0.05 + errors(0.05, 100)
    mixed = validity.families("mixed", 100, 1)
    assert mixed["holm_any_false"] <= 0.05 + errors(0.05, 100)
    assert mixed["bh_false_share"] <= 0.05
    # Benjamini-Hochberg makes no such promise: it is Holm that keeps false findings away.
    assert mixed["bh_any_false"] > 1.5 * mixed["holm_any_false"]


@pytest.mark.e2e
@pytest.mark.parametrize(("effect", "margin"), [(1.5, 1.0), (0.0, 1.5)])
def test_a_study_as_large_as_asked_for_is_resolved(effect: float, margin: float) -> None:
    row = validity.resized(RELATIONS, "normal", effect, margin, 400, 1)
    assert row["resolved"] < 0.25
    assert row["resolved_known"] >= 0.75 - errors(0.8, 400, times=1)
    assert row["resolved_estimated"] >= 0.7


# What was kept


def test_what_was_kept_is_of_thousands_of_studies_and_of_every_case() -> None:
    kept = json.loads(validity.KEPT.read_text())
    assert {(r["design"], r["kind"]) for r in kept["single"]} == {
        (design.name, kind) for design in validity.DESIGNS for kind in validity.KINDS
    }
    assert min(r["studies"] for r in kept["single"]) >= 2000
    assert all(kept[name] for name in validity.TABLES)


def test_an_unclustered_analysis_fails_every_bound_that_was_kept() -> None:
    kept = json.loads(validity.KEPT.read_text())["single"]
    naive = [
        r for r in kept if r["naive_coverage"] is not None and r["kind"] in ("normal", "skewed", "binary")
    ]
    assert len(naive) >= 15
    for row in naive:
        assert row["naive_false_positives"] > 0.1
        assert row["naive_coverage"] < 0.9


def test_docs_show_what_was_kept() -> None:
    kept = json.loads(validity.KEPT.read_text())
    page = validity.PAGE.read_text(encoding="utf-8")
    for name, make in validity.TABLES.items():
        assert page == validity.with_table(page, f"validity-{name}", make(kept[name]))


def test_rates_that_miss_their_bounds_are_bold() -> None:
    assert validity._rate(0.061, most=0.05, studies=2000) == "**6.1**"
    assert validity._rate(0.059, most=0.05, studies=2000) == "5.9"
    assert validity._rate(0.91, least=0.93, studies=2000) == "**91.0**"
    assert validity._rate(None, most=0.05, studies=2000) == ""

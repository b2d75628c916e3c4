"""Statistics against R, scipy and statsmodels on one small data set.

R's numbers were computed once by tests/oracles/r/statistics.R, which says how to compute them again; they
are stored beside it, so that no R is needed here.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from quantxai import statistics as st

pytestmark = pytest.mark.bare

FOLDER = Path(__file__).parent / "oracles" / "r"
R: dict[str, Any] = json.loads((FOLDER / "statistics.json").read_text())
DATA = pd.read_csv(FOLDER / "paired.csv")
GROUPS = DATA["group"].to_numpy(str)
DIFFERENCES = DATA["difference"].to_numpy()
FEW = DIFFERENCES[:14]
SINGLE = np.arange(len(DATA))
EXACT = 1e-10


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def flipped(values: np.ndarray, groups: np.ndarray) -> float:
    """Two-sided p of the values' sum, every pattern of groups' signs enumerated or 100,000 drawn."""
    found = st.sign_flip_permutation(values, groups, 100_000, rng())
    assert found is not None
    return found


# Tests


def test_mcnemar() -> None:
    before, after = DATA["before"], DATA["after"]
    assert st.mcnemar_exact(before, after) == pytest.approx(R["mcnemar"]["binomial"], rel=EXACT)
    assert st.mcnemar_exact(before, after) == pytest.approx(R["mcnemar"]["coin"], rel=EXACT)
    assert flipped((after - before).to_numpy(), SINGLE) == pytest.approx(R["mcnemar"]["binomial"], rel=EXACT)
    table = pd.crosstab(before, after).to_numpy()
    assert st.mcnemar_exact(before, after) == pytest.approx(mcnemar(table, exact=True).pvalue, rel=EXACT)


def test_sign_flips() -> None:
    assert flipped(DIFFERENCES, GROUPS) == pytest.approx(R["sign_flip"]["clustered"], rel=EXACT)
    assert flipped(DIFFERENCES, GROUPS) == pytest.approx(R["sign_flip"]["clustered_coin"], rel=EXACT)
    assert flipped(FEW, SINGLE[:14]) == pytest.approx(R["sign_flip"]["single_coin"], rel=EXACT)
    theirs = stats.permutation_test((FEW,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert flipped(FEW, SINGLE[:14]) == pytest.approx(theirs.pvalue, rel=EXACT)


def test_wilcoxons_signed_ranks() -> None:
    few = flipped(st.signed_ranks(FEW), SINGLE[:14])
    assert few == pytest.approx(R["wilcoxon"]["wilcox.test"], rel=EXACT)
    assert few == pytest.approx(stats.wilcoxon(FEW, method="exact").pvalue, rel=EXACT)
    # 24 single items have more patterns than are enumerated: within four Monte Carlo errors.
    p = R["wilcoxon"]["all"]
    assert flipped(st.signed_ranks(DIFFERENCES), SINGLE) == pytest.approx(p, abs=4 * (p / 1e5) ** 0.5)


def test_wilcoxons_signed_ranks_with_ties_and_zeros() -> None:
    tied = np.round(FEW)
    assert (tied == 0).any()
    assert len(np.unique(np.abs(tied))) < len(tied)
    assert flipped(st.signed_ranks(tied), SINGLE[:14]) == pytest.approx(R["wilcoxon"]["tied_coin"], rel=EXACT)


def test_wilcoxons_signed_ranks_of_clusters() -> None:
    ranks = st.signed_ranks(DIFFERENCES)
    assert flipped(ranks, GROUPS) == pytest.approx(R["wilcoxon"]["clustered"], rel=EXACT)
    sums = pd.Series(ranks).groupby(GROUPS).sum()
    patterns = [
        sum(s * v for s, v in zip(signs, sums, strict=True)) for signs in itertools.product((1, -1), repeat=8)
    ]
    assert flipped(ranks, GROUPS) == np.mean(np.abs(patterns) >= abs(ranks.sum()) - 1e-9)


@pytest.mark.parametrize("correction", ["holm", "bonferroni", "benjamini-hochberg"])
def test_corrections(correction: Any) -> None:
    shuffled = rng().permutation(len(R["p"]))
    found = st.adjusted([R["p"][i] for i in shuffled], correction)
    assert found == pytest.approx([R["adjusted"][correction][i] for i in shuffled], rel=EXACT)
    method = {"benjamini-hochberg": "fdr_bh"}.get(correction, correction)
    assert R["adjusted"][correction] == pytest.approx(multipletests(R["p"], method=method)[1].tolist())


def test_equivalence() -> None:
    margins = R["equivalence"]["margins"]
    for groups, name in ((SINGLE, "single"), (GROUPS, "clustered")):
        sums, counts = (np.repeat(part[:, None], 2, axis=1) for part in st.cluster_sums(DIFFERENCES, groups))
        found = st.equivalence_tests(sums, counts, margins)
        assert found.tolist() == pytest.approx(R["equivalence"][name], rel=EXACT)
        assert st.equivalence_tests(-sums, counts, margins).tolist() == pytest.approx(found.tolist())
    theirs = DescrStatsW(DIFFERENCES).ttost_mean(-margins[1], margins[1])[0]
    assert theirs == pytest.approx(R["equivalence"]["single"][1], rel=EXACT)


def test_trend() -> None:
    widths = DATA[["bits3", "bits4", "bits16"]].to_numpy()
    tau = st.concordance(widths)
    assert 3 * tau.sum() == pytest.approx(R["trend"]["jonckheere"])
    assert tau[R["trend"]["untied"]].tolist() == pytest.approx(R["trend"]["kendall_untied"], rel=EXACT)
    assert flipped(tau, GROUPS) == pytest.approx(R["trend"]["clustered"], rel=EXACT)


# Errors, intervals and sizes


def test_the_cluster_robust_error() -> None:
    error = st.standard_error(DIFFERENCES, GROUPS)
    assert error == pytest.approx(R["error"]["sandwich"], rel=EXACT)
    assert error == pytest.approx(R["error"]["clubSandwich"], rel=EXACT)
    codes = np.unique(GROUPS, return_inverse=True)[1]
    fit = OLS(DIFFERENCES, np.ones(len(DATA))).fit(cov_type="cluster", cov_kwds={"groups": codes})
    assert error == pytest.approx(fit.bse[0], rel=EXACT)
    assert st.standard_error(DIFFERENCES, SINGLE) == pytest.approx(R["error"]["single"], rel=EXACT)


def test_the_error_of_two_more_items_is_bonett_and_prices() -> None:
    # Their formula over n + 2 pairs, times sqrt((n + 2) / (n + 1)) for the degree of freedom of the mean.
    n, up, down = len(DATA) + 2, R["mcnemar"]["up"] + 1, R["mcnemar"]["down"] + 1
    theirs = np.sqrt((up / n + down / n - (up / n - down / n) ** 2) / n)
    found = st.standard_error(DATA["after"] - DATA["before"], SINGLE, binary=True)
    assert found == pytest.approx(theirs * np.sqrt(n / (n - 1)), rel=EXACT)


@pytest.mark.parametrize(("groups", "name"), [(SINGLE, "single"), (GROUPS, "clustered")])
def test_bca_at_the_widened_level(groups: np.ndarray, name: str) -> None:
    skewed = DATA["skewed"].to_numpy()
    found = st.cluster_bootstrap(skewed, groups, 200_000, rng())
    # Their resamples and ours: 2.5 % quantiles are uncertain by about 1 % of the standard error.
    error = st.standard_error(skewed, groups)
    assert error is not None
    assert found == pytest.approx(R["bca"][name], abs=0.04 * error)


def test_bca_is_scipys_at_the_widened_level() -> None:
    skewed, k = DATA["skewed"].to_numpy(), len(DATA)
    level = 1 - 2 * stats.norm.cdf(-np.sqrt(k / (k - 1)) * stats.t.ppf(0.975, k - 1))
    theirs = stats.bootstrap(
        (skewed,), np.mean, n_resamples=100_000, confidence_level=level, rng=rng()
    ).confidence_interval
    error = st.standard_error(skewed, SINGLE)
    assert error is not None
    assert R["bca"]["single"] == pytest.approx((theirs.low, theirs.high), abs=0.04 * error)


def test_students_interval_of_fewer_than_eight_groups() -> None:
    found = st.cluster_bootstrap(DIFFERENCES[:7], SINGLE[:7], 100, rng())
    assert found == pytest.approx(R["t"], rel=EXACT)


def test_clopper_pearson() -> None:
    exact = R["clopper_pearson"]
    assert st.clopper_pearson(0, 24) == pytest.approx(exact["0 of 24"], rel=EXACT)
    assert st.clopper_pearson(10, 24) == pytest.approx(exact["10 of 24"], rel=EXACT)
    assert st.clopper_pearson(24, 24, 0.9) == pytest.approx(exact["24 of 24, 90 %"], rel=EXACT)
    assert st.clopper_pearson(10, 24) == pytest.approx(proportion_confint(10, 24, method="beta"), rel=EXACT)


def test_effect_sizes() -> None:
    assert st.paired_effect_size(DIFFERENCES) == pytest.approx(R["effect_size"], rel=EXACT)
    before, after = DATA["bits3"].to_numpy(), DATA["bits16"].to_numpy()
    assert st.cliffs_delta(before, after) == pytest.approx(R["cliffs_delta"], rel=EXACT)
    pairs = np.sign(after[:, None] - before)
    assert st.cliffs_delta(before, after) == pytest.approx(pairs.mean(), rel=EXACT)


def test_the_minimum_detectable_effect_is_near_that_of_the_noncentral_t() -> None:
    found = st.minimum_detectable(DIFFERENCES, SINGLE)
    assert found == pytest.approx(R["power"], rel=0.002)

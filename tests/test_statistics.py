"""Statistics against other people's implementations, enumeration, and numbers worked out by hand."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar

from quantxai import statistics as st
from quantxai.statistics import bootstrap, clusters

pytestmark = pytest.mark.bare


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def clustered(groups: int = 18, size: int = 17, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Differences with a shared part per group, and the groups."""
    source = rng(seed)
    values = source.standard_normal((groups, size)) + 0.5 * source.standard_normal((groups, 1))
    return values.ravel(), np.repeat(np.arange(groups), size)


# Standard error and minimum detectable difference


def test_the_standard_error_is_that_of_a_clustered_regression_on_a_constant() -> None:
    values, groups = clustered()
    values, groups = values[:-30], groups[:-30]  # unequal sizes
    fit = OLS(values, np.ones_like(values)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    assert st.standard_error(values, groups) == pytest.approx(fit.bse[0], rel=1e-12)


def test_with_single_items_the_standard_error_is_the_ordinary_one() -> None:
    values = rng().standard_normal(40)
    assert st.standard_error(values, np.arange(40)) == pytest.approx(stats.sem(values))


def test_minimum_detectable_by_hand() -> None:
    # Six single items 0, 2, 0, 2, 0, 2: sd = 1.095445, error = 0.4472136; t(.975; 5) = 2.570582, t(.8; 5) = 0.919544.
    assert st.minimum_detectable([0, 2] * 3, range(6)) == pytest.approx(
        (2.570582 + 0.919544) * 0.4472136, rel=1e-5
    )


def test_too_few_groups_can_find_nothing() -> None:
    assert st.minimum_detectable([0, 1, 2, 3, 4], range(5)) is None  # the smallest p is 2 / 2^5
    assert st.minimum_detectable([0, 1, 2, 3, 4], range(5), alpha=0.1) is not None


def test_minimum_detectable_of_yes_and_no_solves_its_equation() -> None:
    differences = np.array([1.0] * 4 + [-1.0] * 6 + [0.0] * 50)
    found = st.minimum_detectable(differences, np.arange(60), binary=True)
    variance = 12 / 62 - (2 / 62) ** 2  # with one more item each way
    error = st.standard_error(differences, np.arange(60), binary=True)
    k = stats.t.ppf(0.975, 59) + stats.t.ppf(0.8, 59)
    worth = variance / error**2
    assert found**2 == pytest.approx(k**2 * (variance + found - found**2) / worth)
    assert found > k * error


@pytest.mark.parametrize("share", [0.02, 0.2])
def test_a_detectable_shift_of_yes_and_no_is_found_with_at_least_the_power(share: float) -> None:
    """By McNemar on new samples: outcomes that change by chance, and as many more that change one way."""
    source, n = rng(3), 200
    changed = np.resize([1.0, -1.0], round(share * n))
    changed = np.append(changed, np.zeros(n - len(changed)))
    detectable = st.minimum_detectable(changed, np.arange(n), binary=True)
    found = 0
    for _ in range(400):
        up, down, _ = source.multinomial(n, [share / 2 + detectable, share / 2, 1 - share - detectable])
        found += st.mcnemar_exact([0] * up + [1] * down, [1] * up + [0] * down) < 0.05
    assert found / 400 > 0.8 - 2 * np.sqrt(0.8 * 0.2 / 400)


@pytest.mark.parametrize("n", [12, 200])
def test_a_difference_of_the_detectable_size_is_found_as_often_as_promised(n: int) -> None:
    values = rng(1).standard_normal(n)
    detectable = st.minimum_detectable(values, np.arange(n), alpha=0.05, power=0.8)
    shift = detectable / st.standard_error(values, np.arange(n))
    assert stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, shift) == pytest.approx(0.8, abs=0.015)


def test_binary_differences_without_a_disagreement_still_have_an_error() -> None:
    # Two more items, +1 and -1: residual sum of squares 2 over 12 single items, 12 / 11 * 2 / 12^2.
    zeros = np.zeros(10)
    assert st.standard_error(zeros, np.arange(10)) == 0
    assert st.standard_error(zeros, np.arange(10), binary=True) == pytest.approx((12 / 11 * 2) ** 0.5 / 12)
    assert st.minimum_detectable(zeros, np.arange(10)) is None
    assert st.minimum_detectable(zeros, np.arange(10), binary=True) > 0


# Bootstrap intervals


def test_the_interval_of_normal_single_items_is_students() -> None:
    values = rng(3).standard_normal(30)
    low, high = st.cluster_bootstrap(values, np.arange(30), 40_000, rng())
    student = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(student, abs=0.04 * (student[1] - student[0]))


def test_bca_agrees_with_scipy_when_widening_is_undone() -> None:
    values = rng(4).lognormal(size=200)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=40_000, method="BCa", rng=rng(), vectorized=True, batch=2000
    ).confidence_interval
    widening = np.sqrt(200 / 199) * stats.t.ppf(0.975, 199)
    narrower = 1 - 2 * stats.t.sf(stats.norm.ppf(0.975) / np.sqrt(200 / 199), 199)
    assert widening > stats.norm.ppf(0.975)
    ours = st.cluster_bootstrap(values, np.arange(200), 40_000, rng(1), narrower)
    assert tuple(ours) == pytest.approx(tuple(theirs), abs=0.015)


def test_bca_by_hand() -> None:
    # 1000 resampled means 0.001, 0.002, ... 1; the mean 0.4 has 399.5 of them below it.
    values = np.array([0.1, 0.2, 0.2, 0.3, 0.3, 0.5, 0.7, 0.9])
    resampled = rng().permutation(np.arange(1, 1001) / 1000)[:, None]
    constants = bootstrap._bca_constants(values[:, None], np.ones((8, 1)), resampled)
    ends = bootstrap._bca_ends(np.sort(resampled, axis=0), *constants, np.array([[0.025]]))
    bias = stats.norm.ppf(0.3995)
    deviations = values - 0.4  # the jackknife's, times 7, with the sign of the value
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    for end, tail in zip(ends[0, :, 0], (-1.959964, 1.959964), strict=True):
        place = stats.norm.cdf(bias + (bias + tail) / (1 - acceleration * (bias + tail)))
        assert end == pytest.approx(0.001 + 0.999 * place, abs=1e-6)


def test_a_skewed_sample_gives_a_skewed_interval() -> None:
    values = rng(5).lognormal(sigma=1.2, size=80)
    low, high = st.cluster_bootstrap(values, np.arange(80), 10_000, rng())
    assert high - values.mean() > 1.15 * (values.mean() - low)


def test_groups_are_what_is_resampled() -> None:
    values = np.repeat(rng(6).standard_normal(12), 25)
    low, high = st.cluster_bootstrap(values, np.repeat(np.arange(12), 25), 10_000, rng())
    alone = st.cluster_bootstrap(values, np.arange(300), 10_000, rng())
    assert high - low > 4 * (alone.high - alone.low)


def test_few_groups_use_students_t() -> None:
    values, groups = clustered(groups=5)
    error = st.standard_error(values, groups)
    low, high = st.cluster_bootstrap(values, groups, 10_000, rng())
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 4, values.mean(), error))


@pytest.mark.parametrize("n", [0, 1])
def test_without_two_groups_there_is_no_interval(n: int) -> None:
    values, groups = np.ones(n), np.zeros(n)
    assert st.cluster_bootstrap(values, groups, 100, rng()) is None
    assert st.standard_error(values, groups) is None
    assert st.minimum_detectable(values, groups) is None
    assert np.isnan(st.bootstrap_intervals(np.ones((1, 2)), np.ones((1, 2)), 10, rng(), [0.9])).all()


def test_no_disagreement_among_few_items_does_not_exclude_one() -> None:
    low, high = st.cluster_bootstrap(np.zeros(20), np.arange(20), 10_000, rng(), binary=True)
    assert low < -0.09
    assert high > 0.09
    assert st.cluster_bootstrap(np.zeros(20), np.arange(20), 10_000, rng()) == (0, 0)


def test_binary_intervals_stay_possible() -> None:
    for n in (3, 12):
        low, high = st.cluster_bootstrap(-np.ones(n), np.arange(n), 1000, rng(), binary=True)
        assert low == -1
        assert high <= 1
    assert high < -0.2


@pytest.mark.parametrize("kind", ["skewed", "rare", "clustered"])
def test_intervals_cover_the_truth_as_often_as_they_say(kind: str) -> None:
    # 400 samples as columns of one call: they share resamples, but each is judged on its own.
    source, columns = rng(7), 400
    if kind == "skewed":
        sums, counts, truth = source.gamma(2, size=(60, columns)), np.ones((60, columns)), 2.0
    elif kind == "rare":
        draws = source.random((120, columns))
        sums, counts, truth = (draws < 0.01) * 1.0 - (draws > 0.97), np.ones((120, columns)), -0.02
    else:
        shared = source.standard_normal((18, columns))
        sums = source.standard_normal((18, columns)) * 17**0.5 + 17 * 0.5 * shared
        counts, truth = np.full((18, columns), 17.0), 0.0
    (low, high), (low90, high90) = st.bootstrap_intervals(
        sums, counts, 2000, rng(), [0.95, 0.9], binary=kind == "rare"
    )
    covered = ((low <= truth) & (truth <= high)).mean()
    assert 0.925 <= covered <= 0.99
    assert ((low <= low90) & (high90 <= high)).all()


def test_many_columns_give_what_each_gives_alone_and_quickly() -> None:
    source = rng(8)
    sums, counts = source.standard_normal((300, 150)), np.ones((300, 150))
    begin = time.process_time()
    together = st.bootstrap_intervals(sums, counts, 10_000, rng(1), [0.95])
    assert time.process_time() - begin < 3
    alone = st.bootstrap_intervals(sums[:, [7]], counts[:, [7]], 10_000, rng(1), [0.95])
    assert together[:, :, [7]] == pytest.approx(alone, abs=1e-12)


def test_a_group_without_data_changes_nothing_but_chance() -> None:
    values, groups = clustered()
    alone = st.cluster_bootstrap(values, groups, 20_000, rng())
    names = np.arange(30)
    sums, counts = (column[:, None] for column in st.cluster_sums(values, groups, names))
    assert counts[18:].sum() == 0
    (ends,) = st.bootstrap_intervals(sums, counts, 20_000, rng(), [0.95])
    assert ends[:, 0] == pytest.approx(tuple(alone), abs=0.04 * (alone.high - alone.low))
    both = st.bootstrap_intervals(
        np.c_[sums, sums * (names < 5)[:, None], sums * (names < 1)[:, None]],
        np.c_[counts, counts * (names < 5)[:, None], counts * (names < 1)[:, None]], 1000, rng(), [0.95],
    )  # fmt: skip
    few = st.cluster_bootstrap(values[:85], groups[:85], 1000, rng())
    assert both[0, :, 1] == pytest.approx(tuple(few))
    assert np.isnan(both[0, :, 2]).all()


def test_blocks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = clustered()
    whole = st.cluster_bootstrap(values, groups, 5000, rng())
    monkeypatch.setattr(clusters, "_BLOCK", 18 * 1000)
    assert st.cluster_bootstrap(values, groups, 5000, rng()) == whole


# Tests


def enumerated(differences: np.ndarray, groups: np.ndarray) -> float:
    """Sign-flip p from every pattern, one by one."""
    sums = [differences[groups == group].sum() for group in np.unique(groups)]
    totals = [
        abs(sum(s * v for s, v in zip(signs, sums, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(sums))
    ]
    return sum(total >= abs(sum(sums)) - 1e-9 for total in totals) / len(totals)


@pytest.mark.parametrize("seed", range(4))
def test_sign_flips_equal_enumeration(seed: int) -> None:
    values, groups = clustered(groups=8, size=3, seed=seed)
    values = np.round(values, 1) + 0.2
    expected = enumerated(values, groups)
    assert st.sign_flip_permutation(values, groups, 10_000, rng()) == pytest.approx(expected)
    # 255 < 2^8 patterns: drawn, not enumerated, and close; many draws, closer.
    drawn = [st.sign_flip_permutation(values, groups, 255, rng(i)) for i in range(40)]
    assert np.mean(drawn) == pytest.approx(expected, abs=0.03)


def test_sign_flips_agree_with_scipy() -> None:
    values = rng(9).standard_normal(40) + 0.3
    theirs = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=20_000, rng=rng(), vectorized=True
    ).pvalue
    assert st.sign_flip_permutation(values, np.arange(40), 20_000, rng(1)) == pytest.approx(theirs, abs=0.01)


def test_a_drawn_p_is_never_zero() -> None:
    assert st.sign_flip_permutation(np.ones(60), np.arange(60), 999, rng()) == 1 / 1000


def test_sign_flips_by_hand() -> None:
    # Sums 3 and 1: patterns 4, 2, -2, -4, of which two are as far from zero as 4.
    assert st.sign_flip_permutation([1, 2, 1], ["a", "a", "b"], 100, rng()) == 0.5
    assert st.sign_flip_permutation([0.0, 0.0], ["a", "b"], 100, rng()) == 1
    assert st.sign_flip_permutation([], [], 100, rng()) is None


def test_groups_without_a_difference_do_not_matter() -> None:
    values, groups = clustered(groups=6, size=2)
    more = st.sign_flip_permutation(
        np.r_[values, np.zeros(50)], np.r_[groups, 100 + np.arange(50)], 1000, rng()
    )
    assert more == st.sign_flip_permutation(values, groups, 1000, rng())


def test_sign_flips_hold_their_level() -> None:
    p = st.sign_flip_tests(rng(10).standard_normal((30, 2000)), 999, rng())
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.02)


def test_sign_flips_of_single_binary_items_are_mcnemars() -> None:
    a = np.repeat([0, 0, 1, 1], [20, 9, 2, 30])
    b = np.repeat([0, 1, 0, 1], [20, 9, 2, 30])
    assert st.mcnemar_exact(a, b) == pytest.approx(
        st.sign_flip_permutation(b - a, np.arange(61), 10_000, rng())
    )


@pytest.mark.parametrize(("up", "down"), [(9, 2), (2, 9), (5, 5), (1, 0), (30, 12)])
def test_mcnemar_is_statsmodels(up: int, down: int) -> None:
    a = np.repeat([0, 0, 1, 1], [3, up, down, 4])
    b = np.repeat([0, 1, 0, 1], [3, up, down, 4])
    expected = mcnemar([[3, up], [down, 4]], exact=True).pvalue
    assert st.mcnemar_exact(a, b) == pytest.approx(expected)


def test_mcnemar_by_hand() -> None:
    assert st.mcnemar_exact([0, 0, 0], [1, 1, 1]) == pytest.approx(2 / 8)
    assert st.mcnemar_exact([0, 1], [0, 1]) == 1
    assert st.mcnemar_exact([], []) is None


def test_holm_by_hand() -> None:
    # Sorted .01, .02, .04 times 3, 2, 1, never falling; None is not part of the family.
    assert st.adjusted([0.02, None, 0.01, 0.04], "holm") == pytest.approx([0.04, None, 0.03, 0.04])
    assert st.adjusted([0.9, 0.8], "holm") == [1.0, 1.0]
    assert st.adjusted([], "holm") == []
    assert st.adjusted([None], "holm") == [None]


def test_other_corrections_by_hand() -> None:
    p = [0.02, None, 0.01, 0.04]
    assert st.adjusted(p, "bonferroni") == pytest.approx([0.06, None, 0.03, 0.12])
    # 0.01 * 3 / 1, 0.02 * 3 / 2, 0.04 * 3 / 3, none above the next.
    assert st.adjusted(p, "benjamini-hochberg") == pytest.approx([0.03, None, 0.03, 0.04])
    assert st.adjusted(p, "none") == p


# Proportions, sizes


@pytest.mark.parametrize(("k", "n"), [(3, 20), (0, 7), (7, 7), (1, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_clopper_pearson_is_scipys(k: int, n: int, confidence: float) -> None:
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="exact")
    assert tuple(st.clopper_pearson(k, n, confidence)) == pytest.approx(tuple(expected), abs=1e-9)


def test_clopper_pearson_by_hand() -> None:
    assert st.clopper_pearson(0, 100) == pytest.approx((0, 1 - 0.025**0.01))
    assert st.clopper_pearson(0, 0) is None


def test_effect_size_by_hand() -> None:
    assert st.paired_effect_size([1, 2, 3]) == 2.0
    for undefined in ([], [1], [2, 2, 2]):
        assert st.paired_effect_size(undefined) is None


def test_items_needed_by_hand() -> None:
    # t(.975; 99) = 1.98422, t(.95; 99) = 1.66039, t(.8; 99) = 0.84533, t(.9; 99) = 1.29016.
    difference = 100 * ((1.984217 + 0.845328) * 0.01 / 0.025) ** 2
    equivalence = 100 * ((1.660391 + 1.290161) * 0.01 / (0.06 - 0.025)) ** 2
    assert st.n_to_resolve(0.01, 99, -0.025, 0.06, 100, 0.05) == max(101, math.ceil(equivalence))
    assert st.n_to_resolve(0.01, 99, 0.025, 0.03, 100, 0.05) == math.ceil(difference)
    # Nothing but the test of a difference can settle what lies beyond the margin, and equivalence what is 0.
    assert st.n_to_resolve(0.01, 99, 0.025, 0.02, 100, 0.05) == math.ceil(difference)
    assert st.n_to_resolve(0.01, 99, 0.0, 0.01, 100, 0.05) == math.ceil(
        100 * ((1.660391 + 1.290161) * 0.01 / 0.01) ** 2
    )
    assert st.n_to_resolve(0.01, 99, 0.025, 0.02, 100, 0.005) > math.ceil(difference)
    for error, df in ((None, 99), (0.0, 99), (0.01, 0)):
        assert st.n_to_resolve(error, df, 0.01, 0.05, 100, 0.05) is None


def test_cliffs_delta_by_hand_and_from_mann_whitney() -> None:
    # Of 3 x 2 pairs, 2 is above 1, 5 above 1, 2 and 2 and 3: 4 above, 1 tied, 1 below (2 under 3).
    assert st.cliffs_delta([1, 2, 3], [2, 5]) == pytest.approx((4 - 1) / 6)
    before, after = rng(1).integers(0, 9, 50), rng(2).integers(1, 12, 40)
    u = stats.mannwhitneyu(after, before).statistic
    assert st.cliffs_delta(before, after) == pytest.approx(2 * u / (50 * 40) - 1)
    assert st.cliffs_delta([], [1]) is None
    assert st.cliffs_delta([1], []) is None


# Ranks, trends and equivalence


def test_signed_ranks_by_hand() -> None:
    # Sizes 1, 2, 2, 5 have ranks 1, 2.5, 2.5, 4; the 0 has none.
    assert st.signed_ranks([2, 0, -2, -1, 5]).tolist() == [2.5, 0, -2.5, -1, 4]


def test_flipped_signed_ranks_are_wilcoxons_test() -> None:
    for seed in range(5):
        differences = rng(seed).standard_normal(12) + 0.4
        expected = stats.wilcoxon(differences, method="exact").pvalue
        found = st.sign_flip_permutation(st.signed_ranks(differences), np.arange(12), 5_000, rng())
        assert found == pytest.approx(expected, rel=1e-9)


def test_concordance_is_kendalls_tau_of_every_row() -> None:
    table = rng(3).integers(0, 5, (30, 4)).astype(float)
    for row, found in zip(table, st.concordance(table), strict=True):
        pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
        expected = sum(int(row[b] > row[a]) - int(row[b] < row[a]) for a, b in pairs) / 6
        assert found == pytest.approx(expected)
    assert st.concordance([[1, 2, 3], [3, 2, 1], [1, 1, 1]]).tolist() == [1, -1, 0]
    without_ties = rng(4).standard_normal(6)
    tau = stats.kendalltau(np.arange(6), without_ties).statistic
    assert st.concordance([without_ties])[0] == pytest.approx(tau)


def test_equivalence_is_two_one_sided_t_tests() -> None:
    values = rng(5).standard_normal(50) + 0.1
    sums, counts = st.cluster_sums(values, np.arange(50))
    (found,) = st.equivalence_tests(sums[:, None], counts[:, None], [0.4])
    above = stats.ttest_1samp(values, -0.4, alternative="greater").pvalue
    below = stats.ttest_1samp(values, 0.4, alternative="less").pvalue
    assert found == pytest.approx(max(above, below), rel=1e-12)


def test_bootstrap_equivalence_is_the_interval_turned_round() -> None:
    """A margin that ends where the 1 - 2 alpha interval ends has the p alpha."""
    values, groups = clustered(groups=27, size=8, seed=2)
    values = np.exp(values) - 1.4  # skewed
    sums, counts = (column[:, None] for column in st.cluster_sums(values, groups))
    found = st.Bootstrap(sums, counts, 20_000, rng())
    for alpha in (0.2, 0.05, 0.01):
        low, high = found.intervals([1 - 2 * alpha])[0, :, 0]
        margin = max(-low, high)
        assert found.equivalence([margin])[0] == pytest.approx(alpha, rel=0.02)
        assert found.equivalence([1.02 * margin])[0] < alpha < found.equivalence([0.98 * margin])[0]
    assert found.equivalence([100.0])[0] == 0


def test_bootstrap_equivalence_is_students_for_normal_data_and_differs_for_skewed() -> None:
    normal = rng(6).standard_normal(200)
    skewed = rng(7).exponential(size=60) - 1
    for values, alike in ((normal - normal.mean(), True), (skewed - skewed.mean(), False)):
        sums, counts = (column[:, None] for column in st.cluster_sums(values, np.arange(len(values))))
        margin = 2 * st.standard_error(values, np.arange(len(values)))
        ours = st.Bootstrap(sums, counts, 40_000, rng()).equivalence([margin])[0]
        student = st.equivalence_tests(sums, counts, [margin])[0]
        assert (ours == pytest.approx(student, rel=0.12)) == alike
        assert alike or ours > student


def test_too_few_groups_have_no_bootstrap_equivalence() -> None:
    assert np.isnan(st.Bootstrap(np.ones((7, 1)), np.ones((7, 1)), 100, rng()).equivalence([2.0])).all()


def test_equivalence_without_spread_or_groups() -> None:
    counts = np.ones((3, 3))
    sums = np.stack([np.full(3, 0.125), np.full(3, 0.25), np.full(3, 0.5)], axis=1)
    assert st.equivalence_tests(sums, counts, [0.25] * 3).tolist() == [0.25, 1, 1]  # 2 / 2^3
    # Rounding is no spread.
    assert st.equivalence_tests(sums * 0.3, counts, [0.0375, 0.1, 0.1]).tolist() == [1, 0.25, 1]
    assert np.isnan(st.equivalence_tests(sums[:1], counts[:1], [0.2] * 3)).all()
    # Ten yes/no outcomes without a disagreement do not prove that there are none: one more each way.
    binary = st.equivalence_tests(np.zeros((10, 1)), np.ones((10, 1)), [0.1], binary=True)
    error = np.sqrt(12 / 11 * 2) / 12
    assert binary[0] == pytest.approx(stats.t.sf(0.1 / error, 9))

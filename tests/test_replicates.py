"""Replicates: seeds are told apart from items, and what is claimed of a method holds for other seeds.

R's numbers were computed once by tests/oracles/r/replicates.R, which says how to compute them again; they are
stored beside it, so that no R is needed here.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats
from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

from quantxai import statistics
from quantxai.analysis import Analysis
from quantxai.errors import InputError
from quantxai.records import Measurement, Metric, ReplicatedFinding
from quantxai.replicates import families, replicated
from quantxai.statistics.crossed import Crossed, crossed

pytestmark = pytest.mark.bare

R = json.loads((Path(__file__).parent / "oracles" / "r" / "replicates.json").read_text())["cases"]


def sums_of(table: dict[str, list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Sums [group, seed] and sizes of R's long table."""
    frame = pd.DataFrame(table)
    cells = frame.groupby(["group", "seed"])["d"].agg(["sum", "size"]).unstack()
    return cells["sum"].to_numpy(), cells["size"].to_numpy()[:, 0].astype(float)


# By hand

TABLE = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 7.0]])
"""Three groups of one item in two seeds. Sums of squares: seeds 6 (df 1), groups 12 (2), the rest 4 (2)."""


def test_variances_by_hand() -> None:
    found = crossed(TABLE, np.ones(3))
    # Mean squares 6, 6 and 2, each over 6 cells.
    assert (found.mean, found.by_seed, found.by_group) == pytest.approx((3, 1, 1))
    assert found.residual == pytest.approx(1 / 3)
    assert found.error == pytest.approx(math.sqrt(5 / 3))
    assert found.seed_sd == pytest.approx(math.sqrt((6 - 2) / 3))
    assert found.group_sd == pytest.approx(math.sqrt((6 - 2) / 2))
    assert found.residual_sd == pytest.approx(math.sqrt(2))


def test_quantile_by_hand() -> None:
    # Equal weights: the mean of t(.025; 1) = 12.7062 and t(.025; 2) = 4.3027.
    assert crossed(TABLE, np.ones(3)).quantile(0.025) == pytest.approx((12.70620 + 4.302653) / 2, rel=1e-6)


def test_the_limit_of_the_seeds_by_hand() -> None:
    # chi-square with one degree of freedom is below 0.00393214 with probability 0.05: 2 (1 / 0.00393214 - 1 / 3).
    limit = crossed(TABLE, np.ones(3)).seed_sd_limit(0.05)
    assert limit == pytest.approx(math.sqrt(2 * (1 / 0.0039321400 - 1 / 3)), rel=1e-6)


def test_deviations_between_groups_of_different_sizes_are_those_of_typical_ones() -> None:
    # Sizes 1, 2 and 3: 36 / 14 groups of a typical size.
    found = crossed(TABLE, np.array([1.0, 2.0, 3.0]))
    assert found.typical == pytest.approx(36 / 14)
    assert found.group_sd**2 == pytest.approx(36 / 14 * (found.by_group - found.residual))
    assert found.residual_sd**2 == pytest.approx(2 * 36 / 14 * found.residual)


@pytest.mark.parametrize("distance", [-3, 0, 1e-9, 0.7, 2, 30, 1e6])
@pytest.mark.parametrize("by_seed", [0, 1e-6, 1, 1e6])
def test_tails_and_quantiles_are_inverse(distance: float, by_seed: float) -> None:
    found = Crossed(0, by_seed, 1, 0.2, seeds=3, groups=40, typical=40)
    tail = found.tail(distance)
    assert 0 < tail < 1
    if 1e-290 < tail < 1 - 1e-9:
        assert found.quantile(tail) == pytest.approx(distance, rel=1e-6, abs=1e-6)


def test_a_distance_beyond_all_tails_is_as_small_as_numbers_get() -> None:
    assert Crossed(0, 0, 1, 0, seeds=3, groups=100_000, typical=100_000).tail(60) < 1e-290


@pytest.mark.parametrize("shape", [(1, 3), (5, 1)])
def test_one_group_or_one_seed_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="two groups and two seeds"):
        crossed(np.zeros(shape), np.ones(shape[0]))


# Against R: lme4, refitting without a group, searching for p


@pytest.mark.parametrize("case", ["single", "nested", "vanishing"])
def test_mean_and_error_are_those_of_lme4(case: str) -> None:
    found, reml = crossed(*sums_of(R[case]["table"])), R[case]["reml"]
    assert found.mean == pytest.approx(reml["estimate"], rel=1e-9)
    assert found.error == pytest.approx(reml["error"], rel=1e-6)


def test_deviations_are_those_of_lme4() -> None:
    found, parts = crossed(*sums_of(R["single"]["table"])), R["single"]["reml"]["components"]
    expected = (parts["seed"], parts["item"], parts["Residual"])
    assert (found.seed_sd, found.group_sd, found.residual_sd) == pytest.approx(expected, rel=1e-5)


def test_deviations_of_groups_contain_those_of_their_items() -> None:
    found, parts = crossed(*sums_of(R["nested"]["table"])), R["nested"]["reml"]["components"]
    assert found.seed_sd == pytest.approx(parts["seed"], rel=1e-5)
    # Means of four items.
    assert found.group_sd**2 == pytest.approx(parts["group"] ** 2 + parts["group:item"] ** 2 / 4, rel=1e-5)
    rest = parts["group:seed"] ** 2 + parts["Residual"] ** 2 / 4
    assert found.residual_sd**2 == pytest.approx(rest, rel=1e-5)


def test_a_component_that_vanishes_is_zero_as_in_lme4() -> None:
    assert R["vanishing"]["reml"]["singular"]
    found = crossed(*sums_of(R["vanishing"]["table"]))
    assert found.by_seed < found.residual
    assert found.seed_sd == R["vanishing"]["reml"]["components"]["seed"] == 0
    assert found.seed_sd_limit(0.05) > 0
    assert found.error == pytest.approx(math.sqrt(found.by_group))


@pytest.mark.parametrize("case", sorted(R))
def test_variances_are_those_of_refitting_without_a_group(case: str) -> None:
    found, again = crossed(*sums_of(R[case]["table"])), R[case]["refitted"]
    assert (found.mean, found.by_seed, found.by_group, found.residual) == pytest.approx(
        (again["mean"], again["by_seed"], again["by_group"], again["residual"]), rel=1e-9
    )


@pytest.mark.parametrize("case", sorted(R))
def test_interval_and_p_values_are_those_that_r_searched(case: str) -> None:
    table, expected = R[case]["table"], R[case]["weighted"]
    frame = pd.DataFrame(table)
    seeds = {f"q{seed}": part.sort_values("item")["d"].tolist() for seed, part in frame.groupby("seed")}
    groups = frame[frame["seed"] == 1].sort_values("item")["group"].astype(str).tolist()
    values = {"full": [0.0] * len(groups), **seeds}
    margin = {"s.nll": R[case]["margin"]}
    finding = one(measured(values, "nll", groups), {"q1": list(seeds)}, Analysis(margins=margin))
    assert (finding.ci_low, finding.ci_high, finding.p, finding.p_equivalence) == pytest.approx(
        (expected["ci_low"], expected["ci_high"], expected["p"], expected["p_equivalence"]), rel=1e-7
    )


# Against statsmodels, where its search succeeds


def mixed_model(table: np.ndarray) -> Any:
    """Crossed random effects of items (rows) and seeds (columns) by statsmodels."""
    items, seeds = table.shape
    place = np.arange(table.size)
    names = [[[f"i{i}" for i in range(items)]], [[f"s{s}" for s in range(seeds)]]]
    designs = [[np.eye(items)[place // seeds]], [np.eye(seeds)[place % seeds]]]
    model = MixedLM(
        table.ravel(),
        np.ones((table.size, 1)),
        groups=np.zeros(table.size),
        exog_vc=VCSpec(["item", "seed"], names, designs),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(reml=True)


def test_statsmodels_mixed_model_agrees_where_its_search_succeeds() -> None:
    source = np.random.default_rng(4)
    table = 1 + source.normal(size=(30, 1)) + source.normal(size=(1, 4)) + source.normal(size=(30, 4))
    fit, found = mixed_model(table), crossed(table, np.ones(30))
    assert fit.converged
    assert (fit.params[0], fit.bse[0]) == pytest.approx((found.mean, found.error), rel=1e-3)
    assert np.sqrt(fit.vcomp) == pytest.approx([found.group_sd, found.seed_sd], rel=0.01)
    assert math.sqrt(fit.scale) == pytest.approx(found.residual_sd, rel=0.01)


# Against the analysis of one checkpoint


@pytest.mark.parametrize("binary", [False, True])
def test_seeds_that_all_agree_are_one_checkpoint(binary: bool) -> None:
    source = np.random.default_rng(1)
    values = source.integers(-1, 2, 60).astype(float)
    groups = np.repeat(np.arange(15), 4)
    sums, counts = statistics.cluster_sums(values, groups)
    found = crossed(np.repeat(sums[:, None], 3, axis=1), counts, binary=binary)
    # The two items beside the groups of four make the sizes differ a little.
    tolerance = 0.06 if binary else 1e-9
    assert found.error == pytest.approx(
        statistics.standard_error(values, groups, binary=binary), rel=tolerance
    )
    assert found.quantile(0.025) == pytest.approx(stats.t.ppf(0.975, 14))
    assert found.seed_sd == pytest.approx(0)


def test_outcomes_without_a_disagreement_still_have_an_error() -> None:
    assert crossed(np.zeros((20, 3)), np.ones(20)).error == 0
    found = crossed(np.zeros((20, 3)), np.ones(20), binary=True)
    # Two more items, +1 and -1, among 22: 22 / 21 * 2 / 22^2, whose root is the error.
    assert found.error == pytest.approx(math.sqrt(22 / 21 * 2) / 22)
    assert found.quantile(0.025) == pytest.approx(stats.t.ppf(0.975, 19))


# What is claimed holds for other seeds

REPEATS = 1_500
LIMIT = 0.05 + 3 * math.sqrt(0.05 * 0.95 / REPEATS)
"""What 5 % may look like in so many simulations."""
Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


def drawn(seed_sd: float, groups: int = 40, size: int = 3, seeds: int = 3, mean: float = 0.0) -> Draw:
    """Sums and sizes of groups of items that share a part, with seeds that shift all items."""

    def draw(source: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        noise = source.normal
        items = noise(0, 0.5, (groups, size, 1)) + noise(0, 0.5, (groups, 1, 1))
        both = noise(0, 0.2, (groups, 1, seeds)) + noise(0, 0.8, (groups, size, seeds))
        return (mean + items + both + noise(0, seed_sd, seeds)).sum(1), np.full(groups, float(size))

    return draw


def rates(draw: Draw, *tests: Callable[[np.ndarray, np.ndarray], bool]) -> list[float]:
    """How often each test says yes."""
    source = np.random.default_rng(0)
    return np.mean(
        [[test(*data) for test in tests] for data in (draw(source) for _ in range(REPEATS))], axis=0
    )


def one_checkpoint(sums: np.ndarray, counts: np.ndarray) -> bool:
    """The usual test of clustered items, on the first seed."""
    mean = sums[:, 0].sum() / counts.sum()
    residuals = sums[:, 0] - mean * counts
    error = math.sqrt(len(counts) / (len(counts) - 1) * (residuals**2).sum()) / counts.sum()
    return abs(mean) > special.stdtrit(len(counts) - 1, 0.975) * error


def averaged(sums: np.ndarray, counts: np.ndarray) -> bool:
    """The same on each item's mean over seeds: the seeds are taken for all there are."""
    return one_checkpoint(sums.mean(1, keepdims=True), counts)


def ours(sums: np.ndarray, counts: np.ndarray) -> bool:
    found = crossed(sums, counts)
    return abs(found.mean) > found.quantile(0.025) * found.error


@pytest.mark.parametrize("seeds", [3, 5])
def test_seeds_that_shift_all_items_are_not_taken_for_an_effect(seeds: int) -> None:
    one, mean, own = rates(drawn(0.3, seeds=seeds), one_checkpoint, averaged, ours)
    assert one > 0.4
    assert mean > 0.2
    assert own < LIMIT


@pytest.mark.parametrize("seed_sd", [0, 0.1, 1])
@pytest.mark.parametrize("groups", [10, 40])
def test_intervals_hold_the_mean(seed_sd: float, groups: int) -> None:
    (missed,) = rates(drawn(seed_sd, groups), ours)
    assert missed < LIMIT


@pytest.mark.parametrize("seed_sd", [0, 0.1, 1])
def test_a_difference_on_the_margin_is_not_called_equivalent(seed_sd: float) -> None:
    def equivalent(sums: np.ndarray, counts: np.ndarray) -> bool:
        found = crossed(sums, counts)
        return found.error > 0 and (1.0 - abs(found.mean)) / found.error > found.quantile(0.05)

    (wrong,) = rates(drawn(seed_sd, mean=1.0), equivalent)
    assert wrong < LIMIT


def test_an_effect_is_found_as_well_as_in_one_checkpoint_where_seeds_agree() -> None:
    one, own = rates(drawn(0, mean=0.35), one_checkpoint, ours)
    assert 0.6 < one < 0.9
    assert own > one


@pytest.mark.parametrize("seed_sd", [0.05, 1])
def test_the_limit_of_the_seeds_holds(seed_sd: float) -> None:
    (below,) = rates(drawn(seed_sd), lambda *data: crossed(*data).seed_sd_limit(0.05) < seed_sd)
    assert below < LIMIT


# Findings

FLIP = Metric(
    name="flip", kind="binary", higher_is_better=True, margin=0.1, unit="proportion", description="Flips."
)
NLL = Metric(
    name="nll", kind="continuous", higher_is_better=False, margin=0.2, unit="nats", description="Fluency."
)
LENGTH = Metric(
    name="length", kind="continuous", higher_is_better=None, margin=1, unit="tokens", description="Length."
)
METRICS = {("s", metric.name): metric for metric in (FLIP, NLL, LENGTH)}
SEEDS = ["q", "q-seed-1", "q-seed-2"]


def measured(
    values: dict[str, list[float | None]], metric: str = "nll", groups: list[str] | None = None
) -> pd.DataFrame:
    """One metric's values by variant, items in order, each a group of its own where none are given."""
    rows = [
        (variant, "e", "d", f"i{place:04d}", groups[place] if groups else f"g{place:04d}", "s", metric, value)
        for variant, column in values.items()
        for place, value in enumerate(column)
    ]
    return pd.DataFrame(rows, columns=list(Measurement.COLUMNS)).astype({"value": float})


def one(frame: pd.DataFrame, named: dict[str, list[str]], *options: Any) -> ReplicatedFinding:
    (finding,) = replicated(frame, METRICS, named, "full", *options)
    return finding


def seen(shift: float, spread: float = 0.1, seed_sd: float = 0.0, n: int = 60) -> dict[str, list[float]]:
    """A parent's values and those of three seeds that are shifted."""
    source = np.random.default_rng(3)
    parent = source.normal(size=n)
    return {
        "full": parent.tolist(),
        **{
            name: (parent + shift + move + source.normal(0, spread, n)).tolist()
            for name, move in zip(SEEDS, seed_sd * np.array([-1.0, 0.0, 1.0]), strict=True)
        },
    }


@pytest.mark.parametrize(
    ("shift", "seed_sd", "verdict"),
    [
        (0.5, 0.0, "degraded"),
        (-0.5, 0.0, "improved"),
        (0.05, 0.0, "equivalent"),
        (0.5, 1.0, "unresolved"),
        (0.2, 0.0, "degraded"),
        (0.0, 0.3, "unresolved"),
    ],
)
def test_verdicts(shift: float, seed_sd: float, verdict: str) -> None:
    assert one(measured(seen(shift, seed_sd=seed_sd)), {"q": SEEDS}).verdict == verdict


def test_a_finding_says_what_it_is_about() -> None:
    values = seen(0.4, seed_sd=0.2)
    finding = one(measured(values), {"q": SEEDS})
    means = [np.mean(values[name]) - np.mean(values["full"]) for name in SEEDS]
    assert (finding.variant, finding.reference, finding.outcome) == ("q", "full", "s.nll")
    assert (finding.seeds, finding.n, finding.n_missing, finding.groups) == (3, 60, 0, 60)
    assert finding.estimate == pytest.approx(np.mean(means))
    assert finding.seed_sd == pytest.approx(np.std(means, ddof=1), rel=0.01)
    assert finding.seed_sd_high == pytest.approx(math.sqrt(2 / 0.10258659) * np.std(means, ddof=1), rel=0.01)
    assert finding.residual_sd == pytest.approx(0.1, rel=0.2)
    assert finding.ci_low < 0 < finding.estimate < finding.ci_high
    assert finding.note == ""


def test_items_without_a_value_in_any_seed_or_the_reference_are_counted_and_left_out() -> None:
    values: dict[str, list[float | None]] = dict(seen(0.5))
    for place, name in enumerate(["full", *SEEDS]):
        values[name] = [None if index == place else v for index, v in enumerate(values[name])]
    finding = one(measured(values), {"q": SEEDS})
    assert (finding.n, finding.n_missing) == (56, 4)
    rest = {name: column[4:] for name, column in values.items()}
    assert finding.estimate == pytest.approx(one(measured(rest), {"q": SEEDS}).estimate)


def test_items_without_any_value_give_nothing_rather_than_zero() -> None:
    values: dict[str, list[float | None]] = {name: [None, None, None] for name in ["full", *SEEDS]}
    finding = one(measured(values), {"q": SEEDS})
    assert (finding.n, finding.n_missing, finding.groups) == (0, 3, 0)
    assert {finding.estimate, finding.ci_low, finding.p, finding.p_equivalence, finding.seed_sd} == {None}
    assert finding.verdict is None


def test_one_group_is_too_few_to_judge() -> None:
    finding = one(measured(seen(0.5), groups=["g"] * 60), {"q": SEEDS})
    assert finding.estimate == pytest.approx(0.5, abs=0.05)
    assert (finding.ci_low, finding.p, finding.verdict) == (None, None, "unresolved")


def test_one_seed_is_no_replicate() -> None:
    values = seen(0.5)
    assert replicated(measured(values), METRICS, {"q": ["q"]}) == []
    only = {"full": values["full"], "q": values["q"]}
    assert replicated(measured(only), METRICS, {"q": SEEDS}) == []


def test_seeds_that_were_not_measured_are_named() -> None:
    values = seen(0.5)
    del values["q-seed-1"]
    finding = one(measured(values), {"q": SEEDS})
    assert (finding.variant, finding.seeds) == ("q", 2)
    assert finding.note.startswith("Not measured: q-seed-1. Two seeds say little")


def test_without_the_reference_there_is_no_finding() -> None:
    values = seen(0.5)
    del values["full"]
    assert replicated(measured(values), METRICS, {"q": SEEDS}) == []


def test_a_part_put_at_zero_is_said() -> None:
    parent = np.arange(20.0)
    values = {"full": parent.tolist(), **{name: (parent + np.sin(parent)).tolist() for name in SEEDS}}
    finding = one(measured(values), {"q": SEEDS})
    assert finding.seed_sd == pytest.approx(0, abs=1e-9)
    assert "put at 0; 3 seeds cannot show that it is" in finding.note


@pytest.mark.parametrize(("items", "verdict"), [(3, "unresolved"), (6, "equivalent")])
def test_what_does_not_change_at_all_is_equivalent_if_it_is_enough(items: int, verdict: str) -> None:
    values = [float(item) for item in range(items)]
    finding = one(measured(dict.fromkeys(["full", *SEEDS], values)), {"q": SEEDS})
    assert (finding.estimate, finding.ci_low, finding.ci_high) == (0, 0, 0)
    assert (finding.p, finding.p_equivalence, finding.verdict) == (1, 2.0 ** (1 - items), verdict)


def test_a_change_without_any_spread_has_no_p() -> None:
    values = {"full": [0.1, 0.2, 0.3], **{name: [0.8, 0.9, 1.0] for name in SEEDS}}
    finding = one(measured(values), {"q": SEEDS})
    assert finding.estimate == pytest.approx(0.7)
    assert (finding.p, finding.p_equivalence, finding.verdict) == (None, 1, "unresolved")


def test_binary_outcomes_stay_within_their_range() -> None:
    values = {"full": [0.0] * 8, **{name: [1.0] * 8 for name in SEEDS}}
    finding = one(measured(values, "flip"), {"q": SEEDS})
    assert finding.estimate == finding.ci_high == 1
    assert finding.ci_low > 0
    assert finding.verdict == "improved"


def test_seeds_of_binary_outcomes_differ_by_no_more_than_their_range() -> None:
    outcomes = dict(zip(["full", *SEEDS], ([0.0] * 8, [1.0] * 8, [0.0] * 8, [0.0, 1.0] * 4), strict=True))
    assert one(measured(outcomes, "flip"), {"q": SEEDS}).seed_sd_high == 1
    assert one(measured(outcomes, "nll"), {"q": SEEDS}).seed_sd_high > 1


def test_descriptive_metrics_are_not_judged() -> None:
    finding = one(measured(seen(0.5), "length"), {"q": SEEDS})
    assert finding.ci_low < 0.5 < finding.ci_high
    assert (finding.p, finding.p_equivalence, finding.verdict) == (None, None, None)


def test_p_values_are_corrected_over_all_findings() -> None:
    frames = [measured(seen(shift, spread=2.0, n=20 + shift_n), metric)
              for shift_n, (shift, metric) in enumerate([(1.0, "nll"), (0.6, "flip"), (9.0, "length")])]  # fmt: skip
    found = replicated(pd.concat(frames), METRICS, {"q": SEEDS})
    assert [finding.metric for finding in found] == ["flip", "nll", "length"]
    first, second = found[0], found[1]
    low, high = sorted([first.p, second.p])
    assert sorted([first.p_adjusted, second.p_adjusted]) == pytest.approx([min(2 * low, high), high])
    low, high = sorted([first.p_equivalence, second.p_equivalence])
    equivalence = sorted([first.p_equivalence_adjusted, second.p_equivalence_adjusted])
    assert equivalence == pytest.approx([min(2 * low, high), high])


def test_margins_and_alpha_are_those_of_the_analysis() -> None:
    frame = measured(seen(0.5))
    assert one(frame, {"q": SEEDS}, Analysis(margins={"s.nll": 0.8})).verdict == "equivalent"
    narrow, wide = (one(frame, {"q": SEEDS}, Analysis(alpha=alpha)) for alpha in (0.1, 0.01))
    assert wide.ci_low < narrow.ci_low < narrow.ci_high < wide.ci_high
    assert wide.seed_sd_high > narrow.seed_sd_high
    with pytest.raises(InputError, match=r"analysis\.margins: unknown metric 's\.nl'"):
        replicated(frame, METRICS, {"q": SEEDS}, "full", Analysis(margins={"s.nl": 0.8}))


def test_the_order_of_rows_changes_nothing() -> None:
    frame = measured(seen(0.5), groups=[f"g{place % 7}" for place in range(60)])
    shuffled = frame.sample(frac=1, random_state=1)
    assert replicated(shuffled, METRICS, {"q": SEEDS}) == replicated(frame, METRICS, {"q": SEEDS})


def test_many_metrics_take_seconds() -> None:
    source = np.random.default_rng(0)
    metrics = {("s", f"m{k:02d}"): NLL.model_copy(update={"name": f"m{k:02d}"}) for k in range(25)}
    named = {f"q{k}": [f"q{k}", f"q{k}-seed-1", f"q{k}-seed-2"] for k in range(2)}
    variants = ["full", *(name for names in named.values() for name in names)]
    items = [f"i{k:04d}" for k in range(2_000)]
    index = pd.MultiIndex.from_product([variants, items, [name for _, name in metrics]])
    frame = index.to_frame(index=False, name=["variant", "item", "metric"])
    frame = frame.assign(explainer="e", dataset="d", scorer="s", group=frame["item"])
    frame["value"] = source.normal(size=len(frame))
    start = time.perf_counter()
    found = replicated(frame, metrics, named)
    assert len(found) == 50
    assert time.perf_counter() - start < 10


# Which variants are replicates


def entry(name: str, beside: str | None = None, **changes: Any) -> dict[str, Any]:
    given = {"method": "gptq", "options": {"bits": 4}, "execution": "kernel", **changes}
    given.setdefault("seed", int(name.rpartition("-seed-")[2]) if "-seed-" in name else 0)
    return {"name": name, "beside": beside, "control": beside is not None, **given}


def test_replicates_are_found_in_the_order_of_the_manifest() -> None:
    listed = [
        entry("full", method="full", options={}),
        entry("a"),
        entry("a-seed-1", "a"),
        entry("b", options={"bits": 3}),
        entry("a-seed-2", "a"),
        entry("b-seed-9", "b", options={"bits": 3}),
    ]
    assert families(listed) == {"a": ["a", "a-seed-1", "a-seed-2"], "b": ["b", "b-seed-9"]}


def test_other_controls_and_single_seeds_are_none() -> None:
    listed = [
        entry("a"),
        entry("noise-a", "a", method="noise", options={"of": "a"}),
        entry("a-exact-seed-1", "a", execution="dequantized"),
        entry("a-again", "a"),
        entry("lost-seed-1", "lost"),
    ]
    assert families(listed) == {}

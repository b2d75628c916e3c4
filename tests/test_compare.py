"""Findings: the right items are paired, the right test is used, and the verdict follows."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from quantxai.analysis import Analysis
from quantxai.compare import compare
from quantxai.errors import InputError
from quantxai.records import Finding, Measurement, Metric

pytestmark = pytest.mark.bare

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
EVERY = Analysis(confirmatory=("s.flip", "s.nll"))


def measured(
    values: dict[str, list[float | None]],
    metric: str = "flip",
    groups: list[str] | None = None,
    dataset: str = "d",
) -> pd.DataFrame:
    """One metric's values by variant, items in order."""
    rows = [
        (
            variant,
            "e",
            dataset,
            f"i{index:04d}",
            groups[index] if groups else f"g{index:04d}",
            "s",
            metric,
            value,
        )
        for variant, column in values.items()
        for index, value in enumerate(column)
    ]
    return pd.DataFrame(rows, columns=list(Measurement.COLUMNS)).astype({"value": float})


def one(frame: pd.DataFrame, parent: str = "full", **decisions: object) -> Finding:
    (finding,) = compare(frame, METRICS, parent, Analysis.model_validate(decisions))
    return finding


def test_a_binary_finding_by_hand() -> None:
    full = [1.0] * 12 + [0.0] * 8
    quantized = [0.0] * 9 + [1.0] * 3 + [1.0] * 1 + [0.0] * 7
    found = one(measured({"full": full, "q": quantized}))
    assert (found.n, found.n_missing, found.groups) == (20, 0, 20)
    assert (found.reference_mean, found.variant_mean) == (0.6, 0.2)
    assert found.estimate == found.effect_size == pytest.approx(-0.4)
    assert found.test == "mcnemar-exact"
    assert found.p == found.p_adjusted == pytest.approx(22 / 1024)  # 2 * (1 + 10) / 2^10
    assert found.flips == 0.5
    interval = stats.binomtest(10, 20).proportion_ci()
    assert (found.flips_low, found.flips_high) == pytest.approx((interval.low, interval.high))
    assert found.ci_low < -0.4 < found.ci_high < 0
    assert found.verdict == "degraded"
    assert found.n_to_resolve is None


def test_the_interval_of_flips_has_the_level_of_the_others() -> None:
    found = one(measured({"full": [1.0] * 20, "q": [0.0] * 4 + [1.0] * 16}), alpha=0.2)
    interval = stats.binomtest(4, 20).proportion_ci(0.8)
    assert (found.flips_low, found.flips_high) == pytest.approx((interval.low, interval.high))


def test_a_continuous_finding_by_hand() -> None:
    found = one(measured({"full": [1.0, 2.0, 3.0], "q": [2.0, 4.0, 6.0]}, "nll"))
    assert found.estimate == 2
    assert found.effect_size == 2  # differences 1, 2, 3
    assert found.test == "sign-flip-permutation"
    assert found.p == 0.25
    assert (found.flips, found.flips_low) == (None, None)
    assert found.verdict == "unresolved"


@pytest.mark.parametrize(
    ("shift", "spread", "verdict"),
    [(0.5, 0.5, "degraded"), (-0.5, 0.5, "improved"), (0.0, 0.5, "equivalent"), (0.1, 2.0, "unresolved")],
)
def test_verdicts_follow_the_direction(shift: float, spread: float, verdict: str) -> None:
    noise = np.random.default_rng(0).standard_normal(200)
    noise = (noise - noise.mean()) * spread
    found = one(measured({"full": [0.0] * 200, "q": list(noise + shift)}, "nll"))
    assert found.verdict == verdict
    assert (found.n_to_resolve is not None) == (verdict == "unresolved")


def test_higher_is_better_turns_the_verdict_round() -> None:
    found = one(measured({"full": [0.0] * 30, "q": [1.0] * 25 + [0.0] * 5}))
    assert found.verdict == "improved"


def test_a_small_change_is_equivalent_even_when_significant() -> None:
    noise = np.random.default_rng(0).standard_normal(400) * 0.1
    found = one(measured({"full": [0.0] * 400, "q": list(noise + 0.05)}, "nll"))
    assert found.p < 0.001
    assert found.verdict == "equivalent"


def test_equivalence_asks_for_the_interval_of_two_one_sided_tests() -> None:
    # 95 % reaches beyond the margin, 90 % does not.
    noise = np.random.default_rng(1).standard_normal(400)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    frame = measured({"full": [0.0] * 400, "q": list(noise)}, "nll")
    found = one(frame, margins={"s.nll": 1.8 / 20})
    assert found.ci_high > 1.8 / 20
    assert found.verdict == "equivalent"
    assert one(frame, margins={"s.nll": 1.5 / 20}).verdict == "unresolved"


def test_a_few_identical_outcomes_are_no_proof_of_equivalence() -> None:
    assert one(measured({"full": [1.0] * 10, "q": [1.0] * 10})).verdict == "unresolved"
    assert one(measured({"full": [1.0] * 200, "q": [1.0] * 200})).verdict == "equivalent"


def test_a_few_numbers_that_agree_are_no_proof_of_equivalence() -> None:
    found = one(measured({"full": [0.5] * 3, "q": [0.5] * 3}, "nll"))
    assert (found.verdict, found.p_equivalence) == ("unresolved", 0.25)
    assert one(measured({"full": [0.5] * 12, "q": [0.5] * 12}, "nll")).verdict == "equivalent"


def test_only_items_with_both_values_are_paired() -> None:
    frame = measured({"full": [1.0, 1.0, None, 0.0, 0.0], "q": [0.0, None, 1.0, 0.0]})
    found = one(frame.sample(frac=1, random_state=3))
    assert (found.n, found.n_missing) == (2, 3)
    assert found.estimate == -0.5
    assert found.reference_mean == 0.5


def test_nothing_to_compare_gives_no_numbers() -> None:
    found = one(measured({"full": [None, None], "q": [1.0, 0.0]}))
    assert (found.n, found.n_missing, found.test) == (0, 2, "none")
    numbers = (
        "estimate",
        "ci_low",
        "p",
        "p_adjusted",
        "effect_size",
        "flips",
        "minimum_detectable",
        "verdict",
    )
    assert [getattr(found, name) for name in numbers] == [None] * len(numbers)
    alone = one(measured({"q": [1.0, 0.0]}))
    assert (alone.n, alone.verdict) == (0, None)
    assert compare(measured({"full": [1.0]}), METRICS) == []


def test_a_single_group_gives_no_interval() -> None:
    found = one(measured({"full": [0.0] * 5, "q": [1.0] * 5}, groups=["same"] * 5))
    assert (found.ci_low, found.p, found.verdict, found.n_to_resolve) == (None, 1.0, "unresolved", None)


def test_items_of_one_group_are_not_independent() -> None:
    values = {"full": [0.0] * 40, "q": [1.0] * 20 + [0.0] * 20}
    alone = one(measured(values))
    together = one(measured(values, groups=[f"g{index // 10}" for index in range(40)]))
    assert alone.test == "mcnemar-exact"
    assert together.test == "sign-flip-permutation"
    assert together.p == 0.5  # two groups move: ++, +-, -+, --
    assert together.p > 1000 * alone.p
    assert together.ci_high - together.ci_low > 2 * (alone.ci_high - alone.ci_low)


def test_descriptive_metrics_get_an_interval_and_no_verdict() -> None:
    frame = measured({"full": [0.0] * 30, "q": [5.0] * 29 + [4.0]}, "length")
    found = one(frame)
    assert (found.test, found.p, found.p_adjusted, found.verdict) == ("none", None, None, None)
    assert found.ci_low < found.estimate < found.ci_high


def test_holm_covers_every_confirmatory_finding_of_the_run() -> None:
    noise = np.random.default_rng(0).standard_normal((3, 30))
    frames = [
        measured({"full": [0.0] * 30, "q": list(noise[0] + 0.4), "r": list(noise[1])}, "nll"),
        measured({"full": [0.0] * 30, "q": [1.0] * 6 + [0.0] * 24}),
        measured({"full": [0.0] * 30, "q": list(noise[2])}, "length"),
    ]
    findings = compare(pd.concat(frames), METRICS, analysis=EVERY)
    family = sorted((f for f in findings if f.p is not None), key=lambda f: f.p)
    expected = np.maximum.accumulate([f.p * (3 - rank) for rank, f in enumerate(family)])
    assert [f.p_adjusted for f in family] == pytest.approx(np.minimum(expected, 1).tolist())
    assert len(findings) == 4


def test_enough_patterns_are_drawn_for_holm_to_reach_alpha() -> None:
    frames = [
        measured({"full": [0.0] * 40, **{f"q{i:03d}": [1.0] * 40 for i in range(60)}}, "nll", dataset=f"d{d}")
        for d in range(3)
    ]
    findings = compare(pd.concat(frames), METRICS, analysis=Analysis(resamples=1000))
    assert {f.verdict for f in findings} == {"degraded"}


def test_the_order_of_rows_does_not_matter_and_the_seed_does() -> None:
    source = np.random.default_rng(0)
    frame = pd.concat(
        measured(
            {name: list(source.standard_normal(60)) for name in ("full", "b", "a")},
            metric,
            groups=[f"g{index % 20}" for index in range(60)],
        )
        for metric in ("nll", "length")
    )
    findings = compare(frame, METRICS)
    assert findings == compare(frame.sample(frac=1, random_state=1), METRICS)
    assert findings != compare(frame, METRICS, seed=1)
    assert [(f.metric, f.variant) for f in findings] == [
        ("nll", "a"), ("nll", "b"), ("length", "a"), ("length", "b")
    ]  # fmt: skip


def test_a_further_variant_leaves_the_others_intervals_alone() -> None:
    source = np.random.default_rng(0)
    values = {name: list(source.standard_normal(60)) for name in ("full", "a", "b")}
    both = compare(measured(values, "nll"), METRICS)
    alone = one(measured({name: values[name] for name in ("full", "a")}, "nll"))
    assert (both[0].ci_low, both[0].ci_high) == pytest.approx((alone.ci_low, alone.ci_high), abs=1e-12)


def test_another_parent() -> None:
    found = one(measured({"base": [1.0] * 30, "full": [0.0] * 30}), parent="base")
    assert (found.variant, found.reference, found.verdict) == ("full", "base", "degraded")


def test_margins_are_replaced_by_name() -> None:
    frame = measured({"full": [0.0] * 30, "q": [0.0] * 30})
    assert one(frame).margin == 0.1
    assert one(frame, margins={"s.flip": 0.3}).margin == 0.3


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda f: pd.concat([f, f.iloc[[0]]]), {}, r"'i0000' of 'd' has two values of s\.flip.*'full'"),
        (lambda f: f.assign(metric="flop"), {}, r"no description of the metric 's\.flop'"),
        (lambda f: f, {"margins": {"s.flap": 0.1}}, r"unknown metric 's.flap'.*Did you mean 's.flip'"),
        (lambda f: f, {"confirmatory": ["s.flop"]}, r"confirmatory: unknown metric 's.flop'"),
        (lambda f: f, {"confirmatory": ["s.length"]}, r"'s.length' only describes"),
    ],
)
def test_bad_input_is_named(
    spoil: Callable[[pd.DataFrame], pd.DataFrame], options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        one(spoil(measured({"full": [1.0, 0.0], "q": [1.0, 1.0]})), **options)


def test_a_whole_sweep_takes_seconds() -> None:
    source = np.random.default_rng(0)
    metrics = {("s", f"m{i:02d}"): NLL.model_copy(update={"name": f"m{i:02d}"}) for i in range(25)}
    variants = ["full", *(f"q{i}" for i in range(6))]
    frame = pd.concat(
        measured({v: list(source.standard_normal(300)) for v in variants}, name) for _, name in metrics
    )
    frame.loc[source.random(len(frame)) < 0.05, "value"] = None
    begin = time.process_time()
    assert len(compare(frame, metrics)) == 150
    assert time.process_time() - begin < 10


def test_controls_are_a_family_of_their_own() -> None:
    """Controls beside the variants change none of their p-values, and are adjusted over themselves."""
    rng = np.random.default_rng(0)
    full = rng.normal(size=40)
    values = {name: list(full + rng.normal(0.2, 0.5, 40)) for name in ("a", "b", "noise", "rerun", "other")}
    plain = measured({"full": list(full), "a": values["a"], "b": values["b"]}, "nll")
    beside = measured({"full": list(full), **values}, "nll")

    alone = {f.variant: f.p_adjusted for f in compare(plain, METRICS)}
    found = {f.variant: f for f in compare(beside, METRICS, apart=[["noise", "rerun", "other"]])}

    for name in ("a", "b"):
        assert found[name].p_adjusted == pytest.approx(alone[name], rel=0.2)
        assert found[name].p_adjusted <= 2 * found[name].p + 1e-12  # type: ignore[operator]
    smallest = min((found[n] for n in ("noise", "rerun", "other")), key=lambda f: f.p or 1)
    assert smallest.p_adjusted == pytest.approx(min(1, 3 * smallest.p))  # type: ignore[operator]


def test_further_seeds_do_not_make_the_correction_of_null_controls_milder() -> None:
    rng = np.random.default_rng(1)
    full = rng.normal(size=40)
    shifts = {"rerun": 0.15, "again": 0.0, "seed-1": 2.0, "seed-2": 2.0}
    values = {name: list(full + rng.normal(shift, 0.5, 40)) for name, shift in shifts.items()}
    frame = measured({"full": list(full), **values}, "nll")
    found = {f.variant: f for f in compare(frame, METRICS, apart=[["rerun", "again"], ["seed-1", "seed-2"]])}
    assert {name: f.family for name, f in found.items()} == dict.fromkeys(shifts, 2)
    smaller, larger = sorted(found[name].p for name in ("rerun", "again"))
    adjusted = sorted(found[name].p_adjusted for name in ("rerun", "again"))
    assert adjusted == pytest.approx([min(2 * smaller, larger), larger])


# Families


def many(shifts: dict[str, float], metric: str, seed: int = 0) -> pd.DataFrame:
    """A parent without values but 0, and variants shifted by so much; spread 1, 40 items."""
    noise = np.random.default_rng(seed).standard_normal((len(shifts), 40))
    values = {name: list(row + shift) for (name, shift), row in zip(shifts.items(), noise, strict=True)}
    return measured({"full": [0.0] * 40, **values}, metric)


def test_what_the_plan_names_is_corrected_by_holm_and_the_rest_by_benjamini_hochberg() -> None:
    other = NLL.model_copy(update={"name": "other"})
    metrics = {**METRICS, ("s", "other"): other}
    frame = pd.concat(
        [many({"a": 0.3, "b": 0.5}, "nll"), many({"a": 0.3, "b": 0.5, "c": 0.4}, "other", seed=1)]
    )
    findings = compare(frame, metrics, analysis=Analysis(confirmatory=("s.nll",)))
    named, rest = ([f for f in findings if f.confirmatory is which] for which in (True, False))
    assert [(f.metric, f.correction, f.family) for f in named] == [("nll", "holm", 2)] * 2
    assert [(f.metric, f.correction, f.family) for f in rest] == [("other", "benjamini-hochberg", 3)] * 3
    low, high = sorted(f.p for f in named)
    assert sorted(f.p_adjusted for f in named) == pytest.approx([2 * low, max(2 * low, high)])
    expected = stats.false_discovery_control([f.p for f in rest])
    assert [f.p_adjusted for f in rest] == pytest.approx(list(expected))
    # Equivalence is corrected in the same families.
    equivalent = stats.false_discovery_control([f.p_equivalence for f in rest])
    assert [f.p_equivalence_adjusted for f in rest] == pytest.approx(list(equivalent))


def test_metrics_propose_what_is_confirmatory_where_the_plan_names_nothing() -> None:
    proposed = {("s", "nll"): NLL.model_copy(update={"confirmatory": True}), ("s", "flip"): FLIP}
    frame = pd.concat([many({"q": 0.1}, "nll"), measured({"full": [1.0] * 20, "q": [0.0] * 20})])
    assert {f.metric: f.confirmatory for f in compare(frame, proposed)} == {"nll": True, "flip": False}
    named = compare(frame, proposed, analysis=Analysis(confirmatory=("s.flip",)))
    assert {f.metric: f.confirmatory for f in named} == {"nll": False, "flip": True}


@pytest.mark.parametrize(("correction", "factor"), [("none", 1), ("bonferroni", 3)])
def test_the_correction_can_be_chosen(correction: str, factor: int) -> None:
    frame = many({"a": 0.4, "b": 0.45, "c": 0.5}, "nll")
    decisions = Analysis.model_validate({"confirmatory": ["s.nll"], "correction": correction})
    for found in compare(frame, METRICS, analysis=decisions):
        assert found.p_adjusted == pytest.approx(min(1, factor * found.p))
        assert found.correction == correction


def test_a_contrast_compares_two_variants_with_each_other() -> None:
    frame = many({"a": 0.5, "b": 0.1}, "nll")
    findings = compare(frame, METRICS, analysis=Analysis(contrasts=(("a", "b"), ("a", "missing"))))
    assert [(f.variant, f.reference) for f in findings] == [("a", "full"), ("b", "full"), ("a", "b")]
    by_pair = {(f.variant, f.reference): f for f in findings}
    difference = by_pair["a", "full"].estimate - by_pair["b", "full"].estimate
    assert by_pair["a", "b"].estimate == pytest.approx(difference)
    assert {f.family for f in findings} == {3}


def test_a_contrast_asked_for_twice_or_made_anyway_counts_once() -> None:
    frame = many({"a": 0.5, "b": 0.1}, "nll")
    asked = Analysis(contrasts=(("a", "b"), ("a", "b"), ("a", "full")))
    findings = compare(frame, METRICS, analysis=asked)
    assert [(f.variant, f.reference) for f in findings] == [("a", "full"), ("b", "full"), ("a", "b")]
    assert {f.family for f in findings} == {3}


# Missing values, ranks, equivalence


def test_the_worst_case_of_missing_yes_and_no() -> None:
    found = one(measured({"full": [1.0, 1.0, None, 0.0], "q": [0.0, None, 1.0, 0.0]}))
    assert (found.n, found.n_missing, found.estimate) == (2, 2, -0.5)
    # The variant's missing answer is no, the parent's is yes: -1, -1, 0, 0; and the other way round.
    assert (found.bound_low, found.bound_high) == (-0.5, 0.0)


def test_the_worst_case_of_missing_numbers_is_the_most_extreme_seen() -> None:
    found = one(measured({"full": [1.0, 2.0, 4.0], "q": [2.0, None, 3.0]}, "nll"))
    assert (found.bound_low, found.bound_high) == pytest.approx(((1 - 1 - 1) / 3, (1 + 2 - 1) / 3))
    complete = one(measured({"full": [1.0, 2.0], "q": [2.0, 5.0]}, "nll"))
    assert complete.bound_low == complete.bound_high == complete.estimate == 2
    nothing = one(measured({"full": [None, None], "q": [1.0, 2.0]}, "nll"))
    assert (nothing.bound_low, nothing.bound_high) == (None, None)


def test_the_rank_test_of_single_items_is_wilcoxons() -> None:
    differences = np.random.default_rng(7).standard_normal(12) + 0.3
    found = one(measured({"full": [0.0] * 12, "q": list(differences)}, "nll"))
    assert found.p_rank == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)
    assert found.p != found.p_rank
    assert one(measured({"full": [0.0] * 12, "q": [1.0] * 12})).p_rank is None


def test_equivalence_is_claimed_by_the_corrected_p() -> None:
    """Each of ten is shown equivalent by itself, and none among ten by Bonferroni."""
    noise = np.random.default_rng(1).standard_normal(400)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    columns = {f"q{i}": list(np.roll(noise, i)) for i in range(10)}
    frame = measured({"full": [0.0] * 400, **columns}, "nll")
    decisions = {"confirmatory": ["s.nll"], "margins": {"s.nll": 2 / 20}}
    alone = compare(frame, METRICS, analysis=Analysis.model_validate({**decisions, "correction": "none"}))
    corrected = compare(
        frame, METRICS, analysis=Analysis.model_validate({**decisions, "correction": "bonferroni"})
    )
    assert {f.verdict for f in alone} == {"equivalent"}
    assert {f.verdict for f in corrected} == {"unresolved"}
    assert alone[0].p_equivalence == pytest.approx(stats.t.sf(2, 399), rel=0.2)
    assert alone[0].p_equivalence >= stats.t.sf(2, 399)  # the larger of Student's and the bootstrap's
    assert corrected[0].n_to_resolve > alone[0].n


def test_skewed_differences_are_called_equivalent_less_easily_than_by_students_t() -> None:
    source = np.random.default_rng(2)
    differences = source.exponential(size=60) - 1
    differences -= differences.mean()
    margin = 2 * stats.sem(differences)
    found = one(measured({"full": [0.0] * 60, "q": list(differences)}, "nll"), margins={"s.nll": margin})
    assert found.p_equivalence > 1.1 * stats.t.sf(2, 59)
    # Yes and no keep Student's, with one more item each way.
    binary = one(measured({"full": [1.0] * 30 + [0.0] * 30, "q": [1.0] * 28 + [0.0] * 32}))
    mean, error = -2 / 62, np.sqrt(62 / 61 * (4 - 62 * (2 / 62) ** 2)) / 62
    assert binary.p_equivalence == pytest.approx(stats.t.sf((0.1 + mean) / error, 59))


def test_a_p_too_small_for_a_number_counts_as_found() -> None:
    """Of two under Holm the other then has to reach alpha, not half of it."""
    noise = list(np.random.default_rng(0).permutation([0.0, 1.0] * 600))
    frame = measured({"full": [1.0] * 1200, "gone": [0.0] * 1200})
    beside = measured({"full": noise, "near": noise[1:] + noise[:1]}, dataset="other")
    decisions = Analysis(confirmatory=("s.flip",), margins={"s.flip": 0.03})
    gone, near = compare(pd.concat([frame, beside]), METRICS, analysis=decisions)
    assert (gone.p, gone.verdict) == (0, "degraded")
    (alone,) = compare(beside, METRICS, analysis=decisions)
    assert near.n_to_resolve == alone.n_to_resolve

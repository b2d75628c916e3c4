"""Trends over bits: the right variants are put in order, and what follows the bits is found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_compare import FLIP, LENGTH, NLL, measured

from quantxai.analysis import Analysis
from quantxai.trends import methods_by_bits, trends

pytestmark = pytest.mark.bare

METRICS = {("s", metric.name): metric for metric in (FLIP, NLL, LENGTH)}
WIDTHS = {"gptq": [(3.0, "gptq-3"), (4.0, "gptq-4"), (16.0, "full")]}


def noisy(slope: float, n: int = 30, seed: int = 0) -> dict[str, list[float | None]]:
    """Values that rise by `slope` from width to width, with what each item has in common."""
    source = np.random.default_rng(seed)
    shared = 10 * source.standard_normal(n)
    return {
        name: list(shared + place * slope + source.standard_normal(n))
        for place, (_, name) in enumerate(WIDTHS["gptq"])
    }


def test_methods_and_their_widths() -> None:
    entries = [
        {"name": "full", "method": "full"},
        {"name": "gptq-4", "method": "gptq"},
        {"name": "gptq-4-b", "method": "gptq"},
        {"name": "gptq-3", "method": "gptq"},
        {"name": "gptq-2", "method": "gptq", "control": True},
        {"name": "rtn-4", "method": "rtn"},
        {"name": "int8", "method": "bnb"},
        {"name": "nf4", "method": "bnb"},
        {"name": "lost", "method": "bnb"},
    ]
    bits = {"full": 16, "gptq-4": 4, "gptq-4-b": 4, "gptq-3": 3, "gptq-2": 2, "rtn-4": 4, "int8": 8, "nf4": 4}
    receipts = {name: {"weight_bits": value} for name, value in bits.items()}
    assert methods_by_bits(entries, receipts, "full") == {
        "gptq": [(3, "gptq-3"), (4, "gptq-4"), (16, "full")],
        "bnb": [(4, "nf4"), (8, "int8"), (16, "full")],
    }


def test_a_trend_is_found_and_has_its_direction() -> None:
    frame = measured(noisy(0.7), "nll")
    (found,) = trends(frame, METRICS, WIDTHS)
    table = frame.pivot(index="item", columns="variant", values="value")[["gptq-3", "gptq-4", "full"]]
    taus = [stats.kendalltau([0, 1, 2], row).statistic for row in table.to_numpy()]
    assert found.tau == pytest.approx(np.mean(taus))
    assert found.ci_low < found.tau < found.ci_high
    assert found.p < 0.001
    assert found.p == found.p_adjusted
    assert (found.bits, found.variants) == ([3, 4, 16], ["gptq-3", "gptq-4", "full"])
    (falling,) = trends(measured(noisy(-0.7), "nll"), METRICS, WIDTHS)
    assert falling.tau < -0.3


def test_without_a_trend_the_test_holds_its_level() -> None:
    frames = [measured(noisy(0.0, 20, seed), "nll", dataset=f"d{seed}") for seed in range(200)]
    found = trends(pd.concat(frames), METRICS, WIDTHS, Analysis(resamples=2000))
    false = sum(t.p < 0.05 for t in found)
    assert stats.binom.ppf(0.001, 200, 0.05) <= false <= stats.binom.ppf(0.999, 200, 0.05)
    # Corrected over all of them, hardly any is left.
    assert sum(t.p_adjusted < 0.05 for t in found) <= 2


def test_items_of_one_group_count_once() -> None:
    values = {"gptq-3": [0.0] * 12, "gptq-4": [1.0] * 12, "full": [2.0] * 12}
    alone = trends(measured(values, "nll"), METRICS, WIDTHS)[0]
    together = trends(measured(values, "nll", groups=["a"] * 6 + ["b"] * 6), METRICS, WIDTHS)[0]
    assert (alone.tau, together.tau) == (1, 1)
    assert (alone.p, together.p) == (2 / 2**12, 0.5)
    assert together.groups == 2


def test_only_items_with_every_width_count() -> None:
    values = noisy(1.0)
    values["gptq-4"][:10] = [None] * 10
    assert trends(measured(values, "nll"), METRICS, WIDTHS)[0].n == 20
    values["gptq-4"][:] = [None] * 30
    assert trends(measured(values, "nll"), METRICS, WIDTHS) == []
    del values["gptq-4"]
    assert trends(measured(values, "nll"), METRICS, WIDTHS) == []


def test_the_interval_stays_within_the_range_of_tau() -> None:
    columns = {"gptq-3": [0.0] * 4, "gptq-4": [1.0, 1.0, 1.0, -1.0], "full": [2.0, 2.0, 2.0, 0.5]}
    (found,) = trends(measured(columns, "nll"), METRICS, WIDTHS)
    assert found.tau == pytest.approx((3 + 1 / 3) / 4)
    assert found.ci_low < found.tau < found.ci_high == 1


def test_a_width_that_failed_leaves_the_others_a_trend() -> None:
    four = {"gptq": [(2.0, "gptq-2"), *WIDTHS["gptq"]]}
    (found,) = trends(measured(noisy(1.0), "nll"), METRICS, four)
    assert found.variants == ["gptq-3", "gptq-4", "full"]
    values = {"gptq-2": [0.0] * 30, **noisy(1.0)}
    del values["full"]
    assert trends(measured(values, "nll"), METRICS, four) == []


def test_descriptive_metrics_have_no_trend() -> None:
    assert trends(measured(noisy(1.0), "length"), METRICS, WIDTHS) == []

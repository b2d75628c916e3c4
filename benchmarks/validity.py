"""How often the statistics are right, on simulated studies of which the truth is known.

python benchmarks/validity.py [--studies N] [--processes N] [--json] [--write]

Every study is judged by `quantxai.compare.compare` itself. --write keeps the result and rewrites the tables
in docs/statistics.md. With 4,000 studies a rate of 5 % is known to 0.7 points, with 2,000 to 1.0 (two Monte
Carlo errors).
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from documented import DOCS, RESULTS, with_table
from numpy.typing import NDArray
from scipy import stats

from quantxai import statistics
from quantxai.analysis import Analysis
from quantxai.compare import compare
from quantxai.records import Finding, Measurement, Metric

Floats = NDArray[np.float64]
Kind = Literal["normal", "skewed", "binary", "rare"]

PAGE = DOCS / "statistics.md"
KEPT = RESULTS / "validity.json"
ALPHA = 0.05
SHARED = 0.3
"""Share of a difference's variance that its group has in common (intraclass correlation)."""
AT_ONCE = 50
"""Studies judged by one call of compare."""


class Design(NamedTuple):
    """Who is measured.

    Attributes:
        name: in the tables.
        sizes: items of each group.
    """

    name: str
    sizes: tuple[int, ...]

    @property
    def groups(self) -> NDArray[np.int64]:
        """The group of every item."""
        found: NDArray[np.int64] = np.repeat(np.arange(len(self.sizes)), self.sizes)
        return found

    def times(self, factor: float) -> Design:
        """Return the design with so many times as many groups of the same sizes."""
        wanted = max(2, math.ceil(len(self.sizes) * factor))
        repeated = self.sizes * math.ceil(wanted / len(self.sizes))
        return Design(self.name, repeated[:wanted])


DESIGNS = (
    Design("27 groups of 8", (8,) * 27),
    Design("27 groups of 1 to 27", tuple(range(1, 28))),
    Design("60 single items", (1,) * 60),
    Design("200 single items", (1,) * 200),
    Design("12 groups of 10", (10,) * 12),
    Design("8 groups of 10", (10,) * 8),
    Design("8 groups of 2 to 30", (2, 3, 4, 6, 9, 13, 20, 30)),
    Design("5 groups of 10", (10,) * 5),
)
# Share of yes in the parent, and how much of an outcome's latent variable variant and parent have in common.
OUTCOMES = {"binary": (0.6, 0.6), "rare": (0.95, 0.8)}


def effects(design: Design, kind: Kind, studies: int, rng: np.random.Generator) -> Floats:
    """Return standardized deviations [study, item] with a part that is common to a group."""
    groups = design.groups
    shape = (studies, len(groups))
    if kind == "skewed":  # exponential: skewness 2
        common, own = rng.exponential(size=(studies, len(design.sizes))) - 1, rng.exponential(size=shape) - 1
    else:
        common, own = rng.standard_normal((studies, len(design.sizes))), rng.standard_normal(shape)
    share = SHARED if max(design.sizes) > 1 else 0.0
    drawn: Floats = math.sqrt(share) * common[:, groups] + math.sqrt(1 - share) * own
    return drawn


def draw(
    design: Design, kind: Kind, effect: float, studies: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return the parent's and the variant's values [study, item] where the true mean difference is `effect`.

    Continuous differences have the standard deviation 1. Binary outcomes are latent normal variables below
    a threshold: a part of the item that both share, and a part of each with its own shift per group.
    """
    if kind in ("normal", "skewed"):
        before = rng.standard_normal((studies, sum(design.sizes)))
        return before, before + effect + effects(design, kind, studies, rng)
    share, common = OUTCOMES[kind]
    item = rng.standard_normal((studies, sum(design.sizes)))

    def outcome(probability: float) -> Floats:
        latent = math.sqrt(common) * item + math.sqrt(1 - common) * effects(design, kind, studies, rng)
        found: Floats = (latent < stats.norm.ppf(probability)).astype(float)
        return found

    return outcome(share), outcome(share + effect)


def metric(kind: Kind, margin: float) -> Metric:
    """Return what is measured, better when higher."""
    return Metric(
        name="value",
        kind="binary" if kind in OUTCOMES else "continuous",
        higher_is_better=True,
        margin=margin,
        unit="",
        description="Simulated.",
    )


def table(values: dict[str, Floats], groups: Sequence[Any], name: str = "value") -> pd.DataFrame:
    """Return the measurements of one metric from every variant's values [item]."""
    items = len(groups)
    one = dict.fromkeys(("explainer", "dataset", "scorer"), "s") | {"metric": name}
    columns = {
        "variant": pd.Categorical.from_codes(np.repeat(np.arange(len(values)), items), list(values)),
        "item": pd.Categorical.from_codes(
            np.tile(np.arange(items), len(values)), [f"i{item:05d}" for item in range(items)]
        ),
        "group": np.tile(np.array([f"g{group:05d}" for group in groups]), len(values)),
        "value": np.concatenate(list(values.values())),
    }
    return pd.DataFrame(columns).assign(**one)[list(Measurement.COLUMNS)]


def judged(
    before: Floats, after: Floats, groups: Sequence[Any], kind: Kind, margin: float, seed: int, resamples: int
) -> list[Finding]:
    """Return compare's finding on every study [study, item]."""
    contrasts = tuple((f"v{study:04d}", f"r{study:04d}") for study in range(len(before)))
    values = {f"r{study:04d}": one for study, one in enumerate(before)}
    values |= {f"v{study:04d}": one for study, one in enumerate(after)}
    analysis = Analysis(contrasts=contrasts, resamples=resamples, alpha=ALPHA)
    found = compare(table(values, groups), {("s", "value"): metric(kind, margin)}, "none", analysis, seed)
    return [finding for finding in found if finding.reference != "none"]


def simulated(
    design: Design,
    kind: Kind,
    effect: float,
    studies: int,
    rng: np.random.Generator,
    *,
    margin: float = 1.0,
    clustered: bool = True,
    resamples: int = 2000,
) -> Iterator[Finding]:
    """Yield the findings of so many studies; with `clustered` off each item is said to be its own group."""
    groups = design.groups if clustered else np.arange(sum(design.sizes))
    for start in range(0, studies, AT_ONCE):
        before, after = draw(design, kind, effect, min(AT_ONCE, studies - start), rng)
        yield from judged(before, after, groups.tolist(), kind, margin, start, resamples)


def spread(findings: Iterable[Finding]) -> float:
    """Return the standard deviation of the estimates: the true standard error."""
    return float(np.std([f.estimate or 0.0 for f in findings]))


def share(found: Sequence[bool]) -> float:
    """Return a share of studies."""
    return round(float(np.mean(found)), 4)


def covered(findings: Sequence[Finding], truth: float) -> float:
    """Return how often the interval holds the truth."""
    return share([f.ci_low <= truth <= f.ci_high for f in findings])  # type: ignore[operator]


def significant(findings: Sequence[Finding], name: str = "p") -> float:
    """Return how often a p-value is below alpha."""
    return share([getattr(f, name) < ALPHA for f in findings])


def single(design: Design, kind: Kind, studies: int, seed: int) -> dict[str, Any]:
    """Return how the test, the interval, equivalence and the detectable effect do on one outcome.

    Effects are given in standard errors of the estimate. Skewed differences are tried on both sides, and
    the worse is kept.
    """
    rng = np.random.default_rng(seed)
    null = list(simulated(design, kind, 0, studies, rng))
    error = spread(null)
    sizes = [f.minimum_detectable for f in null if f.minimum_detectable is not None]
    sides = (-1, 1) if kind == "skewed" else (-1,)
    half = studies // 2
    shifted = {s: list(simulated(design, kind, 2 * s * error, half, rng)) for s in sides}
    at_margin = {s: list(simulated(design, kind, 4 * s * error, half, rng, margin=4 * error)) for s in sides}
    found = [
        significant(list(simulated(design, kind, s * float(np.mean(sizes)), half, rng)))
        for s in sides
        if sizes
    ]
    row = {
        "design": design.name,
        "kind": kind,
        "studies": studies,
        "test": null[0].test,
        "false_positives": significant(null),
        "false_positives_rank": None if kind in OUTCOMES else significant(null, "p_rank"),
        "coverage": covered(null, 0),
        "coverage_shifted": min(covered(f, 2 * s * error) for s, f in shifted.items()),
        "false_equivalence": max(significant(f, "p_equivalence") for f in at_margin.values()),
        "power_at_detectable": min(found, default=None),
        "naive_false_positives": None,
        "naive_coverage": None,
    }
    if max(design.sizes) > 1:
        naive = list(simulated(design, kind, 0, half, rng, clustered=False))
        row |= {"naive_false_positives": significant(naive), "naive_coverage": covered(naive, 0)}
    return row


def resized(
    design: Design, kind: Kind, effect: float, margin: float, studies: int, seed: int
) -> dict[str, Any]:
    """Return how often a study of the size `n_to_resolve` asks for is resolved.

    Effect and margin are given in standard errors at the design's own size. *Known*: asked with the true
    effect and spread. *Estimated*: asked by each unresolved study, by what it saw, and then one new study
    of that size (at most 20 times as large).
    """
    rng = np.random.default_rng(seed)
    error = spread(simulated(design, kind, 0, studies, rng))
    effect, margin, n = effect * error, margin * error, sum(design.sizes)
    first = list(simulated(design, kind, -effect, studies, rng, margin=margin))
    error = spread(first)
    known = statistics.n_to_resolve(error, len(design.sizes) - 1, -effect, margin, n, ALPHA)
    assert known is not None
    larger = simulated(design.times(known / n), kind, -effect, studies, rng, margin=margin)
    asked = [f.n_to_resolve for f in first if f.n_to_resolve is not None]
    followed = [
        next(simulated(design.times(min(20.0, size / n)), kind, -effect, 1, rng, margin=margin)).verdict
        for size in asked[: studies // 4]
    ]
    return {
        "design": design.name,
        "kind": kind,
        "effect": round(effect, 3),
        "margin": round(margin, 3),
        "n": n,
        "resolved": share([f.verdict != "unresolved" for f in first]),
        "n_known": known,
        "resolved_known": share([f.verdict != "unresolved" for f in larger]),
        "n_estimated": int(np.median(asked)),
        "resolved_estimated": share([v != "unresolved" for v in followed]),
    }


def trend(
    name: str, widths: Sequence[float], shifts: Sequence[float], studies: int, seed: int
) -> dict[str, Any]:
    """Return how often a trend over four widths is found: 27 groups of 8, a part common to group and width.

    Args:
        name: in the table.
        widths: standard deviation of what each width does to an item.
        shifts: mean of it.
        studies: how many.
        seed: of the random numbers.
    """
    design, rng = DESIGNS[0], np.random.default_rng(seed)
    columns = []
    for _ in range(studies):
        item = rng.standard_normal((1, sum(design.sizes)))
        values = [
            item + shift + sd * effects(design, "normal", 1, rng)
            for sd, shift in zip(widths, shifts, strict=True)
        ]
        tau = statistics.concordance(np.concatenate(values).T)
        columns.append(statistics.cluster_sums(tau, design.groups)[0])
    p = statistics.sign_flip_tests(np.stack(columns, axis=1), 10_000, rng)
    return {"case": name, "studies": studies, "found": share((p < ALPHA).tolist())}


def families(case: str, studies: int, seed: int) -> dict[str, Any]:
    """Return the errors of whole comparisons: 6 variants by 2 outcomes of 27 groups of 8, one parent.

    In the case *mixed* half of the variants lie three standard errors below the parent.

    Returns:
        Shares of studies with a false finding, with a false verdict, and the mean share of false findings
        among the findings; all by Holm (confirmatory) and by Benjamini-Hochberg (exploratory).
    """
    design, rng, variants = DESIGNS[0], np.random.default_rng(seed), 6
    kinds: tuple[Kind, ...] = ("normal", "binary")
    error = {kind: spread(simulated(design, kind, 0, 400, rng)) for kind in kinds}
    metrics: dict[tuple[str, str], Metric] = {
        ("s", kind): metric(kind, 2 * error[kind]).model_copy(update={"name": kind}) for kind in kinds
    }
    shifted = variants // 2 if case == "mixed" else 0
    false: dict[str, list[bool]] = {"holm": [], "bh": []}
    wrong: dict[str, list[bool]] = {"holm": [], "bh": []}
    proportion: list[float] = []
    for study in range(studies):
        frame = _sweep(design, {kind: 3 * error[kind] for kind in kinds}, shifted, variants, rng)
        for name, outcomes in (("holm", ("s.normal", "s.binary")), ("bh", ())):
            analysis = Analysis(resamples=1000, alpha=ALPHA, confirmatory=outcomes)
            found = compare(frame, metrics, "full", analysis, study)
            null = [f.variant >= f"v{shifted}" for f in found]
            rejected = [f.p_adjusted < ALPHA for f in found]  # type: ignore[operator]
            errors = [r and n for r, n in zip(rejected, null, strict=True)]
            bad = [
                f.verdict == ("degraded" if n else "equivalent") or f.verdict == "improved"
                for f, n in zip(found, null, strict=True)
            ]
            false[name].append(any(errors))
            wrong[name].append(any(bad))
            if name == "bh":
                proportion.append(sum(errors) / max(1, sum(rejected)))
    return {
        "case": case,
        "studies": studies,
        "comparisons": variants * len(kinds),
        "holm_any_false": share(false["holm"]),
        "holm_any_wrong_verdict": share(wrong["holm"]),
        "bh_any_false": share(false["bh"]),
        "bh_false_share": round(float(np.mean(proportion)), 4),
    }


def _sweep(
    design: Design, effect: dict[Kind, float], shifted: int, variants: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Return the measurements of one parent and of variants, of which the first so many are worse."""
    frames = []
    for kind, size in effect.items():
        binary = kind in OUTCOMES
        yes, common = OUTCOMES[kind] if binary else (0.5, 0.5)
        item = rng.standard_normal(sum(design.sizes))
        found: dict[str, Floats] = {}
        for number in range(-1, variants):
            shift = size if 0 <= number < shifted else 0.0
            latent = math.sqrt(common) * item + math.sqrt(1 - common) * effects(design, kind, 1, rng)[0]
            # The difference of two continuous outcomes then has the standard deviation 1, as in `draw`.
            values = (latent < stats.norm.ppf(yes - shift)).astype(float) if binary else latent - shift
            found[f"v{number}" if number >= 0 else "full"] = values
        frames.append(table(found, design.groups.tolist(), kind))
    return pd.concat(frames)


KINDS: tuple[Kind, ...] = ("normal", "skewed", "binary", "rare")
TRENDS = (
    ("no trend", (1, 1, 1, 1), (0, 0, 0, 0)),
    ("no trend, fewer bits spread more", (2, 1.5, 1, 0.5), (0, 0, 0, 0)),
    ("a trend of 0.2 standard deviations a step", (1, 1, 1, 1), (-0.6, -0.4, -0.2, 0)),
)
RESIZED = [
    (DESIGNS[place], kind, effect, margin)
    for place in (0, 2)
    for kind in ("normal", "binary")
    for effect, margin in ((1.5, 1.0), (0.0, 1.5))
]


def _timed(
    task: tuple[str, Callable[..., dict[str, Any]], tuple[Any, ...]],
) -> tuple[str, dict[str, Any], float]:
    name, function, arguments = task
    started = time.process_time()
    return name, function(*arguments), time.process_time() - started


def measure(studies: int, processes: int) -> dict[str, Any]:
    """Return all results, the same with any number of processes; minutes with thousands of studies."""
    cases = enumerate((design, kind) for design in DESIGNS for kind in KINDS)
    tasks: list[Any] = [("families", families, (case, studies // 4, 1)) for case in ("null", "mixed")]
    tasks += [("single", single, (design, kind, studies, number)) for number, (design, kind) in cases]
    tasks += [("trends", trend, (name, widths, shifts, studies, 2)) for name, widths, shifts in TRENDS]
    tasks += [("resized", resized, (*case, studies // 4, 3)) for case in RESIZED]
    found: dict[str, Any] = {"alpha": ALPHA, "shared": SHARED} | {name: [] for name in TABLES}
    seconds = 0.0
    # Garbage is never collected from what is frozen: statsmodels collects it for every correction.
    with multiprocessing.get_context("spawn").Pool(processes, gc.freeze) as pool:
        for name, row, spent in pool.imap(_timed, tasks, chunksize=1):
            found[name].append(row)
            seconds += spent
    return found | {"processor_seconds": round(seconds)}


def error(rate: float, studies: int) -> float:
    """Return the Monte Carlo error of a rate."""
    return math.sqrt(rate * (1 - rate) / studies)


def _rate(value: float | None, *, most: float = 1.0, least: float = 0.0, studies: int) -> str:
    """Return a rate in per cent, bold where it misses its bounds by more than two Monte Carlo errors."""
    if value is None:
        return ""
    over = value > most + 2 * error(most, studies)
    under = value < least - 2 * error(least, studies)
    text = f"{100 * value:.1f}"
    return f"**{text}**" if over or under else text


def table_single(rows: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table of single outcomes."""
    lines = [
        "| design | outcome | false positives | coverage | coverage, shifted | false equivalence | power at the MDE "
        "| unclustered: false positives | unclustered: coverage |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        n, half = row["studies"], row["studies"] // 2
        cells = [
            row["design"],
            row["kind"],
            _rate(row["false_positives"], most=ALPHA, studies=n),
            _rate(row["coverage"], least=0.93, studies=n),
            _rate(row["coverage_shifted"], least=0.93, studies=half),
            _rate(row["false_equivalence"], most=ALPHA, studies=half),
            _rate(row["power_at_detectable"], least=0.75, studies=half),
            _rate(row["naive_false_positives"], most=ALPHA, studies=half),
            _rate(row["naive_coverage"], least=0.93, studies=half),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table_families(rows: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table of whole comparisons."""
    lines = [
        "| 12 comparisons | Holm: any false finding | Holm: any wrong verdict "
        "| BH: any false finding | BH: false share |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        rates = [
            row[key] for key in ("holm_any_false", "holm_any_wrong_verdict", "bh_any_false", "bh_false_share")
        ]
        lines.append(f"| {row['case']} | {' | '.join(f'{100 * rate:.1f}' for rate in rates)} |")
    return "\n".join(lines)


def table_trends(rows: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table of trends."""
    return "\n".join(
        ["| four widths | found |", "|---|---|", *(f"| {r['case']} | {100 * r['found']:.1f} |" for r in rows)]
    )


def table_resized(rows: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table of studies as large as asked for."""
    lines = [
        "| design | outcome | effect | margin | n | resolved "
        "| n, truth known | resolved | n, estimated (median) | resolved |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        rates = [f"{100 * r[key]:.0f}" for key in ("resolved", "resolved_known", "resolved_estimated")]
        cells = [
            r["design"], r["kind"], f"{r['effect']:.3f}", f"{r['margin']:.3f}", str(r["n"]), rates[0],
            str(r["n_known"]), rates[1], str(r["n_estimated"]), rates[2],
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES = {
    "single": table_single,
    "families": table_families,
    "trends": table_trends,
    "resized": table_resized,
}


def main() -> None:
    """Simulate, print the tables, and keep them if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=2000, help="studies of each case (default: 2000)")
    parser.add_argument("--processes", type=int, default=1, help="at once (default: 1)")
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON, too, on the last line"
    )
    parser.add_argument("--write", action="store_true", help="keep them and rewrite the tables in docs")
    arguments = parser.parse_args()
    found = measure(arguments.studies, arguments.processes)
    for name, make in TABLES.items():
        print(make(found[name]), end="\n\n")
    if arguments.write:
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
        page = PAGE.read_text(encoding="utf-8")
        for name, make in TABLES.items():
            page = with_table(page, f"validity-{name}", make(found[name]))
        PAGE.write_text(page, encoding="utf-8")
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()

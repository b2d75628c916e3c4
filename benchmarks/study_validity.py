"""How often the analysis of ratings is right, on simulated studies of which the truth is known.

python benchmarks/study_validity.py [--studies N] [--processes N] [--json] [--write]

Ratings are drawn by `userstudy.simulation`, from raters and source items with intercepts and slopes of their own,
and judged by `userstudy.analysis.find` itself. --write keeps the result. With 300 studies, two variants
each, a rate of 5 % is known to about one point (one Monte Carlo error).
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from documented import RESULTS
from scipy import optimize

from userstudy.analysis import RatingFinding, find
from userstudy.analysis.findings import rating_findings
from userstudy.analysis.whole import first_answers
from userstudy.design import draw_design
from userstudy.raters import LARGEST_DROP, Truth
from userstudy.records import Part, Stimulus
from userstudy.settings import StudySettings
from userstudy.simulation import Simulator

KEPT = RESULTS / "study_validity.json"
ALPHA = 0.05
VARIANTS = ("full", "a", "b")
RATERS = {"careless": 0.0, "straight_lining": 0.0, "drop_out": 0.0, "attention_failure": 0.0}
"""Everybody reads and stays, so that what is simulated is the estimator."""


class Size(NamedTuple):
    """Participants, source items, and the source items of a group."""

    participants: int
    items: int
    in_group: int = 1


SIZES = (Size(12, 10), Size(24, 10), Size(24, 20), Size(48, 20), Size(24, 20, 2))
MIDDLE = (Size(12, 10), Size(24, 20), Size(48, 20))
TRUTHS = {
    "as by default": Truth(**RATERS),
    "no slopes": Truth(participant_by_variant=0, item_by_variant=0, **RATERS),
    "large slopes": Truth(participant_by_variant=0.12, item_by_variant=0.16, **RATERS),
    "near the top": Truth(mean=0.9, label_right=0.95, **RATERS),
    "careless and leaving": Truth(),
}


def study(size: Size, *, pair: bool) -> tuple[StudySettings, dict[str, Stimulus]]:
    """Return the settings and material of a study: a scale and label guesses, or pairs."""
    kinds = ("pairwise",) if pair else ("likert", "label")
    text = {"title": "", "consent": "", "instructions": ""}
    settings = StudySettings.model_validate(
        {
            "name": "simulated",
            "texts": text,
            "questions": [{"id": kind, "kind": kind, "text": ""} for kind in kinds],
            "design": {
                "items": size.items,
                "per_participant": size.items,
                "repeats": 0,
                "attention_checks": 1,
                "show": "pair" if pair else "one",
            },
            # Each kind of question by itself: families are corrected as elsewhere.
            "analysis": {"confirmatory": [kinds[0]]},
        }
    )
    stimuli = [
        Stimulus(
            id=f"{item:06x}{place:06x}", item=f"e/d/{item:03d}", group=f"g{item // size.in_group:03d}", explainer="e",
            dataset="d", variant=variant, label="x", outcome="correct", labels=("x", "y", "z"), answer="x",
            parts=(Part(name="text", text=f"Text {item}."),),
        )
        for item in range(size.items)
        for place, variant in enumerate(VARIANTS)
    ]  # fmt: skip
    return settings, {stimulus.id: stimulus for stimulus in stimuli}


def drawn(size: Size, truth: Truth, studies: int, seed: int, *, pair: bool) -> Iterator[tuple[Any, ...]]:
    """Yield the ratings of so many studies, with settings and design."""
    settings, stimuli = study(size, pair=pair)
    design = draw_design(stimuli.values(), settings)
    simulator = Simulator(settings, stimuli, design, size.participants)
    rng = np.random.default_rng([seed, size.participants, size.items])
    for _ in range(studies):
        yield simulator.draw(truth, rng), settings, design


def shifted(truth: Truth, kind: str, difference: float) -> Truth:
    """Return the raters of whom the expected answers about variants differ so much from the reference's."""
    settings, _ = study(SIZES[0], pair=kind == "pairwise")
    question = settings.question(kind)

    def short(change: float) -> float:
        changed = truth.model_copy(update={"others": change})
        base = 0.0 if kind == "pairwise" else changed.expected(question, "full", "full")
        return changed.expected(question, "a", "full") - base - difference

    change = 0.0 if difference == 0 else optimize.brentq(short, -6, 6)
    return truth.model_copy(update={"others": float(change)})


def rates(findings: list[RatingFinding], truth: float) -> dict[str, float]:
    """Return how often findings say what, of those that say anything."""
    known = [one for one in findings if one.p is not None]
    low, high = (np.array([getattr(one, name) for one in known], float) for name in ("ci_low", "ci_high"))
    estimates = np.array([one.estimate for one in known], float)
    return {
        "known": len(known) / len(findings),
        "bias": float(estimates.mean() - truth),
        "sd": float(estimates.std(ddof=1)),
        "error": float(np.mean([one.error for one in known])),
        "covered": float(((low <= truth) & (truth <= high)).mean()),
        "found": float(np.mean([one.p < ALPHA for one in known if one.p is not None])),
        "equivalent": float(
            np.mean([one.p_equivalence < ALPHA for one in known if one.p_equivalence is not None])
        ),
    }


def cases(name: str, size: Size, kinds: tuple[str, ...], effect: str, studies: int) -> list[dict[str, Any]]:
    """Return the rates of questions of the same studies; `effect` is none, margin or largest (the published drop)."""
    pair = kinds[0] == "pairwise"
    settings, _ = study(size, pair=pair)
    margin = settings.analysis.margin if kinds[0] == "likert" else settings.analysis.margin_share
    difference = {"none": 0.0, "margin": -margin, "largest": LARGEST_DROP}[effect]
    raters = shifted(TRUTHS[name], kinds[0], difference)
    findings = [
        one
        for ratings, settings, design in drawn(size, raters, studies, 1, pair=pair)
        for one in find(ratings, settings, design)
    ]
    rows = []
    for kind in kinds:
        head = {
            "raters": name,
            **size._asdict(),
            "question": kind,
            "effect": effect,
            "difference": difference,
        }
        own = [one for one in findings if one.question == kind]
        rows.append(head | {"studies": studies} | rates(own, difference))
    return rows


def checks(name: str, size: Size, studies: int) -> list[dict[str, Any]]:
    """Return how often each way of testing the scale finds a difference where there is none."""
    found: dict[str, list[bool]] = {p: [] for p in ("p", "p_ordinal", "p_gee", "p_wilcoxon", "p_mixed")}
    for ratings, settings, design in drawn(
        size, shifted(TRUTHS[name], "likert", 0.0), studies, 2, pair=False
    ):
        only = settings.model_copy(update={"questions": settings.questions[:1]})
        rated = first_answers(ratings, design)
        for one in rating_findings(rated, only, design.reference, VARIANTS[1:], checks=True):
            for p, values in found.items():
                value = getattr(one, p)
                values.append(value is not None and value < ALPHA)
    shares = {p: float(np.mean(values)) for p, values in found.items()}
    return [{"raters": name, **size._asdict(), "studies": studies} | shares]


def _timed(task: tuple[Any, ...]) -> tuple[str, list[dict[str, Any]], float]:
    """Return a task's table, its rows, and the processor seconds it took."""
    table, *arguments = task
    begin = time.process_time()
    return table, {"single": cases, "checks": checks}[table](*arguments), time.process_time() - begin


def measure(studies: int, processes: int) -> dict[str, Any]:
    """Return all results, the same with any number of processes."""
    default, both, pair = "as by default", ("likert", "label"), ("pairwise",)
    tasks: list[tuple[Any, ...]] = [
        ("single", default, size, kinds, "none", studies) for size in SIZES for kinds in (both, pair)
    ]
    tasks += [
        ("single", default, size, (kind,), "margin", studies) for size in MIDDLE for kind in (*both, *pair)
    ]
    for name in TRUTHS:
        if name != default:
            tasks.append(("single", name, Size(24, 10), both, "none", studies))
            tasks += [("single", name, Size(24, 10), (kind,), "margin", studies) for kind in both]
    tasks += [("single", default, size, ("likert",), "largest", studies // 2) for size in SIZES]
    tasks += [("checks", name, Size(24, 10), studies // 4) for name in (default, "no slopes", "large slopes")]
    found: dict[str, Any] = {"alpha": ALPHA, "single": [], "checks": []}
    seconds = 0.0
    # Garbage is never collected from what is frozen: statsmodels collects it for every correction.
    with multiprocessing.get_context("spawn").Pool(processes, gc.freeze) as pool:
        for name, rows, spent in pool.imap(_timed, tasks, chunksize=1):
            found[name] += rows
            seconds += spent
            print(*(json.dumps(row) for row in rows), sep="\n", flush=True)
    return found | {"processor_seconds": round(seconds)}


def error(rate: float, studies: int) -> float:
    """Return the Monte Carlo error of a rate over studies."""
    return math.sqrt(rate * (1 - rate) / studies)


def table_single(rows: list[dict[str, Any]]) -> str:
    """Return the rates as Markdown."""
    lines = [
        "| raters | participants | items | question | truth | covered, % | found, % | equivalent, % | error / sd |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        items = f"{r['items']}" if r["in_group"] == 1 else f"{r['items']} in groups of {r['in_group']}"
        shares = [f"{100 * r[key]:.1f}" for key in ("covered", "found", "equivalent")]
        cells = [r["raters"], str(r["participants"]), items, r["question"], f"{r['difference']:g}", *shares]
        lines.append(f"| {' | '.join(cells)} | {r['error'] / r['sd']:.2f} |")
    return "\n".join(lines)


def table_checks(rows: list[dict[str, Any]]) -> str:
    """Return how often each test is wrong, as Markdown."""
    names = {
        "p": "crossed (decides)", "p_ordinal": "ordinal, two-way", "p_gee": "ordinal GEE",
        "p_wilcoxon": "signed ranks", "p_mixed": "mixed model",
    }  # fmt: skip
    lines = [
        f"| raters | participants | items | {' | '.join(names.values())} |",
        "|---" * (3 + len(names)) + "|",
    ]
    for r in rows:
        shares = [f"{100 * r[key]:.1f}" for key in names]
        lines.append(f"| {r['raters']} | {r['participants']} | {r['items']} | {' | '.join(shares)} |")
    return "\n".join(lines)


def main() -> None:
    """Simulate, print the tables, and keep them if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=300, help="studies of each case (default: 300)")
    parser.add_argument("--processes", type=int, default=1, help="at once (default: 1)")
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON, too, on the last line"
    )
    parser.add_argument("--write", action="store_true", help="keep them")
    arguments = parser.parse_args()
    found = measure(arguments.studies, arguments.processes)
    print(table_single(found["single"]), table_checks(found["checks"]), sep="\n\n")
    if arguments.write:
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()

"""What a reader must know before quoting a number."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from quantxai.analysis_plan import PlanStatus
from quantxai.manifest import Manifest
from quantxai.records import Finding
from quantxai.replicates import families
from quantxai.report.text import change, count, listing, metric_label
from quantxai.statistics import MIN_BOOTSTRAP_CLUSTERS

__all__ = ["caveats", "truncation"]


def caveats(
    manifest: Manifest,
    findings: Sequence[Finding],
    receipts: Mapping[str, Mapping[str, Any]],
    plan: PlanStatus | None = None,
) -> list[str]:
    """Return the caveats of a run, a sentence or two each.

    Args:
        manifest: what was asked for.
        findings: what is shown.
        receipts: what the quantizers did, by variant.
        plan: whether it was planned; null where that is said elsewhere.
    """
    found = []
    if plan is not None and not plan.planned:
        found.append(
            f"{plan.sentence} No verdict here decides anything: a change that was looked for among many is found by "
            "chance now and then, so have it confirmed on new items."
        )
    if manifest.model.get("note"):
        found.append(str(manifest.model["note"]))
    dense = [str(v["name"]) for v in manifest.variants if v.get("execution") == "dequantized"]
    dense = [name for name in dense if name != manifest.parent]
    if dense:
        found.append(
            f"{listing(dense)} ran dequantized: dense matrices that hold exactly the quantized weights. What "
            "a kernel's own arithmetic adds is not measured, and no speed can be read off."
        )
    if manifest.analysis.get("pool"):
        names = [metric_label(str(name)) for name in manifest.analysis["pool"]]
        found.append(
            f"Pooled on request: cells may differ in {listing(names)}, so a difference between variants may be "
            "a difference of these."
        )
    found += _seeds(manifest, receipts)
    found += _few_groups(findings, float(manifest.analysis.get("alpha", 0.05)))
    found += _missing(findings)
    if any(f.verdict == "unresolved" for f in findings):
        found.append("Unresolved is not unchanged: each such result says how many items would settle it.")
    return found


def truncation(manifest: Manifest, truncated: Mapping[tuple[str, str], Collection[str]]) -> list[str]:
    """Return how many items had a text that was cut, if any had."""
    if not truncated:
        return []
    items = {(str(e["explainer"]), str(e["dataset"])): e["items"] for e in manifest.explainers}
    told = [
        f"{len(cut)} of {count(items.get(place, len(cut)), 'item')} of {place[0]} on {place[1]}"
        for place, cut in truncated.items()
    ]
    return [f"Texts too long for the model were cut: {listing(told)}. They are marked item by item."]


def _seeds(manifest: Manifest, receipts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the warning that one calibrated checkpoint stands for itself, not for its method."""
    tried = families(manifest.variants)
    others = {name for names in tried.values() for name in names[1:]}
    calibrated = {name for name, receipt in receipts.items() if receipt.get("calibration_digest")}
    names = [name for v in manifest.variants if (name := str(v["name"])) in calibrated - others]
    few = [name for name in names if len(calibrated.intersection(tried.get(name, ()))) < 3]
    if not few:
        return []
    one = len(few) == 1
    return [
        f"{listing(few)} {'depends' if one else 'depend'} on a calibration sample, and fewer than three were tried: "
        f"the results are about {'this checkpoint' if one else 'these checkpoints'}, not about the method."
    ]


def _few_groups(findings: Sequence[Finding], alpha: float) -> list[str]:
    """Warn of data with so few groups that intervals are wide, or that no test can find anything at all.

    The smallest p that flipping the signs of k groups gives is 2^(1 - k); by Holm's and Bonferroni's methods it has
    to lie below alpha over the family's size, if no other comparison has been found.
    """
    few: dict[str, int] = {}
    hopeless: dict[str, int] = {}
    for f in findings:
        if f.n and f.groups < MIN_BOOTSTRAP_CLUSTERS:
            few[f.dataset] = min(f.groups, few.get(f.dataset, f.groups))
        steps = max(f.family, 1) if f.correction in ("holm", "bonferroni") else 1
        if f.test == "sign-flip-permutation" and steps * 2.0 ** (1 - f.groups) >= alpha:
            hopeless[f.dataset] = min(f.groups, hopeless.get(f.dataset, f.groups))
    found = []
    if hopeless:
        found.append(
            f"Some results rest on so few independent groups of items ({_by_dataset(hopeless)}) that no change, "
            "however large, could be told from chance once corrected for the number of comparisons."
        )
    wide = {dataset: groups for dataset, groups in few.items() if dataset not in hopeless}
    if wide:
        found.append(
            f"Some results rest on fewer than {MIN_BOOTSTRAP_CLUSTERS} independent groups of items "
            f"({_by_dataset(wide)}): their intervals take differences to be normally distributed."
        )
    return found


def _by_dataset(groups: Mapping[str, int]) -> str:
    return ", ".join(f"{dataset}: {number}" for dataset, number in groups.items())


def _missing(findings: Sequence[Finding]) -> list[str]:
    """Say that items are missing, and which verdicts would not hold if these were the worst there could be."""
    missing = [f for f in findings if f.n_missing and f.metric != "failure"]
    if not missing:
        return []
    worst = max(missing, key=lambda f: f.n_missing)
    found = [
        "Where an item lacks a value on one side or both, as when an edit failed, the remaining items are "
        f"compared; the numbers say how many (fewest: {metric_label(worst.metric)} of {worst.variant} "
        f"on {worst.dataset}, {worst.n} of {worst.n + worst.n_missing})."
    ]
    frail = [f for f in missing if _frail(f)]
    if frail:
        first = max(frail, key=lambda f: (f.confirmatory, f.n_missing))
        ends = " to ".join(change(end, first.unit) for end in (first.bound_low, first.bound_high))
        unit = "\N{NO-BREAK SPACE}pp" if first.unit == "proportion" else ""
        found.append(
            f"{count(len(frail), 'verdict')} would not hold whatever the missing values are; such as "
            f"{metric_label(first.metric)} of {first.variant} on {first.dataset}, {first.verdict}: with the worst "
            f"values seen in their place the change lies anywhere from {ends}{unit}. The tables of "
            "every number give these bounds."
        )
    return found


def _frail(f: Finding) -> bool:
    """Whether the worst case for missing values reaches beyond the margin, or takes a change away."""
    if f.bound_low is None or f.bound_high is None:
        return False
    if f.verdict == "equivalent":
        return max(-f.bound_low, f.bound_high) > f.margin
    return f.verdict in ("degraded", "improved") and f.bound_low <= 0 <= f.bound_high

"""What the report says in words about how a run was made: caveats, methods, references."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from quantxai.bibliography import cited
from quantxai.manifest import Manifest
from quantxai.records import Finding, Metric
from quantxai.report.text import count, listing, metric_label

__all__ = ["caveats", "direction", "methods", "references", "truncation"]

_METHODS: dict[str, str] = {
    "counterfactual": (
        "Counterfactuals: the model is shown a text, the label it gives it itself and another label, and "
        "asked for an edited text with that label: at once (naive), after naming the words behind its label "
        "(guided; both Bhattacharjee et al. 2024), or after naming latent features and their words (FLARE, "
        "Bhattacharjee et al. 2023). Without a usable edit (nothing readable, nothing at all, or no change) an "
        "item counts as not flipped, and its other metrics are missing."
    ),
    "memorization": (
        "Knowledge memorization: the model completes facts, a subject and a relation, in the form of the LRE "
        "data (Hernandez et al. 2024). Recall looks at the greedy completion, the log-probability (nats) and "
        "the rank at the gold object."
    ),
    "neuron_attribution": (
        "Neuron attribution (Yu and Ananiadou 2024): what each FFN neuron, attention head and layer adds to the "
        "log-probability of the gold object's first token, the final norm held as it is at the end. The layers' "
        "scores do not add up to the log-probability: each is the effect of adding one vector. Counted are the "
        "variant's neurons that score at least as high as the last of the parent's top 300 (Wang et al. 2025), and "
        "how far the two top 300, their ranks and the layers' contributions agree; a noise control is the baseline."
    ),
    "multi_hop": (
        "Latent multi-hop reasoning (Yang et al. 2024): questions over two facts, whose bridge entity is described "
        "and not named, beside both facts alone. EntRec is the log-probability of the bridge's first token read from "
        "the residual stream at the description's end; CnstScore compares the next tokens with those after the "
        "prompt that names the bridge; the causal link is the sign of its derivative along EntRec's gradient."
    ),
    "natural_language": (
        "Natural-language explanations: the model explains its answer in words, before it answers or after. The "
        "answer is the label whose word it finds likeliest, calibrated; what it says when left to speak is kept "
        "beside it."
    ),
    "edit_test": (
        "Counterfactual edit test (Atanasova et al. 2023): words are inserted until one changes the prediction; a "
        "faithful explanation of the new prediction mentions it."
    ),
    "chain_of_thought": (
        "Early answering and added mistakes (Lanham et al. 2023): a chain of thought is cut off, or a mistake put "
        "into it; a prediction that stays the same was not made by the chain."
    ),
    "biased_features": (
        "Biased features (Turpin et al. 2023): a wrong answer is suggested; where the prediction follows it, a "
        "faithful explanation says so."
    ),
    "cc_shap": (
        "CC-SHAP (Parcalabescu and Frank 2024): how much each word of the input contributes to the prediction and "
        "to the explanation, as Shapley values; compared is how alike the two are."
    ),
}
"""By explainer method: what it does, and whose ideas it rests on, cited as `bibliography.Work.citation` reads."""


def direction(metric: Metric) -> str:
    """Return which way a metric is better, in words."""
    if metric.higher_is_better is None:
        return "descriptive"
    return "higher is better" if metric.higher_is_better else "lower is better"


def caveats(
    manifest: Manifest, findings: Sequence[Finding], receipts: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return what a reader must know before quoting a number."""
    found = []
    if manifest.model.get("note"):
        found.append(str(manifest.model["note"]))
    quantized = [v for v in manifest.variants if v["name"] != manifest.parent]
    dense = [str(v["name"]) for v in quantized if v.get("execution") == "dequantized"]
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
    found += _few_groups(manifest, findings)
    missing = [f for f in findings if f.n_missing and f.metric != "failure"]
    if missing:
        worst = max(missing, key=lambda f: f.n_missing)
        found.append(
            "Where an item has no value on either side, as when an edit failed, the remaining items are "
            f"compared; the numbers say how many (fewest: {metric_label(worst.metric)} of {worst.variant} "
            f"on {worst.dataset}, {worst.n} of {worst.n + worst.n_missing})."
        )
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
    calibrated = {name for name, receipt in receipts.items() if receipt.get("calibration_digest")}
    seeds: dict[str, set[Any]] = {}
    for variant in manifest.variants:
        if variant["name"] in calibrated:
            seeds.setdefault(str(variant.get("method")), set()).add(variant.get("seed"))
    few = [method for method, tried in seeds.items() if len(tried) < 3]
    if not few:
        return []
    verb = "depends" if len(few) == 1 else "depend"
    return [
        f"{listing(few)} {verb} on a calibration sample, and fewer than three were tried: the results are "
        "about these checkpoints, not about the method."
    ]


def _few_groups(manifest: Manifest, findings: Sequence[Finding]) -> list[str]:
    """Return a warning for data sets with so few groups that Holm cannot let any result through."""
    family = sum(f.p is not None for f in findings)
    alpha = float(manifest.analysis.get("alpha", 0.05))
    few: dict[str, int] = {}
    for f in findings:
        if f.test == "sign-flip-permutation" and family * 2.0 ** (1 - f.groups) >= alpha:
            few[f.dataset] = min(f.groups, few.get(f.dataset, f.groups))
    return [
        f"Some results on {dataset} rest on {count(groups, 'independent group')} of items: too few for any change, "
        f"however large, to be told from chance among {family} comparisons."
        for dataset, groups in few.items()
    ]


def methods(manifest: Manifest, findings: Sequence[Finding]) -> list[str]:
    """Return the methods section, a paragraph each."""
    used = dict.fromkeys(str(entry.get("method")) for entry in manifest.explainers)
    found = [_METHODS[name] for name in used if name in _METHODS]
    analysis = manifest.analysis
    alpha = float(analysis.get("alpha", 0.05))
    resamples = int(analysis.get("resamples", 10_000))
    family = sum(f.p is not None for f in findings)
    found.append(
        "Every variant saw the same items, prompts and stop rules, and is compared with "
        f"{manifest.parent} item by item; generation is greedy unless an option says otherwise. Items of "
        "one group (a relation, a premise) are not independent, so all statistics work on whole groups. "
        f"Intervals ({100 * (1 - alpha):g} %) are BCa cluster bootstraps (Efron 1987; {resamples:,} "
        "resamples) widened to the t distribution (Hesterberg 2015), with one added disagreement each way "
        "for yes/no outcomes (Bonett and Price 2012). Tests are exact McNemar for yes/no outcomes of "
        "independent items (McNemar 1947), otherwise sign-flip permutations of whole groups; p-values are "
        f"adjusted over all {family} comparisons (Holm 1979)."
    )
    found.append(
        f"A change is called equivalent when its {100 * (1 - 2 * alpha):g} % interval lies within the "
        "metric's margin, set before looking (two one-sided tests, Schuirmann 1987); otherwise degraded or "
        f"improved when the adjusted p is below {alpha:g}; otherwise unresolved. The smallest detectable "
        "difference has 80 % power. Flips are items whose yes/no outcome differs from the parent's in "
        "either direction (Dutta et al. 2024), with exact intervals (Clopper and Pearson 1934). The "
        "question and the choice of measures follow Wang et al. 2025."
    )
    return found


def references(methods: Sequence[str]) -> list[str]:
    """Return the works that the methods section cites, a line each, sorted."""
    return [work.line for work in cited(methods)]

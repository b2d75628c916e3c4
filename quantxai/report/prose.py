"""What the report says in words about how a run was made and compared: methods and references."""

from __future__ import annotations

from collections.abc import Sequence

from quantxai.bibliography import cited
from quantxai.manifest import Manifest
from quantxai.records import Finding, Metric
from quantxai.report.sources import sources
from quantxai.report.text import count, listing
from quantxai.statistics import MIN_BOOTSTRAP_CLUSTERS

__all__ = ["direction", "methods", "references"]

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


def methods(
    manifest: Manifest, findings: Sequence[Finding], *, trends: bool = False, replicated: bool = False
) -> list[str]:
    """Return the methods section, a paragraph each.

    Args:
        manifest: what was asked for.
        findings: of variants against the parent or each other.
        trends: whether trends over bits are shown.
        replicated: whether results over several calibration seeds are shown.
    """
    used = dict.fromkeys(str(entry.get("method")) for entry in manifest.explainers)
    found = [_METHODS[name] for name in used if name in _METHODS]
    found += filter(None, [sources(manifest, findings)])
    alpha = float(manifest.analysis.get("alpha", 0.05))
    resamples = int(manifest.analysis.get("resamples", 10_000))
    controlled = any(entry.get("control") for entry in manifest.variants)
    found += [
        "Every variant saw the same items, prompts and stop rules, and is compared with "
        f"{manifest.parent} item by item; generation is greedy unless an option says otherwise. Items of "
        "one group (a relation, a premise) are not independent, so all statistics work on whole groups. "
        f"Intervals ({100 * (1 - alpha):g} %) of the mean difference are BCa cluster bootstraps (Efron 1987; "
        f"{resamples:,} resamples) widened to the t distribution (Hesterberg 2015), and with fewer than "
        f"{MIN_BOOTSTRAP_CLUSTERS} groups Student's t on the cluster-robust error (Cameron and Miller 2015); yes/no "
        "outcomes get one added disagreement each way (Bonett and Price 2012). That there is no difference is tested "
        "by exact McNemar for yes/no outcomes of independent items (McNemar 1947), otherwise by sign flips of whole "
        "groups; signed ranks of whole groups (Wilcoxon 1945; Rosner et al. 2006) are a check, on which no verdict "
        "rests.",
        f"{_families(findings, controlled)} Equivalence is shown by two one-sided tests against the metric's margin "
        "(Schuirmann 1987), Student's t with the cluster-robust error and, for numbers, the bootstrap as well; the "
        "largest p is corrected within the same family. A "
        f"change is called equivalent when that p is below {alpha:g}, even where the small change is no chance; "
        f"otherwise degraded or improved when the adjusted p of no difference is below {alpha:g}; otherwise "
        "unresolved, with about how many items would settle it with 80 % power (Julious 2004). The detectable "
        "difference is that of a single comparison with 80 % power.",
        "Effect sizes are the difference of shares for yes/no outcomes and the mean difference over its standard "
        "deviation for others; Cliff's delta (Cliff 1993) compares all values with all. Flips are items whose yes/no "
        "outcome differs in either direction (Dutta et al. 2024), with exact intervals (Clopper and Pearson 1934). "
        "Items without a value on one side are left out; the worst case puts the lowest or highest value seen in "
        "their place. The question and the choice of measures follow Wang et al. 2025.",
    ]
    if trends:
        found.append(
            "A trend over bits is Kendall's tau of an item's values with the bits, the mean over items; it is tested "
            "by the statistic of Jonckheere 1954 over blocks (Skillings and Wolfe 1978), whole groups flipped, and "
            "corrected over all trends (Benjamini and Hochberg 1995)."
        )
    if replicated:
        found.append(
            "Over several calibration seeds a mixed model with crossed random effects of seeds and groups of items "
            "is fitted by its sums of squares (Searle et al. 1992), so that intervals hold for other seeds, too; "
            "p-values are corrected over all of these results (Benjamini and Hochberg 1995)."
        )
    return found


def _families(findings: Sequence[Finding], controlled: bool) -> str:
    """Say how p-values were corrected, family by family."""
    asked = next((f for f in findings if f.confirmatory), None)
    others = max((f.family for f in findings if not f.confirmatory), default=0)
    ways = {
        "holm": "by Holm's method (Holm 1979)",
        "bonferroni": "by Bonferroni's method",
        "benjamini-hochberg": "by that of Benjamini and Hochberg 1995",
        "none": "not at all",
    }
    parts = []
    if asked is not None:
        parts.append(f"over the {count(asked.family, 'confirmatory comparison')} {ways[asked.correction]}")
    if others:
        method = "by the method of Benjamini and Hochberg 1995"
        apart = ", and over those of controls," if controlled else ""
        parts.append(f"over the exploratory ones{apart} {method}")
    return f"p-values are corrected {listing(parts)}." if parts else "No p-value was computed."


def references(methods: Sequence[str]) -> list[str]:
    """Return the works that the methods section cites, a line each, sorted."""
    return [work.line for work in cited(methods)]

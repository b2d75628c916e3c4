"""The records that travel from a configuration to a finding.

All are frozen and closed (an unknown field is an error), so that what is stored can be trusted to
mean what its documentation says.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Correction",
    "Finding",
    "Item",
    "Measurement",
    "Metric",
    "Record",
    "ReplicatedFinding",
    "Row",
    "Trend",
    "Verdict",
    "digest",
]

Verdict = Literal["degraded", "equivalent", "improved", "unresolved"]
Correction = Literal["holm", "bonferroni", "benjamini-hochberg", "none"]


def digest(value: Any) -> str:
    """Return the SHA-256 (64 hex digits) of a value's canonical JSON form.

    Keys are sorted and separators fixed, so two values that are equal as JSON have one digest.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Record(BaseModel):
    """A frozen record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Item(Record):
    """One thing every variant is asked about."""

    id: str = Field(description="Unique within its data set.")
    text: str = Field(description="What is edited, judged or completed.")
    label: str | None = Field(None, description="Gold label or gold object, where there is one.")
    group: str = Field(
        description="Items of one group (premise, relation) are not independent: statistics cluster by it."
    )
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="Task-specific parts: premise, hypothesis, explanation, subject, relation, template.",
    )
    aliases: tuple[str, ...] = Field((), description="Other correct surface forms of the label.")


class Row(Record):
    """What an explainer observed on one item: raw facts only, no scores.

    An explainer subclasses this with its own documented fields (text, numbers, booleans, lists of
    them); the stored columns follow from the annotations.
    """

    item: str = Field(description="Item.id")
    group: str = Field(description="Item.group")


class Metric(Record):
    """One number a scorer gives per item, and how to read it."""

    name: str = Field(description="Unique within its scorer, snake_case.")
    kind: Literal["binary", "continuous"] = Field(description="Chooses test and effect size.")
    higher_is_better: bool | None = Field(
        description="Direction of quality; null for a descriptive metric, which gets no verdict."
    )
    margin: float = Field(gt=0, description="Largest change, in the metric's unit, still called equivalent.")
    margin_reason: str = Field("", description="Why the margin is what it is where nobody sets another.")
    confirmatory: bool = Field(
        False, description="Whether it is a confirmatory outcome where the analysis plan names none."
    )
    unit: str = Field(description="proportion, nats, tokens, cosine, perplexity ...")
    description: str = Field(description="One sentence for the report's reader.")


class Measurement(Record):
    """One item's value of one metric for one variant."""

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "variant",
        "explainer",
        "dataset",
        "item",
        "group",
        "scorer",
        "metric",
        "value",
    )

    variant: str
    explainer: str
    dataset: str
    item: str
    group: str
    scorer: str
    metric: str
    value: float | None = Field(description="null where the item has no value, never 0 for missing.")


class _Outcome(Record):
    """What was compared on which metric: the head of every result."""

    explainer: str
    dataset: str
    scorer: str
    metric: str
    kind: Literal["binary", "continuous"]
    higher_is_better: bool | None
    unit: str

    @property
    def outcome(self) -> str:
        """Scorer and metric, as a plan or a policy names them: `recall.recall`."""
        return f"{self.scorer}.{self.metric}"


class Finding(_Outcome):
    """One variant against its reference on one metric, paired by item."""

    variant: str
    reference: str = Field(description="What it is compared with: the parent, or another variant.")
    n: int = Field(description="Items with a value on both sides.")
    n_missing: int = Field(description="Items with no value on at least one side.")
    groups: int = Field(description="Clusters among the n items.")
    reference_mean: float | None
    variant_mean: float | None
    estimate: float | None = Field(description="Mean of variant minus reference over the n items.")
    ci_low: float | None = Field(description="Cluster-bootstrap interval of the estimate, lower end.")
    ci_high: float | None
    bound_low: float | None = Field(
        description="Worst case for missing values: the estimate over all items if each was as low as any seen."
    )
    bound_high: float | None = Field(
        description="The same the other way; both equal the estimate where none is."
    )
    effect_size: float | None = Field(
        description="Binary: the risk difference (= estimate). Continuous: mean difference / its standard deviation."
    )
    cliffs_delta: float | None = Field(
        description="P(variant's value is higher) - P(it is lower), over all pairs of a value of each."
    )
    test: str = Field(description="mcnemar-exact, sign-flip-permutation or none.")
    p: float | None
    p_adjusted: float | None = Field(description="p corrected for the family's number of comparisons.")
    p_rank: float | None = Field(
        description="Continuous only: Wilcoxon signed-rank p, whole groups flipped; a check, no verdict rests on it."
    )
    margin: float
    p_equivalence: float | None = Field(
        description="The larger p of two one-sided tests that the difference lies within the margin."
    )
    p_equivalence_adjusted: float | None = Field(description="The same corrected for the family.")
    confirmatory: bool = Field(description="Whether the analysis plan names it.")
    correction: Correction = Field(description="How p was adjusted over the family.")
    family: int = Field(description="Comparisons that were corrected together; 0 for descriptive metrics.")
    minimum_detectable: float | None = Field(
        description="Smallest true difference found with 80 % power at this n and spread."
    )
    flips: float | None = Field(
        description="Binary only: share of the n items whose outcome differs from the reference's."
    )
    flips_low: float | None = Field(description="Clopper-Pearson interval of flips, lower end.")
    flips_high: float | None
    verdict: Verdict | None = Field(description="null for descriptive metrics and where n is 0.")
    n_to_resolve: int | None = Field(
        description="For an unresolved verdict: about how many items would settle it (statistics.n_to_resolve)."
    )


class Trend(_Outcome):
    """Whether a metric rises or falls with the bits of one method, item by item."""

    method: str = Field(description="The quantizer whose variants differ in bits.")
    bits: list[float] = Field(description="The widths compared, rising; the last is the parent's.")
    variants: list[str] = Field(description="One for each width.")
    n: int = Field(description="Items with a value at every width.")
    groups: int
    tau: float | None = Field(description="Mean over items of Kendall's tau-a of value and bits, -1 to 1.")
    ci_low: float | None = Field(description="Cluster-bootstrap interval of tau, lower end.")
    ci_high: float | None
    p: float | None = Field(description="Jonckheere-Terpstra over blocks, whole groups flipped.")
    p_adjusted: float | None = Field(description="Benjamini-Hochberg over the run's trends.")


class ReplicatedFinding(_Outcome):
    """A quantizer, not one checkpoint of it, against the reference: over several calibration seeds."""

    variant: str = Field(description="Name of the variant with the first seed.")
    reference: str
    seeds: int = Field(description="Replicates: variants that differ in the calibration seed alone.")
    n: int = Field(description="Items with a value for every seed and the reference.")
    n_missing: int = Field(description="Items without one for a seed or the reference.")
    groups: int
    estimate: float | None = Field(description="Mean difference over seeds and items.")
    ci_low: float | None = Field(description="Interval for other seeds and items like these, lower end.")
    ci_high: float | None
    seed_sd: float | None = Field(
        description="Standard deviation between seeds of the mean difference over all items there could be."
    )
    seed_sd_high: float | None = Field(
        description="Upper limit of seed_sd, one-sided: few seeds leave it wide."
    )
    group_sd: float | None = Field(
        description="Standard deviation between groups of items of their mean difference over all seeds."
    )
    residual_sd: float | None = Field(description="What is left of a group's mean difference in one seed.")
    note: str = Field(description="What to know about these numbers, such as a share put at 0; or empty.")
    p: float | None
    p_adjusted: float | None = Field(description="Benjamini-Hochberg over the run's replicated findings.")
    margin: float
    p_equivalence: float | None
    p_equivalence_adjusted: float | None
    verdict: Verdict | None

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
    "Finding",
    "Item",
    "Measurement",
    "Metric",
    "Record",
    "Row",
    "Verdict",
    "digest",
]

Verdict = Literal["degraded", "equivalent", "improved", "unresolved"]


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


class Finding(Record):
    """One variant against its parent on one metric, paired by item."""

    variant: str
    parent: str
    explainer: str
    dataset: str
    scorer: str
    metric: str
    kind: Literal["binary", "continuous"]
    higher_is_better: bool | None
    unit: str
    n: int = Field(description="Items with a value on both sides.")
    n_missing: int = Field(description="Items with no value on at least one side.")
    groups: int = Field(description="Clusters among the n items.")
    parent_mean: float | None
    variant_mean: float | None
    estimate: float | None = Field(description="Mean of variant minus parent over the n items.")
    ci_low: float | None = Field(description="Cluster-bootstrap interval of the estimate, lower end.")
    ci_high: float | None
    effect_size: float | None = Field(
        description="Binary: the risk difference (= estimate). Continuous: mean difference / its standard deviation."
    )
    test: str = Field(description="mcnemar-exact, sign-flip-permutation or none.")
    p: float | None
    p_adjusted: float | None = Field(description="Holm over the run's directional findings.")
    margin: float
    minimum_detectable: float | None = Field(
        description="Smallest true difference found with 80 % power at this n and spread."
    )
    flips: float | None = Field(
        description="Binary only: share of the n items whose outcome differs from the parent's."
    )
    flips_low: float | None = Field(description="Clopper-Pearson interval of flips, lower end.")
    flips_high: float | None
    verdict: Verdict | None = Field(description="null for descriptive metrics and where n is 0.")
    n_to_resolve: int | None = Field(
        description="For an unresolved verdict: about how many items would settle it (statistics.n_to_resolve)."
    )

"""How results are compared: decided in the sweep's configuration, before anything is seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from pydantic import Field, PositiveFloat

from quantxai.conditions import Condition
from quantxai.errors import InputError, nearest
from quantxai.records import Metric, Record

__all__ = ["Analysis", "confirmatory_outcomes", "with_margins"]


class Analysis(Record):
    """How variants are compared with the parent, and which comparisons were asked for beforehand."""

    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="Error rate of each family, and 1 - the intervals' level."
    )
    confirmatory: tuple[str, ...] | None = Field(
        None,
        description='Outcomes the run is to decide, "scorer.metric"; where left out, those that their scorers '
        "propose (quantxai list scorers). All others are exploratory.",
    )
    correction: Literal["holm", "bonferroni", "none"] = Field(
        "holm",
        description="For the number of confirmatory comparisons; exploratory ones get Benjamini-Hochberg.",
    )
    contrasts: tuple[tuple[str, str], ...] = Field(
        (),
        description='Variants compared with each other, too, the second being the reference: [["gptq-4", "rtn-4"]].',
    )
    resamples: int = Field(10_000, ge=1_000, description="Bootstrap and permutation resamples.")
    pool: tuple[Condition, ...] = Field(
        (),
        description="Conditions in which compared cells may differ all the same; the report then says so.",
    )
    margins: dict[str, PositiveFloat] = Field(
        default_factory=dict,
        description='Equivalence margins in place of the metrics\' own: "scorer.metric" = value.',
    )


def confirmatory_outcomes(
    analysis: Analysis, metrics: Mapping[tuple[str, str], Metric]
) -> frozenset[tuple[str, str]]:
    """Return scorer and name of the metrics that the analysis decides.

    Raises:
        InputError: one is unknown, or has no direction to be judged by.
    """
    if analysis.confirmatory is None:
        return frozenset(key for key, metric in metrics.items() if metric.confirmatory)
    found = {_named(name, metrics, "confirmatory") for name in analysis.confirmatory}
    for scorer, name in sorted(found):
        if metrics[scorer, name].higher_is_better is None:
            raise InputError(
                f"analysis.confirmatory: '{scorer}.{name}' only describes: neither more nor less of it is better, so "
                "it gets no verdict. Take it out."
            )
    return frozenset(found)


def with_margins(
    analysis: Analysis, metrics: Mapping[tuple[str, str], Metric]
) -> dict[tuple[str, str], Metric]:
    """Return the metrics with the analysis's margins in place of their own.

    Raises:
        InputError: a margin for an unknown metric.
    """
    changed = dict(metrics)
    for name, margin in analysis.margins.items():
        key = _named(name, metrics, "margins")
        changed[key] = metrics[key].model_copy(update={"margin": margin})
    return changed


def _named(name: str, metrics: Collection[tuple[str, str]], where: str) -> tuple[str, str]:
    names = {f"{scorer}.{metric}": (scorer, metric) for scorer, metric in metrics}
    if name not in names:
        raise InputError(
            f"analysis.{where}: unknown metric '{name}'.{nearest(name, names)} Available: {', '.join(sorted(names))}."
        )
    return names[name]

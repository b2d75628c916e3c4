"""What a release has to keep: a closed TOML file, read by `quantxai gate`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, field_validator

from quantxai.errors import ConfigError, nearest
from quantxai.manifest import Manifest
from quantxai.records import Metric, Record
from quantxai.validation import entry_name, read_toml, validate

__all__ = ["Asked", "Part", "Policy", "Requirement", "expand", "load_policy", "parse_policy"]


class Requirement(Record):
    """One metric that may not get worse, on every named variant, explainer and data set."""

    metric: str = Field(
        description='"scorer.metric", or the metric alone where only one scorer has one of that name.'
    )
    explainer: str | None = Field(None, description="Its name in the run; every one the metric is scored on.")
    dataset: str | None = Field(None, description="Its name; every one the metric is scored on.")
    variant: tuple[str, ...] | None = Field(
        None, description="A name or a list of them; every quantized variant where left out, controls not."
    )
    margin: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Largest loss that passes, in the metric's unit; that of the run's analysis where left out.",
    )

    @field_validator("variant", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [value]
        if isinstance(value, list) and not value:
            raise ValueError("names no variant; leave it out for every quantized one")
        return value


class Policy(Record):
    """All that has to hold."""

    alpha: float | None = Field(
        None,
        gt=0,
        lt=0.25,
        description="Chance of a pass that is none; that of the run's analysis where left out.",
    )
    require: tuple[Requirement, ...]


class Part(NamedTuple):
    """The scores of one variant that one scorer gave to one explainer's rows of one data set."""

    variant: str
    explainer: str
    dataset: str
    scorer: str


@dataclass(frozen=True)
class Asked:
    """One outcome a policy asks for: a metric of one variant on one explainer's rows of one data set.

    Attributes:
        requirement: which [[require]] table asks for it, from 1.
        scorer: the metric's.
        metric: with the margin it is held against.
        variant: None where the run has none to ask about.
        explainer: None where the run plans no such scores and the policy names none.
        dataset: likewise.
        planned: whether the run plans such scores.
    """

    requirement: int
    scorer: str
    metric: Metric
    variant: str | None
    explainer: str | None = None
    dataset: str | None = None
    planned: bool = True

    @property
    def part(self) -> Part:
        """The scores it is one metric of."""
        return Part(self.variant or "", self.explainer or "", self.dataset or "", self.scorer)

    @property
    def key(self) -> tuple[str, ...]:
        """Variant, explainer, data set, scorer and metric."""
        return (*self.part, self.metric.name)


def load_policy(path: Path) -> Policy:
    """Read and validate a policy.

    Raises:
        ConfigError: the file is missing, unreadable, not TOML, or holds another key or value than a
            policy may; the message names the file, the key, what is allowed and the nearest match.
    """
    table = read_toml(path, "docs/gate.md shows what a policy looks like.")
    return parse_policy(table, str(path))


def parse_policy(table: Mapping[str, Any], source: str = "policy") -> Policy:
    """Validate a policy given as plain tables; `source` leads every error message."""
    required = table.get("require", ())
    if not isinstance(required, list | tuple) or not all(isinstance(one, Mapping) for one in required):
        raise ConfigError(f"{source}: require must be a list of tables, each written as [[require]]")
    policy = validate(Policy, {"require": (), **table}, source)
    if not policy.require:  # which would hold for any run
        raise ConfigError(
            f"{source}: nothing is required. Name what has to hold, each in a [[require]] table."
        )
    return policy


def expand(policy: Policy, manifest: Manifest) -> list[Asked]:
    """Return every outcome a policy asks of a run, in the policy's order.

    Raises:
        ConfigError: it names something the run does not have, or a metric that cannot be better or worse.
    """
    return [
        one for index, required in enumerate(policy.require) for one in _expanded(required, index, manifest)
    ]


def _expanded(required: Requirement, index: int, manifest: Manifest) -> Iterator[Asked]:
    scorer, metric = _metric(required.metric, index, manifest)
    if required.margin is not None:
        metric = metric.model_copy(update={"margin": required.margin})
    explainers = [str(e["explainer"]) for e in manifest.explainers]
    datasets = [str(e["dataset"]) for e in manifest.explainers]
    for name, allowed, what in (
        (required.explainer, explainers, "explainer"),
        (required.dataset, datasets, "data set"),
    ):
        if name is not None:
            _check_name(name, allowed, what, index)
    planned = {(k.explainer, k.dataset) for k in manifest.cells if k.kind == "scores" and k.scorer == scorer}
    places = [
        place
        for place in dict.fromkeys(zip(explainers, datasets, strict=True))
        if place in planned
        and required.explainer in (None, place[0])
        and required.dataset in (None, place[1])
    ]
    # Where there is nothing to ask about, that is one outcome, too: it must not vanish.
    variants: list[str | None] = [*_variants(required, index, manifest)] or [None]
    for variant in variants:
        if not places:
            named = (required.explainer, required.dataset)
            yield Asked(index + 1, scorer, metric, variant, *named, planned=False)
        for place in places:
            yield Asked(index + 1, scorer, metric, variant, *place)


def _metric(name: str, index: int, manifest: Manifest) -> tuple[str, Metric]:
    metrics = manifest.metrics
    found = [key for key in metrics if name in (key[1], ".".join(key))]
    if not found:
        _check_name(name, [".".join(key) for key in metrics], "metric", index)
    if len(found) > 1:
        choices = ", ".join(".".join(key) for key in found)
        raise ConfigError(
            f"{entry_name('require', index)}: several scorers have a metric '{name}'. Name one of: {choices}."
        )
    metric = metrics[found[0]]
    if metric.higher_is_better is None:
        raise ConfigError(
            f"{entry_name('require', index)}: '{name}' only describes: neither more nor less of it is better, so it "
            "cannot get worse. Require another metric."
        )
    margin = manifest.planned_analysis.margins.get(".".join(found[0]), metric.margin)
    return found[0][0], metric.model_copy(update={"margin": margin})


def _variants(required: Requirement, index: int, manifest: Manifest) -> list[str]:
    names = [str(v["name"]) for v in manifest.variants if v["name"] != manifest.parent]
    if required.variant is None:
        controls = {str(v["name"]) for v in manifest.variants if v.get("control")}
        return [name for name in names if name not in controls]
    for name in required.variant:
        if name == manifest.parent:
            raise ConfigError(
                f"{entry_name('require', index)}: '{name}' is the parent, which the variants are compared with."
            )
        _check_name(name, names, "variant", index)
    return list(dict.fromkeys(required.variant))


def _check_name(name: str, allowed: Collection[str], what: str, index: int) -> None:
    if name not in allowed:
        # There may be dozens: all are told only where none is near.
        instead = nearest(name, allowed) or f" It has: {', '.join(dict.fromkeys(allowed)) or 'none'}."
        raise ConfigError(f"{entry_name('require', index)}: the run has no {what} '{name}'.{instead}")

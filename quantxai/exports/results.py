"""Everything about a run that is exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantxai.analysis_plan import PlanStatus, plan_status
from quantxai.manifest import Manifest
from quantxai.records import Finding, Metric, ReplicatedFinding, Trend
from quantxai.report import prose
from quantxai.report.caveats import caveats
from quantxai.store import Store

__all__ = ["Results", "read_results"]


@dataclass(frozen=True)
class Results:
    """What was found in a run, and what it rests on.

    Attributes:
        run: the directory's name.
        manifest: what was asked for and with what.
        plan: whether the confirmatory outcomes were planned.
        receipts: what each quantizer did, by variant.
        findings: comparisons of two variants.
        trends: over the bits of a method.
        replicated: quantizers over several calibration seeds.
        caveats: what a reader must know before quoting a number, a sentence each.
        methods: the methods section, a paragraph each.
    """

    run: str
    manifest: Manifest
    plan: PlanStatus
    receipts: Mapping[str, Mapping[str, Any]]
    findings: list[Finding]
    trends: list[Trend]
    replicated: list[ReplicatedFinding]
    caveats: list[str]
    methods: list[str]

    @property
    def controls(self) -> list[str]:
        """Names of the null controls."""
        return [str(entry["name"]) for entry in self.manifest.variants if entry.get("control")]

    @property
    def variants(self) -> list[str]:
        """Names of the quantized variants."""
        others = (self.manifest.parent, *self.controls)
        return [str(entry["name"]) for entry in self.manifest.variants if entry["name"] not in others]

    @property
    def metrics(self) -> dict[tuple[str, str], Metric]:
        """What each metric is, by scorer and name."""
        return self.manifest.metrics

    @property
    def alpha(self) -> float:
        """1 - the level of the intervals."""
        return float(self.manifest.analysis.get("alpha", 0.05))


def read_results(store: Store) -> Results:
    """Read what is exported of a run, complete or not.

    Raises:
        CorruptCell: the stored findings cannot be read.
    """
    manifest, findings, receipts = store.manifest, store.findings(), store.receipts()
    trends, replicated = store.trends(), store.replicated()
    return Results(
        run=store.path.resolve().name,
        manifest=manifest,
        plan=plan_status(store),
        receipts=receipts,
        findings=findings,
        trends=trends,
        replicated=replicated,
        caveats=caveats(manifest, findings, receipts),
        methods=prose.methods(manifest, findings, trends=bool(trends), replicated=bool(replicated)),
    )

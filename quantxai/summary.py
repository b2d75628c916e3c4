"""A run in a few lines: what a terminal shows when a sweep has ended."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic import Field

from quantxai.records import Record
from quantxai.report.summary import answer
from quantxai.store import Store

__all__ = ["HEADLINES", "LEGEND", "RunSummary", "VariantSummary", "summarize"]

HEADLINES = {"recall": "recall", "own_soft_flip": "flips"}
"""Metrics shown beside the perplexity, with their headings; left out where a run has none of them."""
LEGEND = {
    "recall": "recall: facts completed correctly",
    "own_soft_flip": "flips: edits that change the variant's own prediction",
}


class VariantSummary(Record):
    """One variant."""

    name: str
    weight_bits: float | None
    perplexity: float | None = Field(description="From its receipt; null where it has none.")
    metrics: dict[str, float | None] = Field(description="Means of the headline metrics over all items.")
    verdicts: dict[str, int] = Field(
        description="How many comparisons ended in which verdict; {} for the parent."
    )
    warnings: list[str]
    failure: str | None


class RunSummary(Record):
    """One run."""

    run: str
    report: str
    parent: str
    answer: str = Field(description="The run's answer in one sentence, and what it rests on.")
    cells: int
    done: int
    variants: list[VariantSummary]


def summarize(store: Store) -> RunSummary:
    """Return the summary of a run, complete or not."""
    manifest = store.manifest
    findings = store.findings()
    receipts = store.receipts()
    means = _means(store)
    failures = {f.variant: f.message for f in reversed(store.failures())}
    names = [str(v["name"]) for v in manifest.variants]
    controls = {str(v["name"]) for v in manifest.variants if v.get("control")}
    quantized = [f for f in findings if f.variant not in controls and f.reference == manifest.parent]
    variants = [
        VariantSummary(
            name=name,
            weight_bits=receipts.get(name, {}).get("weight_bits"),
            perplexity=receipts.get(name, {}).get("perplexity"),
            metrics={m: means.get((name, m)) for m in HEADLINES if any(key[1] == m for key in means)},
            verdicts=dict(Counter(f.verdict for f in findings if f.variant == name and f.verdict)),
            warnings=list(receipts.get(name, {}).get("warnings", [])),
            failure=failures.get(name),
        )
        for name in names
    ]
    return RunSummary(
        run=str(store.path),
        report=str(store.path / "report.html"),
        parent=manifest.parent,
        answer=" ".join(filter(None, answer(quantized, names))),
        cells=len(manifest.cells),
        done=sum(store.has(key) for key in manifest.cells),
        variants=variants,
    )


def _means(store: Store) -> dict[tuple[str, str], float]:
    """Mean of each headline metric, by variant and metric, over the items that have a value."""
    frame: Any = store.measurements()
    frame = frame[frame["metric"].isin(HEADLINES) & frame["value"].notna()]
    return {key: float(mean) for key, mean in frame.groupby(["variant", "metric"])["value"].mean().items()}

"""Everything the templates show, worked out beforehand: templates only lay out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from quantxai.manifest import Failure, Manifest
from quantxai.records import Finding, Metric
from quantxai.report import plots, prose, text
from quantxai.report.items import Section, sections
from quantxai.store import Store
from quantxai.tables import to_frame

__all__ = ["Group", "Report", "Row", "make_report"]

_HEADLINES = (
    ("own_soft_flip", "own_hard_flip"),
    ("parent_soft_flip", "parent_hard_flip"),
    ("edit_distance_normalized", "edit_distance_relative", "edit_distance"),
    ("nll", "perplexity"),
    ("recall", "first_token_recall"),
    ("logprob",),
    ("reciprocal_rank",),
)
"""Metrics preferred for the plots, the first there is of each; where there is none, any directional."""
MOST_PANELS = 4
"""Plots per data set."""


@dataclass(frozen=True)
class Row:
    """One metric in the table of one data set: its description, the parent, a finding per variant."""

    scorer: str
    metric: Metric
    parent_mean: float | None
    findings: dict[str, Finding]


@dataclass(frozen=True)
class Group:
    """One explainer on one data set.

    Attributes:
        explainer: its name.
        dataset: the data set's name.
        entry: the manifest's description of both.
        rows: one per metric.
        panels: title, caption and picture of the plots.
        failed: failed generations by kind and variant.
        measured: items of the data set with a row, by variant.
    """

    explainer: str
    dataset: str
    entry: dict[str, Any]
    rows: list[Row]
    panels: list[tuple[str, str, Markup]]
    failed: dict[str, dict[str, int]]
    measured: dict[str, int]


@dataclass(frozen=True)
class Report:
    """All a template needs."""

    manifest: Manifest
    title: str
    headline: str
    basis: str
    incomplete: list[str]
    caveats: list[str]
    methods: list[str]
    references: list[str]
    variants: list[str]
    controls: list[str]
    beside: dict[str, list[str]]
    sentences: dict[str, str]
    groups: list[Group]
    legend: Markup
    sections: list[Section]
    failures: list[Failure]
    receipts: list[tuple[str, list[str]]]
    receipt_columns: list[str]
    warnings: list[tuple[str, str]]


def make_report(store: Store) -> Report:
    """Read a run and work out its report."""
    manifest = store.manifest
    findings, table, measurements = store.findings(), store.row_table(), store.measurements()
    counted = [name for name in ("variant", "explainer", "dataset", "failure") if name in table.column_names]
    rows = to_frame(table.select(counted))
    receipts, failures = store.receipts(), store.failures()
    names = [str(entry["name"]) for entry in manifest.variants]
    controls = [str(entry["name"]) for entry in manifest.variants if entry.get("control")]
    variants = [name for name in names if name not in (manifest.parent, *controls)]
    metrics = {
        (str(s["scorer"]), str(m["name"])): Metric.model_validate(m)
        for s in manifest.scorers
        for m in s["metrics"]
    }
    points = _points(manifest, receipts, variants)
    groups = [
        _group(entry, findings, rows, metrics, [*variants, *controls], points)
        for entry in manifest.explainers
    ]
    headline, basis = text.answer([f for f in findings if f.variant not in controls], variants)
    binary = {name: None for (_, name), metric in metrics.items() if metric.kind == "binary"}
    columns, lines = _receipts(manifest, receipts)
    return Report(
        manifest=manifest,
        title=f"Does quantizing {manifest.model.get('name', 'the model')} change how it explains itself?",
        headline=headline,
        basis=basis,
        incomplete=_incomplete(store, manifest, findings, failures),
        caveats=prose.caveats(manifest, findings, receipts),
        methods=prose.methods(manifest, findings),
        references=prose.references(manifest),
        variants=variants,
        controls=controls,
        beside={name: _beside(manifest, name) for name in variants},
        sentences={name: text.variant_sentence(name, findings) for name in [*variants, *controls]},
        groups=groups,
        legend=plots.legend(points),
        sections=sections(table.to_pylist(), measurements, [manifest.parent, *variants, *controls], binary),
        failures=failures,
        receipts=lines,
        receipt_columns=columns,
        warnings=[
            (name, str(w)) for name, receipt in receipts.items() for w in receipt.get("warnings") or []
        ],
    )


def _beside(manifest: Manifest, variant: str) -> list[str]:
    """Return the controls an effect of this variant is shown beside: its own, then those of the parent."""
    of = {str(entry["name"]): entry.get("beside") for entry in manifest.variants if entry.get("control")}
    return [name for name in of if of[name] == variant] + [name for name in of if of[name] is None]


def _incomplete(
    store: Store, manifest: Manifest, findings: Sequence[Finding], failures: Sequence[Failure]
) -> list[str]:
    """Return what is missing from the run, one sentence each."""
    found = []
    missing = [key for key in manifest.cells if not store.has(key)]
    if missing:
        found.append(
            f"{len(missing)} of {len(manifest.cells)} cells are not done; what follows rests on the others. "
            "Give the command that made the run again to complete it."
        )
    if failures:
        names = dict.fromkeys(failure.variant for failure in failures)
        found.append(
            f"{text.count(len(failures), 'recorded failure')}, in {text.listing(list(names))}: see Failures."
        )
    if not findings:
        found.append("Variants have not been compared yet: quantxai report RUN does it.")
    return found


def _points(
    manifest: Manifest, receipts: dict[str, dict[str, Any]], variants: Sequence[str]
) -> list[plots.Point]:
    """Return the variants by bits, with one shape for each method."""
    methods = {str(entry["name"]): str(entry.get("method", "")) for entry in manifest.variants}
    order = list(dict.fromkeys(methods[name] for name in variants))
    points = []
    for name in variants:
        bits = receipts.get(name, {}).get("weight_bits")
        known = float(bits) if isinstance(bits, int | float) else None
        points.append(plots.Point(name, known, methods[name], order.index(methods[name])))
    return sorted(
        points, key=lambda point: (point.bits is None, point.bits or 0, point.method, point.variant)
    )


def _group(
    entry: dict[str, Any],
    findings: Sequence[Finding],
    rows: pd.DataFrame,
    metrics: dict[tuple[str, str], Metric],
    variants: Sequence[str],
    points: Sequence[plots.Point],
) -> Group:
    explainer, dataset = str(entry["explainer"]), str(entry["dataset"])
    own = [f for f in findings if (f.explainer, f.dataset) == (explainer, dataset)]
    by_metric: dict[tuple[str, str], dict[str, Finding]] = {}
    for finding in own:
        by_metric.setdefault((finding.scorer, finding.metric), {})[finding.variant] = finding
    lines = []
    for key, metric in metrics.items():
        if key in by_metric:
            best = max(by_metric[key].values(), key=lambda f: f.n)
            ordered = {name: by_metric[key][name] for name in variants if name in by_metric[key]}
            lines.append(Row(key[0], metric, best.parent_mean, ordered))
    part = rows[(rows.explainer == explainer) & (rows.dataset == dataset)]
    return Group(
        explainer, dataset, entry, lines, _panels(lines, points, dataset), _failed(part),
        {str(name): int(n) for name, n in part.groupby("variant", sort=False).size().items()},
    )  # fmt: skip


def _panels(
    rows: Sequence[Row], points: Sequence[plots.Point], dataset: str
) -> list[tuple[str, str, Markup]]:
    """Return the plots of the preferred metrics, or of the first there are."""
    by_name = {row.metric.name: row for row in rows}
    preferred = [[by_name[name] for name in names if name in by_name] for names in _HEADLINES]
    chosen = [found[0] for found in preferred if found]
    if not chosen:
        chosen = sorted(rows, key=lambda row: row.metric.higher_is_better is None)
    panels = []
    for row in chosen[:MOST_PANELS]:
        title = f"{text.metric_label(row.metric.name)}, {dataset}"
        shown = {point.variant for point in points}
        picture = plots.panel(points, [f for f in row.findings.values() if f.variant in shown], title)
        if picture:
            panels.append((text.metric_label(row.metric.name), prose.direction(row.metric), picture))
    return panels


def _failed(rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return how often each kind of failed generation occurred, by kind and variant."""
    if "failure" not in rows:
        return {}
    counts = rows.dropna(subset=["failure"]).groupby(["failure", "variant"], sort=True).size()
    found: dict[str, dict[str, int]] = {}
    for (kind, variant), number in counts.items():
        found.setdefault(str(kind), {})[str(variant)] = int(number)
    return found


_RECEIPT_COLUMNS = {
    "weight_bits": "bits",
    "bits_per_weight": "bits per weight, scales included",
    "group_size": "group size",
    "perplexity": "perplexity",
    "kl": "KL to the parent, nats per token",
    "top1_agreement": "same most likely token",
    "relative_error": "relative weight error",
    "quantized_share": "share of parameters quantized",
    "gradient_cosine": "gradient cosine, kernel",
    "largest_logit_difference_to_kernel": "largest logit difference to the kernel",
    "rtn_same_grid_perplexity": "perplexity of round-to-nearest on the same grid",
    "execution": "execution",
    "dtype": "compute type",
    "kernel": "kernel",
    "quantization_seconds": "quantization, s",
    "checkpoint_bytes": "checkpoint",
    "calibration_digest": "calibration text",
}


def _receipts(
    manifest: Manifest, receipts: dict[str, dict[str, Any]]
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the table of receipts: the columns any receipt fills, and a line per variant."""
    lines: dict[str, dict[str, Any]] = {}
    for entry in manifest.variants:
        receipt = receipts.get(str(entry["name"]), {})
        options = receipt.get("options") or entry.get("options") or {}
        lines[str(entry["name"])] = {
            "group_size": options.get("group_size"),
            **{key: entry[key] for key in ("execution", "dtype") if key in entry},
            **receipt,
        }
    columns = [key for key in _RECEIPT_COLUMNS if any(line.get(key) is not None for line in lines.values())]
    table = [(name, [_plain(line.get(key), key) for key in columns]) for name, line in lines.items()]
    return [_RECEIPT_COLUMNS[key] for key in columns], table


def _plain(value: Any, key: str) -> str:
    if value is None:
        return "\N{EN DASH}"
    if key.endswith("digest"):
        return str(value)[:8]
    if key == "checkpoint_bytes":
        return f"{value / 1e6:,.0f} MB"
    if isinstance(value, float) and not isinstance(value, bool):
        return text.significant(value, 4).removesuffix(".000").removesuffix(".00")
    return value if isinstance(value, str) else json.dumps(value)

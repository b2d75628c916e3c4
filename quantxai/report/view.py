"""Everything the templates show, worked out beforehand: templates only lay out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from quantxai.analysis import with_margins
from quantxai.analysis_plan import PlanStatus, plan_status
from quantxai.manifest import Failure, Manifest
from quantxai.records import Finding
from quantxai.report import plots, prose, summary, text
from quantxai.report.anchors import item_anchors
from quantxai.report.caveats import caveats, truncation
from quantxai.report.heat import HeatMap, heat_map
from quantxai.report.hops import Hops, hops
from quantxai.report.items import Section, item_texts, section
from quantxai.report.knowledge import Knowledge, knowledge
from quantxai.report.notes import notes
from quantxai.report.numbers import Line, contrast_lines, replicated_lines
from quantxai.report.profiles import Profiles, profiles
from quantxai.report.receipts import receipts_table
from quantxai.report.results import Compared, Control, Group, make_group
from quantxai.store import Store

__all__ = ["Report", "make_report"]


@dataclass(frozen=True)
class Report:
    """All a template needs.

    Attributes that are not what their names say: `beside` names the controls of each variant, `choices` the
    anchors of chosen items by explainer and data set, `crossed` the groups whose edits were judged.
    """

    manifest: Manifest
    title: str
    headline: str
    basis: str
    plan: PlanStatus
    incomplete: list[str]
    caveats: list[str]
    methods: list[str]
    references: list[str]
    variants: list[str]
    controls: list[str]
    beside: dict[str, list[str]]
    summaries: list[summary.VariantSummary]
    heat: HeatMap
    contrasts: list[Line]
    replicated: list[Line]
    groups: list[Group]
    knowledge: list[Knowledge]
    profiles: list[Profiles]
    hops: list[Hops]
    legend: Markup
    sections: list[Section]
    choices: dict[tuple[str, str], list[str]]
    failures: list[Failure]
    receipts: list[tuple[str, list[str]]]
    receipt_columns: list[str]
    warnings: list[tuple[str, str]]

    @property
    def crossed(self) -> list[Group]:
        """Those whose edits were judged."""
        return [group for group in self.groups if group.crossing or group.tradeoff]


def make_report(store: Store) -> Report:
    """Read a run and work out its report."""
    manifest = store.manifest
    everything, measurements, trends = store.findings(), store.measurements(), store.trends()
    findings = [finding for finding in everything if finding.reference == manifest.parent]
    receipts, failures = store.receipts(), store.failures()
    names = [str(entry["name"]) for entry in manifest.variants]
    controls = [str(entry["name"]) for entry in manifest.variants if entry.get("control")]
    variants = [name for name in names if name not in (manifest.parent, *controls)]
    points = _points(manifest, receipts, variants)
    told, truncated = notes(store.notes()), _truncated(store, manifest)
    # One at a time, because explainers may give one name to columns of different types.
    rows = {place: store.row_table(*place).to_pylist() for place in map(_place, manifest.explainers)}
    measured = {place: _part(measurements, place) for place in rows}
    beside = _controls(manifest)
    metrics = with_margins(manifest.planned_analysis, manifest.metrics)
    run = Compared([manifest.parent, *variants, *controls], points, metrics, manifest.analysis, beside)
    groups = [
        make_group(
            run,
            entry,
            [finding for finding in findings if (finding.explainer, finding.dataset) == place],
            rows[place],
            measured[place],
            told.get(place, []),
            [trend for trend in trends if (trend.explainer, trend.dataset) == place],
        )
        for entry, place in zip(manifest.explainers, rows, strict=True)
    ]

    def asked(method: str) -> list[tuple[dict[str, Any], tuple[str, str]]]:
        return [(entry, _place(entry)) for entry in manifest.explainers if entry.get("method") == method]

    texts = item_texts(rows)
    items = [
        section(run, place, found, measured[place], texts, truncated.get(place, ()))
        for place, found in rows.items()
        if found
    ]
    compared = [f for group in groups for row in group.all_rows for f in row.findings.values()]
    headline, basis = summary.answer([f for f in findings if f.variant not in controls], variants)
    columns, lines = receipts_table(manifest, receipts)
    plan, replicated = plan_status(store), store.replicated()
    methods = prose.methods(manifest, everything, trends=bool(trends), replicated=bool(replicated))
    return Report(
        manifest=manifest,
        title=f"Does quantizing {manifest.model.get('name', 'the model')} change how it explains itself?",
        headline=headline,
        basis=basis,
        plan=plan,
        incomplete=_incomplete(store, manifest, findings, failures),
        caveats=[*caveats(manifest, compared, receipts, plan), *truncation(manifest, truncated)],
        methods=methods,
        references=prose.references(methods),
        variants=variants,
        controls=controls,
        beside={name: [control.name for control in run.beside(name)] for name in variants},
        summaries=_summaries(manifest, findings, receipts),
        heat=heat_map(groups, variants, [c.name for c in beside if c.of is None]),
        contrasts=contrast_lines(everything, manifest.parent),
        replicated=replicated_lines(replicated),
        groups=groups,
        knowledge=[k for e, p in asked("memorization") if (k := knowledge(run, e, measured[p]))],
        profiles=[f for e, p in asked("neuron_attribution") if (f := profiles(run, e, rows[p], measured[p]))],
        hops=[h for e, p in asked("multi_hop") if (h := hops(run, e, rows[p], measured[p]))],
        legend=plots.legend(points),
        sections=items,
        choices={place: item_anchors(everything, manifest.parent, place) for place in rows},
        failures=failures,
        receipts=lines,
        receipt_columns=columns,
        warnings=[
            (name, str(w)) for name, receipt in receipts.items() for w in receipt.get("warnings") or []
        ],
    )


def _summaries(
    manifest: Manifest, findings: Sequence[Finding], receipts: Mapping[str, Mapping[str, Any]]
) -> list[summary.VariantSummary]:
    """Return every variant's summary, controls last."""
    alpha = float(manifest.analysis.get("alpha", 0.05))
    at = summary.places(findings)
    found = []
    for entry in sorted(manifest.variants, key=lambda entry: bool(entry.get("control"))):
        name = str(entry["name"])
        if name != manifest.parent:
            bits = None if entry.get("control") else receipts.get(name, {}).get("weight_bits")
            label = summary.descriptive_name(str(entry.get("method")), bits)
            found.append(summary.variant_summary(name, label, findings, at, alpha))
    return found


def _place(entry: dict[str, Any]) -> tuple[str, str]:
    return str(entry["explainer"]), str(entry["dataset"])


def _part(measurements: pd.DataFrame, place: tuple[str, str]) -> pd.DataFrame:
    """Return the measurements of one explainer on one data set that have a value."""
    explainer, dataset = place
    part = measurements[(measurements.explainer == explainer) & (measurements.dataset == dataset)]
    return part.dropna(subset=["value"])


def _controls(manifest: Manifest) -> list[Control]:
    return [
        Control(str(entry["name"]), entry.get("beside"), str(entry.get("method")))
        for entry in manifest.variants
        if entry.get("control")
    ]


def _truncated(store: Store, manifest: Manifest) -> dict[tuple[str, str], set[str]]:
    """Return the items whose text was too long for the model, by explainer and data set."""
    found: dict[tuple[str, str], set[str]] = {}
    for key in manifest.cells:
        if key.kind == "rows" and store.has(key):
            items = store.meta(key).get("truncated") or ()
            if items:
                found.setdefault((key.explainer, key.dataset), set()).update(map(str, items))
    return found


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
    if not findings and any(key.kind == "scores" and store.has(key) for key in manifest.cells):
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

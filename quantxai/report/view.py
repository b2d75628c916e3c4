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
from quantxai.report.hops import Hops, hops
from quantxai.report.items import Section, item_texts, section
from quantxai.report.knowledge import Knowledge, knowledge
from quantxai.report.notes import notes
from quantxai.report.profiles import Profiles, profiles
from quantxai.report.results import Compared, Control, Group, make_group
from quantxai.store import Store

__all__ = ["Report", "make_report"]


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
    knowledge: list[Knowledge]
    profiles: list[Profiles]
    hops: list[Hops]
    legend: Markup
    sections: list[Section]
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
    findings, measurements = store.findings(), store.measurements()
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
    told, truncated = notes(store.notes()), _truncated(store, manifest)
    # One at a time, because explainers may give one name to columns of different types.
    rows = {place: store.row_table(*place).to_pylist() for place in map(_place, manifest.explainers)}
    measured = {place: _part(measurements, place) for place in rows}
    beside = _controls(manifest)
    run = Compared([manifest.parent, *variants, *controls], points, metrics, manifest.analysis, beside)
    groups = [
        make_group(
            run,
            entry,
            [finding for finding in findings if (finding.explainer, finding.dataset) == place],
            rows[place],
            measured[place],
            told.get(place, []),
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
    headline, basis = text.answer([f for f in findings if f.variant not in controls], variants)
    columns, lines = _receipts(manifest, receipts)
    methods = prose.methods(manifest, findings)
    return Report(
        manifest=manifest,
        title=f"Does quantizing {manifest.model.get('name', 'the model')} change how it explains itself?",
        headline=headline,
        basis=basis,
        incomplete=_incomplete(store, manifest, findings, failures),
        caveats=[*prose.caveats(manifest, compared, receipts), *prose.truncation(manifest, truncated)],
        methods=methods,
        references=prose.references(methods),
        variants=variants,
        controls=controls,
        beside={name: [control.name for control in run.beside(name)] for name in variants},
        sentences={name: text.variant_sentence(name, findings) for name in [*variants, *controls]},
        groups=groups,
        knowledge=[k for e, p in asked("memorization") if (k := knowledge(run, e, measured[p]))],
        profiles=[f for e, p in asked("neuron_attribution") if (f := profiles(run, e, rows[p], measured[p]))],
        hops=[h for e, p in asked("multi_hop") if (h := hops(run, e, rows[p], measured[p]))],
        legend=plots.legend(points),
        sections=items,
        failures=failures,
        receipts=lines,
        receipt_columns=columns,
        warnings=[
            (name, str(w)) for name, receipt in receipts.items() for w in receipt.get("warnings") or []
        ],
    )


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

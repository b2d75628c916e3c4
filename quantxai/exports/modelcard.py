"""What a run found about one variant, as a section for its model card on the Hugging Face Hub.

The front matter follows the Hub's specification of `model-index` (huggingface/hub-docs, modelcard.md): results
by task and data set, each a metric's type, value and name. It is written as YAML whose strings are JSON's,
which YAML includes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from quantxai.exports.results import Results
from quantxai.records import Finding
from quantxai.replicates import families
from quantxai.report import prose
from quantxai.report.caveats import caveats
from quantxai.report.summary import places, variant_summary
from quantxai.report.text import SYMBOLS, count, estimate, interval, level, listing, metric_label

__all__ = ["to_model_card"]

_HUB_SOURCE = re.compile(r"^([\w-]+/[\w.-]+) at ([0-9a-f]{40})\b", re.ASCII)
"""How data sets from the Hub name their source."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]|#~$<>])")


def to_model_card(results: Results, variant: str) -> str:
    """Return the section of one variant, below the metadata that belong at the top of its model card.

    Args:
        results: what was found.
        variant: name of a quantized variant of the run.
    """
    own = [f for f in results.findings if f.variant == variant and f.reference == results.manifest.parent]
    judged = sorted((f for f in own if f.verdict is not None), key=lambda finding: not finding.confirmatory)
    text = [
        *_front_matter(results, variant, judged),
        "",
        "## Effect of quantization on explanations and interpretability",
        "",
        _what(results, variant),
        "",
        *_verdicts(results, variant),
        *_table(results, judged),
        *_list("### Before quoting a number", _caveats(results, variant, own)),
        *_list("### What was measured", list(_measured(results))),
        "<details><summary>Methods and references</summary>",
        "",
        *(f"{_plain(paragraph)}\n" for paragraph in results.methods),
        *_list("References:", prose.references(results.methods)),
        "</details>",
        "",
    ]
    return "\n".join(text)


def _front_matter(results: Results, variant: str, findings: Sequence[Finding]) -> list[str]:
    model = results.manifest.model
    metadata: dict[str, Any] = {"tags": ["quantxai"]}
    if model.get("revision") and "/" in str(model.get("source")):
        metadata = {"base_model": model["source"], "base_model_relation": "quantized", **metadata}
    found = _model_index(results, findings)
    if found:
        metadata["model-index"] = [{"name": f"{model.get('name', 'model')} {variant}", "results": found}]
    return ["---", *_yaml(metadata), "---"]


def _model_index(results: Results, findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the results by data set: the Hub keeps one list of metrics for each task and data set."""
    sources = {str(e["dataset"]): str(e.get("source", "")) for e in results.manifest.explainers}
    by_dataset: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.variant_mean is not None:
            by_dataset.setdefault(finding.dataset, []).append(finding)
    return [
        {
            "task": {"type": "text-generation", "name": "Text Generation"},
            "dataset": _dataset(name, sources.get(name, "")),
            "metrics": [_metric(results, finding) for finding in part],
        }
        for name, part in by_dataset.items()
    ]


def _dataset(name: str, source: str) -> dict[str, str]:
    hub = _HUB_SOURCE.match(source)
    if hub:
        return {"type": hub[1], "name": name, "revision": hub[2]}
    # The Hub refuses other characters in a type.
    return {"type": re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII), "name": name}


def _metric(results: Results, finding: Finding) -> dict[str, Any]:
    change = f"{results.manifest.parent} {level(finding.reference_mean, finding.unit)}"
    verdict = f", {finding.verdict}" if finding.verdict else ""
    return {
        "type": finding.outcome,
        "value": finding.variant_mean,
        "name": f"{finding.explainer}: {metric_label(finding.metric)} ({change}{verdict})",
    }


def _yaml(value: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Write nested mappings, lists of mappings and lists of scalars as block YAML."""
    for key, part in value.items():
        if isinstance(part, dict):
            yield f"{indent}{key}:"
            yield from _yaml(part, indent + "  ")
        elif isinstance(part, list):
            yield f"{indent}{key}:"
            for element in part:
                lines = list(_yaml(element)) if isinstance(element, dict) else [_scalar(element)]
                yield f"{indent}- {lines[0]}"
                yield from (f"{indent}  {line}" for line in lines[1:])
        else:
            yield f"{indent}{key}: {_scalar(part)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(" ".join(value.split()), ensure_ascii=False)
    # A float such as 1e-07 is text to YAML 1.1 without the point.
    text = json.dumps(value)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _what(results: Results, variant: str) -> str:
    manifest = results.manifest
    entry = next(entry for entry in manifest.variants if entry["name"] == variant)
    options = ", ".join(f"{key} = {value}" for key, value in (entry.get("options") or {}).items())
    model, source = manifest.model.get("name", "the model"), manifest.model.get("source", "an unnamed source")
    revision = f", revision {manifest.model['revision']}" if manifest.model.get("revision") else ""
    return _plain(
        f"{variant} is {model} (from {source}{revision}) quantized by {entry.get('method')}"
        f"{f' ({options})' if options else ''}. quantxai {manifest.quantxai} asked it and the unquantized weights "
        f"({manifest.parent}, computed in {manifest.dtype}) the same items and compared them item by item. "
        f"{results.plan.sentence}"
    )


def _verdicts(results: Results, variant: str) -> Iterator[str]:
    parent = [f for f in results.findings if f.reference == results.manifest.parent]
    summary = variant_summary(variant, variant, parent, places(parent), results.alpha)
    told = [summary.sentence, f"{summary.exploratory}." if summary.exploratory else ""]
    if any(told):
        yield _plain(" ".join(filter(None, told)))
        yield ""


def _caveats(results: Results, variant: str, findings: Sequence[Finding]) -> list[str]:
    """Return what matters for this variant alone."""
    manifest = results.manifest
    names = {variant, *families(manifest.variants).get(variant, ())}
    own = [entry for entry in manifest.variants if entry["name"] in {manifest.parent, *names}]
    receipts = {name: receipt for name, receipt in results.receipts.items() if name in names}
    return caveats(manifest.model_copy(update={"variants": own}), findings, receipts)


def _table(results: Results, judged: Sequence[Finding]) -> Iterator[str]:
    if not judged:
        yield "Nothing could be judged: no item has a value on both sides."
        yield ""
        return
    parent = _plain(results.manifest.parent)
    yield f"| outcome | items | {parent} | this model | change, {100 * (1 - results.alpha):g} % interval | verdict |"
    yield "|---|---:|---:|---:|---:|---|"
    for f in judged:
        symbol, word = SYMBOLS[f.verdict]
        name = f"{metric_label(f.metric)}, {f.explainer} on {f.dataset}"
        asked = "**" if f.confirmatory else ""
        yield (
            f"| {asked}{_plain(name)}{asked} | {f.n} | {level(f.reference_mean, f.unit)} "
            f"| {level(f.variant_mean, f.unit)} | {_plain(f'{estimate(f)} {interval(f)}')} | {symbol} {word} |"
        )
    yield ""
    if any(f.confirmatory for f in judged):
        yield "Bold: confirmatory outcomes; all others are exploratory. pp: percentage points."
        yield ""


def _measured(results: Results) -> Iterator[str]:
    for entry in results.manifest.explainers:
        licence = f"; {entry['licence']}" if entry.get("licence") else ""
        yield (
            f"{entry['explainer']} on {entry['dataset']}: {count(entry['items'], 'item')} "
            f"({entry.get('task')}; {entry.get('source')}{licence})."
        )
    seeds = {name for names in families(results.manifest.variants).values() for name in names}
    controls = [name for name in results.controls if name not in seeds]
    if controls:
        yield f"Controls without quantization: {listing(controls)}."


def _list(title: str, lines: Sequence[str]) -> list[str]:
    return [title, "", *(f"- {_plain(line)}" for line in lines), ""] if lines else []


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))

"""Whose quantizers, data sets and scores a run uses, in a sentence with citations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from quantxai.bibliography import works
from quantxai.manifest import Manifest
from quantxai.records import Finding
from quantxai.report.text import listing, metric_label

__all__ = ["sources"]

_QUANTIZERS = {
    "gptq": "frantar2023",
    "awq": "lin2024",
    "bnb int8": "dettmers2022",
    "bnb nf4": "dettmers2023",
    "bnb fp4": "dettmers2023",
    "hqq": "badri2023",
    "fp8": "micikevicius2022",
}
_DATASETS = {
    "esnli": "camburu2018",
    "ag_news": "zhang2015",
    "sst2": "socher2013",
    "healthfc": "vladika2024",
    "ecqa": "aggarwal2021",
    "lre": "hernandez2024",
    "twohopfact": "yang2024",
}
_SCORERS = {
    "rouge": "lin2004",
    "bertscore": "zhang2020",
    "bartscore": "yuan2021",
    "tigerscore": "jiang2023",
    "simulatability": "hase2020",
    "self_consistency": "wang2022",
    "diversity": "li2016",
}
"""By name: the key of the work in the bibliography."""


def sources(manifest: Manifest, findings: Sequence[Finding]) -> str:
    """Return what others made of what the run uses; empty where there is none of it."""
    variants = [v for v in manifest.variants if v["name"] != manifest.parent and not v.get("control")]
    parts = [
        _part("Quantizers", map(_quantizer, variants), _QUANTIZERS),
        _part("Published data sets", (str(e["dataset"]) for e in manifest.explainers), _DATASETS),
        _part("Scores", (finding.scorer for finding in findings), _SCORERS),
    ]
    return " ".join(filter(None, parts))


def _part(title: str, names: Iterable[str], known: Mapping[str, str]) -> str:
    cited = [
        f"{metric_label(name)} ({works()[known[name]].citation})"
        for name in dict.fromkeys(names)
        if name in known
    ]
    return f"{title}: {listing(cited)}." if cited else ""


def _quantizer(variant: Mapping[str, Any]) -> str:
    """Return a variant's method, with its number format where one method has several."""
    method = str(variant.get("method"))
    return f"bnb {(variant.get('options') or {}).get('format')}" if method == "bnb" else method

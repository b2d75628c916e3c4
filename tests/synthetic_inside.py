"""A run directory with made-up rows of what happens inside a model: layers, neurons, bridges.

`python tests/synthetic_inside.py DIR` writes one with its report, to look at.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantxai.analysis import Analysis
from quantxai.compare import compare
from quantxai.manifest import CellKey, Manifest
from quantxai.records import Finding, Measurement, Metric, Row, digest
from quantxai.store import Store, rows_to_table

PARENT = "full"
VARIANTS: dict[str, tuple[str, str | None, float]] = {
    PARENT: ("full", None, 0.0),
    "rtn-4": ("rtn", None, 0.3),
    "gptq-3": ("gptq", None, 0.6),
    "rtn-4-noise": ("noise", "rtn-4", 0.2),
    "full-rerun": ("rerun", None, 0.0),
}
"""By name: the method, whose control it is, and how far it is from the parent."""
CONTROLS = ("noise", "rerun")
LAYERS = 30
RELATIONS, EACH = 12, 3
PLACES = {
    "knowledge": ("memorization", "relations"),
    "inside": ("neuron_attribution", "relations"),
    "hops": ("multi_hop", "two_hop"),
}
"""By name of an explainer: its method and data set."""


class FactRow(Row):
    """As the memorization explainer stores it."""

    prompt: str
    gold: str
    completion: str
    logprob: float
    rank: int


class AttributionRow(Row):
    """As the neuron attribution explainer stores it."""

    prompt: str
    gold: str
    token: str | None
    logprob: float | None
    rank: int | None
    mode: str
    neuron_layers: list[int]
    neuron_indices: list[int]
    neuron_scores: list[float]
    ffn_scores: list[float]
    attention_scores: list[float]
    head_scores: list[float]
    heads: int
    query_layers: list[int]
    query_indices: list[int]
    query_scores: list[float]
    problem: str | None


class HopRow(Row):
    """As the multi-hop explainer stores it."""

    two_hop_prompt: str
    first_prompt: str
    second_prompt: str
    two_hop_completion: str
    first_completion: str
    second_completion: str
    gold: str
    aliases: list[str]
    bridge: str
    bridge_aliases: list[str]
    entrec: list[float]
    entrec_entity: list[float]
    entrec_relation: list[float]
    cnst: float | None
    jsd: float | None
    causal_layers: list[int]
    causal_derivatives: list[float]
    problem: str | None


def _metrics(unit: str, better: bool | None, *names: str) -> list[dict[str, Any]]:
    kind = "binary" if unit == "proportion" else "continuous"
    text = "What it is, in a sentence."
    return [
        Metric.model_validate(
            {"name": n, "kind": kind, "higher_is_better": better, "margin": 0.05, "unit": unit, "description": text}
        ).model_dump()
        for n in names
    ]  # fmt: skip


SCORERS: dict[str, list[dict[str, Any]]] = {
    "recall": [
        *_metrics("proportion", True, "recall", "first_token_recall"),
        *_metrics("nats", True, "logprob"),
        *_metrics("1 / rank", True, "reciprocal_rank"),
    ],
    "neuron_attribution": [
        *_metrics("neurons", None, "neurons_above"),
        *_metrics("Jaccard", None, "neuron_overlap"),
        *_metrics("Spearman's rho", None, "neuron_rank_correlation"),
        *_metrics("cosine", None, "ffn_profile_similarity"),
        *_metrics("proportion", None, "failure"),
    ],
    "multi_hop": [
        *_metrics("proportion", True, "first_hop_correct", "second_hop_correct", "two_hop_correct"),
        *_metrics("proportion", None, "latent_composition"),
    ],
}
_READS = {"knowledge": "recall", "inside": "neuron_attribution", "hops": "multi_hop"}

Rows = Mapping[str, Sequence[Row]]


def make_run(path: Path, variants: Sequence[str] = tuple(VARIANTS), layers: int = LAYERS) -> Store:
    """Write a complete run of some of the variants."""
    rows = {v: {name: made_rows(name, v, layers) for name in PLACES} for v in variants}
    return write_run(path, rows)


def write_run(
    path: Path, rows: Mapping[str, Rows], scores: Mapping[tuple[str, str], list[Measurement]] | None = None
) -> Store:
    """Write a run of given rows, by variant and explainer, scored unless scores are given likewise."""
    store = Store(path)
    keys = {(v, name): _key(v, name) for v in rows for name in PLACES}
    measured = {k: _scores(*k, rows[k[0]].get(k[1], ())) for k in keys} if scores is None else scores
    scored = {k: key.model_copy(update={"kind": "scores", "scorer": _READS[k[1]]}) for k, key in keys.items()}
    store.write_manifest(_manifest(list(rows), [*keys.values(), *scored.values()]))
    for place, key in keys.items():
        found = rows[place[0]].get(place[1], ())
        if found:
            store.write(key, rows_to_table(list(found), type(found[0])))
        if measured.get(place):
            store.write(scored[place], rows_to_table(measured[place], Measurement))
    metrics = {(s, m["name"]): Metric.model_validate(m) for s, found in SCORERS.items() for m in found}
    store.write_results(Finding, compare(store.measurements(), metrics, analysis=Analysis(resamples=1000)))
    return store


def _key(variant: str, name: str) -> CellKey:
    names = {"variant": variant, "explainer": name, "dataset": PLACES[name][1]}
    return CellKey(kind="rows", shard=0, digest=digest(list(names.values())), **names)  # type: ignore[arg-type]


def _manifest(variants: Sequence[str], cells: list[CellKey]) -> Manifest:
    described = [
        {
            "name": name, "method": method, "options": {}, "digest": digest(name), "execution": "dequantized",
            "seed": 0, "control": method in CONTROLS, "beside": of,
        }
        for name, (method, of, _) in VARIANTS.items() if name in variants
    ]  # fmt: skip
    explainers = [
        {
            "explainer": name, "method": method, "version": 1, "options": {"shots": 3}, "dataset": dataset,
            "task": "recall", "items": RELATIONS * EACH, "digest": digest(name), "licence": "CC0-1.0",
            "source": "built in", "labels": [],
        }
        for name, (method, dataset) in PLACES.items()
    ]  # fmt: skip
    return Manifest(
        quantxai="0.1.0", created="2026-01-01T00:00:00+00:00", commands=["quantxai sweep"], seed=0,
        model={"name": "tiny", "source": "a file", "revision": None, "digest": digest("model"),
               "licence": "MIT", "note": ""},
        dtype="float32", device="cpu", threads=2, batch_tokens=8192, versions={"python": "3.11.7"},
        host={"system": "Linux x86_64", "cores": 2, "gpus": []},
        variants=described, explainers=explainers,
        scorers=[{"scorer": s, "version": 1, "options": {}, "metrics": m} for s, m in SCORERS.items()],
        analysis={"alpha": 0.05, "resamples": 1000, "seed": 0, "margins": {}}, cells=cells,
    )  # fmt: skip


def made_rows(name: str, variant: str, layers: int = LAYERS) -> list[Row]:
    """Return an explainer's rows of a variant; every variant has its own luck beside one that all share."""
    shared, own = np.random.default_rng(7), np.random.default_rng(len(variant))
    make = {"knowledge": _fact, "inside": _attribution, "hops": _hops}[name]
    noise = VARIANTS[variant][2]
    return [make(index, noise, shared, own, layers) for index in range(RELATIONS * EACH)]


def _names(index: int) -> dict[str, str]:
    return {"item": f"fact-{index:03d}", "group": f"relation-{index % RELATIONS:02d}"}


def _fact(
    index: int, noise: float, shared: np.random.Generator, own: np.random.Generator, layers: int
) -> Row:
    ease = shared.random() + 0.4 * (index % RELATIONS) / RELATIONS - noise * own.random()
    gold = f"object {index}"
    return FactRow(
        **_names(index), prompt=f"The <b> of {index} is", gold=gold, completion=f" {gold}" if ease > 0.5 else " no",
        logprob=-4 + 3 * ease, rank=1 if ease > 0.4 else 5,
    )  # fmt: skip


def _attribution(
    index: int, noise: float, shared: np.random.Generator, own: np.random.Generator, layers: int
) -> Row:
    depth = np.linspace(0, 1, layers)
    ffn = np.exp(-(((depth - 0.8) / 0.12) ** 2)) + 0.1 * shared.standard_normal(layers)
    attention = 0.6 * np.exp(-(((depth - 0.6) / 0.1) ** 2)) - 0.05 + 0.05 * shared.standard_normal(layers)
    ffn, attention = (p + noise * own.standard_normal(layers) * (0.2 + p) for p in (ffn, attention))
    problem = "the object's first token is white space" if index == 5 else None
    keep = 0 if problem else layers
    neurons = [] if problem else sorted(np.abs(own.standard_normal(40)).tolist(), reverse=True)
    return AttributionRow(
        **_names(index), prompt=f"A is B.\nThe <b> of {index} is", gold=f"object {index}",
        token=None if problem else " object", logprob=None if problem else -1.5, rank=None if problem else 2,
        mode="fast", neuron_layers=[i % layers for i in range(len(neurons))],
        neuron_indices=[7 * i + 1 for i in range(len(neurons))], neuron_scores=neurons, ffn_scores=ffn[:keep].tolist(),
        attention_scores=attention[:keep].tolist(), head_scores=[0.1] * (2 * keep), heads=0 if problem else 2,
        query_layers=[], query_indices=[], query_scores=[], problem=problem,
    )  # fmt: skip


def _hops(
    index: int, noise: float, shared: np.random.Generator, own: np.random.Generator, layers: int
) -> Row:
    depth = np.linspace(0, 1, layers + 1)
    base = -11 + 6 * depth**2 + 0.5 * shared.standard_normal(layers + 1)
    lift = (1.5 - noise) * np.exp(-(((depth - 0.7) / 0.2) ** 2))
    first, second = shared.random() > 0.3 + noise / 3, shared.random() > 0.25
    both = first and second and shared.random() > 0.5 + noise / 2
    problem = "the description cannot be located" if index == 4 else None
    keep = 0 if problem else layers + 1
    derivatives = 0.4 - noise + own.standard_normal(4)
    return HopRow(
        **_names(index), two_hop_prompt=f"The capital of the land of <b>{index}</b> is",
        first_prompt=f"The land of {index} is", second_prompt="The capital of bridge is",
        two_hop_completion=" gold" if both else " no", first_completion=" bridge" if first else " no",
        second_completion=" gold" if second else " no", gold="gold", aliases=[], bridge="bridge", bridge_aliases=[],
        entrec=(base + lift)[:keep].tolist(),
        entrec_entity=(base - 0.2 * own.standard_normal(layers + 1))[:keep].tolist(),
        entrec_relation=(base + 0.4 * lift * own.random())[:keep].tolist(), cnst=None if problem else -6.0,
        jsd=None if problem else 0.3, causal_layers=[] if problem else [n * layers // 5 for n in (1, 2, 3, 4)],
        causal_derivatives=[] if problem else derivatives.tolist(), problem=problem,
    )  # fmt: skip


def _scores(variant: str, name: str, rows: Sequence[Row]) -> list[Measurement]:
    noise = VARIANTS[variant][2]
    return [
        Measurement(
            variant=variant, explainer=name, dataset=PLACES[name][1], item=row.item, group=row.group,
            scorer=_READS[name], metric=metric, value=value,
        )
        for row in rows
        for metric, value in _values(row, noise).items()
    ]  # fmt: skip


def _values(row: Any, noise: float) -> dict[str, float | None]:
    if isinstance(row, FactRow):
        said = row.completion.strip() == row.gold
        return {
            "recall": float(said), "first_token_recall": float(row.rank == 1), "logprob": row.logprob,
            "reciprocal_rank": 1 / row.rank,
        }  # fmt: skip
    if isinstance(row, HopRow):
        first, second = row.first_completion == " bridge", row.second_completion == " gold"
        both = float(row.two_hop_completion == " gold")
        return {
            "first_hop_correct": float(first), "second_hop_correct": float(second), "two_hop_correct": both,
            "latent_composition": both if first and second else None,
        }  # fmt: skip
    failed = row.problem is not None
    spread = 0.1 * float(np.mean(row.neuron_scores)) * noise if not failed else 0.0
    found = {
        "neurons_above": 300 - 200 * noise + 100 * spread, "neuron_overlap": 1 - noise - spread,
        "neuron_rank_correlation": 1 - 1.5 * noise + spread, "ffn_profile_similarity": 1 - noise / 3 - spread,
    }  # fmt: skip
    return {**{name: None if failed else value for name, value in found.items()}, "failure": float(failed)}


if __name__ == "__main__":
    from quantxai.report import build_report

    build_report(make_run(Path(sys.argv[1])))

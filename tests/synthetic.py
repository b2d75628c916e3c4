"""A run directory with made-up rows and scores: what a sweep writes, without a model.

`python tests/synthetic.py DIR` writes one with seven variants and its report, to look at.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np

from quantxai.compare import compare
from quantxai.records import Measurement, Metric, Row, digest
from quantxai.store import CellKey, Manifest, Store, rows_to_table

QUALITY = {"full": 1.0, "int8": 0.98, "nf4": 0.85, "gptq-3": 0.5}
"""Variants and how much of the parent's quality is left."""
MANY = {**QUALITY, "gptq-4": 0.9, "awq-4": 0.92, "rtn-4": 0.75}
_METHODS = {"full": "full", "int8": "bnb", "nf4": "bnb", "gptq-3": "gptq", "gptq-4": "gptq", "awq-4": "awq"}
_BITS = {"full": 16.0, "int8": 8.0, "nf4": 4.0, "gptq-3": 3.0}
SCRIPT = "<script>alert('generated')</script>"
"""Put into one generated text, to see that it stays text."""

_SENTENCES = (
    "Shares in grocery chain Pellworth Stores slid nine percent after a weak holiday season",
    "Goalkeeper Marta Lindhede saved two penalties as Sweden reached the final of the tournament",
    "Engineers in Eindhoven unveiled a prototype processor that calculates with light",
    "Voters in Ghana queued before dawn as polling stations opened for a presidential runoff",
    "Hungary's central bank raised its main interest rate by half a point",
    "Rescue teams dug through collapsed apartment blocks in northern Chile on Tuesday",
)
_LABELS = ("world", "sports", "business", "technology")
_FACTS = (
    ("The capital city of {} is", ("France Paris", "Japan Tokyo", "Egypt Cairo", "Peru Lima")),
    ("The chemical symbol of {} is", ("gold Au", "iron Fe", "silver Ag", "helium He")),
    ("The opposite of {} is", ("hot cold", "early late", "open closed", "deep shallow")),
    ("The past tense of {} is", ("go went", "see saw", "buy bought", "bring brought")),
    ("A young {} is called a", ("cow calf", "goose gosling", "swan cygnet", "kangaroo joey")),
    ("{} was written by", ("Emma Austen", "Ulysses Joyce", "Hamlet Shakespeare", "Faust Goethe")),
    (
        "The language spoken in {} is",
        ("Brazil Portuguese", "Austria German", "Iran Persian", "Kenya Swahili"),
    ),
    ("The currency of {} is the", ("India rupee", "Mexico peso", "China yuan", "Poland zloty")),
    ("The continent of {} is", ("Ghana Africa", "Nepal Asia", "Spain Europe", "Chile America")),
)


class EditRow(Row):
    """As the counterfactual explainer stores it."""

    original: str
    gold: str
    predicted: str
    target: str
    edited: str | None
    failure: Literal["unparsed", "empty", "unchanged"] | None
    raw: str


class FactRow(Row):
    """As the memorization explainer stores it."""

    prompt: str
    gold: str
    completion: str
    logprob: float
    rank: int


def _metric(name: str, unit: str, better: bool | None, margin: float, text: str) -> dict[str, Any]:
    kind: Literal["binary", "continuous"] = "binary" if unit == "proportion" else "continuous"
    metric = Metric(name=name, kind=kind, higher_is_better=better, margin=margin, unit=unit, description=text)
    return metric.model_dump()


SCORERS: list[dict[str, Any]] = [
    {"scorer": "flips", "version": 1, "options": {}, "metrics": [
        _metric("own_soft_flip", "proportion", True, 0.1, "The variant itself labels its edit differently."),
        _metric("parent_hard_flip", "proportion", True, 0.1, "The parent gives the edit the target label."),
        _metric("failure", "proportion", False, 0.05, "No usable edit was generated."),
    ]},
    {"scorer": "edits", "version": 1, "options": {}, "metrics": [
        _metric("edit_distance", "tokens", False, 1.0, "Tokens inserted, deleted or replaced."),
    ]},
    {"scorer": "similarity", "version": 1, "options": {}, "metrics": [
        _metric("similarity", "cosine", None, 0.05, "Sentence embeddings of original and edit."),
    ]},
    {"scorer": "perplexity", "version": 1, "options": {}, "metrics": [
        _metric("nll", "nats", False, 0.1, "Mean negative log-likelihood of the edit under the parent."),
    ]},
    {"scorer": "recall", "version": 1, "options": {}, "metrics": [
        _metric("recall", "proportion", True, 0.1, "The completion is the gold object."),
        _metric("logprob", "nats", True, 0.25, "Log-probability of the gold object."),
        _metric("reciprocal_rank", "reciprocal rank", True, 0.1, "1 / rank of the gold's first token."),
    ]},
]  # fmt: skip


def make_run(
    path: Path, qualities: dict[str, float] = QUALITY, items: int = 12, facts: int = 18, failing: bool = False
) -> Store:
    """Write a complete run, or one in which a cell of the last variant failed."""
    store = Store(path)
    datasets = {"news": ("counterfactual", items), "relations": ("memorization", facts)}
    keys = [
        CellKey(kind="rows", variant=v, explainer=e, dataset=d, shard=0, digest=digest([v, e, d]))
        for v in qualities
        for d, (e, _) in datasets.items()
    ]
    readers = {"counterfactual": SCORERS[:4], "memorization": SCORERS[4:]}
    scores = [
        key.model_copy(update={"kind": "scores", "scorer": scorer["scorer"]})
        for key in keys
        for scorer in readers[key.explainer]
    ]
    store.write_manifest(_manifest(qualities, datasets, [*keys, *scores]))
    for variant, quality in qualities.items():
        store.write_receipt(variant, _receipt(variant, quality))
    for key in keys:
        if failing and key == keys[-1]:
            store.fail(key, f"out of memory {SCRIPT}", "Traceback (most recent call last): ...")
            continue
        rows = _rows(key, qualities[key.variant], datasets[key.dataset][1])
        store.write(key, rows_to_table(rows, type(rows[0])))
        for score in scores:
            if (score.variant, score.dataset) == (key.variant, key.dataset):
                store.write(score, rows_to_table(_scores(score, rows), Measurement))
    metrics = {(s["scorer"], m["name"]): Metric.model_validate(m) for s in SCORERS for m in s["metrics"]}
    store.write_findings(compare(store.measurements(), metrics, resamples=1000))
    return store


def _manifest(
    qualities: dict[str, float], datasets: dict[str, tuple[str, int]], cells: list[CellKey]
) -> Manifest:
    explainers = [
        {
            "explainer": explainer, "method": explainer, "version": 1, "options": {"max_new_tokens": 40},
            "dataset": dataset, "task": "topic" if dataset == "news" else "recall", "items": n,
            "digest": digest(dataset), "licence": "CC0-1.0", "source": "built in",
            "labels": list(_LABELS) if dataset == "news" else [],
        }
        for dataset, (explainer, n) in datasets.items()
    ]  # fmt: skip
    variants = [
        {
            "name": name, "method": _METHODS.get(name, "rtn"), "options": {"group_size": 64},
            "digest": digest(name), "execution": "kernel" if name == "int8" else "dequantized", "seed": 0,
        }
        for name in qualities
    ]  # fmt: skip
    return Manifest(
        quantxai="0.1.0", created="2026-01-01T00:00:00+00:00", commands=["quantxai sweep --n 12"], seed=0,
        model={"name": "smollm2-135m", "source": "a wheel", "revision": None, "digest": digest("model"),
               "licence": "Apache-2.0", "note": "The reference is a dequantized Q4_1 file."},
        dtype="bfloat16", device="cpu", threads=2, batch_tokens=8192,
        versions={"python": "3.11.7", "torch": "2.9.0"},
        host={"system": "Linux x86_64", "cores": 2, "gpus": []},
        variants=variants, explainers=explainers, scorers=SCORERS,
        analysis={"alpha": 0.05, "resamples": 1000, "seed": 0, "margins": {}}, cells=cells,
    )  # fmt: skip


def _receipt(variant: str, quality: float) -> dict[str, Any]:
    bits = _BITS.get(variant, 4.0)
    warnings = ["does not beat round-to-nearest on the same grid"] if variant == "gptq-3" else []
    return {
        "variant": variant, "method": _METHODS.get(variant, "rtn"), "options": {"group_size": 64},
        "weight_bits": bits, "bits_per_weight": None if bits > 8 else bits + 0.25,
        "execution": "dequantized", "kernel": "Linear", "perplexity": 67.6 / quality,
        "quantization_seconds": 79.0 if variant.startswith("gptq") else None,
        "calibration_digest": digest("text") if variant.startswith("gptq") else None, "warnings": warnings,
    }  # fmt: skip


def _rows(key: CellKey, quality: float, n: int) -> list[Row]:
    # The same stream for every variant, so that items are paired.
    source = np.random.default_rng(4)
    make = _edit if key.explainer == "counterfactual" else _fact
    return [make(index, quality, source.random(6)) for index in range(n)]


def _edit(index: int, quality: float, luck: np.ndarray) -> Row:
    words = f"{_SENTENCES[index % len(_SENTENCES)]} ({index})".split()
    target = _LABELS[(index + 1) % 4]
    failure: Literal["unparsed"] | None = "unparsed" if luck[0] > 0.35 + 0.63 * quality else None
    edited = list(words)
    edited[2] = target
    if luck[1] > quality - 0.1:
        edited[-3:] = ["with", "strange", "words"]
    if index == 0:
        edited.append(SCRIPT)
    return EditRow(
        item=f"news-{index:03d}", group=f"news-{index:03d}", original=" ".join(words),
        gold=_LABELS[index % 4], predicted=_LABELS[index % 4], target=target,
        edited=None if failure else " ".join(edited), failure=failure,
        raw="and so on and so on" if failure else " ".join(edited),
    )  # fmt: skip


def _fact(index: int, quality: float, luck: np.ndarray) -> Row:
    template, facts = _FACTS[index % len(_FACTS)]
    subject, gold = facts[index // len(_FACTS) % len(facts)].split()
    known = bool(luck[0] < 0.8 * quality)
    return FactRow(
        item=f"fact-{index:03d}", group=template, prompt=template.format(subject), gold=gold,
        completion=f" {gold}" if known else f" the {'same' if luck[1] < quality else 'thing'}",
        logprob=-(1.0 + 2 * luck[2]) / quality, rank=1 if known else int(2 + 8 * luck[3]),
    )  # fmt: skip


def _scores(key: CellKey, rows: list[Row]) -> list[Measurement]:
    (metrics,) = [scorer["metrics"] for scorer in SCORERS if scorer["scorer"] == key.scorer]
    return [
        Measurement(
            variant=key.variant, explainer=key.explainer, dataset=key.dataset, item=row.item, group=row.group,
            scorer=key.scorer, metric=metric["name"], value=_value(metric["name"], row, index),
        )
        for metric in metrics
        for index, row in enumerate(rows)
    ]  # fmt: skip


def _value(metric: str, row: Any, index: int) -> float | None:
    if isinstance(row, FactRow):
        values = {"recall": row.rank == 1, "logprob": row.logprob, "reciprocal_rank": 1 / row.rank}
        return float(values[metric])
    if metric == "failure":
        return float(row.failure is not None)
    if row.edited is None:
        return 0.0 if metric.endswith("flip") else None
    strange = "strange" in row.edited
    changed = sum(a != b for a, b in zip(row.original.split(), row.edited.split(), strict=False))
    return {
        "own_soft_flip": float(not strange or index % 3 == 0),
        "parent_hard_flip": float(not strange and index % 2 == 0),
        "edit_distance": float(changed),
        "similarity": 0.9 - 0.02 * changed,
        "nll": math.log(60) + 0.1 * changed,
    }[metric]


if __name__ == "__main__":
    from quantxai.report import build_report

    build_report(make_run(Path(sys.argv[1]), MANY, items=120, facts=180, failing=True))

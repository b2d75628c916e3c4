"""A run directory with made-up rows and scores: what a sweep writes, without a model.

`python tests/synthetic.py DIR` writes one with seven variants, three controls and its report, to look at.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from quantxai.analysis_plan import keep_plan
from quantxai.records import Finding, Measurement, Metric, Row, digest
from quantxai.run import compare_run
from quantxai.store import CellKey, Manifest, Store, rows_to_table

QUALITY = {"full": 1.0, "int8": 0.98, "nf4": 0.85, "gptq-3": 0.5}
"""Variants and how much of the parent's quality is left."""
MANY = {**QUALITY, "gptq-4": 0.9, "awq-4": 0.92, "rtn-4": 0.75}
CONTROLS = {"full-rerun": None, "gptq-3-seed1": "gptq-3", "gptq-3-seed2": "gptq-3"}
"""Controls and the variants they stand beside, where a run has them."""
SHOWN = {**MANY, "full-rerun": 1.0, "gptq-3-seed1": 0.55, "gptq-3-seed2": 0.46}
_METHODS = {
    "full": "full",
    "int8": "bnb",
    "nf4": "bnb",
    "awq-4": "awq",
    "rtn-4": "rtn",
    "full-rerun": "rerun",
}
_BITS = {"full": 16.0, "full-rerun": 16.0, "int8": 8.0}
_CONFIRMATORY = {"parent_soft_flip", "recall"}
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
_RELATIONS = ("entailment", "neutral", "contradiction")
_TASKS = {"news": "topic", "relations": "recall", "inference": "inference"}
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
    context: str
    gold: str
    predicted: str
    target: str
    edited: str | None
    steps: list[str]
    failure: Literal["unparsed", "empty", "unchanged"] | None
    raw: str
    labels: list[str]
    original_scores: list[float]
    edited_scores: list[float] | None


class FactRow(Row):
    """As the memorization explainer stores it."""

    prompt: str
    gold: str
    completion: str
    logprob: float
    rank: int


class ExplanationRow(Row):
    """As the natural-language explainer stores it."""

    text: str
    gold: str
    reference: str | None
    order: str
    labels: list[str]
    scores: list[float]
    predicted: str
    said: str | None
    explanation: str | None
    raw: str
    failure: Literal["unparsed", "empty"] | None
    samples: list[str]
    sample_labels: list[str]


def _metric(name: str, unit: str, better: bool | None, margin: float, text: str) -> dict[str, Any]:
    kind: Literal["binary", "continuous"] = "binary" if unit == "proportion" else "continuous"
    metric = Metric(
        name=name, kind=kind, higher_is_better=better, margin=margin, unit=unit, description=text,
        confirmatory=name in _CONFIRMATORY,
    )  # fmt: skip
    return metric.model_dump()


SCORERS: list[dict[str, Any]] = [
    {"scorer": "flips", "version": 1, "options": {}, "metrics": [
        _metric("own_soft_flip", "proportion", True, 0.1, "The variant itself labels its edit differently."),
        _metric("own_hard_flip", "proportion", True, 0.1, "The variant itself gives the target label."),
        _metric("parent_soft_flip", "proportion", True, 0.1, "The parent labels the edit differently."),
        _metric("parent_hard_flip", "proportion", True, 0.1, "The parent gives the edit the target label."),
        _metric("independent_soft_flip", "proportion", True, 0.1, "Another judge labels the edit differently."),
        _metric("independent_hard_flip", "proportion", True, 0.1, "Another judge gives it the target label."),
        _metric("failure", "proportion", False, 0.05, "No usable edit was generated."),
    ]},
    {"scorer": "crossing", "version": 1, "options": {}, "metrics": [
        _metric("variant_soft_flip_of_parent_edits", "proportion", None, 0.1, "The parent's edit, by the variant."),
        _metric("variant_hard_flip_of_parent_edits", "proportion", None, 0.1, "The same, the label asked for."),
    ]},
    {"scorer": "edits", "version": 1, "options": {}, "metrics": [
        _metric("edit_distance", "tokens", False, 1.0, "Tokens inserted, deleted or replaced."),
        _metric("edit_distance_normalized", "share of words", False, 0.05, "The same over the length of the text."),
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
    {"scorer": "prediction", "version": 1, "options": {}, "metrics": [
        _metric("accuracy", "proportion", True, 0.1, "The prediction is the gold label."),
        _metric("failure", "proportion", False, 0.05, "No usable explanation was generated."),
    ]},
    {"scorer": "rouge", "version": 1, "options": {}, "metrics": [
        _metric("rouge_l", "F1", True, 0.05, "Longest common subsequence with the gold explanation."),
    ]},
]  # fmt: skip


READERS = {"counterfactual": SCORERS[:5], "memorization": SCORERS[5:6], "natural_language": SCORERS[6:]}
JUDGE = {"judge": "a made-up judge", "accuracy": 0.75, "low": 0.5, "high": 0.9, "n": 12, "chance": 0.25}
"""What the scorer of flips notes about itself."""


_MADE = tempfile.TemporaryDirectory(prefix="quantxai-synthetic-")
"""Runs as they were made, of which each test gets a copy."""


def make_run(path: Path, qualities: dict[str, float] = QUALITY, **sizes: int) -> Store:
    """Write a complete run, or one in which the facts of the last variant failed; `sizes` as of `_make`."""
    made = Path(_MADE.name) / digest([list(qualities.items()), sorted(sizes.items())])
    if not made.is_dir():
        _make(made, qualities, **sizes)
    return Store(shutil.copytree(made, path, dirs_exist_ok=True))


def _make(
    path: Path,
    qualities: dict[str, float],
    items: int = 12,
    facts: int = 18,
    failing: bool = False,
    pairs: int = 6,
) -> None:
    store = Store(path)
    datasets = {
        "news": ("counterfactual", items),
        "relations": ("memorization", facts),
        "inference": ("natural_language", pairs),
    }
    keys = [
        CellKey(kind="rows", variant=v, explainer=e, dataset=d, shard=0, digest=digest([v, e, d]))
        for v in qualities
        for d, (e, _) in datasets.items()
    ]
    scores = [
        key.model_copy(update={"kind": "scores", "scorer": scorer["scorer"]})
        for key in keys
        for scorer in READERS[key.explainer]
    ]
    store.write_manifest(_manifest(qualities, datasets, [*keys, *scores]))
    keep_plan(store)
    for variant, quality in qualities.items():
        store.write_receipt(variant, _receipt(variant, quality))
    last = list(qualities)[-1]
    for key in keys:
        if failing and (key.variant, key.dataset) == (last, "relations"):
            store.fail(key, f"out of memory {SCRIPT}", "Traceback (most recent call last): ...")
            continue
        n = datasets[key.dataset][1]
        rows = _rows(key, qualities[key.variant], n)
        cut = ["pair-001"] if key.explainer == "natural_language" else []
        store.write(key, rows_to_table(rows, type(rows[0])), {"truncated": cut})
        for score in scores:
            if (score.variant, score.dataset) == (key.variant, key.dataset):
                # A crossing scorer reads the parent's rows.
                read = _rows(key, 1.0, n) if score.scorer == "crossing" else rows
                notes = {"notes": {"independent_judge": JUDGE}} if score.scorer == "flips" else None
                store.write(score, rows_to_table(_scores(score, read), Measurement), notes)
    compare_run(store)


def _manifest(
    qualities: dict[str, float], datasets: dict[str, tuple[str, int]], cells: list[CellKey]
) -> Manifest:
    explainers = [
        {
            "explainer": explainer, "method": explainer, "version": 1, "options": {"max_new_tokens": 40},
            "dataset": dataset, "task": _TASKS[dataset], "items": n,
            "digest": digest(dataset), "licence": "CC0-1.0", "source": "built in",
            "labels": list({"news": _LABELS, "inference": _RELATIONS}.get(dataset, ())),
        }
        for dataset, (explainer, n) in datasets.items()
    ]  # fmt: skip
    variants = [
        {
            "name": name, "method": _METHODS.get(name, "gptq"), "options": {"group_size": 64},
            "control": name in CONTROLS, "beside": CONTROLS.get(name),
            "digest": digest(name), "execution": "kernel" if name == "int8" else "dequantized",
            "seed": int(name[-1]) if "seed" in name else 0,
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
        analysis={
            "alpha": 0.05, "resamples": 1000, "seed": 0, "margins": {},
            "contrasts": [("gptq-4", "rtn-4")] if "rtn-4" in qualities else [],
        },
        cells=cells,
    )  # fmt: skip


def _receipt(variant: str, quality: float) -> dict[str, Any]:
    bits = _BITS.get(variant, 3.0 if variant.startswith("gptq-3") else 4.0)
    warnings = ["does not beat round-to-nearest on the same grid"] if variant == "gptq-3" else []
    return {
        "variant": variant, "method": _METHODS.get(variant, "gptq"), "options": {"group_size": 64},
        "weight_bits": bits, "bits_per_weight": None if bits > 8 else bits + 0.25,
        "execution": "dequantized", "kernel": "Linear", "perplexity": 67.6 / quality,
        "quantization_seconds": 79.0 if variant.startswith("gptq") else None,
        "calibration_digest": digest("text") if variant.startswith("gptq") else None, "warnings": warnings,
    }  # fmt: skip


def _rows(key: CellKey, quality: float, n: int) -> list[Row]:
    # The same stream for every variant, so that items are paired.
    source = np.random.default_rng(4)
    make = {"counterfactual": _edit, "memorization": _fact, "natural_language": _explanation}[key.explainer]
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
    strange = "strange" in edited
    predicted = _LABELS[index % 4]
    # The parent judges its own edits as the parent.
    soft, hard = _flips("parent" if quality == 1 else "own", strange, index)
    after = target if hard else _LABELS[(index + 2) % 4] if soft else predicted
    return EditRow(
        item=f"news-{index:03d}", group=f"news-{index:03d}", original=" ".join(words), context="",
        gold=predicted, predicted=predicted, target=target, steps=[f"The word {words[2]}."],
        edited=None if failure else " ".join(edited), failure=failure,
        raw="and so on and so on" if failure else " ".join(edited), labels=list(_LABELS),
        original_scores=_scores_for(_LABELS, predicted, 0.7),
        edited_scores=None if failure else _scores_for(_LABELS, after, 0.55),
    )  # fmt: skip


def _scores_for(labels: Sequence[str], best: str, share: float) -> list[float]:
    rest = (1 - share) / (len(labels) - 1)
    return [math.log(share if label == best else rest) for label in labels]


def _flips(judge: str, strange: bool, index: int) -> tuple[bool, bool]:
    """Soft and hard flip, as some judge could see them."""
    return {
        "own": (not strange and index % 6 != 4, not strange and index % 2 == 0 and index % 6 != 4),
        "parent": (not strange and index % 5 != 4, not strange and index % 2 == 0 and index % 5 != 4),
        "independent": (index % 3 == 0, index % 6 == 0 or index % 7 == 1),
        "variant": (index % 4 != 2, index % 4 == 1),
    }[judge]


def _explanation(index: int, quality: float, luck: np.ndarray) -> Row:
    gold = _RELATIONS[index % 3]
    predicted = gold if luck[0] < 0.8 * quality else _RELATIONS[(index + 1) % 3]
    failure: Literal["empty"] | None = "empty" if luck[1] > 0.4 + 0.6 * quality else None
    sentence = _SENTENCES[index % len(_SENTENCES)]
    return ExplanationRow(
        item=f"pair-{index:03d}", group=f"premise-{index // 3}",
        text=f"Premise: {sentence}.\nHypothesis: It is number {index}.", gold=gold,
        reference=f"The premise says nothing else than {index}.", order="explain-then-predict",
        labels=list(_RELATIONS), scores=_scores_for(_RELATIONS, predicted, 0.6), predicted=predicted,
        said=None if luck[2] > quality else _RELATIONS[(index + 1) % 3],
        explanation=None if failure else f"Because {sentence.split()[2]} & <i>{index}</i> go together.",
        raw=" " if failure else f" Because {index}.", failure=failure,
        samples=["It may be so.", ""], sample_labels=[gold, predicted],
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
    # So that no two variants judge the parent's edits alike.
    shift = len(key.variant) if key.scorer == "crossing" else 0
    (metrics,) = [scorer["metrics"] for scorer in SCORERS if scorer["scorer"] == key.scorer]
    return [
        Measurement(
            variant=key.variant, explainer=key.explainer, dataset=key.dataset, item=row.item, group=row.group,
            scorer=key.scorer, metric=metric["name"], value=_value(metric["name"], row, index + shift),
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
    if isinstance(row, ExplanationRow):
        found = {"accuracy": float(row.predicted == row.gold), "rouge_l": 0.2 + 0.01 * index}
        return None if metric == "rouge_l" and row.failure else found[metric]
    if row.edited is None:
        return 0.0 if "flip" in metric else None
    if "flip" in metric:
        judge, kind = metric.split("_")[:2]
        if judge == "own":
            label = row.labels[int(np.argmax(row.edited_scores))]
            return float(label != row.predicted if kind == "soft" else label == row.target)
        return float(_flips(judge, "strange" in row.edited, index)[kind == "hard"])
    changed = sum(a != b for a, b in zip(row.original.split(), row.edited.split(), strict=False))
    return {
        "edit_distance": float(changed),
        "edit_distance_normalized": changed / len(row.original.split()),
        "similarity": 0.9 - 0.02 * changed,
        "nll": math.log(60) + 0.1 * changed,
    }[metric]


def made_finding(**fields: object) -> Finding:
    """A finding of one yes/no metric, nothing known but what is given."""
    known = {
        "variant": "q", "reference": "full", "explainer": "e", "dataset": "d", "scorer": "s", "metric": "recall",
        "kind": "binary", "higher_is_better": True, "unit": "proportion", "n": 50, "n_missing": 0, "groups": 50,
        "test": "none", "margin": 0.1, "reference_mean": 0.5, "estimate": 0.0, "confirmatory": False,
        "correction": "none", "family": 0,
    }  # fmt: skip
    return Finding.model_validate({**dict.fromkeys(Finding.model_fields), **known, **fields})


def rebuilt(store: Store) -> str:
    """Build a run's report again and return the page."""
    from quantxai.report import build_report

    build_report(store)
    return (store.path / "report.html").read_text(encoding="utf-8")


if __name__ == "__main__":
    from quantxai.report import build_report

    build_report(make_run(Path(sys.argv[1]), SHOWN, items=120, facts=180, failing=True, pairs=60))

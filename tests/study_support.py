"""A small study directory without a run, and a small run of texts without a model, for every test of the user study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from synthetic import EditRow, ExplanationRow, made_finding

from quantxai.manifest import CellKey, Manifest
from quantxai.options import toml_value
from quantxai.records import Finding, Measurement, Row, digest
from quantxai.store import Store, rows_to_table
from userstudy.design import draw_design
from userstudy.records import Origin, Part, Stimulus
from userstudy.settings import StudySettings
from userstudy.study import Study

__all__ = ["SETTINGS", "make_run_of_texts", "make_stimuli", "make_study"]

SETTINGS: dict[str, Any] = {
    "name": "small",
    "languages": ["en", "de"],
    "texts": {
        "title": {"en": "Rating texts", "de": "Texte bewerten"},
        "consent": {"en": "You may stop at any time.", "de": "Sie können jederzeit aufhören."},
        "instructions": {"en": "Read, then answer.", "de": "Lesen Sie, dann antworten Sie."},
        "example": {"en": "An example.", "de": "Ein Beispiel."},
        "debrief": {"en": "Thank you.", "de": "Danke."},
        "contact": "research@example.org",
    },
    "design": {"items": 6, "per_participant": 6, "repeats": 1, "attention_checks": 1},
    "recruitment": {"participants": 12},
    "questions": [
        {
            "id": "understandability",
            "kind": "likert",
            "text": {"en": "Is the text understandable?", "de": "Ist der Text verständlich?"},
            "low": {"en": "not at all", "de": "gar nicht"},
            "high": {"en": "completely", "de": "völlig"},
        },
        {"id": "overall", "kind": "likert", "text": {"en": "Is it good?", "de": "Ist er gut?"}},
        {"id": "remark", "kind": "text", "text": {"en": "Remarks", "de": "Anmerkungen"}, "required": False},
    ],
    "check": [
        {
            "question": {"en": "What do you rate?", "de": "Was bewerten Sie?"},
            "options": [{"en": "Texts", "de": "Texte"}, {"en": "Pictures", "de": "Bilder"}],
            "answer": 0,
        }
    ],
}
"""A whole study.toml."""

_LABELS = ("entailment", "neutral", "contradiction")
_NEWS = ("world", "sports")


def make_study(path: Path, **changes: Any) -> Study:
    """Write a small study: 3 variants, 6 source items of 2 explainers, 2 scales and a free text.

    Args:
        path: the directory.
        changes: replace whole keys of SETTINGS, tables key by key: design={"repeats": 0}; `items` and
            `variants` say how many there are.

    Returns:
        The study, opened as the application opens it.
    """
    items, variants = changes.pop("items", 6), changes.pop("variants", ("full", "gptq-3", "nf4"))
    merged = dict(SETTINGS)
    for key, value in changes.items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    settings = StudySettings.model_validate(merged)
    stimuli = make_stimuli(items, tuple(variants))
    path.mkdir(parents=True, exist_ok=True)
    (path / "study.toml").write_text(_toml(merged), encoding="utf-8")
    origin = Origin(
        run="default",
        manifest_digest=digest("manifest"),
        quantxai_version="0.1.0",
        created="2026-01-01T00:00:00+00:00",
        model="smollm2-135m",
        drawn=items,
        eligible=items + 1,
        left_out={"gptq-3": 1},
    )
    Study(path).write(stimuli, draw_design(stimuli, settings), origin)
    return Study.open(path)


def make_stimuli(
    items: int = 6, variants: tuple[str, ...] = ("full", "gptq-3", "nf4")
) -> tuple[Stimulus, ...]:
    """Edits and explanations in turn; every text differs and says nothing of its variant."""
    return tuple(
        _stimulus(index, number, variant) for index in range(items) for number, variant in enumerate(variants)
    )


def _stimulus(index: int, number: int, variant: str) -> Stimulus:
    explainer = ("counterfactual", "natural_language")[index % 2]
    identifier = digest([index, variant])[:12]
    source, label = f"The dog number {index} sleeps.", _LABELS[index % 3]
    edit = (
        Part(name="premise", text=f"A dog lies on blanket {index}."),
        Part(name="original", text=source),
        Part(name="edited", text=f"The dog number {index} runs {identifier}."),
        Part(name="target", text=_LABELS[(index + 1) % 3]),
    )
    explanation = (
        Part(name="text", text=source),
        Part(name="label", text=label),
        Part(name="explanation", text=f"Because dogs sleep, {identifier}."),
    )
    return Stimulus(
        id=identifier,
        item=f"{explainer}/inference/item-{index:03d}",
        group=f"group-{index // 2}",
        explainer=explainer,
        dataset="inference",
        variant=variant,
        label=label,
        outcome=("correct", "wrong")[index // 2 % 2],
        parts=edit if explainer == "counterfactual" else explanation,
        labels=_LABELS,
        answer=_LABELS[(index + number) % 3],
    )


def _toml(settings: Mapping[str, Any]) -> str:
    plain = {k: v for k, v in settings.items() if not _is_table(v) and not _is_tables(v)}
    lines = [f"{key} = {toml_value(value)}" for key, value in plain.items()]
    for key, value in settings.items():
        for table in value if _is_tables(value) else [value] if _is_table(value) else []:
            lines += [f"\n[[{key}]]" if _is_tables(value) else f"\n[{key}]"]
            lines += [f"{name} = {toml_value(entry)}" for name, entry in table.items()]
    return "\n".join(lines) + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], dict)


def _edit(index: int, variant: str) -> Row:
    """Variant nf4 writes nothing for items 0 to 2, gptq-3 nothing but a tag for item 3."""
    gold, other = _NEWS[index % 2], _NEWS[1 - index % 2]
    edited: str | None = f"Edit {index} by someone.</edit>" if variant == "nf4" else f"Edit {index}."
    if (variant == "nf4" and index < 3) or (variant == "rerun" and index == 9):
        edited = None
    if variant == "gptq-3" and index == 3:
        edited = "<edit> "
    return EditRow(
        item=f"news/{index}", group=f"g{index // 2}", original=f"Text {index}.", context="", gold=gold,
        predicted=gold if index % 3 else other, target=other, edited=edited, steps=[], failure=None, raw="",
        labels=list(_NEWS), original_scores=[-1.0, -2.0], edited_scores=[-3.0, -1.0] if edited else None,
    )  # fmt: skip


def _explanation(index: int, variant: str) -> Row:
    return ExplanationRow(
        item=f"pair-{index}", group=f"p{index}", text=f"Premise: It rains {index}.\nHypothesis: It is wet.",
        gold=_LABELS[index % 3], reference=None, order="predict-then-explain", labels=list(_LABELS),
        scores=[], predicted=_LABELS[0], said=None, explanation=f"Rain, says {variant} {index}.", raw="",
        failure=None, samples=[], sample_labels=[],
    )  # fmt: skip


def make_run_of_texts(path: Path) -> Path:
    """Write a run of four variants, one a control: ten edits of an explainer named `edits`, six explanations."""
    store, cells = Store(path), []
    made: dict[str, tuple[str, Callable[[int, str], Row], int]] = {
        "edits": ("news", _edit, 10),
        "natural_language": ("inference", _explanation, 6),
    }
    variants = ("full", "gptq-3", "nf4", "rerun")
    for variant in variants:
        for explainer, (dataset, _, _) in made.items():
            for kind, scorer in (("rows", ""), ("scores", "s")):
                key = {
                    "kind": kind,
                    "variant": variant,
                    "explainer": explainer,
                    "dataset": dataset,
                    "scorer": scorer,
                }
                cells.append(CellKey.model_validate({**key, "shard": 0, "digest": digest(key)}))
    explainers = [
        {"explainer": "edits", "method": "counterfactual", "dataset": "news", "task": "topic"},
        {
            "explainer": "natural_language",
            "method": "natural_language",
            "dataset": "inference",
            "task": "inference",
        },
        {"explainer": "facts", "method": "memorization", "dataset": "relations", "task": "recall"},
    ]
    store.write_manifest(
        Manifest(
            quantxai="0.1.0", seed=0, model={"name": "smollm2-135m"}, dtype="bfloat16", device="cpu",
            variants=[{"name": name, "control": name == "rerun"} for name in variants],
            explainers=explainers, cells=cells,
        )
    )  # fmt: skip
    for key in cells:
        _, make, count = made[key.explainer]
        rows: list[Any] = [make(index, key.variant) for index in range(count)]
        kind: type[Any] = type(rows[0])
        if key.kind == "scores":
            kind = Measurement
            rows = [
                Measurement(
                    variant=key.variant, explainer=key.explainer, dataset=key.dataset, item=row.item, group=row.group,
                    scorer="s", metric="m", value=0.5,
                )
                for row in rows
            ]  # fmt: skip
        store.write(key, rows_to_table(rows, kind))
    found = [("nf4", "edits", "news"), ("nf4", "facts", "relations"), ("rerun", "edits", "news")]
    store.write_results(Finding, [made_finding(variant=v, explainer=e, dataset=d) for v, e, d in found])
    return path

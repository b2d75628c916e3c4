"""The study as a project of the annotation tool Potato (Pei et al. 2022): the same pages, questions and forms.

Potato shows what is in `config.yaml` and `data/items.jsonl`. Which variant wrote a page is in neither: that is
in `potato-key.csv`, beside the project and not in it. A form becomes a group of Potato's `batch_assignment`,
which gives every new annotator the group that fewest have. Potato 2.12.1 finds nothing wrong with such projects
(`potato validate --strict`) and serves them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from userstudy.export.cells import to_csv
from userstudy.order import order
from userstudy.pages import Pages
from userstudy.records import Part, Planned
from userstudy.settings import Question, in_language
from userstudy.study import Study
from userstudy.wording import Wording, wordings

__all__ = ["KEY", "potato_project"]

KEY: dict[str, str] = {
    "id": "of the page, as Potato's annotations name it",
    "kind": "rating, repeat or attention",
    "shown": "left or right for one of two texts, empty for a single one",
    "stimulus": "id, the one in the stimuli",
    "item": "source item: EXPLAINER/DATASET/ID",
    "variant": "which variant's text",
    "question": "of an attention check: the question whose answer is prescribed",
    "answer": "of an attention check: the prescribed answer",
}
_README = """# {title}: a Potato project

Made for Potato 2 (https://github.com/davidjurgens/potato). To serve it:

    pip install potato-annotation
    potato start potato/config.yaml -p 8000

- `config.yaml`: the questions, and who sees which pages. It is written as JSON, which is YAML, too.
- `data/items.jsonl`: the pages, as plain text.
- `annotation_output/`: what annotators answer, once they do.

A group of `batch_assignment` is one form of the study: every source item once, the variants rotated. New
annotators get the form that fewest have. Which variant wrote a page is in `potato-key.csv`, which must not
be where annotators can read it; join it to the annotations by `id`.

What Potato does otherwise: all annotators of a form see its pages in one order; consent, the comprehension
check, the debriefing, completion codes and exclusions are not part of this project, and the page is in one
language ({language}).{labels}
"""
_LABELS = " The choices of a label question are those of all data sets together."


class _Items:
    """Pages by id, with their lines in the data file and in the key."""

    def __init__(self, study: Study, words: Wording) -> None:
        self.study, self.words = study, words
        self.pages = Pages(study)
        self.attention = {check.id: check for check in study.design.attention}
        self.items: dict[str, dict[str, str]] = {}
        self.key: list[dict[str, str]] = []

    def add(self, form: int, trial: Planned) -> str:
        """Return the id of a trial's page, which says nothing about the trial.

        No two forms share a page: by its pages Potato knows after a restart which form an annotator has.
        """
        told = ":".join([str(form), trial.kind, *trial.stimuli])
        name = hashlib.sha256(told.encode()).hexdigest()[:12]
        self.key += [{"id": name, "kind": trial.kind, **about} for about in self._about(trial)]
        texts = map(self._text, self.pages.page(trial.stimuli, {}, self.words.code).parts)
        shown = dict(zip(("left", "right"), texts, strict=False))
        self.items[name] = {"id": name, "text": shown["left"], **(shown if len(shown) > 1 else {})}
        return name

    def _about(self, trial: Planned) -> list[dict[str, str]]:
        if trial.kind == "attention":
            check = self.attention[trial.stimuli[0]]
            return [{"question": check.question, "answer": check.answer}]
        found = [self.study.stimuli[stimulus] for stimulus in trial.stimuli]
        sides = ("left", "right") if len(found) > 1 else ("",)
        return [
            {"shown": side, "stimulus": stimulus.id, "item": stimulus.item, "variant": stimulus.variant}
            for side, stimulus in zip(sides, found, strict=True)
        ]

    def _text(self, parts: Sequence[Part]) -> str:
        return "\n\n".join(f"{self.words.part(part.name)}:\n{part.text}" for part in parts)


def potato_project(study: Study, language: str | None = None) -> dict[str, bytes]:
    """Return the files of a Potato project by their names, `potato-key.csv` among them.

    Args:
        study: what is to be shown.
        language: of the page; the study's first where left out.
    """
    code = language or study.settings.languages[0]
    words = wordings(study)[code]
    pages = _Items(study, words)
    groups = {
        f"form-{form.id}": [pages.add(form.id, trial) for trial in order(form, seed=study.design.seed)]
        for form in study.design.forms
    }
    config = _config(study, words, groups)
    lines = [json.dumps(item, ensure_ascii=False) + "\n" for _, item in sorted(pages.items.items())]
    labelled = any(question.kind == "label" for question in study.settings.questions)
    readme = _README.format(
        title=in_language(study.settings.texts.title, code),
        language=code,
        labels=_LABELS if labelled else "",
    )
    key = pd.DataFrame(pages.key, columns=list(KEY)).fillna("").sort_values(["id", "shown"])
    return {
        "potato/config.yaml": (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
        "potato/data/items.jsonl": "".join(lines).encode(),
        "potato/README.md": readme.encode(),
        "potato-key.csv": to_csv(key),
    }


def _config(study: Study, words: Wording, groups: dict[str, list[str]]) -> dict[str, Any]:
    settings, language = study.settings, words.code
    paired = settings.design.show == "pair"
    shown = ("left", "right") if paired else ("text",)
    told = [in_language(text, language) for text in (settings.texts.instructions, settings.texts.example)]
    most = math.ceil(settings.recruitment.participants / len(groups))
    return {
        "annotation_task_name": in_language(settings.texts.title, language),
        "task_dir": ".",
        "output_annotation_dir": "annotation_output/",
        "export_annotation_format": "csv",
        "data_files": ["data/items.jsonl"],
        "item_properties": {"id_key": "id", "text_key": "text"},
        "instance_display": {
            "fields": [
                {"key": key, "type": "text", "label": words(f"rating.{key}") if paired else ""}
                for key in shown
            ],
            "layout": {"direction": "horizontal" if paired else "vertical"},
        },
        "annotation_instructions": "\n\n".join(filter(None, told)),
        "annotation_schemes": [_scheme(question, study, words) for question in settings.questions],
        "require_password": False,
        "user_config": {"allow_all_users": True, "users": []},
        "assignment_strategy": "batch",
        "max_annotations_per_user": max(map(len, groups.values())),
        "batch_assignment": {
            "auto_assign_annotators": True,
            "groups": [
                {"name": name, "instances": ids, "max_annotators": most} for name, ids in groups.items()
            ],
        },
    }


def _scheme(question: Question, study: Study, words: Wording) -> dict[str, Any]:
    """Return a question as Potato's annotation scheme; answers are stored in the same words as here."""
    language = words.code
    asked = [in_language(text, language) for text in (question.text, question.help)]
    scheme: dict[str, Any] = {
        "name": question.id,
        "description": " ".join(filter(None, asked)),
        "label_requirement": {"required": question.required},
    }
    if question.kind == "likert":
        ends = [in_language(text, language) for text in (question.low, question.high)]
        return scheme | {
            "annotation_type": "likert",
            "size": question.points,
            "min_label": ends[0] or "1",
            "max_label": ends[1] or str(question.points),
        }
    if question.kind == "text":
        return scheme | {"annotation_type": "text", "multiline": True, "rows": 3}
    if question.kind == "pairwise":
        sides = [
            {"name": side, "displayed_label": words(f"rating.{side}")} for side in ("left", "right", "same")
        ]
        return scheme | {"annotation_type": "radio", "labels": sides}
    labels = dict.fromkeys(label for stimulus in study.stimuli.values() for label in stimulus.labels)
    return scheme | {"annotation_type": "radio", "labels": list(labels)}

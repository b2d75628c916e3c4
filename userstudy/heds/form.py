"""A datasheet's answers as the authors' form reads them, and for reading."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from userstudy.heds.questions import QUESTIONS, SECTIONS, HedsQuestion

__all__ = ["Answer", "Chosen", "Datasheet", "to_json", "to_markdown"]


class Chosen(NamedTuple):
    """Options of the form that are chosen, each by its number and wording, and what is said beside them."""

    options: tuple[tuple[int, str], ...]
    details: str = ""


Answer = str | Chosen
_ONLY_YOU = "Only the researchers can answer this."
_HINTS = {
    "1.2": "The folder data-package is made to be published.",
    "2.3": "A description is filled in; choose the task that fits.",
    "3.1.3.1": "quantxai study power simulates the study's power; if you used it, say so here.",
    "3.1.3.2": "What quantxai study power printed, if you used it.",
    "3.2.2.2": "Say how much, and how it compares with the local minimum wage.",
    "3.2.3": "Say where and how you invited, and whom.",
    "3.3.4.1": "Publish screenshots: quantxai study serve --preview shows the pages.",
    "4.1.1": "The form explains each.",
    "4.3.1.2": "QCET has standardised names.",
}


class Datasheet(NamedTuple):
    """Answers by the question's number: of the experiment, and of each quality criterion by its name."""

    experiment: Mapping[str, Answer]
    criteria: Mapping[str, Mapping[str, Answer]]

    def open(self) -> list[str]:
        """Return the numbers of the questions that are not answered."""
        return [
            question.number
            for question in QUESTIONS
            if not (
                all(question.number in answers for answers in self.criteria.values())
                if question.per_criterion
                else question.number in self.experiment
            )
        ]


def to_json(sheet: Datasheet) -> bytes:
    """Return the file that the form reads: a record for each field that is answered."""
    found: dict[str, Any] = {
        "heds-criteria-criterion": {
            "data": {},
            "control": {name: place == 0 for place, name in enumerate(sheet.criteria)},
            "text": {},
        }
    }
    for question in QUESTIONS:
        answers = sheet.criteria if question.per_criterion else {"": sheet.experiment}
        for name, given in answers.items():
            if question.number in given:
                _enter(found, question, name, given[question.number])
    return (json.dumps(found, indent=4, ensure_ascii=False) + "\n").encode()


def _enter(found: dict[str, Any], question: HedsQuestion, name: str, answer: Answer) -> None:
    """Put an answer under its field, for one criterion (or "" where it is asked once)."""
    field = f"heds-{question.field}"
    if isinstance(answer, str):
        entry = found.setdefault(field, {"data": {}, "control": {}, "number": question.number})
        entry["data"][name] = answer
        return
    for number, wording in answer.options:
        entry = found.setdefault(
            f"{field}-{number}", {"data": {}, "control": {}, "text": {}, "number": question.number}
        )
        entry["data"][name], entry["text"][name] = True, wording
    if answer.details:
        entry = found.setdefault(f"{field}-other_text", {"data": {}, "control": {}})
        entry["data"][name] = answer.details


def to_markdown(sheet: Datasheet) -> bytes:
    """Return all questions with their answers, and which are open."""
    still = sheet.open()
    parts = [
        "# Human Evaluation Datasheet 3.0",
        f"{len(QUESTIONS) - len(still)} of {len(QUESTIONS)} questions are filled in from the study: check them. "
        f"Open, since only the researchers can answer them: {', '.join(still)}.",
        "To go on: open https://nlp-heds.github.io and give heds.json to its button “upload json”. Questions are those "
        "of HEDS 3.0 (Belz and Thomson 2025), in short; the form has them in full.",
    ]
    for number, title in SECTIONS.items():
        parts.append(f"## {number}. {title}")
        own = [question for question in QUESTIONS if question.number.startswith(f"{number}.")]
        if number != "4":
            parts += [_told(question, sheet.experiment) for question in own]
            continue
        for name, answers in sheet.criteria.items():
            parts += [f"### {name}", *(_told(question, answers) for question in own)]
    return ("\n\n".join(parts) + "\n").encode()


def _told(question: HedsQuestion, answers: Mapping[str, Answer]) -> str:
    head = f"**{question.number} {question.asked}**"
    answer = answers.get(question.number)
    if answer is None:
        return f"{head}\n\n*{_ONLY_YOU}* {_HINTS.get(question.number, '')}".rstrip()
    if isinstance(answer, str):
        return f"{head}\n\n{_quoted(answer.splitlines())}"
    lines = [wording for _, wording in answer.options] + ([answer.details] if answer.details else [])
    hint = f"\n\n*{_HINTS[question.number]}*" if question.number in _HINTS and not answer.options else ""
    return f"{head}\n\n{_quoted(lines)}{hint}"


def _quoted(lines: Sequence[str]) -> str:
    return "\n".join(f"> {line}".rstrip() for line in lines)

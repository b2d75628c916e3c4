"""What a participant's page shows: blind, since nothing here says which variant, explainer or kind it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from quantxai.records import Record
from userstudy.records import Attention, Part, Stimulus
from userstudy.settings import Question, in_language
from userstudy.study import Study
from userstudy.wording import Wording, wordings

__all__ = ["Page", "Pages", "Stage", "View"]

Stage = Literal["instructions", "check", "rating", "debrief"]


class Page(Record):
    """One page of ratings; a check of attention looks like any other."""

    parts: tuple[tuple[Part, ...], ...] = Field(
        description="One stimulus, or the left and the right one; empty where gone."
    )
    labels: tuple[str, ...] = Field(description="Choices of a label question.")
    questions: tuple[str, ...] = Field(description="Ids of the questions asked on this page.")
    answers: dict[str, str] = Field(description="The latest answer to each question answered so far.")
    gone: bool = Field(False, description="The material lacks the text: nothing is asked, and one may go on.")


class View(Record):
    """Where a participant stands, and all that is needed to show it."""

    stage: Stage
    language: str
    position: int = Field(description="Of the page, from 0.")
    pages: int
    page: Page | None = Field(None, description="While rating.")
    answered: tuple[bool, ...] = Field((), description="Whether each page has all answers it needs.")
    code: str | None = Field(None, description="The completion code, in the debrief.")
    url: str | None = Field(None, description="Where the debrief leads.")


class Pages:
    """Makes pages out of a study's material.

    Args:
        study: material, questions and texts.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._attention = {check.id: check for check in study.design.attention}
        self._words = wordings(study)

    def page(self, stimuli: Sequence[str], answers: Mapping[str, str], language: str) -> Page:
        """Return the page of a trial.

        Args:
            stimuli: ids of what is shown, left to right; of an attention check, its id.
            answers: given so far.
            language: of the instruction an attention check shows.
        """
        check = self._attention.get(stimuli[0])
        found = self._found(stimuli)
        if not found:
            return Page(parts=(), labels=(), questions=(), answers={}, gone=True)
        shown = [self._visible(stimulus) for stimulus in found]
        if check is not None:
            shown = [self._instructed(parts, check, language) for parts in shown]
        return Page(
            parts=tuple(shown),
            labels=found[0].labels,
            questions=tuple(question.id for question in self.asked(stimuli)),
            answers=dict(answers),
        )

    def asked(self, stimuli: Sequence[str]) -> list[Question]:
        """Return the questions of a page: all but label questions about what has no labels; none where gone."""
        found = self._found(stimuli)
        if not found:
            return []
        return [q for q in self._study.settings.questions if q.kind != "label" or found[0].labels]

    def labels(self, stimuli: Sequence[str]) -> tuple[str, ...]:
        """Return the choices of a label question."""
        found = self._found(stimuli)
        return found[0].labels if found else ()

    def complete(self, stimuli: Sequence[str], answers: Mapping[str, str]) -> bool:
        """Whether a page has every answer it needs to be left."""
        return all(answers.get(q.id) for q in self.asked(stimuli) if q.required)

    def _found(self, stimuli: Sequence[str]) -> list[Stimulus]:
        """The stimuli of a page, none where one of them is gone."""
        check = self._attention.get(stimuli[0])
        # Where pages show two texts, so does a check: the same one twice.
        sides = 2 if self._study.settings.design.show == "pair" else 1
        ids = [check.stimulus] * sides if check is not None else stimuli
        known = self._study.stimuli
        return [known[i] for i in ids] if all(i in known for i in ids) else []

    def _visible(self, stimulus: Stimulus) -> tuple[Part, ...]:
        return tuple(part for part in stimulus.parts if part.name not in self._study.settings.hidden)

    def _instructed(self, parts: tuple[Part, ...], check: Attention, language: str) -> tuple[Part, ...]:
        settings = self._study.settings
        question = settings.question(check.question)
        words = self._words.get(language) or self._words[settings.languages[0]]
        text = words(
            f"attention.{question.kind}",
            answer=_spoken(question, check.answer, words),
            question=in_language(question.text, language, settings.languages[0]),
        )
        names = [part.name for part in parts]
        place = names.index(check.part) if check.part in names else len(parts) - 1
        return (*parts[:place], Part(name=parts[place].name, text=text), *parts[place + 1 :])


def _spoken(question: Question, answer: str, words: Wording) -> str:
    """An answer as it stands on the page."""
    return words(f"rating.{answer}") if question.kind == "pairwise" else answer

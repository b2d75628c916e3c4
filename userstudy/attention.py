"""Attention checks: pages that say which answer to give."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from quantxai.errors import ConfigError
from quantxai.records import digest
from userstudy.records import Attention, Stimulus
from userstudy.settings import Question, StudySettings

__all__ = ["attention_checks", "fitted"]

_GENERATED = ("edited", "explanation")
"""Parts that a model wrote: one of them gives way to the instruction."""


def attention_checks(stimuli: Iterable[Stimulus], settings: StudySettings) -> tuple[Attention, ...]:
    """Return as many checks as the design asks for, the same ones for every participant.

    Each takes another of the reference's stimuli, in random order, and prescribes an answer to another of the
    questions in turn. Without a question whose answers can be prescribed (all are free text) there are none.

    Args:
        stimuli: the material.
        settings: the questions, how many checks and the seed.
    """
    asked = [question for question in settings.questions if question.numeric]
    rng = random.Random(f"attention:{settings.design.seed}")
    own = [s for s in stimuli if s.variant == settings.analysis.reference]
    if not asked or not own:
        return ()
    rng.shuffle(own)
    found = []
    for number in range(settings.design.attention_checks):
        stimulus, question = own[number % len(own)], asked[number % len(asked)]
        answer = rng.choice(_prescribable(question, stimulus))
        found.append(
            Attention(
                id=digest(["attention", settings.design.seed, number, stimulus.id])[:12],
                stimulus=stimulus.id,
                question=question.id,
                answer=answer,
                part=next((p.name for p in stimulus.parts if p.name in _GENERATED), stimulus.parts[-1].name),
            )
        )
    return tuple(found)


def fitted(
    attention: tuple[Attention, ...], stimuli: Mapping[str, Stimulus], settings: StudySettings
) -> tuple[Attention, ...]:
    """Return the checks of a design, with other answers prescribed where the questions have changed since.

    Raises:
        ConfigError: there is no question left whose answer could be prescribed.
    """
    questions = {question.id: question for question in settings.questions if question.numeric}
    if all(
        check.stimulus not in stimuli  # gone: its page says so, and asks nothing
        or (
            check.question in questions
            and check.answer in _prescribable(questions[check.question], stimuli[check.stimulus])
        )
        for check in attention
    ):
        return attention
    anew = {check.id: check for check in attention_checks(stimuli.values(), settings)}
    if not {check.id for check in attention} <= anew.keys():
        raise ConfigError(
            "the design has attention checks, and no question is left whose answer could be prescribed: set "
            "design.attention_checks = 0 and draw again with: quantxai study draw STUDY"
        )
    return tuple(anew[check.id] for check in attention)


def _prescribable(question: Question, stimulus: Stimulus) -> Sequence[str]:
    """Answers that nobody gives by habit: no middle of a scale, no "same", not the right label."""
    if question.kind == "likert":
        return [str(point) for point in range(1, question.points + 1) if point != (question.points + 1) // 2]
    if question.kind == "pairwise":
        return ["left", "right"]
    return [label for label in stimulus.labels if label != stimulus.answer] or list(stimulus.labels) or [""]

"""The records of a study: what is shown, to whom, and what came back.

Their sizes: a *source item* is one item of a data set under one explainer; a *stimulus* is what one variant
made of it; a *form* says which variant's stimulus a participant sees of each source item; a *trial* is
one page of ratings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from quantxai.records import Record
from userstudy.settings import DesignSettings

__all__ = [
    "Attention",
    "Design",
    "Form",
    "Origin",
    "Part",
    "Planned",
    "Stimulus",
    "TrialKind",
    "rated_stimulus",
]

TrialKind = Literal["rating", "repeat", "attention"]


class Part(Record):
    """One text of a stimulus, with what it is."""

    name: str = Field(
        description="What it is: premise, hypothesis, text, original, edited, explanation, label, target; the words "
        "shown for it are in userstudy/texts."
    )
    text: str = Field(description="Shown as plain text, whatever it contains.")


class Stimulus(Record):
    """What one variant made of one source item, without what would give the variant away."""

    id: str = Field(description="12 hexadecimal digits that say nothing about the rest.")
    item: str = Field(description="The source item: EXPLAINER/DATASET/ID.")
    group: str = Field(description="Source items of one group are not independent.")
    explainer: str
    dataset: str
    variant: str = Field(description="Never leaves the server.")
    label: str = Field(description="The item's gold label, a stratum.")
    outcome: str = Field(description="How the parent fared on the item, a stratum: correct, wrong.")
    parts: tuple[Part, ...] = Field(description="In the order of reading.")
    labels: tuple[str, ...] = Field((), description="The task's labels, choices of a `label` question.")
    answer: str | None = Field(
        None, description="What the variant itself says, the right answer to a `label` question."
    )
    removed: tuple[str, ...] = Field((), description="What was taken out of the texts, for the record.")


def rated_stimulus(shown: Sequence[Stimulus], reference: str) -> Stimulus:
    """Return which of a page's stimuli its answers are about: of a pair, the one that is not the reference's."""
    return next((stimulus for stimulus in shown if stimulus.variant != reference), shown[0])


class Attention(Record):
    """A page whose right answer its text says: a stimulus with an instruction in place of one part."""

    id: str
    stimulus: str = Field(description="Id of the stimulus whose other parts are shown.")
    question: str = Field(description="Id of the question whose answer is prescribed.")
    answer: str = Field(description="The prescribed answer, as stored.")
    part: str = Field(description="Which part of the stimulus the instruction replaces.")


class Planned(Record):
    """One trial of a form."""

    kind: TrialKind
    stimuli: tuple[str, ...] = Field(
        description="Ids of stimuli: one, or two to be compared; of an attention check: its id alone."
    )


class Form(Record):
    """What one participant is shown; the order is drawn anew for each."""

    id: int
    trials: tuple[Planned, ...]


class Design(Record):
    """A balanced set of forms, used equally often."""

    seed: int
    kind: str = Field(
        description="latin-square, balanced-incomplete-blocks, or cyclic-incomplete-blocks, in which pairs of variants "
        "come together unequally often."
    )
    variants: tuple[str, ...]
    reference: str = Field(description="The variant the others are compared with.")
    forms: tuple[Form, ...]
    attention: tuple[Attention, ...] = ()
    drawn_with: DesignSettings | None = Field(
        None, description="The [design] of study.toml it was drawn with: a later change needs a new draw."
    )


class Origin(Record):
    """Where a study's material comes from."""

    run: str = Field(description="Name of the run directory.")
    manifest_digest: str = Field(description="SHA-256 of the run's manifest.")
    quantxai_version: str
    created: str = Field(description="UTC, ISO 8601.")
    model: str
    drawn: int = Field(description="Source items in the study.")
    eligible: int = Field(description="Source items for which every variant has a text.")
    left_out: dict[str, int] = Field(
        description="Source items left out for want of a text, by the variant that has none."
    )

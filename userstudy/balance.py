"""What a design balances, found by counting its forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import NamedTuple

from userstudy.records import Design, Stimulus
from userstudy.settings import StudySettings

__all__ = ["Balance", "Range", "balance", "shortcomings"]


class Range(NamedTuple):
    """The smallest and the largest of some counts."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low} to {self.high}"


class Balance(NamedTuple):
    """Counts of rated pages, repeats and checks left aside; of pairs, the text that is not the reference's."""

    cells: Range
    """How many forms show an item with a variant."""
    variants: Range
    """How often a participant sees a variant."""
    pairs: Range
    """How often two variants come together in a session, over all forms; 0 with one variant."""
    items: int
    """Source items a participant sees."""


def balance(design: Design, stimuli: Mapping[str, Stimulus]) -> Balance:
    """Count how often items, variants and pairs of variants come together.

    Args:
        design: the forms.
        stimuli: by id.
    """
    # What stands beside the reference is last in a form; sides are drawn for each participant.
    shown = [
        [stimuli[trial.stimuli[-1]] for trial in form.trials if trial.kind == "rating"]
        for form in design.forms
    ]
    variants = sorted({stimulus.variant for form in shown for stimulus in form})
    cells = Counter((s.item, s.variant) for form in shown for s in form)
    items = sorted({stimulus.item for stimulus in stimuli.values()})
    within = [Counter(stimulus.variant for stimulus in form) for form in shown]
    pairs = [sum(form[a] * form[b] for form in within) for a, b in combinations(variants, 2)]
    return Balance(
        cells=_range(cells[item, variant] for item in items for variant in variants),
        variants=_range(form[variant] for form in within for variant in variants),
        pairs=_range(pairs or [0]),
        items=max(map(len, shown)),
    )


def shortcomings(design: Design, stimuli: Mapping[str, Stimulus], settings: StudySettings) -> list[str]:
    """Return what is not exactly balanced, a sentence each; none where everything is."""
    found, forms, people = balance(design, stimuli), len(design.forms), settings.recruitment.participants
    notes = []
    if people % forms:
        least, most = people // forms, -(-people // forms)
        notes.append(
            f"{people} participants do not divide by {forms} forms: each form is used {least} or {most} times. "
            f"It is exact with {' or '.join(str(n * forms) for n in (least, most) if n)}."
        )
    if found.variants.low != found.variants.high:
        notes.append(
            f"A participant sees each variant {found.variants} times, since {found.items} texts do not divide "
            "by the number of variants; over all forms each is seen equally often."
        )
    if found.pairs.low != found.pairs.high:
        notes.append(
            f"Two variants come together in one session {found.pairs} times over all forms, not equally often: for "
            "these numbers of variants and items no small balanced set of forms is known here."
        )
    if found.cells.low != found.cells.high:
        notes.append(f"An item is shown with a variant in {found.cells} forms, not equally often.")
    return notes


def _range(counts: Iterable[int]) -> Range:
    found = list(counts)
    return Range(min(found), max(found))

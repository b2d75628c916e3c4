"""From stimuli to forms: which variant's text of which source item each participant sees.

Source items are put into an order that takes every stratum evenly; a form takes a stretch of it
(`blocks.windows`) and gives its items variants by a rotated base sequence (`blocks.base_sequences`). Over all
forms every item is shown equally often with every variant; `balance.balance` counts what holds. The order
of pages within a form is drawn anew for each participant: `userstudy.order`.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from quantxai.errors import ConfigError
from userstudy.attention import attention_checks
from userstudy.balance import balance
from userstudy.blocks import base_sequences, windows
from userstudy.order import most_repeats
from userstudy.records import Design, Form, Planned, Stimulus
from userstudy.settings import StudySettings

__all__ = ["draw_design"]

_MOST_FORMS = 1_000


def draw_design(stimuli: Iterable[Stimulus], settings: StudySettings) -> Design:
    """Return balanced forms of all these stimuli.

    Args:
        stimuli: one for each source item and variant, the variants in the order they are to have.
        settings: how many items a participant sees, repeats, checks, one text a page or two.

    Raises:
        ConfigError: the design cannot be had; the message says what to change.
    """
    stimuli = list(stimuli)
    how, reference = settings.design, settings.analysis.reference
    variants = tuple(dict.fromkeys(stimulus.variant for stimulus in stimuli))
    if len(variants) < 2 or reference not in variants:
        raise ConfigError(
            f'a study compares the reference, analysis.reference = "{reference}", with at least one other variant; '
            f"the material has: {', '.join(variants)}"
        )
    rotated = tuple(v for v in variants if how.show == "one" or v != reference)
    items = _ordered(stimuli, how.per_participant, how.seed)
    slots = min(how.per_participant, len(items))
    _check_repeats(how.repeats, slots, how.attention_checks)
    shown = _shown(items, rotated, slots)
    attention = attention_checks(stimuli, settings)
    pages = _Pages(stimuli, reference if how.show == "pair" else None, how.seed)
    checks = tuple(Planned(kind="attention", stimuli=(check.id,)) for check in attention)
    forms = (
        Form(id=number, trials=(*pages.ratings(cells), *pages.repeats(cells, how.repeats), *checks))
        for number, cells in enumerate(shown)
    )
    design = Design(
        seed=how.seed,
        kind="latin-square",
        variants=variants,
        reference=reference,
        forms=tuple(forms),
        attention=attention,
        drawn_with=how,
    )
    if slots == len(items) and slots >= len(rotated):
        return design
    pairs = balance(design, {stimulus.id: stimulus for stimulus in stimuli}).pairs
    kind = "balanced" if pairs.low == pairs.high else "cyclic"
    return design.model_copy(update={"kind": f"{kind}-incomplete-blocks"})


Cell = tuple[str, str]
"""Source item and variant."""


def _shown(items: Sequence[str], variants: Sequence[str], slots: int) -> list[list[Cell]]:
    """Return the cells of each form."""
    sets, sequences = windows(len(items), slots), base_sequences(slots, len(variants))
    _check_size(len(sets) * len(sequences) * len(variants), slots, len(items))
    return [
        [
            (items[i], variants[(start + turn) % len(variants)])
            for i, start in zip(sets[w], sequence, strict=True)
        ]
        for sequence in sequences
        for w, turn in _rotations(len(sets), len(variants))
    ]


class _Pages:
    """Makes trials of cells, and remembers what was repeated, so that all cells are equally often.

    Args:
        stimuli: the material.
        beside: the reference where it is shown beside every other variant; None where one text is shown.
        seed: of the choice among cells that were repeated equally often.
    """

    def __init__(self, stimuli: Sequence[Stimulus], beside: str | None, seed: int) -> None:
        self._ids = {(stimulus.item, stimulus.variant): stimulus.id for stimulus in stimuli}
        self._beside = beside
        self._rng = random.Random(f"repeats:{seed}")
        self._variants: Counter[str] = Counter()
        self._items: Counter[str] = Counter()

    def ratings(self, cells: Sequence[Cell]) -> list[Planned]:
        return [Planned(kind="rating", stimuli=self._shown(cell)) for cell in cells]

    def repeats(self, cells: Sequence[Cell], count: int) -> list[Planned]:
        left, chosen = list(cells), []
        for _ in range(count):
            self._rng.shuffle(left)
            left.sort(key=lambda cell: (self._variants[cell[1]], self._items[cell[0]]))
            item, variant = left.pop(0)
            self._variants[variant] += 1
            self._items[item] += 1
            chosen.append(Planned(kind="repeat", stimuli=self._shown((item, variant))))
        return chosen

    def _shown(self, cell: Cell) -> tuple[str, ...]:
        own = self._ids[cell]
        return (own,) if self._beside is None else (self._ids[cell[0], self._beside], own)


def _ordered(stimuli: Sequence[Stimulus], slots: int, seed: int) -> list[str]:
    """Return the source items so that every stretch of so many holds the strata as evenly as all do.

    Sorted by stratum, shuffled within each, and taken in strides (a systematic sample) of as many
    items as there are stretches.
    """
    strata = {s.item: (s.explainer, s.dataset, s.label, s.outcome) for s in stimuli}
    items = sorted(strata)
    random.Random(f"items:{seed}").shuffle(items)
    items.sort(key=strata.__getitem__)
    stride = math.ceil(len(items) / slots)
    return [item for start in range(stride) for item in items[start::stride]]


def _rotations(sets: int, variants: int) -> Iterator[tuple[int, int]]:
    """Yield every pair of set and rotation once, so that the first few forms are nearly balanced already."""
    period = math.lcm(sets, variants)
    for number in range(sets * variants):
        yield number % sets, (number + number // period) % variants


def _check_repeats(repeats: int, slots: int, checks: int) -> None:
    most = most_repeats(slots, checks)
    if repeats > most:
        raise ConfigError(
            f"design.repeats = {repeats}: a repeated page comes at least a third of the session after it was "
            f"first shown, which leaves room for {most} with {slots} items; lower it or show more items"
        )


def _check_size(forms: int, slots: int, items: int) -> None:
    if forms > _MOST_FORMS:
        raise ConfigError(
            f"{slots} of {items} source items for each participant take {forms:,} forms to be balanced, more than "
            f"{_MOST_FORMS:,}. Make the number of items a multiple of design.per_participant"
        )

"""What a study of some size would find: the study simulated, and analysed as its ratings will be.

Power is the share of simulated studies that reach the aim of a comparison. Where the truth makes a
difference, the aim is to find it: an adjusted p below alpha, on the right side. Where it makes none, the
aim is to show that: an adjusted p of equivalence below alpha. Shares come with Clopper-Pearson intervals,
which say how far simulating more would move them.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from quantxai.records import Record, digest
from quantxai.statistics import clopper_pearson
from userstudy.analysis import RatingFinding, find
from userstudy.analysis.findings import confirmatory_questions
from userstudy.design import draw_design
from userstudy.raters import Truth
from userstudy.records import Design, Stimulus
from userstudy.settings import Question, StudySettings
from userstudy.simulation import Simulator
from userstudy.study import Study

__all__ = ["FalseFindings", "Power", "PowerSimulation", "Size", "decisive", "resized", "smallest"]

_BATCH = 10
"""Studies between two reports of progress."""

Outcome = tuple[int, bool]
"""What a study found in one comparison: the sign of the difference, 0 where none is; whether equivalence."""
Outcomes = list[dict[tuple[str, str], Outcome]]
"""One entry a study, by question and variant."""


class Size(NamedTuple):
    """How large a study is."""

    participants: int
    items: int


class _Sized(Record):
    participants: int = Field(description="Who begin; some leave, some are excluded.")
    items: int = Field(description="Source items in the study.")
    simulations: int


class Power(_Sized):
    """How often a comparison reaches its aim."""

    variant: str
    question: str | None = Field(
        description="null: all confirmatory questions; a difference in any of them, equivalence in every one."
    )
    aim: Literal["difference", "equivalence"]
    expected: float | None = Field(description="True change of the mean answer; null over questions.")
    margin: float | None = Field(description="Largest change called equivalent; null over questions.")
    power: float
    ci_low: float = Field(description="95 % interval of the simulation, lower end.")
    ci_high: float


class FalseFindings(_Sized):
    """How often a study finds some difference where there is none."""

    rate: float
    ci_low: float = Field(description="95 % interval of the simulation, lower end.")
    ci_high: float


class PowerSimulation:
    """Simulates a study at several sizes. Use it in a `with` block: it shares the work among processes.

    Args:
        study: its settings, material and design.
        truth: what is true of the raters.
        simulations: studies simulated for each number.
        advance: told how many more studies were simulated, for whoever watches.
        seed: of everything drawn.
    """

    def __init__(
        self,
        study: Study,
        truth: Truth,
        simulations: int,
        advance: Callable[[int], None] = lambda units: None,
        seed: int = 0,
    ) -> None:
        self._study, self._truth, self._simulations = study, truth, simulations
        self._advance, self._seed = advance, seed
        # Studies are the unit of work: a process of its own each, and none of them with threads of its own.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        self._powers: dict[Size, list[Power]] = {}
        self._pool = ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), initializer=_ready)

    def __enter__(self) -> PowerSimulation:
        """Processes start with the first studies."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop them."""
        self._pool.shutdown(cancel_futures=True)

    def power(self, size: Size) -> list[Power]:
        """Return the power of each variant's confirmatory comparisons, together and one by one."""
        if size not in self._powers:
            self._powers[size] = self._power(size)
        return self._powers[size]

    def false_findings(self, size: Size) -> FalseFindings:
        """Return how often any confirmatory comparison finds a difference though no variant makes one."""
        _, found = self._simulated(size, self._truth.null())
        hits = sum(any(sign for sign, _ in study.values()) for study in found)
        return FalseFindings(**size._asdict(), **_share(hits, len(found), "rate"))

    def _power(self, size: Size) -> list[Power]:
        settings, found = self._simulated(size, self._truth)
        named = confirmatory_questions(settings)
        questions = [question for question in settings.questions if question.id in named]
        reference = self._study.design.reference
        powers = []
        for variant in (v for v in self._study.design.variants if v != reference):
            changes = {q.id: _change(self._truth, q, variant, reference) for q in questions}
            for one in [None, *changes]:
                asked = changes if one is None else {one: changes[one]}
                powers.append(self._held(size, variant, one, asked, found))
        return powers

    def _held(
        self, size: Size, variant: str, question: str | None, changes: Mapping[str, float], found: Outcomes
    ) -> Power:
        different = {q: change for q, change in changes.items() if abs(change) > 1e-9}
        aim: Literal["difference", "equivalence"] = "difference" if different else "equivalence"
        hits = 0
        for study in found:
            got = {q: study.get((q, variant), (0, False)) for q in changes}
            right = [got[q][0] * change > 0 for q, change in different.items()]
            hits += any(right) if different else all(equivalent for _, equivalent in got.values())
        analysis, one = self._study.settings.analysis, question and self._study.settings.question(question)
        return Power(
            variant=variant,
            question=question,
            aim=aim,
            expected=changes[question] if question else None,
            margin=(analysis.margin if one.kind == "likert" else analysis.margin_share) if one else None,
            **size._asdict(),
            **_share(hits, len(found), "power"),
        )

    def _simulated(self, size: Size, truth: Truth) -> tuple[StudySettings, Outcomes]:
        settings, stimuli, design = resized(self._study, size.items)
        simulator = Simulator(settings, stimuli, design, size.participants)
        seeds = np.random.SeedSequence([self._seed, *size]).spawn(self._simulations)
        batches = [seeds[start : start + _BATCH] for start in range(0, len(seeds), _BATCH)]
        tasks = [self._pool.submit(_analysed, simulator, settings, design, truth, batch) for batch in batches]
        found: Outcomes = []
        for task in tasks:
            outcomes = task.result()
            found += outcomes
            self._advance(len(outcomes))
        return settings, found


def resized(study: Study, items: int) -> tuple[StudySettings, Mapping[str, Stimulus], Design]:
    """Return a study's settings, stimuli and design with another number of source items.

    With fewer items the first of them are used, with more they are repeated under other names.

    Raises:
        ConfigError: there is no design of that size.
    """
    names = list(dict.fromkeys(stimulus.item for stimulus in study.stimuli.values()))
    if items == len(names):
        return study.settings, study.stimuli, study.design
    stimuli = []
    for number in range(items):
        copy, place = divmod(number, len(names))
        for stimulus in study.stimuli.values():
            if stimulus.item == names[place]:
                stimuli.append(_copied(stimulus, copy) if copy else stimulus)
    planned = study.settings.design
    planned = planned.model_copy(
        update={"items": items, "per_participant": min(planned.per_participant, items)}
    )
    settings = study.settings.model_copy(update={"design": planned})
    return settings, {stimulus.id: stimulus for stimulus in stimuli}, draw_design(stimuli, settings)


def decisive(powers: Iterable[Power]) -> list[Power]:
    """Return what a target is held against: each variant's over all questions, differences if there are any."""
    together = [found for found in powers if found.question is None]
    return [found for found in together if found.aim == "difference"] or together


def smallest(reaches: Callable[[int], bool], start: int, step: int, most: int) -> int | None:
    """Return the smallest multiple of a step that reaches something, if more always does where less did.

    Args:
        reaches: whether so many do; asked about few numbers.
        start: where to begin.
        step: what numbers are multiples of.
        most: where to give up.

    Returns:
        None where even the most does not.
    """
    low, high = 0, max(1, start // step)
    while not reaches(high * step):
        if high * step >= most:
            return None
        low, high = high, min(2 * high, max(1, most // step))
        if high == low:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle * step) else (middle, high)
    return high * step


def _ready() -> None:
    # What was imported is never garbage; statsmodels collects after each correction, which would look at all of it.
    gc.freeze()


def _analysed(
    simulator: Simulator,
    settings: StudySettings,
    design: Design,
    truth: Truth,
    seeds: Sequence[np.random.SeedSequence],
) -> Outcomes:
    """Simulate and analyse one study a seed."""
    found = []
    for seed in seeds:
        ratings = simulator.draw(truth, np.random.default_rng(seed))
        findings = find(ratings, settings, design)
        alpha = settings.analysis.alpha
        found.append({(f.question, f.variant): _outcome(f, alpha) for f in findings if f.confirmatory})
    return found


def _outcome(finding: RatingFinding, alpha: float) -> Outcome:
    p, equivalence = finding.p_adjusted, finding.p_equivalence_adjusted
    sign = int(np.sign(finding.estimate or 0.0)) if p is not None and p < alpha else 0
    return sign, equivalence is not None and equivalence < alpha


def _change(truth: Truth, question: Question, variant: str, reference: str) -> float:
    expected = truth.expected(question, variant, reference)
    return (
        expected if question.kind == "pairwise" else expected - truth.expected(question, reference, reference)
    )


def _copied(stimulus: Stimulus, copy: int) -> Stimulus:
    other = {"id": digest([stimulus.id, copy])[:12], "item": f"{stimulus.item}+{copy}"}
    return stimulus.model_copy(update={**other, "group": f"{stimulus.group}+{copy}"})


def _share(hits: int, of: int, name: str) -> dict[str, float]:
    interval = clopper_pearson(hits, of)
    low, high = interval or (0.0, 1.0)
    return {name: hits / of, "simulations": of, "ci_low": low, "ci_high": high}

"""Raters with a known truth: what an analysis must find, and what a study of some size can find.

A rater p judges what variant v made of source item i under question q, on occasion t, by its latent
quality, in shares of the scale's range (0: the lowest point, 1: the highest):

    quality(p, i, v, q, t) = mean + effect(v, q) + P(p, q) + I(i, q) + PV(p, v, q) + IV(i, v, q) + PI(p, i, q)
                             + E(p, i, v, q, t) + fatigue * position

All capitals are independent normal variables with mean 0 and the standard deviations of `Truth`: intercepts
of participants and items, their slopes by variant, a participant's own view of an item (the same when the
item is repeated), and noise (drawn anew on each occasion, which is what repeats measure). The same
variable for two questions correlates by `halo`. With m = points - 1, an answer on a scale is the nearest
point, 1 + round(m * quality) within the scale: equal thresholds at (k - 1/2) / m. So the expected rating is

    E[rating] = 1 + sum over k = 1..m of Phi((mean + effect - (k - 1/2) / m) / sigma),

sigma² the sum of all variances. A label guess is right where quality exceeds a threshold, put where the
reference's share of right guesses is `label_right`. Of two texts one is preferred where its quality exceeds
the other's by more than `indifference`; sides do not matter.

Beside these, some raters are careless (random answers, pages turned at once), some answer everything alike,
some leave early, and attentive ones fail an attention check at times.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import ndtr, ndtri

from quantxai.errors import ConfigError, UnknownName
from quantxai.records import Record
from quantxai.validation import read_toml, validate
from userstudy.settings import Question

__all__ = ["LARGEST_DROP", "Population", "Shown", "Truth", "read_truth"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LARGEST_DROP = -0.4
"""Points of a scale of seven. The study that this package follows had 48 raters rate 30 explanations; ratings
dropped by up to 8.5 %, which is 0.4 of a mean of 4.7."""


class Truth(Record):
    """What is true of simulated raters.

    The standard deviations are shares of the scale's range. Card et al. 2020 (With little power comes great
    responsibility, EMNLP) fitted mixed models to published human ratings of generated texts; the two settings
    they simulate have residual standard deviations of 0.16 and 0.26, and 0.01 to 0.14 for
    intercepts and slopes of annotators and items. The defaults lie between; they put
    the agreement of two raters (the intraclass correlation of single ratings) at 0.20 and that of a rater
    with themselves at 0.72.
    """

    effects: dict[str, float] = Field(
        default_factory=dict,
        description="Change by variant, points of the question's scale (of 7 without one).",
    )
    others: float = Field(
        LARGEST_DROP, description="Change by variants, the reference apart, that `effects` does not name."
    )
    by_question: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="Changes of single questions, which take the place of `effects`."
    )
    mean: float = Field(0.62, description="Mean of the reference: 4.7 on a scale of seven.")
    participant: float = Field(0.14, ge=0, description="Participants' intercepts: some are milder.")
    item: float = Field(0.10, ge=0, description="Items' intercepts: some are easier to explain.")
    participant_by_variant: float = Field(0.04, ge=0, description="Participants' slopes by variant.")
    item_by_variant: float = Field(0.08, ge=0, description="Items' slopes by variant: texts differ.")
    participant_by_item: float = Field(0.15, ge=0, description="A participant's own view of an item.")
    noise: float = Field(0.15, ge=0, description="Between two ratings of the same by the same.")
    halo: float = Field(0.6, ge=0, le=1, description="Correlation of any of these between two questions.")
    fatigue: float = Field(0.0, description="Change from the first page to the last, shares of the range.")
    label_right: float = Field(0.7, gt=0, lt=1, description="Share of right label guesses of the reference.")
    indifference: float = Field(0.08, ge=0, description="Differences so small are called the same.")
    attention_failure: float = Field(0.03, ge=0, le=1, description="Attentive raters fail a check so often.")
    careless: float = Field(0.05, ge=0, le=1, description="Share who answer at random, at once.")
    straight_lining: float = Field(0.02, ge=0, le=1, description="Share who answer everything alike.")
    drop_out: float = Field(0.08, ge=0, le=1, description="Share who leave before the end.")
    seconds: float = Field(25.0, gt=0, description="Median time of a page; log-normal, sd 0.5 on the log.")

    def effect(self, variant: str, question: str, reference: str) -> float:
        """Return the change that a variant makes to a question, in points of its scale."""
        otherwise = self.effects.get(variant, 0.0 if variant == reference else self.others)
        return self.by_question.get(question, {}).get(variant, otherwise)

    @property
    def stable(self) -> float:
        """Standard deviation of a quality over participants and items, without the noise of an occasion."""
        parts = (self.participant, self.item, self.participant_by_variant, self.item_by_variant)
        return math.hypot(*parts, self.participant_by_item)

    def expected(self, question: Question, variant: str, reference: str) -> float:
        """Return the expected answer of attentive raters, before fatigue.

        Returns:
            The mean rating in points; of label guesses the share that is right; of pairs the share that
            prefers the variant less the share that prefers the reference.
        """
        shift = self.effect(variant, question.id, reference) / _range(question)
        sigma = math.hypot(self.stable, self.noise)
        if question.kind == "likert":
            steps = question.points - 1
            edges = (np.arange(1, steps + 1) - 0.5) / steps
            return float(1 + ndtr((self.mean + shift - edges) / sigma).sum())
        if question.kind == "label":
            return float(ndtr(ndtri(self.label_right) + shift / sigma))
        shift -= self.effect(reference, question.id, reference) / _range(question)
        apart = math.sqrt(2) * math.hypot(self.participant_by_variant, self.item_by_variant, self.noise)
        return float(ndtr((shift - self.indifference) / apart) - ndtr((-shift - self.indifference) / apart))

    def null(self) -> Truth:
        """Return the same raters where no variant differs from another."""
        return self.model_copy(update={"effects": {}, "others": 0.0, "by_question": {}})

    def checked(self, variants: Sequence[str]) -> Truth:
        """Return itself where every variant it names is one of those.

        Raises:
            UnknownName: one is not.
        """
        for name in [*self.effects, *(v for changes in self.by_question.values() for v in changes)]:
            if name not in variants:
                raise UnknownName("variant", name, variants)
        return self


def read_truth(path: Path) -> Truth:
    """Return the truth that a TOML or JSON file states.

    Raises:
        ConfigError: it is missing, cannot be read, or states something else.
    """
    if path.suffix != ".json":
        return validate(Truth, read_toml(path, "It states a Truth: effects, standard deviations."), str(path))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: must be an object of keys and values.")
    return validate(Truth, found, str(path))


class Shown(NamedTuple):
    """Pages shown to participants: arrays of indices, one entry a page."""

    participant: Integers
    item: Integers
    variant: Integers
    progress: Floats
    """How far the participant is, 0 to 1."""
    chance: Floats
    """Share of label guesses that are right without reading: one over the number of labels."""


class Population:
    """Raters and items drawn from a truth.

    Args:
        truth: what they are drawn from.
        questions: the questions asked, those with numbers.
        variants: names, the reference first; others follow in the order of their indices.
        participants: how many.
        items: how many.
        rng: source of randomness.

    Attributes:
        careless: (participants,) whether they answer at random, at once.
        straight: (participants,) whether they answer everything alike.
        stay: (participants,) the share of their pages they see, 1 for those who stay to the end.
    """

    def __init__(
        self,
        truth: Truth,
        questions: Sequence[Question],
        variants: Sequence[str],
        participants: int,
        items: int,
        rng: np.random.Generator,
    ) -> None:
        self.truth, self.questions, self.rng = truth, tuple(questions), rng
        self._range = np.array([_range(q) for q in self.questions], dtype=float)
        effects = [[truth.effect(v, q.id, variants[0]) for q in self.questions] for v in variants]
        self._effects = np.array(effects) / self._range
        self._participant = self._normal(truth.participant, participants)
        self._item = self._normal(truth.item, items)
        self._participant_by_variant = self._normal(truth.participant_by_variant, participants, len(variants))
        self._item_by_variant = self._normal(truth.item_by_variant, items, len(variants))
        self._participant_by_item = self._normal(truth.participant_by_item, participants, items)
        kind = rng.random(participants)
        self.careless = kind < truth.careless
        self.straight = (kind >= truth.careless) & (kind < truth.careless + truth.straight_lining)
        self.stay = np.where(rng.random(participants) < truth.drop_out, rng.random(participants), 1.0)
        self._favourite = rng.random(participants)

    def answers(self, shown: Shown) -> Floats:
        """Return answers as numbers, as in userstudy/ratings.py.

        Args:
            shown: n pages; where two texts are compared, the variant is the one beside the reference.

        Returns:
            (n, questions).
        """
        quality = self._quality(shown)
        sigma = math.hypot(self.truth.stable, self.truth.noise)
        pairs = any(q.kind == "pairwise" for q in self.questions)
        other = self._quality(shown._replace(variant=np.zeros_like(shown.variant))) if pairs else quality
        apart = quality - other
        found = {
            "likert": 1 + np.clip(np.rint(quality * self._range), 0, self._range),
            "label": quality > self.truth.mean - sigma * ndtri(self.truth.label_right),
            "pairwise": np.where(np.abs(apart) <= self.truth.indifference, 0.0, np.sign(apart)),
        }
        attentive = self._chosen(found)
        return self._with_manners(attentive, shown)

    def attention(self, participant: Integers) -> NDArray[np.bool_]:
        """Return whether participants pass an attention check; one in seven of those who do not read does.

        Args:
            participant: (n,) indices.
        """
        careless = self.careless[participant] | self.straight[participant]
        passed = np.where(careless, 1 / 7, 1 - self.truth.attention_failure)
        return self.rng.random(len(participant)) < passed

    def seconds(self, participant: Integers) -> Floats:
        """Return times of pages: (n,); careless raters turn them at once."""
        pace = np.where(self.careless[participant], 1.0, self.truth.seconds)
        return np.asarray(pace * np.exp(0.5 * self.rng.standard_normal(len(participant))))

    def _quality(self, shown: Shown) -> Floats:
        p, i, v, progress, _ = shown
        fixed = self.truth.mean + self._effects[v] + self.truth.fatigue * progress[:, None]
        slopes = self._participant_by_variant[p, v] + self._item_by_variant[i, v]
        noise = self._normal(self.truth.noise, len(p))
        own = self._participant[p] + self._item[i] + self._participant_by_item[p, i]
        return np.asarray(fixed + own + slopes + noise)

    def _chosen(self, by_kind: Mapping[str, NDArray[Any]]) -> Floats:
        columns = [by_kind[q.kind][:, place] for place, q in enumerate(self.questions)]
        return np.column_stack(columns).astype(float)

    def _with_manners(self, attentive: Floats, shown: Shown) -> Floats:
        """Replace the answers of careless and straight-lining participants."""
        any_point = self.rng.random(attentive.shape)
        random = {
            "likert": 1 + np.floor(any_point * (self._range + 1)),
            "label": any_point < shown.chance[:, None],
            "pairwise": np.floor(3 * any_point) - 1,
        }
        favourite = np.floor(self._favourite[shown.participant, None] * (self._range + 1))
        same = random | {"likert": 1 + favourite, "pairwise": favourite % 3 - 1}
        careless = self.careless[shown.participant, None]
        straight = self.straight[shown.participant, None]
        replaced = np.where(straight, self._chosen(same), attentive)
        return np.where(careless, self._chosen(random), replaced)

    def _normal(self, deviation: float, *shape: int) -> Floats:
        """Return normal variables, correlated by `halo` over the last axis, the questions."""
        common = self.rng.standard_normal((*shape, 1))
        own = self.rng.standard_normal((*shape, len(self.questions)))
        return deviation * (math.sqrt(self.truth.halo) * common + math.sqrt(1 - self.truth.halo) * own)


def _range(question: Question) -> int:
    return question.points - 1 if question.kind == "likert" else 6

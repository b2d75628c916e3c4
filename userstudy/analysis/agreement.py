"""How far participants agree: with each other on a stimulus, and with themselves on a repeated page.

References:
    Cohen 1968, Weighted kappa, Psychol. Bull. 70. Krippendorff 2011, Computing Krippendorff's
    alpha-reliability. Zapf et al. 2016, Measuring inter-rater reliability for nominal data: which coefficients
    and confidence intervals are appropriate?, BMC Med. Res. Methodol. 16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quantxai.errors import MissingExtra
from userstudy.analysis.crossed import group_names
from userstudy.analysis.results import Agreement, IntraRater
from userstudy.settings import Question, StudySettings

__all__ = ["Alpha", "agreements", "alpha", "intra_rater"]

Level = Literal["ordinal", "nominal"]
Counts = NDArray[np.int64]

CONFIDENCE = 0.95
_RESAMPLES = 1000


class Alpha(NamedTuple):
    """Krippendorff's alpha with its bootstrap interval, and what it rests on."""

    value: float | None
    low: float | None
    high: float | None
    units: int
    answers: int


def alpha(
    answers: Sequence[object],
    units: Sequence[object],
    groups: Sequence[object],
    level: Level,
    resamples: int = _RESAMPLES,
) -> Alpha:
    """Return Krippendorff's alpha of the answers to each unit, with a 95 % interval.

    The interval is the percentile bootstrap over groups of units, drawn with replacement (Zapf et al. 2016
    resample units; units of one group are not independent). A unit with one answer has nothing to
    say and is left out.

    Args:
        answers: one for each rating, comparable; ordinal ones are numbers.
        units: what each is about.
        groups: the group of each rating's unit.
        level: of measurement.
        resamples: of the bootstrap; 200 are enough for a page that is looked at now and again.

    Returns:
        None in place of alpha where it is not defined: fewer than two units, or all answers equal; in place of
        the interval also with fewer than two groups.

    Raises:
        MissingExtra: the package krippendorff is not installed.
    """
    counts, owner = _value_counts(answers, units, groups)
    value, low, high = _with_interval(lambda rows: _alpha(counts[rows], level), owner, resamples)
    return Alpha(value, low, high, len(counts), int(counts.sum()))


def agreements(
    rated: pd.DataFrame, settings: StudySettings, resamples: int = _RESAMPLES
) -> Iterator[Agreement]:
    """Yield alpha of each question, and of all questions of a scale together where there are several.

    Units are stimuli (together: stimuli and questions). Scales are ordinal; label guesses and preferences are
    nominal: the label guessed; the variant, the reference or neither.

    Args:
        rated: first answers, of those who are kept.
        settings: the study's.
        resamples: of the bootstrap.
    """
    questions = [question for question in settings.questions if question.numeric]
    kinds = sorted({(q.kind, q.points if q.kind == "likert" else None) for q in questions}, key=str)
    for question in questions:
        yield _agreement(rated, [question], question.id, resamples)
    for kind in kinds:
        same = [q for q in questions if (q.kind, q.points if q.kind == "likert" else None) == kind]
        if len(same) > 1:
            yield _agreement(rated, same, None, resamples)


def intra_rater(
    ratings: pd.DataFrame, settings: StudySettings, resamples: int = _RESAMPLES
) -> Iterator[IntraRater]:
    """Yield for each question how far participants repeat their answers, where pages are repeated.

    Intervals are percentile bootstraps over participants. Kappa of scales is weighted by squared distance (Cohen
    1968).

    Args:
        ratings: of those who are kept, first answers and repeats.
        settings: the study's.
        resamples: of the bootstrap.
    """
    for question in settings.questions:
        if question.numeric:
            pairs = _repeats(ratings, question)
            if len(pairs):
                yield _intra_rater(pairs, question, resamples)


def _agreement(
    rated: pd.DataFrame, questions: Sequence[Question], name: str | None, resamples: int
) -> Agreement:
    own = rated[rated["question"].isin([question.id for question in questions]) & rated["value"].notna()]
    sizes = own.groupby(["question", "stimulus"])["value"].transform("size")
    own = own[sizes > 1]
    kind = questions[0].kind
    level: Level = "ordinal" if kind == "likert" else "nominal"
    units = own["question"] + "/" + own["stimulus"]
    found = alpha(list(_given(own, kind)), list(units), list(group_names(own)), level, resamples)
    notes = []
    if found.value is None:
        few = "Fewer than two stimuli have two answers." if found.units < 2 else "All answers are equal."
        notes.append(f"{few} Alpha is not defined.")
    elif found.low is None:
        notes.append("One group of source items, or answers that hardly vary: no interval.")
    return Agreement(
        question=name,
        scale=kind,
        points=questions[0].points if kind == "likert" else None,
        level=level,
        alpha=found.value,
        ci_low=found.low,
        ci_high=found.high,
        units=found.units,
        participants=own["participant"].nunique(),
        n=found.answers,
        notes=tuple(notes),
    )


def _given(answers: pd.DataFrame, kind: str) -> pd.Series:
    """Return what was answered: a guess's label, where it is known, else the number."""
    if kind != "label":
        return answers["value"]
    text = answers["text"].fillna("").astype(str)
    return text if (text != "").all() else answers["value"].astype(str)


def _value_counts(
    answers: Sequence[object], units: Sequence[object], groups: Sequence[object]
) -> tuple[Counts, Counts]:
    """Return how often each answer was given to each unit [unit, answer], and the units' groups."""
    values = pd.factorize(pd.Series(answers, dtype=object), sort=True)[0]
    codes, names = pd.factorize(pd.Series(units, dtype=object))
    owners = pd.factorize(pd.Series(groups, dtype=object))[0]
    counts = np.zeros((len(names), values.max(initial=-1) + 1), dtype=np.int64)
    np.add.at(counts, (codes, values), 1)
    owner = np.zeros(len(names), dtype=np.int64)
    owner[codes] = owners
    several = counts.sum(1) > 1
    return counts[several], owner[several]


def _alpha(counts: Counts, level: Level) -> float:
    """Return alpha; nan where it is not defined: answers that are all equal cannot be told from chance."""
    try:
        import krippendorff
    except ImportError:
        raise MissingExtra("krippendorff", "study", "Krippendorff's alpha") from None
    if len(counts) < 2 or (counts.sum(0) > 0).sum() < 2:
        return np.nan
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement=level))


def _repeats(ratings: pd.DataFrame, question: Question) -> pd.DataFrame:
    """Return answers given twice: participant, first, second (as codes or points) and the unit they are about."""
    own = ratings[(ratings["question"] == question.id) & ratings["value"].notna()]
    own = own.assign(given=_given(own, question.kind)).sort_values("position")
    key = ["participant", "stimulus"]
    first = own[own["kind"] == "rating"].drop_duplicates(key)
    again = own[own["kind"] == "repeat"].drop_duplicates(key)
    return first[[*key, "given"]].merge(again[[*key, "given"]], on=key, suffixes=("_first", "_second"))


def _intra_rater(pairs: pd.DataFrame, question: Question, resamples: int) -> IntraRater:
    scale = question.kind == "likert"
    both = pd.concat([pairs["given_first"], pairs["given_second"]])
    codes, names = pd.factorize(both, sort=True)
    size = len(names)
    if scale:  # distances between points, not between those that happen to occur
        codes, size = both.to_numpy(int) - 1, int(question.points)
    first, second = codes[: len(pairs)], codes[len(pairs) :]
    level: Level = "ordinal" if scale else "nominal"

    def exact(rows: Counts) -> float:
        return float((first[rows] == second[rows]).mean())

    def kappa(rows: Counts) -> float:
        table = np.zeros((size, size))
        np.add.at(table, (first[rows], second[rows]), 1)
        return _kappa(table, weighted=scale)

    def own_alpha(rows: Counts) -> float:
        counts = np.zeros((len(rows), size), dtype=np.int64)
        np.add.at(counts, (np.arange(len(rows)), first[rows]), 1)
        np.add.at(counts, (np.arange(len(rows)), second[rows]), 1)
        return _alpha(counts, level)

    statistics = {"exact": exact, "kappa": kappa, "alpha": own_alpha}
    values: dict[str, float | None] = {}
    for name, statistic in statistics.items():
        ends = _with_interval(statistic, pairs["participant"].to_numpy(), resamples)
        values |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    note = "All answers are equal: chance-corrected agreement is not defined."
    return IntraRater(
        question=question.id,
        scale=question.kind,
        pairs=len(pairs),
        participants=pairs["participant"].nunique(),
        mean_change=float((second - first).mean()) if scale else None,
        notes=(note,) if values["alpha"] is None and len(pairs) > 1 else (),
        **values,
    )


def _kappa(table: NDArray[np.float64], *, weighted: bool) -> float:
    """Return Cohen's kappa; nan where chance alone gives full agreement."""
    from statsmodels.stats.inter_rater import cohens_kappa

    if np.count_nonzero(table) < 2:
        return np.nan
    with np.errstate(all="ignore"):
        return float(cohens_kappa(table, wt="quadratic" if weighted else None, return_results=False))


def _with_interval(
    statistic: Callable[[Counts], float], clusters: Counts, resamples: int
) -> tuple[float | None, float | None, float | None]:
    """Return a statistic of rows with its percentile bootstrap interval over whole clusters; None for nan.

    Args:
        statistic: of the rows with these indices; nan where it is not defined.
        clusters: the cluster of each row.
        resamples: of the bootstrap.
    """
    value = statistic(np.arange(len(clusters)))
    if not np.isfinite(value):
        return None, None, None
    members = [np.flatnonzero(clusters == one) for one in np.unique(clusters)]
    number = len(members)
    if number < 2:
        return value, None, None
    rng = np.random.default_rng(0)
    drawn = [
        statistic(np.concatenate([members[m] for m in rng.integers(number, size=number)]))
        for _ in range(resamples)
    ]
    return value, *_percentiles(np.array(drawn))


def _percentiles(drawn: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Return the interval of resampled values; None where many resamples have none."""
    known = drawn[np.isfinite(drawn)]
    if len(known) < 0.9 * len(drawn):
        return None, None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)

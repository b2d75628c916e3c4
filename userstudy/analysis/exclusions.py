"""Whose ratings are left out: the rules of `Exclusion`, and what was decided by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pandas as pd

from userstudy.analysis.results import Excluded, Exclusions
from userstudy.settings import Exclusion

__all__ = ["exclusions", "without"]

_FEWEST_ALIKE = 5
"""Answers to all of which somebody may give the same one by chance; more of them are straight-lining."""


def exclusions(ratings: pd.DataFrame, rules: Exclusion) -> Exclusions:
    """Apply the rules to every participant with an answer.

    - incomplete: the session did not end as completed.
    - attention: more failed checks than allowed.
    - too_fast: the median time per page is below the least.
    - straight_lining: one and the same answer, as given, to all questions and pages (more than five answers).
    - manual: set aside by hand, with a reason.

    Args:
        ratings: the tidy table of userstudy/ratings.py.
        rules: which apply, and from where on.
    """
    found: dict[int, dict[str, str]] = {}
    by_rule: dict[str, int] = {}
    for rule, reasons in _rules(ratings, rules):
        by_rule[rule] = len(reasons)
        for participant, reason in reasons.items():
            found.setdefault(participant, {})[rule] = reason
    seen = int(ratings["participant"].nunique())
    excluded = tuple(
        Excluded(participant=participant, rules=tuple(own), reason="; ".join(own.values()))
        for participant, own in sorted(found.items())
    )
    return Exclusions(seen=seen, kept=seen - len(excluded), by_rule=by_rule, excluded=excluded)


def without(ratings: pd.DataFrame, left_out: Exclusions) -> pd.DataFrame:
    """Return the ratings of those who are kept."""
    return ratings[~ratings["participant"].isin([one.participant for one in left_out.excluded])]


def _rules(ratings: pd.DataFrame, rules: Exclusion) -> Iterator[tuple[str, dict[int, str]]]:
    """Yield each active rule with what was seen of every participant it leaves out."""
    if rules.incomplete:
        status = _of_each(ratings, "status", keep="last").astype(str)
        status = status[status != "completed"]
        yield "incomplete", {int(p): f"session {name.replace('_', ' ')}" for p, name in status.items()}
    checks = ratings.loc[ratings["kind"] == "attention", ["participant", "value"]]
    passed = checks["value"].ne(0).groupby(checks["participant"]).agg(["sum", "size"])
    failed = passed["size"] - passed["sum"]
    failed = failed[failed > rules.max_attention_failures]
    yield (
        "attention",
        {int(p): f"{n} of {passed['size'][p]} attention checks failed" for p, n in failed.items()},
    )
    pages = ratings[["participant", "position", "seconds"]].drop_duplicates(["participant", "position"])
    medians = pages.groupby("participant")["seconds"].median()
    fast = medians[medians < rules.min_seconds_per_page]
    yield "too_fast", {int(p): f"median of {seconds:.1f} s a page" for p, seconds in fast.items()}
    if rules.straight_lining:
        yield "straight_lining", dict.fromkeys(_alike(ratings), "the same answer to everything")
    by_hand = _of_each(ratings, "excluded", keep="first").fillna("").astype(str)
    yield "manual", {int(p): reason for p, reason in by_hand[by_hand != ""].items()}


def _of_each(ratings: pd.DataFrame, column: str, keep: Literal["first", "last"]) -> pd.Series[Any]:
    """Return a column of each participant's first or last answer, by participant."""
    return (
        ratings[["participant", column]]
        .drop_duplicates("participant", keep=keep)
        .set_index("participant")[column]
    )


def _alike(ratings: pd.DataFrame) -> list[int]:
    """Return participants whose answers of each scale are all the same as given, sides and labels included."""
    numbers = (ratings["kind"] != "attention") & (ratings["scale"] != "text") & ratings["value"].notna()
    answers = ratings.loc[numbers, ["participant", "scale", "text", "value"]]
    # A pair's value depends on which side the variant was, a guess's on what was right: the text does not.
    text, number = answers["text"].fillna("").astype(str), answers["value"].astype(str)
    given = text.where((answers["scale"] != "likert") & (text != ""), number)
    different = (
        given.groupby([answers["participant"], answers["scale"]]).nunique().groupby("participant").max()
    )
    enough = answers.groupby("participant").size() > _FEWEST_ALIKE
    return [int(p) for p in different.index[(different == 1) & enough]]

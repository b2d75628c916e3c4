"""Whose ratings are left out: the rules of `Exclusion`, and what was decided by hand."""

from __future__ import annotations

from collections.abc import Iterator

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
    active = ["attention", "too_fast", "manual"]
    active += ["incomplete"] if rules.incomplete else []
    active += ["straight_lining"] if rules.straight_lining else []
    excluded = []
    for participant, own in ratings.groupby("participant", sort=True):
        found = dict(_reasons(own, rules))
        if found:
            excluded.append(
                Excluded(participant=int(participant), rules=tuple(found), reason="; ".join(found.values()))
            )
    seen = int(ratings["participant"].nunique())
    counts = {rule: sum(rule in one.rules for one in excluded) for rule in sorted(active)}
    return Exclusions(seen=seen, kept=seen - len(excluded), by_rule=counts, excluded=tuple(excluded))


def without(ratings: pd.DataFrame, left_out: Exclusions) -> pd.DataFrame:
    """Return the ratings of those who are kept."""
    return ratings[~ratings["participant"].isin([one.participant for one in left_out.excluded])]


def _reasons(own: pd.DataFrame, rules: Exclusion) -> Iterator[tuple[str, str]]:
    """Yield each rule that one participant falls under, with what was seen."""
    status = str(own["status"].iloc[-1])
    if rules.incomplete and status != "completed":
        yield "incomplete", f"session {status.replace('_', ' ')}"
    checks = own[own["kind"] == "attention"]
    failures = int((checks["value"] == 0).sum())
    if failures > rules.max_attention_failures:
        yield "attention", f"{failures} of {len(checks)} attention checks failed"
    pages = own.drop_duplicates("position")["seconds"].dropna()
    if len(pages) and pages.median() < rules.min_seconds_per_page:
        yield "too_fast", f"median of {pages.median():.1f} s a page"
    if rules.straight_lining and _alike(own):
        yield "straight_lining", "the same answer to everything"
    by_hand = own["excluded"].fillna("").astype(str)
    if (by_hand != "").any():
        yield "manual", by_hand[by_hand != ""].iloc[0]


def _alike(own: pd.DataFrame) -> bool:
    """Return whether all answers of each scale are the same as given, sides and labels included."""
    answers = own[(own["kind"] != "attention") & (own["scale"] != "text") & own["value"].notna()]
    if len(answers) <= _FEWEST_ALIKE:
        return False
    # A pair's value depends on which side the variant was, a guess's on what was right: the text does not.
    given = answers["text"].where(answers["scale"] != "likert", answers["value"].astype(str))
    given = given.where(given.astype(str) != "", answers["value"].astype(str))
    return bool((given.groupby(answers["scale"]).nunique() == 1).all())

"""Who took part: from those who agreed to those whose ratings are analysed."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from quantxai.report.text import count, significant
from userstudy.analysis.results import StudyAnalysis

__all__ = ["RULES", "Flow", "flow"]

RULES = {
    "incomplete": "did not finish",
    "attention": "failed attention checks",
    "too_fast": "turned pages too fast",
    "straight_lining": "gave one answer to everything",
    "manual": "set aside by hand",
}
"""What each rule of exclusion says of a participant."""
_LEFT = {
    "screened_out": "did not pass the comprehension check",
    "withdrawn": "withdrew; their answers are deleted",
    "released": "left before the end",
    "active": "had not finished yet",
}


@dataclass(frozen=True)
class Flow:
    """Numbers of participants, in order.

    Attributes:
        consented: who agreed to take part.
        left: how many did not finish, by why.
        completed: who finished.
        seen: who answered anything, finished or not.
        excluded: how many of those a rule leaves out, by rule; some fall under several.
        analysed: whose ratings are analysed.
        characteristics: what is known of those who finished, a sentence each.
        simulated: whether they are simulated.
    """

    consented: int
    left: dict[str, int]
    completed: int
    seen: int
    excluded: dict[str, int]
    analysed: int
    characteristics: list[str]
    simulated: bool


def flow(people: pd.DataFrame, analysis: StudyAnalysis) -> Flow:
    """Return the flow of participants.

    Args:
        people: everyone who took part: `userstudy.export.tables.participants`.
        analysis: whose ratings were kept.
    """
    by_status = people["status"].value_counts().to_dict()
    finished = people[people["status"] == "completed"]
    rules = analysis.exclusions.by_rule
    return Flow(
        consented=len(people),
        left={told: int(by_status[status]) for status, told in _LEFT.items() if by_status.get(status)},
        completed=len(finished),
        seen=analysis.exclusions.seen,
        excluded={RULES.get(rule, rule): number for rule, number in rules.items() if number},
        analysed=analysis.exclusions.kept,
        characteristics=_characteristics(finished),
        simulated=bool(len(people)) and set(people["kind"]) == {"simulated"},
    )


def _characteristics(finished: pd.DataFrame) -> list[str]:
    """Return devices, languages and times of those who finished."""
    found = []
    for column, noun in (("device", "Devices"), ("language", "Languages")):
        numbers = finished[column].dropna().value_counts().sort_index()
        if len(numbers):
            found.append(f"{noun}: {', '.join(f'{name} {number}' for name, number in numbers.items())}.")
    for column, what, unit in (
        ("minutes", "From consent to the end, breaks included", 1),
        ("seconds", "On rating pages, while they were visible", 60),
    ):
        spent = pd.to_numeric(finished[column]).dropna() / unit
        if len(spent):
            low, median, high = (significant(float(spent.quantile(share)), 2) for share in (0.25, 0.5, 0.75))
            many = count(len(spent), "participant")
            found.append(f"{what}: median {median} minutes, half of {many} between {low} and {high}.")
    return found

"""What each explainer's rows hold for a reader: the one place that knows explainers.

To let people rate what another explainer writes, add a function that reads its rows to `READERS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from userstudy.records import Part

__all__ = ["READERS", "Told"]


class Told(NamedTuple):
    """What a variant wrote about an item, and what belongs to it."""

    before: tuple[Part, ...]
    """Read before it: what every variant was given, and what it answered."""
    own: Part
    """What the variant wrote."""
    after: tuple[Part, ...]
    answer: str
    """The label the variant gives, which a participant may be asked to guess."""
    predicted: str
    """The label the variant gives to the item as it is; the parent's against the gold label is the outcome."""


_LINES = re.compile(r"(Premise|Hypothesis|Claim|Evidence): (.*)")


def _edit(row: Mapping[str, Any], task: str) -> Told | None:
    if row["edited"] is None:
        return None
    stays = "hypothesis" if row.get("part") == "premise" else "premise"
    context = (Part(name=stays, text=row["context"]),) if row["context"] else ()
    scores = row["edited_scores"]
    return Told(
        before=(*context, Part(name="original", text=row["original"])),
        own=Part(name="edited", text=row["edited"]),
        after=(Part(name="target", text=row["target"]),),
        answer=row["labels"][max(range(len(scores)), key=scores.__getitem__)],
        predicted=row["predicted"],
    )


def _explanation(row: Mapping[str, Any], task: str) -> Told | None:
    if row["explanation"] is None:
        return None
    return Told(
        before=(*_source(row["text"], task), Part(name="label", text=row["predicted"])),
        own=Part(name="explanation", text=row["explanation"]),
        after=(),
        answer=row["predicted"],
        predicted=row["predicted"],
    )


def _source(text: str, task: str) -> tuple[Part, ...]:
    """An item's text in its parts, as quantxai's data sets put them together."""
    lines = text.split("\n")
    if task in ("inference", "verification"):
        found = [_LINES.fullmatch(line) for line in lines]
        if all(found):
            return tuple(Part(name=match[1].lower(), text=match[2]) for match in found if match)
    question, _, choices = text.partition("\nA: ")
    if task == "choice" and choices:
        return (Part(name="question", text=question), Part(name="choices", text=f"A: {choices}"))
    return (Part(name="text", text=text),)


READERS: dict[str, Callable[[Mapping[str, Any], str], Told | None]] = {
    "counterfactual": _edit,
    "natural_language": _explanation,
}
"""By method: reads a row of a task's data set; None where the variant wrote nothing."""

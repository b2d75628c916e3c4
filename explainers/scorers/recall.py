"""Recall of facts: is the gold object what the model says, and how likely does it find it?"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import ClassVar

from explainers.memorization import EMPTY, NO_SUBJECT, MemorizationRow
from explainers.scorers import rows_of
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row

__all__ = ["Recall", "matches", "normalize"]

_ARTICLES = frozenset({"a", "an", "the"})
_SYMBOLS = frozenset({"Sm", "Sc", "So"})
"""Unicode's symbols for mathematics, currencies and all else; marks like "`" are not among them."""
_MARKS = frozenset("#*")
"""Punctuation that tells names apart: C and C#, A and A*."""

_METRICS = (
    Metric(
        name="recall",
        kind="binary",
        higher_is_better=True,
        margin=0.05,
        margin_reason="1 fact in 20 lost or gained: whoever asks 20 known questions meets one other answer.",
        confirmatory=True,
        unit="proportion",
        description="The completion starts with the gold object or an alias, case and punctuation aside.",
    ),
    Metric(
        name="first_token_recall",
        kind="binary",
        higher_is_better=True,
        margin=0.05,
        margin_reason="1 fact in 20 whose first token is lost or gained, as for recall.",
        unit="proportion",
        description="The gold object's first token is the model's most likely next token.",
    ),
    Metric(
        name="logprob",
        kind="continuous",
        higher_is_better=True,
        margin=0.1,
        margin_reason="A tenth of the object's probability: an object at 50 % would move to 45 or 55 %.",
        unit="nats",
        description="Log-probability of the whole gold object after the prompt.",
    ),
    Metric(
        name="reciprocal_rank",
        kind="continuous",
        higher_is_better=True,
        margin=0.05,
        margin_reason="As if 1 object in 10 fell from the first place to the second, from 1 to 1/2.",
        unit="1 / rank",
        description="1 over the rank of the gold object's first token among all next tokens.",
    ),
)


def normalize(text: str) -> str:
    """Return a text in Unicode NFKC, casefolded, without punctuation, articles and extra spaces.

    >>> normalize(" The  Bahamas.")
    'bahamas'
    """
    words = re.sub(r"[\W_]+", " ", _folded(text)).split()
    # An article alone is an answer ("A").
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def matches(completion: str, answers: Sequence[str]) -> bool:
    """Whether a completion starts with one of the answers, both normalized, at a word boundary.

    An answer that is nothing once normalized, or holds a symbol that would be lost, is compared whole,
    case aside.

    >>> matches(" Paris, France.", ["paris"]), matches(" Parisian", ["Paris"])
    (True, False)
    >>> matches(" C++ is", ["C++"]), matches(" C.", ["C++"])
    (True, False)
    """
    said = normalize(completion) + " "
    for answer in answers:
        wanted = normalize(answer)
        if not wanted or any(map(_is_symbol, _folded(answer))):
            if _starts_whole(completion, answer):
                return True
        elif said.startswith(wanted + " "):
            return True
    return False


def _starts_whole(completion: str, answer: str) -> bool:
    """Whether a completion starts with an answer, punctuation and all, and neither word nor symbol goes on."""
    said, wanted = (" ".join(_folded(text).split()) for text in (completion, answer))
    after = said[len(wanted) : len(wanted) + 1]
    return bool(wanted) and said.startswith(wanted) and not (after.isalnum() or _is_symbol(after))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _is_symbol(character: str) -> bool:
    return character in _MARKS or (character != "" and unicodedata.category(character) in _SYMBOLS)


class Recall(Scorer):
    """Recall, log-probability and reciprocal rank of gold objects."""

    method: ClassVar[str] = "recall"
    version: ClassVar[int] = 2
    summary: ClassVar[str] = "recall of facts: whole object and first token, log-probability, reciprocal rank"
    explainers: ClassVar[frozenset[str]] = frozenset({"memorization"})
    metrics: ClassVar[tuple[Metric, ...]] = _METRICS

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores; a fact that could not be asked or scored has no value, and is noted."""
        found = rows_of(rows, MemorizationRow)
        self._note(found, context)
        for row in found:
            asked = row.problem not in (EMPTY, NO_SUBJECT)
            values = (
                float(matches(row.completion, [row.gold, *row.aliases])) if asked else None,
                None if row.rank is None else float(row.rank == 1),
                row.logprob,
                None if row.rank is None else 1 / row.rank,
            )
            for metric, value in zip(self.metrics, values, strict=True):
                yield Score(row.item, row.group, metric.name, value)

    def _note(self, rows: Sequence[MemorizationRow], context: ScoringContext) -> None:
        """List the facts whose object was not scored, by reason."""
        listed: dict[str, list[str]] = {}
        for row in rows:
            if row.problem is not None:
                listed.setdefault(row.problem, []).append(row.item)
        if listed:
            context.note("nothing_asked", listed)

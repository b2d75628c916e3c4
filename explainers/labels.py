"""Few-shot label scoring: how likely a model finds each label of a text.

Shared by explainers (a variant's own prediction) and scorers (the judges of an edit). The prompt shows
a few labelled demonstrations and ends with the text; the score of a label is the log-probability of
its first token as the next one. Raw scores of small models mostly reflect how a prompt's examples
bias them towards some label, so they are calibrated: from each label's log-probability its mean over
held-out demonstrations of the same domain is subtracted. That is contextual calibration (Zhao et al.
2021, arXiv 2102.09690) in its log form, with in-domain texts in place of "N/A" (Fei et al. 2023,
arXiv 2305.19148; batch calibration, Zhou et al. 2023, arXiv 2309.17249, takes the evaluated batch
itself, which would make an item's score depend on the other items).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from explainers import prompts
from quantxai.datasets import Dataset
from quantxai.errors import DataError
from quantxai.lm import LanguageModel
from quantxai.records import Item, digest

__all__ = ["Judge", "fingerprint"]


class _Wording(NamedTuple):
    """How labels of one task are asked for."""

    template: str
    """A file in explainers/prompts; the label follows it after a space."""
    shots: int
    """Demonstrations per label in the prompt; the others calibrate."""
    answers: dict[str, str]
    """What stands for a label where the label itself is a poor next word."""


# Chosen on SmolLM2-135M-Instruct: one demonstration a topic classified 46 of 48 built-in headlines
# right, two or three no more; for inference pairs six wordings stayed at chance (33 %) and this one,
# with two demonstrations a label, reached 46 % (n = 150, some of them the items it was chosen on).
_WORDINGS = {
    "topic": _Wording("label_topic", 1, {}),
    "inference": _Wording(
        "label_inference", 2, {"entailment": "Yes", "neutral": "Maybe", "contradiction": "No"}
    ),
}


class Judge:
    """Scores the labels of texts; the prior is computed once.

    Args:
        lm: the model that computes the prior; the one that is to judge.
        dataset: gives task, labels and demonstrations.
    """

    def __init__(self, lm: LanguageModel, dataset: Dataset) -> None:
        if dataset.task not in _WORDINGS:
            raise DataError(f"{dataset.name}: labels cannot be scored on a data set for {dataset.task}")
        self._wording = _WORDINGS[dataset.task]
        self._labels = dataset.labels
        shown, held_out = _split(dataset, self._wording.shots)
        self._prefix = "".join(f"{self._query(d.text)}{self._answer(d.label)}\n\n" for d in shown)
        self._prior = self._choices(lm, [d.text for d in held_out]).mean(axis=0)

    def logprobs(self, lm: LanguageModel, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return calibrated label log-probabilities of texts.

        Args:
            lm: the judging model.
            texts: texts as in Item.text (for inference pairs see quantxai.datasets.inference_text); one
                that occurs twice is run once.

        Returns:
            Natural log-probabilities [texts, labels], labels in the data set's order; a row's exp sums to 1.
        """
        if not texts:
            return np.empty((0, len(self._labels)))
        distinct = list(dict.fromkeys(texts))
        scores = self._choices(lm, distinct) - self._prior
        scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
        place = {text: i for i, text in enumerate(distinct)}
        return np.asarray(scores[[place[t] for t in texts]])

    def _choices(self, lm: LanguageModel, texts: Sequence[str]) -> NDArray[np.float64]:
        # The item comes last: what precedes it is one prefix, which the engine computes once.
        queries = [self._prefix + self._query(t) for t in texts]
        return lm.choices(queries, [self._answer(label) for label in self._labels])

    def _query(self, text: str) -> str:
        template = prompts.read(self._wording.template)
        if "{premise}" not in template:
            return template.replace("{text}", text)
        premise, hypothesis = _parts(text)
        return template.format(premise=premise, hypothesis=hypothesis)

    def _answer(self, label: str | None) -> str:
        return " " + self._wording.answers.get(str(label), str(label))


def fingerprint() -> str:
    """Return a SHA-256 of the wordings, for the digests of methods that score labels."""
    templates = [w.template for w in _WORDINGS.values()]
    return digest([prompts.fingerprint(*templates), {t: w._asdict() for t, w in _WORDINGS.items()}])


def _split(dataset: Dataset, shots: int) -> tuple[list[Item], list[Item]]:
    """Demonstrations in the prompt, label by label in turn, and the others."""
    by_label = {label: [d for d in dataset.demonstrations if d.label == label] for label in dataset.labels}
    for label, items in by_label.items():
        if len(items) <= shots:
            raise DataError(
                f"{dataset.name}: label '{label}' has {len(items)} demonstrations; scoring labels needs "
                f"{shots} for the prompt and at least one more for calibration"
            )
    shown = [items[shot] for shot in range(shots) for items in by_label.values()]
    # Equally many of each label, so that the prior is no label's.
    most = min(len(items) for items in by_label.values())
    return shown, [item for items in by_label.values() for item in items[shots:most]]


def _parts(text: str) -> tuple[str, str]:
    premise, separator, hypothesis = text.removeprefix("Premise: ").partition("\nHypothesis: ")
    if not separator:
        raise DataError(f"not an inference item's text (Premise: ... Hypothesis: ...): {text!r}")
    return premise, hypothesis

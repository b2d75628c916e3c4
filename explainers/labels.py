"""Few-shot label scoring: how likely a model finds each label of a text.

Shared by explainers (a variant's own prediction) and scorers (the judges of an edit). The prompt shows
a few labelled demonstrations and ends with the text; the score of a label is the log-probability of
its first token as the next one. Raw scores of small models mostly reflect how a prompt's examples
bias them towards some label, so they are calibrated: from each label's log-probability its mean over
held-out demonstrations of the same domain, equally many of each label, is subtracted. That follows
contextual calibration (Zhao et al. 2021, arXiv 2102.09690), with in-domain texts in place of "N/A" (Fei
et al. 2023, arXiv 2305.19148), but averages log-probabilities where these average probabilities, so that
no single text decides. Batch calibration (Zhou et al. 2023, arXiv 2309.17249) takes the evaluated batch
itself, which would make an item's score depend on the other items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explainers import prompts
from quantxai.datasets import Dataset, Task
from quantxai.errors import DataError
from quantxai.lm import LanguageModel
from quantxai.records import Item

__all__ = ["TASKS", "Judge", "answer", "fingerprint", "split"]

TASKS: tuple[Task, ...] = ("topic", "sentiment", "inference")
"""Tasks whose labels can be scored from a text alone."""


class Judge:
    """Scores the labels of texts; the prior is computed once.

    Args:
        lm: the model that computes the prior; the one that is to judge.
        dataset: gives task, labels and demonstrations.
    """

    def __init__(self, lm: LanguageModel, dataset: Dataset) -> None:
        if dataset.task not in TASKS:
            raise DataError(f"{dataset.name}: labels cannot be scored on a data set for {dataset.task}")
        self._task: Task = dataset.task
        self._labels = dataset.labels
        shown, held_out = split(dataset, _wording(dataset.task)["shots"])
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
        return prompts.fill(_wording(self._task)["question"], {"text": text, **_parts(text, self._task)})

    def _answer(self, label: str | None) -> str:
        return " " + answer(self._task, str(label))


def answer(task: Task, label: str) -> str:
    """Return the word that stands for a label in prompts: itself, unless it is a poor next word."""
    words: dict[str, str] = _wording(task).get("answers", {})
    return words.get(label, label)


def fingerprint() -> str:
    """Return a SHA-256 of the wordings, for the digests of methods that score labels."""
    return prompts.fingerprint("labels")


def _wording(task: Task) -> dict[str, Any]:
    found: dict[str, Any] = prompts.read("labels")[task]
    return found


def split(dataset: Dataset, shots: int) -> tuple[list[Item], list[Item]]:
    """Return `shots` demonstrations of each label, label by label in turn, and as many of the others.

    Raises:
        DataError: a label has too few demonstrations for the prompt and at least one other.
    """
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


def _parts(text: str, task: Task) -> dict[str, str]:
    """The parts of an inference item's text."""
    if task != "inference":
        return {}
    premise, separator, hypothesis = text.removeprefix("Premise: ").partition("\nHypothesis: ")
    if not separator:
        raise DataError(f"not an inference item's text (Premise: ... Hypothesis: ...): {text!r}")
    return {"premise": premise, "hypothesis": hypothesis}

"""Judges: who says which label a text has.

Whether an edit flips the label depends on whom one asks. A judge here is the parent, a variant, or one
that has nothing to do with either: a logistic regression on sentence embeddings, a classifier of
someone else's, or another language model. A judge is only worth what it gets right, so the accuracy of
the independent one on gold labels is noted beside its flips (`accuracy`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from explainers import labels
from explainers.counterfactual import CounterfactualRow
from quantxai.datasets import Dataset, held_out, inference_text
from quantxai.errors import DataError, ModelError
from quantxai.lm import LanguageModel
from quantxai.methods import ScoringContext
from quantxai.records import Item, digest
from quantxai.statistics import clopper_pearson

__all__ = [
    "Classifier",
    "Embeddings",
    "Flips",
    "Judge",
    "Parts",
    "Prompted",
    "accuracy",
    "fingerprint",
    "flips",
    "independent",
    "own_flips",
    "training_items",
]

Parts = tuple[str, ...]
"""A text, or premise and hypothesis."""

_BATCH = 32
"""Texts that a classifier reads at a time."""


class Judge(ABC):
    """Gives every text one of a data set's labels."""

    description: str
    """What it is, for the report's reader."""

    @abstractmethod
    def labels(self, texts: Sequence[Parts]) -> list[str]:
        """Return the label of each text; it depends on that text alone."""


class Prompted(Judge):
    """A language model, asked as explainers ask it: few-shot and calibrated (explainers.labels).

    Args:
        lm: returns the model; called anew each time, because another may have been loaded meanwhile.
        dataset: gives task, labels and demonstrations.
        description: what it is.
    """

    def __init__(self, lm: Callable[[], LanguageModel], dataset: Dataset, description: str) -> None:
        self.description = description
        self._lm, self._labels = lm, dataset.labels
        self._judge = labels.Judge(lm(), dataset)

    def labels(self, texts: Sequence[Parts]) -> list[str]:
        """See Judge.labels."""
        asked = [text[0] if len(text) == 1 else inference_text(*text) for text in texts]
        return [self._labels[int(i)] for i in self._judge.logprobs(self._lm(), asked).argmax(axis=1)]


class Embeddings(Judge):
    """A multinomial logistic regression on sentence embeddings.

    Of a pair it sees [p, h, |p - h|, p * h] (Mou et al. 2016, arXiv 1512.08422; Conneau et al. 2017, arXiv
    1705.02364). It is trained on texts that are never evaluated, though GPTQ and AWQ are calibrated on some; L2
    penalty 1 / (2 C) with C = 1: five-fold cross-validation on the training texts, premises kept together,
    differs by at most 4 points between C = 0.1 and 100.

    Args:
        encode: texts -> sentence embeddings [texts, dimension], each of unit length.
        dataset: whose labels are to be given.

    Raises:
        DataError: there is no training text for one of the labels.
    """

    def __init__(self, encode: Callable[[Sequence[str]], NDArray[np.float32]], dataset: Dataset) -> None:
        from sklearn.linear_model import LogisticRegression

        items = training_items(dataset)
        without = [label for label in dataset.labels if label not in {item.label for item in items}]
        if without:
            raise DataError(
                f"{dataset.name}: no text to train the judge on has the label '{without[0]}'. Give the scorer flips "
                "another judge with the option independent: the Hub id or directory of a classifier."
            )
        self.description = f"logistic regression on sentence embeddings, trained on {len(items)} texts"
        self._encode = encode
        self._model = LogisticRegression(C=1.0, max_iter=2000)
        self._model.fit(self._features([_parts(item) for item in items]), [item.label for item in items])

    def labels(self, texts: Sequence[Parts]) -> list[str]:
        """See Judge.labels."""
        return [str(label) for label in self._model.predict(self._features(texts))] if texts else []

    def _features(self, texts: Sequence[Parts]) -> NDArray[np.float32]:
        vectors = [self._encode(part) for part in zip(*texts, strict=True)]
        if len(vectors) == 1:
            return vectors[0]
        first, second = vectors
        return np.hstack([first, second, np.abs(first - second), first * second])


class Classifier(Judge):
    """A sequence classifier as transformers saves it.

    Args:
        path: its directory.
        dataset: whose labels are to be given.
        names: data set's label for each of the classifier's; case aside, one left out stands for itself.
        device: torch device.

    Raises:
        ModelError: it cannot be loaded, or its labels are not those of the data set.
    """

    def __init__(self, path: Path, dataset: Dataset, names: Mapping[str, str], device: str) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            self._model = AutoModelForSequenceClassification.from_pretrained(path).to(device).eval()
            self._tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"classifier '{path}': {reason}") from None
        self.description = f"classifier {path.name}"
        own = {int(i): str(name) for i, name in self._model.config.id2label.items()}
        self._labels = _matched(own, dataset, names)

    def labels(self, texts: Sequence[Parts]) -> list[str]:
        """See Judge.labels."""
        import torch

        found: list[str] = []
        for start in range(0, len(texts), _BATCH):
            parts = [list(part) for part in zip(*texts[start : start + _BATCH], strict=True)]
            batch = self._tokenizer(*parts, padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                logits = self._model(**batch.to(self._model.device)).logits
            found += [self._labels[int(i)] for i in logits.argmax(-1)]
        return found


def _matched(own: Mapping[int, str], dataset: Dataset, names: Mapping[str, str]) -> dict[int, str]:
    """The data set's label for each output of a classifier."""
    spelt = {label.casefold(): label for label in dataset.labels}
    renamed = {name.casefold(): label for name, label in names.items()}
    meant = {i: renamed.get(name.casefold(), name).casefold() for i, name in own.items()}
    if sorted(meant.values()) != sorted(spelt):
        raise ModelError(
            f"{dataset.name}: the judge knows the labels {', '.join(own.values())}, the data set has "
            f"{', '.join(dataset.labels)}. Say which is which with the scorer's option independent_labels, such as "
            f'{{"{own[0]}" = "{dataset.labels[0]}"}}, or give another judge.'
        )
    return {i: spelt[label] for i, label in meant.items()}


def independent(name: str, names: Mapping[str, str], dataset: Dataset, context: ScoringContext) -> Judge:
    """Return a judge that is neither the parent nor a variant.

    Args:
        name: "embeddings", or the registered name, Hub id or directory of a sequence classifier or of a causal
            language model.
        names: see Classifier.
        dataset: whose labels are to be given.
        context: the models.

    Raises:
        ModelError: the model is of neither kind, cannot be loaded or has other labels.
        DataError: there is nothing to train or prompt it with.
    """
    if name == "embeddings":
        return Embeddings(context.encode, dataset)
    path = context.checkpoint(name)
    kinds = json.loads((path / "config.json").read_text()).get("architectures") or []
    if any(kind.endswith("ForSequenceClassification") for kind in kinds):
        return Classifier(path, dataset, names, context.device)
    if any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        return Prompted(lambda: context.model(name), dataset, f"language model {name}, few-shot")
    raise ModelError(
        f"judge '{name}': expected a sequence classifier or a causal language model, found "
        f"{', '.join(kinds) or 'no architecture in its config.json'}"
    )


class Flips(NamedTuple):
    """What a judge says of some edits."""

    judge: Judge | None
    """null where there is no edit at all, so that no model is loaded for it."""
    before: list[str]
    """Its label of each row's text."""
    flips: list[tuple[float, float]]
    """Soft and hard flip of each row, 0 for a failed edit."""


def flips(
    who: str,
    judge: Callable[[], Judge],
    rows: Sequence[CounterfactualRow],
    dataset: Dataset,
    context: ScoringContext,
) -> Flips:
    """Let a judge label texts and edits.

    Args:
        who: names the judge; one name is one judge on one data set.
        judge: makes it.
        rows: the edits.
        dataset: what they were made on.
        context: remembers the judge and its labels of the texts, which are the same for every variant.

    Raises:
        DataError: a row was made for other labels than the data set's.
    """
    for row in rows:
        if tuple(row.labels) != dataset.labels:
            raise DataError(
                f"{dataset.name}: item '{row.item}' was explained with the labels {', '.join(row.labels)}, the data "
                f"set has {', '.join(dataset.labels)}"
            )
    done = [row for row in rows if row.edited is not None]
    if not done:
        return Flips(None, [], [(0.0, 0.0)] * len(rows))
    texts = [_row_parts(row, row.original) for row in rows]

    def first() -> tuple[Judge, list[str]]:
        made = judge()
        return made, made.labels(texts)

    made, before = context.remember(digest([who, dataset.model_dump(mode="json"), texts]), first)
    after = iter(made.labels([_row_parts(row, str(row.edited)) for row in done]))
    found = [(0.0, 0.0)] * len(rows)
    for place, (row, old) in enumerate(zip(rows, before, strict=True)):
        if row.edited is not None:
            new = next(after)
            found[place] = float(new != old), float(new == row.target)
    return Flips(made, before, found)


def own_flips(row: CounterfactualRow) -> tuple[float, float]:
    """Return soft and hard flip by the model that wrote the edit, which the row holds; 0 for a failed one."""
    if row.edited is None:
        return 0.0, 0.0
    label = row.labels[int(np.argmax(row.edited_scores or ()))]
    return float(label != row.predicted), float(label == row.target)


def accuracy(found: Sequence[str], rows: Sequence[CounterfactualRow], dataset: Dataset) -> dict[str, Any]:
    """Return how often a judge's labels of the texts are the gold ones.

    Returns:
        `accuracy` over `n` distinct items, its 95 % Clopper-Pearson interval `low` to `high`, and `chance`:
        the accuracy of guessing among equally frequent labels.
    """
    right = {row.item: label == row.gold for label, row in zip(found, rows, strict=True)}
    hits, n = sum(right.values()), len(right)
    low, high = clopper_pearson(hits, n) or (0.0, 1.0)
    chance = 1 / len(dataset.labels)
    return {"accuracy": hits / n, "low": low, "high": high, "n": n, "chance": chance}


def training_items(dataset: Dataset) -> list[Item]:
    """Return labelled texts of the task that are never evaluated.

    Those of the built-in set with the same labels (quantxai.datasets.held_out), and the data set's own
    demonstrations.
    """
    known = held_out(dataset.task)
    shared = known if {item.label for item in known} == set(dataset.labels) else ()
    return list({item.text: item for item in [*shared, *dataset.demonstrations]}.values())


def fingerprint() -> str:
    """Return a SHA-256 of the built-in training texts, for the digests of methods that judge by them."""
    return digest([[item.model_dump(mode="json") for item in held_out(task)] for task in labels.TASKS])


def _parts(item: Item) -> Parts:
    fields = item.fields
    return (fields["premise"], fields["hypothesis"]) if "premise" in fields else (item.text,)


def _row_parts(row: CounterfactualRow, text: str) -> Parts:
    if row.part == "text":
        return (text,)
    return (row.context, text) if row.part == "hypothesis" else (text, row.context)

"""Counterfactual self-explanations: the smallest edit a model thinks would change its own prediction.

Protocols, each a file in explainers/prompts:

- naive (FIZLE, Bhattacharjee et al. 2024, arXiv 2405.04793): one request shows the text, the label the
  model itself predicts for it and another label, and asks for an edited text inside tags;
- guided (the same): first, which words caused the label; then an edit of only these words;
- flare (FLARE, Bhattacharjee et al. 2023, arXiv 2309.13340): latent features behind the label, the words
  that carry them, then the edit.

The papers' prompts are zero-shot. Here worked examples are shown (`shots`) and the tag is opened, since small
models ignore tags they are only told about.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from explainers import labels, prompts
from quantxai.datasets import Dataset, Task, inference_text
from quantxai.lm import Generation, LanguageModel
from quantxai.methods import Explainer, Work
from quantxai.records import Item, Row, digest

__all__ = ["Counterfactual", "CounterfactualRow", "Failure", "judged_text", "parse_edit"]

Failure = Literal["unparsed", "empty", "unchanged", "copied", "step"]

_OPEN = re.compile(r"<\s*edit\s*>", re.IGNORECASE)
_CLOSE = re.compile(r"<\s*[/\\]\s*e", re.IGNORECASE)
_NAMES = {"text": "text|news|review", "hypothesis": "hypothesis", "premise": "premise"}
_NEXT_EXAMPLE = re.compile(
    r"(?:news|topic|review|label|premise|hypothesis)(?:, \w+)?\s*:"
    r"|(?:text about|a \w+ review|same \w+(?:,| with)|from)(?: [\w ,]+)?:"
    r"|which (?:words|features) ",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`"}


class CounterfactualRow(Row):
    """One edit, with what the editing model itself thinks of original and edit."""

    part: Literal["text", "hypothesis", "premise"] = Field(description="Which part of the item is edited.")
    original: str = Field(description="The edited part before the edit.")
    context: str = Field(description="The part that stays: premise or hypothesis; empty for one text.")
    gold: str = Field(description="The item's gold label.")
    predicted: str = Field(description="The model's own few-shot calibrated prediction.")
    target: str = Field(description="The label the edit is to have.")
    edited: str | None = Field(description="The edited part; null for a failure.")
    steps: list[str] = Field(
        default=[], description="What it answered to the questions before, as is; none where there were none."
    )
    raw: str = Field(description="What the model generated last, as is: the edit, unless a step failed.")
    failure: Failure | None = Field(description="Why there is no edit; null where there is one.")
    stopped: Literal["stop", "end", "length"] = Field(description="Why generation ended.")
    tokens: int = Field(description="Number of generated tokens.")
    labels: list[str] = Field(description="The labels the scores belong to, in order.")
    original_scores: list[float] = Field(description="The model's label log-probabilities, original, nats.")
    edited_scores: list[float] | None = Field(
        description="The model's label log-probabilities, edit, nats; null for a failure."
    )


class Counterfactual(Explainer):
    """Asks the model for a minimal edit that changes its own prediction to a given label."""

    method: ClassVar[str] = "counterfactual"
    summary: ClassVar[str] = (
        "minimal edits that should change the model's own prediction: naive, guided, FLARE"
    )
    tasks: ClassVar[frozenset[Task]] = frozenset({"topic", "sentiment", "inference"})
    needs: ClassVar[frozenset[str]] = frozenset({"generate", "logprobs"})
    row: ClassVar[type[Row]] = CounterfactualRow

    protocol: Literal["naive", "guided", "flare"] = Field(
        default="naive", description="How the edit is asked for: in one, two or three turns."
    )
    chat: bool = Field(
        default=True, description="Ask in the model's chat format, where its tokenizer has one."
    )
    shots: int = Field(default=4, ge=0, le=4, description="Worked examples shown; the papers show none.")
    max_new_tokens: int = Field(
        default=96,
        ge=1,
        description="Most tokens of an edit; one that is cut off fails, so allow for the longest text.",
    )
    edit: Literal["hypothesis", "premise"] = Field(
        default="hypothesis", description="Which part of an inference pair is edited; the other stays."
    )

    def digest(self) -> str:
        """Return the method's digest, the wording of its prompts included."""
        return digest([super().digest(), prompts.fingerprint(self._file), labels.fingerprint()])

    @property
    def _file(self) -> str:
        return f"counterfactual_{self.protocol}"

    @property
    def work(self) -> Work:
        """See Explainer.work."""
        turns = {"naive": 1, "guided": 2, "flare": 3}[self.protocol]
        return Work(turns + 2, turns)

    def rows(self, lm: LanguageModel, dataset: Dataset, items: Sequence[Item], seed: int) -> Iterator[Row]:
        """Predict, edit and predict again; the seed chooses each item's target label."""
        part = self.edit if dataset.task == "inference" else "text"
        judge = labels.Judge(lm, dataset)
        before = judge.logprobs(lm, [item.text for item in items])
        predicted = [dataset.labels[int(i)] for i in before.argmax(axis=1)]
        targets = [
            _target(item, dataset.labels, label, seed) for item, label in zip(items, predicted, strict=True)
        ]
        asked = [
            {**i.fields, "text": i.text, "predicted": p, "target": t}
            for i, p, t in zip(items, predicted, targets, strict=True)
        ]
        section = part if dataset.task == "inference" else dataset.task
        protocol = prompts.protocol(self._file, section, self.shots)
        answers = self._ask(lm, protocol, asked)
        edits = [_read_edit(a, protocol, _part(i, part), part) for i, a in zip(items, answers, strict=True)]
        texts = [
            judged_text(part, _context(i, part), e)
            for i, (e, _) in zip(items, edits, strict=True)
            if e is not None
        ]
        after = iter(judge.logprobs(lm, texts))
        for index, (item, (edited, failure)) in enumerate(zip(items, edits, strict=True)):
            *steps, last = answers[index]
            yield CounterfactualRow(
                item=item.id,
                group=item.group,
                part=part,
                original=_part(item, part),
                context=_context(item, part),
                gold=str(item.label),
                predicted=predicted[index],
                target=targets[index],
                edited=edited,
                steps=[step.text for step in steps],
                raw=last.text,
                failure=failure,
                stopped=last.stopped,
                tokens=last.tokens,
                labels=list(dataset.labels),
                original_scores=np.asarray(before[index]).tolist(),
                edited_scores=None if edited is None else np.asarray(next(after)).tolist(),
            )

    def _ask(
        self, lm: LanguageModel, protocol: prompts.Protocol, asked: Sequence[dict[str, str]]
    ) -> list[list[Generation]]:
        """Go through the turns; an item whose answer says nothing is asked no further."""
        answers: list[list[Generation]] = [[] for _ in asked]
        live = list(range(len(asked)))
        for number, turn in enumerate(protocol.turns):
            generated = lm.generate(
                [lm.prompt(protocol.dialogue(number, asked[i]), chat=self.chat) for i in live],
                max_new_tokens=self.max_new_tokens,
                stop=turn.stop,
            )
            for i, answer in zip(live, generated, strict=True):
                answers[i].append(answer)
                asked[i][turn.field] = " ".join(answer.text.split())
            live = [i for i in live if any(c.isalnum() for c in asked[i][turn.field])]
        return answers


def _read_edit(
    answers: Sequence[Generation], protocol: prompts.Protocol, original: str, part: str
) -> tuple[str | None, Failure | None]:
    """The edit in the answer to a protocol's last question, or why there is none."""
    if len(answers) < len(protocol.turns):
        return None, "step"
    text, failure = parse_edit(answers[-1], original, part)
    # A worked example's edit has the label it was asked for, and says nothing about this item.
    form = protocol.turns[-1]
    shown = {
        _plain(e[-1].assistant.removeprefix(form.opening).removesuffix(form.stop[0]))
        for e in protocol.examples
    }
    return (None, "copied") if text is not None and _plain(text) in shown else (text, failure)


def judged_text(part: str, context: str, text: str) -> str:
    """Return the item's text, as in Item.text, with `text` for its edited part."""
    if part == "text":
        return text
    return inference_text(context, text) if part == "hypothesis" else inference_text(text, context)


def parse_edit(
    generation: Generation, original: str, part: str = "text"
) -> tuple[str | None, Failure | None]:
    """Read the edit out of what was generated after the open tag.

    Tolerated: a missing or misspelt end tag, a repeated tag or field name, more lines after it, quotes
    around it. A text cut off by the length limit is no edit.

    Args:
        generation: the continuation of a prompt that ends in the open tag.
        original: the text before the edit; differences in case, white space and final punctuation
            alone do not count as an edit.
        part: what is edited: text, hypothesis or premise.

    Returns:
        The edit and None, or None and the reason.
    """
    raw = generation.text
    if not raw.strip():
        return None, "empty"
    closed = _CLOSE.search(raw)
    inside = _OPEN.split(raw[: closed.start()] if closed else raw)[-1]
    line, ended, _ = inside.lstrip().partition("\n")
    if generation.stopped == "length" and not (closed or ended):
        return None, "unparsed"
    text = re.sub(rf"^(?:(?:edited|new) )?(?:{_NAMES[part]})\s*:\s*", "", line, flags=re.IGNORECASE)
    text = _unquoted(" ".join(text.split()))
    if _NEXT_EXAMPLE.match(text):
        return None, "unparsed"
    if not any(c.isalnum() for c in text):
        return None, "empty"
    return (None, "unchanged") if _plain(text) == _plain(original) else (text, None)


def _unquoted(text: str) -> str:
    """Take off quotes that enclose the whole text."""
    close = _QUOTES.get(text[:1])
    inside = text[1:-1]
    if len(text) > 1 and text[-1] == close and text[0] not in inside and close not in inside:
        return inside.strip()
    return text


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(" .!?")


def _target(item: Item, names: Sequence[str], predicted: str, seed: int) -> str:
    """The first label other than the predicted one in a permutation that item and seed decide.

    Two variants that predict the same are so asked the same.
    """
    order = list(names)
    random.Random(f"{seed}:{item.id}").shuffle(order)
    return next(label for label in order if label != predicted)


def _part(item: Item, part: str) -> str:
    return item.text if part == "text" else item.fields[part]


def _context(item: Item, part: str) -> str:
    return {
        "text": "",
        "hypothesis": item.fields.get("premise", ""),
        "premise": item.fields.get("hypothesis", ""),
    }[part]

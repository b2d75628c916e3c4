"""Neuron attribution: which FFN neurons, heads and layers raise the probability of a fact's object?

Yu & Ananiadou 2024 (arXiv 2312.12141); the scores, and how they are found fast, are in
explainers/attribution.py and docs/attribution.md. The prompt is that of `memorization`, and what is attributed
is the log-probability of the gold object's first token at the prompt's last position.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from explainers.memorization import fact_prompt
from quantxai.datasets import Dataset, Task
from quantxai.errors import ModelError
from quantxai.lm import LanguageModel
from quantxai.methods import Explainer, Work
from quantxai.records import Item, Row

if TYPE_CHECKING:
    from explainers.attribution import Attribution
    from quantxai.internals import Internals, Trace

__all__ = ["NeuronAttribution", "NeuronAttributionRow", "Question", "first_token"]

Mode = Literal["fast", "exact"]


class NeuronAttributionRow(Row):
    """One fact: the neurons that raise the target's log-probability most, and what heads and layers add."""

    prompt: str = Field(description="Demonstrations and query.")
    gold: str = Field(description="The object.")
    token: str | None = Field(None, description="The target: one token as text; null where there is none.")
    logprob: float | None = Field(None, description="Its log-probability after the prompt, nats.")
    rank: int | None = Field(None, description="Its rank among all next tokens, 1 = most likely.")
    mode: Mode = Field(
        description="Whether every neuron was scored exactly, as all are where logits have a soft cap, or those that a "
        "screen let through."
    )
    neuron_layers: list[int] = Field([], description="Layers of the highest scoring FFN neurons, best first.")
    neuron_indices: list[int] = Field([], description="Their places within their layers.")
    neuron_scores: list[float] = Field(
        [], description="Their scores, nats: what each adds to the log-probability."
    )
    certain: int | None = Field(
        None,
        description="How many of them are proven to be the best of all neurons; null where nothing was attributed.",
    )
    ffn_scores: list[float] = Field(
        [], description="What each layer's FFN adds to the log-probability, nats."
    )
    attention_scores: list[float] = Field([], description="What each layer's attention adds to it, nats.")
    head_scores: list[float] = Field(
        [], description="What each attention head adds to it, nats, layer by layer."
    )
    heads: int = Field(0, description="Heads of a layer; 0 where nothing could be attributed.")
    query_layers: list[int] = Field(
        [],
        description="Layers of the query neurons, FFN neurons that feed the heads that matter, best first.",
    )
    query_indices: list[int] = Field([], description="Their places within their layers.")
    query_scores: list[float] = Field([], description="Their scores, nats.")
    query_problem: str | None = Field(
        None, description="Why there are no query neurons though they were asked for."
    )
    problem: str | None = Field(
        None, description="Why nothing could be attributed; the lists are empty then."
    )


class Question(NamedTuple):
    """A fact as it is asked: its target, or why it has none."""

    item: Item
    prompt: str
    token: int | None
    problem: str | None


class NeuronAttribution(Explainer):
    """Scores the neurons, heads and layers behind a fact's first object token."""

    method: ClassVar[str] = "neuron_attribution"
    summary: ClassVar[str] = "which neurons, heads and layers raise the probability of a fact's object"
    tasks: ClassVar[frozenset[Task]] = frozenset({"recall"})
    needs: ClassVar[frozenset[str]] = frozenset({"residuals", "ffn"})
    row: ClassVar[type[Row]] = NeuronAttributionRow

    shots: int = Field(default=3, ge=0, description="Facts of the same relation shown before the query.")
    target: Literal["gold", "predicted"] = Field(
        default="gold",
        description="Whose log-probability is attributed: the first token of the gold object, or the token that "
        "the model finds most likely.",
    )
    mode: Mode = Field(
        default="fast",
        description="exact scores every neuron; fast scores those that a first-order screen lets through.",
    )
    survivors: int = Field(
        default=600, ge=1, description="Neurons the screen lets through, where it is fast."
    )
    kept: int = Field(default=600, ge=1, description="Highest scoring neurons that are stored for each fact.")
    query_heads: int = Field(
        default=10,
        ge=0,
        description="Heads that are followed back to query neurons, the neurons that feed them; 0 for none.",
    )
    memory: int = Field(
        default=2**30, ge=2**20, description="Most bytes that attribution may hold beside the model."
    )

    @model_validator(mode="after")
    def _scored(self) -> Self:
        if self.mode == "fast" and self.survivors < self.kept:
            raise ValueError(
                f"survivors = {self.survivors} neurons get an exact score and kept = {self.kept} are to be stored: "
                "raise survivors or lower kept"
            )
        return self

    @property
    def work(self) -> Work:
        """See Explainer.work. Both were measured on SmolLM2-135M with 24 facts, on one core.

        Reading a query takes 0.05 s there, attributing it 0.7 s (fast) or 2.2 s (exact). The products with the
        unembedding that `exact` needs are shared by the facts of a cell: with fewer of them it takes longer.
        """
        return Work(14 if self.mode == "fast" else 45, 0)

    def rows(self, lm: LanguageModel, dataset: Dataset, items: Sequence[Item], seed: int) -> Iterator[Row]:
        """Attribute every fact, as many together as the memory allows; the seed is not used."""
        internals = lm.internals()
        asked = (self._question(internals, item, dataset) for item in items)
        while chunk := list(islice(asked, self._together(internals))):
            yield from self._attributed(internals, chunk)

    def _question(self, internals: Internals, item: Item, dataset: Dataset) -> Question:
        prompt = fact_prompt(item, dataset, self.shots)
        if "{}" not in item.fields["template"] or not item.text.strip():
            return Question(item, prompt, None, "the query does not name the subject")
        if self.target == "predicted":
            return Question(item, prompt, None, None)
        token, problem = first_token(internals, prompt, item.label)
        return Question(item, prompt, token, problem)

    def _together(self, internals: Internals) -> int:
        """How many facts are traced at a time, for half of the memory.

        A trace holds a number for each neuron and six as wide as a layer, and while it is made all of them twice, as
        they were noted and stacked; a rank takes the whole vocabulary, twice.
        """
        width = internals.ffn_width + 6 * max(internals.hidden, internals.heads * internals.head_width)
        numbers = 2 * (internals.layers + 1) * width + 2 * internals.readout.vocabulary
        return max(1, self.memory // 2 // (numbers * int(internals.readout.dtype.itemsize)))

    def _attributed(self, internals: Internals, asked: Sequence[Question]) -> Iterator[Row]:
        sound = [q for q in asked if q.problem is None]
        found = iter(self._observed(internals, sound) if sound else ())
        for question in asked:
            columns = next(found) if question.problem is None else {"problem": question.problem}
            yield NeuronAttributionRow(
                item=question.item.id,
                group=question.item.group,
                prompt=question.prompt,
                gold=question.item.label or "",
                **{"mode": self.mode, **columns},
            )

    def _observed(self, internals: Internals, asked: Sequence[Question]) -> Iterator[dict[str, Any]]:
        """Yield the columns of each fact that can be asked."""
        import torch

        from explainers.attribution import attribute

        traces = internals.trace([q.prompt for q in asked])
        logits = internals.readout.logits(torch.stack([t.residuals[-1] for t in traces]))
        best = logits.argmax(-1).tolist()
        targets = [b if q.token is None else q.token for q, b in zip(asked, best, strict=True)]
        at_target = logits.gather(-1, torch.tensor(targets, device=logits.device)[:, None])
        ranks = 1 + (logits > at_target).sum(-1)
        attributions = attribute(
            internals,
            traces,
            targets,
            mode=self.mode,
            survivors=self.survivors,
            kept=self.kept,
            memory=self.memory // 2,
        )
        attributions, missing = self._with_queries(internals, asked, traces, targets, attributions)
        for token, rank, found in zip(targets, ranks.tolist(), attributions, strict=True):
            finite = (found.scores, found.ffn, found.attention, found.heads)
            if not (math.isfinite(found.logprob) and all(bool(t.isfinite().all()) for t in finite)):
                yield {"problem": "the model's numbers are not finite"}
                continue
            yield {
                "mode": found.mode,
                "token": internals.tokenizer.decode([token]),
                "logprob": found.logprob,
                "rank": rank,
                "neuron_layers": found.layers.tolist(),
                "neuron_indices": found.neurons.tolist(),
                "neuron_scores": found.scores.tolist(),
                "certain": found.certain,
                "ffn_scores": found.ffn.tolist(),
                "attention_scores": found.attention.tolist(),
                "head_scores": found.heads.flatten().tolist(),
                "heads": internals.heads,
                "query_layers": found.query_layers.tolist(),
                "query_indices": found.query_neurons.tolist(),
                "query_scores": found.query_scores.tolist(),
                "query_problem": missing,
            }

    def _with_queries(
        self,
        internals: Internals,
        asked: Sequence[Question],
        traces: Sequence[Trace],
        targets: Sequence[int],
        attributions: list[Attribution],
    ) -> tuple[list[Attribution], str | None]:
        """Return attributions with query neurons, or as they are and why there are none."""
        from explainers.query_neurons import query_neurons

        if not self.query_heads:
            return attributions, None
        prompts = [q.prompt for q in asked]
        try:
            found = query_neurons(
                internals,
                prompts,
                traces,
                targets,
                attributions,
                heads=self.query_heads,
                memory=self.memory // 2,
            )
        except ModelError as error:  # the rest is known, and worth keeping
            return attributions, str(error)
        return found, None


def first_token(internals: Internals, prompt: str, text: str | None) -> tuple[int | None, str | None]:
    """Return the token a text begins with where it follows a prompt, or why it has none worth attributing.

    As the tokenizer cuts the two together, where the prompt's tokens stay as they are: one that marks the
    beginning of words (SentencePiece) gives a text of its own a second mark.
    """
    if text is None or not text.strip():
        return None, "the object is empty"
    before, whole = internals.tokens(prompt), internals.tokens(f"{prompt} {text}")
    if whole[: len(before)] == before:
        added = whole[len(before) :]
    else:
        added = internals.tokenizer(f" {text}", add_special_tokens=False).input_ids
    if not added:
        return None, "the object has no tokens"
    first = internals.tokenizer.decode(added[:1])
    if not first.strip():
        return None, "the object's first token is white space"
    if "\N{REPLACEMENT CHARACTER}" in first:
        return None, "the object's first token is part of a character"
    return added[0], None

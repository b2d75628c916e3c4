"""Knowledge memorization: does the model complete a fact, and how likely does it find the gold object?

Facts and templates in the form of LRE (Hernandez et al. 2024, arXiv 2308.09124), k-shot: the prompt
completes the template for the relation's demonstrations, one to a line, and ends with the query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

from pydantic import Field

from quantxai.datasets import Dataset, Task
from quantxai.errors import DataError
from quantxai.lm import Continuation, Generation, LanguageModel
from quantxai.methods import Explainer
from quantxai.records import Item, Row
from quantxai.tokenized import TokenizedModel

__all__ = ["EMPTY", "NO_SUBJECT", "NO_TOKENS", "Memorization", "MemorizationRow", "fact_prompt"]

EMPTY = "the object is empty"
NO_SUBJECT = "the query does not name the subject"
NO_TOKENS = "the object has no tokens"

# Not a period as well: it would cut "Washington D.C." or "J. R. R. Tolkien" short, and what follows the
# object does not count anyway.
_STOP = ("\n",)


class MemorizationRow(Row):
    """One fact: the greedy completion, and the gold object's probability and rank."""

    prompt: str = Field(description="Demonstrations and query.")
    gold: str = Field(description="The object.")
    aliases: list[str] = Field(description="Other correct surface forms of the object.")
    completion: str = Field(description="Greedy continuation up to the end of the line.")
    logprob: float | None = Field(
        description="Log-probability of the gold object after the prompt, nats; null where there is a problem."
    )
    tokens: int = Field(description="Number of tokens of the gold object; 0 where it was not scored.")
    rank: int | None = Field(
        description="Rank of the gold object's first token, 1 = most likely; null where there is a problem."
    )
    stopped: Literal["stop", "end", "length"] = Field(description="Why the completion ended.")
    problem: str | None = Field(
        None, description="Why the gold object could not be scored; the completion is there all the same."
    )


class Memorization(Explainer):
    """Asks for facts: greedy completion, log-probability and rank of the gold object."""

    method: ClassVar[str] = "memorization"
    version: ClassVar[int] = 2
    summary: ClassVar[str] = "recall of facts: greedy completion, log-probability and rank of the gold object"
    tasks: ClassVar[frozenset[Task]] = frozenset({"recall"})
    needs: ClassVar[frozenset[str]] = frozenset({"generate", "logprobs"})
    row: ClassVar[type[Row]] = MemorizationRow

    shots: int = Field(default=3, ge=0, description="Facts of the same relation shown before the query.")
    max_new_tokens: int = Field(default=8, ge=1, description="Most tokens of a completion.")

    def rows(self, lm: LanguageModel, dataset: Dataset, items: Sequence[Item], seed: int) -> Iterator[Row]:
        """Complete every fact; nothing here is random, the seed is not used."""
        prompts = [fact_prompt(item, dataset, self.shots) for item in items]
        problems = [_problem(lm, item, prompt) for item, prompt in zip(items, prompts, strict=True)]
        observed = self._observed(lm, prompts, [i.label for i in items], problems)
        for item, prompt, problem, (said, gold) in zip(items, prompts, problems, observed, strict=True):
            if problem is None and (gold is None or not gold.ranks):
                problem = NO_TOKENS
            scored = gold if problem is None else None
            yield MemorizationRow(
                item=item.id,
                group=item.group,
                prompt=prompt,
                gold=item.label or "",
                aliases=list(item.aliases),
                completion=said.text,
                logprob=sum(scored.logprobs) if scored else None,
                tokens=len(scored.logprobs) if scored else 0,
                rank=scored.ranks[0] if scored else None,
                stopped=said.stopped,
                problem=problem,
            )

    def _observed(
        self,
        lm: LanguageModel,
        prompts: Sequence[str],
        objects: Sequence[str | None],
        problems: Sequence[str | None],
    ) -> list[tuple[Generation, Continuation | None]]:
        """Complete every prompt, and score the objects that have no problem."""
        sound = [i for i, problem in enumerate(problems) if problem is None]
        others = [i for i, problem in enumerate(problems) if problem is not None]
        found: dict[int, tuple[Generation, Continuation | None]] = {}
        if sound:
            both = lm.generate_and_score(
                [prompts[i] for i in sound],
                [f" {objects[i]}" for i in sound],
                max_new_tokens=self.max_new_tokens,
                stop=_STOP,
            )
            found.update(zip(sound, both, strict=True))
        if others:
            said = lm.generate([prompts[i] for i in others], max_new_tokens=self.max_new_tokens, stop=_STOP)
            found.update((i, (generation, None)) for i, generation in zip(others, said, strict=True))
        return [found[i] for i in range(len(prompts))]


def fact_prompt(item: Item, dataset: Dataset, shots: int) -> str:
    """Return what a fact is asked with: the query after its relation's first `shots` demonstrations.

    Raises:
        DataError: the relation has fewer demonstrations.
    """
    shown = [d for d in dataset.demonstrations if d.group == item.group][:shots]
    if len(shown) < shots:
        raise DataError(
            f"{dataset.name}: relation '{item.group}' has {len(shown)} demonstrations and {shots} are "
            "to be shown; lower the option shots"
        )
    return "".join(f"{_query(d)} {d.label}.\n" for d in shown) + _query(item)


def _query(item: Item) -> str:
    return item.fields["template"].replace("{}", item.text)


def _problem(lm: LanguageModel, item: Item, prompt: str) -> str | None:
    """Return why a fact's object cannot be scored, as far as it can be told beforehand."""
    if "{}" not in item.fields["template"] or not item.text.strip():
        return NO_SUBJECT
    if not (item.label or "").strip():
        return EMPTY
    if not isinstance(lm, TokenizedModel):
        return None
    from explainers.neuron_attribution import first_token  # which imports this module

    tokenizer = lm.tokenizer
    known: Any = SimpleNamespace(tokenizer=tokenizer, tokens=lambda text: list(tokenizer(text).input_ids))
    return first_token(known, prompt, item.label)[1]

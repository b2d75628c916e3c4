"""Knowledge memorization: does the model complete a fact, and how likely does it find the gold object?

Facts and templates in the form of LRE (Hernandez et al. 2024, arXiv 2308.09124), k-shot: the prompt
completes the template for the relation's demonstrations, one to a line, and ends with the query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from quantxai.datasets import Dataset, Task
from quantxai.errors import DataError
from quantxai.lm import LanguageModel
from quantxai.methods import Explainer
from quantxai.records import Item, Row

__all__ = ["Memorization", "MemorizationRow", "fact_prompt"]

# Not a period as well: it would cut "Washington D.C." or "J. R. R. Tolkien" short, and what follows the
# object does not count anyway.
_STOP = ("\n",)


class MemorizationRow(Row):
    """One fact: the greedy completion, and the gold object's probability and rank."""

    prompt: str = Field(description="Demonstrations and query.")
    gold: str = Field(description="The object.")
    aliases: list[str] = Field(description="Other correct surface forms of the object.")
    completion: str = Field(description="Greedy continuation up to the end of the line.")
    logprob: float = Field(description="Log-probability of the gold object after the prompt, nats.")
    tokens: int = Field(description="Number of tokens of the gold object.")
    rank: int = Field(description="Rank of the gold object's first token, 1 = most likely.")
    stopped: Literal["stop", "end", "length"] = Field(description="Why the completion ended.")


class Memorization(Explainer):
    """Asks for facts: greedy completion, log-probability and rank of the gold object."""

    method: ClassVar[str] = "memorization"
    summary: ClassVar[str] = "recall of facts: greedy completion, log-probability and rank of the gold object"
    tasks: ClassVar[frozenset[Task]] = frozenset({"recall"})
    needs: ClassVar[frozenset[str]] = frozenset({"generate", "logprobs"})
    row: ClassVar[type[Row]] = MemorizationRow

    shots: int = Field(default=3, ge=0, description="Facts of the same relation shown before the query.")
    max_new_tokens: int = Field(default=8, ge=1, description="Most tokens of a completion.")

    def rows(self, lm: LanguageModel, dataset: Dataset, items: Sequence[Item], seed: int) -> Iterator[Row]:
        """Complete every fact; nothing here is random, the seed is not used."""
        prompts = [fact_prompt(item, dataset, self.shots) for item in items]
        objects = [f" {item.label}" for item in items]
        observed = lm.generate_and_score(prompts, objects, max_new_tokens=self.max_new_tokens, stop=_STOP)
        for item, prompt, (completion, gold) in zip(items, prompts, observed, strict=True):
            yield MemorizationRow(
                item=item.id,
                group=item.group,
                prompt=prompt,
                gold=str(item.label),
                aliases=list(item.aliases),
                completion=completion.text,
                logprob=sum(gold.logprobs),
                tokens=len(gold.logprobs),
                rank=gold.ranks[0],
                stopped=completion.stopped,
            )


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

"""Texts that are too long for a model are cut at a word, and told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantxai.datasets import Dataset
from quantxai.records import Item

__all__ = ["SHARE", "fitted", "fitted_dataset"]

SHARE = 8
"""An item may take one part in so many of a model's context: prompts show several, and answers follow."""


def fitted(item: Item, tokenizer: Any, limit: int) -> Item:
    """Return an item whose text has at most `limit` tokens.

    Its longest part is cut after a word: the text itself, or the field that makes up most of it. A gold
    explanation is no part of the text and stays.

    Args:
        item: the item.
        tokenizer: the model's.
        limit: tokens.
    """
    text, fields = item.text, dict(item.fields)
    while (excess := _tokens(tokenizer, text) - limit) > 0:
        parts = {name: value for name, value in fields.items() if value and value in text}
        name = max(parts, key=lambda n: len(parts[n]), default=None)
        part = text if name is None else parts[name]
        shorter = _cut(part, tokenizer, max(_tokens(tokenizer, part) - excess, 1))
        if shorter == part:
            break
        text = text.replace(part, shorter)
        if name is not None:
            fields[name] = shorter
    return item if text == item.text else item.model_copy(update={"text": text, "fields": fields})


def fitted_dataset(
    dataset: Dataset, items: Sequence[Item], tokenizer: Any, context: int
) -> tuple[Dataset, list[Item]]:
    """Return the data set, its demonstrations fitted to a context of so many tokens, and fitted items."""
    limit = max(context // SHARE, 1)
    shown = tuple(fitted(item, tokenizer, limit) for item in dataset.demonstrations)
    return dataset.model_copy(update={"demonstrations": shown}), [fitted(i, tokenizer, limit) for i in items]


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False).input_ids)


def _cut(text: str, tokenizer: Any, tokens: int) -> str:
    """The words of a text that fit into so many tokens; at least the first."""
    words = text.split()
    low, high = 1, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if _tokens(tokenizer, " ".join(words[:middle])) <= tokens:
            low = middle
        else:
            high = middle - 1
    return " ".join(words[:low])

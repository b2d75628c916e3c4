"""Texts that are too long are cut at a word; short ones are left alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from quantxai.datasets import load_dataset
from quantxai.fitting import fitted, fitted_dataset
from quantxai.records import Item

pytestmark = pytest.mark.bare


def tokenizer(text: str, add_special_tokens: bool = False) -> Any:
    """One token a character that is no space."""
    return SimpleNamespace(input_ids=[c for c in text if c != " "])


def item(text: str, **fields: str) -> Item:
    return Item(id="i", text=text, label="x", group="g", fields=fields)


def test_a_short_text_is_left_alone() -> None:
    short = item("abc def  ghi")
    assert fitted(short, tokenizer, 9) is short


def test_a_long_text_is_cut_after_a_word() -> None:
    assert fitted(item("abc def ghi"), tokenizer, 8).text == "abc def"
    assert fitted(item("abc def ghi"), tokenizer, 6).text == "abc def"
    assert fitted(item("abc def ghi"), tokenizer, 5).text == "abc"


def test_of_a_pair_the_longest_part_is_cut_in_text_and_fields() -> None:
    claim, evidence = "tea helps", "one two three four five six"
    pair = item(
        f"Claim: {claim}\nEvidence: {evidence}", claim=claim, evidence=evidence, explanation="e " * 90
    )
    cut = fitted(pair, tokenizer, 6 + 8 + 10 + 15)
    assert cut.fields["evidence"] == "one two three four"
    assert cut.text == "Claim: tea helps\nEvidence: one two three four"
    assert cut.fields["claim"] == claim
    assert cut.fields["explanation"] == "e " * 90


def test_a_single_word_that_is_too_long_stays() -> None:
    assert fitted(item("abcdefgh"), tokenizer, 3).text == "abcdefgh"


def test_an_item_and_each_demonstration_get_an_eighth_of_the_context() -> None:
    dataset = load_dataset("news")
    cut, items = fitted_dataset(dataset, dataset.items[:3], tokenizer, 8 * 50)
    for new, old in zip(
        (*cut.demonstrations, *items), (*dataset.demonstrations, *dataset.items[:3]), strict=True
    ):
        assert 30 < len(new.text.replace(" ", "")) <= 50
        assert old.text.startswith(new.text + " ")
    same, items = fitted_dataset(dataset, dataset.items[:3], tokenizer, 8 * 500)
    assert same == dataset
    assert tuple(items) == dataset.items[:3]

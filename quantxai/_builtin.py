"""The built-in sets: texts written for this project, and facts.

A file holds up to three splits: `evaluation` (what variants are asked about), `demonstration` (what
prompts show) and `calibration` (what quantizers calibrate on). They share no text and no fact. Reviews,
claims and questions have no calibration split.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from quantxai._published import (
    LETTERS,
    choice_text,
    inference_text,
    json_file,
    relation_items,
    verification_text,
)
from quantxai.errors import DataError
from quantxai.records import Item

__all__ = [
    "DATA",
    "Splits",
    "calibration",
    "claims",
    "inference",
    "news",
    "questions",
    "relations",
    "reviews",
]

DATA = Path(__file__).parent / "data"

Splits = dict[str, tuple[Item, ...]]
"""Items by split: evaluation, demonstration, calibration."""

_NAMES = ("evaluation", "demonstration", "calibration")


@functools.cache
def news(data: Path = DATA) -> Splits:
    """Headlines with one of four topics."""
    return _texts(data / "news.jsonl")


@functools.cache
def reviews(data: Path = DATA) -> Splits:
    """Reviews of films, meals, tools and journeys, positive or negative."""
    return _texts(data / "reviews.jsonl")


@functools.cache
def inference(data: Path = DATA) -> Splits:
    """Premise and hypothesis pairs with label and explanation, three hypotheses to a premise."""
    return _explained(
        data / "inference.jsonl",
        ("premise", "hypothesis"),
        lambda r: inference_text(r["premise"], r["hypothesis"]),
    )


@functools.cache
def claims(data: Path = DATA) -> Splits:
    """Claims with evidence, verdict and explanation."""
    return _explained(
        data / "claims.jsonl", ("claim", "evidence"), lambda r: verification_text(r["claim"], r["evidence"])
    )


@functools.cache
def questions(data: Path = DATA) -> Splits:
    """Questions with five options, the letter of the right one and an explanation."""
    return _explained(
        data / "questions.jsonl",
        ("question", *LETTERS),
        lambda r: choice_text(r["question"], [r[letter] for letter in LETTERS]),
    )


@functools.cache
def relations(data: Path = DATA) -> Splits:
    """Facts of the relations in data/relations, one file each in LRE's published form."""
    files = _relation_files(data)
    pairs = (pair for file in files for pair in relation_items(file, json_file(file)))
    return _splits(data / "relations", pairs)


@functools.cache
def calibration(data: Path = DATA) -> tuple[str, ...]:
    """Every calibration text: headlines, inference pairs with their explanation, facts as sentences.

    Facts are worded with their relation's last template, prompts with its first, so that quantizers
    do not see the evaluated wording either. Reviews, claims and questions are left out: other texts
    would be another calibration, and every checkpoint quantized so far would have to be made again.
    """
    pairs = (
        f"{i.text}\nLabel: {i.label}\nExplanation: {i.fields['explanation']}"
        for i in inference(data)["calibration"]
    )
    wording = {r["name"]: r["prompt_templates"][-1] for r in map(json_file, _relation_files(data))}
    facts = (f"{wording[i.group].replace('{}', i.text)} {i.label}." for i in relations(data)["calibration"])
    return (*(i.text for i in news(data)["calibration"]), *pairs, *facts)


def _relation_files(data: Path) -> list[Path]:
    return sorted((data / "relations").glob("*.json"))


def _texts(path: Path) -> Splits:
    return _splits(
        path,
        (
            (Item(id=r["id"], text=r["text"], label=r["label"], group=r["id"]), r["split"])
            for r in _lines(path, ("id", "text", "label", "split"))
        ),
    )


def _explained(path: Path, parts: tuple[str, ...], text: Callable[[dict[str, Any]], str]) -> Splits:
    """Items composed of parts, grouped by the first one, each with an explanation."""
    return _splits(
        path,
        (
            (
                Item(
                    id=r["id"],
                    text=text(r),
                    label=r["label"],
                    group=r[parts[0]],
                    fields={part: r[part] for part in (*parts, "explanation")},
                ),
                r["split"],
            )
            for r in _lines(path, ("id", "label", "split", *parts, "explanation"))
        ),
    )


def _lines(path: Path, keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON: {error.msg}") from error
        for key in keys:
            if not (isinstance(record, dict) and record.get(key)):
                raise DataError(f"{path}, line {number}: '{key}' is missing or empty")
        yield record


def _splits(path: Path, pairs: Iterator[tuple[Item, str]]) -> Splits:
    splits: dict[str, list[Item]] = {name: [] for name in _NAMES}
    ids: set[str] = set()
    contents: set[tuple[str, str]] = set()
    for item, split in pairs:
        if split not in splits:
            raise DataError(f"{path}: {item.id}: unknown split '{split}'; expected {', '.join(_NAMES)}")
        content = (item.group if item.fields.get("relation") else "", item.text)
        if item.id in ids or content in contents:
            raise DataError(f"{path}: {item.id}: repeats an earlier item; expected every id and text once")
        ids.add(item.id)
        contents.add(content)
        splits[split].append(item)
    return {name: tuple(items) for name, items in splits.items()}

"""Two-hop questions r2(r1(e1)): composed from the built-in facts, or read from TwoHopFact.

An item's text is the question as a cloze ("The capital city of the country that is home to the Eiffel Tower
is"), its label r2's object e3, its group e2: questions of one bridge share one-hop prompts and facts, so they are
one cluster, and no prompt stands in two (of TwoHopFact: none that names the bridge). Its fields:

- `relations`: the pair of them, or TwoHopFact's type of the composition; samples are spread over these.
- `subject`: e1; `bridge`: e2 = r1(e1); `bridge_aliases`: its other surface forms, one to a line.
- `description`: the mention of e2 through e1, a part of the text; it may begin with what stands before.
- `first_prompt`, `second_prompt`: the two one-hop clozes, answered by the bridge and by the label.
- `entity_prompt`, `relation_prompt`: the text up to the end of the description, where another subject with
  another bridge, or another relation, takes the place of its own: controls that do not describe the bridge.
  The other bridge begins with another word: what is looked for inside is the bridge's first token.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantxai._builtin import DATA, Splits, relations
from quantxai._published import Entry, json_file
from quantxai.errors import DataError
from quantxai.records import Item

__all__ = ["TWO_HOP_FACT_COLUMNS", "two_hop", "two_hop_fact_items"]

SHOWN = ("Austria", "Egypt", "Greece")
"""Bridges of the demonstrations. Each occurs once with every pair of relations, and no evaluated question
has one of them: a demonstration must not give away a fact that is asked for."""

_MENTION = ("r2(r1(e1)).subject_cut.prompt", "mu.template")
_EITHER = " or ".join(_MENTION)

TWO_HOP_FACT_COLUMNS: Mapping[str, tuple[str, ...]] = {
    name: (name,)
    for name in (
        "fact_comp_type",
        "category",
        "e1.value",
        "e2.value",
        "e2.aliases",
        "e3.value",
        "e3.aliases",
        "r1(e1).prompt",
        "r2(e2).prompt",
        "r2(r1(e1)).prompt",
        "r2(r1(e1')).subject_cut.prompt",
        "r2(r1'(e1)).subject_cut.prompt",
    )
} | {_EITHER: _MENTION}
"""What is read of TwoHopFact.csv: `aliases` are tuples of tuples of names in Python's notation, and a
`subject_cut.prompt` is the prompt up to the end of the description, which the authors' code reads too. A copy
that lacks the question's own may have `mu.template` instead, the description with "{}" for e1."""


@functools.cache
def two_hop(data: Path = DATA) -> Splits:
    """Compose the pairs of relations in two_hop.json from the facts that are evaluated."""
    by_group: dict[str, list[Item]] = {}
    for item in relations(data)["evaluation"]:
        by_group.setdefault(item.group, []).append(item)
    files = sorted((data / "relations").glob("*.json"))
    facts = {file.stem: by_group[json_file(file)["name"]] for file in files}
    found: list[Item] = []
    for pair in json_file(data / "two_hop.json"):
        second = {fact.text: fact for fact in facts[pair["second"]]}
        hops = [(f, second[str(f.label)]) for f in facts[pair["first"]] if str(f.label) in second]
        found += _with_controls([_question(pair, *hop) for hop in hops], pair)
    return {
        "evaluation": tuple(i for i in found if i.fields["bridge"] not in SHOWN),
        "demonstration": tuple(i for i in found if i.fields["bridge"] in SHOWN),
        "calibration": (),
    }


def two_hop_fact_items(entries: Iterable[Entry]) -> Iterator[Item]:
    """Turn records of TwoHopFact (Yang et al. 2024, arXiv 2402.16837) into two-hop questions.

    An empty entity is let through, and a description that is not in the question: whoever asks counts them.
    """
    for entry in entries:
        values = entry.values
        for column in ("fact_comp_type", "r1(e1).prompt", "r2(e2).prompt", "r2(r1(e1)).prompt"):
            if not values[column]:
                raise DataError(f"{entry.where}: column '{column}' is empty; expected a text")
        subject, bridge, answer = (values[f"e{number}.value"] for number in (1, 2, 3))
        yield Item(
            id=f"twohopfact-{entry.number:06d}",
            text=values["r2(r1(e1)).prompt"],
            label=answer,
            group=bridge,
            fields={
                "relations": values["fact_comp_type"],
                "category": values["category"],
                "subject": subject,
                "bridge": bridge,
                "bridge_aliases": "\n".join(_aliases(entry, "e2.aliases", bridge)),
                "description": values[_EITHER].replace("{}", subject),
                "first_prompt": values["r1(e1).prompt"],
                "second_prompt": values["r2(e2).prompt"],
                "entity_prompt": values["r2(r1(e1')).subject_cut.prompt"],
                "relation_prompt": values["r2(r1'(e1)).subject_cut.prompt"],
            },
            aliases=tuple(_aliases(entry, "e3.aliases", answer)),
        )


def _question(pair: Mapping[str, str], fact: Item, other: Item) -> Item:
    subject, bridge = fact.text, other.text
    text = pair["template"].replace("{}", subject)
    before = text.partition(pair["description"].replace("{}", subject))[0]
    return Item(
        id=f"{fact.id}+{other.id}",
        text=text,
        label=other.label,
        group=bridge,
        fields={
            "relations": f"{pair['first']}+{pair['second']}",
            "subject": subject,
            "bridge": bridge,
            "bridge_aliases": "\n".join(fact.aliases),
            "description": pair["description"].replace("{}", subject),
            "first_prompt": pair["first_template"].replace("{}", subject),
            "second_prompt": pair["second_template"].replace("{}", bridge),
            "relation_prompt": before + pair["other_description"].replace("{}", subject),
        },
        aliases=other.aliases,
    )


def _with_controls(questions: Sequence[Item], pair: Mapping[str, str]) -> Iterator[Item]:
    """Give each question its `entity_prompt`, chosen by the ids alone among all questions of the pair.

    A question that no other bridge can be set against has none.
    """
    for question in questions:
        others = [q for q in questions if _first_word(q) != _first_word(question)]
        if not others:
            yield question
            continue
        other = min(others, key=lambda q: hashlib.sha256(f"{question.id}:{q.id}".encode()).digest())
        end = other.text.index(other.fields["description"]) + len(other.fields["description"])
        fields = {**question.fields, "entity_prompt": other.text[:end]}
        yield question.model_copy(update={"fields": fields})


def _first_word(question: Item) -> str:
    return question.fields["bridge"].split()[0].casefold()


def _aliases(entry: Entry, column: str, name: str) -> list[str]:
    """Every other name in a list of lists of names, in order."""
    try:
        found: Any = ast.literal_eval(entry.values[column] or "()")
        names = [str(alias).strip() for group in found for alias in _names(group)]
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise DataError(
            f"{entry.where}: column '{column}' is not a list of lists of names in Python's notation, "
            f"found {entry.values[column][:60]!r}"
        ) from None
    return [alias for alias in dict.fromkeys(names) if alias and alias != name]


def _names(group: Any) -> Sequence[Any]:
    if not isinstance(group, list | tuple):
        raise TypeError
    return group

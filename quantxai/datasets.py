"""Data sets: the built-in ones and loaders for published formats.

```
dataset = load_dataset("news")                                   # built in
dataset = load_dataset("esnli", "esnli_dev.csv")                 # a local copy as published
dataset = take(load_dataset("ag_news"), 200, seed=0)             # downloaded, then sampled
```
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from quantxai import _builtin, _published, _two_hop
from quantxai._published import LETTERS, choice_text, inference_text, verification_text
from quantxai.errors import DataError, UnknownName
from quantxai.records import Item, Record

__all__ = [
    "Dataset",
    "Task",
    "calibration_texts",
    "choice_text",
    "dataset_names",
    "dataset_tasks",
    "held_out",
    "inference_text",
    "load_dataset",
    "take",
    "verification_text",
]

Task = Literal["topic", "sentiment", "inference", "verification", "choice", "recall", "composition"]
"""What items ask for: a label, or for recall an object, for composition one over two hops."""

TOPICS = ("world", "sports", "business", "technology")
SENTIMENTS = ("positive", "negative")
RELATIONS_OF_PAIRS = ("entailment", "neutral", "contradiction")
VERDICTS = ("supported", "refuted", "not enough information")

ESNLI_REVISION = "refs/convert/parquet"
"""The Hub's own Parquet conversion: the main branch holds a loading script, which `datasets` 4 and later
refuse to run. The branch of an unchanging set does not move, but it is a name, not a commit."""
AG_NEWS_REVISION = "eb185aade064a813bc0b7f42de02595523103ca4"
SST2_REVISION = "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb"
ECQA_REVISION = "main"
"""A branch, not a commit: the full hash of its last commit (409e78f...) could not be looked up."""
TWO_HOP_FACT_REVISION = "59a84cd883f71641a03fb6fa50da92a9603e7845"
"""As a study that read the set has pinned it; not downloaded here so far."""


class Dataset(Record):
    """Items with everything that goes with them."""

    name: str = Field(description="Registered name, see dataset_names().")
    task: Task
    labels: tuple[str, ...] = Field(description="Allowed labels; empty for recall and composition.")
    items: tuple[Item, ...] = Field(description="What is evaluated, in the file's order.")
    demonstrations: tuple[Item, ...] = Field(description="Held-out items for prompts; never evaluated.")
    source: str = Field(description="Where it comes from: built in, Hub id at a revision, or a path.")
    licence: str


@dataclass(frozen=True)
class _Set:
    """How one registered set is read: from its splits, as the records of a table, or as LRE relations."""

    summary: str
    task: Task
    labels: tuple[str, ...]
    licence: str
    splits: Callable[[], _builtin.Splits] | None = None
    items: Callable[[Iterable[_published.Entry]], Iterator[Item]] | None = None
    """Turns the records of a table, a local file or one on the Hub, into items."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hub: str = ""
    split: str = ""
    revision: str = ""
    copy: str = ""
    """Where to find a copy of a set that is not on the Hub."""
    shots: int = 4
    """Demonstrations taken per label (per relation for recall) from a set that has none of its own; 0: none."""

    def read(self, path: Path) -> Iterator[Item]:
        """Read a local copy of a published set."""
        if self.items is None:
            return _published.lre_items(path)
        return self.items(_published.file_entries(path, self.columns))


_SETS: dict[str, _Set] = {
    "news": _Set(
        "160 short news items, 4 topics, written for this project",
        "topic",
        TOPICS,
        "Apache-2.0",
        splits=_builtin.news,
    ),
    "inference": _Set(
        "180 premise and hypothesis pairs with explanations, 3 labels, written for this project",
        "inference",
        RELATIONS_OF_PAIRS,
        "Apache-2.0",
        splits=_builtin.inference,
    ),
    "relations": _Set(
        "756 facts of 27 relations, collected for this project",
        "recall",
        (),
        "Apache-2.0",
        splits=_builtin.relations,
    ),
    "reviews": _Set(
        "80 short reviews, positive or negative, written for this project",
        "sentiment",
        SENTIMENTS,
        "Apache-2.0",
        splits=_builtin.reviews,
    ),
    "claims": _Set(
        "48 claims with evidence and explanations, 3 verdicts, written for this project",
        "verification",
        VERDICTS,
        "Apache-2.0",
        splits=_builtin.claims,
    ),
    "questions": _Set(
        "60 commonsense questions with 5 options and explanations, written for this project",
        "choice",
        LETTERS,
        "Apache-2.0",
        splits=_builtin.questions,
    ),
    "two_hop": _Set(
        "273 questions over two hops, composed from this project's facts of countries",
        "composition",
        (),
        "Apache-2.0",
        splits=_two_hop.two_hop,
    ),
    "esnli": _Set(
        "e-SNLI dev set: inference pairs with human explanations (Camburu et al. 2018)",
        "inference",
        RELATIONS_OF_PAIRS,
        "MIT",
        items=_published.esnli_items,
        columns=_published.ESNLI_COLUMNS,
        hub="esnli/esnli",
        split="validation",
        revision=ESNLI_REVISION,
    ),
    "ag_news": _Set(
        "AG News test set: news items, 4 topics (Zhang et al. 2015)",
        "topic",
        TOPICS,
        "AG corpus terms, research use",
        items=_published.ag_news_items,
        columns=_published.AG_NEWS_COLUMNS,
        hub="fancyzhx/ag_news",
        split="test",
        revision=AG_NEWS_REVISION,
    ),
    "sst2": _Set(
        "SST-2 dev set: sentences of film reviews, positive or negative (Socher et al. 2013)",
        "sentiment",
        SENTIMENTS,
        "no licence stated",
        items=_published.sst2_items,
        columns=_published.SST2_COLUMNS,
        hub="stanfordnlp/sst2",
        split="validation",
        revision=SST2_REVISION,
    ),
    "healthfc": _Set(
        "HealthFC, a local copy: health claims with evidence and verdict (Vladika et al. 2024)",
        "verification",
        VERDICTS,
        "no licence stated",
        items=_published.healthfc_items,
        columns=_published.HEALTHFC_COLUMNS,
        copy="healthFC_annotated.csv of the repository jvladika/HealthFC on GitHub",
    ),
    "ecqa": _Set(
        "ECQA test set: commonsense questions with human explanations (Aggarwal et al. 2021)",
        "choice",
        LETTERS,
        "explanations CC BY-SA 4.0, questions of CommonsenseQA MIT",
        items=_published.ecqa_items,
        columns=_published.ECQA_COLUMNS,
        hub="yangdong/ecqa",
        split="test",
        revision=ECQA_REVISION,
    ),
    "lre": _Set(
        "LRE relations, a local copy: subject, relation, object (Hernandez et al. 2024)",
        "recall",
        (),
        "MIT",
        copy="the directory data of the repository evandez/relations on GitHub",
        shots=3,
    ),
    "twohopfact": _Set(
        "TwoHopFact: questions over two hops of 52 pairs of relations (Yang et al. 2024)",
        "composition",
        (),
        "CC BY 4.0",
        items=_two_hop.two_hop_fact_items,
        columns=_two_hop.TWO_HOP_FACT_COLUMNS,
        hub="soheeyang/TwoHopFact",
        split="train",
        revision=TWO_HOP_FACT_REVISION,
        # Bridges recur, countries above all: shown, a question would give others' answers away.
        shots=0,
    ),
}


def dataset_names() -> dict[str, str]:
    """Return every registered name with a one-line description."""
    return {name: entry.summary for name, entry in _SETS.items()}


def dataset_tasks() -> dict[str, Task]:
    """Return the kind of task of every registered set."""
    return {name: entry.task for name, entry in _SETS.items()}


def load_dataset(name: str, path: str | Path | None = None, revision: str | None = None) -> Dataset:
    """Load a registered data set.

    A published set brings no demonstrations of its own: the first 4 of each label (3 of each
    relation, none of twohopfact) are held out for prompts, every one from another text, premise, claim,
    question or subject, none with an empty object or without an explanation where the set has them, and
    no item that shares its premise, claim, question or subject with one of them is evaluated. A text that
    occurs again is left out and counted in `source`: the published sets do repeat some.

    Args:
        name: a name from `dataset_names()`.
        path: a local copy in the published format: a CSV file (esnli, ag_news, sst2, healthfc, ecqa,
            twohopfact), a TSV file (sst2 as in GLUE), or a JSON file or a directory of them (lre).
        revision: Hub revision to download instead of the pinned one.

    Raises:
        UnknownName: the name is not registered.
        DataError: the data are missing, cannot be downloaded or are not in their published format.
    """
    if name not in _SETS:
        raise UnknownName("dataset", name, _SETS)
    entry = _SETS[name]
    if entry.splits is not None:
        if path is not None or revision is not None:
            raise DataError(f"'{name}' is built in and takes neither a path nor a revision")
        splits = entry.splits()
        return _dataset(name, entry, splits["evaluation"], splits["demonstration"], "built in")
    items, source = _published_items(name, entry, path, revision)
    distinct = _distinct(items)
    if repeats := len(items) - len(distinct):
        source += f" ({repeats} repeated items left out)"
    demonstrations = _demonstrations(distinct, entry)
    shown = {_origin(d) for d in demonstrations}
    rest = tuple(item for item in distinct if _origin(item) not in shown)
    if not rest:
        raise DataError(f"{source}: no item is left to evaluate once the demonstrations are held out")
    return _dataset(name, entry, rest, demonstrations, source)


def take(dataset: Dataset, n: int | None, seed: int) -> Dataset:
    """Return the data set with at most `n` of its items, spread evenly over its strata.

    Strata are labels, for recall relations and for composition pairs of them; sizes differ by at most
    one while no stratum runs out. The choice is random but a function of seed and item ids alone: a
    larger `n` keeps every item of a smaller one. Items stay in the file's order.

    Args:
        dataset: what to sample from.
        n: number of items; None takes all.
        seed: chooses the sample.
    """
    if n is None or n >= len(dataset.items):
        return dataset
    if n < 1:
        raise DataError(f"{dataset.name}: a sample needs at least 1 item, {n} asked for")
    strata: dict[str, list[str]] = {}
    for item in dataset.items:
        strata.setdefault(_stratum(item, dataset.task), []).append(item.id)
    ranked: list[tuple[int, str, str]] = []
    for key, ids in strata.items():
        # Round r takes the r-th item of every stratum, in a seeded order of the strata.
        for place, item_id in enumerate(sorted(ids, key=lambda i: _shuffle_key(seed, i))):
            ranked.append((place, _shuffle_key(seed, key), item_id))
    chosen = {item_id for _, _, item_id in sorted(ranked)[:n]}
    return dataset.model_copy(update={"items": tuple(i for i in dataset.items if i.id in chosen)})


def calibration_texts(seed: int, path: str | None = None) -> list[str]:
    """Return the calibration texts in a seeded random order.

    The built-in ones are headlines, inference pairs with label and explanation, and facts as sentences;
    none shares an item with what any built-in set evaluates or demonstrates. Reviews, claims and
    questions are not among them: other texts would be another calibration, so every checkpoint that
    was quantized with these would have to be made again.

    Args:
        seed: of the order.
        path: a text file to take in their place, texts separated by empty lines.

    Raises:
        DataError: there is no such file, or it is not UTF-8 text.
    """
    texts = list(_builtin.calibration()) if path is None else _own_texts(Path(path).expanduser())
    random.Random(seed).shuffle(texts)
    return texts


def held_out(task: Task) -> tuple[Item, ...]:
    """Return the items of the built-in sets for a task that are never evaluated.

    Those quantizers are calibrated on and those prompts show; something else may be trained on them.
    """
    splits = [entry.splits() for entry in _SETS.values() if entry.splits is not None and entry.task == task]
    return tuple(item for s in splits for name in ("calibration", "demonstration") for item in s[name])


def _own_texts(file: Path) -> list[str]:
    remedy = "Give a UTF-8 text file, texts separated by empty lines, or leave calibration.path out."
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f'calibration.path = "{file}": not UTF-8 at byte {error.start}. {remedy}') from None
    except OSError as error:
        raise DataError(f'calibration.path = "{file}": {(error.strerror or "").lower()}. {remedy}') from None
    texts = [t.strip() for t in re.split(r"\n\s*\n", text) if t.strip()]
    if not texts:
        raise DataError(f'calibration.path = "{file}": holds no text. {remedy}')
    return texts


def _dataset(
    name: str, entry: _Set, items: Iterable[Item], demonstrations: Iterable[Item], source: str
) -> Dataset:
    return Dataset(
        name=name,
        task=entry.task,
        labels=entry.labels,
        items=tuple(items),
        demonstrations=tuple(demonstrations),
        source=source,
        licence=entry.licence,
    )


def _published_items(
    name: str, entry: _Set, path: str | Path | None, revision: str | None
) -> tuple[list[Item], str]:
    if path is None:
        if entry.items is None or not entry.hub:
            raise DataError(
                f"'{name}' has no canonical copy on the Hub: give the path of one, for example {entry.copy}"
            )
        revision = revision or entry.revision
        source = f"{entry.hub} at {revision}"
        items = list(entry.items(_published.hub_entries(entry.hub, revision, entry.split, entry.columns)))
    else:
        if revision is not None:
            raise DataError(f"'{name}': give a path or a revision to download, not both")
        file = Path(path)
        if not file.exists():
            raise DataError(f"{path}: no such file or directory; expected a local copy of '{name}'")
        source = str(path)
        items = list(entry.read(file))
    if not items:
        raise DataError(f"{source}: holds no items; expected at least one below the header line")
    return items, source


def _origin(item: Item) -> tuple[str, str]:
    """What must not be shared between a demonstration and an evaluated item: subject, premise, text ..."""
    return (item.group, item.fields.get("subject", ""))


def _distinct(items: Iterable[Item]) -> list[Item]:
    first: dict[tuple[str, str, str], Item] = {}
    for item in items:
        fact = (_relation(item), str(item.label)) if "subject" in item.fields else ("", "")
        first.setdefault((*fact, item.text), item)
    return list(first.values())


def _demonstrations(items: Iterable[Item], entry: _Set) -> list[Item]:
    chosen: list[Item] = []
    count: dict[str, int] = {}
    origins: set[tuple[str, str]] = set()
    for item in items:
        stratum = _stratum(item, entry.task)
        unfit = item.fields.get("explanation") == "" or item.label == ""
        if count.get(stratum, 0) < entry.shots and _origin(item) not in origins and not unfit:
            count[stratum] = count.get(stratum, 0) + 1
            origins.add(_origin(item))
            chosen.append(item)
    return chosen


def _stratum(item: Item, task: Task) -> str:
    return _relation(item) if task in ("recall", "composition") else str(item.label)


def _relation(item: Item) -> str:
    """What relation an item asks for, or what pair of them: only over one hop are items grouped by it."""
    return item.fields.get("relations", item.group)


def _shuffle_key(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()

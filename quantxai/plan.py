"""From a configuration to the cells that have to be computed: pure, and without torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import quantxai
from quantxai import machine
from quantxai.config import ExplainerConfig, ScorerConfig, SweepConfig
from quantxai.datasets import Dataset, calibration_texts, dataset_tasks, load_dataset, take
from quantxai.errors import ConfigError, ModelError, RunError
from quantxai.manifest import CellKey, Manifest
from quantxai.methods import Control, Explainer, Scorer
from quantxai.models import ModelSource, resolve
from quantxai.records import Item, digest
from quantxai.store import Store
from quantxai.variants import Variant, resolve_variants
from quantxai.vllm_engine import OFFERED

__all__ = ["Entry", "Plan", "RowCell", "ScoreCell", "check_place", "deal", "done", "make_plan"]


@dataclass(frozen=True)
class Entry:
    """One explainer on one data set, with the items it will see.

    Attributes:
        config: what was asked for.
        explainer: the method with its options.
        dataset: the data set.
        shards: its sampled items, dealt out by a hash of their group.
    """

    config: ExplainerConfig
    explainer: Explainer
    dataset: Dataset
    shards: tuple[tuple[Item, ...], ...]

    @property
    def items(self) -> int:
        """Number of items over all shards."""
        return sum(map(len, self.shards))

    @cached_property
    def dataset_digest(self) -> str:
        """SHA-256 of items, demonstrations and labels."""
        return digest(self.dataset.model_dump(mode="json"))


@dataclass(frozen=True)
class RowCell:
    """A unit of explaining: one variant, one entry, one shard."""

    key: CellKey
    variant: Variant
    entry: Entry
    items: tuple[Item, ...]


@dataclass(frozen=True)
class ScoreCell:
    """A unit of scoring: one scorer over all rows of one variant and entry.

    Attributes:
        key: its name.
        scorer: the method with its options.
        entry: the explainer on the data set.
        rows: the cells it reads: its variant's, or the parent's for a scorer of the parent's rows.
        judge: the variant that such a scorer asks; null for the others.
        parent_rows: the parent's cells, for a scorer that compares with them; empty for the others.
    """

    key: CellKey
    scorer: Scorer
    entry: Entry
    rows: tuple[CellKey, ...]
    judge: Variant | None = None
    parent_rows: tuple[CellKey, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Everything a sweep will do.

    Attributes:
        config: the configuration.
        model: the resolved parent.
        variants: in the configuration's order.
        entries: explainers on data sets.
        rows: cells of explaining.
        scores: cells of scoring.
    """

    config: SweepConfig
    model: ModelSource
    variants: tuple[Variant, ...]
    entries: tuple[Entry, ...]
    rows: tuple[RowCell, ...]
    scores: tuple[ScoreCell, ...]

    @property
    def cells(self) -> tuple[RowCell | ScoreCell, ...]:
        """All cells: explaining first, then scoring."""
        return (*self.rows, *self.scores)

    @property
    def parent(self) -> Variant:
        """The variant all others are compared with."""
        return next(v for v in self.variants if v.name == self.config.parent.name)

    @property
    def workers(self) -> int:
        """Variants run at the same time: never more than there are.

        On a CPU two processes with half the cores each do more than one with all of them: matrix
        products of small batches gain little from a second thread.
        """
        automatic = min(2, machine.cores()) if self.parent.device == "cpu" else 1
        return min(self.config.workers or automatic, len(self.variants))

    @property
    def threads(self) -> int:
        """CPU threads of each worker."""
        return self.config.threads or max(1, machine.cores() // self.workers)

    def manifest(self, commands: Sequence[str], created: str | None = None) -> Manifest:
        """Return the manifest of this plan on this machine."""
        extra = {"created": created} if created else {}
        return Manifest(
            quantxai=quantxai.__version__,
            commands=list(commands),
            seed=self.config.seed,
            model=self.model.model_dump(mode="json", exclude={"path", "download_bytes"}),
            parent=self.parent.name,
            dtype=self.parent.dtype,
            device=self.parent.device,
            threads=self.threads,
            batch_tokens=self.config.batch_tokens,
            versions=machine.versions(),
            host=machine.host(),
            variants=[_describe_variant(v, self.variants) for v in self.variants],
            explainers=[_describe_entry(e) for e in self.entries],
            scorers=[_describe_scorer(s) for s in self.config.scorers],
            analysis={**self.config.analysis.model_dump(), "seed": self.config.seed},
            cells=[c.key for c in self.cells],
            **extra,
        )


def make_plan(config: SweepConfig, model: ModelSource | None = None) -> Plan:
    """Resolve a configuration into cells.

    Args:
        config: the configuration.
        model: its model, where that is resolved already.

    Raises:
        InputError: the model, a data set or a method cannot do what is asked.
    """
    model = model or resolve(config.model.name, config.model.revision)
    variants = tuple(resolve_variants(config, model))
    entries = tuple(_entry(e, config.seed) for e in config.explainers)
    _check_calibration(config, entries)
    if config.engine == "vllm":
        _check_vllm(variants, entries)
    rows = tuple(
        RowCell(_row_key(config, v, e, shard, items), v, e, items)
        for v in variants
        for e in entries
        for shard, items in enumerate(e.shards)
    )
    parent = next(v for v in variants if v.name == config.parent.name)
    asked = {name: resolved for scorer in config.scorers for name, resolved in _models(scorer).items()}
    scores = tuple(
        _score_cell(scorer, variant, entry, rows, parent, asked)
        for entry in entries
        for scorer in config.scorers
        if entry.explainer.method in scorer.method().explainers
        for variant in variants
    )
    return Plan(config, model, variants, entries, rows, scores)


def done(plan: Plan, store: Store) -> set[CellKey]:
    """Return the keys of the plan's cells that are stored."""
    return {c.key for c in plan.cells if store.has(c.key)}


def check_place(plan: Plan, store: Store) -> None:
    """Raise RunError where the run directory is something else, or the run of another model."""
    path = store.path
    if (path / "manifest.json").is_file():
        earlier = store.manifest.model
        if earlier.get("digest") != plan.model.digest:
            raise RunError(
                f"'{path}' holds a run of another model, {earlier.get('name')}: its report would be replaced. "
                "Give another directory with --out."
            )
    elif path.exists() and not path.is_dir():
        raise RunError(f"'{path}' is a file; give a directory with --out.")
    elif path.is_dir() and any(f.name not in (".lock", "log.txt") for f in path.iterdir()):
        raise RunError(
            f"'{path}' holds files but no run (it has no manifest.json). Give an empty or new directory with --out."
        )


def _entry(config: ExplainerConfig, seed: int) -> Entry:
    explainer = config.method()
    dataset = load_dataset(config.dataset, Path(config.path) if config.path else None, config.revision)
    if dataset.task not in explainer.tasks:
        fitting = [name for name, task in dataset_tasks().items() if task in explainer.tasks]
        raise ConfigError(
            f"[[explainers]] '{config.name}': dataset = \"{config.dataset}\" is for {dataset.task}, and the explainer "
            f"'{config.explainer}' works on {' and '.join(sorted(explainer.tasks))}. "
            f"Allowed: {', '.join(fitting)}."
        )
    items = take(dataset, config.n, seed).items
    return Entry(config, explainer, dataset, deal(items, math.ceil(len(items) / config.cell_items)))


def _check_vllm(variants: Sequence[Variant], entries: Sequence[Entry]) -> None:
    """Raise ConfigError for what vLLM cannot run."""
    for variant in variants:
        if not variant.on_disk:
            raise ConfigError(
                f"variant '{variant.name}': engine = \"vllm\" runs checkpoints, and {variant.quantizer.method} "
                'quantizes when it loads. Set execution = "dequantized", where it has one, or leave it out.'
            )
    for entry in entries:
        beyond = sorted(entry.explainer.needs - OFFERED)
        if beyond:
            raise ConfigError(
                f"[[explainers]] '{entry.config.name}': needs {' and '.join(beyond)} of a model, and engine = "
                f'"vllm" offers {" and ".join(sorted(OFFERED))} alone. Use engine = "transformers" for it.'
            )


def _check_calibration(config: SweepConfig, entries: Sequence[Entry]) -> None:
    """Raise ConfigError where the user's own calibration text holds texts that will be evaluated."""
    if config.calibration.path is None:
        return
    calibrated = _plain(" ".join(calibration_texts(0, config.calibration.path)))
    items = (item for e in entries for shard in e.shards for item in shard)
    shared = [text for item in items for text in _said(item) if _plain(text) in calibrated]
    if shared:
        raise ConfigError(
            f'calibration.path = "{config.calibration.path}" holds {len(shared)} of the texts that will be '
            f'evaluated, such as "{shared[0][:60]}": the quantizers would be fitted to them. Take them out.'
        )


def _said(item: Item) -> list[str]:
    """What an item says, apart from how it is asked: a fact as a sentence, both halves of a pair, or its text."""
    if "template" in item.fields:
        return [f"{item.fields['template'].replace('{}', item.text)} {item.label}"]
    return [item.fields[key] for key in ("premise", "hypothesis") if key in item.fields] or [item.text]


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def deal(items: Sequence[Item], shards: int) -> tuple[tuple[Item, ...], ...]:
    """Deal items out to shards by a hash of their group, so that a group stays together.

    The shards are as even as whole groups allow, and depend on nothing but the items.
    """
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    order = sorted(groups, key=lambda g: hashlib.sha256(g.encode()).hexdigest())
    dealt: list[list[Item]] = [[] for _ in range(min(shards, len(groups)))]
    for group in order:
        min(dealt, key=len).extend(groups[group])
    return tuple(tuple(shard) for shard in dealt)


def _row_key(
    config: SweepConfig, variant: Variant, entry: Entry, shard: int, items: Sequence[Item]
) -> CellKey:
    identity = [
        variant.digest,
        entry.explainer.digest(),
        entry.dataset_digest,
        [i.id for i in items],
        config.seed,
        config.batch_tokens,
    ]
    return CellKey(
        kind="rows",
        variant=variant.name,
        explainer=entry.config.name,
        dataset=entry.config.dataset,
        shard=shard,
        digest=digest(identity),
    )


def _models(config: ScorerConfig) -> dict[str, ModelSource]:
    """The models of its own that a scorer asks for, by the name it has for them."""
    try:
        return {name: resolve(name) for name in config.method().models}
    except ModelError as error:
        raise ModelError(f"[[scorers]] '{config.scorer}': {error}") from None


def _score_cell(
    config: ScorerConfig,
    variant: Variant,
    entry: Entry,
    rows: Sequence[RowCell],
    parent: Variant,
    models: Mapping[str, ModelSource],
) -> ScoreCell:
    scorer = config.method()
    crosses = scorer.whose == "parent"
    read, asked = (parent, variant) if crosses else (variant, parent)

    def rows_of(which: Variant) -> tuple[CellKey, ...]:
        return tuple(c.key for c in rows if c.variant is which and c.entry is entry)

    keys, beside = rows_of(read), (rows_of(parent) if scorer.whose == "both" else ())
    others = [models[name].digest for name in scorer.models]
    key = CellKey(
        kind="scores",
        variant=variant.name,
        explainer=entry.config.name,
        dataset=entry.config.dataset,
        scorer=config.scorer,
        shard=0,
        digest=digest([scorer.digest(), asked.digest, [k.digest for k in (*keys, *beside)], *others]),
    )
    return ScoreCell(key, scorer, entry, keys, variant if crosses else None, beside)


def _describe_variant(variant: Variant, variants: Sequence[Variant]) -> dict[str, Any]:
    beside = _beside(variant, variants)
    return {
        "name": variant.name,
        "method": variant.quantizer.method,
        "options": variant.quantizer.model_dump(mode="json"),
        "digest": variant.digest,
        "execution": variant.execution,
        "dtype": variant.dtype,
        "seed": variant.config.seed,
        "control": isinstance(variant.quantizer, Control) or beside is not None,
        "beside": beside,
    }


def _beside(variant: Variant, variants: Sequence[Variant]) -> str | None:
    """The variant this one is a control of: the one it is matched to, or its first calibration seed."""
    if variant.of is not None:
        return variant.of.name
    if not variant.quantizer.calibrated:
        return None
    same = [v for v in variants if v.quantizer == variant.quantizer and v.execution == variant.execution]
    return None if same[0] is variant else same[0].name


def _describe_entry(entry: Entry) -> dict[str, Any]:
    return {
        "explainer": entry.config.name,
        "method": entry.explainer.method,
        "version": entry.explainer.version,
        "options": entry.explainer.model_dump(mode="json"),
        "dataset": entry.config.dataset,
        "task": entry.dataset.task,
        "items": entry.items,
        "digest": entry.dataset_digest,
        "licence": entry.dataset.licence,
        "source": entry.dataset.source,
        "labels": list(entry.dataset.labels),
    }


def _describe_scorer(config: ScorerConfig) -> dict[str, Any]:
    scorer = config.method()
    return {
        "scorer": config.scorer,
        "version": scorer.version,
        "options": scorer.model_dump(mode="json"),
        "metrics": [m.model_dump() for m in scorer.metrics],
    }

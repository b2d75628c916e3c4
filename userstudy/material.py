"""From a run to stimuli: which source items people rate, and what they read of each.

Only items for which every variant has a text can be compared by rating, so all others are left out. That
is a selection: a variant that often fails to write anything is judged by what it did write. How many
items were left out for want of whose text is on record (`Origin.left_out`) and said wherever the study is
reported; failures are measured in the run itself.
"""

from __future__ import annotations

import random
import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from quantxai import __version__
from quantxai.errors import InputError, UnknownName
from quantxai.manifest import Manifest
from quantxai.records import digest
from quantxai.store import Store
from userstudy.blinding import Blinded, blinded, names_pattern
from userstudy.reading import READERS, Told
from userstudy.records import Origin, Part, Stimulus
from userstudy.settings import StudySettings

__all__ = ["Material", "Stratum", "allocate", "draw_material"]


class Stratum(NamedTuple):
    """Source items that are alike in what could matter for ratings."""

    explainer: str
    dataset: str
    label: str
    outcome: str
    """How the parent fared: correct, wrong."""


class Material(NamedTuple):
    """What was drawn from a run."""

    stimuli: tuple[Stimulus, ...]
    """Source item by source item, the variants in the run's order."""
    origin: Origin
    strata: dict[Stratum, tuple[int, int]]
    """Of each stratum: drawn, eligible."""
    same: int
    """Drawn source items for which at least two variants have the same text."""


class _Source(NamedTuple):
    """A source item and what the variants wrote about it."""

    explainer: str
    dataset: str
    item: str
    group: str
    gold: str
    labels: tuple[str, ...]
    told: dict[str, Told]

    @property
    def name(self) -> str:
        return f"{self.explainer}/{self.dataset}/{self.item}"

    def stratum(self, reference: str) -> Stratum:
        outcome = "correct" if self.told[reference].predicted == self.gold else "wrong"
        return Stratum(self.explainer, self.dataset, self.gold, outcome)


def draw_material(store: Store, settings: StudySettings) -> Material:
    """Draw source items, stratified and seeded, and make a stimulus of each variant's text.

    The ids of stimuli are random, so that they say nothing even to someone who has the run.

    Args:
        store: the run.
        settings: `design.items`, `variants`, `explainers` and `seed`, and the reference.

    Raises:
        InputError: the run lacks a variant or an explainer, or too few items have a text of every variant.
    """
    manifest = store.manifest
    variants = _variants(manifest, settings)
    names = names_pattern([str(manifest.model.get("name", "")), *variants])
    sources = _sources(store, settings, variants, names)
    complete = [source for source in sources if source.told.keys() >= set(variants)]
    left_out = Counter(v for source in sources for v in variants if v not in source.told)
    if len(complete) < 2:
        raise _too_few(store, len(complete), len(sources), left_out)
    strata: dict[Stratum, list[_Source]] = defaultdict(list)
    for source in sorted(complete, key=lambda source: source.name):
        strata[source.stratum(settings.analysis.reference)].append(source)
    taken = allocate({s: len(found) for s, found in sorted(strata.items())}, settings.design.items)
    rng = random.Random(f"material:{settings.design.seed}")
    drawn = {s: rng.sample(strata[s], count) for s, count in taken.items()}
    stimuli = tuple(
        _stimulus(source, variant, stratum, names)
        for stratum, found in drawn.items()
        for source in sorted(found, key=lambda source: source.name)
        for variant in variants
    )
    missing = {variant: left_out[variant] for variant in variants if left_out[variant]}
    origin = _origin(store, manifest, (sum(taken.values()), len(complete)), missing)
    return Material(stimuli, origin, {s: (taken[s], len(strata[s])) for s in taken}, _same(stimuli))


def _origin(store: Store, manifest: Manifest, counts: tuple[int, int], left_out: dict[str, int]) -> Origin:
    return Origin(
        run=store.path.resolve().name,
        manifest_digest=digest(manifest.model_dump(mode="json")),
        quantxai_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=str(manifest.model.get("name", "")),
        drawn=counts[0],
        eligible=counts[1],
        left_out=left_out,
    )


def allocate(sizes: Mapping[Stratum, int], wanted: int) -> dict[Stratum, int]:
    """Return how many items to draw from each stratum: in proportion, at least one of each where there is room.

    By Webster's method (Sainte-Laguë): each next item goes to the stratum with the largest size / (2 drawn + 1).
    With fewer items than strata, the largest strata give one each.

    Args:
        sizes: eligible items of each stratum, all at least 1.
        wanted: how many to draw in all; all items where there are not so many.
    """
    wanted = min(wanted, sum(sizes.values()))
    by_size = sorted(sizes, key=lambda stratum: -sizes[stratum])
    taken = dict.fromkeys(sizes, 0) | dict.fromkeys(by_size[:wanted], 1)
    while sum(taken.values()) < wanted:
        left = [stratum for stratum in by_size if taken[stratum] < sizes[stratum]]
        taken[max(left, key=lambda stratum: sizes[stratum] / (2 * taken[stratum] + 1))] += 1
    return taken


def _variants(manifest: Manifest, settings: StudySettings) -> list[str]:
    """The variants to compare, in the run's order; controls only where they are named."""
    known = [str(variant["name"]) for variant in manifest.variants]
    controls = {str(variant["name"]) for variant in manifest.variants if variant.get("control")}
    chosen, reference = settings.design.variants, settings.analysis.reference
    for name in (*(chosen or ()), reference):
        if name not in known:
            raise UnknownName("variant of the run", name, known)
    wanted = {reference, *(chosen if chosen is not None else set(known) - controls)}
    if len(wanted) < 2:
        raise InputError(
            f"a study compares '{reference}' with at least one other variant. The run has: {', '.join(known)}"
        )
    return [name for name in known if name in wanted]


def _sources(
    store: Store, settings: StudySettings, variants: Sequence[str], names: re.Pattern[str]
) -> list[_Source]:
    """Every item of the explainers wanted, with what the variants wrote about it."""
    found: dict[tuple[str, str, str], _Source] = {}
    for entry in _entries(store, settings.design.explainers):
        explainer, dataset = str(entry["explainer"]), str(entry["dataset"])
        for row in store.row_table(explainer, dataset).to_pylist():
            labels = tuple(row.get("labels") or entry.get("labels") or ())
            source = found.setdefault(
                (explainer, dataset, row["item"]),
                _Source(explainer, dataset, row["item"], row["group"], row["gold"], labels, {}),
            )
            told = READERS[entry["method"]](row, str(entry["task"]))
            # Of nothing but tags and white space nothing is left to be rated.
            if told is not None and row["variant"] in variants and _blind(told, names).text:
                source.told[row["variant"]] = told
    return list(found.values())


def _entries(store: Store, wanted: Sequence[str] | None) -> list[dict[str, Any]]:
    """The run's explainers whose rows can be read, by their name or their method's."""
    known = store.manifest.explainers
    found = [entry for entry in known if entry["method"] in READERS]
    if wanted is not None:
        found = [entry for entry in found if {entry["explainer"], entry["method"]} & set(wanted)]
    if not found:
        has = ", ".join(sorted({str(entry["explainer"]) for entry in known}))
        raise InputError(
            f"'{store.path}' has no texts of {' or '.join(wanted or sorted(READERS))} to be rated, only rows of: "
            f"{has}. Texts that can be rated are those of: {', '.join(sorted(READERS))}"
        )
    return found


def _blind(told: Told, names: re.Pattern[str]) -> Blinded:
    return blinded(told.own.text, names, given="\n".join(part.text for part in told.before))


def _stimulus(source: _Source, variant: str, stratum: Stratum, names: re.Pattern[str]) -> Stimulus:
    told = source.told[variant]
    own = _blind(told, names)
    given = [(part.name, blinded(part.text)) for part in told.before]
    after = [(part.name, blinded(part.text)) for part in told.after]
    parts = [*given, (told.own.name, own), *after]
    return Stimulus(
        id=secrets.token_hex(6),
        item=source.name,
        group=source.group,
        explainer=source.explainer,
        dataset=source.dataset,
        variant=variant,
        label=stratum.label,
        outcome=stratum.outcome,
        parts=tuple(Part(name=name, text=shown.text) for name, shown in parts),
        labels=source.labels,
        answer=told.answer,
        removed=tuple(f"{name}: {what}" for name, shown in parts for what in shown.removed),
    )


def _same(stimuli: Sequence[Stimulus]) -> int:
    texts: dict[str, set[tuple[Part, ...]]] = defaultdict(set)
    for stimulus in stimuli:
        texts[stimulus.item].add(stimulus.parts)
    variants = len({stimulus.variant for stimulus in stimuli})
    return sum(len(different) < variants for different in texts.values())


def _too_few(store: Store, eligible: int, items: int, left_out: Mapping[str, int]) -> InputError:
    missing = ", ".join(f"{variant} {count}" for variant, count in left_out.items())
    return InputError(
        f"'{store.path}': of {items} items only {eligible} have a text of every variant, and a study needs two. "
        f"Without a text: {missing or 'none'}. Leave out a variant that writes little: --variants A,B"
    )

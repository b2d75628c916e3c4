"""Two runs, item by item: what another version of a library, or another GPU, changes.

```
rows of both         ─▶ items whose texts differ
measurements of both ─▶ run B minus run A, paired by item, variant by variant ─▶ compare ─▶ findings
manifests of both    ─▶ what else differs: the context
```

All of it is exploratory: every comparison is one of the run's many, and Benjamini-Hochberg corrects over all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, get_args

import pandas as pd
from pydantic import Field

from quantxai.analysis import Analysis
from quantxai.compare import compare
from quantxai.errors import InputError, RunError
from quantxai.manifest import Manifest
from quantxai.pairs import SERIES
from quantxai.records import Finding, Metric, Record
from quantxai.store import Store
from quantxai.texts import TextChange, TextCount, compare_texts

__all__ = ["Changed", "Difference", "Pooled", "RunDiff", "Setting", "diff_runs"]

Pooled = Literal["parent", "data"]
"""What may differ between runs that are compared all the same."""

_PLACE = ["variant", "explainer", "dataset"]


class Setting(Record):
    """One thing that the manifests say differently."""

    name: str = Field(description="Dotted path: versions.torch, variants.gptq-4.options.bits.")
    a: str | None = Field(description="null where run A does not have it.")
    b: str | None


class Difference(Record):
    """What only one of the runs has."""

    what: Literal["variant", "explainer", "metric", "items"]
    name: str
    run: Literal["A", "B"]


class Changed(Record):
    """One metric of one variant: run B against run A."""

    changed: int = Field(
        description="Items whose value differs at all; without a value is a value of its own."
    )
    finding: Finding = Field(description="variant is run B's, reference is run A's.")


class RunDiff(Record):
    """All that was found."""

    a: str
    b: str
    settings: list[Setting]
    incomplete: dict[str, int] = Field(description="Planned cells that are not stored, by run.")
    only: list[Difference]
    texts: list[TextCount]
    text_changes: list[TextChange]
    measured: list[Changed]


def diff_runs(a: Store, b: Store, pool: Collection[str] = ()) -> RunDiff:
    """Compare two runs of one parent on the same data, item by item.

    Args:
        a: the reference.
        b: the run it is compared with.
        pool: what may differ all the same: the `parent`, the `data`.

    Raises:
        InputError: the runs are of different parents or data, or have nothing in common.
        RunError: one of them holds no results.
        CorruptCell: what is stored does not match its checksum.
    """
    first, second = a.manifest, b.manifest
    _check_same(first, second, pool)
    frames = [_measurements(store) for store in (a, b)]
    texts, changes = compare_texts(a, b)
    metrics, only = _metrics(first, second)
    only = [*_only(frames[0], frames[1]), *only]
    measured = _measured(frames[0], frames[1], metrics, first)
    if not measured and not texts:
        raise InputError(
            f"'{a.path}' and '{b.path}' have no variant, explainer and data set in common of which both hold results."
        )
    return RunDiff(
        a=str(a.path), b=str(b.path), settings=list(_settings(_context(first), _context(second))),
        incomplete={
            name: sum(not store.has(key) for key in manifest.cells)
            for name, store, manifest in (("A", a, first), ("B", b, second))
        },
        only=only, texts=texts, text_changes=changes, measured=measured,
    )  # fmt: skip


def _check_same(first: Manifest, second: Manifest, pool: Collection[str]) -> None:
    unknown = [name for name in pool if name not in get_args(Pooled)]
    if unknown:
        raise InputError(f"--pool {unknown[0]}: unknown. Available: {', '.join(get_args(Pooled))}.")
    digests = [manifest.model.get("digest") for manifest in (first, second)]
    if digests[0] != digests[1] and "parent" not in pool:
        names = [f"{m.model.get('name')} ({_short(m.model.get('digest'))})" for m in (first, second)]
        raise InputError(
            f"the runs are of different parents: A of {names[0]}, B of {names[1]}. A difference between them says "
            "nothing about versions or machines. Compare runs of one model, or give --pool parent."
        )
    data = [{str(e["dataset"]): e.get("digest") for e in m.explainers} for m in (first, second)]
    other = [name for name in data[0] if name in data[1] and data[0][name] != data[1][name]]
    if other and "data" not in pool:
        raise InputError(
            f"the runs used other versions of the data: {', '.join(other)}. Items of one name may hold different "
            "texts. Run both on the same data, or give --pool data to pair items by name all the same."
        )


def _measurements(store: Store) -> pd.DataFrame:
    found = store.measurements()
    if found.empty:
        raise RunError(
            f"'{store.path}' holds no measurements: nothing was scored yet. Give its sweep command again."
        )
    return found


# What was measured


def _metrics(first: Manifest, second: Manifest) -> tuple[dict[tuple[str, str], Metric], list[Difference]]:
    """Return the metrics that mean the same in both runs, and those that only one has."""
    a, b = first.metrics, second.metrics

    def same(key: tuple[str, str]) -> bool:
        return (a[key].kind, a[key].higher_is_better) == (b[key].kind, b[key].higher_is_better)

    common = {key: metric for key, metric in a.items() if key in b and same(key)}
    only = [Difference(what="metric", name=".".join(key), run="A") for key in a if key not in common]
    return common, only + [
        Difference(what="metric", name=".".join(key), run="B") for key in b if key not in common
    ]


def _measured(
    a: pd.DataFrame, b: pd.DataFrame, metrics: Mapping[tuple[str, str], Metric], manifest: Manifest
) -> list[Changed]:
    """Return run B's values less run A's, for every variant and metric, over the items that both have.

    Args:
        a: measurements of run A.
        b: measurements of run B.
        metrics: those that both runs have.
        manifest: run A's, whose margins, level and seed count.
    """
    keys = ["variant", "item", *SERIES]
    both = a.merge(b[[*keys, "value"]], on=keys, suffixes=("_a", "_b"))
    named = pd.MultiIndex.from_frame(both[["scorer", "metric"]])
    both = both[named.isin(list(metrics))].assign(
        changed=lambda f: (f["value_a"] != f["value_b"]) & ~(f["value_a"].isna() & f["value_b"].isna())
    )
    sides = [
        both.assign(variant=f"{side} " + both["variant"], value=both[f"value_{side.lower()}"])
        for side in "AB"
    ]
    variants = list(dict.fromkeys(both["variant"]))
    controls = [f"B {v['name']}" for v in manifest.variants if v.get("control")]
    planned = manifest.planned_analysis
    common = {".".join(key) for key in metrics}
    settings = planned.model_copy(
        update={
            "confirmatory": (),
            "contrasts": tuple((f"B {v}", f"A {v}") for v in variants),
            "margins": {name: margin for name, margin in planned.margins.items() if name in common},
        }
    )
    # There is no parent here, only contrasts: its pairs are empty and left out again.
    found = compare(
        pd.concat(sides), metrics, "", Analysis.model_validate(settings), manifest.seed, [controls]
    )
    counts = both.groupby(["variant", *SERIES])["changed"].sum()
    order = {str(v["name"]): place for place, v in enumerate(manifest.variants)}
    result = []
    for finding in found:
        if finding.reference:
            name = finding.variant.removeprefix("B ")
            key = (name, finding.explainer, finding.dataset, finding.scorer, finding.metric)
            named_finding = finding.model_copy(update={"variant": name, "reference": name})
            result.append(Changed(changed=int(counts[key]), finding=named_finding))
    return sorted(result, key=lambda changed: order[changed.finding.variant])


def _only(a: pd.DataFrame, b: pd.DataFrame) -> Iterator[Difference]:
    """Yield the variants, explainers and items that one of the runs alone has results of."""
    for run, own, other in (("A", a, b), ("B", b, a)):
        mine, others = (frame[[*_PLACE, "item"]].drop_duplicates() for frame in (own, other))
        variants = set(mine["variant"]) - set(others["variant"])
        known = set(zip(others["explainer"], others["dataset"], strict=True))
        places = set(zip(mine["explainer"], mine["dataset"], strict=True)) - known
        yield from (Difference(what="variant", name=name, run=run) for name in sorted(variants))
        yield from (Difference(what="explainer", name=" on ".join(p), run=run) for p in sorted(places))
        rest = mine.merge(others, how="left", indicator=True)
        rest = rest[rest["_merge"] == "left_only"]
        shared = ~rest["variant"].isin(variants)
        counts = rest[shared].groupby(["explainer", "dataset", "variant"]).size()
        alike: dict[str, list[str]] = {}
        for (explainer, dataset, variant), count in counts.items():
            if (explainer, dataset) not in places:
                alike.setdefault(f"{count} of {explainer} on {dataset}", []).append(variant)
        for name, names in alike.items():
            yield Difference(what="items", name=f"{name} ({', '.join(names)})", run=run)


# What else differs


def _context(manifest: Manifest) -> dict[str, Any]:
    """Return what a manifest says about how results came about, with names in place of positions."""
    found = manifest.model_dump(exclude={"format", "created", "commands", "cells"})
    found["variants"] = {v["name"]: v for v in manifest.variants}
    found["explainers"] = {f"{e['explainer']} on {e['dataset']}": e for e in manifest.explainers}
    found["scorers"] = {
        s["scorer"]: {key: value for key, value in s.items() if key != "metrics"} for s in manifest.scorers
    }
    return found


def _settings(a: Any, b: Any, path: str = "") -> Iterator[Setting]:
    """Yield what differs between two nested mappings."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys([*a, *b]):
            yield from _settings(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
    elif a != b:
        yield Setting(name=path, a=_short(a), b=_short(b))


def _short(value: Any) -> str | None:
    """Return a value in words: a digest's first characters, a whole table as such."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return "there"
    text = str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text

"""Any two variants of a stored run against each other, whether or not one is the parent."""

from __future__ import annotations

from quantxai import conditions
from quantxai.compare import compare
from quantxai.errors import InputError, RunError, UnknownName
from quantxai.records import Finding
from quantxai.store import Store

__all__ = ["contrast"]


def contrast(store: Store, variant: str, reference: str) -> list[Finding]:
    """Return how a variant differs from another one, metric by metric; nothing is stored.

    The run's level, margins and resamples hold. All of it is exploratory, and one family.

    Args:
        store: the run.
        variant: which is compared.
        reference: with which.

    Raises:
        InputError: the run has no such variants, or they are one.
        RunError: one of them was not measured.
        NotComparable: they were computed under different conditions.
        CorruptCell: what is stored does not match its checksum.
    """
    manifest = store.manifest
    pair = [variant, reference]
    for name in pair:
        names = [str(v["name"]) for v in manifest.variants]
        if name not in names:
            raise UnknownName("variant", name, names)
    if variant == reference:
        raise InputError(f"'{variant}' is compared with itself; name two variants.")
    analysis = manifest.planned_analysis.model_copy(update={"confirmatory": (), "contrasts": ()})
    cells = [(name, found) for name, found in store.conditions() if name in pair]
    conditions.check(cells, reference, analysis.pool)
    measurements = store.measurements()
    for name in pair:
        if not (measurements["variant"] == name).any():
            raise RunError(
                f"'{store.path}' holds no measurements of '{name}'. Give its sweep command again to compute them."
            )
    chosen = measurements[measurements["variant"].isin(pair)]
    return compare(chosen, manifest.metrics, reference, analysis, manifest.seed)

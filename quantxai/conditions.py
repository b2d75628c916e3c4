"""Under what conditions a cell was computed, and which cells may be compared with which.

A difference between two variants means something only where nothing else differs. What a run's own
plan fixes is part of a cell's name; the rest (another version of the engine, a run continued
elsewhere) is written beside each cell and checked before anything is compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, get_args

from quantxai import machine
from quantxai.errors import InputError
from quantxai.records import digest

__all__ = ["Condition", "NotComparable", "check", "conditions", "engine", "pooled"]

Condition = Literal["tokenizer", "chat_template", "base_weights", "batch_tokens", "decoding", "engine"]
NAMES: tuple[Condition, ...] = get_args(Condition)


class NotComparable(InputError):
    """Variants were computed under different conditions."""


def engine(name: str = "transformers") -> str:
    """Return what computes on this machine, by version; `name` is the library that runs the model."""
    versions = machine.versions()
    return ", ".join(f"{package} {versions.get(package, '?')}" for package in (name, "torch"))


def conditions(base_weights: str, batch_tokens: int, tokenizer: Any, runs_on: str) -> dict[str, Any]:
    """Return the conditions of a cell that is computed now.

    Args:
        base_weights: digest of the parent model.
        batch_tokens: tokens a batch may hold.
        tokenizer: the transformers tokenizer in use.
        runs_on: the library that runs the model.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    found = {
        "tokenizer": digest(
            backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
        ),
        "chat_template": digest(getattr(tokenizer, "chat_template", None) or ""),
        "base_weights": base_weights,
        "batch_tokens": batch_tokens,
        "decoding": "greedy",
        "engine": engine(runs_on),
    }
    return {name: found[name] for name in NAMES}


def pooled(cells: Iterable[tuple[str, Mapping[str, Any]]], parent: str) -> dict[str, dict[str, list[str]]]:
    """Return in what the variants differ from the parent: by condition, the values by variant.

    Args:
        cells: variant and conditions of every cell; a condition that was not written down is not compared.
        parent: the variant the others are compared with.

    Returns:
        Empty where all is the same. Otherwise, for each differing condition, the values of the parent
        and of every variant that has another one, in words.
    """
    values: dict[str, dict[str, set[str]]] = {}
    for variant, found in cells:
        for condition in NAMES:
            if condition in found:
                by_variant = values.setdefault(condition, {})
                by_variant.setdefault(variant, set()).add(str(found[condition]))
    differing: dict[str, dict[str, list[str]]] = {}
    for name, by_variant in values.items():
        expected = by_variant.get(parent)
        if expected is None:
            continue
        other = {v: sorted(s) for v, s in by_variant.items() if s != expected or len(s) > 1}
        if other:
            differing[name] = {parent: sorted(expected), **other}
    return differing


def check(
    cells: Iterable[tuple[str, Mapping[str, Any]]], parent: str, allowed: Collection[str] = ()
) -> dict[str, dict[str, list[str]]]:
    """Return what `pooled` finds, or raise where it is not allowed.

    Raises:
        NotComparable: a condition that is not in `allowed` differs; the message names it.
    """
    found = pooled(cells, parent)
    refused = {name: values for name, values in found.items() if name not in allowed}
    if refused:
        lines = "".join(
            f"\n  {name}: " + "; ".join(f"{v}: {' and '.join(map(_short, s))}" for v, s in values.items())
            for name, values in refused.items()
        )
        raise NotComparable(
            f"what is stored was not computed under the same conditions, so that a difference could be theirs:{lines}\n"
            "Nothing was computed. Compute all of it in a new directory (--out DIR), or compare all the same: give the "
            f"sweep command again with {' '.join(f'--pool {name}' for name in refused)}; the report will say so."
        )
    return found


def _short(value: str) -> str:
    """A digest's first characters; anything else as it is."""
    return value[:12] if len(value) == 64 and set(value) <= set("0123456789abcdef") else value

"""Methods found through entry points: built-in and third-party ones alike.

A distribution registers a method with one line in its pyproject.toml:

```toml
[project.entry-points."quantxai.quantizers"]
gptq = "quantizers.gptq:GPTQ"
```
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, overload

from quantxai.errors import InputError, UnknownName
from quantxai.methods import Explainer, Method, Quantizer, Scorer

__all__ = ["Kind", "distribution", "method", "methods", "names"]

Kind = Literal["quantizer", "explainer", "scorer"]

_BASES: dict[str, type[Method]] = {"quantizer": Quantizer, "explainer": Explainer, "scorer": Scorer}


@cache
def _entries(kind: Kind) -> dict[str, EntryPoint]:
    found = {e.name: e for e in entry_points(group=f"quantxai.{kind}s")}
    if not found:
        raise InputError(
            f"no {kind}s are registered: quantxai is not installed in this Python. "
            'Install it with: pip install -c constraints.txt -e ".[all]"'
        )
    return found


def names(kind: Kind) -> list[str]:
    """Return the registered names, sorted."""
    return sorted(_entries(kind))


def distribution(kind: Kind, name: str) -> str:
    """Return the name of the distribution that registers a method."""
    found = _entries(kind)[name].dist
    return found.name if found is not None else "unknown"


@overload
def method(kind: Literal["quantizer"], name: str) -> type[Quantizer]: ...
@overload
def method(kind: Literal["explainer"], name: str) -> type[Explainer]: ...
@overload
def method(kind: Literal["scorer"], name: str) -> type[Scorer]: ...
def method(kind: Kind, name: str) -> type[Method]:
    """Return the registered class.

    Raises:
        UnknownName: nothing of that kind has the name.
        InputError: the entry point does not lead to a class of that kind.
    """
    entries = _entries(kind)
    if name not in entries:
        raise UnknownName(kind, name, entries)
    entry = entries[name]
    try:
        found = entry.load()
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the {kind} '{name}' ({entry.value}) cannot be imported: {error}. "
            "Another package may shadow it; run: quantxai doctor"
        ) from error
    if not (isinstance(found, type) and issubclass(found, _BASES[kind])):
        raise InputError(f"the {kind} '{name}' ({entry.value}) is not a subclass of {_BASES[kind].__name__}")
    return found


def methods(kind: Kind) -> dict[str, type[Method]]:
    """Return every registered class of a kind by name."""
    return {name: method(kind, name) for name in names(kind)}

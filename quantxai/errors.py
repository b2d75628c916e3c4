"""The errors a reader can act on.

```
QuantxaiError                 base: anything quantxai itself has to say (exit code 1)
├── InputError                what was asked for cannot be done as asked (exit code 2)
│   ├── ConfigError           a configuration file or option is wrong
│   ├── UnknownName           a name that is not registered; carries the nearest matches
│   ├── MissingExtra          a package is not installed; names the extra that brings it
│   ├── ModelError            a model or checkpoint is missing, unreadable or unsupported
│   ├── DataError             a data set is missing or not in its published format
│   └── RunError              a run directory is missing, foreign or of another configuration
├── CorruptCell               a stored cell does not match its checksum (exit code 1)
├── IncompleteRun             some cells failed; everything else is stored (exit code 3)
└── OutOfSpace                not enough room on the disk (exit code 1)
```

Every message says what is wrong, where, and what to do about it. The command line prints the
message alone; a traceback is for defects.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "CorruptCell",
    "DataError",
    "IncompleteRun",
    "InputError",
    "MissingExtra",
    "ModelError",
    "OutOfSpace",
    "QuantxaiError",
    "RunError",
    "UnknownName",
    "nearest",
]


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest allowed name, or an empty string."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""


class QuantxaiError(Exception):
    """Base of every error quantxai raises on purpose."""

    exit_code = 1


class InputError(QuantxaiError):
    """What was asked for cannot be done as asked."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration file, key or option is wrong."""


class UnknownName(InputError):
    """A name that is not registered.

    Args:
        kind: what was looked for, singular ("quantizer").
        name: the name given.
        allowed: every registered name.
    """

    def __init__(self, kind: str, name: str, allowed: Iterable[str]) -> None:
        names = sorted(allowed)
        super().__init__(
            f"unknown {kind} '{name}'.{nearest(name, names)} Available: {', '.join(names) or 'none'}."
        )


class MissingExtra(InputError):
    """A package that an extra of quantxai brings is not installed.

    Args:
        package: the distribution that could not be imported.
        extra: the extra that brings it.
        purpose: what needs it.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed. "
            f'Install it with: pip install -c constraints.txt -e ".[{extra}]"'
        )


class ModelError(InputError):
    """A model or checkpoint is missing, unreadable or of an unsupported architecture."""


class DataError(InputError):
    """A data set is missing or not in its published format."""


class RunError(InputError):
    """A run directory is missing, is not one, or belongs to another configuration."""


class CorruptCell(QuantxaiError):
    """A stored cell does not match its checksum."""


class IncompleteRun(QuantxaiError):
    """Some cells failed; all others are stored, and re-issuing the command retries the failed ones."""

    exit_code = 3


class OutOfSpace(QuantxaiError):
    """There is not enough room on the disk for what is about to be written."""

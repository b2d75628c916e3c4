"""How models are asked: one TOML file per protocol, hashed into the digest of whatever uses it.

A file has a section per task. The section of a protocol in turns has an instruction, worked examples and
`turns`: the user's words, and the assistant's with the one field in braces that the model is to fill in.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from quantxai.lm import Dialogue, Exchange
from quantxai.records import digest

__all__ = ["Protocol", "Turn", "fill", "fingerprint", "protocol", "read"]

_FIELD = re.compile(r"\{(\w+)\}")


class Turn(NamedTuple):
    """One question of a protocol and the form of its answer."""

    user: str
    assistant: str

    @property
    def opening(self) -> str:
        """How every answer begins."""
        return self.assistant.partition("{")[0].rstrip()

    @property
    def field(self) -> str:
        """What the model fills in."""
        return str(_FIELD.findall(self.assistant)[0])

    @property
    def stop(self) -> tuple[str, ...]:
        """What ends an answer: the rest of its form, or a line break, since every text is one line."""
        closing = self.assistant.partition("}")[2]
        return (closing, "\n") if closing else ("\n",)

    def exchange(self, values: Mapping[str, str]) -> Exchange:
        """Return the turn with its fields filled in."""
        return Exchange(fill(self.user, values), fill(self.assistant, values))


class Protocol(NamedTuple):
    """A protocol in turns, for one task."""

    instruction: str
    turns: tuple[Turn, ...]
    examples: tuple[tuple[Exchange, ...], ...]

    def dialogue(self, turn: int, values: Mapping[str, str]) -> Dialogue:
        """Return what is asked in a turn; `values` holds the answers to the turns before it."""
        return Dialogue(
            user=fill(self.turns[turn].user, values),
            opening=self.turns[turn].opening,
            exchanges=tuple(earlier.exchange(values) for earlier in self.turns[:turn]),
            examples=self.examples,
            instruction=self.instruction,
        )


@functools.cache
def read(name: str) -> Mapping[str, Any]:
    """Return a protocol's file; `name` is its stem."""
    return tomllib.loads((Path(__file__).parent / f"{name}.toml").read_text(encoding="utf-8"))


def protocol(name: str, section: str, shots: int = 4) -> Protocol:
    """Return a protocol in turns for one task, with the first so many worked examples."""
    found = read(name)[section]
    turns = tuple(Turn(**turn) for turn in found["turns"])
    examples = tuple(tuple(turn.exchange(values) for turn in turns) for values in found["examples"][:shots])
    return Protocol(found["instruction"], turns, examples)


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values in place of the fields; braces inside a value are only text.

    >>> fill("{a} and {b}", {"a": "{b}", "b": "2"})
    '{b} and 2'
    """
    return _FIELD.sub(lambda field: values[field[1]], template)


def fingerprint(*names: str) -> str:
    """Return a SHA-256 that changes whenever one of the files does."""
    return digest({name: read(name) for name in names})

"""Prompt templates: the text files beside this one, hashed into the digest of whatever uses them."""

from __future__ import annotations

import functools
from pathlib import Path

from quantxai.records import digest

__all__ = ["fingerprint", "read"]


@functools.cache
def read(name: str) -> str:
    """Return a template without the white space at its end; `name` is the file's stem."""
    return (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8").rstrip()


def fingerprint(*names: str) -> str:
    """Return a SHA-256 that changes whenever one of the templates does."""
    return digest({name: read(name) for name in names})

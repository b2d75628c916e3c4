"""Pages that need no network and are allowed none, and the same in Markdown."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from quantxai.report import text

__all__ = ["environment", "resource", "self_contained"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]|#~$])")


def environment(*packages: str) -> Environment:
    """Return the templates of packages, which escape what they are given.

    Args:
        packages: whose folders `templates` are looked into, in this order; those of `quantxai.report` come last.
    """
    found = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (*packages, "quantxai.report")]),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    shown = (
        text.level,
        text.estimate,
        text.interval,
        text.margin,
        text.p_value,
        text.metric_label,
        text.listing,
    )
    found.filters.update({helper.__name__: helper for helper in shown}, md=_markdown)
    found.globals.update(symbols=text.SYMBOLS, count=text.count)
    return found


def resource(name: str, package: str = "quantxai.report") -> str:
    """Return a file of a package's folder `templates`."""
    return (files(package) / "templates" / name).read_text(encoding="utf-8")


def self_contained(styles: Sequence[str], script: str = "") -> dict[str, Any]:
    """Return a page's style and script with their hashes, for its content security policy.

    The policy permits nothing else, so the page loads nothing. Templates know them as `style`, `style_hash`,
    `script` and `script_hash`.

    Args:
        styles: style sheets, put together in this order.
        script: the page's own script.
    """
    style = "".join(styles)
    return {"style": style, "style_hash": _hash(style), "script": script, "script_hash": _hash(script)}


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _markdown(value: Any) -> str:
    """Return a text that Markdown shows as it is, on one line, in a table or elsewhere."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(str(value).split()), quote=False))

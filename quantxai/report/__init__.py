"""The report of a run: `report.html`, self-contained and safe to open, and `report.md`.

The page needs no network and is not allowed any: its content security policy permits nothing but its
own style and script, by their hashes. Generated texts are untrusted and escaped everywhere.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from quantxai.files import write_atomically
from quantxai.report import anchors, numbers, phrases, prose, text
from quantxai.report.headlines import by_scorer
from quantxai.report.view import make_report
from quantxai.store import Store

__all__ = ["build_report"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]|#~$])")


def build_report(run: Store | str | Path) -> None:
    """Write report.html and report.md into a run directory, replacing earlier ones.

    An incomplete run gives a report that says so.

    Args:
        run: the run, or its directory.

    Raises:
        RunError: it is no run directory.
        CorruptCell: a stored cell does not match its checksum.
    """
    store = run if isinstance(run, Store) else Store.open(run)
    report = make_report(store)
    style, script = _resource("report.css") + _resource("findings.css"), _resource("report.js")
    page = _environment().get_template("report.html.j2")
    rendered = page.render(
        r=report, style=style, script=script, style_hash=_hash(style), script_hash=_hash(script)
    )
    write_atomically(store.path / "report.html", rendered.encode("utf-8", "replace"))
    plain = _environment().get_template("report.md.j2").render(r=report)
    write_atomically(store.path / "report.md", plain.encode("utf-8", "replace"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("quantxai.report"),
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
        text.perplexity_ratio,
        phrases.more_items,
    )
    links = (anchors.result_anchor, anchors.items_anchor, anchors.safe_id)
    helpers = (*shown, *links, text.metric_label, text.error_kind, text.listing, prose.direction, by_scorer)
    environment.filters.update({helper.__name__: helper for helper in helpers}, md=_markdown)
    environment.globals.update(
        symbols=text.SYMBOLS,
        count=text.count,
        columns=numbers.COLUMNS,
        replicated_columns=numbers.REPLICATED_COLUMNS,
    )
    return environment


def _resource(name: str) -> str:
    return (files("quantxai.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _markdown(value: Any) -> str:
    """Return a text that Markdown shows as it is, on one line, in a table or elsewhere."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(str(value).split()), quote=False))

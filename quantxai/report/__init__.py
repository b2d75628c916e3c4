"""The report of a run: `report.html`, self-contained and safe to open, and `report.md`.

The page needs no network and is not allowed any: its content security policy permits nothing but its
own style and script, by their hashes. Generated texts are untrusted and escaped everywhere.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment

from quantxai.files import write_atomically
from quantxai.report import anchors, numbers, phrases, prose, text
from quantxai.report.headlines import by_scorer
from quantxai.report.rendering import environment, resource, self_contained
from quantxai.report.view import make_report
from quantxai.store import Store

__all__ = ["build_report"]


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
    own = self_contained([resource("report.css"), resource("findings.css")], resource("report.js"))
    rendered = _environment().get_template("report.html.j2").render(r=report, **own)
    write_atomically(store.path / "report.html", rendered.encode("utf-8", "replace"))
    plain = _environment().get_template("report.md.j2").render(r=report)
    write_atomically(store.path / "report.md", plain.encode("utf-8", "replace"))


@cache
def _environment() -> Environment:
    found = environment()
    links = (anchors.result_anchor, anchors.items_anchor, anchors.safe_id)
    helpers = (*links, text.perplexity_ratio, phrases.more_items, text.error_kind, prose.direction, by_scorer)
    found.filters.update({helper.__name__: helper for helper in helpers})
    found.globals.update(columns=numbers.COLUMNS, replicated_columns=numbers.REPLICATED_COLUMNS)
    return found

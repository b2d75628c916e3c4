"""Where on the page things are: what links lead to, readable and the same in every report of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable

from quantxai.records import Finding

__all__ = ["item_anchors", "items_anchor", "result_anchor", "safe_id", "section_anchor"]

_UNSAFE = re.compile(r"[^A-Za-z0-9_.\-]")


def result_anchor(finding: Finding) -> str:
    """Return the id of a finding's cell among the results."""
    names = (finding.explainer, finding.dataset, finding.scorer, finding.metric, finding.variant)
    return "/".join(["result", *map(safe_id, names)])


def section_anchor(explainer: str, dataset: str) -> str:
    """Return the id of the items of an explainer on a data set."""
    return "/".join(["items", safe_id(explainer), safe_id(dataset)])


def items_anchor(finding: Finding, parent: str, *, changed: bool = False) -> str:
    """Return the id of the items behind a finding: the page's script shows its two variants side by side.

    Args:
        finding: what they are behind.
        parent: the variant that stands left where nothing else is said.
        changed: only the items whose yes/no outcome the two differ in.
    """
    left = "" if finding.reference == parent else finding.reference
    chosen = {"left": left, "right": finding.variant, "outcome": finding.outcome if changed else ""}
    place = section_anchor(finding.explainer, finding.dataset)
    return place + "".join(f"&{key}={safe_id(value)}" for key, value in chosen.items() if value)


def item_anchors(findings: Iterable[Finding], parent: str, place: tuple[str, str]) -> list[str]:
    """Return every choice of a section's items that findings are linked to, each once."""
    own = [f for f in findings if (f.explainer, f.dataset) == place and f.n]
    found = [items_anchor(f, parent) for f in own]
    found += [items_anchor(f, parent, changed=True) for f in own if f.flips]
    return list(dict.fromkeys(found))


def safe_id(name: str) -> str:
    """Return a name of letters a link needs no escapes for; different names stay different."""
    return _UNSAFE.sub(lambda found: f"~{ord(found[0]):x}.", name)

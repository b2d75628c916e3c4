"""A gate's outcomes as JUnit XML, the format in which CI systems show tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from quantxai.gate import Outcome

__all__ = ["junit_xml"]

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, escaped or not."""


def junit_xml(outcomes: Sequence[Outcome], suite: str) -> bytes:
    """Return a JUnit document: one test case per outcome.

    *degraded* and *unresolved* are failures of that type, *not measured* is an error.

    Args:
        outcomes: what a gate found.
        suite: name of the test suite.
    """
    counts = {
        "tests": len(outcomes),
        "failures": sum(o.verdict in ("degraded", "unresolved") for o in outcomes),
        "errors": sum(o.verdict == "not measured" for o in outcomes),
    }
    numbers = {key: str(value) for key, value in counts.items()}
    root = ElementTree.Element("testsuites", numbers)
    attributes = {"name": _text(suite), "skipped": "0", "time": "0", **numbers}
    element = ElementTree.SubElement(root, "testsuite", attributes)
    for outcome in outcomes:
        _add_case(element, outcome)
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _add_case(suite: ElementTree.Element, outcome: Outcome) -> None:
    place = (outcome.variant, outcome.explainer, outcome.dataset)
    where = ".".join((name or "none").replace(".", "_") for name in place)
    name = f"{outcome.metric} within {outcome.margin:g} (requirement {outcome.requirement})"
    case = ElementTree.SubElement(suite, "testcase", classname=_text(where), name=_text(name), time="0")
    if outcome.verdict == "pass":
        return
    kind = "error" if outcome.verdict == "not measured" else "failure"
    message = _text(f"{outcome.verdict}: {outcome.reason}")
    problem = ElementTree.SubElement(case, kind, type=outcome.verdict, message=message)
    shown = outcome.model_dump(exclude={"reason"}, exclude_none=True)
    problem.text = _text("\n".join(f"{key}: {value}" for key, value in shown.items()))


def _text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)

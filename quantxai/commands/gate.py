"""`quantxai gate`: may this be released?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantxai.commands.present import columns, interval, paired, presented, print_json, signed, wrapped

if TYPE_CHECKING:
    from quantxai.gate import Held, Outcome

__all__ = ["gate"]


@presented
def gate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory, such as runs/default.")],
    policy: Annotated[
        Path, typer.Option(metavar="POLICY.toml", help="What has to hold: a list of [[require]] tables.")
    ],
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the outcomes as JUnit XML, too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcomes as JSON.")] = False,
) -> None:
    """Let pass what is shown to be no worse.

    Holds a run against a policy. Ends with exit code 0 only when every outcome the policy names is shown
    to be equivalent or better; with 10 when one is degraded, else 12 when one is not measured, else 11
    when one is unresolved; 2 on bad input.

    Example: quantxai gate runs/default --policy policy.toml
    """
    from quantxai.errors import ConfigError
    from quantxai.files import write_atomically
    from quantxai.gate import EXIT_CODES, gate_run, worst
    from quantxai.junit import junit_xml
    from quantxai.policy import load_policy
    from quantxai.store import Store

    store = Store.open(run)
    required = load_policy(policy)
    try:
        outcomes = gate_run(store, required)
    except ConfigError as error:
        raise ConfigError(f"{policy}: {error}") from None
    held = worst(outcomes)
    alpha = required.alpha or store.manifest.planned_analysis.alpha
    if junit is not None:
        write_atomically(junit, junit_xml(outcomes, f"quantxai gate {run}"))
    if as_json:
        found = {"verdict": held, "exit_code": EXIT_CODES[held], "alpha": alpha, "confidence": 1 - 2 * alpha}
        shown = [o.model_dump() for o in outcomes]
        print_json({"run": str(run), "policy": str(policy), **found, "outcomes": shown})
    else:
        typer.echo(_text(outcomes, held, 1 - 2 * alpha))
    raise typer.Exit(EXIT_CODES[held])


def _text(outcomes: list[Outcome], held: Held, confidence: float) -> str:
    counts = Counter(o.verdict for o in outcomes)
    heading = [
        "",
        "metric",
        "variant",
        "explainer on data",
        "change",
        f"{confidence:.0%} interval",
        "allowed",
        "items",
    ]
    rows = [heading, *(_row(o) for o in outcomes)]
    by_reason: dict[tuple[Held, str], list[str]] = {}
    for o in outcomes:
        if o.verdict in ("not measured", "unresolved"):
            what = " ".join(filter(None, (o.variant, o.metric, f"({_place(o)})")))
            by_reason.setdefault((o.verdict, o.reason), []).append(what)
    reasons = [
        wrapped(f"{verdict}, {_plain(why)}: {', '.join(found)}", 2, _SIGNS[verdict])
        for (verdict, why), found in by_reason.items()
    ]
    said = ", ".join(f"{counts[name]} {name}" for name in _SIGNS if counts[name])
    result = "PASSED" if held == "pass" else f"NOT PASSED: {held}"
    lines = [columns(rows, right=(4, 7)), "", *reasons, *([""] if reasons else []), f"{result} ({said})"]
    return "\n".join(lines)


_SIGNS: dict[Held, str] = {"degraded": "-", "not measured": "?", "unresolved": "~", "pass": "+"}


def _row(o: Outcome) -> list[str]:
    allowed = f">= {signed(-o.margin)}" if o.higher_is_better else f"<= {signed(o.margin)}"
    return [
        f"{_SIGNS[o.verdict]} {o.verdict}", o.metric, o.variant or "", _place(o), signed(o.estimate),
        interval(o.ci_low, o.ci_high), allowed, paired(o.n, o.n_missing),
    ]  # fmt: skip


def _place(o: Outcome) -> str:
    return " on ".join(name for name in (o.explainer, o.dataset) if name)


def _plain(text: str) -> str:
    """A failure's message may hold what drives a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)

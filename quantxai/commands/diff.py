"""`quantxai diff`: what another version, or another machine, changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantxai.commands.present import columns, interval, presented, print_json, signed, wrapped

if TYPE_CHECKING:
    from quantxai.diff import Changed, RunDiff

__all__ = ["diff"]


@presented
def diff(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="The run that is the reference.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="The run that is compared with it.")],
    items: Annotated[
        bool, typer.Option("--items", help="Show every text that differs, old and new.")
    ] = False,
    pool: Annotated[
        list[str] | None,
        typer.Option(metavar="parent|data", help="Compare although the runs differ in this."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; texts only with --items.")] = False,
) -> None:
    """Compare two runs item by item.

    For a new version of a library, or another GPU: every variant of RUN_B with the same variant of RUN_A,
    on the items that both have. Ends with exit code 0 when the runs could be compared, whatever was
    found, and with 2 when not: other parents, other data, nothing in common.

    Example: quantxai diff runs/default runs/new
    """
    from quantxai.diff import diff_runs
    from quantxai.store import Store

    found = diff_runs(Store.open(run_a), Store.open(run_b), pool or ())
    if as_json:
        print_json(found.model_dump(exclude=set() if items else {"text_changes"}))
        return
    typer.echo(_text(found))
    if items:
        typer.echo(_items(found))


def _text(found: RunDiff) -> str:
    lines = [f"A  {found.a}", f"B  {found.b}", ""]
    for run, missing in found.incomplete.items():
        if missing:
            lines += [f"! run {run} is incomplete: {missing} planned cells are missing", ""]
    if found.settings:
        rows = [["differs", "A", "B"]]
        rows += [[s.name, _cut(s.a), _cut(s.b)] for s in found.settings]
        lines += [columns(rows), ""]
    else:
        lines += ["Versions, machine and settings are the same in both.", ""]
    lines += [wrapped(f"{d.what} {d.name}", 14, f"only in {d.run}") for d in found.only]
    lines += [""] if found.only else []
    other = [t for t in found.texts if t.different]
    if other:
        rows = [["texts of", "explainer on data", "items", "differ"]]
        rows += [[t.variant, f"{t.explainer} on {t.dataset}", str(t.items), str(t.different)] for t in other]
        lines += [columns(rows, right=(2, 3)), ""]
    total = sum(t.items for t in found.texts)
    same_texts = total - sum(t.different for t in found.texts)
    lines += [f"{same_texts} of {total} answers are the same to the character.", ""]
    moved = [m for m in found.measured if m.changed]
    if moved:
        lines += [columns([_HEADING, *map(_row, moved)], right=(3, 4, 5)), ""]
    same = len(found.measured) - len(moved)
    lines.append(
        f"{same} of {len(found.measured)} comparisons (variant, metric, data set) have the same value on every item."
    )
    lines.append(
        "All comparisons are exploratory; p is corrected over all of them (Benjamini-Hochberg)."
        if moved
        else "There is nothing else to show."
    )
    return "\n".join(lines)


_HEADING = [
    "variant",
    "metric",
    "explainer on data",
    "A",
    "B",
    "B - A",
    "interval",
    "changed",
    "p",
    "verdict",
]


def _row(measured: Changed) -> list[str]:
    f = measured.finding
    means = ["" if mean is None else f"{mean:.4g}" for mean in (f.reference_mean, f.variant_mean)]
    changed = f"{measured.changed} of {f.n + f.n_missing}"
    p = "" if f.p_adjusted is None else f"{f.p_adjusted:.2g}"
    place = f"{f.explainer} on {f.dataset}"
    found = [signed(f.estimate), interval(f.ci_low, f.ci_high)]
    return [f.variant, f.outcome, place, *means, *found, changed, p, f.verdict or ""]


def _items(found: RunDiff) -> str:
    lines = [""]
    for c in found.text_changes:
        lines += [f"{c.variant}, {c.explainer} on {c.dataset}, {c.item}: {c.column}"]
        lines += [f"  {name} {_plain(text)}" for name, text in (("A", c.a), ("B", c.b))]
    return "\n".join(lines)


def _plain(text: str | None) -> str:
    """Return a text on one line, without what drives a terminal."""
    if text is None:
        return "(none)"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _cut(text: str | None) -> str:
    shown = _plain(text)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."

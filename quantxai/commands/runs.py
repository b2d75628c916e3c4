"""Commands that read a run: `quantxai report`, `quantxai query` and `quantxai compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantxai.commands.present import columns, interval, paired, presented, print_json, signed

if TYPE_CHECKING:
    from quantxai.records import Finding

__all__ = ["FORMATS", "compare", "query", "report"]

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run directory, such as runs/default.")]


FORMATS = ("table", "json", "csv")


@presented
def report(
    run: Run,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files written as JSON.")] = False,
) -> None:
    """Compare again and rebuild the report.

    Reads what is stored in the run, compares every variant with the parent, and writes findings,
    report.html, report.md and the folder exports anew: CSV, JSON, LaTeX tables, BibTeX and sections
    for model cards. Nothing is generated or scored.

    Example: quantxai report runs/default
    """
    from quantxai.exports import write_exports
    from quantxai.report import build_report
    from quantxai.run import compare_run
    from quantxai.store import Store

    store = Store.open(run)
    with store.lock():
        compare_run(store)
        build_report(store)
        exported = write_exports(store)
    files = [run / "report.html", run / "report.md", *exported]
    if as_json:
        print_json({"run": str(run), "written": [str(f) for f in files], "findings": len(store.findings())})
    else:
        typer.echo("\n".join(f"wrote {file}" for file in files))


@presented
def query(
    run: Run,
    sql: Annotated[
        str | None,
        typer.Argument(metavar="SQL", help="DuckDB SQL over rows, measurements, findings and variants."),
    ] = None,
    fmt: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="|".join(FORMATS),
            autocompletion=lambda: FORMATS,
            help="How to print the answer.",
        ),
    ] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
) -> None:
    """Ask a run's tables with SQL.

    Without SQL, lists the tables and their columns.

    Example: quantxai query runs/default "select variant, metric, estimate, verdict from findings"
    """
    from quantxai.errors import UnknownName
    from quantxai.query import query as ask
    from quantxai.query import render, views
    from quantxai.store import Store

    if fmt not in FORMATS:
        raise UnknownName("format", fmt, FORMATS)
    if sql is not None:
        typer.echo(render(ask(run, sql), "json" if as_json else fmt))  # type: ignore[arg-type]
        return
    tables = views(Store.open(run))
    if as_json or fmt == "json":
        print_json({name: table.column_names for name, table in tables.items()})
        return
    for name, table in tables.items():
        typer.echo(f"{name} ({table.num_rows} rows)\n  {', '.join(table.column_names)}\n")


@presented
def compare(
    run: Run,
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="Which is compared.")],
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="With which.")],
    fmt: Annotated[
        str,
        typer.Option(
            "--format", metavar="|".join(FORMATS), autocompletion=lambda: FORMATS, help="How to print it."
        ),
    ] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
) -> None:
    """Compare any two variants of a run.

    On every metric, item by item, with the run's level and margins. What is looked at afterwards is
    exploratory: p is corrected over the metrics shown (Benjamini-Hochberg). Nothing is stored.

    Example: quantxai compare runs/default gptq-4 rtn-4
    """
    from quantxai.contrast import contrast
    from quantxai.errors import UnknownName
    from quantxai.query import render
    from quantxai.records import Finding
    from quantxai.store import Store
    from quantxai.tables import rows_to_table

    if fmt not in FORMATS:
        raise UnknownName("format", fmt, FORMATS)
    found = contrast(Store.open(run), variant, reference)
    if as_json or fmt != "table":
        typer.echo(render(rows_to_table(found, Finding), "json" if as_json else fmt))  # type: ignore[arg-type]
        return
    family = max((f.family for f in found), default=0)
    typer.echo(
        f"{columns([_heading(variant, reference), *map(_row, found)], right=(2, 3, 4, 6))}\n\n"
        f"Exploratory: chosen after the run; p is corrected over the {family} tests (Benjamini-Hochberg). To "
        "plan a comparison, name it in the sweep's configuration: analysis.contrasts."
    )


def _heading(variant: str, reference: str) -> list[str]:
    return [
        "metric",
        "explainer on data",
        reference,
        variant,
        "difference",
        "interval",
        "items",
        "p",
        "verdict",
    ]


def _row(f: Finding) -> list[str]:
    means = ["" if mean is None else f"{mean:.4g}" for mean in (f.reference_mean, f.variant_mean)]
    found = [signed(f.estimate), interval(f.ci_low, f.ci_high), paired(f.n, f.n_missing)]
    p = "" if f.p_adjusted is None else f"{f.p_adjusted:.2g}"
    return [f.outcome, f"{f.explainer} on {f.dataset}", *means, *found, p, f.verdict or ""]

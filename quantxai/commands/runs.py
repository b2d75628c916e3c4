"""Commands that read a run: `quantxai report` and `quantxai query`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantxai.commands.present import presented, print_json

__all__ = ["FORMATS", "query", "report"]

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

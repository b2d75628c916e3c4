"""`quantxai study analyze`: what people's ratings say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantxai.commands.present import columns, interval, presented, print_json, signed, wrapped
from quantxai.commands.study.opening import Database, Directory, opened

if TYPE_CHECKING:
    from userstudy.analysis.results import RatingFinding
    from userstudy.report.view import StudyReport

__all__ = ["analyze"]


@presented
def analyze(
    study: Directory,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; STUDY/analysis if left out.")
    ] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Analyse the simulated participants instead of people.")
    ] = False,
    with_text: Annotated[
        bool,
        typer.Option("--with-text", help="Put free texts and the stimuli's texts into the data package."),
    ] = False,
    database: Database = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print findings and files as JSON.")] = False,
) -> None:
    """Analyse the ratings and write the report.

    Applies the exclusion rules, compares every variant with the reference on every question, and writes
    report.html, report.md, findings as CSV, JSON and Parquet, a methods section with references, the Human
    Evaluation Datasheet filled in as far as the study knows, and an anonymised data package.

    Example: quantxai study analyze study
    """
    with opened(study, database) as (found, engine):
        from userstudy.report import make_study_report, write_analysis
        from userstudy.report.inputs import read_inputs

        inputs = read_inputs(found, engine, "simulated" if simulated else None)
    report = make_study_report(found, inputs, f"{datetime.now(UTC):%Y-%m-%d}")
    written = write_analysis(report, inputs.ratings, out or study / "analysis", texts=with_text)
    if as_json:
        print_json(
            {
                "study": str(study),
                "answer": report.headline,
                "participants": report.flow.analysed,
                "simulated": report.flow.simulated,
                "findings": [found.model_dump() for found in inputs.analysis.findings],
                "written": [str(file) for file in written],
            }
        )
        return
    typer.echo(_text(report, written[0]))


def _text(report: StudyReport, page: Path) -> str:
    findings = [found for found in report.analysis.findings if found.estimate is not None]
    shown = [columns([_HEADING, *map(_row, findings)], right=(2, 4, 5)), ""] if findings else []
    told = [*report.warnings, f"{report.headline} {report.basis}"]
    return "\n".join([*shown, *(wrapped(line, 0) for line in told), "", f"report  {page}"])


_HEADING = ["question", "variant", "change", "interval", "adjusted p", "answers", "verdict"]


def _row(found: RatingFinding) -> list[str]:
    p = "" if found.p_adjusted is None else f"{found.p_adjusted:.2g}"
    asked = "" if found.confirmatory else " (exploratory)"
    return [
        f"{found.question}{asked}", found.variant, signed(found.estimate), interval(found.ci_low, found.ci_high), p,
        str(found.n), found.verdict or "",
    ]  # fmt: skip

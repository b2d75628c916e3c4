"""The analysed study as files: a report, findings for programs, a methods section, a datasheet, data to publish.

`write_analysis` writes into a directory, usually `STUDY/analysis`:

```
report.html        self-contained; loads nothing and runs nothing
report.md          the same in Markdown
findings.csv       every finding, a row each; findings.parquet the same
findings.json      the whole analysis: findings, descriptives, agreement, exclusions, correlations
methods.md         a methods section for a paper, every number from the study
references.bib     what it cites, and quantxai
heds.json          the Human Evaluation Datasheet 3.0, filled in as far as the study knows; heds.md for reading
data-package/      the ratings, anonymised, to be published
```
"""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from quantxai import __version__
from quantxai.bibliography import cited, quantxai_bibtex
from quantxai.errors import InputError
from quantxai.files import write_atomically
from quantxai.report.rendering import environment, resource, self_contained
from quantxai.tables import rows_to_table
from userstudy import heds
from userstudy.analysis.results import RatingFinding, StudyAnalysis
from userstudy.export import data_package, to_csv
from userstudy.report.tables import NUMBERS
from userstudy.report.view import Inputs, StudyReport, make_study_report

__all__ = ["Inputs", "make_study_report", "rendered", "write_analysis"]


def write_analysis(
    report: StudyReport, ratings: pd.DataFrame, out: Path, *, texts: bool = False
) -> list[Path]:
    """Write everything about an analysed study into a directory, replacing what an earlier call wrote.

    Args:
        report: of `make_study_report`.
        ratings: an answer a row, for the data package.
        out: the directory; made where there is none.
        texts: whether the data package has free texts and what the stimuli say.

    Returns:
        The files written, report.html first.

    Raises:
        InputError: `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"'{out}' is a file. Name a directory: --out DIR")
    study, analysis = report.study, report.analysis
    sheet = heds.datasheet(study, analysis, report.flow)
    html, plain = rendered(report)
    contents = {
        "report.html": html,
        "report.md": plain,
        **_findings(analysis),
        "methods.md": _methods(report),
        "references.bib": _bibtex(report),
        "heds.json": heds.to_json(sheet),
        "heds.md": heds.to_markdown(sheet),
    }
    package = data_package(study, ratings, texts=texts, simulated=report.flow.simulated)
    contents |= {f"data-package/{name}": content for name, content in package.items()}
    for name, content in contents.items():
        write_atomically(out / name, content)
    return [out / name for name in contents]


def rendered(report: StudyReport) -> tuple[bytes, bytes]:
    """Return a report as HTML and as Markdown."""
    templates = environment("userstudy.report")
    style = [
        resource("report.css"),
        resource("findings.css"),
        resource("study.css", "userstudy.report"),
    ]
    page = templates.get_template("study.html.j2")
    html = page.render(r=report, version=__version__, columns=NUMBERS, **self_contained(style))
    plain = templates.get_template("study.md.j2").render(r=report)
    return html.encode("utf-8", "replace"), plain.encode("utf-8", "replace")


def _findings(analysis: StudyAnalysis) -> dict[str, bytes]:
    table = rows_to_table(analysis.findings, RatingFinding)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    frame = table.to_pandas()
    frame["notes"] = [" ".join(found.notes) for found in analysis.findings]
    whole = analysis.model_dump_json(indent=1) + "\n"
    return {
        "findings.csv": to_csv(frame),
        "findings.parquet": buffer.getvalue(),
        "findings.json": whole.encode(),
    }


def _methods(report: StudyReport) -> bytes:
    parts = [
        "## Methods",
        *report.methods,
        "### References",
        "\n".join(f"- {line}" for line in report.references),
    ]
    return ("\n\n".join(parts) + "\n").encode("utf-8", "replace")


def _bibtex(report: StudyReport) -> bytes:
    works = cited([*report.methods, "Belz and Thomson 2025"])
    return "\n".join([quantxai_bibtex(__version__), *(work.bibtex for work in works)]).encode()

"""What a report is made of: ratings and participants from the database, the run's results from the study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
from sqlalchemy import Engine

from quantxai.errors import InputError
from quantxai.records import Finding
from quantxai.tables import table_to_rows
from userstudy.analysis import analyze
from userstudy.export.tables import participants
from userstudy.ratings import ratings
from userstudy.report.view import Inputs
from userstudy.study import Study

__all__ = ["automatic_findings", "measured", "read_inputs"]


def read_inputs(study: Study, engine: Engine, kind: str | None = None) -> Inputs:
    """Read what came back and analyse it.

    Args:
        study: what was asked about what.
        engine: its database.
        kind: human or simulated participants; humans where there are any if left out.

    Raises:
        InputError: a file of the run's results cannot be read.
        StudyError: kind unavailable: the database cannot be used.
    """
    table, people = ratings(study, engine, kind), participants(engine, kind)
    automatic = automatic_findings(study)
    analysis = analyze(table, study.settings, study.design, measured(study, automatic))
    return Inputs(table, people, analysis, automatic)


def automatic_findings(study: Study) -> list[Finding]:
    """Return what the run found; none where the study has no findings of it.

    Raises:
        InputError: the file cannot be read.
    """
    table = _read(study.path / "findings.parquet")
    try:
        return [] if table is None else table_to_rows(table, Finding)
    except ValidationError:
        raise _unreadable(study.path / "findings.parquet") from None


def measured(study: Study, automatic: Sequence[Finding]) -> pd.DataFrame | None:
    """Return the run's metrics of the study's items, with which way each is better; None where there are none.

    Args:
        study: which.
        automatic: findings of the run, which know the direction of every metric.

    Raises:
        InputError: the file cannot be read.
    """
    table = _read(study.path / "measurements.parquet")
    if table is None or not table.num_rows:
        return None
    frame: pd.DataFrame = table.to_pandas()
    better = {(f.scorer, f.metric): f.higher_is_better for f in automatic}
    keys = zip(frame["scorer"], frame["metric"], strict=True)
    return frame.assign(higher_is_better=pd.Series([better.get(key) for key in keys], dtype=object))


def _read(file: Path) -> pa.Table | None:
    if not file.is_file():
        return None
    try:
        return pq.read_table(file)
    except (pa.ArrowException, OSError):
        raise _unreadable(file) from None


def _unreadable(file: Path) -> InputError:
    return InputError(
        f"'{file}' cannot be read. It is a copy of the run's results: draw the design again with the run, or remove "
        "the file to analyse the ratings alone."
    )

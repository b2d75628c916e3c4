"""The export as one file to download."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

from sqlalchemy import Engine

from userstudy.export import ExportOptions, write_export
from userstudy.study import Study

__all__ = ["archive"]


def archive(study: Study, engine: Engine) -> bytes:
    """Return the tables of `quantxai study export` with the stimuli's texts and the history, as a ZIP file.

    Args:
        study: whose.
        engine: its database.

    Raises:
        StudyError: the database cannot be reached.
    """
    content = io.BytesIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for file in write_export(study, engine, Path(folder), ExportOptions(texts=True, history=True)):
            packed.write(file, file.relative_to(folder))
    return content.getvalue()

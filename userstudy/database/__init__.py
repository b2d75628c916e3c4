"""Participants and answers: SQLAlchemy's tables, and the migrations that made them."""

from __future__ import annotations

from importlib.util import find_spec

from quantxai.errors import MissingExtra

__all__: list[str] = []

for _package in ("sqlalchemy", "alembic"):
    if find_spec(_package) is None:
        raise MissingExtra(_package, "study", "the user study")

"""Participants' sessions on SQLite, and what only SQLite does."""

from __future__ import annotations

import pytest

pytest.importorskip("sqlalchemy")
pytest.register_assert_rewrite("study_contract")

from study_contract import SessionsContract  # noqa: E402


class TestOnSQLite(SessionsContract):
    """Everything in the contract."""

    @pytest.fixture
    def url(self) -> None:
        return None

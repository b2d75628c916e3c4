"""What a bare installation says of commands that need an extra."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from study_support import make_study
from typer.testing import CliRunner

from quantxai.cli import app

pytestmark = [
    pytest.mark.bare,
    pytest.mark.skipif(find_spec("sqlalchemy") is not None, reason="the extra study is installed"),
]


@pytest.mark.parametrize(
    "command",
    [
        "analyze STUDY",
        "close STUDY",
        "exclude STUDY 1 --reason x",
        "export STUDY --out tables",
        "include STUDY 1",
        "open STUDY",
        "password STUDY --stdin",
        "pause STUDY",
        "serve STUDY",
        "simulate STUDY --url http://127.0.0.1:1",
        "status STUDY",
        "withdraw STUDY 1 --yes",
    ],
)
def test_the_extra_is_named(command: str, tmp_path: Path) -> None:
    make_study(tmp_path / "study")
    words = command.replace("STUDY", str(tmp_path / "study")).split()
    result = CliRunner().invoke(app, ["study", *words], input="a long enough password\n")
    assert result.exit_code == 2
    assert '-e ".[study]"' in result.output

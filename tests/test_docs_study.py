"""The afternoon of docs/user-study.md, command by command, in its order.

Changed for the test alone: the run is made up, few studies and participants are simulated, servers listen at
any free port and are stopped when the next one starts, the password comes from a file, and simulated raters
take the people's part, too.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REAL_ENVIRONMENT
from study_support import make_run_of_texts
from test_docs import ROOT, blocks, run

pytestmark = pytest.mark.docs

PAGE = ROOT / "docs" / "user-study.md"


class Server:
    """The one server that runs, if any."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self, command: str) -> None:
        self.stop()
        words = [*shlex.split(re.sub(r" --port \d+", "", command)), "--port", "0"]
        program = str(Path(sys.executable).parent / words[0])
        self.process = subprocess.Popen(
            [program, *words[1:]], cwd=self.folder, env=REAL_ENVIRONMENT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.match(r"participants\s+(http\S+)", line):
                self.url = found[1]
                return
        raise AssertionError(f"{command} gave no address")

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            assert self.process.wait(60) in (0, 130)


def test_the_afternoon(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    make_run_of_texts(tmp_path / "runs" / "default")
    server = Server(tmp_path)
    lines = [line for block in blocks(PAGE, "console") for line in block.splitlines()]
    for line in lines:
        words = shlex.split(line)
        if words[:3] == ["quantxai", "study", "serve"]:
            server.start(line)
            if words[3:] == ["study"]:
                run(f"quantxai study simulate study --url {server.url} --participants 8", tmp_path)
            continue
        changed = {
            "power": " --simulations 10 --participants 8 --no-search",
            "new": " --participants 8 --variants nf4,gptq-3",
        }.get(words[2] if words[0] == "quantxai" else "", "")
        line = re.sub(r"--url \S+", f"--url {server.url}", line).replace(
            "--participants 24", "--participants 8"
        )
        if words[2:3] == ["password"]:
            line = f"printf 'a long enough password' | {line} --stdin"
        run(line + changed, tmp_path)
    server.stop()
    assert "8" in run("quantxai study status study", tmp_path)
    for name in re.findall(r"^\| `([\w.-]+)/?`", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        assert (tmp_path / "study" / "analysis" / name).exists(), name
    assert (
        "were fixed before the first participant"
        in (tmp_path / "study" / "analysis" / "report.md").read_text()
    )
    assert (tmp_path / "rehearsal" / "analysis" / "report.html").is_file()
    assert (tmp_path / "tables" / "ratings.csv").is_file()
    assert (tmp_path / "copy.sqlite").is_file()

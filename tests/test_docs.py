"""Every command and code block of the README, of docs and of CONTRIBUTING runs.

Changed for the test alone: the installation is left to tox (whose own file must hold the same command), sweeps
get `--n 2` and the tests' tiny trained model, which is PATH_OR_ID, too: test_e2e.py runs `quantxai sweep` on the
default one. Python is in test_docs_python.py.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import REAL_ENVIRONMENT, benchmark

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def run(command: str, where: Path) -> str:
    bin_folder = Path(sys.executable).parent
    environment = {**REAL_ENVIRONMENT, "PATH": f"{bin_folder}:{REAL_ENVIRONMENT['PATH']}"}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs")


def test_the_first_screen_has_the_two_commands_and_ci_runs_the_second() -> None:
    first, second = blocks(ROOT / "README.md", "console")[:2]
    assert first == 'pip install -c constraints.txt -e ".[all]" && quantxai sweep\n'
    assert second == "pip install -c constraints.txt tox && tox\n"
    assert second.strip() in (ROOT / ".ci" / "run").read_text().splitlines()


def test_readme_commands(folder: Path, tiny_path: Path) -> None:
    for block in blocks(ROOT / "README.md", "console"):
        for line in block.splitlines():
            if "tox" in line:
                continue
            command = line.removeprefix('pip install -c constraints.txt -e ".[all]" && ')
            if command.startswith("quantxai sweep"):
                command += " --n 2" if "--model" in command else " --n 2 --model PATH_OR_ID"
            run(command.replace("PATH_OR_ID", str(tiny_path)), folder)
    assert (folder / "runs/default/report.html").is_file()
    assert (folder / "runs/mine/report.html").is_file()


def test_gate(folder: Path, tiny_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    page = ROOT / "docs" / "gate.md"
    (policy,), (workflow,), (command,) = (blocks(page, kind) for kind in ("toml", "yaml", "console"))
    assert policy == (ROOT / "examples" / "policy.toml").read_text()
    assert workflow == (ROOT / "examples" / "gate.yml").read_text()
    (folder / "policy.toml").write_text(policy)
    # What so few items show is not known beforehand: any answer but a mistake will do.
    run(f"{command.strip()} || test $? -ge 10", folder)
    assert "<testcase" in (folder / "gate.xml").read_text()
    steps = yaml.safe_load(workflow)["jobs"]["explanations"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    # The sweep of the README, under the name it has here: this one has next to nothing to compute.
    shutil.copytree(folder / "runs/default", folder / "runs/release")
    assert commands[1] == "quantxai sweep --out runs/release"
    run(f"{commands[1]} --model {tiny_path} --n 2", folder)
    run(f"{commands[2]} || test $? -ge 10", folder)


def test_diff_and_compare(folder: Path) -> None:
    shutil.copytree(folder / "runs/default", folder / "runs/new")
    for command in "".join(blocks(ROOT / "docs" / "diff.md", "console")).splitlines():
        run(command, folder)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_block_is_of_a_kind_that_is_tested(page: Path) -> None:
    kinds = {kind for kind, _ in BLOCK.findall(page.read_text(encoding="utf-8"))}
    allowed = {
        "README.md": {"console", "python"},
        "CONTRIBUTING.md": {"console", "python", "toml"},
        "gate.md": {"console", "toml", "yaml", "text"},
        "diff.md": {"console"},
        "user-study.md": {"console", "text"},  # run by test_docs_study.py
    }
    assert kinds <= allowed.get(page.name, {"text", "toml"})
    for code in blocks(page, "toml"):
        tomllib.loads(code)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize(("script", "mark"), [("receipts_table", "receipts"), ("footprint", "footprint")])
def test_tables_are_the_ones_that_were_measured(script: str, mark: str) -> None:
    module = benchmark(script)
    page = module.PAGE.read_text(encoding="utf-8")

    kept = json.loads(module.KEPT.read_text())

    assert page == module.with_table(page, mark, module.table(kept))


def test_the_receipts_are_of_every_method() -> None:
    kept = json.loads(benchmark("receipts_table").KEPT.read_text())

    assert {r["method"] for r in kept} >= {"full", "bnb", "gptq", "awq", "rtn"}
    assert {r["variant"] for r in kept} >= {"full", "int8", "nf4", "gptq-4", "gptq-3", "awq-4", "rtn-4"}


def test_memory_and_time_were_predicted_within_15_percent() -> None:
    kept = json.loads(benchmark("footprint").KEPT.read_text())

    assert len({r["model"] for r in kept}) == 3
    assert all(abs(row["ratio"] - 1) < 0.15 for row in kept)

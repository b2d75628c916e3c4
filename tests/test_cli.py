"""The command line: quick help, plain messages, exit codes, and nothing left behind by a mistake."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import QUALITY, make_run
from typer.testing import CliRunner, Result

import quantxai
from quantxai import run as run_module
from quantxai.cli import app
from quantxai.commands.present import columns, size, wrapped
from quantxai.errors import IncompleteRun, OutOfSpace
from quantxai.store import Store

pytestmark = pytest.mark.bare

COMMANDS = [
    "sweep",
    "report",
    "query",
    "compare",
    "gate",
    "diff",
    "inspect",
    "init",
    "list",
    "models",
    "models list",
    "models pull",
    "doctor",
]
HEAVY = ["torch", "transformers", "pandas", "duckdb", "pyarrow", "numpy", "scipy", "statsmodels", "jinja2"]


def quantxai_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "quantxai", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str | Path) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return invoke


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run").path


@pytest.fixture
def instead_of_sweep(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], None]:
    """Replaces the sweep itself by a function of the run directory."""

    def replace(function: Callable[[Path], None]) -> None:
        monkeypatch.setattr(run_module, "sweep", lambda config, out, **options: function(out))

    return replace


# Help


@pytest.mark.parametrize("command", ["", "sweep", "models pull"])
def test_help_answers_in_half_a_second(command: str) -> None:
    # Processor time: it is what the command costs, whatever else the machine is doing.
    fastest = 10.0
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = quantxai_process(*command.split(), "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        fastest = min(fastest, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if fastest < 0.5:
            break
    assert done.returncode == 0
    assert "Usage: " in done.stdout
    assert fastest < 0.5


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "models"])
def test_help_ends_its_description_with_an_example(command: str, call: Callable[..., Result]) -> None:
    text = call(*command.split(), "--help").stdout
    assert f"Example: quantxai {command}" in text


def test_nothing_heavy_is_imported_for_help() -> None:
    heavy = [*HEAVY, "rich", "quantxai.registry", "quantxai.config"]
    code = f"import sys, quantxai.cli; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_every_command_has_a_short_line_in_the_overview(call: Callable[..., Result]) -> None:
    text = call("--help").stdout
    for command in {c.split()[0] for c in COMMANDS}:
        line = re.search(rf"^  {command} +(.+)$", text, re.MULTILINE)
        assert line is not None
        assert not line[1].endswith("...")


def test_version(call: Callable[..., Result]) -> None:
    assert call("--version").stdout == f"quantxai {quantxai.__version__}\n"


def test_a_mistyped_command_is_suggested(call: Callable[..., Result]) -> None:
    done = call("swep")
    assert done.exit_code == 2
    assert "sweep" in done.stderr


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["sweep", "no.toml"], ["no.toml: no such file", "quantxai init no.toml"]),
        (["sweep", "--model", "smollm2-135", "--dry-run"], ["'smollm2-135'", "Did you mean 'smollm2-135m'?"]),
        (["sweep", "--model", "./nowhere"], ["'./nowhere'", "no such directory"]),
        (["list", "quantiser"], ["'quantiser'", "Did you mean 'quantizers'?"]),
        (["models", "pull", "smollm"], ["'smollm'", "smollm2-135m"]),
        (["report", "nowhere"], ["'nowhere' does not exist", "quantxai sweep --out nowhere"]),
        (["query", "nowhere", "select 1"], ["'nowhere' does not exist"]),
        (["init", "."], ["is a directory", "sweep.toml"]),
    ],
)
def test_a_mistake_ends_with_one_message(
    arguments: list[str], parts: list[str], call: Callable[..., Result], tmp_path: Path
) -> None:
    done = call(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("quantxai: error: ")
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            '[[variants]]\nquantizer = "full"\n[[variants]]\nquantizer = "gptq"\nbits = 5',
            ["bits = 5", "2, 3, 4, 8"],
        ),
        (
            '[[explainers]]\nexplainer = "counterfactual"\ndataset = "relations"',
            ["recall", "news, inference"],
        ),
        ('[model]\nname = "smollm2-135"', ["'smollm2-135'", "smollm2-135m"]),
        ('[[variants]]\nquantizer = "full"\nexecution = "dequantized"', ["variant 'full'", '"kernel"']),
    ],
)
def test_a_mistake_in_a_file_names_the_file_and_leaves_nothing(
    text: str, parts: list[str], call: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text(text)
    done = call("sweep", "mine.toml")
    assert done.exit_code == 2
    assert done.stderr.startswith("quantxai: error: mine.toml: ")
    for part in parts:
        assert part in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["mine.toml"]


def test_a_mistake_shows_no_traceback_in_a_real_process(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("sed = 1")
    done = quantxai_process("sweep", "mine.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert "Did you mean 'seed'?" in done.stderr


def test_a_package_that_hides_quantxais_own_is_named(tmp_path: Path) -> None:
    (tmp_path / "quantizers").mkdir()
    (tmp_path / "quantizers" / "__init__.py").write_text("")
    done = quantxai_process("list", "datasets", cwd=tmp_path)  # -m puts the current directory first
    assert done.returncode == 2
    assert "'quantizers' is found in" in done.stderr
    assert str(tmp_path / "quantizers") in done.stderr
    assert "uninstall" in done.stderr


# How a sweep ends


def fail_with(error: BaseException) -> Callable[[Path], None]:
    def function(out: Path) -> None:
        raise error

    return function


def test_a_complete_sweep_ends_with_a_table(call: Callable[..., Result], instead_of_sweep: Any) -> None:
    instead_of_sweep(make_run)
    done = call("sweep", "--out", "there")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[1].split()[:4] == ["variant", "bits", "perplexity", "recall"]
    assert [line.split()[0] for line in lines[3:7]] == list(QUALITY)
    assert "Report: there/report.html" in lines
    assert lines[-1].startswith("Time:")
    assert "! gptq-3: does not beat round-to-nearest" in done.stdout


def test_json_is_all_there_is_on_stdout(call: Callable[..., Result], instead_of_sweep: Any) -> None:
    instead_of_sweep(make_run)
    summary = json.loads(call("sweep", "--json").stdout)
    assert summary["complete"] is True
    assert summary["done"] == summary["cells"] > 0
    assert summary["run"] == "runs/default"
    by_name = {v["name"]: v for v in summary["variants"]}
    assert list(by_name) == list(QUALITY)
    assert by_name["full"]["verdicts"] == {}
    # Every directional finding of a variant has a verdict; the descriptive ones (similarity, crossing)
    # have none.
    assert sum(by_name["nf4"]["verdicts"].values()) == 16
    assert 0 <= by_name["nf4"]["metrics"]["recall"] <= 1


def test_an_incomplete_sweep_has_a_code_of_its_own(
    call: Callable[..., Result], instead_of_sweep: Any
) -> None:
    def incomplete(out: Path) -> None:
        make_run(out, failing=True)
        raise IncompleteRun("1 of 9 cells are missing\n  gptq-3: ValueError: no")

    instead_of_sweep(incomplete)
    done = call("sweep", "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["complete"] is False
    assert "gptq-3: ValueError: no" in done.stderr


def test_an_interrupted_sweep_says_how_to_resume(call: Callable[..., Result], instead_of_sweep: Any) -> None:
    instead_of_sweep(fail_with(KeyboardInterrupt()))
    done = call("sweep")
    assert done.exit_code == 130
    assert "what was computed is kept" in done.stderr
    assert "Resume" in done.stderr


def test_ctrl_c_ends_a_real_process_plainly(tmp_path: Path) -> None:
    code = (
        # A background process of a shell without job control has SIGINT ignored, and children inherit that.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys, time, types, quantxai; from quantxai import cli\n"
        "def sweep(*a, **k): print('started', flush=True); time.sleep(60)\n"
        "quantxai.run = types.SimpleNamespace(sweep=sweep)\n"
        "sys.argv = ['quantxai', 'sweep', '--out', 'some where']; cli.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.endswith("quantxai sweep --out 'some where'\n")
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded")]
)
def test_a_full_disk_is_no_defect(error: OSError, call: Callable[..., Result], instead_of_sweep: Any) -> None:
    instead_of_sweep(fail_with(error))
    done = call("sweep")
    assert done.exit_code == OutOfSpace.exit_code == 1
    assert "the disk is full" in done.stderr
    assert "give the same command again" in done.stderr


def test_a_place_that_cannot_be_written_is_named(call: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call("init", "file/sweep.toml")
    assert done.exit_code == 2
    assert done.stderr.startswith("quantxai: error: 'file")


def test_a_defect_leaves_its_traceback_in_the_runs_log(
    call: Callable[..., Result], instead_of_sweep: Any, tmp_path: Path
) -> None:
    (tmp_path / "runs" / "default").mkdir(parents=True)
    instead_of_sweep(fail_with(ZeroDivisionError("one\nover zero")))
    done = call("sweep")
    assert done.exit_code == 70
    assert "unexpected error: ZeroDivisionError: one" in done.stderr
    assert "Traceback" not in done.stderr
    assert "defect" in done.stderr
    log = (tmp_path / "runs" / "default" / "log.txt").read_text()
    assert "Traceback (most recent call last)" in log
    assert "runs/default/log.txt" in done.stderr


def test_a_defect_without_a_run_leaves_its_traceback_in_a_file(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("quantxai.options.describe", fail_with(RuntimeError("odd")))
    done = call("list", "scorers")
    assert done.exit_code == 70
    (file,) = tmp_path.iterdir()
    assert f"'{file}'" in done.stderr
    assert "RuntimeError: odd" in file.read_text()


def test_a_reader_that_stops_reading_is_no_error(run: Path) -> None:
    command = f'"{sys.executable}" -m quantxai query "{run}" "select range from range(20000)" | head -1'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""


# Dry run


def test_a_dry_run_shows_the_work_and_creates_nothing(call: Callable[..., Result], tmp_path: Path) -> None:
    done = call("sweep", "--dry-run", "--n", "6")
    assert done.exit_code == 0
    assert "counterfactual on news: 6 items" in done.stdout
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line and not line.startswith(" ")}
    for variant in ("full", "int8", "nf4", "gptq-4", "gptq-3", "awq-4", "rtn-4"):
        assert variant in rows
    for kind in ("download", "disk", "memory", "time"):
        assert f"\n  {kind} " in done.stdout
    assert "estimate" in done.stdout
    assert not any(tmp_path.iterdir())


def test_a_dry_run_as_json(call: Callable[..., Result]) -> None:
    plan = json.loads(call("sweep", "--dry-run", "--json", "--n", "6").stdout)
    assert [v["name"] for v in plan["variants"]][:2] == ["full", "int8"]
    assert all(v["cells"] == v["done"] + v["to_do"] for v in plan["variants"])
    assert plan["estimate"]["seconds"] > 0
    assert {e["items"] for e in plan["explainers"]} == {6}


def test_a_dry_run_says_what_is_missing(call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantxai.machine.has_packages", lambda names: [n for n in names if n == "torch"])
    done = call("sweep", "--dry-run")
    assert done.exit_code == 0
    assert "cannot run here yet" in done.stderr
    assert '".[models]"' in done.stderr


# Reading a run


def test_query_prints_what_is_asked_for(run: Path, call: Callable[..., Result]) -> None:
    sql = "select variant, count(*) as n from findings group by all order by all"
    assert json.loads(call("query", run, sql, "--json").stdout)[0] == {"variant": "gptq-3", "n": 19}
    assert call("query", run, sql, "--format", "csv").stdout.splitlines()[:2] == ["variant,n", "gptq-3,19"]
    assert call("query", run, sql).stdout.splitlines()[0].split() == ["variant", "n"]
    wrong = call("query", run, sql, "--format", "cvs")
    assert wrong.exit_code == 2
    assert "Did you mean 'csv'?" in wrong.stderr


def test_query_without_a_question_lists_the_tables(run: Path, call: Callable[..., Result]) -> None:
    tables = json.loads(call("query", run, "--json").stdout)
    assert list(tables) == ["rows", "measurements", "findings", "trends", "replicated", "variants"]
    text = call("query", run).stdout
    assert all(f"{name} (" in text for name in tables)


def test_report_rebuilds_findings_and_report(call: Callable[..., Result], tmp_path: Path) -> None:
    store = make_run(tmp_path / "run")
    before = store.findings()
    (store.path / "findings.parquet").unlink()
    done = call("report", store.path, "--json")
    written = json.loads(done.stdout)["written"]
    assert all(Path(file).is_file() for file in written)
    assert str(store.path / "exports/results.tex") in written
    assert [f.model_dump(include={"variant", "metric", "verdict"}) for f in Store(store.path).findings()] == [
        f.model_dump(include={"variant", "metric", "verdict"}) for f in before
    ]


# What there is


@pytest.mark.parametrize("kind", ["quantizers", "explainers", "scorers"])
def test_every_registered_method_is_listed_with_its_options(kind: str, call: Callable[..., Result]) -> None:
    listed = json.loads(call("list", kind, "--json").stdout)
    text = call("list", kind).stdout
    for method in listed:
        assert method["usable"]
        assert method["name"] in text
        for option in method["options"]:
            assert option["help"]
            assert f"  {option['name']} = " in text


def test_metrics_are_listed_with_how_they_are_read(call: Callable[..., Result]) -> None:
    text = " ".join(call("list", "scorers").stdout.split())
    assert "(proportion, higher is better, equivalent within 0.05, confirmatory)" in text
    assert "(tokens, lower is better, equivalent within 1)" in text
    assert "(neurons, describes only)" in text
    listed = {s["name"]: s["metrics"] for s in json.loads(call("list", "scorers", "--json").stdout)}
    recall = listed["recall"][0]
    assert (recall["margin"], recall["confirmatory"]) == (0.05, True)
    assert recall["margin_reason"]


def test_a_method_that_cannot_be_imported_does_not_hide_the_others(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import EntryPoint

    from quantxai import registry

    real = registry._entries("quantizer")
    broken = EntryPoint("broken", "nowhere.at_all:Broken", "quantxai.quantizers")
    monkeypatch.setattr(registry, "_entries", lambda kind: {**real, "broken": broken})
    listed = {m["name"]: m for m in json.loads(call("list", "quantizers", "--json").stdout)}
    assert listed["gptq"]["usable"]
    assert not listed["broken"]["usable"]
    assert "nowhere" in listed["broken"]["summary"]


def test_datasets_and_models_are_listed(call: Callable[..., Result]) -> None:
    datasets = {d["name"]: d["task"] for d in json.loads(call("list", "datasets", "--json").stdout)}
    assert datasets["news"] == "topic"
    assert datasets["lre"] == "recall"
    models = json.loads(call("models", "list", "--json").stdout)
    assert models[0]["name"] == "smollm2-135m"
    assert call("list", "models").stdout == call("models", "list").stdout


def test_init_writes_a_file_that_is_the_default_sweep(call: Callable[..., Result], tmp_path: Path) -> None:
    assert call("init").exit_code == 0
    plan = json.loads(call("sweep", "sweep.toml", "--dry-run", "--json").stdout)
    default = json.loads(call("sweep", "--dry-run", "--json").stdout)
    assert plan["variants"] == default["variants"]
    again = call("init")
    assert again.exit_code == 2
    assert "--force" in again.stderr
    (tmp_path / "sweep.toml").write_text("mine")
    assert call("init", "--force").exit_code == 0
    assert (tmp_path / "sweep.toml").read_text() != "mine"


def test_models_pull_of_a_local_model_has_nothing_to_do(call: Callable[..., Result], tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"")
    done = call("models", "pull", directory, "--json")
    assert json.loads(done.stdout) == {"name": "model", "path": str(directory), "already_there": True}


# Layout


def test_columns_are_aligned() -> None:
    assert columns([["a", "number"], ["long name", "1"]], right=(1,)).splitlines() == [
        "a          number",
        "---------  ------",
        "long name       1",
    ]


def test_text_is_wrapped_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = wrapped("word " * 30, 10, "name").splitlines()
    assert lines[0].startswith("name      word")
    assert all(line.startswith(" " * 10) for line in lines[1:])
    assert max(map(len, lines)) <= 60
    assert wrapped("text", 4, "too long a name").splitlines() == ["too long a name", "    text"]


def test_sizes() -> None:
    assert (size(98_400_000), size(3.25e9)) == ("98 MB", "3.2 GB")


def test_the_console_script_is_this_command() -> None:
    script = Path(sys.executable).parent / "quantxai"
    if not script.is_file():
        pytest.skip("not installed beside this interpreter")
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("quantxai ")

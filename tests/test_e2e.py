"""The real default sweep, few items, on the real SmolLM2-135M: weights, quantizers, report, browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REAL_ENVIRONMENT, chromium

from quantxai.query import query, render

pytestmark = pytest.mark.e2e

VARIANTS = ["full", "int8", "nf4", "gptq-4", "gptq-3", "awq-4", "rtn-4"]
COMMAND = [sys.executable, "-m", "quantxai"]


def quantxai(*arguments: str, where: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=where, env=REAL_ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def folder(default_sweep: Path) -> Path:
    return default_sweep


SMALL = """
[[variants]]
quantizer = "full"
[[variants]]
quantizer = "rtn"
[[explainers]]
explainer = "memorization"
dataset = "relations"
n = 36
cell_items = 12
"""


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> str:
    """A run of more facts on two variants."""
    (folder / "small.toml").write_text(SMALL)
    quantxai("sweep", "small.toml", "--out", "runs/undisturbed", where=folder)
    return "runs/undisturbed"


@pytest.fixture(scope="module")
def receipts(folder: Path) -> dict[str, dict]:
    root = folder / "runs" / "default" / "variants"
    return {v: json.loads((root / v / "receipt.json").read_text()) for v in VARIANTS}


def rows(folder: Path, sql: str, run: str = "runs/default") -> list[dict]:
    """What `quantxai query` answers, without a process for each of many questions."""
    return json.loads(render(query(folder / run, sql), "json"))


def test_every_variant_is_really_quantized_and_still_a_language_model(receipts: dict[str, dict]) -> None:
    perplexity = {v: r["perplexity"] for v, r in receipts.items()}
    assert perplexity["full"] < perplexity["int8"] < perplexity["awq-4"] < perplexity["rtn-4"]
    assert perplexity["full"] < perplexity["gptq-4"] < perplexity["gptq-3"] < 10 * perplexity["full"]
    for variant in VARIANTS[1:]:
        assert receipts[variant]["quantized_layers"] == 210, variant
        assert perplexity[variant] > 1.005 * perplexity["full"], variant


def test_calibration_beats_rounding_on_the_same_grid(receipts: dict[str, dict]) -> None:
    for variant in ("gptq-4", "gptq-3", "awq-4"):
        receipt = receipts[variant]
        assert receipt["perplexity"] < receipt["rtn_same_grid_perplexity"], variant
        assert receipt["warnings"] == []


def test_the_twin_is_the_kernel(receipts: dict[str, dict]) -> None:
    for variant in ("nf4", "gptq-4", "gptq-3", "rtn-4"):
        assert receipts[variant]["execution"] == "dequantized"
        # Of 2,048 x 49,152 logits; neighbours in bfloat16 lie 0.125 apart where logits are above 16.
        most = {"float32": 0.01, "bfloat16": 1.0}[receipts[variant]["dtype"]]
        assert receipts[variant]["largest_logit_difference_to_kernel"] < most, variant
    assert receipts["int8"]["execution"] == "kernel"


def test_the_model_knows_and_edits_something(folder: Path, undisturbed: str) -> None:
    sql = "select avg(value) as m from measurements where variant = 'full' and metric = "
    (recall,) = rows(folder, f"{sql} 'recall'", undisturbed)
    assert recall["m"] > 0.4
    (failed,) = rows(folder, f"{sql} 'failure'")
    assert failed["m"] < 0.4


def test_every_variant_saw_the_same_items(folder: Path) -> None:
    counts = rows(folder, "select explainer, dataset, item, count(*) as n from rows group by all")
    assert {c["n"] for c in counts} == {len(VARIANTS)}


def test_all_is_compared(folder: Path) -> None:
    sql = "select variant, metric, n, verdict from findings"
    findings = json.loads(quantxai("query", "runs/default", sql, "--format", "json", where=folder).stdout)
    assert findings == rows(folder, sql)
    assert {f["variant"] for f in findings} == set(VARIANTS[1:])
    assert {"recall", "logprob", "own_soft_flip", "parent_soft_flip", "cosine", "nll"} <= {
        f["metric"] for f in findings
    }


def test_what_is_confirmatory_was_planned_before_the_first_cell(folder: Path) -> None:
    plan = json.loads((folder / "runs/default/analysis-plan.json").read_text())
    planned = {outcome["outcome"] for outcome in plan["confirmatory"]}
    found = rows(
        folder, "select distinct scorer || '.' || metric as outcome from findings where confirmatory"
    )
    assert {f["outcome"] for f in found} == planned
    assert "recall.recall" in planned
    families = rows(folder, "select distinct correction, confirmatory from findings where p is not null")
    assert {(f["correction"], f["confirmatory"]) for f in families} == {
        ("holm", True), ("benjamini-hochberg", False)
    }  # fmt: skip
    trends = rows(folder, "select distinct method from trends")
    assert {t["method"] for t in trends} == {"bnb", "gptq"}


def test_a_second_run_computes_nothing(folder: Path) -> None:
    run = folder / "runs/default"
    cells = [c for kind in ("rows", "scores") for c in sorted((run / kind).rglob("*.parquet"))]
    assert cells
    before = [c.stat().st_mtime_ns for c in cells]
    quantxai("sweep", "--n", "2", where=folder)
    assert [c.stat().st_mtime_ns for c in cells] == before


def test_killed_anywhere_it_ends_with_the_same_results(folder: Path, undisturbed: str) -> None:
    command = ["sweep", "small.toml", "--out"]
    killed = subprocess.Popen(
        [*COMMAND, *command, "runs/killed"],
        cwd=folder,
        env=REAL_ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.time() + 300
    while time.time() < deadline and not list((folder / "runs/killed").rglob("rows/*/*/*.json")):
        time.sleep(0.2)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert 1 <= len(list((folder / "runs/killed").rglob("rows/*/*/*.json"))) < 6
    quantxai(*command, "runs/killed", where=folder)
    sql = "select * from measurements order by variant, explainer, dataset, item, scorer, metric"
    assert rows(folder, sql, "runs/killed") == rows(folder, sql, undisturbed)


def test_the_report_opens_offline_in_a_browser(folder: Path, tmp_path: Path) -> None:
    report = folder / "runs/default/report.html"
    assert report.stat().st_size < 5_000_000
    done = subprocess.run(
        [
            chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={tmp_path}",
            "--dump-dom", report.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    for variant in VARIANTS:
        assert variant in done.stdout
    assert "<ins" in done.stdout
    assert "<del" in done.stdout

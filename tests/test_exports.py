"""What a run gives to other programs, to papers and to the Hub says what its findings say, all of it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from synthetic import SHOWN, make_run

from quantxai.analysis_plan import PlanStatus
from quantxai.exports import (
    Results,
    read_results,
    to_bibtex,
    to_csv,
    to_json,
    to_latex,
    to_model_card,
    write_exports,
)
from quantxai.manifest import Manifest
from quantxai.records import Finding
from quantxai.store import Store

pytestmark = pytest.mark.bare

HUB_TYPE = re.compile(r"^(?:[\w-]+/)?[\w.-]+$", re.ASCII)
"""What the Hub demands of a data set's type."""
COMMIT = "5503434ddd753f426f4b38109466949a1217c2bb"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = make_run(tmp_path_factory.mktemp("exports") / "a run", SHOWN, items=12)
    write_exports(store)
    return store


def test_a_model_card_counts_its_own_calibration_seeds(store: Store) -> None:
    run = read_results(store)
    three, one = (to_model_card(run, name) for name in ("gptq-3", "gptq-4"))
    assert "gptq-4 depends on a calibration sample, and fewer than three were tried" in one
    assert "calibration sample" not in three
    assert "Controls without quantization: full-rerun." in three  # other seeds are quantized


def finding(**changes: Any) -> Finding:
    fields: dict[str, Any] = dict.fromkeys(Finding.model_fields)
    fields |= {
        "variant": "gptq-3", "reference": "full", "explainer": "counterfactual", "dataset": "news",
        "scorer": "flips", "metric": "own_soft_flip", "kind": "binary", "higher_is_better": True,
        "unit": "proportion", "n": 40, "n_missing": 2, "groups": 40, "reference_mean": 0.75,
        "variant_mean": 0.625, "estimate": -0.125, "ci_low": -0.2031, "ci_high": -0.0312, "test": "mcnemar-exact",
        "p": 0.0123456789012345, "margin": 0.1, "confirmatory": False, "correction": "none", "family": 1,
        "verdict": "degraded",
    }  # fmt: skip
    return Finding(**(fields | changes))


def results(findings: list[Finding], **changes: Any) -> Results:
    names = dict.fromkeys(["full", *(f.variant for f in findings)])
    fields: dict[str, Any] = {
        "quantxai": "0.1.0", "seed": 0, "model": {"name": "tiny_model", "source": "a wheel", "licence": "MIT"},
        "dtype": "bfloat16", "device": "cpu", "analysis": {"alpha": 0.05},
        "variants": [{"name": name, "method": "gptq", "options": {"bits": 3}} for name in names],
        "explainers": [
            {"explainer": "counterfactual", "method": "counterfactual", "dataset": "news", "task": "topic",
             "items": 42, "source": "built in", "licence": "CC0-1.0", "options": {}},
        ],
    }  # fmt: skip
    plan = PlanStatus(True, "Planned before the first result.", "ab12", "2026-01-01T00:00:00+00:00")
    return Results("r", Manifest(**(fields | changes)), plan, {}, findings, [], [], [], ["After Efron 1987."])


# CSV and JSON


def test_findings_come_back_from_csv_exactly(store: Store) -> None:
    rows = list(csv.DictReader(io.StringIO((store.path / "exports/findings.csv").read_text("utf-8"))))
    assert list(rows[0]) == list(Finding.model_fields)
    assert [
        Finding.model_validate({k: v or None for k, v in row.items()}) for row in rows
    ] == store.findings()


def test_no_value_is_an_empty_field_and_never_zero() -> None:
    (row,) = csv.DictReader(io.StringIO(to_csv([finding(estimate=None, n=0)])))
    assert (row["estimate"], row["n"]) == ("", "0")


def test_findings_come_back_from_json_exactly_with_what_they_rest_on(store: Store) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = (store.path / "exports/findings.json").read_text(encoding="utf-8")
    read = json.loads(text, parse_constant=refuse)
    assert [Finding.model_validate(record) for record in read["findings"]] == store.findings()
    assert len(read["trends"]) == len(store.trends())
    assert (read["run"], read["parent"], read["model"]) == ("a run", "full", store.manifest.model)
    assert read["analysis"] == json.loads(json.dumps(store.manifest.analysis))
    assert read["plan"]["planned"] is True
    assert set(read["controls"]) == {"full-rerun", "gptq-3-seed1", "gptq-3-seed2"}


def test_an_exploratory_run_says_so() -> None:
    plan = PlanStatus(False, "Exploratory: no analysis plan.", None, None)
    found = Results(**{**vars(results([finding()])), "plan": plan})
    assert json.loads(to_json(found))["plan"]["status"].startswith("Exploratory")
    assert "% Exploratory: no analysis plan." in to_latex(found)
    assert "Exploratory: no analysis plan." in to_model_card(found, "gptq-3")


# LaTeX


def test_a_cell_has_estimate_verdict_and_interval() -> None:
    text = to_latex(results([finding()]))
    assert r"\qxcell{$-$12.5}{\qxdegraded}{[$-$20.3, $-$3.1]}" in text
    assert r"\qxmetric{own soft flip $\uparrow$}{flips, pp} & 40 & 75.0~\% & " in text


def test_missing_parts_are_not_numbers() -> None:
    no_interval = finding(ci_low=None, ci_high=None, verdict="unresolved")
    assert r"\qxcell{$-$12.5}{\qxunresolved}{} \\" in to_latex(results([no_interval]))
    nothing = finding(n=0, estimate=None, variant_mean=None, reference_mean=None, verdict=None)
    assert r"& 0 & -- & -- \\" in to_latex(results([nothing]))
    assert to_latex(results([])).splitlines()[-1] == "% Nothing has been compared yet."


def test_names_are_escaped() -> None:
    text = to_latex(results([finding(variant="a_b & 50%", dataset="my_data#1")]))
    assert r"a\_b \& 50\%" in text
    assert r"counterfactual on my\_data\#1" in text
    assert r"\label{tab:quantxai-counterfactual-on-my-data-1}" in text


def test_confirmatory_outcomes_come_first_and_apart() -> None:
    text = to_latex(
        results([finding(), finding(metric="other", confirmatory=True), finding(dataset="inference")])
    )
    captions = re.findall(r"\\caption\{(.*?):", text)
    assert captions == [
        "Confirmatory outcomes",
        "Exploratory outcomes of counterfactual on news",
        "Exploratory outcomes of counterfactual on inference",
    ]


def rows_of(table: str) -> list[str]:
    return [line for line in table.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]


def test_wide_and_long_results_are_split_without_loss() -> None:
    names, metrics = [f"v{i}" for i in range(9)], [f"m{i}" for i in range(23)]
    found = [finding(variant=v, metric=m, estimate=-0.125 - i / 1000, scorer="s")
             for i, (m, v) in enumerate((m, v) for m in metrics for v in names)]  # fmt: skip
    tables = to_latex(results(found)).split(r"\end{table}")[:-1]
    assert len(tables) == 3 * 2
    cells: list[str] = []
    for table in tables:
        head, *lines = rows_of(table)
        assert {line.count(" & ") for line in lines} == {head.count(" & ")} == {5}
        assert len(lines) <= 20
        cells += re.findall(r"\\qxcell\{\$-\$([\d.]+)\}", table)
    assert sorted(cells) == sorted(f"{abs(100 * (f.estimate or 0)):.1f}" for f in found)
    assert len(set(re.findall(r"\\label\{(.*?)\}", "".join(tables)))) == len(tables)


def test_controls_and_contrasts_have_columns(store: Store) -> None:
    text = (store.path / "exports/results.tex").read_text(encoding="utf-8")
    assert r"\textit{full-rerun}" in text
    assert "controls: without quantization, or with another calibration seed" in text
    assert r"gptq-4 vs.\ rtn-4" in text
    assert len(re.findall(r"\\qxcell\{", text)) == sum(f.estimate is not None for f in store.findings())


def test_latex_compiles(store: Store, tmp_path: Path) -> None:
    pdflatex = shutil.which("pdflatex")
    if pdflatex is None:
        assert not os.environ.get("CI"), "continuous integration must install LaTeX"
        pytest.skip("pdflatex is not installed")
    for name in ("results.tex", "references.bib"):
        shutil.copy(store.path / "exports" / name, tmp_path)
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage[margin=1in]{geometry}\usepackage{booktabs,amssymb}"
        r"\begin{document}\input{results}\nocite{*}\bibliographystyle{plain}\bibliography{references}\end{document}"
    )
    for command in (pdflatex, "bibtex", pdflatex):
        options = ["-interaction=nonstopmode", "-halt-on-error"] if command == pdflatex else []
        done = subprocess.run(
            [command, *options, "paper"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            errors="replace",
        )
        assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


# BibTeX


def test_the_bibliography_has_the_paper_quantxai_and_what_is_cited(store: Store) -> None:
    keys = re.findall(r"^@\w+\{(\w+),", to_bibtex(read_results(store)), re.MULTILINE)
    assert keys[0] == "quantxai"
    assert {"wang2025", "efron1987", "bhattacharjee2024"} <= set(keys)
    assert "lanham2023" not in keys
    assert len(keys) == len(set(keys))


# Model cards


def card(found: Results, variant: str = "gptq-3") -> Any:
    """A section as huggingface_hub reads it."""
    return pytest.importorskip("huggingface_hub").ModelCard(to_model_card(found, variant))


def test_the_hub_reads_every_judged_metric_as_it_is(store: Store) -> None:
    found = read_results(store)
    read = card(found, "gptq-4")  # which is compared with rtn-4, too
    own = [f for f in store.findings() if f.variant == "gptq-4" and f.reference == "full" and f.verdict]
    assert read.data.model_name == "smollm2-135m gptq-4"
    assert {(r.dataset_name, r.metric_type, r.metric_value) for r in read.data.eval_results} == {
        (f.dataset, f.outcome, f.variant_mean) for f in own
    }
    assert len(read.data.eval_results) == len(own) > 10
    # Nothing is lost where huggingface_hub writes it again.
    hub = pytest.importorskip("huggingface_hub")
    written = hub.ModelCard(str(read))
    assert written.data.to_dict() == read.data.to_dict()


def test_metadata_keep_to_the_published_format(store: Store) -> None:
    yaml = pytest.importorskip("yaml")
    metadata = yaml.safe_load(to_model_card(read_results(store), "nf4").split("---\n")[1])
    assert set(metadata) == {"tags", "model-index"}  # this parent is not from the Hub
    (index,) = metadata["model-index"]
    assert set(index) == {"name", "results"}
    for result in index["results"]:
        assert set(result) == {"task", "dataset", "metrics"}
        assert result["task"]["type"] == "text-generation"
        assert HUB_TYPE.match(result["dataset"]["type"])
        for metric in result["metrics"]:
            assert set(metric) == {"type", "value", "name"}
            assert isinstance(metric["value"], float)


def test_a_parent_and_a_data_set_from_the_hub_are_linked() -> None:
    entry = {
        "explainer": "counterfactual", "method": "counterfactual", "dataset": "esnli", "task": "inference",
        "items": 42, "source": f"esnli/esnli at {COMMIT} (3 repeated items left out)", "options": {},
    }  # fmt: skip
    model = {"name": "org/model", "source": "org/model", "revision": COMMIT}
    read = card(results([finding(dataset="esnli")], model=model, explainers=[entry]))
    assert (read.data.base_model, read.data.base_model_relation) == ("org/model", "quantized")
    (result,) = read.data.eval_results
    assert (result.dataset_type, result.dataset_revision) == ("esnli/esnli", COMMIT)


@pytest.mark.parametrize("name", ["my data, part: 'a' #1", 'ü\u2028\U0001f600"\\', "- [x] |y|", "yes", "1e5"])
def test_strange_names_survive(name: str) -> None:
    read = card(results([finding(dataset=name, variant="gptq-3", variant_mean=1e-07)]))
    (result,) = read.data.eval_results
    assert result.dataset_name == " ".join(name.split())
    assert result.metric_value == 1e-07
    assert HUB_TYPE.match(result.dataset_type)
    table = [line for line in read.text.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {7}


def test_the_text_says_what_was_found_for_this_variant_alone() -> None:
    other = finding(variant="nf4", estimate=0.5, n_missing=20)
    asked = finding(metric="parent_soft_flip", confirmatory=True)
    text = to_model_card(results([other, finding(), asked]), "gptq-3")
    assert "gptq-3 is tiny\\_model (from a wheel) quantized by gptq (bits = 3)." in text
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert lines == [
        "| **parent soft flip, counterfactual on news** | 40 | 75.0\xa0% | 62.5\xa0% "
        "| −12.5 pp \\[−20.3, −3.1\\] | ✗ degraded |",
        "| own soft flip, counterfactual on news | 40 | 75.0\xa0% | 62.5\xa0% "
        "| −12.5 pp \\[−20.3, −3.1\\] | ✗ degraded |",
    ]
    assert "nf4" not in text
    assert "2026" not in text
    assert "- Efron 1987: Better Bootstrap" in text
    assert "- counterfactual on news: 42 items (topic; built in; CC0-1.0)." in text


def test_without_findings_the_card_says_so() -> None:
    found = results([], variants=[{"name": "full", "method": "full"}, {"name": "q", "method": "rtn"}])
    assert "Nothing could be judged" in to_model_card(found, "q")
    assert "model-index" not in card(found, "q").data.to_dict()


# All of it


def test_all_files_are_written_and_stale_cards_removed(store: Store, tmp_path: Path) -> None:
    copy = Store.open(shutil.copytree(store.path, tmp_path / "copy"))
    stale = copy.path / "exports/model-cards/gone.md"
    stale.write_text("of a variant that is no more")
    written = write_exports(copy)
    assert not stale.exists()
    assert {f.relative_to(copy.path / "exports").as_posix() for f in written} == {
        "findings.csv", "findings.json", "results.tex", "references.bib",
        *(f"model-cards/{name}.md" for name in ("int8", "nf4", "gptq-3", "gptq-4", "awq-4", "rtn-4")),
    }  # fmt: skip
    assert sorted(f for f in (copy.path / "exports").rglob("*") if f.is_file()) == sorted(written)


def test_a_run_without_findings_is_exported_all_the_same(store: Store, tmp_path: Path) -> None:
    copy = Store.open(shutil.copytree(store.path, tmp_path / "copy"))
    for file in copy.path.glob("*.parquet"):
        file.unlink()
    write_exports(copy)
    assert (copy.path / "exports/findings.csv").read_text().count("\n") == 1
    assert json.loads((copy.path / "exports/findings.json").read_text())["findings"] == []

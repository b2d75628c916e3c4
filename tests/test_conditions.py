"""What was not computed under the same conditions is not compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from synthetic import make_run
from typer.testing import CliRunner

from quantxai import conditions
from quantxai.cli import app
from quantxai.conditions import NAMES, NotComparable, check, pooled
from quantxai.run import compare_run
from quantxai.store import Store

pytestmark = pytest.mark.bare

SAME = {"tokenizer": "a" * 64, "base_weights": "b" * 64, "batch_tokens": 4096, "engine": "torch 2"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose cells were computed under the same conditions: never written to, only copied."""
    store = make_run(tmp_path_factory.mktemp("conditions") / "run")
    for key in store.manifest.cells:
        if key.kind == "rows":
            write(store, key.id, SAME)
    return store.path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Store:
    return Store.open(shutil.copytree(made, tmp_path / "run"))


def write(store: Store, cell: str, found: dict[str, object]) -> None:
    file = store.path / f"{cell}.json"
    sidecar = json.loads(file.read_text())
    sidecar["meta"]["conditions"] = found
    file.write_text(json.dumps(sidecar))


def change(store: Store, variant: str, **changes: object) -> None:
    for key in store.manifest.cells:
        if key.kind == "rows" and key.variant == variant:
            write(store, key.id, {**SAME, **changes})


def test_the_same_conditions_are_compared(run: Store) -> None:
    compare_run(run)

    assert check(run.conditions(), "full") == {}
    assert run.findings()


@pytest.mark.parametrize("name", ["tokenizer", "base_weights", "batch_tokens", "engine"])
def test_a_differing_condition_is_named_and_refused(name: str, run: Store) -> None:
    change(run, "nf4", **{name: "c" * 64})
    before = run.findings()

    with pytest.raises(NotComparable) as found:
        compare_run(run)

    message = str(found.value)
    assert f"\n  {name}: full: {str(SAME[name])[:12]}; nf4: cccccccccccc" in message
    assert f"--pool {name}" in message
    assert all(other not in message for other in NAMES if other != name)
    assert run.findings() == before
    done = CliRunner().invoke(app, ["report", str(run.path)])
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_what_is_allowed_is_compared_and_labelled(run: Store) -> None:
    change(run, "nf4", engine="torch 3")
    manifest = run.manifest
    run.write_manifest(manifest.model_copy(update={"analysis": {**manifest.analysis, "pool": ["engine"]}}))

    done = CliRunner().invoke(app, ["report", str(run.path)])

    assert done.exit_code == 0, done.output
    assert "Pooled on request: cells may differ in engine" in (run.path / "report.md").read_text()


def test_cells_of_one_variant_may_not_differ_among_themselves() -> None:
    cells = [("full", SAME), ("q", SAME), ("q", {**SAME, "engine": "torch 3"})]

    assert pooled(cells, "full") == {"engine": {"full": ["torch 2"], "q": ["torch 2", "torch 3"]}}
    with pytest.raises(NotComparable, match="q: torch 2 and torch 3"):
        check(cells, "full")
    assert check(cells, "full", ["engine"]) == pooled(cells, "full")
    with pytest.raises(NotComparable):
        check(cells, "full", ["tokenizer"])


def test_what_was_not_written_down_is_not_compared() -> None:
    assert pooled([("full", {}), ("q", SAME)], "full") == {}
    assert pooled([("full", SAME), ("q", {})], "full") == {}


def test_an_unknown_condition_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sweep", "--pool", "engin", "--dry-run", "--out", str(tmp_path / "run")])

    assert done.exit_code == 2
    assert "engin" in done.output
    assert "Traceback" not in done.output


def test_the_engine_is_named_by_version() -> None:
    assert conditions.engine().startswith("transformers ")

"""The analysis plan: written before results, kept afterwards, and told apart from what is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import synthetic
from typer.testing import CliRunner

from quantxai.analysis_plan import (
    FILE,
    AnalysisPlan,
    changes,
    keep_plan,
    plan_of,
    plan_status,
    read_plan,
    write_plan,
)
from quantxai.cli import app
from quantxai.errors import RunError
from quantxai.records import digest
from quantxai.run import compare_run
from quantxai.store import Store

pytestmark = pytest.mark.bare

NAMED = ("recall.recall", "prediction.accuracy")


def planned(path: Path, created: str = "2026-01-01T00:00:00.000+00:00", **analysis: object) -> Store:
    """A run whose plan was written at that time."""
    store = synthetic.make_run(path)
    change(store, **{"confirmatory": list(NAMED), **analysis})
    fields = {**plan_of(store.manifest).model_dump(mode="json", exclude={"digest"}), "created": created}
    plan = AnalysisPlan.model_validate({**fields, "digest": digest(fields)})
    (path / FILE).write_text(plan.model_dump_json())
    return store


def unplanned(path: Path) -> Store:
    """A run without a plan."""
    store = synthetic.make_run(path)
    (path / FILE).unlink()
    return store


def change(store: Store, **analysis: object) -> None:
    manifest = store.manifest
    store.write_manifest(manifest.model_copy(update={"analysis": {**manifest.analysis, **analysis}}))


def test_a_plan_holds_what_will_be_decided(tmp_path: Path) -> None:
    store = synthetic.make_run(tmp_path / "run")
    change(store, confirmatory=list(NAMED), margins={"recall.recall": 0.07})
    plan = plan_of(store.manifest)
    assert [(o.outcome, o.margin) for o in plan.confirmatory] == [
        ("recall.recall", 0.07), ("prediction.accuracy", 0.1)
    ]  # fmt: skip
    assert plan.margins["recall.logprob"] == 0.25
    assert "recall.recall" not in plan.margins
    assert "similarity.similarity" not in plan.margins  # descriptive
    assert set(plan.variants) == set(synthetic.QUALITY)
    assert plan.data["memorization on relations"].startswith("18 items of ")
    fields = json.loads(plan.model_dump_json())
    assert digest({k: v for k, v in fields.items() if k != "digest"}) == plan.digest


def test_a_kept_plan_makes_its_outcomes_confirmatory(tmp_path: Path) -> None:
    store = planned(tmp_path / "run")
    status = plan_status(store)
    assert status.planned
    assert "recall.recall, prediction.accuracy" in status.sentence
    compare_run(store)
    assert {f.outcome for f in store.findings() if f.confirmatory} == set(NAMED)


@pytest.mark.parametrize(
    ("analysis", "said"),
    [
        ({"alpha": 0.1}, "alpha changed from 0.05 to 0.1"),
        ({"correction": "none"}, "correction changed from holm to none"),
        ({"margins": {"recall.recall": 0.3}}, "confirmatory outcome 'recall.recall' changed"),
        ({"confirmatory": ["recall.recall"]}, "confirmatory outcome 'prediction.accuracy' left out"),
        ({"confirmatory": [*NAMED, "perplexity.nll"]}, "confirmatory outcome 'perplexity.nll' added"),
        ({"contrasts": [["int8", "nf4"]]}, "contrasts changed"),
    ],
)
def test_what_was_changed_afterwards_is_exploratory_and_told(
    tmp_path: Path, analysis: dict[str, object], said: str
) -> None:
    store = planned(tmp_path / "run")
    change(store, **analysis)
    status = plan_status(store)
    assert not status.planned
    assert said in status.sentence
    compare_run(store)
    assert not any(f.confirmatory for f in store.findings())


def test_further_variants_and_other_items_are_told(tmp_path: Path) -> None:
    store = planned(tmp_path / "run")
    manifest = store.manifest
    variants = [*manifest.variants[:-1], {"name": "hqq-4", "digest": "x"}]
    entries = [{**manifest.explainers[0], "items": 5}, *manifest.explainers[1:]]
    store.write_manifest(manifest.model_copy(update={"variants": variants, "explainers": entries}))
    sentence = plan_status(store).sentence
    assert "variant 'gptq-3' left out; variant 'hqq-4' added" in sentence
    assert "data 'counterfactual on news' changed" in sentence


def test_another_draw_of_items_and_other_options_are_told(tmp_path: Path) -> None:
    store = planned(tmp_path / "run")
    manifest = store.manifest
    first, *others = manifest.explainers
    entries = [{**first, "options": {**first.get("options", {}), "shots": 9}}, *others]
    scorers = [{**s, "options": {"strict": True}} for s in manifest.scorers]
    store.write_manifest(manifest.model_copy(update={"seed": 7, "explainers": entries, "scorers": scorers}))
    sentence = plan_status(store).sentence
    assert f"seed changed from {manifest.seed} to 7" in sentence
    assert "options of 'counterfactual on news' changed" in sentence
    assert "options of 'recall' changed" in sentence
    assert "'edits'" not in sentence  # decides nothing


def test_a_plan_younger_than_the_first_result_is_none(tmp_path: Path) -> None:
    store = planned(tmp_path / "run", created="2026-01-02T00:00:00.000+00:00")
    assert plan_status(store).planned  # the cells of this run do not say when they were begun
    key = next(k for k in store.manifest.cells if k.kind == "rows")
    store.write(key, store.read(key), {"started": 1767225600.0})  # 2026-01-01T00:00:00
    status = plan_status(store)
    assert not status.planned
    assert "younger than the first result" in status.sentence


def test_without_a_plan_everything_is_exploratory(tmp_path: Path) -> None:
    store = unplanned(tmp_path / "run")
    assert plan_status(store)[:2] == (
        False,
        "Exploratory: no analysis plan was written before the first result.",
    )


def test_a_plan_naming_nothing_is_exploratory(tmp_path: Path) -> None:
    store = planned(tmp_path / "run", confirmatory=[])
    assert "names no confirmatory outcome" in plan_status(store).sentence


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    store = planned(tmp_path / "run")
    file = store.path / FILE
    file.write_text(file.read_text().replace('"alpha":0.05', '"alpha":0.06'))
    with pytest.raises(RunError, match="was changed after it was written"):
        read_plan(store)
    assert not plan_status(store).planned
    file.write_text("{}")
    assert "'analysis-plan.json' cannot be read" in plan_status(store).sentence
    assert str(tmp_path) not in plan_status(store).sentence


def test_results_keep_a_plan_from_being_written(tmp_path: Path) -> None:
    store = unplanned(tmp_path / "run")
    with pytest.raises(RunError, match="holds results already"):
        write_plan(store, plan_of(store.manifest))
    assert keep_plan(store) is None
    assert read_plan(store) is None


def test_a_sweep_keeps_a_plan_that_says_the_same_and_replaces_another(tmp_path: Path) -> None:
    full = synthetic.make_run(tmp_path / "run")
    store = Store(tmp_path / "fresh")
    store.write_manifest(full.manifest)
    first = keep_plan(store)
    assert first is not None
    assert keep_plan(store) is None
    change(store, alpha=0.01)
    second = keep_plan(store)
    assert changes(first, second) == ["alpha changed from 0.05 to 0.01"]
    assert second is not None
    assert second.digest != first.digest
    assert read_plan(store) == second


# The command

SWEEP = """
[[variants]]
quantizer = "full"
[[variants]]
quantizer = "rtn"
[[explainers]]
explainer = "memorization"
dataset = "relations"
n = 36
[[scorers]]
scorer = "recall"
[analysis]
confirmatory = ["recall.logprob"]
alpha = 0.01
correction = "bonferroni"
contrasts = [["rtn-4", "full"]]
"""


def plan(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["plan", *arguments])
    return done.exit_code, done.output


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("sweep.toml").write_text(SWEEP)
    return tmp_path


def test_the_command_writes_and_shows_the_plan(sweep: Path) -> None:
    code, said = plan("sweep.toml", "--out", "run")
    assert code == 0
    written = read_plan(Store(sweep / "run"))
    assert written is not None
    assert [o.outcome for o in written.confirmatory] == ["recall.logprob"]
    assert "recall.logprob" in said
    assert "Bonferroni" in said
    assert written.digest in said
    code, said = plan("sweep.toml", "--out", "run", "--json")
    assert json.loads(said)["alpha"] == 0.01
    assert plan_status(Store(sweep / "run")).planned


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("recall.logprob", "recall.logprop", "Did you mean 'recall.logprob'?"),
        ("recall.logprob", "flips.parent_soft_flip", "unknown metric 'flips.parent_soft_flip'"),
        ('["rtn-4", "full"]', '["rtn-4", "ful"]', "unknown variant 'ful'. Did you mean 'full'?"),
        ('["rtn-4", "full"]', '["rtn-4", "rtn-4"]', "compared with itself"),
        ("bonferroni", "sidak", "correction"),
        ('scorer = "recall"', 'scorer = "recall"\n[[scorers]]\nscorer = "edits"', ""),
    ],
)
def test_what_cannot_be_planned_is_named(sweep: Path, old: str, new: str, said: str) -> None:
    Path("sweep.toml").write_text(SWEEP.replace(old, new))
    code, output = plan("sweep.toml", "--out", "run")
    assert code == (2 if said else 0)
    assert said in output


def test_an_outcome_no_explainer_gives_is_refused(sweep: Path) -> None:
    text = SWEEP.replace("recall.logprob", "edits.edit_distance")
    Path("sweep.toml").write_text(text.replace("[analysis]", '[[scorers]]\nscorer = "edits"\n[analysis]'))
    code, output = plan("sweep.toml", "--out", "run")
    assert code == 2
    assert "measured on none of this sweep's explainers (memorization)" in " ".join(output.split())


def test_a_run_with_results_gets_no_plan(sweep: Path) -> None:
    store = unplanned(sweep / "run")
    model = store.manifest.model
    code, output = plan("sweep.toml", "--out", "run")
    assert code == 2
    assert store.manifest.model == model
    assert read_plan(store) is None
    assert "another model" in output

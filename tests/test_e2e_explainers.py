"""Every explainer and scorer on the real SmolLM2-135M and a quantized variant of it.

Those that look inside are in test_e2e_interpretability.py, on more variants.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from test_e2e import quantxai, rows
from test_e2e_interpretability import SWEEP as INSIDE

from quantxai import registry
from quantxai.store import Store

pytestmark = pytest.mark.e2e

SWEEP = """
[[variants]]
quantizer = "full"
[[variants]]
quantizer = "rtn"
[[explainers]]
explainer = "counterfactual"
name = "guided"
protocol = "guided"
dataset = "news"
n = 3
chat = false
[[explainers]]
explainer = "counterfactual"
name = "flare"
protocol = "flare"
dataset = "inference"
edit = "premise"
n = 3
[[explainers]]
explainer = "natural_language"
dataset = "claims"
n = 2
samples = 2
[[explainers]]
explainer = "natural_language"
name = "zero_shot"
dataset = "questions"
shots = 0
order = "predict-then-explain"
n = 3
[[explainers]]
explainer = "edit_test"
dataset = "inference"
n = 3
[[explainers]]
explainer = "chain_of_thought"
dataset = "claims"
n = 2
[[explainers]]
explainer = "biased_features"
dataset = "inference"
n = 2
[[explainers]]
explainer = "cc_shap"
dataset = "inference"
n = 1
players = 6  # and so all 64 coalitions, exact
coalitions = 64
[[explainers]]
explainer = "memorization"
dataset = "relations"
n = 9
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explainers")
    (folder / "sweep.toml").write_text(SWEEP)
    quantxai("sweep", "sweep.toml", where=folder)
    return folder


def test_every_explainer_was_run() -> None:
    lines = (SWEEP + INSIDE).splitlines()
    named = {line.split('"')[1] for line in lines if line.startswith("explainer =")}
    assert named == set(registry.names("explainer"))


def test_every_scorer_measured_every_item_of_both_variants(folder: Path) -> None:
    found = rows(folder, "select distinct scorer from measurements")
    elsewhere = {n for n in registry.names("scorer") if registry.method("scorer", n).optional}
    elsewhere |= {"neuron_attribution", "multi_hop"}
    assert {r["scorer"] for r in found} == set(registry.names("scorer")) - elsewhere
    counts = rows(
        folder,
        "select explainer, scorer, metric, count(distinct variant) as variants from measurements group by all",
    )
    assert {c["variants"] for c in counts} == {2}


def test_what_the_model_says_can_be_used(folder: Path) -> None:
    """Half of the answers or more are no failures, and they have values."""
    failed = rows(
        folder,
        "select explainer, avg(value) as share from measurements where metric = 'failure' and variant = 'full' "
        "group by explainer",
    )
    assert {f["explainer"] for f in failed} == {"guided", "flare", "natural_language", "zero_shot"}
    assert all(f["share"] <= 0.5 for f in failed), failed
    known = rows(folder, "select metric, count(value) as n from measurements group by metric")
    without = {k["metric"] for k in known if not k["n"]}
    # Nothing need flip or switch among a handful of items.
    assert without <= {"mention_given_flip", "mentions_suggestion", "gain_leaking", "gain_nonleaking"}


def test_the_parent_judges_its_own_edits_as_itself(folder: Path) -> None:
    pairs = rows(
        folder,
        "select a.value as own, b.value as crossed from measurements a join measurements b "
        "using (variant, explainer, dataset, item) where variant = 'full' and a.metric = 'own_soft_flip' "
        "and b.metric = 'variant_soft_flip_of_parent_edits'",
    )
    assert len(pairs) == 6
    assert all(p["own"] == p["crossed"] for p in pairs)


def test_the_independent_judge_is_worth_something_and_says_so(folder: Path) -> None:
    notes = [
        n["independent_judge"]
        for _, n in Store.open(folder / "runs/default").notes()
        if "independent_judge" in n
    ]
    assert len(notes) == 4, "both variants wrote edits, guided and by FLARE"
    assert all(note["low"] <= note["accuracy"] <= note["high"] for note in notes)


def test_contributions_add_up_to_what_the_input_changes(folder: Path) -> None:
    found = rows(folder, "select to_prediction, players from rows where explainer = 'cc_shap'")
    assert len(found) == 2
    assert all(len(f["to_prediction"]) == len(f["players"]) for f in found if f["to_prediction"])
    assert any(any(abs(v) > 0.01 for v in f["to_prediction"] or ()) for f in found)

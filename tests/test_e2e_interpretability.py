"""Knowledge attribution, two hops and the lens on the real SmolLM2-135M and on every variant of the default sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REAL_ENVIRONMENT
from test_e2e import VARIANTS, quantxai, rows

pytestmark = pytest.mark.e2e

KERNELS = {"nf4-kernel": "nf4", "gptq-4-kernel": "gptq-4"}
"""Variants on their kernel, and those of the default sweep that are their dequantized twins."""
ITEMS = 2
"""As many as the default sweep of these tests has."""
SWEEP = f"""
[[variants]]
quantizer = "full"
[[variants]]
quantizer = "bnb"
format = "nf4"
execution = "kernel"
name = "nf4-kernel"
[[variants]]
quantizer = "gptq"
bits = 4
group_size = 64
execution = "kernel"
name = "gptq-4-kernel"
[[explainers]]
explainer = "neuron_attribution"
dataset = "relations"
n = {ITEMS}
[[explainers]]
explainer = "multi_hop"
dataset = "two_hop"
n = {ITEMS}
"""
LOOKED_INTO = {*VARIANTS, *KERNELS}


@pytest.fixture(scope="module")
def kernels(default_sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which both analyses were run on kernels, once the default sweep has made their weights."""
    folder = tmp_path_factory.mktemp("interpretability")
    (folder / "sweep.toml").write_text(SWEEP)
    quantxai("sweep", "sweep.toml", "--out", "runs/default", where=folder)
    return folder


def of_variant(folder: Path, explainer: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows(folder, f"select * from rows where explainer = '{explainer}' order by item"):
        found.setdefault(row["variant"], []).append(row)
    return found


def test_every_variant_is_looked_into(default_sweep: Path, kernels: Path) -> None:
    for explainer in ("neuron_attribution", "multi_hop"):
        found = of_variant(kernels, explainer) | of_variant(default_sweep, explainer)
        assert set(found) == LOOKED_INTO
        for variant, observed in found.items():
            assert [r["problem"] for r in observed] == [None] * ITEMS, variant


def test_every_item_is_measured(default_sweep: Path, kernels: Path) -> None:
    for scorer in ("neuron_attribution", "multi_hop"):
        sql = f"select variant, count(distinct item) as n from measurements where scorer = '{scorer}' group by all"
        found = [*rows(kernels, sql), *rows(default_sweep, sql)]
        assert {r["variant"]: r["n"] for r in found} == dict.fromkeys(LOOKED_INTO, ITEMS)


def test_the_best_neurons_are_found_again_in_a_good_variant_more_than_in_a_bad_one(
    default_sweep: Path,
) -> None:
    overlap = {
        r["variant"]: r["m"]
        for r in rows(
            default_sweep,
            "select variant, avg(value) as m from measurements where metric = 'neuron_overlap' group by variant",
        )
    }
    assert overlap["full"] == 1
    assert overlap["int8"] > overlap["rtn-4"] > 0.05
    assert overlap["int8"] > overlap["gptq-3"]


def test_rows_have_the_models_shape_and_the_best_come_first(default_sweep: Path, kernels: Path) -> None:
    found = of_variant(kernels, "neuron_attribution") | of_variant(default_sweep, "neuron_attribution")
    for variant, observed in found.items():
        for row in observed:
            assert len(row["ffn_scores"]) == len(row["attention_scores"]) == 30
            assert len(row["head_scores"]) == 30 * row["heads"]
            scores = row["neuron_scores"]
            assert scores == sorted(scores, reverse=True)
            assert len(scores) >= 300, variant


@pytest.mark.parametrize("kernel", KERNELS)
def test_twin_and_kernel_agree_within_what_the_receipt_says(
    default_sweep: Path, kernels: Path, kernel: str
) -> None:
    twin = KERNELS[kernel]
    receipt = json.loads((default_sweep / "runs/default/variants" / twin / "receipt.json").read_text())
    allowed = receipt["largest_logit_difference_to_kernel"]
    found = of_variant(kernels, "neuron_attribution") | of_variant(default_sweep, "neuron_attribution")
    for one, other in zip(found[kernel], found[twin], strict=True):
        # A log-probability moves by at most twice what logits move by.
        assert abs(one["logprob"] - other["logprob"]) <= 2 * allowed + 0.01
        assert np.abs(np.subtract(one["ffn_scores"], other["ffn_scores"])).max() <= 4 * allowed + 0.01
        top, other_top = (
            set(zip(r["neuron_layers"][:300], r["neuron_indices"][:300], strict=True)) for r in (one, other)
        )
        assert len(top & other_top) > 270
    found = of_variant(kernels, "multi_hop") | of_variant(default_sweep, "multi_hop")
    for one, other in zip(found[kernel], found[twin], strict=True):
        assert np.abs(np.subtract(one["entrec"][-1], other["entrec"][-1])) <= 2 * allowed + 0.01
        assert abs(one["jsd"] - other["jsd"]) <= allowed + 0.01


def test_two_hop_questions_recover_their_bridge_better_than_others(default_sweep: Path) -> None:
    """A positive control on real weights: the mention of a country makes its name likelier than another's does."""
    observed = of_variant(default_sweep, "multi_hop")["full"]
    last = [(r["entrec"][-1], r["entrec_entity"][-1]) for r in observed if r["entrec_entity"]]
    assert len(last) == ITEMS
    assert np.mean([own > other for own, other in last]) > 0.5


def test_zeroing_the_found_neurons_costs_more_than_zeroing_others(
    default_sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablating the 10 best neurons of a fact lowers log p(gold) more than 10 random ones of the same layers."""
    import torch
    from scipy.stats import wilcoxon

    from explainers.attribution import attribute
    from quantxai.checkpoints import load_dense, load_tokenizer
    from quantxai.datasets import load_dataset, take
    from quantxai.engine import TransformersModel
    from quantxai.models import pull, resolve

    # The tests' own cache is empty; in the real one the sweep has put the model.
    real = REAL_ENVIRONMENT.get("QUANTXAI_CACHE")
    if real is None:
        monkeypatch.delenv("QUANTXAI_CACHE")
    else:
        monkeypatch.setenv("QUANTXAI_CACHE", real)
    path = pull(resolve("smollm2-135m"), lambda text: None)
    lm = TransformersModel(load_dense(path, "float32", "cpu"), load_tokenizer(path))
    inside = lm.internals()
    facts = take(load_dataset("relations"), 27, seed=0).items
    prompts = [i.fields["template"].replace("{}", i.text) for i in facts]
    targets = [lm.tokenizer(f" {i.label}", add_special_tokens=False).input_ids[0] for i in facts]
    whole = inside.next_tokens(prompts)
    found = attribute(inside, inside.trace(prompts), targets)
    rng = torch.Generator().manual_seed(0)
    best = [list(zip(a.layers[:10].tolist(), a.neurons[:10].tolist(), strict=True)) for a in found]
    others = [
        [(layer, int(torch.randint(inside.ffn_width, (1,), generator=rng))) for layer, _ in chosen]
        for chosen in best
    ]
    rows_ = torch.arange(len(facts))
    lost = {
        name: (whole - inside.ablated(prompts, chosen))[rows_, targets].numpy()
        for name, chosen in (("best", best), ("others", others))
    }
    assert lost["best"].mean() > lost["others"].mean() + 0.3
    assert wilcoxon(lost["best"], lost["others"], alternative="greater").pvalue < 1e-6

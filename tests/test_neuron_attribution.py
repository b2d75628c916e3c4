"""Neuron attribution: which facts are asked, what is stored of them, and how two variants are compared."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeContext
from oracles import attribution_measures as oracle

from explainers.memorization import Memorization
from explainers.neuron_attribution import NeuronAttribution, NeuronAttributionRow, first_token
from explainers.scorers.neuron_attribution import NeuronAttributionScorer, cosine, rank_correlation
from quantxai.config import parse_config
from quantxai.datasets import Dataset, load_dataset
from quantxai.errors import ConfigError, ModelError
from quantxai.plan import make_plan
from quantxai.records import Item

pytestmark = pytest.mark.bare

Neuron = tuple[int, int]


# -- the comparison ------------------------------------------------------------------------------


def row(item: str = "a", scores: dict[Neuron, float] | None = None, **columns: Any) -> NeuronAttributionRow:
    """A row of these neurons; the profiles are those of two layers with two heads."""
    ordered = sorted((scores or {}).items(), key=lambda s: -s[1])
    usual: dict[str, Any] = {
        "ffn_scores": [1.0, 2.0],
        "attention_scores": [0.5, -0.5],
        "head_scores": [0.1, 0.2, -0.3, 0.4],
        "heads": 2,
        "query_layers": [0, 0],
        "query_indices": [4, 7],
        "query_scores": [0.2, 0.1],
        "problem": None,
    }
    return NeuronAttributionRow(
        item=item,
        group="g",
        prompt="The capital of Chad is",
        gold="N'Djamena",
        mode="exact",
        neuron_layers=[layer for (layer, _), _ in ordered],
        neuron_indices=[index for (_, index), _ in ordered],
        neuron_scores=[score for _, score in ordered],
        **{**usual, **columns},
    )


def compared(
    own: Sequence[NeuronAttributionRow], parent: Sequence[NeuronAttributionRow], top: int = 300
) -> dict[str, dict[str, float | None]]:
    """The scores by item and metric."""
    context = FakeContext()
    context.parent_rows = parent
    data = load_dataset("relations")
    found: dict[str, dict[str, float | None]] = {}
    for score in NeuronAttributionScorer(top=top).scores(own, data, context):
        found.setdefault(score.item, {})[score.metric] = score.value
    return found


def test_numbers_worked_out_by_hand() -> None:
    parent = row(scores={(0, 1): 0.9, (1, 1): 0.8, (1, 2): 0.5, (0, 3): 0.1})
    variant = row(
        scores={(1, 1): 0.7, (0, 1): 0.6, (0, 2): 0.5, (1, 2): 0.2},
        ffn_scores=[2.0, 1.0],
        attention_scores=[-1.0, 1.0],
        head_scores=[0.2, 0.4, -0.6, 0.8],
        query_layers=[0, 1],
        query_indices=[7, 7],
    )
    found = compared([variant], [parent], top=3)["a"]
    # Parent's top 3: (0,1), (1,1), (1,2), tau 0.5; the variant's: (1,1), (0,1), (0,2), tau 0.5.
    assert found["neurons_above"] == 3
    assert found["neurons_above_reverse"] == 3
    assert found["neuron_overlap"] == 2 / 4
    # Ranks of (0,1), (1,1), (1,2), (0,2): the parent's 1 2 3 4, the variant's 2 1 4 3.
    assert found["neuron_rank_correlation"] == pytest.approx(1 - 6 * 4 / (4 * 15))
    assert found["ffn_profile_similarity"] == pytest.approx(4 / 5)
    assert found["attention_profile_similarity"] == pytest.approx(-1)
    assert found["head_profile_similarity"] == pytest.approx(1)
    assert found["query_overlap"] == pytest.approx(1 / 3)
    assert found["failure"] == 0


def test_larger_scores_are_counted_in_one_direction_and_the_neurons_stay_the_same() -> None:
    scores = {(layer, k): 1 / (1 + k + 10 * layer) for layer in range(2) for k in range(10)}
    found = compared([row(scores={n: 2 * s for n, s in scores.items()})], [row(scores=scores)], top=5)["a"]
    assert found["neurons_above"] == 10  # those with 2 / (1 + rank) at or above 1 / 5
    assert found["neurons_above_reverse"] == 2
    assert found["neuron_overlap"] == 1
    assert found["neuron_rank_correlation"] == pytest.approx(1)


def test_the_parent_is_like_itself() -> None:
    rng = random.Random(1)
    one = row(scores={(0, k): rng.random() for k in range(600)}, rank=1)
    found = compared([one], [one])["a"]
    assert found["neurons_above"] == found["neurons_above_reverse"] == 300
    same = [v for name, v in found.items() if not name.startswith("neurons_above") and name != "failure"]
    assert same == pytest.approx([1] * 7)


@pytest.mark.parametrize("seed", range(4))
def test_the_slow_way_finds_the_same(seed: int) -> None:
    rng = random.Random(seed)
    neurons = [(layer, k) for layer in range(4) for k in range(20)]
    parent = {n: rng.gauss(0, 1) for n in rng.sample(neurons, 60)}
    variant = {n: parent.get(n, 0) + rng.gauss(0, 0.3) for n in rng.sample(neurons, 50)}
    profiles = [[rng.gauss(0, 1) for _ in range(4)] for _ in range(2)]
    found = compared(
        [row(scores=variant, ffn_scores=profiles[0])], [row(scores=parent, ffn_scores=profiles[1])], top=20
    )["a"]
    assert found["neurons_above"] == oracle.above(variant, parent, 20)
    assert found["neurons_above_reverse"] == oracle.above(parent, variant, 20)
    assert found["neuron_overlap"] == pytest.approx(oracle.overlap(variant, parent, 20), rel=1e-12)
    assert found["neuron_rank_correlation"] == pytest.approx(oracle.spearman(variant, parent, 20), rel=1e-12)
    assert found["ffn_profile_similarity"] == pytest.approx(oracle.cosine(*profiles), rel=1e-12)


def test_neurons_that_are_not_kept_share_the_last_rank() -> None:
    one, other = [(0, k) for k in range(4)], [(0, 0), (0, 1), (0, 9), (0, 8)]
    # Of (0,0), (0,1), (0,2), (0,3), (0,9), (0,8): ranks 1 2 3 4 5.5 5.5 and 1 2 5.5 5.5 3 4.
    expected = oracle.pearson([1, 2, 3, 4, 5.5, 5.5], [1, 2, 5.5, 5.5, 3, 4])
    assert rank_correlation(one, other, 4) == pytest.approx(expected)
    assert rank_correlation(one, other, 1) is None
    assert rank_correlation([], [], 4) is None


def test_without_an_attribution_on_both_sides_there_is_no_value() -> None:
    good = {(0, 1): 0.9, (0, 2): 0.1}
    own = [row("a", problem="the object is empty"), row("b", good), row("c", good), row("d", good)]
    parent = [row("a", good), row("b", problem="the object is empty"), row("d", good)]
    found = compared(own, parent)
    assert [found[item]["failure"] for item in "abcd"] == [1, 0, 0, 0]
    for item in "abc":
        assert {v for name, v in found[item].items() if name != "failure"} == {None}
    assert found["d"]["neuron_overlap"] == 1


def test_what_has_no_query_neurons_or_no_profile_is_null() -> None:
    plain = row(
        scores={(0, 1): 0.9}, query_layers=[], query_indices=[], query_scores=[], ffn_scores=[0.0, 0.0]
    )
    found = compared([plain], [plain])["a"]
    assert found["query_overlap"] is None
    assert found["ffn_profile_similarity"] is None
    assert cosine([], []) is None
    one = row(scores={(0, 1): 0.9})
    assert compared([plain], [one])["a"]["query_overlap"] == 0


def test_what_could_not_be_attributed_is_listed() -> None:
    context = FakeContext()
    rows = [row("a"), row("b", problem="the object is empty"), row("c", problem="the object is empty")]
    list(NeuronAttributionScorer().scores(rows, load_dataset("relations"), context))
    assert context.notes == {"nothing_attributed": {"the object is empty": ["b", "c"]}}


# -- what is asked -------------------------------------------------------------------------------


class Scripted:
    """A tokenizer whose tokens are given: what each text is cut into, and what each token reads as."""

    def __init__(self, cut: dict[str, list[int]], read: dict[int, str]) -> None:
        self.cut, self.read = cut, read

    def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
        return SimpleNamespace(input_ids=self.cut[text])

    def tokens(self, text: str) -> list[int]:
        return self.cut[text]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.read[i] for i in ids)


@pytest.mark.parametrize(
    ("text", "cut", "expected"),
    [
        ("Lima", [1, 2, 3], (3, None)),
        ("Rome", [9, 5], (5, None)),  # the prompt's last token joins the object's: as if cut apart
        (None, [], (None, "the object is empty")),
        (" \n", [], (None, "the object is empty")),
        ("-", [1, 2], (None, "the object has no tokens")),
        ("1999", [1, 2, 4, 3], (None, "the object's first token is white space")),
        ("é", [1, 2, 6, 3], (None, "the object's first token is part of a character")),
    ],
)
def test_the_first_token_of_an_object(text: str | None, cut: list[int], expected: tuple[Any, Any]) -> None:
    read = {3: " Lima", 4: " ", 5: " Rome", 6: " \N{REPLACEMENT CHARACTER}"}
    known = {"The": [1, 2], f"The {text}": cut, " Rome": [5]}
    tokenizer = Scripted(known, read)
    internals: Any = SimpleNamespace(tokens=tokenizer.tokens, tokenizer=tokenizer)
    assert first_token(internals, "The", text) == expected


def test_more_kept_than_scored_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"survivors = 100 .* kept = 600.*raise survivors or lower kept"):
        parse_config(
            {"explainers": [{"explainer": "neuron_attribution", "dataset": "relations", "survivors": 100}]}
        )
    assert NeuronAttribution(mode="exact", survivors=100).work.read > NeuronAttribution().work.read


def test_vllm_is_refused_at_planning() -> None:
    asked = [{"explainer": "neuron_attribution", "dataset": "relations"}]
    with pytest.raises(ConfigError, match=r"needs ffn and residuals of a model.*vllm.*offers") as found:
        make_plan(parse_config({"engine": "vllm", "explainers": asked, "variants": [{"quantizer": "full"}]}))
    assert 'Use engine = "transformers"' in str(found.value)


# -- on the tiny trained model -------------------------------------------------------------------


def noted(own: Sequence[NeuronAttributionRow], parent: Sequence[NeuronAttributionRow], top: int) -> Any:
    context = FakeContext()
    context.parent_rows = parent
    list(NeuronAttributionScorer(top=top).scores(own, load_dataset("relations"), context))
    return context.notes


def test_what_failed_is_no_value_and_is_noted() -> None:
    parent = row(scores={(0, 1): 0.9, (1, 1): 0.8}, rank=1, token=" N", certain=2)
    variant = row(
        scores={(0, 1): 0.9, (1, 1): 0.8}, token=" N", certain=1, query_problem="no values", query_layers=[],
        query_indices=[], query_scores=[],
    )  # fmt: skip

    found = compared([variant], [parent], top=2)["a"]

    assert found["query_overlap"] is None
    assert found["neuron_overlap"] == found["neuron_overlap_known"] == 1
    assert noted([variant], [parent], 2) == {
        "no_query_neurons": {"no values": ["a"]},
        "top_not_proven": ["a"],
        "neurons_above_at_its_limit": ["a"],
    }
    assert noted([parent], [parent], 1) == {}


def test_facts_the_parent_does_not_know_are_left_out_of_the_known() -> None:
    parent = row(scores={(0, 1): 0.9}, rank=2)
    assert compared([parent], [parent])["a"]["neuron_overlap"] == 1
    assert compared([parent], [parent])["a"]["neuron_overlap_known"] is None


def test_another_token_is_another_question() -> None:
    parent, other = row(scores={(0, 1): 0.9}, token=" N"), row(scores={(0, 1): 0.9}, token=" Paris")
    assert {v for m, v in compared([other], [parent])["a"].items() if m != "failure"} == {None}


@pytest.fixture(scope="module")
def lm(tiny_path: Path) -> Any:
    from quantxai.checkpoints import load_dense, load_tokenizer
    from quantxai.engine import TransformersModel

    return TransformersModel(load_dense(tiny_path, "float64", "cpu"), load_tokenizer(tiny_path))


def facts(*changed: Item) -> Dataset:
    data = load_dataset("relations")
    return data.model_copy(update={"items": (*changed, *data.items[:30])})


def attributed(lm: Any, data: Dataset, **options: Any) -> list[NeuronAttributionRow]:
    found = list(NeuronAttribution(**options).rows(lm.anew(), data, data.items, seed=0))
    assert all(isinstance(r, NeuronAttributionRow) for r in found)
    return found  # type: ignore[return-value]


def test_a_row_says_what_memorization_says_of_the_same_fact(lm: Any) -> None:
    data = facts()
    remembered = Memorization().rows(lm.anew(), data, data.items, seed=0)
    scored = lm.anew().logprobs([r.prompt for r in attributed(lm, data)], [f" {i.label}" for i in data.items])
    for found, other, gold in zip(attributed(lm, data), remembered, scored, strict=True):
        assert (found.prompt, found.rank) == (other.prompt, other.rank)  # type: ignore[attr-defined]
        assert found.logprob == pytest.approx(gold.logprobs[0], abs=1e-5)
        assert found.token is not None
        assert f" {found.gold}".startswith(found.token)


def test_lists_have_the_models_shape_and_the_best_come_first(lm: Any) -> None:
    for mode in ("fast", "exact"):
        for found in attributed(lm, facts(), mode=mode, kept=50, survivors=100):
            neurons = list(zip(found.neuron_layers, found.neuron_indices, strict=True))
            assert len(set(neurons)) == len(neurons) == len(found.neuron_scores) == 50
            assert all(0 <= layer < 2 and 0 <= k < 128 for layer, k in neurons)
            assert found.neuron_scores == sorted(found.neuron_scores, reverse=True)
            assert found.query_scores == sorted(found.query_scores, reverse=True)
            assert len(found.ffn_scores) == len(found.attention_scores) == 2
            assert (found.heads, len(found.head_scores)) == (4, 8)
            assert found.problem is None
    assert len(attributed(lm, facts())[0].neuron_scores) == 256, "no more than there are"


def test_the_predicted_token_can_be_attributed(lm: Any) -> None:
    data = facts()
    for found, gold in zip(attributed(lm, data, target="predicted"), attributed(lm, data), strict=True):
        assert found.rank == 1
        assert found.logprob is not None
        assert gold.logprob is not None
        assert found.logprob >= gold.logprob
        assert (found.neuron_scores == gold.neuron_scores) == (gold.rank == 1)


def test_facts_that_cannot_be_attributed_are_listed_and_change_no_other(lm: Any) -> None:
    fact = load_dataset("relations").items[0]
    bad = {
        "the object is empty": fact.model_copy(update={"label": " "}),
        "the query does not name the subject": fact.model_copy(
            update={"fields": {**fact.fields, "template": "The capital is"}}
        ),
        "the object's first token is white space": fact.model_copy(update={"label": "\u6771\u4eac"}),
    }
    found = attributed(lm, facts(*bad.values()))
    assert [r.problem for r in found[:3]] == list(bad)
    for broken in found[:3]:
        assert (broken.token, broken.logprob, broken.rank, broken.heads) == (None, None, None, 0)
        assert broken.neuron_scores == broken.ffn_scores == broken.head_scores == broken.query_layers == []
    others = attributed(lm, facts())
    assert [r.item for r in found[3:]] == [r.item for r in others]
    assert [r.neuron_indices for r in found[3:]] == [r.neuron_indices for r in others]
    only = [
        r.problem for r in attributed(lm, facts().model_copy(update={"items": (bad["the object is empty"],)}))
    ]
    assert only == ["the object is empty"]


def test_numbers_that_are_not_finite_are_a_problem_and_change_no_other(
    lm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantxai.internals import Internals

    trace, whole = Internals.trace, attributed(lm, facts())

    def overflown(self: Internals, prompts: Sequence[str]) -> Any:
        found = trace(self, prompts)
        return [replace(found[0], residuals=found[0].residuals * float("inf")), *found[1:]]

    monkeypatch.setattr(Internals, "trace", overflown)
    first, *others = attributed(lm, facts())
    assert first.problem == "the model's numbers are not finite"
    assert first.logprob is None
    assert first.neuron_scores == first.ffn_scores == []
    assert [r.neuron_indices for r in others] == [r.neuron_indices for r in whole[1:]]


def test_less_memory_means_fewer_facts_at_a_time_and_the_same_rows(
    lm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantxai.internals import Internals

    traced: list[int] = []
    trace = Internals.trace

    def counted(self: Internals, prompts: Sequence[str]) -> Any:
        traced.append(len(prompts))
        return trace(self, prompts)

    monkeypatch.setattr(Internals, "trace", counted)
    wide, narrow = attributed(lm, facts()), attributed(lm, facts(), memory=2**20)
    assert traced[0] == 30
    assert len(traced) > 2
    assert sum(traced[1:]) == 30
    assert 30 * 2**19 // traced[1] < 2**25, "as many as half of the memory holds"
    for one, other in zip(wide, narrow, strict=True):
        assert one.neuron_indices == other.neuron_indices
        assert one.neuron_scores == pytest.approx(other.neuron_scores, abs=1e-9)


def test_a_row_says_what_was_done(lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = facts().model_copy(update={"items": load_dataset("relations").items[:1]})
    assert [r.mode for r in attributed(lm, data)] == ["fast"]
    readout = lm.internals().readout
    # With a soft cap every neuron is scored; this one is too wide to change a number.
    monkeypatch.setattr(type(lm.internals()), "readout", property(lambda self: replace(readout, softcap=1e6)))
    assert [r.mode for r in attributed(lm, data)] == ["exact"]


def test_heads_are_followed_back_to_query_neurons(lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = facts().model_copy(update={"items": load_dataset("relations").items[:4]})
    for found in attributed(lm, data):
        assert found.query_problem is None
        assert found.query_scores == sorted(found.query_scores, reverse=True)
        assert len(found.query_layers) == len(found.query_indices) == len(found.query_scores)
        # A neuron of the last layer feeds no head.
        assert set(found.query_layers) <= {0}
    assert any(found.query_scores for found in attributed(lm, data))
    assert not any(found.query_scores for found in attributed(lm, data, query_heads=0))

    def refuse(self: Any, prompt: str) -> Any:
        raise ModelError("where the values come from")

    monkeypatch.setattr("quantxai.internals.Internals.paths", refuse)
    for found in attributed(lm, data):
        assert found.query_problem == "where the values come from"
        assert not found.query_scores
        assert found.neuron_scores, "the rest is kept"


def test_a_variant_is_compared_with_its_parent_in_a_sweep(
    lm: Any, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored rows of a parent and of a disturbed copy, scored by the job of a sweep."""
    import torch

    from quantxai.engine import TransformersModel
    from quantxai.jobs import ScoreRows
    from quantxai.run import Silent, _Sweep
    from quantxai.store import Store, rows_to_table

    monkeypatch.setenv("QUANTXAI_CACHE", str(tmp_path / "cache"))
    plan = make_plan(
        parse_config(
            {
                "model": {"name": str(tiny_path), "dtype": "float32", "device": "cpu"},
                "variants": [{"quantizer": "full"}, {"quantizer": "rtn", "bits": 4, "group_size": 32}],
                "explainers": [
                    {"explainer": "neuron_attribution", "dataset": "relations", "n": 36, "cell_items": 18}
                ],
                "scorers": [{"scorer": "neuron_attribution", "top": 20}],
            }
        )
    )
    disturbed = copy.deepcopy(lm.model)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in disturbed.model.layers:
            layer.mlp.up_proj.weight *= 1 + 0.3 * torch.randn_like(layer.mlp.up_proj.weight)
    models = {"full": lm, "rtn-4": TransformersModel(disturbed, lm.tokenizer)}
    store = Store(tmp_path / "run")
    store.write_manifest(plan.manifest(["a test"]))
    sweep = _Sweep(plan, store, Silent(), False)
    of_variant = next(c for c in plan.scores if c.key.variant == "rtn-4")
    rows: dict[str, list[NeuronAttributionRow]] = {"full": [], "rtn-4": []}
    for cell in sorted(plan.rows, key=lambda c: c.key.variant == "full"):
        assert not sweep._explained(of_variant), "the parent's rows are awaited, too"
        found = list(
            cell.entry.explainer.rows(models[cell.key.variant].anew(), cell.entry.dataset, cell.items, 0)
        )
        rows[cell.key.variant] += found
        store.write(cell.key, rows_to_table(found, NeuronAttributionRow))
    assert sweep._explained(of_variant)

    said: list[Any] = []
    ScoreRows("scoring", 1, plan.parent, plan.parent, tiny_path, store.path, plan.scores, 8192)(
        lambda *message: said.append(message)
    )

    assert [kind for kind, _ in said] == ["done", "done"]
    for cell in plan.scores:
        expected = compared(rows[cell.key.variant], rows["full"], top=20)
        table = store.read(cell.key).to_pylist()
        assert {(s["item"], s["metric"]): s["value"] for s in table} == {
            (item, metric): value for item, values in expected.items() for metric, value in values.items()
        }
    values = store.measurements().groupby(["variant", "metric"])["value"].mean()
    assert values["full", "neuron_overlap"] == 1
    assert values["full", "neurons_above"] == 20
    assert 0.1 < values["rtn-4", "neuron_overlap"] < 0.99

"""Latent multi-hop reasoning: measures against slow oracles, what is asked and stored, a planted circuit."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from fakes import FakeContext

from explainers.multi_hop import MultiHop, MultiHopRow, _together, causal_layers
from explainers.scorers.multi_hop import MultiHopScorer
from quantxai._published import Entry
from quantxai._two_hop import two_hop_fact_items
from quantxai.checkpoints import load_dense, load_tokenizer
from quantxai.datasets import Dataset, load_dataset, take
from quantxai.errors import DataError
from quantxai.records import Item

if TYPE_CHECKING:
    from quantxai.internals import Internals

torch = pytest.importorskip("torch")

from oracles import multi_hop as oracle  # noqa: E402

from explainers import multi_hop_measures as measures  # noqa: E402
from quantxai.engine import TransformersModel  # noqa: E402


@pytest.fixture(scope="module")
def lm(tiny_path: Path) -> TransformersModel:
    """The tiny trained model in float64, its norms too: transformers computes these in float32."""
    model = load_dense(tiny_path, "float64", "cpu")
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = MethodType(_norm, module)
    return TransformersModel(model, load_tokenizer(tiny_path))


def _norm(self: Any, h: Any) -> Any:
    return self.weight * h * torch.rsqrt(h.square().mean(-1, keepdim=True) + self.variance_epsilon)


def questions(n: int = 6) -> Dataset:
    return take(load_dataset("two_hop"), n, seed=0)


def changed(item: Item, label: str | None = None, **fields: str) -> Item:
    update = {"fields": {**item.fields, **fields}, "label": item.label if label is None else label}
    return item.model_copy(update={k: v for k, v in update.items() if v is not None})


def rows(lm: Any, dataset: Dataset, **options: Any) -> list[MultiHopRow]:
    found = list(MultiHop(**options).rows(lm, dataset, dataset.items, seed=0))
    return [row for row in found if isinstance(row, MultiHopRow)]


def mention(lm: TransformersModel, row: MultiHopRow, item: Item) -> int:
    """The description's last token: tokens are counted up to its end, which no token goes across."""
    before, description, _ = row.two_hop_prompt.partition(item.fields["description"])
    return len(lm.tokenizer(before + description).input_ids) - 1


def first(lm: TransformersModel, text: str) -> int:
    return int(lm.tokenizer(f" {text}").input_ids[0])


# -- the measures --------------------------------------------------------------------------------


def test_entrec_is_the_oracles(lm: TransformersModel) -> None:
    readout = lm.internals().readout
    residuals = torch.randn(
        2, 3, readout.hidden, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    tokens = torch.tensor([[5, 700, 5], [0, 1, 2]])
    found = measures.entity_recall(readout, residuals, tokens)
    assert found.shape == (2, 3)
    for i, j in ((0, 0), (0, 1), (1, 2)):
        expected = oracle.entrec(lm.model, residuals[i, j].tolist(), int(tokens[i, j]))
        assert float(found[i, j]) == pytest.approx(expected, rel=1e-6)


def test_entrec_in_parts_is_the_same(lm: TransformersModel, monkeypatch: pytest.MonkeyPatch) -> None:
    readout = lm.internals().readout
    residuals = torch.randn(5, readout.hidden, dtype=torch.float64)
    whole = measures.entity_recall(readout, residuals, torch.arange(5))
    monkeypatch.setattr(measures, "LOGIT_BYTES", 2 * 8 * readout.vocabulary)
    assert torch.allclose(measures.entity_recall(readout, residuals, torch.arange(5)), whole, rtol=1e-12)


def test_consistency_and_divergence_are_the_oracles() -> None:
    logits = 3 * torch.randn(2, 4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p, q = logits.log_softmax(-1)
    cnst, jsd = measures.consistency(p, q), measures.jensen_shannon(p, q)
    for i in range(4):
        one, other = p[i].exp().tolist(), q[i].exp().tolist()
        assert float(cnst[i]) == pytest.approx(oracle.cnst(one, other), rel=1e-6)
        assert float(jsd[i]) == pytest.approx(oracle.jsd(one, other), rel=1e-6)


def test_consistency_and_divergence_by_hand() -> None:
    """CE(p, q) + CE(q, p) = 2 ln 2 + ln 2 where p is certain and q is (1/4, 3/4) on what p holds possible."""
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    both = -0.5 * (math.log(0.25) + math.log(0.75)) + math.log(2)
    assert float(measures.consistency(p, q)) == pytest.approx(-both / 2, rel=1e-6)
    assert float(measures.jensen_shannon(p, p)) == pytest.approx(0, abs=1e-7)
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log()
    assert float(measures.jensen_shannon(*apart)) == pytest.approx(math.log(2), rel=1e-6)
    flat = torch.full((1, 8), 1 / 8).log()
    assert float(measures.consistency(flat, flat)) == pytest.approx(-math.log(8), rel=1e-6), (
        "entropy is in it"
    )


def test_nudges_go_along_the_gradient_by_the_step(lm: TransformersModel) -> None:
    readout = lm.internals().readout
    residuals = torch.randn(
        3, readout.hidden, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    moves, alpha = measures.nudges(readout, residuals, torch.tensor([7, 8, 9]), 0.1)
    assert torch.allclose(moves.norm(dim=-1), 0.1 * residuals.norm(dim=-1))
    for move, a, h, token in zip(moves, alpha, residuals, (7, 8, 9), strict=True):
        assert torch.allclose(move / a, oracle.entrec_gradient(lm.model, h, token), rtol=1e-6, atol=1e-12)


def test_layers_of_the_causal_link_spread_over_the_depth() -> None:
    assert causal_layers(30, 4) == [6, 12, 18, 24]
    assert causal_layers(32, 1) == [16]
    assert causal_layers(30, 0) == causal_layers(1, 4) == []
    assert causal_layers(4, 100) == [1, 2, 3], "neither the embedding nor what enters the final norm"


# -- rows ----------------------------------------------------------------------------------------


def test_a_row_is_what_the_oracles_find(lm: TransformersModel) -> None:
    dataset = questions(3)
    for row, item in zip(rows(lm, dataset, step=1e-3), dataset.items, strict=True):
        ids, others = (lm.tokenizer(p).input_ids for p in (item.text, item.fields["second_prompt"]))
        place, token = mention(lm, row, item), first(lm, item.fields["bridge"])
        assert row.problem is None
        assert row.token == lm.tokenizer.decode([token])
        for layer, h in enumerate(oracle.residuals(lm.model, ids, place)):
            assert row.entrec[layer] == pytest.approx(oracle.entrec(lm.model, h.tolist(), token), rel=1e-6)
        assert len(row.entrec) == len(row.entrec_entity) == len(row.entrec_relation) == 3
        p, q = oracle.next_tokens(lm.model, ids), oracle.next_tokens(lm.model, others)
        assert row.cnst == pytest.approx(oracle.cnst(p, q), rel=1e-6)
        assert row.jsd == pytest.approx(oracle.jsd(p, q), rel=1e-6)
        assert (row.causal_layers, row.causal_step) == ([1], 1e-3)
        expected = oracle.causal_derivative(lm.model, ids, others, place, 1, token)
        assert row.causal_derivatives == [pytest.approx(expected, rel=1e-3)]


def test_the_controls_are_read_at_the_end_of_their_description(lm: TransformersModel) -> None:
    dataset = questions(3)
    for row, item in zip(rows(lm, dataset), dataset.items, strict=True):
        for prompt, found in (
            (item.fields["entity_prompt"], row.entrec_entity),
            (item.fields["relation_prompt"], row.entrec_relation),
        ):
            ids = lm.tokenizer(prompt).input_ids
            residuals = oracle.residuals(lm.model, ids, len(ids) - 1)
            token = first(lm, item.fields["bridge"])
            assert found == pytest.approx(
                [oracle.entrec(lm.model, h.tolist(), token) for h in residuals], rel=1e-6
            )
        assert (row.entity_prompt, row.relation_prompt) == (
            item.fields["entity_prompt"],
            item.fields["relation_prompt"],
        )


def test_a_set_without_controls_has_none(lm: TransformersModel) -> None:
    dataset = questions(2)
    kept = {k: v for k, v in dataset.items[0].fields.items() if k != "entity_prompt"}
    bare = dataset.items[0].model_copy(update={"fields": {**kept, "relation_prompt": " "}})
    dataset = dataset.model_copy(update={"items": (bare, dataset.items[1])})
    one, other = rows(lm, dataset)
    assert (one.entity_prompt, one.relation_prompt) == (None, None)
    assert (one.entrec_entity, one.entrec_relation, one.problem) == ([], [], None)
    expected = rows(lm, questions(2))[1]
    assert other.entrec_entity == pytest.approx(expected.entrec_entity, rel=1e-9), (
        "its neighbour's stay its own"
    )
    assert other.relation_prompt == expected.relation_prompt
    values = {s.metric: s.value for s in MultiHopScorer().scores([one], dataset, FakeContext())}
    assert values["entity_substitution"] is values["relation_substitution"] is None
    assert values["entrec"] is not None


def test_prompts_are_zero_shot_or_show_questions_of_the_same_relations(lm: TransformersModel) -> None:
    dataset = questions(2)
    item = dataset.items[0]
    plain, shown = (rows(lm, dataset, shots=shots)[0] for shots in (0, 1))
    assert plain.two_hop_prompt == item.text
    demonstration = next(
        d for d in dataset.demonstrations if d.fields["relations"] == item.fields["relations"]
    )
    fields = demonstration.fields
    assert shown.two_hop_prompt == f"{demonstration.text} {demonstration.label}.\n{item.text}"
    assert shown.first_prompt.startswith(f"{fields['first_prompt']} {fields['bridge']}.\n")
    assert shown.second_prompt.startswith(f"{fields['second_prompt']} {demonstration.label}.\n")
    assert shown.first_prompt.endswith(item.fields["first_prompt"])
    assert (
        shown.relation_prompt
        == f"{demonstration.text} {demonstration.label}.\n{item.fields['relation_prompt']}"
    )
    ids, place = lm.tokenizer(shown.two_hop_prompt).input_ids, mention(lm, shown, item)
    h = oracle.residuals(lm.model, ids, place)[1]
    assert shown.entrec[1] == pytest.approx(
        oracle.entrec(lm.model, h.tolist(), first(lm, item.fields["bridge"])), rel=1e-6
    )
    with pytest.raises(DataError, match=r"has 3 demonstrations and multi_hop is to show 4; lower the option"):
        rows(lm, dataset, shots=4)


def test_a_description_is_found_case_aside_where_it_stands_last(lm: TransformersModel) -> None:
    dataset = questions(1)
    item = dataset.items[0]
    described = item.fields["description"]
    text = f"The answer for {described}, that is {described}, is"
    twice = item.model_copy(
        update={"text": text, "fields": {**item.fields, "description": described.upper()}}
    )
    (row,) = rows(lm, dataset.model_copy(update={"items": (twice,)}))
    end = text.rindex(described) + len(described)
    ids = lm.tokenizer(text).input_ids
    h = oracle.residuals(lm.model, ids, len(lm.tokenizer(text[:end]).input_ids) - 1)[1]
    assert row.entrec[1] == pytest.approx(
        oracle.entrec(lm.model, h.tolist(), first(lm, item.fields["bridge"])), rel=1e-6
    )


def test_a_question_of_two_hop_fact_is_looked_into(lm: TransformersModel) -> None:
    values = {
        "fact_comp_type": "country of the author",
        "category": "novel",
        "e1.value": "Ulysses",
        "e2.value": "James Joyce",
        "e2.aliases": "(('James Joyce', 'Joyce'),)",
        "e3.value": "Ireland",
        "e3.aliases": "()",
        "r2(r1(e1)).subject_cut.prompt or mu.template": "The author of the novel 'Ulysses'",
        "r1(e1).prompt": "The author of the novel 'Ulysses' is",
        "r2(e2).prompt": "James Joyce was born in the country of",
        "r2(r1(e1)).prompt": "The author of the novel 'Ulysses' was born in the country of",
        "r2(r1(e1')).subject_cut.prompt": "The author of the novel 'Emma'",
        "r2(r1'(e1)).subject_cut.prompt": "A reader of the novel 'Ulysses'",
    }
    (item,) = two_hop_fact_items([Entry(1, "line 2", values)])
    (row,) = rows(lm, questions(1).model_copy(update={"items": (item,)}))
    assert (row.problem, row.bridge_aliases) == (None, ["Joyce"])
    ids = lm.tokenizer("The author of the novel 'Ulysses'").input_ids
    h = oracle.residuals(lm.model, ids, len(ids) - 1)[1]
    assert row.entrec[1] == pytest.approx(
        oracle.entrec(lm.model, h.tolist(), first(lm, "James Joyce")), rel=1e-6
    )
    assert (row.entity_prompt, len(row.entrec_relation)) == ("The author of the novel 'Emma'", 3)


@pytest.mark.parametrize(
    ("label", "fields", "problem"),
    [
        (None, {"description": "the country of nothing"}, "the question does not hold its description"),
        (None, {"description": " "}, "the question does not hold its description"),
        (None, {"bridge": ""}, "the bridge is empty"),
        (None, {"bridge": "  "}, "the bridge is empty"),
        (None, {"bridge": "\N{GOTHIC LETTER AHSA}"}, "the bridge's first token is white space"),
        ("", {}, "the answer is empty"),
    ],
)
def test_a_bad_item_is_counted_and_its_neighbours_stay(
    lm: TransformersModel, label: str | None, fields: dict[str, str], problem: str
) -> None:
    dataset = questions(3)
    one, bad, other = dataset.items
    items = (one, changed(bad, label, **fields), other)
    found = rows(lm, dataset.model_copy(update={"items": items}))
    expected = rows(lm, dataset)
    assert found[1].problem == problem
    assert (found[0].entrec, found[2].entrec) == (
        pytest.approx(expected[0].entrec, rel=1e-9),
        pytest.approx(expected[2].entrec, rel=1e-9),
    )
    assert found[1].two_hop_completion == expected[1].two_hop_completion
    assert (found[1].entrec, found[1].causal_layers, found[1].cnst, found[1].jsd) == ([], [], None, None)
    scores = MultiHopScorer().scores([found[1]], dataset, FakeContext())
    values = {s.metric: s.value for s in scores}
    assert values.pop("failure") == 1
    inside = ("entrec", "entrec_best", "entity_substitution", "cnst", "jsd", "causal_link")
    assert {values[name] for name in inside} == {None}
    assert (values["two_hop_correct"] is None) == (label == "")
    assert (values["first_hop_correct"] is None) == (not fields.get("bridge", "x").strip())


def test_many_items_are_looked_into_a_few_at_a_time(
    lm: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = questions(5)
    items = (changed(dataset.items[0], bridge=""), *dataset.items[1:])
    dataset = dataset.model_copy(update={"items": items})
    together = rows(lm, dataset)
    monkeypatch.setattr("explainers.multi_hop._TOGETHER", 2)
    for one, other in zip(rows(lm, dataset), together, strict=True):
        assert (one.item, one.problem, one.cnst) == (other.item, other.problem, pytest.approx(other.cnst))
        assert one.two_hop_completion == other.two_hop_completion
        assert one.entrec == pytest.approx(other.entrec, rel=1e-6)
        assert one.entrec_relation == pytest.approx(other.entrec_relation, rel=1e-6)
        assert one.causal_derivatives == pytest.approx(other.causal_derivatives, rel=1e-4)


def test_what_is_held_at_a_time_fits_whatever_the_model_is() -> None:
    """A trace of a model of 70 billion parameters takes 4 * 2 * 80 * (6 * 8192 + 28672) = 49.8 MB."""

    def together(layers: int, hidden: int, ffn_width: int, vocabulary: int, causal: int = 4) -> int:
        readout = SimpleNamespace(vocabulary=vocabulary)
        inside = SimpleNamespace(layers=layers, hidden=hidden, ffn_width=ffn_width, readout=readout)
        return _together(cast("Internals", inside), causal)

    assert together(80, 8192, 28672, 128256) == 3, "2^29 / (3 * 49.8 MB + 12 * 10 * 128256 B) = 3.3"
    assert together(30, 576, 1536, 49152) == 32, "a small model's are not more than before"
    assert together(1, 64, 64, 1_000_000, causal=0) == 22, "2^29 / 24 MB, and little else"
    assert together(1, 64, 64, 1_000_000) == 4
    assert together(1000, 100_000, 400_000, 10**6) == 1


def test_as_many_items_as_fit_are_looked_into_together(
    lm: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    observed = MultiHop._observed

    def spied(self: MultiHop, internals: Any, asked: Any) -> Any:
        sizes.append(len(asked))
        return observed(self, internals, asked)

    monkeypatch.setattr(MultiHop, "_observed", spied)
    monkeypatch.setattr("explainers.multi_hop._BYTES", 0)
    rows(lm, questions(2))
    assert sizes == [1, 1]


def test_without_causal_layers_nothing_is_patched(lm: TransformersModel) -> None:
    (row,) = rows(lm, questions(1), causal_layers=0)
    assert (row.causal_layers, row.causal_derivatives) == ([], [])
    assert row.cnst is not None
    values = {s.metric: s.value for s in MultiHopScorer().scores([row], questions(1), FakeContext())}
    assert values["causal_link"] is None
    assert MultiHop().work.read - MultiHop(causal_layers=0).work.read == 8


# -- scores --------------------------------------------------------------------------------------


def scored(**columns: Any) -> dict[str, float | None]:
    plain: dict[str, Any] = {
        "item": "a",
        "group": "g",
        "two_hop_prompt": "The capital of the country of sushi is",
        "first_prompt": "Sushi comes from",
        "second_prompt": "The capital of Japan is",
        "two_hop_completion": " Tokyo, of course",
        "first_completion": " Nippon.",
        "second_completion": " Tokyo",
        "gold": "Tokyo",
        "aliases": [],
        "bridge": "Japan",
        "bridge_aliases": ["Nippon"],
        "entrec": [-9.0, -1.0, -8.0, -2.0, -4.0],
        "entrec_entity": [-9.0, -3.0, -7.0, -5.0, -4.0],
        "entrec_relation": [-9.0, -3.0, -7.0, -5.0, -4.5],
        "cnst": -2.5,
        "jsd": 0.25,
        "causal_layers": [1, 2, 3],
        "causal_derivatives": [0.1, -0.1, 0.0],
        "causal_step": 0.1,
        "problem": None,
    }
    row = MultiHopRow(**{**plain, **columns})
    return {s.metric: s.value for s in MultiHopScorer().scores([row], questions(1), FakeContext())}


def test_scores_by_hand() -> None:
    assert scored() == {
        "first_hop_correct": 1.0,
        "second_hop_correct": 1.0,
        "two_hop_correct": 1.0,
        "latent_composition": 1.0,
        "entrec": -3.0,
        "entrec_best": -1.0,
        "entity_substitution": 0.5,
        "relation_substitution": 1.0,
        "cnst": -2.5,
        "jsd": 0.25,
        "causal_link": pytest.approx(1 / 3),
        "failure": 0.0,
    }


def test_composition_has_a_value_only_where_both_hops_are_right() -> None:
    assert scored(two_hop_completion=" Kyoto")["latent_composition"] == 0
    for wrong in ({"first_completion": " China"}, {"second_completion": " Kyoto"}):
        found = scored(**wrong)
        assert (found["two_hop_correct"], found["latent_composition"]) == (1.0, None)


# -- a planted circuit ---------------------------------------------------------------------------


def plant(model: Any, layer: int, neuron: int, fires: list[Any], silent: list[Any], write: Any) -> None:
    """Make an FFN neuron write a vector where the FFN's input is one of `fires`, and nothing at `silent`."""
    inputs = torch.stack([*fires, *silent])
    wanted = torch.tensor([1.0] * len(fires) + [0.0] * len(silent), dtype=inputs.dtype)
    reads = torch.linalg.lstsq(inputs, wanted[:, None], driver="gelsd").solution[:, 0]
    mlp = model.model.layers[layer].mlp
    with torch.no_grad():
        mlp.gate_proj.weight[neuron] = 10 * reads  # silu(10) is 10, silu(0) is 0
        mlp.up_proj.weight[neuron] = reads
        mlp.down_proj.weight[:, neuron] = write / 10


def ffn_input(lm: TransformersModel, model: Any, layer: int, prompt: str, place: int) -> Any:
    mlp = model.model.layers[layer].mlp.gate_proj
    ids = lm.tokenizer(prompt).input_ids
    found: list[Any] = []
    handle = mlp.register_forward_pre_hook(lambda module, args: found.append(args[0][0, place]))
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    handle.remove()
    return found[0]


def test_a_planted_circuit_raises_entrec_and_consistency(lm: TransformersModel) -> None:
    """The bridge is written at the description, then an answer, one that nobody gave, at the end of both prompts."""
    dataset = questions(1)
    (item,), model = dataset.items, copy.deepcopy(lm.model)
    with torch.no_grad():
        model.model.norm.weight *= 4  # what was never learned is asked: the next tokens are nearly even
    planted = TransformersModel(model, lm.tokenizer)
    unembedding = model.lm_head.weight.detach()
    (before,) = rows(planted, dataset)

    at = ffn_input(lm, model, 0, item.text, mention(lm, before, item))
    controls = [ffn_input(lm, model, 0, item.fields[f"{name}_prompt"], -1) for name in ("entity", "relation")]
    plant(model, 0, 0, [at], controls, 20 * unembedding[first(lm, item.fields["bridge"])])
    (recalls,) = rows(planted, dataset)
    for layer in (1, 2):
        assert recalls.entrec[layer] > before.entrec[layer] + 1
        for control in ("entrec_entity", "entrec_relation"):
            margin = before.entrec[layer] - getattr(before, control)[layer]
            assert recalls.entrec[layer] - getattr(recalls, control)[layer] > margin + 1
    values = {s.metric: s.value for s in MultiHopScorer().scores([recalls], dataset, FakeContext())}
    assert values["entity_substitution"] == values["relation_substitution"] == 1

    ends = [ffn_input(lm, model, 1, prompt, -1) for prompt in (item.text, item.fields["second_prompt"])]
    unlikely = int(planted.internals().next_tokens([item.fields["second_prompt"]])[0].argmin())
    answer = 20 * unembedding[unlikely]
    plant(model, 1, 0, ends[:1], ends[1:], answer)
    (alone,) = rows(planted, dataset)
    plant(model, 1, 0, ends, [], answer)
    (together,) = rows(planted, dataset)
    assert alone.jsd > recalls.jsd + 0.1, "to answer the question alone sets the two apart"
    assert together.cnst > max(recalls.cnst, alone.cnst) + 1
    assert together.jsd < recalls.jsd / 2

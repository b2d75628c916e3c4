"""What every explainer and scorer must keep, whichever is registered."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from conftest import benchmark
from fakes import FakeContext, FakeLanguageModel, query, unit, validated

from quantxai.checkpoints import load_dense, load_tokenizer
from quantxai.config import DEFAULT_EXPLAINERS
from quantxai.datasets import Dataset, load_dataset, take
from quantxai.errors import ModelError
from quantxai.lm import LanguageModel
from quantxai.methods import Explainer, Scorer
from quantxai.records import Metric, Row
from quantxai.vllm_engine import OFFERED

pytestmark = pytest.mark.bare

BUILT_IN = {
    "explainers": {
        "biased_features": "explainers.biased_features:BiasedFeatures",
        "cc_shap": "explainers.cc_shap:CCSHAP",
        "chain_of_thought": "explainers.chain_of_thought:ChainOfThought",
        "counterfactual": "explainers.counterfactual:Counterfactual",
        "edit_test": "explainers.edit_test:EditTest",
        "memorization": "explainers.memorization:Memorization",
        "multi_hop": "explainers.multi_hop:MultiHop",
        "natural_language": "explainers.natural_language:NaturalLanguage",
        "neuron_attribution": "explainers.neuron_attribution:NeuronAttribution",
    },
    "scorers": {
        "bartscore": "explainers.scorers.bartscore:BartScore",
        "bertscore": "explainers.scorers.bertscore:BertScore",
        "biased_features": "explainers.scorers.faithfulness:BiasedFeaturesScorer",
        "cc_shap": "explainers.scorers.faithfulness:CCSHAPScorer",
        "chain_of_thought": "explainers.scorers.faithfulness:ChainOfThoughtScorer",
        "crossing": "explainers.scorers.crossing:Crossing",
        "diversity": "explainers.scorers.diversity:Diversity",
        "edit_test": "explainers.scorers.faithfulness:EditTestScorer",
        "edits": "explainers.scorers.edits:Edits",
        "flips": "explainers.scorers.flips:Flips",
        "multi_hop": "explainers.scorers.multi_hop:MultiHopScorer",
        "neuron_attribution": "explainers.scorers.neuron_attribution:NeuronAttributionScorer",
        "perplexity": "explainers.scorers.perplexity:Perplexity",
        "prediction": "explainers.scorers.prediction:Prediction",
        "recall": "explainers.scorers.recall:Recall",
        "rouge": "explainers.scorers.rouge:Rouge",
        "self_consistency": "explainers.scorers.self_consistency:SelfConsistency",
        "similarity": "explainers.scorers.similarity:Similarity",
        "simulatability": "explainers.scorers.simulatability:Simulatability",
        "tigerscore": "explainers.scorers.tigerscore:TigerScore",
    },
}


def registered(kind: str) -> dict[str, Any]:
    """Return every registered class by name; the built-in ones where nothing is installed."""
    found = {entry.name: entry.load() for entry in entry_points(group=f"quantxai.{kind}")}
    for name, place in BUILT_IN[kind].items():
        module, _, attribute = place.partition(":")
        found.setdefault(name, getattr(importlib.import_module(module), attribute))
    return found


EXPLAINERS: dict[str, type[Explainer]] = registered("explainers")
SCORERS: dict[str, type[Scorer]] = registered("scorers")
DATASETS = {
    "topic": "news",
    "sentiment": "reviews",
    "inference": "inference",
    "verification": "claims",
    "choice": "questions",
    "recall": "relations",
    "composition": "two_hop",
}
PAIRS = [(name, DATASETS[task]) for name, e in EXPLAINERS.items() for task in sorted(e.tasks)]
INSIDE = [(name, dataset) for name, dataset in PAIRS if not EXPLAINERS[name].needs <= OFFERED]
"""Those of explainers that need more than texts and their probabilities."""

Models: TypeAlias = Callable[[str], LanguageModel]


def reply(prompt: str) -> str:
    """Answer a prompt in one of several ways, failures among them; its last block decides."""
    asked = query(prompt)
    kind = int(unit(asked) * 5)
    return [
        f" Another text {unit(asked):.3f} here.</edit>\nMore",
        f" Paris {unit(asked):.3f}.\n",
        "</edit>",
        " and on" * 50,
        asked.partition(": ")[2].partition("\n")[0] + "</edit>",
    ][kind]


def model() -> FakeLanguageModel:
    return FakeLanguageModel(reply=reply)


@cache
def trained(path: Path) -> Any:
    """Return the tiny trained model in float64, where no batch's rounding can swap two neurons' places."""
    from quantxai.engine import TransformersModel

    return TransformersModel(load_dense(path, "float64", "cpu"), load_tokenizer(path))


@pytest.fixture
def models(request: pytest.FixtureRequest) -> Models:
    """What makes an explainer's model: a scripted one, or the trained one if it is to be looked into."""

    def made(explainer: str) -> LanguageModel:
        if EXPLAINERS[explainer].needs <= OFFERED:
            return model()
        lm: LanguageModel = trained(request.getfixturevalue("tiny_path")).anew()
        return lm

    return made


def assert_agree(found: Sequence[Row], expected: Sequence[Row], how: str) -> None:
    """Rows of a scripted model are equal; what was computed with others in a batch is so but for rounding."""
    for one, other in zip(found, expected, strict=True):
        for name, value in one:
            assert close(value, getattr(other, name), type(one)), f"{how}: {name} of {one.item}"


def close(one: Any, other: Any, kind: type[Row]) -> bool:
    if kind in {EXPLAINERS[name].row for name, _ in INSIDE} and isinstance(one, float):
        return bool(one == pytest.approx(other, rel=1e-6, abs=1e-9))
    if isinstance(one, list):
        return len(one) == len(other) and all(close(a, b, kind) for a, b in zip(one, other, strict=True))
    return bool(one == other)


@cache
def some(name: str) -> Dataset:
    return take(load_dataset(name), 24, seed=1)


_ROWS: dict[tuple[str, str], tuple[Row, ...]] = {}


def rows_on(explainer: str, dataset: str, models: Models) -> Sequence[Row]:
    """Return what an explainer says of a data set by a model of its own, asked once."""
    if (explainer, dataset) not in _ROWS:
        data = some(dataset)
        found = EXPLAINERS[explainer]().rows(models(explainer), data, data.items, seed=7)
        _ROWS[explainer, dataset] = tuple(found)
    return _ROWS[explainer, dataset]


@pytest.mark.parametrize(("name", "dataset"), PAIRS)
def test_one_valid_row_per_item_in_order(name: str, dataset: str, models: Models) -> None:
    rows = rows_on(name, dataset, models)
    assert [(r.item, r.group) for r in rows] == [(i.id, i.group) for i in some(dataset).items]
    for row in rows:
        assert type(row) is EXPLAINERS[name].row
        assert validated(row) == row


@pytest.mark.parametrize(("name", "dataset"), PAIRS)
def test_rows_do_not_depend_on_batch_shard_order_or_history(name: str, dataset: str, models: Models) -> None:
    data, explainer = some(dataset), EXPLAINERS[name]()
    whole = rows_on(name, dataset, models)
    halves = [
        row
        for part in (data.items[:7], data.items[7:])
        for row in explainer.rows(models(name), data, part, seed=7)
    ]
    assert_agree(halves, whole, "sharded")
    alone = [next(explainer.rows(models(name), data, [i], seed=7)) for i in data.items]
    assert_agree(alone, whole, "one by one")
    backwards = list(explainer.rows(models(name), data, data.items[::-1], seed=7))
    assert_agree(backwards[::-1], whole, "in another order")
    used = models(name)
    list(explainer.rows(used, data, data.items, seed=7))
    again = list(explainer.rows(used, data, data.items, seed=7))
    assert_agree(again, whole, "by a model that was used before")
    fewer = data.model_copy(update={"items": data.items[:3]})
    few = list(explainer.rows(models(name), fewer, fewer.items, seed=7))
    assert_agree(few, whole[:3], "of a smaller data set")
    assert list(explainer.rows(models(name), data, [], seed=7)) == []


@pytest.mark.parametrize(("name", "dataset"), INSIDE)
def test_a_model_of_texts_alone_is_not_looked_into(name: str, dataset: str) -> None:
    data = some(dataset)
    with pytest.raises(ModelError, match=r'not what is inside the model.*engine = "transformers"'):
        list(EXPLAINERS[name]().rows(model(), data, data.items, seed=7))


@pytest.mark.parametrize("kind", ["explainers", "scorers"])
def test_methods_describe_themselves(kind: str) -> None:
    for name, method in registered(kind).items():
        assert method.method == name
        assert method.summary
        assert "\n" not in method.summary
        assert method.__doc__
        assert method().digest() == method().digest()
        assert len(method().digest()) == 64
        written = method.model_validate(method().model_dump())
        assert written.digest() == method().digest(), "a default written down is the same method"
        for option, field in method.model_fields.items():
            assert field.description, f"{name}.{option} is not documented"
            assert not field.is_required(), f"{name}.{option} has no default"
        with pytest.raises(ValueError, match="extra"):
            method.model_validate({"no_such_option": 1})
    digests = [method().digest() for method in registered(kind).values()]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_explainers_document_their_rows_and_needs(name: str) -> None:
    explainer = EXPLAINERS[name]
    assert explainer.tasks
    assert explainer.tasks <= set(DATASETS)
    assert explainer.needs
    assert explainer.needs <= {"generate", "logprobs", "residuals", "ffn"}
    for field, info in explainer.row.model_fields.items():
        assert info.description, f"{name}: column {field} is not documented"


def readable(name: str) -> list[tuple[str, str]]:
    return [(explainer, dataset) for explainer, dataset in PAIRS if explainer in SCORERS[name].explainers]


def scorer_named(name: str) -> Scorer:
    """Return a scorer as it is by default; flips trains its judge with scikit-learn."""
    if name == "flips":
        pytest.importorskip("sklearn")
    return SCORERS[name]()


def beside(scorer: Scorer, rows: Sequence[Row]) -> FakeContext:
    """Return a context that offers the parent's rows to those alone that ask for them."""
    context = FakeContext(model())
    if scorer.whose == "both":
        context.parent_rows = rows
    return context


@pytest.mark.parametrize("name", SCORERS)
def test_scorers_describe_their_metrics(name: str) -> None:
    metrics: Sequence[Metric] = SCORERS[name].metrics
    assert SCORERS[name].explainers
    assert len({m.name for m in metrics}) == len(metrics) > 0
    for metric in metrics:
        assert metric.name.isidentifier()
        assert metric.name == metric.name.lower()
        assert metric.description.endswith(".")
        assert "`" not in metric.description, "the report shows it as it is"
        assert len(metric.description) > 30


@pytest.mark.parametrize("name", SCORERS)
def test_margins_are_accounted_for_and_what_is_confirmed_has_a_direction(name: str) -> None:
    for metric in SCORERS[name].metrics:
        assert len(metric.margin_reason) > 20, f"{name}.{metric.name}: why this margin?"
        assert metric.margin_reason.endswith(".")
        assert "|" not in metric.margin_reason, "the docs show it in a table"
        if metric.confirmatory:
            assert metric.higher_is_better is not None, f"{name}.{metric.name} can get no verdict"


def test_few_outcomes_are_confirmatory() -> None:
    """The fewer there are, the more items are left to each by the correction for their number."""
    found = {
        explainer: [
            f"{name}.{m.name}"
            for name, scorer in SCORERS.items()
            if explainer in scorer.explainers
            for m in scorer.metrics
            if m.confirmatory
        ]
        for explainer in BUILT_IN["explainers"]
    }
    assert all(len(outcomes) <= 2 for outcomes in found.values()), found
    default = [outcome for e in DEFAULT_EXPLAINERS for outcome in found[e["explainer"]]]
    assert 6 <= len(default) <= 8, default


def test_why_a_margin_is_what_it_is_changes_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was scored is not scored again because a sentence, a margin or the default plan changed."""
    for scorer in SCORERS.values():
        before = scorer().digest()
        update = {"margin": 9.0, "margin_reason": "Another.", "confirmatory": True}
        changed = tuple(m.model_copy(update=update) for m in scorer.metrics)
        monkeypatch.setattr(scorer, "metrics", changed)
        assert scorer().digest() == before


def test_the_table_of_margins_is_the_one_in_the_docs() -> None:
    module = benchmark("margins_table")
    page = module.PAGE.read_text(encoding="utf-8")
    rows = module.table({name: SCORERS[name] for name in BUILT_IN["scorers"]})
    assert page == module.with_table(page, "margins", rows), "run: python benchmarks/margins_table.py --write"
    for name in BUILT_IN["scorers"]:
        for metric in SCORERS[name].metrics:
            assert f"| `{name}` | `{metric.name}` |" in page


def test_metric_names_mean_one_thing() -> None:
    """Summaries and the report's table of items know metrics by name; every explainer's failures are one."""
    names = [m.name for scorer in SCORERS.values() for m in scorer.metrics if m.name != "failure"]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize(
    ("name", "explainer", "dataset"), [(name, *pair) for name in SCORERS for pair in readable(name)]
)
def test_every_metric_is_scored_for_every_row(
    name: str, explainer: str, dataset: str, models: Models
) -> None:
    scorer, rows, data = scorer_named(name), rows_on(explainer, dataset, models), some(dataset)
    scores = list(scorer.scores(rows, data, beside(scorer, rows)))
    expected = {(r.item, r.group, m.name) for r in rows for m in scorer.metrics}
    assert len(scores) == len(expected)
    assert {(s.item, s.group, s.metric) for s in scores} == expected
    kinds = {m.name: m.kind for m in scorer.metrics}
    for score in scores:
        assert score.value is None or type(score.value) is float
        assert score.value == score.value, "NaN is not a missing value"
        assert kinds[score.metric] == "continuous" or score.value in (None, 0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "explainer", "dataset"), [(name, *pair) for name in SCORERS for pair in readable(name)]
)
def test_scores_do_not_depend_on_the_other_rows(
    name: str, explainer: str, dataset: str, models: Models
) -> None:
    scorer, rows, data = scorer_named(name), rows_on(explainer, dataset, models), some(dataset)
    together = sorted(scorer.scores(rows, data, beside(scorer, rows)))
    alone = sorted(s for row in rows for s in scorer.scores([row], data, beside(scorer, rows[::-1])))
    assert [s[:3] for s in alone] == [s[:3] for s in together]
    for one, other in zip(alone, together, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-6), one
    assert list(scorer.scores([], data, beside(scorer, []))) == []


def test_the_scripted_rows_hold_failures_and_edits() -> None:
    """The contract tests say something about failures only if there are some."""
    found = {getattr(row, "failure", None) for row in rows_on("counterfactual", "news", lambda _: model())}
    assert found == {None, "empty", "unparsed", "unchanged"}

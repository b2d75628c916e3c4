"""What every explainer and scorer must keep, whichever is registered."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

import pytest
from fakes import FakeContext, FakeLanguageModel, query, unit, validated

from quantxai.datasets import Dataset, load_dataset, take
from quantxai.methods import Explainer, Scorer
from quantxai.records import Metric, Row

pytestmark = pytest.mark.bare

BUILT_IN = {
    "explainers": {
        "biased_features": "explainers.biased_features:BiasedFeatures",
        "cc_shap": "explainers.cc_shap:CCSHAP",
        "chain_of_thought": "explainers.chain_of_thought:ChainOfThought",
        "counterfactual": "explainers.counterfactual:Counterfactual",
        "edit_test": "explainers.edit_test:EditTest",
        "memorization": "explainers.memorization:Memorization",
        "natural_language": "explainers.natural_language:NaturalLanguage",
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
}
PAIRS = [(name, DATASETS[task]) for name, e in EXPLAINERS.items() for task in sorted(e.tasks)]


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


def some(name: str) -> Dataset:
    return take(load_dataset(name), 24, seed=1)


def rows_on(explainer: str, dataset: str) -> list[Row]:
    data = some(dataset)
    return list(EXPLAINERS[explainer]().rows(model(), data, data.items, seed=7))


@pytest.mark.parametrize(("name", "dataset"), PAIRS)
def test_one_valid_row_per_item_in_order(name: str, dataset: str) -> None:
    rows = rows_on(name, dataset)
    assert [(r.item, r.group) for r in rows] == [(i.id, i.group) for i in some(dataset).items]
    for row in rows:
        assert type(row) is EXPLAINERS[name].row
        assert validated(row) == row


@pytest.mark.parametrize(("name", "dataset"), PAIRS)
def test_rows_do_not_depend_on_batch_shard_order_or_history(name: str, dataset: str) -> None:
    data, explainer = some(dataset), EXPLAINERS[name]()
    whole = rows_on(name, dataset)
    halves = [
        row
        for part in (data.items[:7], data.items[7:])
        for row in explainer.rows(model(), data, part, seed=7)
    ]
    assert halves == whole, "sharded"
    assert [next(explainer.rows(model(), data, [i], seed=7)) for i in data.items] == whole, "one by one"
    backwards = list(explainer.rows(model(), data, data.items[::-1], seed=7))
    assert backwards[::-1] == whole, "in another order"
    used = model()
    list(explainer.rows(used, data, data.items, seed=7))
    assert list(explainer.rows(used, data, data.items, seed=7)) == whole, "by a model that was used before"
    fewer = data.model_copy(update={"items": data.items[:3]})
    assert list(explainer.rows(model(), fewer, fewer.items, seed=7)) == whole[:3], "of a smaller data set"
    assert list(explainer.rows(model(), data, [], seed=7)) == []


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


def test_metric_names_mean_one_thing() -> None:
    """Summaries and the report's table of items know metrics by name; every explainer's failures are one."""
    names = [m.name for scorer in SCORERS.values() for m in scorer.metrics if m.name != "failure"]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize(
    ("name", "explainer", "dataset"), [(name, *pair) for name in SCORERS for pair in readable(name)]
)
def test_every_metric_is_scored_for_every_row(name: str, explainer: str, dataset: str) -> None:
    scorer, rows, data = scorer_named(name), rows_on(explainer, dataset), some(dataset)
    scores = list(scorer.scores(rows, data, FakeContext(model())))
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
def test_scores_do_not_depend_on_the_other_rows(name: str, explainer: str, dataset: str) -> None:
    scorer, rows, data = scorer_named(name), rows_on(explainer, dataset), some(dataset)
    together = sorted(scorer.scores(rows, data, FakeContext(model())))
    alone = sorted(s for row in rows for s in scorer.scores([row], data, FakeContext(model())))
    assert [s[:3] for s in alone] == [s[:3] for s in together]
    for one, other in zip(alone, together, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-6), one
    assert list(scorer.scores([], data, FakeContext(model()))) == []


def test_the_scripted_rows_hold_failures_and_edits() -> None:
    """The contract tests say something about failures only if there are some."""
    found = {getattr(row, "failure", None) for row in rows_on("counterfactual", "news")}
    assert found == {None, "empty", "unparsed", "unchanged"}

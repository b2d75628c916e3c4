"""Who judges an edit, against labels given by hand; generator and judge crossed, in scorers and in sweeps."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeContext, FakeLanguageModel, query, unit
from numpy.typing import NDArray
from test_scorers import LABELS, edit, scored

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from explainers.counterfactual import CounterfactualRow  # noqa: E402
from explainers.labels import Judge  # noqa: E402
from explainers.scorers import judges  # noqa: E402
from explainers.scorers.crossing import Crossing  # noqa: E402
from explainers.scorers.flips import Flips  # noqa: E402
from quantxai import jobs  # noqa: E402
from quantxai.config import parse_config  # noqa: E402
from quantxai.datasets import Dataset, held_out, load_dataset, take  # noqa: E402
from quantxai.errors import DataError, IncompleteRun, ModelError  # noqa: E402
from quantxai.plan import Plan, make_plan  # noqa: E402
from quantxai.run import sweep  # noqa: E402
from quantxai.store import Store, rows_to_table, table_to_rows  # noqa: E402

PAIR = {
    "part": "hypothesis",
    "original": "It is dry.",
    "context": "It rains.",
    "edited": "It is wet.",
    "labels": ["entailment", "neutral", "contradiction"],
    "predicted": "contradiction",
    "target": "entailment",
    "edited_scores": [-0.1, -3.0, -3.0],
}


class Labelled(FakeContext):
    """Embeddings that say of a text its label: of a training text its own, else that of a word in it."""

    def __init__(self, parent: FakeLanguageModel, words: dict[str, str], **models: Any) -> None:
        super().__init__(parent, **models)
        self.words = words
        self.known = {item.text: str(item.label) for item in held_out("topic")}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found = [
            self.known.get(text) or next(label for word, label in self.words.items() if word in text)
            for text in texts
        ]
        return np.eye(4, dtype=np.float32)[[LABELS.index(label) for label in found]]


# -- flips ---------------------------------------------------------------------------------------


def judge(**answers: str) -> Labelled:
    """A parent that finds the given label for a text that holds the given word, world otherwise.

    The independent judge finds sports for team and technology for robot.
    """

    def choose(prompt: str, choice: str) -> float:
        label = next((label for word, label in answers.items() if word in query(prompt)), "world")
        return -0.1 if choice.strip() == label else -4.0

    return Labelled(FakeLanguageModel(choose=choose), {"team": "sports", "robot": "technology"})


# Own label of the edit, the parent's of text and edit, then the four flips; the target is technology and
# the variant's own label of the text sports.
FLIPS = [
    ("technology", "sports", "technology", (1, 1, 1, 1)),
    ("business", "sports", "business", (1, 0, 1, 0)),
    ("sports", "sports", "sports", (0, 0, 0, 0)),
    ("technology", "business", "business", (1, 1, 0, 0)),
    ("sports", "technology", "technology", (0, 0, 0, 1)),
    ("sports", "technology", "sports", (0, 0, 1, 0)),
]


@pytest.mark.parametrize(("own", "before", "after", "flips"), FLIPS)
def test_flips_cross_generator_and_judge(own: str, before: str, after: str, flips: tuple[int, ...]) -> None:
    scores = [-0.1 if label == own else -2.0 for label in LABELS]
    found = scored(Flips(), [edit(edited_scores=scores)], judge(team=before, robot=after))
    names = ("own_soft_flip", "own_hard_flip", "parent_soft_flip", "parent_hard_flip")
    assert tuple(found["n1", name] for name in names) == flips
    assert found["n1", "failure"] == 0


def test_a_failed_edit_is_no_flip_and_a_failure() -> None:
    rows = [edit("a", None), edit("b"), edit("c", None, failure="unchanged")]
    context = judge(team="sports", robot="technology")
    found = scored(Flips(), rows, context)
    for metric in Flips.metrics:
        failed = float(metric.name == "failure")
        assert [found[item, metric.name] for item in "abc"] == [failed, 1 - failed, failed]
    means = {m.name: np.mean([found[item, m.name] for item in "abc"]) for m in Flips.metrics}
    assert means["own_hard_flip"] == pytest.approx(1 / 3)
    assert means["failure"] == pytest.approx(2 / 3)


def test_the_parent_judges_the_whole_pair() -> None:
    row = edit(
        part="hypothesis",
        original="It is dry.",
        context="It rains.",
        edited="It is wet.",
        labels=["entailment", "neutral", "contradiction"],
        predicted="contradiction",
        target="entailment",
        edited_scores=[-0.1, -3.0, -3.0],
    )
    lm = FakeLanguageModel(choose=lambda p, c: -0.1 if (c == " Yes") == ("wet" in query(p)) else -3.0)
    found = scored(Flips(), [row], FakeContext(lm), dataset="inference")
    assert found["n1", "parent_hard_flip"] == 1
    queries = {query(p) for p in lm.asked("choices")}
    assert '"It rains." Does this mean that "It is dry."?' in queries
    assert '"It rains." Does this mean that "It is wet."?' in queries


def test_what_every_judge_is_worth_and_whether_it_can_flip_at_all_is_noted() -> None:
    # The parent takes each text, whose gold and own label is sports, for the target already.
    context = judge(team="technology", robot="technology")
    rows = [edit("a"), edit("b")]
    scored(Flips(), rows, context)
    assert {row.target for row in rows} == {"technology"}
    assert context.notes["own_judge"]["accuracy"] == float(rows[0].gold == rows[0].predicted)
    assert context.notes["parent_judge"]["accuracy"] == float(rows[0].gold == "technology")
    assert context.notes["parent_judge"]["n"] == 2
    assert context.notes["texts_with_the_target_label_already"]["parent"] == 1.0


def test_no_judge_is_made_for_failures_alone() -> None:
    class Unasked(FakeContext):
        def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
            raise AssertionError("asked for embeddings")

    context = Unasked()
    scored(Flips(), [edit(edited=None)], context)
    scored(Crossing(), [edit(edited=None)], context)
    assert context.lm.calls == []
    assert context.notes == {}


def test_the_wording_of_labels_is_part_of_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Flips().digest()
    monkeypatch.setattr("explainers.labels.prompts.read", lambda name: "other")
    assert Flips().digest() != plain


# -- the independent judge -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "flips"),
    [
        ("sports", "technology", (1, 1)),
        ("sports", "business", (1, 0)),
        ("sports", "sports", (0, 0)),
        ("technology", "technology", (0, 1)),
    ],
)
def test_independent_flips_by_hand(before: str, after: str, flips: tuple[int, int]) -> None:
    context = Labelled(FakeLanguageModel(), {"team": before, "robot": after})
    found = scored(Flips(), [edit()], context)
    assert (found["n1", "independent_soft_flip"], found["n1", "independent_hard_flip"]) == flips


def test_the_accuracy_of_the_independent_judge_is_noted() -> None:
    """Three of four right; the interval is the one tables give (0.194 to 0.994)."""
    rows = [
        edit("a"),
        edit("b", gold="world"),
        edit("c", None, predicted="world"),
        edit("d", original="A robot.", gold="technology"),
        edit("a", "A robot."),
    ]
    context = Labelled(FakeLanguageModel(), {"team": "sports", "robot": "technology"})
    scored(Flips(), rows, context)
    note = context.notes["independent_judge"]
    assert note == {
        "judge": "logistic regression on sentence embeddings, trained on 136 texts",
        "accuracy": 0.75,
        "low": pytest.approx(0.1941, abs=1e-4),
        "high": pytest.approx(0.9937, abs=1e-4),
        "n": 4,
        "chance": 0.25,
    }
    assert json.loads(json.dumps(note)) == note


@pytest.mark.parametrize("name", ["news", "reviews", "inference"])
def test_the_judge_is_trained_on_nothing_that_is_evaluated(name: str) -> None:
    data = load_dataset(name)
    trained = judges.training_items(data)
    assert {item.label for item in trained} == set(data.labels)
    assert not {item.text for item in trained} & {item.text for item in data.items}
    assert not {item.group for item in trained} & {item.group for item in data.items}


def published(**changes: Any) -> Dataset:
    """A set with the labels of a built-in one and texts of its own."""
    news = load_dataset("news")
    items = [item.model_copy(update={"text": f"{item.text} Indeed."}) for item in news.demonstrations]
    return news.model_copy(update={"name": "other", "demonstrations": tuple(items), **changes})


def test_a_published_set_adds_its_own_demonstrations_to_the_training_texts() -> None:
    data = published()
    texts = [item.text for item in judges.training_items(data)]
    assert len(texts) == len(set(texts)) == 136 + 16
    assert {item.text for item in data.demonstrations} < set(texts)


def test_built_in_texts_with_other_labels_are_no_training_texts() -> None:
    data = published(labels=("yes", "no"))
    assert judges.training_items(data) == list(data.demonstrations)
    with pytest.raises(
        DataError, match=r"other: no text to train the judge on has the label 'yes'.*independent"
    ):
        judges.Embeddings(FakeContext().encode, data)


def test_the_judge_of_pairs_sees_how_the_halves_relate() -> None:
    """Premises point anywhere; only the relation of the two vectors tells the label."""
    data = load_dataset("inference")

    def direction(text: str) -> NDArray[np.float32]:
        at = np.random.default_rng(int(unit(text) * 2**32)).normal(size=16)
        return np.asarray(at / np.linalg.norm(at), np.float32)

    label_of = {item.fields["hypothesis"]: str(item.label) for item in data.items + held_out("inference")}
    premise_of = {i.fields["hypothesis"]: i.fields["premise"] for i in data.items + held_out("inference")}

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        signs = {"entailment": 1, "contradiction": -1}
        return np.array(
            [
                signs[label_of[t]] * direction(premise_of[t]) if label_of.get(t) in signs else direction(t)
                for t in texts
            ]
        )

    judge = judges.Embeddings(encode, data)
    found = judge.labels([(i.fields["premise"], i.fields["hypothesis"]) for i in data.items])
    assert np.mean([f == i.label for f, i in zip(found, data.items, strict=True)]) > 0.9
    assert judge.labels([]) == []


def test_the_independent_judge_is_the_same_every_time() -> None:
    data = load_dataset("news")
    texts = [(item.text,) for item in data.items]
    one, other = (judges.Embeddings(FakeContext().encode, data) for _ in range(2))
    assert one.labels(texts) == other.labels(texts)
    assert [one.labels([text])[0] for text in texts] == one.labels(texts)


def test_an_edited_premise_comes_first() -> None:
    asked: list[str] = []

    def choose(prompt: str, choice: str) -> float:
        asked.append(query(prompt))
        return 0.0

    row = edit(**{**PAIR, "part": "premise"})
    scored(Flips(), [row], FakeContext(FakeLanguageModel(choose=choose)), dataset="inference")
    assert any(
        '"It is wet."' in text and text.index("It is wet.") < text.index("It rains.") for text in asked
    )


def test_rows_with_other_labels_than_the_data_set_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"news: item 'n1' was explained with the labels a, b, the data set has world"
    ):
        scored(Flips(), [edit(labels=["a", "b"], edited_scores=[0, -1])])


def test_items_that_come_twice_are_judged_apart() -> None:
    context = judge(team="sports", robot="technology")
    rows = [edit("a"), edit("a", "The team lost."), edit("b", original="", edited="A robot.")]
    context.words[""] = "world"  # of an empty text
    found = list(Flips().scores(rows, load_dataset("news"), context))
    hard = [s.value for s in found if s.metric in ("parent_hard_flip", "independent_hard_flip")]
    assert hard == [1, 1, 0, 0, 1, 1]


# -- classifiers and language models as judges ---------------------------------------------------


def classifier(directory: Path, names: Sequence[str]) -> Path:
    """A BERT of random weights that finds different labels for different texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    text = "the team robot won lost big it rains is dry wet in zoo a market fell ."
    words = ["[PAD]", "[UNK]", *text.split()]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(
            BertConfig(
                vocab_size=len(words),
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                max_position_embeddings=64,
                initializer_range=1.0,
                id2label=dict(enumerate(names)),
                label2id={name: i for i, name in enumerate(names)},
            )
        )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


TEXTS = [
    (" ".join(words),) for words in (["the", "team"], ["robot", "won", "big"], ["it", "rains"], ["market"])
]
TEXTS += [("the zoo is wet . " * k,) for k in range(1, 40, 9)]


def test_a_classifier_judges_as_its_own_pipeline_does(tmp_path: Path) -> None:
    from transformers import pipeline

    path = classifier(tmp_path / "judge", ["World", "Sports", "BUSINESS", "technology"])
    theirs = pipeline("text-classification", str(path), device="cpu")
    expected = [theirs(text, truncation=True)[0]["label"].lower() for (text,) in TEXTS]
    judge = judges.Classifier(path, load_dataset("news"), {}, "cpu")
    assert judge.labels(TEXTS) == expected
    assert [judge.labels([text])[0] for text in TEXTS] == expected
    assert len(set(expected)) > 1
    assert judge.labels([]) == []


def test_a_classifier_reads_premise_and_hypothesis_as_a_pair(tmp_path: Path) -> None:
    from transformers import pipeline

    path = classifier(tmp_path / "judge", ["LABEL_0", "LABEL_1", "LABEL_2"])
    names = {"LABEL_0": "neutral", "label_1": "entailment", "LABEL_2": "contradiction"}
    pairs = [(one[0], other[0]) for one in TEXTS for other in TEXTS]
    theirs = pipeline("text-classification", str(path), device="cpu")
    expected = [
        {k.upper(): v for k, v in names.items()}[
            theirs({"text": p, "text_pair": h}, truncation=True)["label"]
        ]
        for p, h in pairs
    ]
    judge = judges.Classifier(path, load_dataset("inference"), names, "cpu")
    assert judge.labels(pairs) == expected
    assert len(set(expected)) > 1


def test_a_classifier_with_other_labels_is_refused_with_both_sets(tmp_path: Path) -> None:
    path = classifier(tmp_path / "judge", ["LABEL_0", "LABEL_1"])
    with pytest.raises(
        ModelError,
        match=r"news: the judge knows the labels LABEL_0, LABEL_1, the data set has world, sports, business, "
        r'technology\..* independent_labels, such as \{"LABEL_0" = "world"\}',
    ):
        scored(Flips(independent=str(path)), [edit()])


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    with pytest.raises(ModelError, match="classifier "):
        scored(Flips(independent=str(tmp_path)), [edit()])


def test_a_language_model_can_be_the_independent_judge(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    other = judge(team="world", robot="technology").lm
    context = Labelled(judge(team="sports", robot="sports").lm, {}, **{tmp_path.name: other})
    scorer = Flips(independent=str(tmp_path))
    found = scored(scorer, [edit()], context)
    assert found["n1", "independent_hard_flip"] == found["n1", "independent_soft_flip"] == 1
    assert found["n1", "parent_hard_flip"] == found["n1", "parent_soft_flip"] == 0
    assert context.notes["independent_judge"]["accuracy"] == 0
    assert context.notes["independent_judge"]["judge"] == f"language model {tmp_path}, few-shot"
    assert scorer.models == (str(tmp_path),)
    assert scorer.digest() != Flips().digest()


def test_another_kind_of_model_is_no_judge(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    with pytest.raises(
        ModelError, match="a sequence classifier or a causal language model, found BertForMaskedLM"
    ):
        scored(Flips(independent=str(tmp_path)), [edit()])


# -- crossing ------------------------------------------------------------------------------------


def test_the_variant_judges_what_the_parent_wrote() -> None:
    """The same edit: the parent sees a flip, the variant none, and the other way round."""
    moved = judge(team="sports", robot="technology").lm
    fixed = judge(team="sports", robot="sports").lm
    away = judge(team="sports", robot="business").lm
    names = [metric.name for metric in Crossing.metrics]
    for variant, expected in [(moved, [1, 1]), (fixed, [0, 0]), (away, [1, 0])]:
        found = scored(Crossing(), [edit("a"), edit("b", None)], FakeContext(fixed, variant))
        assert [found["a", name] for name in names] == expected
        assert [found["b", name] for name in names] == [0, 0]

    asked = fixed.asked("choices")

    class OfTheParent(FakeContext):
        def variant(self) -> None:
            return None

    found = scored(Crossing(), [edit("a"), edit("b", None)], OfTheParent(fixed))
    assert [found["a", name] for name in names] == [1, 1], "what its row holds"
    assert [found["b", name] for name in names] == [0, 0]
    assert fixed.asked("choices") == asked
    assert names == ["variant_soft_flip_of_parent_edits", "variant_hard_flip_of_parent_edits"]


SCORERS = [{"scorer": "flips"}, {"scorer": "crossing"}, {"scorer": "perplexity"}]


def config(model: Path, **changes: Any) -> dict[str, Any]:
    table: dict[str, Any] = {
        "model": {"name": str(model), "dtype": "float32", "device": "cpu"},
        "threads": 1,
        "variants": [
            {"quantizer": "full"},
            {"quantizer": "rtn", "bits": 3, "group_size": 32},
            {"quantizer": "bnb", "format": "nf4"},
        ],
        "explainers": [{"explainer": "counterfactual", "dataset": "news", "n": 40, "cell_items": 20}],
        "scorers": SCORERS,
        "analysis": {"resamples": 1000},
    }
    return {**table, **changes}


def plan_of(model: Path, **changes: Any) -> Plan:
    return make_plan(parse_config(config(model, **changes)))


def test_a_crossing_cell_reads_the_parents_rows_and_depends_on_the_variant(tiny_path: Path) -> None:
    plan = plan_of(tiny_path)
    rows = {v.name: [c.key for c in plan.rows if c.variant is v] for v in plan.variants}
    cells = {c.key.variant: c for c in plan.scores if c.key.scorer == "crossing"}
    assert {name: c.judge and c.judge.name for name, c in cells.items()} == {n: n for n in rows}
    assert all(list(c.rows) == rows["full"] for c in cells.values())
    assert len({c.key.digest for c in cells.values()}) == len(rows)
    others = [c for c in plan.scores if c.key.scorer != "crossing"]
    assert all(list(c.rows) == rows[c.key.variant] and c.judge is None for c in others)

    changed = plan_of(
        tiny_path, variants=[{"quantizer": "full"}, {"quantizer": "rtn", "bits": 3, "group_size": 64}]
    )
    after = {c.key.variant: c.key.digest for c in changed.scores if c.key.scorer == "crossing"}
    assert after["full"] == cells["full"].key.digest
    assert after["rtn-3"] != cells["rtn-3"].key.digest


def test_another_model_of_a_scorer_is_part_of_its_cells(tiny_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_path, other)

    def digests() -> dict[str, str]:
        named = [{"scorer": "recall"}, {"scorer": "perplexity", "model": str(other)}]
        return {
            c.key.scorer: c.key.digest
            for c in plan_of(tiny_path, scorers=[*named, {"scorer": "edits"}]).scores
        }

    before = digests()
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 1e-4}))
    after = digests()
    assert {name for name in before if before[name] != after[name]} == {"perplexity"}


def test_a_model_that_is_not_there_is_refused_at_planning(tiny_path: Path) -> None:
    with pytest.raises(ModelError, match=r"\[\[scorers\]\] 'flips': model './nowhere': no such directory"):
        plan_of(tiny_path, scorers=[{"scorer": "flips", "independent": "./nowhere"}])


# -- in a sweep ----------------------------------------------------------------------------------


class Loads:
    """Language models that note when they are loaded, and whether the one before was let go."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.alive: list[Any] = []

    def load(self, name: str) -> Any:
        gc.collect()
        assert not any(ref() for ref in self.alive), "two models at a time"

        class Model(FakeLanguageModel):
            def anew(self) -> Model:
                return self

        self.names.append(name)
        model = Model()
        self.alive.append(weakref.ref(model))
        return model


def test_a_process_holds_one_language_model_at_a_time(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, loads = plan_of(tiny_path), Loads()
    full, rtn = plan.variants[:2]
    monkeypatch.setattr(jobs, "open_lm", lambda variant, *_: loads.load(variant.name))
    monkeypatch.setattr(jobs, "prepare", lambda *_: {})
    context = jobs.LoadedModels(full, rtn, tiny_path, 4096, print)
    monkeypatch.setattr(context, "_open_model", lambda path: loads.load(path.name))
    for ask in (context.parent, context.parent, context.variant, context.variant, context.parent):
        assert ask()
    assert context.model(str(tiny_path))
    assert loads.names == ["full", "rtn-3", "full", tiny_path.name]


def test_the_parent_is_not_loaded_to_judge_itself(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full, loads = plan_of(tiny_path).parent, Loads()
    monkeypatch.setattr(jobs, "open_lm", lambda variant, *_: loads.load(variant.name))
    context = jobs.LoadedModels(full, full, tiny_path, 4096, print)
    assert context.variant() is None
    assert loads.names == []


def with_edits(row: Any, number: int, judge: Judge, lm: Any, data: Dataset) -> Any:
    """The row with another item's text as its edit, as its writer judges it; every fifth fails."""
    if number % 5 == 0:
        return row.model_copy(update={"edited": None, "failure": "empty", "edited_scores": None})
    edited = data.items[(number * 7 + 3) % len(data.items)].text
    scores = judge.logprobs(lm, [edited])[0].tolist()
    return row.model_copy(update={"edited": edited, "failure": None, "edited_scores": scores})


@pytest.fixture(scope="module")
def finished(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run and its cache; the edits, which the tiny model cannot write, are written here.

    The fluency model is another than the parent.
    """
    base = tmp_path_factory.mktemp("crossed")
    other = base / "other"
    shutil.copytree(tiny_path, other)
    table = config(tiny_path, scorers=[*SCORERS[:2], {"scorer": "perplexity", "model": str(other)}])
    data = load_dataset("news")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("QUANTXAI_CACHE", str(base / "cache"))
        store = sweep({**table, "scorers": [{"scorer": "edits"}]}, base / "run")
        plan = plan_of(tiny_path)
        for variant in plan.variants:
            lm = jobs.open_lm(variant, tiny_path, plan.config.batch_tokens)
            judge = Judge(lm, data)
            for cell in [c for c in plan.rows if c.variant is variant]:
                rows = table_to_rows(store.read(cell.key), CounterfactualRow)
                made = [with_edits(row, number, judge, lm, data) for number, row in enumerate(rows)]
                store.write(cell.key, rows_to_table(made, CounterfactualRow), store.meta(cell.key))
        sweep(table, base / "run")
    return base / "run", base / "cache"


@pytest.mark.e2e
def test_a_sweep_crosses_generator_and_judge(
    finished: tuple[Path, Path], tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each variant is loaded here and asked about the parent's edits."""
    run, cache = finished
    monkeypatch.setenv("QUANTXAI_CACHE", str(cache))
    store, plan = Store.open(run), plan_of(tiny_path)
    assert not store.failures()
    values = store.measurements().set_index(["scorer", "variant", "metric", "item"])["value"].sort_index()
    rows = store.rows("counterfactual", variant="full").set_index("item")
    edited = rows[rows["edited"].notna()]
    assert 30 < len(edited) < len(rows)
    data, answers = take(load_dataset("news"), 40, seed=0), set[tuple[float, ...]]()
    for variant in plan.variants:
        lm = jobs.open_lm(variant, tiny_path, plan.config.batch_tokens)
        judge = Judge(lm, data)
        before = judge.logprobs(lm, list(edited["original"])).argmax(axis=1)
        after = judge.logprobs(lm, list(edited["edited"])).argmax(axis=1)
        soft, hard = (
            values["crossing", variant.name, f"variant_{kind}_flip_of_parent_edits"]
            for kind in ("soft", "hard")
        )
        assert soft[edited.index].tolist() == (before != after).tolist()
        assert hard[edited.index].tolist() == [
            data.labels[i] == t for i, t in zip(after, edited["target"], strict=True)
        ]
        assert soft.sum() == soft[edited.index].sum()
        answers.add((*soft, *hard))
    assert len(answers) > 1, "the variants judge as their parent does, so this test tells nothing"
    for kind in ("soft", "hard"):
        own = values["flips", "full", f"own_{kind}_flip"]
        assert values["crossing", "full", f"variant_{kind}_flip_of_parent_edits"].equals(own)


@pytest.mark.e2e
def test_a_sweep_stores_the_accuracy_of_its_judge(finished: tuple[Path, Path]) -> None:
    store = Store.open(finished[0])
    notes = {(key.scorer, key.variant): note["independent_judge"] for key, note in store.notes()}
    assert set(notes) == {("flips", name) for name in ("full", "rtn-3", "nf4")}
    for note in notes.values():
        assert note["n"] == 40
        assert 0 < note["low"] < note["accuracy"] <= note["high"] <= 1
    assert len({json.dumps(note) for note in notes.values()}) == 1


@pytest.mark.e2e
def test_a_variant_that_failed_is_no_judge_and_stops_no_other(
    finished: tuple[Path, Path], tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished[1], tmp_path / "cache")
    monkeypatch.setenv("QUANTXAI_CACHE", str(tmp_path / "cache"))
    variant = next(v for v in plan_of(tiny_path).variants if v.name == "rtn-3")
    receipt = json.loads(variant.receipt.read_text())
    variant.receipt.write_text(json.dumps({**receipt, "fault": "its logits are not finite"}))

    with pytest.raises(IncompleteRun, match="rtn-3: broken") as found:
        sweep(config(tiny_path, scorers=[{"scorer": "crossing"}]), tmp_path / "run")

    store = Store.open(tmp_path / "run")
    assert [(f.variant, f.cell) for f in store.failures()] == [("rtn-3", None)]
    assert "as judge" not in str(found.value)
    assert set(store.measurements()["variant"]) == {"full", "nf4"}


@pytest.mark.e2e
def test_a_judge_that_cannot_be_loaded_fails_alone(
    finished: tuple[Path, Path], tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, place in zip(("run", "cache"), finished, strict=True):
        shutil.copytree(place, tmp_path / name)
    monkeypatch.setenv("QUANTXAI_CACHE", str(tmp_path / "cache"))
    store = Store.open(tmp_path / "run")
    crossed = [key for key in store.manifest.cells if key.scorer == "crossing"]
    for key in crossed:
        store.discard(key)
    twin = next(v for v in plan_of(tiny_path).variants if v.name == "nf4").twin
    assert twin is not None
    weights = twin / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])

    with pytest.raises(IncompleteRun, match=r"nf4.*: variant 'nf4': the files in "):
        sweep(config(tiny_path, scorers=[{"scorer": "crossing"}]), tmp_path / "run")

    assert {key.variant: store.has(key) for key in crossed} == {"full": True, "rtn-3": True, "nf4": False}
    (failure,) = Store.open(tmp_path / "run").failures()
    assert failure.cell is not None
    assert (failure.variant, failure.cell.scorer) == ("nf4", "crossing")

"""Every metric against a value worked out by hand, and failures counted, not dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fakes import FakeContext, FakeLanguageModel, query
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from explainers.counterfactual import CounterfactualRow
from explainers.memorization import MemorizationRow
from explainers.scorers import rows_of
from explainers.scorers.edits import Edits, word_tokens
from explainers.scorers.flips import Flips
from explainers.scorers.perplexity import Perplexity
from explainers.scorers.recall import Recall, matches, normalize
from explainers.scorers.similarity import Similarity
from quantxai.datasets import load_dataset
from quantxai.methods import Scorer
from quantxai.records import Row

pytestmark = pytest.mark.bare

LABELS = ["world", "sports", "business", "technology"]


def edit(item: str = "n1", edited: str | None = "The robot won.", **fields: Any) -> CounterfactualRow:
    values = {
        "item": item,
        "group": f"g-{item}",
        "part": "text",
        "original": "The team won.",
        "context": "",
        "gold": "sports",
        "predicted": "sports",
        "target": "technology",
        "edited": edited,
        "raw": edited or "",
        "failure": None if edited else "empty",
        "stopped": "stop",
        "tokens": 4,
        "labels": LABELS,
        "original_scores": [-3.0, -0.1, -3.0, -3.0],
        "edited_scores": [-3.0, -3.0, -2.0, -0.4] if edited else None,
    }
    return CounterfactualRow.model_validate({**values, **fields})


def fact(**fields: Any) -> MemorizationRow:
    values = {
        "item": "f1",
        "group": "capital",
        "prompt": "The capital of France is",
        "gold": "Paris",
        "aliases": [],
        "completion": " Paris.",
        "logprob": -0.75,
        "tokens": 2,
        "rank": 1,
        "stopped": "stop",
    }
    return MemorizationRow.model_validate({**values, **fields})


def scored(
    scorer: Scorer, rows: Sequence[Row], context: FakeContext | None = None, dataset: str = "news"
) -> dict[tuple[str, str], float | None]:
    found = list(scorer.scores(rows, load_dataset(dataset), context or FakeContext()))
    groups = {row.item: row.group for row in rows}
    assert all(score.group == groups[score.item] for score in found)
    return {(score.item, score.metric): score.value for score in found}


# -- flips ---------------------------------------------------------------------------------------


def judge(**answers: str) -> FakeContext:
    """A parent that finds the given label for a text that holds the given word, world otherwise."""

    def choose(prompt: str, choice: str) -> float:
        label = next((label for word, label in answers.items() if word in query(prompt)), "world")
        return -0.1 if choice.strip() == label else -4.0

    return FakeContext(FakeLanguageModel(choose=choose))


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
    found = scored(Flips(), [row], FakeContext(lm), "inference")
    assert found["n1", "parent_hard_flip"] == 1
    queries = {query(p) for p in lm.asked("choices")}
    assert '"It rains." Does this mean that "It is dry."?' in queries
    assert '"It rains." Does this mean that "It is wet."?' in queries


def test_the_parent_is_not_loaded_for_failures_alone() -> None:
    lm = FakeLanguageModel()
    scored(Flips(), [edit(edited=None)], FakeContext(lm))
    scored(Perplexity(), [edit(edited=None)], FakeContext(lm))
    assert lm.calls == []


def test_the_wording_of_labels_is_part_of_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Flips().digest()
    monkeypatch.setattr("explainers.labels.prompts.read", lambda name: "other")
    assert Flips().digest() != plain


# -- edit distance -------------------------------------------------------------------------------


def wagner_fischer(a: Sequence[str], b: Sequence[str]) -> int:
    """Edit distance by the textbook table (Wagner & Fischer 1974), the oracle for rapidfuzz."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a) + 1):
        for j in range(len(b) + 1):
            if i == 0 or j == 0:
                table[i][j] = i + j
            else:
                replaced = table[i - 1][j - 1] + (a[i - 1] != b[j - 1])
                table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, replaced)
    return table[-1][-1]


def test_edit_distance_by_hand() -> None:
    # The|team|won|.  ->  The|new|robot|won|big|.  : replace team, insert two of new, robot, big.
    found = scored(Edits(), [edit(edited="The new robot won big.")])
    assert found["n1", "edit_distance"] == 3
    assert found["n1", "edit_distance_relative"] == pytest.approx(3 / 4)
    assert found["n1", "edit_distance_normalized"] == pytest.approx(3 / 6)
    shorter = scored(Edits(), [edit(edited="Won")])
    assert [shorter["n1", m.name] for m in Edits.metrics] == [4, 1, 1]


@given(*[st.lists(st.sampled_from(["a", "b", "cc", "."]), min_size=1, max_size=7)] * 2)
def test_edit_distance_agrees_with_wagner_fischer(before: list[str], after: list[str]) -> None:
    row = edit(original=" ".join(before), edited=" ".join(after))
    distance = wagner_fischer(before, after)
    values = [score.value for score in Edits().scores([row], load_dataset("news"), FakeContext())]
    longest = max(len(before), len(after))
    assert values == pytest.approx([distance, distance / len(before), distance / longest])


def test_tokens_are_words_and_marks() -> None:
    assert word_tokens("Don't  stop: 3.5% of Zoë’s e-mails…") == [
        *("Don't", "stop", ":", "3", ".", "5", "%", "of", "Zoë’s", "e", "-", "mails", "…")
    ]
    assert wagner_fischer(word_tokens("The End."), word_tokens("the end")) == 3, "case and marks count"


# -- similarity ----------------------------------------------------------------------------------


class TwoDimensions(FakeContext):
    """Embeddings with known angles."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        angle = {"The team won.": 0.0, "The robot won.": math.pi / 3, "Opposite.": math.pi}
        return np.array([[math.cos(angle[t]), math.sin(angle[t])] for t in texts], np.float32)


def test_similarity_is_the_cosine_of_text_and_edit() -> None:
    rows = [edit("a"), edit("b", None), edit("c", "Opposite."), edit("d", "The team won.")]
    found = scored(Similarity(), rows, TwoDimensions())
    assert found["a", "cosine"] == pytest.approx(0.5, abs=1e-6)
    assert found["b", "cosine"] is None
    assert found["c", "cosine"] == pytest.approx(-1, abs=1e-6)
    assert found["d", "cosine"] == pytest.approx(1, abs=1e-6)
    assert scored(Similarity(), [edit(edited=None)]) == {("n1", "cosine"): None}


# -- perplexity ----------------------------------------------------------------------------------


def test_nll_is_the_mean_over_tokens_in_nats() -> None:
    # Four tokens; without a beginning-of-text token the first has no distribution.
    values = {" robot": math.log(1 / 2), " won": math.log(1 / 4), ".": math.log(1 / 8)}
    lm = FakeLanguageModel(score=lambda prompt, token: values[token])
    rows = [edit("a"), edit("b", None), edit("c", "Wow")]
    found = scored(Perplexity(), rows, FakeContext(lm))
    assert found["a", "nll"] == pytest.approx(math.log(2) * (1 + 2 + 3) / 3)
    assert math.exp(found["a", "nll"] or 0) == pytest.approx(4)
    assert found["b", "nll"] is None
    assert found["c", "nll"] is None, "a single token cannot be scored"


# -- recall --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "gold", "aliases", "recalled"),
    [
        (" Paris.", "Paris", [], 1),
        (" paris, the city of light", "Paris", [], 1),
        (" Parisian", "Paris", [], 0),
        (" The city of Paris", "Paris", [], 0),
        (" the United Kingdom.", "United Kingdom", [], 1),
        (" UK.", "United Kingdom", ["UK", "Britain"], 1),
        (" United", "United Kingdom", [], 0),
        (" Washington, D.C.", "Washington D.C.", [], 1),
        (" J. R. R. Tolkien", "J.R.R. Tolkien", [], 1),
        (" Ｐａｒｉｓ", "Paris", [], 1),
        (" STRASSE", "Straße", [], 1),
        (" H.", "H", [], 1),
        (" He.", "H", [], 0),
        (" a", "A", [], 1),
        ("", "Paris", [], 0),
        (" ", "Paris", ["."], 0),
    ],
)
def test_recall_matches_the_start_at_a_word_boundary(
    completion: str, gold: str, aliases: list[str], recalled: int
) -> None:
    found = scored(Recall(), [fact(completion=completion, gold=gold, aliases=aliases)], dataset="relations")
    assert found["f1", "recall"] == recalled


def test_recall_by_hand() -> None:
    rows = [fact(), fact(item="f2", completion=" Lyon.", rank=4, logprob=-5.5)]
    found = scored(Recall(), rows, dataset="relations")
    assert [found["f1", m.name] for m in Recall.metrics] == [1, 1, -0.75, 1]
    assert [found["f2", m.name] for m in Recall.metrics] == [0, 0, -5.5, 0.25]


def test_normalization() -> None:
    assert normalize("  The Lord_of\tthe Rings! ") == "lord of rings"
    assert normalize("the") == "the"
    assert not matches("anything", [])


# -- all -----------------------------------------------------------------------------------------


def test_foreign_rows_are_refused() -> None:
    with pytest.raises(TypeError, match="expected rows of CounterfactualRow, found MemorizationRow"):
        rows_of([edit(), fact()], CounterfactualRow)
    with pytest.raises(TypeError):
        scored(Recall(), [edit()])

"""Every metric against a value worked out by hand, and failures counted, not dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fakes import FakeContext, FakeLanguageModel
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from explainers.counterfactual import CounterfactualRow
from explainers.memorization import MemorizationRow
from explainers.scorers import rows_of
from explainers.scorers.diversity import Diversity
from explainers.scorers.edits import Edits, word_tokens
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


def test_another_model_than_the_parent_can_be_asked() -> None:
    parent, other = FakeLanguageModel(), FakeLanguageModel(score=lambda prompt, token: -0.5)
    found = scored(Perplexity(model="other"), [edit()], FakeContext(parent, other=other))
    assert found["n1", "nll"] == 0.5
    assert parent.calls == []
    assert Perplexity(model="other").models == ("other",)
    assert Perplexity().models == ()


def test_no_model_is_asked_about_failures_alone() -> None:
    lm = FakeLanguageModel()
    scored(Perplexity(), [edit(edited=None)], FakeContext(lm))
    assert lm.calls == []


# -- diversity -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("original", "edited", "values"),
    [
        # the|new|robot|won|the|new|game: 5 of 7 words, 5 of 6 pairs (the new twice); inserted are new, robot
        # (for team), the, new, game, of which new, robot and game are new: 3 of 5.
        ("The team won.", "The new robot won the new game!", (5 / 7, 5 / 6, 3 / 5)),
        ("The team won.", "Robots won.", (1, 1, 1)),
        ("The team won.", "The team.", (1, 1, None)),
        ("The team won.", "Won the team.", (1, 1, 0)),
        ("The team won.", "Big big big big", (1 / 4, 1 / 3, 1 / 4)),
        ("The team won.", "Lost", (1, None, 1)),
        ("The team won.", "...", (None, None, None)),
        ("", "Robots won.", (1, 1, 1)),
    ],
)
def test_diversity_by_hand(original: str, edited: str, values: tuple[float | None, ...]) -> None:
    found = scored(Diversity(), [edit(original=original, edited=edited)])
    for metric, value in zip(Diversity.metrics, values, strict=True):
        assert found["n1", metric.name] == (value if value is None else pytest.approx(value)), metric.name


def test_a_failed_edit_has_no_diversity() -> None:
    assert set(scored(Diversity(), [edit(edited=None)]).values()) == {None}


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
        (" ", "Paris", ["", " "], 0),
        (" \U0001f600.", "\U0001f600", [], 1),
        (" \U0001f622.", "\U0001f600", [], 0),
        (" \U0001f600\U0001f600", "\U0001f600", [], 0),
        (" ?", "?", [], 1),
        (" Paris?", "?", [], 0),
        (" C.", "C++", [], 0),
        (" C++ is", "C++", [], 1),
        (" c++.", "C++", [], 1),
        (" C++x", "C++", [], 0),
        (" C#, a language", "C", ["C#"], 1),
        (" C.", "C#", [], 0),
        (" \uff23\uff0b\uff0b", "C++", [], 1),
        (" `Paris`", "Paris", [], 1),
        (" The WalmartTM", "Walmart\u2122", [], 1),
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


def test_what_could_not_be_scored_has_no_value_and_is_noted() -> None:
    unscored = {"logprob": None, "rank": None, "tokens": 0}
    rows = [
        fact(item="a", gold="", completion="", problem="the object is empty", **unscored),
        fact(item="b", problem="the query does not name the subject", **unscored),
        fact(item="c", problem="the object's first token is white space", **unscored),
        fact(item="d"),
        fact(item="e", gold="", aliases=["Paris"], problem="the object is empty", **unscored),
    ]
    context = FakeContext()
    found = scored(Recall(), rows, context, dataset="relations")
    for item in "abe":
        assert {found[item, m.name] for m in Recall.metrics} == {None}
    assert [found["c", m.name] for m in Recall.metrics] == [1, None, None, None], "the completion is there"
    assert [found["d", m.name] for m in Recall.metrics] == [1, 1, -0.75, 1]
    assert context.notes == {
        "nothing_asked": {
            "the object is empty": ["a", "e"],
            "the query does not name the subject": ["b"],
            "the object's first token is white space": ["c"],
        }
    }
    quiet = FakeContext()
    scored(Recall(), [fact()], quiet, dataset="relations")
    assert not quiet.notes


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


ROWS = [edit("a"), edit("a", "Robots won."), edit("b", original=""), edit("c", None, original="")]
"""An item that comes twice with different edits, and empty texts."""


@pytest.mark.parametrize("scorer", [Edits(), Similarity(), Perplexity(), Diversity()])
def test_items_that_come_twice_and_empty_texts_are_scored_like_any(scorer: Scorer) -> None:
    data = load_dataset("news")
    found = list(scorer.scores(ROWS, data, FakeContext()))
    alone = [score for row in ROWS for score in scorer.scores([row], data, FakeContext())]
    assert found == alone
    assert [score.item for score in found[:: len(scorer.metrics)]] == ["a", "a", "b", "c"]


def test_an_empty_text_has_no_edit_distance() -> None:
    assert set(scored(Edits(), [edit(original="")]).values()) == {None}

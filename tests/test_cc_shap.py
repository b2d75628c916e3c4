"""CC-SHAP: Shapley values against games solved by hand, masking, and rows of a scripted model."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fakes import FakeContext, FakeLanguageModel, query

from explainers.cc_shap import CCSHAP, CCSHAPRow, Player, masked, players_of, ratios
from explainers.scorers.faithfulness import CCSHAPScorer
from explainers.shapley import coalitions, shapley_values
from quantxai.datasets import Dataset, load_dataset, take
from quantxai.records import Item

pytestmark = pytest.mark.bare

Game = Callable[[frozenset[int]], float]


def solved(game: Game, players: int, most: int, seed: int = 0) -> np.ndarray:
    """Shapley values by the code under test."""
    asked = coalitions(players, most, np.random.default_rng(seed))
    values = [game(frozenset(np.flatnonzero(members).tolist())) for members in asked.members]
    return shapley_values(asked, np.array(values)[:, None])[:, 0]


def by_orders(game: Game, players: int) -> np.ndarray:
    """Shapley values by definition: what a player adds on entering, averaged over all orders of entry."""
    found = np.zeros(players)
    for order in itertools.permutations(range(players)):
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            found[player] += game(before | {player}) - game(before)
    return found / math.factorial(players)


def random_game(players: int, seed: int) -> Game:
    values = np.random.default_rng(seed).normal(size=2**players)
    return lambda inside: float(values[sum(2**player for player in inside)])


# -- Shapley values ------------------------------------------------------------------------------


def test_gloves_by_hand() -> None:
    """Player 0 has a left glove, 1 and 2 a right one each; a pair is worth 1.

    Player 0 completes a pair unless it comes first: in 4 of 6 orders. Player 1 does where it comes right
    after player 0 alone: in 1 of 6 (0, 1, 2); so does player 2.
    """
    values = solved(lambda inside: float(0 in inside and len(inside) > 1), players=3, most=8)
    np.testing.assert_allclose(values, [4 / 6, 1 / 6, 1 / 6], atol=1e-12)


@pytest.mark.parametrize("most", [26, 64, 5000])
def test_in_an_additive_game_players_get_what_they_bring(most: int) -> None:
    weights = np.arange(12) - 4.5
    values = solved(lambda inside: 3 + sum(weights[list(inside)]), players=12, most=most)
    np.testing.assert_allclose(values, weights, atol=1e-10)


@pytest.mark.parametrize("players", [1, 2, 3, 4, 5, 6])
def test_all_coalitions_give_the_values_of_the_definition(players: int) -> None:
    game = random_game(players, seed=players)
    np.testing.assert_allclose(solved(game, players, 64), by_orders(game, players), atol=1e-12)


@pytest.mark.parametrize("most", [22, 50, 128, 1024])
def test_values_sum_to_what_all_are_worth_more_than_none(most: int) -> None:
    game = random_game(10, seed=1)
    total = game(frozenset(range(10))) - game(frozenset())
    assert solved(game, 10, most).sum() == pytest.approx(total, abs=1e-10)


def test_players_that_are_alike_get_the_same_and_a_useless_one_nothing() -> None:
    def game(inside: frozenset[int]) -> float:
        return 2.0 * ({0, 1} <= inside) + 1.0 * (2 in inside) - 3.0 * ({0, 1, 2} <= inside)

    values = solved(game, players=4, most=16)
    assert values[0] == pytest.approx(values[1])
    assert values[3] == pytest.approx(0, abs=1e-12)
    # 2 is shared by two, -3 by three.
    np.testing.assert_allclose(values, [1 - 1, 1 - 1, 1 - 1, 0], atol=1e-12)


@pytest.mark.parametrize("most", [22, 40, 128])
def test_a_sample_is_exact_where_only_two_interact_at_a_time(most: int) -> None:
    rng = np.random.default_rng(2)
    alone, together = rng.normal(size=10), np.triu(rng.normal(size=(10, 10)), 1)

    def game(inside: frozenset[int]) -> float:
        here = list(inside)
        return float(alone[here].sum() + together[np.ix_(here, here)].sum())

    expected = alone + (together + together.T).sum(axis=1) / 2
    np.testing.assert_allclose(solved(game, 10, most), expected, atol=1e-10)


def test_many_games_are_solved_at_once() -> None:
    games = [random_game(5, seed) for seed in range(3)]
    asked = coalitions(5, 32, np.random.default_rng(0))
    values = [[game(frozenset(np.flatnonzero(m).tolist())) for game in games] for m in asked.members]
    found = shapley_values(asked, np.array(values))
    assert found.shape == (5, 3)
    np.testing.assert_allclose(found.T, [by_orders(game, 5) for game in games], atol=1e-12)


@pytest.mark.parametrize(("players", "most"), [(10, 22), (10, 23), (10, 112), (10, 128), (7, 100), (9, 60)])
def test_a_sample_holds_distinct_coalitions_and_their_complements(players: int, most: int) -> None:
    members, weights = coalitions(players, most, np.random.default_rng(3))
    known = {row.tobytes() for row in members}
    assert len(known) == len(members) == len(weights)
    assert most - 1 <= len(members) <= most
    assert all((~row).tobytes() in known for row in members)
    assert not members[0].any()
    assert members[1].all()
    assert (weights[2:] > 0).all()
    singles = members.sum(axis=1) == 1
    assert singles.sum() == players, "the sizes that count most are complete"


def test_the_weights_of_all_coalitions_are_those_of_the_formula() -> None:
    members, weights = coalitions(4, 16, np.random.default_rng(0))
    # (n - 1) / (C(n, s) s (n - s)): 3 / (4 * 1 * 3) and 3 / (6 * 2 * 2).
    expected = {0: 0, 1: 1 / 4, 2: 1 / 8, 3: 1 / 4, 4: 0}
    np.testing.assert_allclose(weights, [expected[int(size)] for size in members.sum(axis=1)])


# -- players and masks ---------------------------------------------------------------------------


def test_words_are_players_and_neighbours_are_joined_where_there_are_too_many() -> None:
    fields = {"premise": "a b c d e f g h i", "hypothesis": "x y z", "explanation": "not asked"}
    item = Item(id="i", text="t", group="g", fields=fields)
    parts = ("premise", "hypothesis")
    assert [p.words for p in players_of(item, parts, 20)] == [*"abcdefghi", *"xyz"]
    assert [p.words for p in players_of(item, parts, 6)] == ["a b c", "d e", "f g", "h i", "x y", "z"]
    assert [p.part for p in players_of(item, parts, 6)] == ["premise"] * 4 + ["hypothesis"] * 2
    assert [p.words for p in players_of(item, parts, 2)] == ["a b c d e f g h i", "x y z"]


def test_a_part_without_words_has_no_player() -> None:
    item = Item(id="i", text="t", group="g", fields={"claim": "so it is", "evidence": ""})
    assert [p.words for p in players_of(item, ("claim", "evidence"), 6)] == ["so", "it", "is"]


def test_a_run_of_masked_words_is_one_mask_in_each_part() -> None:
    players = [Player("p", "a b"), Player("p", "c"), Player("p", "d"), Player("h", "x"), Player("h", "y")]
    assert masked(players, [True] * 5) == {"p": "a b c d", "h": "x y"}
    assert masked(players, [False] * 5) == {"p": "...", "h": "..."}
    assert masked(players, [True, False, False, False, True]) == {"p": "a b ...", "h": "... y"}
    assert masked(players, [False, True, False, True, False]) == {"p": "... c ...", "h": "x ..."}


def test_ratios_by_hand() -> None:
    found = ratios(np.array([[1.0, 0.0, 2.0], [-3.0, 0.0, 2.0]]))
    np.testing.assert_array_equal(found, [[0.25, 0.0, 0.5], [-0.75, 0.0, 0.5]])


# -- rows and scores -----------------------------------------------------------------------------

WORDS = ["one", "two", "three", "four"]


def pairs() -> Dataset:
    """One pair of two words and two words, and the demonstrations it needs."""
    shown = load_dataset("inference")
    item = Item(
        id="i",
        text="t",
        label="neutral",
        group="g",
        fields={"premise": "one two", "hypothesis": "three four"},
    )
    return shown.model_copy(update={"items": (item,)})


def model(answer: dict[str, float], tokens: list[dict[str, float]], says: str) -> FakeLanguageModel:
    """Log-probabilities are sums over the words that the question shows."""

    def shown(prompt: str) -> set[str]:
        return set(re.findall(r"[\w.]+", query(prompt).partition("? Yes, maybe")[0]))

    def worth(weights: dict[str, float], prompt: str) -> float:
        # Of the other pairs, which the prediction is calibrated on, "Maybe" is less likely.
        own = shown(prompt) & {*WORDS, "..."}
        return (-9.0 if own else -15.0) + sum(weights.get(word, 0.0) for word in own)

    def score(prompt: str, token: str) -> float:
        return worth(tokens[says.split().index(token.strip())], prompt)

    return FakeLanguageModel(
        reply=lambda prompt: f" {says}\n",
        choose=lambda prompt, choice: worth(answer, prompt) if choice == " Maybe" else -20.0,
        score=score,
    )


def observed(lm: FakeLanguageModel, **options: Any) -> CCSHAPRow:
    data = pairs()
    (row,) = CCSHAP(**options).rows(lm, data, data.items, seed=7)
    assert isinstance(row, CCSHAPRow)
    return row


def cc_shap(row: CCSHAPRow) -> float | None:
    (score,) = CCSHAPScorer().scores([row], pairs(), FakeContext())
    return score.value


@pytest.mark.parametrize("order", ["predict-then-explain", "explain-then-predict"])
def test_contributions_of_a_model_that_adds_up_its_words(order: str) -> None:
    answer = dict(zip(WORDS, [1.0, -2.0, 0.5, 0.0], strict=True))
    tokens = [{"one": 3.0, "two": -1.0}, {"one": -0.5, "four": 0.5}]
    row = observed(model(answer, tokens, "So then"), order=order)
    assert row.players == WORDS
    assert row.predicted == "neutral"
    assert (row.explanation, row.tokens, row.coalitions) == ("So then", 2, 16)
    np.testing.assert_allclose(row.to_prediction, [1.0, -2.0, 0.5, 0.0], atol=1e-12)
    # The mean of (3/4, -1/4, 0, 0) and (-1/2, 0, 0, 1/2).
    np.testing.assert_allclose(row.to_explanation, [0.125, -0.125, 0.0, 0.25], atol=1e-12)
    # 1 * 0.125 + 2 * 0.125, over the lengths sqrt(5.25) and sqrt(0.09375).
    assert cc_shap(row) == pytest.approx(0.375 / math.sqrt(5.25 * 0.09375))


@pytest.mark.parametrize(
    ("explained", "expected"),
    [
        ({"one": 2.0, "two": -4.0}, 1.0),
        ({"one": -1.0, "two": 2.0}, -1.0),
        ({"one": 2.0, "two": 1.0}, 0.0),
        ({"three": 1.0}, 0.0),
        ({}, None),
    ],
)
def test_cc_shap_of_proportional_opposite_orthogonal_and_no_contributions(
    explained: dict[str, float], expected: float | None
) -> None:
    row = observed(model({"one": 1.0, "two": -2.0}, [explained], "So"))
    assert cc_shap(row) == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_a_prediction_that_no_word_contributes_to_has_no_value() -> None:
    assert cc_shap(observed(model({}, [{"one": 1.0}], "So"))) is None


def test_every_masked_input_is_run_once_for_the_prediction_and_once_for_the_explanation() -> None:
    lm = model({"one": 1.0}, [{}, {}], "So then")
    before = len(pairs().demonstrations)
    row = observed(lm)
    answers = [query(p) for p in lm.asked("choices") if "..." in query(p)]
    assert len(answers) == len(set(answers)) == row.coalitions - 1
    explained = [query(p) for p in lm.asked("logprobs")]
    assert len(explained) == len(set(explained)) == row.coalitions
    assert len(lm.asked("choices")) < before + 2 + row.coalitions
    assert '"..." Does this mean that "three ..."? Yes, maybe or no? Answer:' in answers
    assert (
        '"..." Does this mean that "three ..."? Yes, maybe or no? Answer: Maybe\nExplanation: So then'
        in explained
    )


def test_where_explanations_come_first_the_prediction_is_made_without_one() -> None:
    lm = model({"one": 1.0}, [{}, {}], "So then")
    observed(lm, order="explain-then-predict")
    asked = [query(p) for p in lm.asked("choices") if '"one two"' in query(p)]
    assert asked
    assert not any("So then" in prompt for prompt in asked)


def test_a_failed_explanation_is_counted_and_nothing_is_masked_for_it() -> None:
    lm = FakeLanguageModel(reply=lambda prompt: "\n")
    row = observed(lm)
    assert (row.failure, row.explanation, row.to_prediction, row.to_explanation) == ("empty", None, [], [])
    assert (row.tokens, row.coalitions) == (0, 0)
    assert not any("..." in query(p) for p in lm.asked("choices"))
    assert cc_shap(row) is None


def test_what_is_masked_depends_on_seed_and_item_alone() -> None:
    data = take(load_dataset("inference"), 2, seed=0)

    def asked(seed: int, lm: FakeLanguageModel, items: tuple[Item, ...]) -> list[set[str]]:
        list(CCSHAP(coalitions=40).rows(lm, data, items, seed))
        shown = [query(p).partition("? Yes, maybe")[0] for p in lm.asked("logprobs")]
        return [set(shown[at : at + 40]) for at in range(0, len(shown), 40)]

    def says(text: str) -> FakeLanguageModel:
        return FakeLanguageModel(reply=lambda prompt: f" {text}\n")

    both = asked(1, says("So."), data.items)
    assert len(both) == 2
    assert asked(1, says("But no."), data.items) == both, "whatever the model says"
    assert asked(1, says("So."), data.items[1:]) == both[1:]
    assert asked(2, says("So."), data.items) != both


def test_too_few_coalitions_for_the_players_are_refused() -> None:
    with pytest.raises(ValueError, match=r"coalitions = 20 cannot tell 10 players apart: set it to 22"):
        CCSHAP(coalitions=20)
    assert CCSHAP(coalitions=20, players=9).players == 9

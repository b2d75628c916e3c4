"""Simulated raters: what they answer is what their truth says, by sums worked out another way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from quantxai.errors import ConfigError, UnknownName
from userstudy.raters import Population, Shown, Truth, read_truth
from userstudy.settings import Question

SCALE = Question(id="overall", kind="likert", text="?", points=7)
SHORT = Question(id="clear", kind="likert", text="?", points=5)
GUESS = Question(id="guess", kind="label", text="?")
PAIR = Question(id="better", kind="pairwise", text="?")
CALM: dict[str, Any] = {"careless": 0.0, "straight_lining": 0.0, "drop_out": 0.0, "attention_failure": 0.0}


def answers(truth: Truth, *questions: Question, participants: int = 400, items: int = 400) -> np.ndarray:
    """Every participant rates every item under each of two variants: [variant, participant, item, question]."""
    raters = Population(truth, questions, ("full", "nf4"), participants, items, np.random.default_rng(1))
    variant, person, item = (a.ravel() for a in np.indices((2, participants, items)))
    n = len(item)
    found = raters.answers(Shown(person, item, variant, np.zeros(n), np.full(n, 0.5)))
    return found.reshape(2, participants, items, len(questions))


def mean_rating(truth: Truth, points: int, effect: float) -> float:
    """The expected rating by numerical integration over one normal variable."""
    variance = (
        truth.participant**2
        + truth.item**2
        + truth.participant_by_variant**2
        + truth.item_by_variant**2
        + truth.participant_by_item**2
        + truth.noise**2
    )
    quality = stats.norm(truth.mean + effect / (points - 1), math.sqrt(variance))

    def rated(q: float) -> float:
        return min(max(math.floor(q * (points - 1) + 0.5), 0), points - 1) + 1

    edges = [(k - 0.5) / (points - 1) for k in range(1, points)]
    return float(integrate.quad(lambda q: rated(q) * quality.pdf(q), -3, 4, points=edges, limit=400)[0])


@pytest.mark.parametrize(("question", "effect"), [(SCALE, 0.0), (SCALE, -0.9), (SHORT, -0.9), (SCALE, 2.5)])
def test_expected_rating_by_integration(question: Question, effect: float) -> None:
    truth = Truth(effects={"nf4": effect})
    assert truth.expected(question, "nf4", "full") == pytest.approx(
        mean_rating(truth, question.points, effect)
    )


def test_ratings_have_the_expected_means() -> None:
    truth = Truth(effects={"nf4": -0.9}, by_question={"clear": {"nf4": 0.5}}, **CALM)
    found = answers(truth, SCALE, SHORT).mean((1, 2))
    for v, variant in enumerate(("full", "nf4")):
        for q, question in enumerate((SCALE, SHORT)):
            # 400 participants and items: their intercepts alone leave the mean a standard error of 0.05.
            assert found[v, q] == pytest.approx(truth.expected(question, variant, "full"), abs=0.15)
    change = found[1] - found[0]
    assert change[0] == pytest.approx(
        truth.expected(SCALE, "nf4", "full") - truth.expected(SCALE, "full", "full"), abs=0.08
    )
    assert 0.2 < change[1] < 0.6


def test_spread_comes_from_where_the_truth_says() -> None:
    truth = Truth(others=0.0, halo=0.5, mean=0.5, **CALM)
    latent = answers(truth.model_copy(update={"mean": 0.5}), SCALE, SHORT)
    # Differences of whole points are not the latent ones, so each part is seen by leaving it out.
    for part, axis in (("participant", 1), ("item", 2)):
        without = answers(truth.model_copy(update={part: 0.0}), SCALE, SHORT)
        means = [a[..., 0].mean(3 - axis).var(axis=1).mean() for a in (latent, without)]
        expected = (6 * getattr(truth, part)) ** 2
        assert means[0] - means[1] == pytest.approx(expected, rel=0.25), part
    residual = latent[0] - latent[0].mean(0, keepdims=True) - latent[0].mean(1, keepdims=True)
    correlation = np.corrcoef(residual[..., 0].ravel(), residual[..., 1].ravel())[0, 1]
    assert 0.4 < correlation < 0.5  # cutting into points lowers 0.5 a little


def test_repeats_share_all_but_the_noise() -> None:
    truth = Truth(**CALM)
    raters = Population(truth, [SCALE], ("full",), 300, 300, np.random.default_rng(2))
    person, item = (a.ravel() for a in np.indices((300, 300)))
    n = len(item)
    shown = Shown(person, item, np.zeros(n, dtype=int), np.zeros(n), np.full(n, 0.5))
    first, second = raters.answers(shown), raters.answers(shown)
    stable = truth.stable**2 / (truth.stable**2 + truth.noise**2)
    assert np.corrcoef(first[:, 0], second[:, 0])[0, 1] == pytest.approx(stable, abs=0.05)


def test_label_guesses() -> None:
    truth = Truth(effects={"nf4": -1.2}, label_right=0.8, **CALM)
    right = answers(truth, GUESS).mean((1, 2))[:, 0]
    sigma = math.sqrt(truth.stable**2 + truth.noise**2)
    assert right == pytest.approx([0.8, stats.norm.cdf(stats.norm.ppf(0.8) - 0.2 / sigma)], abs=0.03)
    assert truth.expected(GUESS, "nf4", "full") == pytest.approx(
        stats.norm.cdf(stats.norm.ppf(0.8) - 0.2 / sigma)
    )


def test_pairs_know_no_participant_and_no_item() -> None:
    truth = Truth(effects={"nf4": -0.6}, participant=5.0, item=5.0, **CALM)
    found = answers(truth, PAIR)[1, :, :, 0]
    assert set(np.unique(found)) == {-1.0, 0.0, 1.0}
    assert found.mean() == pytest.approx(truth.expected(PAIR, "nf4", "full"), abs=0.04)
    same = answers(Truth(others=0.0, **CALM), PAIR)[1, :, :, 0]
    assert same.mean() == pytest.approx(0.0, abs=0.03)
    assert Truth(others=0.0).expected(PAIR, "nf4", "full") == 0.0


def test_careless_and_straight_lining() -> None:
    truth = Truth(careless=0.5, straight_lining=0.5, drop_out=0.3)
    raters = Population(truth, [SCALE], ("full",), 2000, 20, np.random.default_rng(3))
    person, item = (a.ravel() for a in np.indices((2000, 20)))
    n = len(item)
    found = raters.answers(Shown(person, item, np.zeros(n, dtype=int), np.zeros(n), np.full(n, 0.5)))
    by_person = found.reshape(2000, 20)
    assert (by_person[raters.straight].std(1) == 0).all()
    assert len(np.unique(by_person[raters.straight])) == 7
    assert by_person[raters.careless].mean() == pytest.approx(4, abs=0.05)
    assert raters.careless.mean() == pytest.approx(0.5, abs=0.04)
    assert (raters.stay < 1).mean() == pytest.approx(0.3, abs=0.04)
    passed = raters.attention(np.arange(2000))
    assert passed.mean() == pytest.approx(1 / 7, abs=0.03)
    assert np.median(raters.seconds(np.arange(2000))[raters.careless]) < 2


def test_same_seed_same_raters() -> None:
    first, second = (
        answers(Truth(), SCALE, participants=9, items=9),
        answers(Truth(), SCALE, participants=9, items=9),
    )
    assert (first == second).all()


def test_files(tmp_path: Any) -> None:
    (tmp_path / "a.toml").write_text("noise = 0.2\n[effects]\nnf4 = -0.5\n")
    (tmp_path / "b.json").write_text('{"noise": 0.2, "effects": {"nf4": -0.5}}')
    assert (
        read_truth(tmp_path / "a.toml")
        == read_truth(tmp_path / "b.json")
        == Truth(noise=0.2, effects={"nf4": -0.5})
    )
    (tmp_path / "c.toml").write_text("nose = 0.2\n")
    with pytest.raises(ConfigError, match="noise"):
        read_truth(tmp_path / "c.toml")
    (tmp_path / "d.json").write_text("[1]")
    with pytest.raises(ConfigError, match="object"):
        read_truth(tmp_path / "d.json")
    with pytest.raises(UnknownName, match="nf4"):
        Truth(effects={"nf5": 1.0}).checked(["full", "nf4"])

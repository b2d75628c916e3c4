"""Texts generated together: who joins when, how tokens are drawn; against one prompt at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tiny  # noqa: E402
from scipy.stats import chisquare  # noqa: E402

from quantxai.caches import growing_cache, merged  # noqa: E402
from quantxai.checkpoints import load_dense, load_tokenizer  # noqa: E402
from quantxai.engine import TransformersModel  # noqa: E402
from quantxai.errors import InputError  # noqa: E402
from quantxai.generation import Batch, Sampling  # noqa: E402
from quantxai.lm import Generation  # noqa: E402
from quantxai.prefixes import Row, fitting  # noqa: E402

LIMIT = 10
NEWS = [item.text[: 30 + 15 * i] for i, item in enumerate(tiny.load_dataset("news").items[:8])]
FACTS = [i.fields["template"].replace("{}", i.text) for i in tiny.learned_facts()]
UNEVEN = [p for pair in zip(FACTS[:8], NEWS, strict=True) for p in pair]
"""Facts end after a few tokens, news that breaks off goes on for longer."""


@pytest.fixture(scope="module")
def loaded(tiny_path: Path) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    return load_dense(tiny_path, "float32", "cpu"), load_tokenizer(tiny_path)


@pytest.fixture
def lm(loaded: tuple[Any, Any]) -> TransformersModel:
    return TransformersModel(*loaded)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows already in the batch and rows that join it, at every joining."""
    seen: list[tuple[int, int]] = []
    join = Batch.join

    def watched(batch: Batch, rows: Sequence[Any], *state: Any) -> Any:
        seen.append((len(batch), len(rows)))
        return join(batch, rows, *state)

    monkeypatch.setattr(Batch, "join", watched)
    return seen


def alone(lm: TransformersModel, prompts: Sequence[str], **options: Any) -> list[Generation]:
    seeds = options.pop("seeds", None)
    return [
        lm.anew().generate([p], **options, **({"seeds": [seeds[i]]} if seeds else {}))[0]
        for i, p in enumerate(prompts)
    ]


# Refill


@pytest.mark.parametrize("budget", [200, 400, 8192])
def test_texts_that_join_a_running_batch_are_those_generated_alone(
    lm: TransformersModel, joined: list[tuple[int, int]], budget: int
) -> None:
    expected = alone(lm, UNEVEN, max_new_tokens=LIMIT, stop=("Pre",))
    assert len({g.tokens for g in expected}) > 5, "lengths differ"
    assert {g.stopped for g in expected} == {"stop", "end", "length"}
    joined.clear()
    lm.batch_tokens = budget

    found = lm.generate(UNEVEN, max_new_tokens=LIMIT, stop=("Pre",))

    assert found == expected
    assert sum(new for _, new in joined) == len(UNEVEN)
    assert any(running for running, _ in joined) == (budget < 8192)


def test_a_batch_is_refilled_before_it_is_empty(lm: TransformersModel, joined: list[tuple[int, int]]) -> None:
    lm.batch_tokens = 300

    lm.generate(UNEVEN, max_new_tokens=LIMIT)

    assert joined[0][0] == 0
    assert all(running > 0 for running, _ in joined[1:])
    assert len(joined) > 3


def test_shared_prefixes_are_kept_by_those_who_join(
    lm: TransformersModel, joined: list[tuple[int, int]]
) -> None:
    beginning = " ".join(NEWS[:2])
    prompts = [f"{beginning}\n{text}" for text in UNEVEN]
    expected = alone(lm, prompts, max_new_tokens=LIMIT)
    joined.clear()
    tokens = [lm._encode(p) for p in prompts]
    assert min(len(r.prefix) for r in lm._rows(tokens, [1] * len(tokens))) > 30
    lm.batch_tokens = 800

    assert lm.generate(prompts, max_new_tokens=LIMIT) == expected
    assert any(running for running, _ in joined)


def test_scores_are_those_of_prompts_alone_when_a_batch_is_refilled(
    lm: TransformersModel, joined: list[tuple[int, int]]
) -> None:
    continuations = [
        [" Paris.", " cold", " the last of many words in a row."][i % 3] for i in range(len(UNEVEN))
    ]
    expected = lm.anew().logprobs(UNEVEN, continuations)
    texts = alone(lm, UNEVEN, max_new_tokens=LIMIT)
    joined.clear()
    lm.batch_tokens = 300

    found = lm.generate_and_score(UNEVEN, continuations, max_new_tokens=LIMIT)

    assert any(running for running, _ in joined)
    assert [g for g, _ in found] == texts
    for (_, score), alike in zip(found, expected, strict=True):
        np.testing.assert_allclose(score.logprobs, alike.logprobs, atol=1e-4)
        assert score.ranks == alike.ranks


def test_a_refilled_batch_never_passes_its_budget(
    lm: TransformersModel, joined: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, int]] = []
    call = lm._call

    def watch(ids: Any, mask: Any, cache: Any, keep: int) -> Any:
        shapes.append(tuple(mask.shape))
        return call(ids, mask, cache, keep)

    monkeypatch.setattr(lm, "_call", watch)
    lm.batch_tokens = 300
    lm.generate(UNEVEN, max_new_tokens=LIMIT)

    assert any(running for running, _ in joined)
    assert max(rows * width for rows, width in shapes if rows > 1) <= 300


def test_those_who_join_fit_beside_what_is_running() -> None:
    waiting = [Row(i, (), (7,) * 5) for i in range(9)]

    # Alone, a row takes 5 + 10 tokens of 100; beside rows that are 20 wide, 20 + 10, theirs counted too.
    assert fitting(waiting, 100, 10) == 6
    assert fitting(waiting, 100, 10, running=2, width=20) == 1
    assert fitting(waiting, 100, 10, running=3, width=24) == 0
    assert fitting(waiting, 10, 10) == 1, "one prompt is run whatever the budget"


@pytest.mark.parametrize("failing", [2, 5, 11])
def test_memory_that_runs_out_in_a_running_batch_repeats_what_has_not_ended(
    lm: TransformersModel, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    expected = alone(lm, UNEVEN, max_new_tokens=LIMIT)
    calls, finished = 0, list[int]()
    call = lm._call

    def fail(ids: Any, mask: Any, cache: Any, keep: int) -> Any:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise torch.OutOfMemoryError("no memory left")
        return call(ids, mask, cache, keep)

    monkeypatch.setattr(lm, "_call", fail)
    lm.batch_tokens, lm.tick = 400, finished.append

    assert lm.generate(UNEVEN, max_new_tokens=LIMIT) == expected
    assert lm.batch_tokens == 200
    assert sum(finished) == len(UNEVEN)


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_memory_that_runs_out_while_a_batch_is_put_together_loses_nothing(
    lm: TransformersModel, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    expected = alone(lm, UNEVEN, max_new_tokens=LIMIT)
    calls, finished = 0, list[int]()

    def fail(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise torch.OutOfMemoryError("no memory left")
        return merged(*arguments)

    monkeypatch.setattr("quantxai.generation.merged", fail)
    lm.batch_tokens, lm.tick = 400, finished.append

    assert lm.generate(UNEVEN, max_new_tokens=LIMIT) == expected
    assert calls > failing
    assert sum(finished) == len(UNEVEN)


def test_a_sliding_window_batch_is_not_refilled(
    loaded: tuple[Any, Any], joined: list[tuple[int, int]]
) -> None:
    from transformers import AutoModelForCausalLM, MistralConfig

    torch.manual_seed(1)
    config = MistralConfig(
        vocab_size=len(loaded[1]),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=24,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id = loaded[1].eos_token_id
    lm = TransformersModel(model, loaded[1], batch_tokens=300)

    found = lm.generate(UNEVEN, max_new_tokens=LIMIT, stop=("e",))

    assert len(joined) > 1
    assert not any(running for running, _ in joined)
    assert found == alone(lm, UNEVEN, max_new_tokens=LIMIT, stop=("e",))


def test_merged_caches_keep_the_chosen_rows_aligned_on_the_right(loaded: tuple[Any, Any]) -> None:
    config = loaded[0].config

    def cache(rows: int, tokens: int, start: float) -> Any:
        made = growing_cache(config)
        for layer in made.layers:
            states = torch.arange(rows * tokens, dtype=torch.float32).view(rows, 1, tokens, 1) + start
            layer.update(states, -states)
        return made

    wide = (cache(3, 4, 100.0), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]), [0, 2])
    narrow = (cache(2, 2, 0.0), torch.tensor([[1, 1], [0, 1]]), [1])

    found, mask = merged([wide, narrow], config)

    assert mask.tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 1]], "the column no row needs is gone"
    for layer in found.layers:
        assert layer.keys[:, 0, :, 0].tolist() == [[101, 102, 103], [109, 110, 111], [0, 2, 3]]
        assert torch.equal(layer.values, -layer.keys)
        layer.update(torch.ones(3, 1, 1, 1), torch.ones(3, 1, 1, 1))
        assert layer.keys[:, 0, :, 0].tolist()[1] == [109, 110, 111, 1]


# Sampling


def draw(lm: TransformersModel, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> list[str]:
    found = lm.generate(prompts, **{"max_new_tokens": 8, "temperature": 1.0, **options}, seeds=seeds)
    return [g.text for g in found]


def test_what_is_drawn_depends_on_seed_and_prompt_and_not_on_the_batch(
    lm: TransformersModel, joined: list[tuple[int, int]]
) -> None:
    seeds = list(range(len(UNEVEN)))
    expected = draw(lm, UNEVEN, seeds)
    joined.clear()

    lm.batch_tokens = 200
    assert draw(lm, UNEVEN, seeds) == expected
    assert any(running for running, _ in joined)
    assert draw(lm, UNEVEN[::-1], seeds[::-1]) == expected[::-1]
    assert [draw(lm, [p], [s])[0] for p, s in zip(UNEVEN, seeds, strict=True)] == expected


def test_other_seeds_draw_other_texts_and_equal_ones_the_same(lm: TransformersModel) -> None:
    found = draw(lm, [NEWS[0]] * 40, [*range(20), *range(20)])

    assert found[:20] == found[20:]
    assert len(set(found)) == 20


def test_other_prompts_draw_with_other_noise() -> None:
    uniform, sampling = torch.zeros((1, 1000)), Sampling(["a", "b"], 1.0, [5, 5])

    tokens = [[sampling.choose(uniform, [sampling.start(i)])[0] for i in (0, 1, 0)]]

    assert tokens[0][0] != tokens[0][1]
    assert tokens[0][0] == tokens[0][2]


def test_the_noise_is_new_at_every_step() -> None:
    sampling = Sampling(["a"], 1.0, [5])
    noise = sampling.start(0)

    assert len({sampling.choose(torch.zeros((1, 1000)), [noise])[0] for _ in range(5)}) > 3


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_the_softmax_says(lm: TransformersModel, temperature: float) -> None:
    times, prompt = 4000, NEWS[0]
    with torch.inference_mode():
        logits = lm.model(torch.tensor([lm._encode(prompt)])).logits[0, -1].double().numpy()
    weights = np.exp(logits / temperature - np.max(logits / temperature))
    expected = times * weights / weights.sum()

    lm.batch_tokens = 2**20
    sampling = Sampling([prompt] * times, temperature, range(times))
    rows = torch.from_numpy(logits).float().expand(times, -1)
    drawn = Counter(sampling.choose(rows, [sampling.start(i) for i in range(times)]))

    often = np.flatnonzero(expected >= 5)
    observed = [drawn[int(i)] for i in often]
    rest = (times - sum(observed), times - expected[often].sum())
    assert len(often) > 3
    assert chisquare([*observed, rest[0]], [*expected[often], rest[1]]).pvalue > 0.01


def test_the_engine_draws_with_its_prompts_own_noise(lm: TransformersModel) -> None:
    prompts, seeds = NEWS[:3], [3, 1, 4]
    sampling = Sampling(prompts, 1.5, seeds)
    expected = []
    for i, prompt in enumerate(prompts):
        with torch.inference_mode():
            logits = lm.model(torch.tensor([lm._encode(prompt)])).logits[:, -1]
        expected.append(lm._decode(sampling.choose(logits, [sampling.start(i)])))

    assert draw(lm, prompts, seeds, temperature=1.5, max_new_tokens=1) == expected


def test_temperature_zero_is_greedy_whatever_the_seeds(lm: TransformersModel) -> None:
    greedy = [g.text for g in lm.generate(UNEVEN, max_new_tokens=8)]

    assert draw(lm, UNEVEN, range(len(UNEVEN)), temperature=0.0) == greedy
    assert draw(lm, UNEVEN, range(len(UNEVEN)), temperature=1e-4) == greedy
    assert draw(lm, UNEVEN, range(len(UNEVEN))) != greedy


@pytest.mark.parametrize(
    ("temperature", "seeds", "message"),
    [
        (0.5, None, "0 seeds for 2 prompts"),
        (0.5, [1], "1 seeds for 2 prompts"),
        (-1.0, [1, 2], "temperature = -1.0"),
        (math.nan, [1, 2], "temperature = nan"),
    ],
)
def test_sampling_without_a_seed_for_each_prompt_is_refused(
    lm: TransformersModel, temperature: float, seeds: list[int] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        lm.generate(["The", "Rain"], max_new_tokens=2, temperature=temperature, seeds=seeds)

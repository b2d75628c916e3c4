"""The engine against plain transformers: one prompt at a time, no padding, no cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tiny  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from quantxai.checkpoints import load_dense, load_tokenizer  # noqa: E402
from quantxai.engine import (  # noqa: E402
    TransformersModel,
    _continuation,
    check_causal,
    longest,
)
from quantxai.errors import InputError, ModelError  # noqa: E402
from quantxai.lm import Generation  # noqa: E402
from quantxai.prefixes import MIN_PREFIX, Prefixes, shared_prefixes  # noqa: E402

TOLERANCE = 1e-4
"""Nats: float32 sums in another order."""


@dataclass(frozen=True)
class Plain:
    """The reference: transformers as its documentation shows it."""

    model: Any
    tokenizer: Any

    def distributions(self, ids: Sequence[int]) -> Any:
        with torch.inference_mode():
            return self.model(torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)

    def logprobs(self, prompt: str, continuation: str) -> tuple[list[float], list[int]]:
        before = self.tokenizer(prompt).input_ids
        added = self.tokenizer(continuation, add_special_tokens=False).input_ids
        values = self.distributions([*before, *added])[len(before) - 1 :]
        picked = [values[i, token] for i, token in enumerate(added)]
        return [p.item() for p in picked], [int((values[i] > p).sum()) + 1 for i, p in enumerate(picked)]

    def greedy(self, prompt: str, limit: int) -> list[int]:
        ids = torch.tensor([self.tokenizer(prompt).input_ids])
        with torch.inference_mode():
            out = self.model.generate(ids, max_new_tokens=limit, do_sample=False, use_cache=False)
        return [int(t) for t in out[0, ids.shape[1] :] if t != self.tokenizer.eos_token_id]


@pytest.fixture(scope="module")
def plain(tiny_path: Path) -> Plain:
    torch.set_num_threads(1)
    return Plain(load_dense(tiny_path, "float32", "cpu"), load_tokenizer(tiny_path))


@pytest.fixture
def lm(plain: Plain) -> TransformersModel:
    return TransformersModel(plain.model, plain.tokenizer)


def few_shot(relation: str) -> list[str]:
    """Prompts of one relation: the same demonstrations, then each learned fact's query."""
    data = tiny.load_dataset("relations")
    shown = "\n".join([tiny.fact_sentence(d) for d in data.demonstrations if d.group == relation][:3])
    return [
        f"{shown}\n{i.fields['template'].replace('{}', i.text)}"
        for i in tiny.learned_facts()
        if i.group == relation
    ]


LONG = " ".join(item.text for item in tiny.load_dataset("news").items[:7])
UNRELATED = ["The", "Rain fell on", "A woman in a red coat waits for the tram.", LONG, LONG[400:700]]
MIXED = [*few_shot(tiny.RELATIONS[0]), *UNRELATED, *few_shot(tiny.RELATIONS[1])]
PROMPTS = {
    "no shared prefix": UNRELATED,
    "groups and single prompts": MIXED,
    "one prompt": MIXED[:1],
    "duplicates": [MIXED[0], LONG, MIXED[0], MIXED[1], LONG],
    "one is the other's beginning": [LONG, LONG[:300], LONG[:299], f"{LONG} The end"],
}
BUDGETS = (1, 150, 8192)


def prefix_lengths(lm: TransformersModel, prompts: Sequence[str]) -> list[int]:
    tokens = [lm._encode(p) for p in prompts]
    return [len(r.prefix) for r in lm._rows(tokens, [1] * len(tokens))]


def test_the_prompts_exercise_what_their_names_say(lm: TransformersModel) -> None:
    assert max(prefix_lengths(lm, UNRELATED)) == 0
    assert len({n for n in prefix_lengths(lm, MIXED) if n >= MIN_PREFIX}) >= 2
    assert len([n for n in prefix_lengths(lm, PROMPTS["duplicates"]) if n]) == 5
    assert len(lm._encode(LONG)) > 300


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", PROMPTS)
def test_logprobs_and_ranks_equal_the_reference(
    lm: TransformersModel, plain: Plain, name: str, budget: int
) -> None:
    prompts, lm.batch_tokens = PROMPTS[name], budget
    continuations = [
        [" Paris.", " cold", " the last of many words in a row."][i % 3] for i in range(len(prompts))
    ]

    found = lm.logprobs(prompts, continuations)

    for prompt, continuation, result in zip(prompts, continuations, found, strict=True):
        logprobs, ranks = plain.logprobs(prompt, continuation)
        np.testing.assert_allclose(result.logprobs, logprobs, atol=TOLERANCE)
        assert list(result.ranks) == ranks


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", PROMPTS)
def test_choices_equal_the_reference(lm: TransformersModel, plain: Plain, name: str, budget: int) -> None:
    lm.batch_tokens = budget
    labels = [" world", " sports", " business"]

    found = lm.choices(PROMPTS[name], labels)

    assert found.dtype == np.float64
    expected = [[plain.logprobs(prompt, label)[0][0] for label in labels] for prompt in PROMPTS[name]]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", PROMPTS)
def test_generation_equals_the_reference_token_by_token(
    lm: TransformersModel, plain: Plain, name: str, budget: int
) -> None:
    lm.batch_tokens, limit = budget, 12

    found = lm.generate(PROMPTS[name], max_new_tokens=limit)

    for prompt, result in zip(PROMPTS[name], found, strict=True):
        expected = plain.greedy(prompt, limit)
        assert result.text == plain.tokenizer.decode(expected, clean_up_tokenization_spaces=False)
        assert (result.tokens, result.stopped) == (
            len(expected),
            "length" if len(expected) == limit else "end",
        )


def test_nothing_asked_gives_nothing(lm: TransformersModel) -> None:
    assert lm.generate([], max_new_tokens=3) == []
    assert lm.logprobs([], []) == []
    assert lm.choices([], [" a", " b"]).shape == (0, 2)


def test_the_model_knows_its_facts(lm: TransformersModel) -> None:
    """Otherwise the tests above would compare noise with noise."""
    prompts = few_shot(tiny.RELATIONS[0])
    gold = [str(i.label) for i in tiny.learned_facts() if i.group == tiny.RELATIONS[0]]

    completions = lm.generate(prompts, max_new_tokens=8, stop=("\n",))

    assert sum(c.text.strip().startswith(g) for c, g in zip(completions, gold, strict=True)) >= len(gold) - 1


# How a generation ends


def test_a_stop_string_ends_the_text_before_it(lm: TransformersModel, plain: Plain) -> None:
    prompt = few_shot(tiny.RELATIONS[0])[0]
    assert lm.generate([prompt], max_new_tokens=8)[0].text == " Paris."
    cut = plain.tokenizer(" Par", add_special_tokens=False).input_ids

    stopped = lm.generate([prompt], max_new_tokens=8, stop=("zzz", ".", "is"))[0]
    inside = lm.generate([prompt], max_new_tokens=8, stop=("a",))[0]

    assert (stopped.text, stopped.stopped) == (" Par", "stop")
    assert stopped.tokens >= len(cut)
    assert (inside.text, inside.stopped) == (" P", "stop")
    assert lm.generate([prompt], max_new_tokens=8, stop=("a", "P"))[0].text == " "  # the first to occur


def test_a_stop_string_may_span_tokens(lm: TransformersModel, plain: Plain) -> None:
    prompt = few_shot(tiny.RELATIONS[0])[0]
    tokens = [plain.tokenizer.decode([t]) for t in plain.greedy(prompt, 8)]
    assert len(tokens) > 1
    stop = tokens[0][-1] + tokens[1]

    assert lm.generate([prompt], max_new_tokens=8, stop=(stop,))[0].text == tokens[0][:-1]


def test_the_end_token_ends_the_text_and_is_not_counted(lm: TransformersModel, plain: Plain) -> None:
    result = lm.generate([few_shot(tiny.RELATIONS[0])[0]], max_new_tokens=30)[0]

    assert result == Generation(" Paris.", len(plain.tokenizer(" Paris.").input_ids), "end")


def test_the_length_limit_ends_the_text(lm: TransformersModel) -> None:
    limited = [lm.generate([UNRELATED[1]], max_new_tokens=n)[0] for n in (1, 2, 5)]

    assert [(g.tokens, g.stopped) for g in limited] == [(1, "length"), (2, "length"), (5, "length")]
    assert limited[2].text.startswith(limited[1].text)
    assert limited[1].text.startswith(limited[0].text)


def test_a_stop_string_at_the_last_token_counts_as_stop(lm: TransformersModel) -> None:
    prompt = few_shot(tiny.RELATIONS[0])[0]
    length = lm.generate([prompt], max_new_tokens=8, stop=(".",))[0].tokens

    assert lm.generate([prompt], max_new_tokens=length, stop=(".",))[0].stopped == "stop"


@pytest.mark.parametrize(("setting", "expected"), [(5, {5}), ([0, 7], {0, 7}), (0, {0}), (None, {9})])
def test_end_tokens_are_the_generation_configs_or_else_the_tokenizers(
    plain: Plain, monkeypatch: pytest.MonkeyPatch, setting: Any, expected: set[int]
) -> None:
    monkeypatch.setattr(plain.model.generation_config, "eos_token_id", setting)

    assert TransformersModel(plain.model, SimpleNamespace(eos_token_id=9))._end_ids == expected


# Numbers


def test_log_probabilities_and_ranks_by_hand() -> None:
    # Weights 1, 2, 5 of 8, then 4, 4, 2 of 10: log-probabilities ln(2/8) and ln(4/10).
    logits = torch.tensor([[1.0, 2.0, 5.0], [4.0, 4.0, 2.0]]).log() + 3

    result = _continuation(logits, [1, 0])

    assert result.logprobs == pytest.approx((math.log(0.25), math.log(0.4)), abs=1e-6)
    assert result.ranks == (2, 1)  # a tie takes the better rank


def test_an_empty_continuation_has_no_tokens(lm: TransformersModel) -> None:
    empty, full = lm.logprobs(["The", "The"], ["", " last"])

    assert empty.logprobs == empty.ranks == ()
    assert len(full.logprobs) > 0


def test_the_first_token_after_an_empty_prompt_is_not_scored(lm: TransformersModel, plain: Plain) -> None:
    ids = plain.tokenizer("The capital city of France").input_ids
    expected = plain.distributions(ids)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]

    alone, single = lm.logprobs(["", ""], ["The capital city of France", "The"])

    np.testing.assert_allclose(alone.logprobs, expected, atol=TOLERANCE)
    assert len(alone.ranks) == len(ids) - 1
    assert single.logprobs == ()


# What is refused


def test_a_prompt_beyond_the_context_is_refused_before_anything_runs(lm: TransformersModel) -> None:
    tokens = len(lm._encode(LONG))
    assert tokens < tiny.CONTEXT
    lm.generate([LONG], max_new_tokens=1)

    with pytest.raises(InputError, match=f"{tokens} tokens with {tiny.CONTEXT} to generate"):
        lm.generate(["The", LONG], max_new_tokens=tiny.CONTEXT)
    with pytest.raises(InputError, match=f"context of {tiny.CONTEXT} tokens"):
        lm.logprobs([LONG], [LONG * 3])
    with pytest.raises(InputError, match="shorten the texts"):
        lm.choices([LONG * 4], [" a", " b"])


def test_the_whole_context_can_be_used(lm: TransformersModel) -> None:
    room = tiny.CONTEXT - len(lm._encode(LONG))

    assert lm.generate([LONG], max_new_tokens=room)[0].tokens <= room
    with pytest.raises(InputError):
        lm.generate([LONG], max_new_tokens=room + 1)


def test_choices_that_begin_alike_are_refused(lm: TransformersModel) -> None:
    with pytest.raises(InputError, match="do not all begin with different tokens"):
        lm.choices(["Topic:"], [" business", " sports", " business news"])
    with pytest.raises(InputError, match="has no tokens"):
        lm.choices(["Topic:"], [" business", ""])


def test_an_empty_prompt_is_refused_where_something_must_follow_it(lm: TransformersModel) -> None:
    with pytest.raises(InputError, match="empty prompt"):
        lm.generate(["The", ""], max_new_tokens=1)


def test_generating_no_token_is_refused(lm: TransformersModel) -> None:
    with pytest.raises(InputError, match="max_new_tokens"):
        lm.generate(["The"], max_new_tokens=0)


def test_an_architecture_that_is_no_causal_language_model_is_refused() -> None:
    from transformers import T5Config

    with pytest.raises(ModelError, match="'t5' is not a causal language model"):
        check_causal(T5Config(), "some-model")


# Memory


def run_out_of_memory(lm: TransformersModel, monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Make the first forward passes fail; return the list that collects the sizes of all batches."""
    sizes: list[int] = []
    forward = lm._forward

    def failing(batch: Any, keep: int) -> Any:
        sizes.append(len(batch))
        if len(sizes) <= times:
            raise torch.OutOfMemoryError("no memory left")
        return forward(batch, keep)

    monkeypatch.setattr(lm, "_forward", failing)
    return sizes


def test_out_of_memory_halves_the_budget_and_goes_on(
    plain: Plain, lm: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = run_out_of_memory(lm, monkeypatch, 0)
    expected = lm.logprobs(MIXED, [" Paris."] * len(MIXED))
    short, finished = TransformersModel(plain.model, plain.tokenizer), list[int]()
    short.tick = finished.append
    sizes = run_out_of_memory(short, monkeypatch, 5)

    found = short.logprobs(MIXED, [" Paris."] * len(MIXED))

    assert short.batch_tokens == 8192 // 2**5
    assert sum(sizes[5:]) == sum(finished) == len(MIXED)
    assert len(sizes[5:]) > len(usual)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=TOLERANCE)
        assert a.ranks == b.ranks


def test_out_of_memory_with_a_single_prompt_is_the_end(
    lm: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_out_of_memory(lm, monkeypatch, 1)

    with pytest.raises(torch.OutOfMemoryError):
        lm.generate(["The"], max_new_tokens=2)


def test_no_batch_passes_its_budget(lm: TransformersModel, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []
    call = lm._call

    def watch(ids: Any, mask: Any, cache: Any, keep: int) -> Any:
        shapes.append(tuple(mask.shape))
        return call(ids, mask, cache, keep)

    monkeypatch.setattr(lm, "_call", watch)
    lm.batch_tokens = 150
    lm.generate(MIXED, max_new_tokens=4)

    assert all(rows * width <= 150 for rows, width in shapes if rows > 1)
    assert any(rows > 1 for rows, _ in shapes)


def test_a_shared_prefix_is_computed_once(lm: TransformersModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = few_shot(tiny.RELATIONS[0])
    prefix = prefix_lengths(lm, prompts)[0]
    computed = 0
    call = lm._call

    def count(ids: Any, mask: Any, cache: Any, keep: int) -> Any:
        nonlocal computed
        computed += ids.numel()
        return call(ids, mask, cache, keep)

    monkeypatch.setattr(lm, "_call", count)
    lm.batch_tokens = 2 * max(len(lm._encode(p)) for p in prompts)  # batches of two rows share it, too
    lm.choices(prompts, [" a", " b"])

    assert prefix >= MIN_PREFIX
    assert computed <= prefix + sum(len(lm._encode(p)) - prefix for p in prompts) + 2 * len(prompts)


# Prefixes


def test_prompts_without_a_common_beginning_share_nothing() -> None:
    rows = shared_prefixes([[1] * 20, [2] * 30, [3] * 25], [1, 1, 1])

    assert [r.prefix for r in rows] == [(), (), ()]
    assert [r.index for r in rows] == [0, 2, 1]  # by length


def test_a_short_common_beginning_is_not_worth_it() -> None:
    prompts = [[*range(MIN_PREFIX - 1), 100], [*range(MIN_PREFIX - 1), 200]]

    assert all(r.prefix == () for r in shared_prefixes(prompts, [1, 1]))


def test_the_common_beginning_is_split_off() -> None:
    common = list(range(MIN_PREFIX + 4))
    prompts = [[*common, 100, 101], [7, 8], [*common, 200]]

    rows = {r.index: r for r in shared_prefixes(prompts, [1, 1, 1])}

    assert rows[0].prefix == rows[2].prefix == tuple(common)
    assert (rows[0].rest, rows[2].rest) == ((100, 101), (200,))
    assert rows[1].rest == (7, 8)
    assert rows[0].length == len(prompts[0])


def test_reserved_tokens_stay_out_of_the_prefix() -> None:
    prompt = list(range(MIN_PREFIX + 10))

    rows = shared_prefixes([prompt, prompt], [1, 6])

    assert {len(r.prefix) for r in rows} == {len(prompt) - 6}


@st.composite
def prompts_and_reserves(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    """Prompts that begin with pieces of a few common beginnings."""
    stems = draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=60), min_size=1, max_size=3))
    prompts = [
        draw(st.sampled_from(stems))[: draw(st.integers(0, 60))]
        + draw(st.lists(st.integers(0, 2), min_size=1, max_size=5))
        for _ in range(draw(st.integers(0, 8)))
    ]
    return prompts, [draw(st.integers(1, len(p))) for p in prompts]


@given(prompts_and_reserves())
@settings(max_examples=200, deadline=None)
def test_prefix_and_rest_make_the_prompt(case: tuple[list[list[int]], list[int]]) -> None:
    prompts, reserve = case

    rows = shared_prefixes(prompts, reserve)

    assert sorted(r.index for r in rows) == list(range(len(prompts)))
    for row in rows:
        assert [*row.prefix, *row.rest] == prompts[row.index]
        assert len(row.rest) >= reserve[row.index] >= 1
        assert not row.prefix or len(row.prefix) >= MIN_PREFIX
        assert not row.prefix or sum(r.prefix == row.prefix for r in rows) > 1
    assert [bool(r.prefix) for r in rows] == sorted(bool(r.prefix) for r in rows)


# Other architectures: positions counted otherwise, caches of other shapes


def small(kind: str, vocabulary: int) -> Any:
    from transformers import (
        Gemma3TextConfig,
        GPT2Config,
        GPTNeoXConfig,
        MistralConfig,
        Qwen2Config,
    )

    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
    }
    grouped = {**sizes, "num_key_value_heads": 1, "head_dim": 16}
    return {
        "gpt2": lambda: GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=2, n_positions=128),
        "gpt_neox": lambda: GPTNeoXConfig(**sizes),
        "qwen2": lambda: Qwen2Config(**{k: v for k, v in grouped.items() if k != "head_dim"}),
        "mistral, sliding window": lambda: MistralConfig(**grouped, sliding_window=24),
        "gemma3, layers of both kinds": lambda: Gemma3TextConfig(
            **grouped, sliding_window=24, layer_types=["sliding_attention", "full_attention"]
        ),
    }[kind]()


@pytest.mark.parametrize(
    "kind", ["gpt2", "gpt_neox", "qwen2", "mistral, sliding window", "gemma3, layers of both kinds"]
)
def test_other_architectures_equal_the_reference(plain: Plain, kind: str) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(small(kind, len(plain.tokenizer))).eval()
    model.generation_config.eos_token_id = plain.tokenizer.eos_token_id
    model.generation_config.pad_token_id = plain.tokenizer.eos_token_id
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)  # away from a flat distribution, where any bug looks right
    lm, reference = TransformersModel(model, plain.tokenizer), Plain(model, plain.tokenizer)
    prompts = [*few_shot(tiny.RELATIONS[0]), "The", "Rain fell on the old town all night long"]
    assert ("sliding" in kind or "both" in kind) != any(prefix_lengths(lm, prompts))

    scored = lm.logprobs(prompts, [" Paris."] * len(prompts))
    generated = lm.generate(prompts, max_new_tokens=6)

    for prompt, score, text in zip(prompts, scored, generated, strict=True):
        logprobs, ranks = reference.logprobs(prompt, " Paris.")
        np.testing.assert_allclose(score.logprobs, logprobs, atol=10 * TOLERANCE)
        assert list(score.ranks) == ranks
        expected = reference.greedy(prompt, 6)
        assert text.text == plain.tokenizer.decode(expected, clean_up_tokenization_spaces=False)


def test_a_prefix_that_a_batch_needs_is_not_forgotten_while_others_are_computed() -> None:
    known = Prefixes()
    first, others = (0,) * 1500, [(n,) * 1500 for n in (1, 2)]

    def run(prefixes: Sequence[tuple[int, ...]]) -> Any:
        return [[(torch.tensor([[[[float(p[0])]] * len(p)]]),) * 2] for p in prefixes]

    known.look_up([first], run)
    found = known.look_up([first, *others], run)
    assert {p: float(states[0][0].flatten()[0]) for p, states in found.items()} == {
        first: 0,
        others[0]: 1,
        others[1]: 2,
    }
    assert known.find(first) is None, "the one longest unused is forgotten"
    assert known.find(others[1]) is not None


def test_a_model_without_a_longest_sequence_has_no_limit() -> None:
    from transformers import BloomConfig, LlamaConfig

    assert longest(LlamaConfig(max_position_embeddings=77)) == 77
    assert longest(BloomConfig()) == 2**30

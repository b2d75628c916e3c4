"""The logit lens: equal to the formulas, to the model's own prediction, and it sees what is planted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from oracles import logit_lens as oracle  # noqa: E402

from quantxai.checkpoints import load_dense, load_tokenizer  # noqa: E402
from quantxai.engine import TransformersModel  # noqa: E402
from quantxai.errors import InputError  # noqa: E402
from quantxai.lens import (  # noqa: E402
    Reading,
    agrees_from,
    differs,
    first_token,
    layer_log_probs,
    make_reading,
    place,
    token_text,
)

PROMPT = "The capital city of France is"
FACTS: dict[str, Any] = {
    "variant": "v",
    "digest": "d",
    "dtype": "float32",
    "device": "cpu",
    "execution": "kernel",
    "warnings": (),
}


def read(log_probs: Any, followed: int = 0, **options: Any) -> Reading:
    return make_reading(np.asarray(log_probs), followed, str, **options, **FACTS)


@pytest.fixture(scope="module")
def lm(tiny_path: Path) -> TransformersModel:
    return TransformersModel(load_dense(tiny_path, "float64", "cpu"), load_tokenizer(tiny_path))


# Formulas


def test_one_value_of_each_quantity_by_hand() -> None:
    p, q = np.log([[0.5, 0.25, 0.25]] * 2), np.log([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]])

    layer, last = read(q, 2, parent=p, top=2).layers

    assert layer.entropy == pytest.approx(1.5 * math.log(2))
    assert layer.kl == pytest.approx(0.25 * math.log(2))  # 1/2 ln 2 + 1/4 ln 1/2
    assert layer.to_final == pytest.approx(0.25 * math.log(2))
    assert layer.logprob == pytest.approx(-2 * math.log(2))
    assert (layer.rank, last.rank) == (2, 2)  # a tie shares the better rank
    assert [(t.token, t.text) for t in layer.top] == [(1, "1"), (0, "0")]
    assert [t.probability for t in layer.top] == pytest.approx([0.5, 0.25])
    assert (last.kl, last.to_final) == (0, 0)


def test_the_divergence_is_from_the_parent_and_from_the_end() -> None:
    """KL is not symmetric: the weights are the parent's, and the last boundary's."""
    p, q = np.log([[0.9, 0.1]] * 2), np.log([[0.5, 0.5], [0.2, 0.8]])

    layer = read(q, parent=p).layers[0]

    assert layer.kl == pytest.approx(0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5))
    assert layer.to_final == pytest.approx(0.2 * math.log(0.2 / 0.5) + 0.8 * math.log(0.8 / 0.5))


def test_every_number_is_the_oracles(lm: TransformersModel) -> None:
    ids = lm.encode(PROMPT)
    expected = oracle.distributions(lm.model, ids, -1)
    rng = np.random.default_rng(0)
    other = layer_log_probs(lm.internals(), PROMPT)
    shifted = other + rng.normal(size=other.shape)
    shifted -= np.log(np.exp(shifted).sum(1, keepdims=True))
    moved = [list(np.exp(row)) for row in shifted]

    own, variant = read(other, 7), read(shifted, 7, parent=other)

    assert len(own.layers) == len(expected) == len(lm.model.model.layers) + 1
    for layer, row, p, q in zip(own.layers, variant.layers, expected, moved, strict=True):
        assert layer.entropy == pytest.approx(oracle.entropy(p), rel=1e-6)
        assert layer.logprob == pytest.approx(math.log(p[7]), rel=1e-6)
        assert layer.rank == oracle.rank(p, 7)
        assert layer.to_final == pytest.approx(oracle.divergence(expected[-1], p), rel=1e-6, abs=1e-12)
        assert [t.token for t in layer.top] == sorted(range(len(p)), key=lambda t: -p[t])[:3]
        assert row.kl == pytest.approx(oracle.divergence(p, q), rel=1e-6)


def test_numbers_that_are_not_finite_are_null() -> None:
    layer, last = read([[math.nan, math.nan], [math.log(0.5), math.log(0.5)]]).layers

    assert (layer.top, layer.entropy, layer.to_final, layer.logprob, layer.rank) == (
        (),
        None,
        None,
        None,
        None,
    )
    assert last.rank == 1
    assert differs(layer, last)


def test_a_token_of_probability_zero_counts_nothing() -> None:
    layer = read([[0.0, -math.inf]], 1).layers[0]

    assert (layer.entropy, layer.logprob, layer.rank) == (0, None, 2)


def test_agreement_is_counted_from_the_end() -> None:
    a, b = [math.log(0.9), math.log(0.1)], [math.log(0.1), math.log(0.9)]
    parent = read([a, b, a, a])

    assert agrees_from(parent, parent) == 0
    assert agrees_from(parent, read([a, a, a, a])) == 2
    assert agrees_from(parent, read([a, b, a, b])) is None


# The model


def test_the_last_boundary_is_what_the_model_says(lm: TransformersModel) -> None:
    with torch.no_grad():
        logits = lm.model(torch.tensor([lm.encode(PROMPT)])).logits[0, -1]

    found = layer_log_probs(lm.internals(), PROMPT)

    # transformers' final norm computes in float32, whatever the model's type.
    np.testing.assert_allclose(found[-1], logits.log_softmax(-1).numpy(), rtol=1e-6)


def test_a_position_is_read_as_if_the_prompt_ended_there(lm: TransformersModel) -> None:
    internals = lm.internals()
    start = lm.tokenizer.decode(internals.tokens(PROMPT)[:3])
    assert internals.tokens(start) == internals.tokens(PROMPT)[:3]

    np.testing.assert_allclose(
        layer_log_probs(internals, PROMPT, 2), layer_log_probs(internals, start), rtol=1e-9
    )


def test_a_planted_token_is_seen_from_its_layer_on(tiny_path: Path) -> None:
    """Positive control: what is written into the residual stream after layer 0 is read at layer 1 and later."""
    model = load_dense(tiny_path, "float32", "cpu")
    # The longest row of the unembedding: no other token's logit grows as much in its direction.
    token = int(model.lm_head.weight.detach().norm(dim=1).argmax())
    lm = TransformersModel(model, load_tokenizer(tiny_path))
    internals = lm.internals()
    before = read(layer_log_probs(internals, PROMPT), token)
    direction = model.lm_head.weight[token].detach() / model.model.norm.weight.detach()

    def plant(module: Any, args: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        states = states + 100 * direction / direction.norm()
        return (states, *output[1:]) if isinstance(output, tuple) else states

    hook = model.model.layers[0].register_forward_hook(plant)
    after = read(layer_log_probs(internals, PROMPT), token)
    hook.remove()

    assert before.layers[0].top == after.layers[0].top
    assert all(layer.rank > 1 for layer in before.layers)
    assert [layer.top[0].token for layer in after.layers[1:]] == [token] * (len(after.layers) - 1)


# Tokens


def test_every_token_has_a_text_and_lone_bytes_are_escaped(lm: TransformersModel) -> None:
    texts = [token_text(lm.tokenizer, t) for t in range(len(lm.tokenizer))]

    assert "\N{REPLACEMENT CHARACTER}" not in "".join(texts)
    assert texts[0] == "<|end|>"
    # 128 lone bytes are no UTF-8; the alphabet has all 256.
    assert sum(text.startswith("\\x") for text in texts) == 128
    assert " the" in texts
    ids = lm.encode(PROMPT)
    assert "".join(texts[i] for i in ids) == PROMPT


class Pieces:
    """A tokenizer of SentencePiece's kind: it writes spaces as ▁ and decodes without the first one."""

    all_special_ids = [0]
    pieces = ["<s>", "▁Paris", "<0xE2>", "<0x41>", "▁", "ris"]

    def __len__(self) -> int:
        return len(self.pieces)

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.pieces[token]

    def decode(self, ids: list[int], **_: Any) -> str:
        return self.pieces[ids[0]].replace("▁", " ").strip()

    def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
        return type("Encoded", (), {"input_ids": [1, 5][: len(text.split())] if text != "Paris" else [1]})


def test_texts_of_a_sentencepiece_tokenizer() -> None:
    found = [token_text(Pieces(), token) for token in range(7)]

    assert found == ["<s>", " Paris", "\\xe2", "A", " ", "ris", "<unused 6>"]


def test_the_first_of_several_tokens_is_followed_and_told() -> None:
    token, notes = first_token(Pieces(), " Paris ris", "in")

    assert token == 1
    assert notes == ["' Paris ris' is 2 tokens here (' Paris', 'ris'); the first of them is followed."]


def test_a_word_without_its_space_is_taken_as_it_is_and_told() -> None:
    assert first_token(Pieces(), "Paris", "in")[1] == [
        "'Paris' is followed as it is written, without a space in front; a new word after this prompt is ' Paris'."
    ]
    assert first_token(Pieces(), "Paris", "in ")[1] == []
    assert first_token(Pieces(), " Paris", "in")[1] == []


def test_no_token_to_follow() -> None:
    with pytest.raises(InputError, match="at least one character"):
        first_token(Pieces(), "", "in")


@pytest.mark.parametrize(("given", "found"), [(0, 0), (4, 4), (-1, 4), (-5, 0)])
def test_positions_count_from_either_end(given: int, found: int) -> None:
    assert place(given, 5) == found


@pytest.mark.parametrize("given", [5, -6])
def test_a_position_that_is_not_there(given: int) -> None:
    with pytest.raises(InputError, match="has 5 tokens, so give 0 to 4"):
        place(given, 5)


def test_a_prompt_of_one_token_has_one_place() -> None:
    with pytest.raises(InputError, match="has one token, so give 0 or -1"):
        place(7, 1)

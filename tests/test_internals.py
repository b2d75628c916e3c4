"""What is seen and changed inside a forward pass, in every family, against the plain model."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import families  # noqa: E402
from fakes import FakeLanguageModel  # noqa: E402
from families import FAMILIES  # noqa: E402

from quantxai.checkpoints import load_dense, load_tokenizer  # noqa: E402
from quantxai.engine import TransformersModel  # noqa: E402
from quantxai.errors import InputError, ModelError  # noqa: E402
from quantxai.internals import Trace  # noqa: E402

SHARED = "The capital of the country of "
"""More tokens (bytes) than a prefix must have to be computed once."""
PROMPTS = [f"{SHARED}the Eiffel Tower is", f"{SHARED}Größe", "a", "東京 is in", f"{SHARED}K2 is"]
PLACES = [40, 34, 0, 3, 31]
"""A token of each prompt; some are its last one."""
NAMES = sorted(FAMILIES)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def close(a: Any, b: Any, tolerance: float = 1e-9) -> bool:
    """Whether two are the same but for rounding; `tolerance` is that of float64."""
    tolerance = tolerance if a.dtype == torch.float64 else max(tolerance, 1e-4)
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def same(a: Trace, b: Trace) -> bool:
    names = [n for n in Trace.__dataclass_fields__ if n not in ("tokens", "position")]
    return (a.tokens, a.position) == (b.tokens, b.position) and all(
        close(getattr(a, n), getattr(b, n)) for n in names
    )


def plain(name: str, prompt: str) -> Any:
    """The plain model's output for a prompt, alone and without padding."""
    ids = torch.tensor([families.tokenizer()(prompt).input_ids])
    with torch.inference_mode():
        return families.model(name)(ids, output_hidden_states=True, use_cache=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_trace_is_what_the_plain_model_computes_and_its_parts_add_up(name: str) -> None:
    internals = families.engine(name).internals()

    for prompt, place, trace in zip(PROMPTS, PLACES, internals.trace(PROMPTS, PLACES), strict=True):
        states = plain(name, prompt).hidden_states
        # The last of them has passed the final norm.
        assert close(trace.residuals[:-1], torch.stack([s[0, place] for s in states[:-1]]))
        assert close(internals.readout.normed(trace.residuals[-1]), states[-1][0, place], 1e-5)
        assert close(trace.residuals[1:], trace.residuals[:-1] + trace.attention + trace.ffn)
        for layer, block in enumerate(internals.anatomy.blocks):
            for part, matrix, inputs, scale, added in (
                (block.ffn, internals.ffn_output(layer), trace.neurons, trace.ffn_scale, trace.ffn),
                (
                    block.attention,
                    internals.attention_output(layer),
                    trace.heads,
                    trace.attention_scale,
                    trace.attention,
                ),
            ):
                bias = getattr(part.output, "bias", None)  # no family has both it and a norm behind it
                constant = 0 if bias is None else bias.detach()
                assert close(matrix @ (inputs[layer] / scale[layer]) + constant, added[layer], 1e-5)
                assert (part.norm is None) == bool(scale[layer] == 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_trace_does_not_depend_on_the_batch(name: str) -> None:
    together = families.engine(name).internals().trace(PROMPTS, PLACES)
    alone = [
        families.engine(name).internals().trace([p], [i])[0] for p, i in zip(PROMPTS, PLACES, strict=True)
    ]
    again = families.engine(name)
    again.internals().trace(PROMPTS)
    reused = again.internals().trace(PROMPTS, PLACES)

    assert all(same(a, b) for a, b in zip(together, alone, strict=True))
    assert all(same(a, b) for a, b in zip(reused, alone, strict=True))
    assert not same(*families.engine(name).internals().trace([PROMPTS[0]] * 2, [40, 41]))


@pytest.mark.parametrize("name", NAMES)
def test_a_patch_is_what_a_hand_written_hook_does(name: str) -> None:
    internals = families.engine(name).internals()
    vectors = torch.randn(5, internals.hidden, generator=torch.Generator().manual_seed(0))
    layers = [0, 1, internals.layers, internals.layers, 1]
    places = [40, 34, 0, 3, 4]
    expected = []
    for prompt, layer, place, vector in zip(PROMPTS, layers, places, vectors, strict=True):
        modules = [b.module for b in internals.anatomy.blocks] + [internals.anatomy.final_norm]

        def add(module: Any, args: Any, kwargs: Any, place: int = place, vector: Any = vector) -> Any:
            states = (args[0] if args else kwargs["hidden_states"]).clone()
            states[0, place] += vector
            return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

        handle = modules[layer].register_forward_pre_hook(add, with_kwargs=True)
        expected.append(plain(name, prompt).logits[0, -1].log_softmax(-1))
        handle.remove()

    found = internals.patched(PROMPTS, layers, places, vectors)

    assert close(found, torch.stack(expected))
    assert not close(found, internals.next_tokens(PROMPTS), 1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_ablated_neurons_add_nothing(name: str) -> None:
    """Their part of the FFN's output is taken off the residual stream of the plain model by hand."""
    internals = families.engine(name).internals()
    neurons = [[(1, 3), (1, 5)], [(0, 0)], [], [(0, 2), (1, 7)], [(1, 1)]]
    expected = []
    for prompt, chosen in zip(PROMPTS, neurons, strict=True):
        handles = []
        for layer, place in chosen:

            def silence(module: Any, args: Any, place: int = place) -> Any:
                states = args[0].clone()
                states.view(-1, states.shape[-1])[-1, place] = 0  # one prompt: its last token is the last row
                return (states, *args[1:])

            module = internals.anatomy.blocks[layer].ffn.output
            handles.append(module.register_forward_pre_hook(silence))
        expected.append(plain(name, prompt).logits[0, -1].log_softmax(-1))
        for handle in handles:
            handle.remove()

    found = internals.ablated(PROMPTS, neurons)

    assert close(found, torch.stack(expected))
    assert not close(found[0], internals.next_tokens(PROMPTS)[0], 1e-5)
    assert close(found[2], internals.next_tokens(PROMPTS)[2])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_added_changes_nothing(name: str) -> None:
    internals = families.engine(name).internals()
    nothing = torch.zeros(len(PROMPTS), internals.hidden)
    expected = torch.stack([plain(name, p).logits[0, -1].log_softmax(-1) for p in PROMPTS])

    assert close(internals.patched(PROMPTS, [0, 1, 2, 1, 0], PLACES, nothing), expected)
    assert close(internals.next_tokens(PROMPTS), expected)
    assert close(internals.readout.log_probs(_last(internals.trace(PROMPTS))), expected, 1e-5)


def _last(traces: list[Trace]) -> Any:
    return torch.stack([t.residuals[-1] for t in traces])


def test_no_prompts_give_nothing() -> None:
    internals = families.engine("llama").internals()

    assert internals.trace([]) == []
    assert internals.next_tokens([]).shape == (0, internals.readout.vocabulary)


# Bad input


def test_a_place_or_a_layer_that_is_not_there_is_refused() -> None:
    internals = families.engine("llama").internals()
    nothing = torch.zeros(1, internals.hidden)

    for place in (1, -1):
        with pytest.raises(InputError, match=f"position {place} is none of a prompt's 1 tokens"):
            internals.trace(["a"], [place])
    for layer in (-1, 3):
        with pytest.raises(InputError, match="layers to patch go from 0 to 2"):
            internals.patched(["a"], [layer], [0], nothing)
    with pytest.raises(InputError, match="neuron 9999 of layer 0: there are 2 layers"):
        internals.ablated(["a"], [[(0, 9999)]])
    with pytest.raises(InputError, match="an empty prompt"):
        internals.trace([""])
    with pytest.raises(InputError, match="longer than the model's context"):
        internals.trace(["a" * 300])


def test_an_engine_of_texts_alone_says_so() -> None:
    with pytest.raises(ModelError, match="texts"):
        FakeLanguageModel({}).internals()


# Where a text's characters stand


@pytest.mark.parametrize("beginning", [False, True])
def test_a_mention_is_found_token_by_token(beginning: bool) -> None:
    internals = families.engine("llama", beginning=beginning).internals()
    prompt = "東京 is Größe"
    size = len(prompt.encode())

    assert len(internals.tokens(prompt)) == size + beginning
    # Every token is a byte, so a character's last token is its last byte.
    for end in range(1, len(prompt) + 1):
        assert internals.position_of(prompt, end) == len(prompt[:end].encode()) - 1 + beginning


def test_a_beginning_that_the_prompt_brings_itself_is_there_once() -> None:
    internals = families.engine("llama", beginning=True).internals()

    assert internals.tokens("<s>abc") == internals.tokens("abc")
    assert internals.position_of("<s>abc", len("<s>a")) == 1


def test_a_mention_of_several_tokens_ends_with_its_last(tiny_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_path)
    internals = TransformersModel(load_dense(tiny_path, "float32", "cpu"), tokenizer).internals()
    prompt = "The capital of Ouagadougou über alles"
    for mention in ("The", "capital", "Ouagadougou", "über", "alles", "lles"):
        end = prompt.index(mention) + len(mention)
        tokens = internals.tokens(prompt)
        place = internals.position_of(prompt, end)
        before, through = (tokenizer.decode(tokens[:stop]) for stop in (place, place + 1))
        assert len(before) < end <= len(through)
        assert internals.trace([prompt], [place])[0].tokens == tuple(tokens)


def test_a_character_that_no_token_holds_is_refused() -> None:
    internals = families.engine("llama").internals()

    for end in (0, 4, -1):
        with pytest.raises(InputError, match=f"no token of the prompt holds its character {end - 1}"):
            internals.position_of("abc", end)


def test_a_tokenizer_that_does_not_tell_places_is_refused() -> None:
    internals = families.engine("llama").internals()
    internals.tokenizer = object()

    with pytest.raises(InputError, match="does not tell where"):
        internals.position_of("abc", 1)


# From every position to the last


@pytest.mark.parametrize("name", NAMES)
def test_paths_hold_all_positions_and_end_in_the_heads(name: str) -> None:
    lm = families.engine(name)
    internals = lm.internals()
    usual = lm.model.config._attn_implementation
    prompt = PROMPTS[1]
    traces = internals.trace([prompt] * 37, range(37))

    paths = internals.paths(prompt)

    assert lm.model.config._attn_implementation == usual
    assert paths.tokens == traces[0].tokens
    for place, trace in enumerate(traces):
        assert close(paths.residuals[:, place], trace.residuals, 1e-5)
        assert close(paths.neurons[:, place], trace.neurons, 1e-5)
        assert close(paths.ffn_scale[:, place], trace.ffn_scale, 1e-5)
    weights = paths.attention_weights
    assert close(weights.sum(-1), torch.ones_like(weights[..., 0]), 1e-5)
    width = internals.head_width
    for layer in range(internals.layers):
        values = paths.residuals[layer] / paths.input_scale[layer][:, None] @ internals.value_matrix(layer).T
        values = (values + internals.value_constant(layer)).unflatten(-1, (internals.heads, width))
        heads = torch.einsum("hp,phw->hw", weights[layer], values).flatten()
        assert close(heads, traces[-1].heads[layer], 1e-5)


def test_values_that_a_projection_does_not_give_are_refused_but_not_the_model() -> None:
    model = deepcopy(families.model("llama"))
    attention = model.model.layers[1].self_attn
    attention.v_proj = torch.nn.Sequential(attention.v_proj, torch.nn.Tanh())
    internals = TransformersModel(model, families.tokenizer()).internals()

    for call in (lambda: internals.paths("abc"), lambda: internals.value_matrix(0)):
        with pytest.raises(ModelError, match="where the values of layer 1 come from; query neurons need it"):
            call()
    assert internals.trace(["abc"])[0].ffn.abs().max() > 0

"""A model's parts are found in every family, packed or not, and refused where they are not what they seem."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import families  # noqa: E402
from families import FAMILIES  # noqa: E402

from quantxai import anatomy, checkpoints, registry  # noqa: E402
from quantxai.anatomy import find_anatomy  # noqa: E402
from quantxai.checkpoints import effective_weight, load_tokenizer  # noqa: E402
from quantxai.engine import TransformersModel  # noqa: E402
from quantxai.errors import ModelError  # noqa: E402
from quantxai.hooks import Call, run_probe  # noqa: E402
from quantxai.norms import read_norm  # noqa: E402
from quantxai.projections import output_matrix  # noqa: E402

PARTS = {
    "cohere": ("model.layers", "self_attn.o_proj", "mlp.down_proj", "model.norm"),
    "falcon": ("transformer.h", "self_attention.dense", "mlp.dense_4h_to_h", "transformer.ln_f"),
    "gpt-neox": ("gpt_neox.layers", "attention.dense", "mlp.dense_4h_to_h", "gpt_neox.final_layer_norm"),
    "gpt2": ("transformer.h", "attn.c_proj", "mlp.c_proj", "transformer.ln_f"),
    "opt": ("model.decoder.layers", "self_attn.out_proj", "fc2", "model.decoder.final_layer_norm"),
    "phi": ("model.layers", "self_attn.dense", "mlp.fc2", "model.final_layernorm"),
    "phi3": ("model.layers", "self_attn.o_proj", "mlp.down_proj", "model.norm"),
    "starcoder2": ("model.layers", "self_attn.o_proj", "mlp.c_proj", "model.norm"),
}
"""Layers, both output projections and the final norm by name; those of "cohere" where nothing else is said."""
NORMS = {
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
}
"""The blocks' own norms of what their sublayers put out."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_parts_of_every_family_are_found(name: str) -> None:
    model = families.model(name)
    names = {id(m): n for n, m in model.named_modules()}
    layers, attention, ffn, final = PARTS.get(name) or next(
        (parts for family, parts in PARTS.items() if name.startswith(f"{family}-")), PARTS["cohere"]
    )
    norms = NORMS.get(name, (None, None))
    hooks = _hooks(model)

    found = find_anatomy(model)

    assert names[id(found.final_norm)] == final
    for number, block in enumerate(found.blocks):
        inside = f"{layers}.{number}"
        assert names[id(block.module)] == inside
        for part, projection, norm in (
            (block.attention, attention, norms[0]),
            (block.ffn, ffn, norms[1]),
        ):
            assert names[id(part.output)] == f"{inside}.{projection}"
            assert names.get(id(part.norm_module)) == (norm and f"{inside}.{norm}")
    config = model.config
    assert (found.heads, found.ffn_width, len(found.blocks)) == (4, 48, config.num_hidden_layers)
    assert found.head_width == (getattr(config, "head_dim", None) or 8)
    assert _hooks(model) == hooks


def _hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_the_probe_keeps_nothing_wider_than_the_residual_stream() -> None:
    probe = run_probe(families.model("llama"), 32)
    kept = [t for c in probe.calls for t in (c.given, c.returned) if t is not None]

    assert kept
    assert {t.shape[-1] for t in kept} == {32}
    assert any(c.name.endswith("down_proj") and c.given is None for c in probe.calls)


# Packed weights


class Packed(torch.nn.Module):
    """A layer that multiplies with scaled whole numbers; what it calls its weight is no matrix, as GPTQ's."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scales = linear.weight.detach().abs().amax(1, keepdim=True) / 7
        self.register_buffer("codes", (linear.weight.detach() / scales).round().to(torch.int8))
        self.register_buffer("scales", scales)
        self.weight = object()
        self.bias = linear.bias

    def forward(self, h: Any) -> Any:
        matrix = self.codes.to(self.scales.dtype) * self.scales
        return torch.nn.functional.linear(h.to(matrix.dtype), matrix, self.bias)


def test_a_layer_whose_weight_is_no_tensor_is_read_through_what_it_does() -> None:
    model = deepcopy(families.model("llama-tied-biased"))
    plain = model.model.layers[1].mlp.down_proj
    model.model.layers[1].mlp.down_proj = packed = Packed(plain)
    internals = TransformersModel(model, families.tokenizer()).internals()
    (trace,) = internals.trace(["The capital of"])

    matrix = internals.ffn_output(1)

    assert torch.allclose(matrix, packed.codes * packed.scales)
    assert not torch.allclose(matrix, plain.weight, atol=1e-3)
    assert torch.allclose(matrix @ trace.neurons[1] + plain.bias, trace.ffn[1])


def _biased(width: int, dtype: Any) -> Any:
    """A packed layer with weights of .02 and a bias of 1."""
    generator = torch.Generator().manual_seed(3)
    linear = torch.nn.Linear(width, 24)
    linear.weight.data = torch.randn(24, width, generator=generator) * 0.02
    linear.bias.data = torch.randn(24, generator=generator)
    packed = Packed(linear.to(dtype))
    packed.held = packed.bias.data  # as a kernel that was given the tensor once
    return packed


@pytest.mark.parametrize("place", ["parameter", "buffer", "inference"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_large_bias_does_not_blur_the_matrix_and_stays_as_it_was(place: str, dtype: Any) -> None:
    packed = _biased(48, dtype)
    if place != "parameter":
        bias = packed.bias.data
        del packed.bias
        with torch.inference_mode(place == "inference"):
            packed.register_buffer("bias", bias.clone() if place == "inference" else bias)
    before, at = packed.bias.clone(), packed.bias.data_ptr()

    found = effective_weight(packed, dtype)

    assert torch.equal(found, packed.codes.to(dtype) * packed.scales)
    assert not found.is_inference()
    assert torch.equal(packed.bias, before)
    assert packed.bias.data_ptr() == at


def test_a_kernel_that_holds_its_bias_is_read_and_a_failing_one_gets_it_back() -> None:
    packed = _biased(48, torch.bfloat16)
    before = packed.bias.detach().clone()

    def kernel(h: Any) -> Any:
        return h @ (packed.codes.to(h.dtype) * packed.scales).T + packed.held

    def failing(h: Any) -> Any:
        raise RuntimeError("no kernel")

    packed.forward = kernel
    assert torch.equal(effective_weight(packed, torch.bfloat16), packed.codes * packed.scales)
    packed.forward = failing
    with pytest.raises(RuntimeError, match="no kernel"):
        effective_weight(packed, torch.bfloat16)
    assert torch.equal(packed.bias, before)


def test_the_identity_is_fed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "IDENTITY_ROWS", 20)
    packed = _biased(48, torch.float32)
    fed: list[int] = []
    packed.register_forward_pre_hook(lambda _, args: fed.append(len(args[0])))

    assert torch.equal(effective_weight(packed, torch.float32), packed.codes * packed.scales)
    assert fed == [20, 20, 8]


def test_a_plain_matrix_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from quantxai import projections

    asked: list[Any] = []

    def watched(module: Any, dtype: Any) -> Any:
        asked.append(dtype)
        return effective_weight(module, dtype)

    monkeypatch.setattr(projections, "effective_weight", watched)
    linear = torch.nn.Linear(4, 3).to(torch.bfloat16)

    assert torch.equal(output_matrix(linear), linear.weight.float())
    assert asked == [torch.float32]


def test_a_packed_layer_without_any_floating_tensor_is_fed_the_models_type() -> None:
    packed = _biased(48, torch.float32)
    packed.bias, packed.held, packed.step = None, None, 0.5
    del packed.scales
    fed: list[Any] = []

    def kernel(h: Any) -> Any:
        fed.append(h.dtype)
        return h @ packed.codes.to(h.dtype).T * packed.step

    packed.forward = kernel

    for asked in ({}, {"dtype": torch.bfloat16}):
        assert torch.equal(output_matrix(packed, **asked), packed.codes * 0.5)
    assert fed == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize(
    ("method", "options", "tolerance"),
    # int8 rounds what goes in, too.
    [
        ("bnb", {"format": "nf4"}, 1e-5),
        ("bnb", {"format": "int8"}, 2e-2),
        ("rtn", {"bits": 4, "group_size": 32}, 1e-5),
    ],
)
def test_the_matrix_of_a_quantized_layer_is_what_it_multiplies_with(
    tiny_path: Path, tmp_path: Path, method: str, options: dict[str, Any], tolerance: float
) -> None:
    quantizer = registry.method("quantizer", method).model_validate(options)
    if quantizer.writes_checkpoint:
        quantizer.quantize(tiny_path, [], tmp_path, "cpu", "float32", lambda model: None)
    model = quantizer.load(tmp_path if quantizer.writes_checkpoint else tiny_path, "float32", "cpu")
    internals = TransformersModel(model, load_tokenizer(tiny_path)).internals()
    (trace,) = internals.trace(["The capital of France is"])

    for layer, block in enumerate(internals.anatomy.blocks):
        for matrix, inputs, added in (
            (internals.ffn_output(layer), trace.neurons[layer], trace.ffn[layer]),
            (internals.attention_output(layer), trace.heads[layer], trace.attention[layer]),
        ):
            assert (matrix @ inputs - added).norm() < tolerance * added.norm()
        # int8's kernel returns products in float16.
        assert torch.allclose(
            internals.ffn_output(layer), _unpacked(block.ffn.output), rtol=tolerance / 20, atol=1e-6
        )


def _unpacked(layer: Any) -> Any:
    """A packed layer's matrix by the definition of its format."""
    if type(layer).__name__ == "Linear4bit":
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    if type(layer).__name__ == "Linear8bitLt":
        codes = layer.state.CB if layer.state.CB is not None else layer.weight.CB
        scales = layer.state.SCB if layer.state.SCB is not None else layer.weight.SCB
        return codes.float() * scales[:, None] / 127
    eye = torch.eye(layer.in_features)
    return torch.stack([layer(row) for row in eye], 1).detach()


# Refusals


def _granite() -> Any:
    return families.build("granite", residual_multiplier=0.5)


def _without_head() -> Any:
    from transformers import LlamaModel

    return LlamaModel(families.model("llama").config).double()


def _two_widths() -> Any:
    model = deepcopy(families.model("llama"))
    model.model.layers[1].mlp = deepcopy(families.build("llama", intermediate_size=40).model.layers[1].mlp)
    return model


def _changed(change: Callable[[Any], None]) -> Any:
    model = deepcopy(families.model("llama"))
    change(model)
    return model


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "experts": (
        lambda: families.build("mixtral", num_local_experts=2).float(),
        "one FFN in each layer: 'MixtralDecoderLayer' has experts",
    ),
    "state space": (
        lambda: families.build("mamba", state_size=4),
        "one attention sublayer, with keys and values",
    ),
    "convolutions": (
        lambda: families.build("lfm2", layer_types=["conv", "full_attention"], block_multiple_of=8),
        "one attention sublayer, with keys and values, in each layer .'Lfm2DecoderLayer'",
    ),
    "scaled residual": (_granite, "what layer 0 adds to the residual stream"),
    "norms behind the sum": (
        lambda: families.build("opt", do_layer_norm_before=False, word_embed_proj_dim=32),
        "the final norm",
    ),
    "narrow embeddings": (lambda: families.build("opt", word_embed_proj_dim=16), "the final norm"),
    "no unembedding": (_without_head, "the unembedding"),
    "two widths": (_two_widths, "one FFN width: the layers have .40, 48. neurons"),
    "another norm": (
        lambda: _changed(lambda m: setattr(m.model, "norm", torch.nn.Tanh())),
        "a LayerNorm or an RMSNorm where the model has 'Tanh'",
    ),
    "scaled logits": (
        lambda: _changed(lambda m: setattr(m.config, "logits_scaling", 2.0)),
        "how its logits come from the last residual",
    ),
    "fewer layers": (
        lambda: _changed(lambda m: setattr(m.config, "num_hidden_layers", 3)),
        "the 3 layers that its configuration tells of",
    ),
    "odd heads": (
        lambda: _changed(lambda m: setattr(m.config, "num_attention_heads", 5)),
        "5 heads of one width: the output projections read .32.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused_and_the_missing_part_named(case: str) -> None:
    make, named = REFUSED[case]
    model = make()

    with pytest.raises(ModelError, match=f"cannot be looked into: not found: {named}") as refusal:
        find_anatomy(model)

    assert f"architecture '{model.config.model_type}'" in str(refusal.value)
    assert "work all the same" in str(refusal.value)


def test_a_scale_of_logits_that_is_no_number_is_refused() -> None:
    model = _changed(lambda m: setattr(m.config, "logit_scale", "inv_sqrt_d_model"))

    with pytest.raises(
        ModelError, match=r"not found: a number that scales the logits: .* 'inv_sqrt_d_model'"
    ):
        find_anatomy(model)


@pytest.mark.parametrize("name", sorted(NORMS))
def test_a_block_norm_that_is_misread_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = deepcopy(families.model(name))
    wrong = model.model.layers[1].post_feedforward_layernorm

    def misread(module: Any, width: int, model: Any) -> Any:
        norm = read_norm(module, width, model)
        return replace(norm, gain=norm.gain + 1) if module is wrong and norm else norm

    assert find_anatomy(model)
    monkeypatch.setattr(anatomy, "read_norm", misread)
    with pytest.raises(ModelError, match="not found: how layer 1's own norms change"):
        find_anatomy(model)


def test_a_module_that_is_called_twice_has_two_calls() -> None:
    twice = [Call("a", None, torch.ones(2), torch.ones(2)) for _ in range(2)]

    assert twice.index(twice[1]) == 1


def test_a_granite_that_does_not_scale_is_let_through() -> None:
    assert find_anatomy(families.build("granite", residual_multiplier=1.0)).ffn_width == 48


def test_a_convolution_of_gpt2_is_transposed() -> None:
    layer = families.model("gpt2").transformer.h[0].mlp.c_proj

    assert torch.equal(output_matrix(layer), layer.weight.T)


def test_a_model_whose_numbers_are_not_finite_is_told_apart_from_one_with_other_parts() -> None:
    model = deepcopy(families.model("llama"))
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")

    with pytest.raises(ModelError, match="its numbers are not finite"):
        find_anatomy(model)

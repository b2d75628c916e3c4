"""Shapes from configurations alone, against the models that transformers builds from them."""

from __future__ import annotations

from typing import Any

import pytest

from quantxai.errors import ModelError
from quantxai.models import MODELS
from quantxai.shapes import FAMILIES, shape_of

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "max_position_embeddings": 128,
}
GPT2 = {"vocab_size": 300, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}
WITHOUT = {"gpt_neox": ("num_key_value_heads", "head_dim"), "phi": ("head_dim",), "phi3": ("head_dim",),
           "olmo": ("head_dim",), "olmo2": ("head_dim",), "qwen2": ("head_dim",), "granite": ("head_dim",),
           "smollm3": ("head_dim",)}  # fmt: skip
"""What a family's configuration does not have."""


def small(family: str) -> dict[str, Any]:
    if family == "gpt2":
        return dict(GPT2)
    return {key: value for key, value in SMALL.items() if key not in WITHOUT.get(family, ())}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_every_number_is_counted(family: str, tied: bool) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **small(family), tie_word_embeddings=tied, pad_token_id=0)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]

    shape = shape_of(config.to_dict())

    assert shape.parameters == sum(p.numel() for p in model.parameters())
    if shape.quantizable:
        assert shape.linear_parameters == sum(m.weight.numel() for m in linear)
        assert {w.width for w in shape.linears} == {m.in_features for m in linear}
    assert shape.head == head.weight.numel()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_configuration_leaves_out_is_the_familys_default(family: str) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {k: v for k, v in small(family).items() if k != "head_dim"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings, pad_token_id=0))
    model.tie_weights()

    shape = shape_of({"model_type": family, **settings})

    assert shape.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.bare
def test_a_published_shape() -> None:
    """Llama 3 8B: 8.03 billion parameters, as its model card says."""
    shape = shape_of({
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 8192, "tie_word_embeddings": False,
    })  # fmt: skip

    assert shape.parameters == 8_030_261_248
    assert shape.key_value_width == 1024


@pytest.mark.bare
@pytest.mark.parametrize("name", MODELS)
def test_registered_models_have_their_shape(name: str) -> None:
    assert shape_of(MODELS[name].config).parameters == MODELS[name].parameters


@pytest.mark.bare
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "lama"}, r'model_type = "lama"\. Did you mean \'llama\'\?.*Known: llama'),
        ({"hidden_size": None}, "hidden_size = None; expected a whole number"),
        ({"num_hidden_layers": "30"}, "num_hidden_layers = '30'"),
    ],
)
def test_what_is_not_known_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        shape_of({**SMALL, "model_type": "llama", **change}, "that file")

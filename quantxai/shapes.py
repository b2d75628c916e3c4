"""A decoder's matrices from its configuration alone: no weights, and without torch.

The names are those of transformers' configurations. A shape counts every matrix; of norms and biases
it counts those that a family has, which are below a thousandth of the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantxai.errors import ModelError, nearest

__all__ = ["FAMILIES", "Linear", "Shape", "shape_of"]


@dataclass(frozen=True)
class Linear:
    """One linear layer of a block, by Llama's name: its outputs, and its width (inputs)."""

    name: str
    outputs: int
    width: int


@dataclass(frozen=True)
class Shape:
    """What memory and time depend on.

    Attributes:
        model_type: transformers' model type.
        layers: number of blocks.
        hidden: width of the residual stream.
        inner: width of the feed-forward network.
        linears: the linear layers of one block.
        embeddings: numbers in token and position embeddings, and in the head where it is not tied.
        head: numbers in the unembedding matrix, tied or not.
        others: numbers in norms and biases.
        key_value_width: numbers in one layer's keys of one token; values have as many.
        context: longest sequence, tokens.
        quantizable: whether the blocks' layers are torch.nn.Linear, which quantizers work on.
    """

    model_type: str
    layers: int
    hidden: int
    inner: int
    linears: tuple[Linear, ...]
    embeddings: int
    head: int
    others: int
    key_value_width: int
    context: int
    quantizable: bool = True

    @property
    def linear_parameters(self) -> int:
        """Numbers in all blocks' linear layers: what is quantized."""
        return self.layers * sum(linear.outputs * linear.width for linear in self.linears)

    @property
    def parameters(self) -> int:
        """All numbers, tied ones once."""
        return self.linear_parameters + self.embeddings + self.others


@dataclass(frozen=True)
class Family:
    """How one family of models differs from Llama.

    Attributes:
        gated: whether the feed-forward network has a gate beside its input projection.
        query_key_value_bias: null where the configuration says it.
        biases: whether every linear layer has a bias.
        norms: norms of width `hidden` in a block.
        head_norms: whether queries and keys are normalized head by head ("head"), as a whole
            ("whole"), or not ("").
        norm_numbers: numbers a norm has for each of its inputs.
        tied: what `tie_word_embeddings` is where the configuration leaves it out.
        names: configuration keys that are named otherwise.
    """

    gated: bool = True
    query_key_value_bias: bool | None = None
    biases: bool = False
    norms: int = 2
    head_norms: str = ""
    norm_numbers: int = 1
    tied: bool = False
    names: Mapping[str, str] | None = None
    head_width: int | None = None
    """What `head_dim` is where the configuration leaves it out; hidden over heads where null."""


GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}
FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "granite": Family(),
    "smollm3": Family(tied=True),
    "qwen2": Family(query_key_value_bias=True),
    "qwen3": Family(head_norms="head", head_width=128),
    "gemma": Family(tied=True, head_width=256),
    "gemma2": Family(norms=4, tied=True, head_width=256),
    "gemma3_text": Family(norms=4, head_norms="head", tied=True, head_width=256),
    "phi3": Family(),
    "phi": Family(gated=False, biases=True, norms=1, norm_numbers=2),
    "olmo": Family(norms=0),
    "olmo2": Family(head_norms="whole"),
    "gpt_neox": Family(gated=False, biases=True, norm_numbers=2),
    "gpt2": Family(gated=False, biases=True, norm_numbers=2, tied=True, names=GPT2_NAMES),
}


def shape_of(config: Mapping[str, Any], source: str = "config.json") -> Shape:
    """Return the shape that a transformers configuration describes.

    Args:
        config: config.json as a mapping.
        source: its name, for errors.

    Raises:
        ModelError: a family that is not known here, or a number that is missing.
    """
    if isinstance(config.get("text_config"), Mapping):
        config = config["text_config"]
    kind = str(config.get("model_type", ""))
    if kind not in FAMILIES:
        raise ModelError(
            f'{source}: nothing is known of the shape of model_type = "{kind}".{nearest(kind, FAMILIES)} '
            f"Known: {', '.join(FAMILIES)}."
        )
    family = FAMILIES[kind]

    def number(key: str, default: int | None = None) -> int:
        name = (family.names or {}).get(key, key)
        found = config.get(name)
        if found is None and default is not None:
            return default
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise ModelError(f"{source}: {name} = {found!r}; expected a whole number above 0")
        return found

    layers, hidden, heads = (
        number(key) for key in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    if heads > hidden:
        raise ModelError(f"{source}: {heads} attention heads in a width of {hidden}")
    head_width = number("head_dim", family.head_width or hidden // heads)
    keys = number("num_key_value_heads", heads) * head_width
    queries = heads * head_width
    inner = number("intermediate_size", 4 * hidden)
    vocabulary, context = number("vocab_size"), number("max_position_embeddings", 2048)
    linears = _linears(hidden, queries, keys, inner, family.gated)
    tied = bool(config.get("tie_word_embeddings", family.tied))
    embeddings = vocabulary * hidden * (1 if tied else 2) + (context * hidden if kind == "gpt2" else 0)
    head_bias = vocabulary if kind == "phi" else 0
    last_norm = hidden * family.norm_numbers if family.norms else 0
    return Shape(
        model_type=kind,
        layers=layers,
        hidden=hidden,
        inner=inner,
        linears=linears,
        embeddings=embeddings,
        head=vocabulary * hidden,
        others=layers * _others(config, family, hidden, queries, keys, head_width, linears)
        + last_norm
        + head_bias,
        key_value_width=keys,
        context=context,
        quantizable=kind != "gpt2",
    )


def _linears(hidden: int, queries: int, keys: int, inner: int, gated: bool) -> tuple[Linear, ...]:
    """The linear layers of one block."""
    return (
        Linear("q_proj", queries, hidden),
        Linear("k_proj", keys, hidden),
        Linear("v_proj", keys, hidden),
        Linear("o_proj", hidden, queries),
        *([Linear("gate_proj", inner, hidden)] if gated else []),
        Linear("up_proj", inner, hidden),
        Linear("down_proj", hidden, inner),
    )


def _others(
    config: Mapping[str, Any],
    family: Family,
    hidden: int,
    queries: int,
    keys: int,
    head_width: int,
    linears: tuple[Linear, ...],
) -> int:
    """Numbers in one block's norms and biases."""
    norms = family.norms * hidden * family.norm_numbers
    norms += {"": 0, "head": 2 * head_width, "whole": queries + keys}[family.head_norms]
    if family.biases:
        return norms + sum(linear.outputs for linear in linears)
    projections = queries + 2 * keys
    if family.query_key_value_bias:
        return norms + projections
    biases = projections + hidden if config.get("attention_bias") else 0
    if config.get("mlp_bias"):
        biases += sum(linear.outputs for linear in linears[4:])
    return norms + biases

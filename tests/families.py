"""Tiny models with random weights, one of each family whose inside quantxai looks into, and their tokenizer.

Every number that a family's code can treat in its own way is random and far from what it would be ignored
at: norm gains are not 1, biases not 0, soft caps bind and sliding windows are shorter than the prompts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from quantxai.engine import TransformersModel

__all__ = ["FAMILIES", "Family", "engine", "model", "tokenizer"]

VOCABULARY = 264
"""A little more than bytes."""
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


@dataclass(frozen=True)
class Family:
    """How a family's tiny model is configured.

    Attributes:
        type: transformers' name of it.
        settings: of its configuration, beside SIZES.
        dtype: the most precise type that its code computes padded batches in.
    """

    type: str
    settings: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64


TIED = {"tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False}
FALCON = {"ffn_hidden_size": 48}
FAMILIES = {
    "llama": Family("llama", UNTIED),
    "llama-tied-biased": Family("llama", {**TIED, "attention_bias": True, "mlp_bias": True}),
    "qwen2": Family("qwen2", UNTIED),
    "qwen3": Family("qwen3", {**TIED, "head_dim": 12}),
    "mistral-windowed": Family("mistral", {**UNTIED, "sliding_window": 8}),
    "gemma2": Family(
        "gemma2",
        {
            "head_dim": 12,
            "sliding_window": 8,
            "query_pre_attn_scalar": 12,
            "attn_logit_softcapping": 1.0,
            "final_logit_softcapping": 2.0,
        },
        # Its attention, with a mask in float64 and a softmax in float32, makes nan of a padded prompt.
        torch.float32,
    ),
    "gemma3": Family(
        "gemma3_text",
        {
            "head_dim": 12,
            "num_hidden_layers": 3,
            "sliding_window": 8,
            "sliding_window_pattern": 2,
            "query_pre_attn_scalar": 12,
        },
    ),
    "phi": Family("phi", {**UNTIED, "partial_rotary_factor": 0.5}),
    "phi3": Family("phi3", UNTIED),
    "olmo": Family("olmo", UNTIED),
    "olmo2": Family("olmo2", UNTIED),
    "gpt-neox-parallel": Family("gpt_neox", {**UNTIED, "use_parallel_residual": True}),
    "gpt-neox-sequential": Family("gpt_neox", {**UNTIED, "use_parallel_residual": False}),
    "gpt2": Family("gpt2", {**TIED, "n_inner": 48}),
    "cohere": Family("cohere", {"logit_scale": 0.3, "use_qk_norm": False}),
    "falcon": Family("falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}),
    "falcon-multi-query": Family("falcon", {**FALCON, "multi_query": True}),
    "granite": Family("granite", {"logits_scaling": 3.0, "embedding_multiplier": 2.0}),
    "opt": Family("opt", {"word_embed_proj_dim": 32, "ffn_dim": 48}),
    "smollm3": Family("smollm3", {**TIED, "no_rope_layer_interval": 2}),
    "stablelm": Family("stablelm", {**UNTIED, "use_parallel_residual": True, "use_qkv_bias": True}),
    "starcoder2": Family("starcoder2", {**TIED, "use_bias": True}),
}


def build(kind: str, **settings: Any) -> Any:
    """A model of some type with random weights, float64."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **{**SIZES, **settings})
    made = AutoModelForCausalLM.from_config(config).double().eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            else:  # gains are 1, biases and what Gemma stores for gains are 0
                parameter.add_(noise * 0.3)
    return made


def model(name: str, dtype: torch.dtype | None = None) -> Any:
    """A family's tiny model, in its own type or another, made once; not to be changed."""
    return _made(name, dtype or FAMILIES[name].dtype)


@cache
def _made(name: str, dtype: torch.dtype) -> Any:
    return build(FAMILIES[name].type, **FAMILIES[name].settings).to(dtype)


@cache
def tokenizer(beginning: bool = False) -> Any:
    """A tokenizer whose tokens are bytes; it may put a token in front of every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = {"<s>": 0, "</s>": 1}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({**special, **{c: i + 2 for i, c in enumerate(alphabet)}}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A" if beginning else "$A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )


def engine(name: str, dtype: torch.dtype | None = None, *, beginning: bool = False) -> TransformersModel:
    """A family's engine, which remembers nothing of earlier calls."""
    return TransformersModel(model(name, dtype), tokenizer(beginning))

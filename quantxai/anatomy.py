"""The parts of a decoder-only model that interpretability works on, found by what they do.

Names differ between families, and so do the places of norms. So a few tokens are run through the model,
and the parts are recognized by the order in which they are called and by whose output is whose input:

```
residual stream --+-- [norm] -- attention ... output projection -- [norm] --+--  in each layer, and
                  +-- [norm] -- FFN ......... output projection -- [norm] --+    then the final norm
```

Whatever was found is checked: the layer's input plus what attention and FFN add must be the layer's output
(in sequence or in parallel), and the final residual, read out, must give the model's logits. A model that
does more than this is refused, and the message names what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quantxai.checkpoints import effective_weight
from quantxai.errors import ModelError
from quantxai.hooks import Call, Probe, run_probe
from quantxai.norms import Norm, read_norm
from quantxai.projections import inputs_of, is_projection, outputs_of
from quantxai.readout import Readout

__all__ = [
    "Anatomy",
    "Block",
    "Sublayer",
    "attention_of",
    "find_anatomy",
    "missing",
    "same",
]


@dataclass(frozen=True)
class Sublayer:
    """Attention or FFN of one layer.

    Attributes:
        output: its output projection.
        norm: the block's own norm of that projection's output, where there is one (Gemma, OLMo 2).
        norm_module: the module of that norm.
    """

    output: Any
    norm: Norm | None = None
    norm_module: Any = None

    @property
    def adds(self) -> Any:
        """The module whose output is added to the residual stream."""
        return self.norm_module or self.output


@dataclass(frozen=True)
class Block:
    """One layer.

    Attributes:
        module: the layer.
        attention: the attention sublayer.
        ffn: the feed-forward sublayer.
    """

    module: Any
    attention: Sublayer
    ffn: Sublayer


@dataclass(frozen=True)
class Anatomy:
    """A model's parts.

    Attributes:
        blocks: the layers, in order.
        final_norm: the module whose input is the last residual.
        readout: final norm and unembedding.
        heads: number of query heads of a layer.
        head_width: what each of them hands to the output projection.
        ffn_width: number of neurons of a layer.
    """

    blocks: tuple[Block, ...]
    final_norm: Any
    readout: Readout
    heads: int
    head_width: int
    ffn_width: int


def find_anatomy(model: Any) -> Anatomy:
    """Find the parts of a transformers causal language model.

    Args:
        model: the model, in evaluation mode; its weights may be packed.

    Raises:
        ModelError: a part is missing, or the model computes something that these parts do not explain.
    """
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    if head is None:
        raise missing(model, "the unembedding: the model has no output embeddings")
    probe = run_probe(model, int(config.hidden_size))
    if not bool(torch.isfinite(probe.logits).all()):
        raise ModelError(
            f"this model of architecture '{config.model_type}' cannot be looked into: its numbers are not finite, "
            "even for four tokens"
        )
    layers = _layers(model, int(config.num_hidden_layers), probe.calls)
    final_norm = _final_norm(model, probe.calls, head, layers)
    readout = _readout(model, final_norm, head)
    names = {id(m): n for n, m in model.named_modules()}
    values = [*probe.values, *[None] * len(layers)]
    blocks = []
    for layer, cached in zip(layers, values, strict=False):
        inside = [c for c in probe.calls if c.name.startswith(f"{names[id(layer)]}.")]
        blocks.append(_block(model, layer, inside, cached is not None))
    heads, width = _heads(model, int(config.num_attention_heads), blocks)
    ffn_widths = {inputs_of(block.ffn.output) for block in blocks}
    if len(ffn_widths) > 1:
        raise missing(model, f"one FFN width: the layers have {sorted(ffn_widths)} neurons")
    anatomy = Anatomy(tuple(blocks), final_norm, readout, heads, width, ffn_widths.pop())
    _check(model, anatomy, probe)
    return anatomy


def missing(model: Any, what: str) -> ModelError:
    """Return the refusal of a model in which a part was not found."""
    return ModelError(
        f"architecture '{model.config.model_type}' cannot be looked into: not found: {what}. Explainers that need "
        "no more than texts and their probabilities work all the same."
    )


def _layers(model: Any, number: int, calls: Sequence[Call]) -> list[Any]:
    called = {id(c.module) for c in calls}
    for found in model.modules():
        # The outermost one: experts or heads of a layer may come in lists of the same length.
        if isinstance(found, torch.nn.ModuleList) and len(found) == number and id(found[0]) in called:
            return list(found)
    raise missing(model, f"the {number} layers that its configuration tells of")


def attention_of(layer: Any) -> Any:
    """Return the attention module of a layer, which may be a Mamba's mixer; null unless there is one."""
    found = [m for m in layer.children() if hasattr(m, "layer_idx") or hasattr(m, "head_dim")]
    return found[0] if len(found) == 1 else None


def same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    """Return whether two are the same numbers; OPT's FFN lays its tokens side by side."""
    return (
        a is not None and b is not None and a.numel() == b.numel() and torch.equal(a.flatten(), b.flatten())
    )


def _final_norm(model: Any, calls: Sequence[Call], head: Any, layers: Sequence[Any]) -> Any:
    into = next((c.given for c in calls if c.module is head), None)
    inside = {id(m) for layer in layers for m in layer.modules()}
    for call in calls:
        simple = not list(call.module.children()) and not is_projection(call.module)
        if simple and id(call.module) not in inside and same(call.returned, into):
            return call.module
    raise missing(model, "the final norm: what the unembedding reads is not a norm's output")


def _readout(model: Any, final_norm: Any, head: Any) -> Readout:
    config = model.config.get_text_config()
    weight = getattr(head, "weight", None)
    if not (isinstance(weight, torch.nn.Parameter) and weight.is_floating_point()):
        weight = effective_weight(head, model.dtype)
    bias = getattr(head, "bias", None)
    scaling, scale = getattr(config, "logits_scaling", None), getattr(config, "logit_scale", None)
    if not isinstance(scale, int | float | None):
        raise missing(model, f"a number that scales the logits: its configuration says '{scale}'")
    return Readout(
        **vars(_norm(model, final_norm, int(weight.shape[1]))),
        unembedding=weight.detach(),
        bias=None if bias is None else bias.detach(),
        multiplier=float(scale or (1 / scaling if scaling else 1.0)),
        softcap=getattr(config, "final_logit_softcapping", None),
    )


def _norm(model: Any, module: Any, width: int) -> Norm:
    norm = read_norm(module, width, model)
    if norm is None:
        raise missing(model, f"a LayerNorm or an RMSNorm where the model has '{type(module).__name__}'")
    return norm


def _block(model: Any, layer: Any, inside: list[Call], cached: bool) -> Block:
    """The parts of a layer, from the calls of its modules and whether it puts values into the cache."""
    name = type(layer).__name__
    attends = attention_of(layer)
    if attends is None or not cached:
        raise missing(model, f"one attention sublayer, with keys and values, in each layer ('{name}')")
    if any("expert" in n.lower() for n, _ in layer.named_modules()):
        raise missing(model, f"one FFN in each layer: '{name}' has experts")
    in_attention = {id(m) for m in attends.modules()}
    projections = [c for c in inside if is_projection(c.module) and not list(c.module.children())]
    attention = [c for c in projections if id(c.module) in in_attention]
    ffn = [c for c in projections if id(c.module) not in in_attention]
    hidden = int(model.config.get_text_config().hidden_size)
    for what, found in (("attention", attention), ("FFN", ffn)):
        if not found or outputs_of(found[-1].module) != hidden:
            raise missing(model, f"the output projection of the {what} ('{name}')")
    if len(ffn) > 3:
        raise missing(model, f"one FFN in each layer: '{name}' runs {len(ffn)} projections")
    return Block(layer, _sublayer(model, attention[-1], inside), _sublayer(model, ffn[-1], inside))


def _sublayer(model: Any, projection: Call, inside: list[Call]) -> Sublayer:
    """A sublayer by its last projection: a module that is given this one's output is the block's own norm."""
    for call in inside[inside.index(projection) + 1 :]:
        changes = not list(call.module.children()) and not same(call.returned, call.given)
        if changes and same(call.given, projection.returned):
            norm = _norm(model, call.module, outputs_of(projection.module))
            return Sublayer(projection.module, norm, call.module)
    return Sublayer(projection.module)


def _heads(model: Any, heads: int, blocks: Sequence[Block]) -> tuple[int, int]:
    widths = {inputs_of(block.attention.output) for block in blocks}
    if len(widths) > 1 or next(iter(widths)) % heads:
        raise missing(model, f"{heads} heads of one width: the output projections read {sorted(widths)}")
    return heads, widths.pop() // heads


def _check(model: Any, anatomy: Anatomy, probe: Probe) -> None:
    """Refuse a model that does something else with these parts."""
    calls = {id(c.module): c for c in probe.calls}
    residuals = [calls[id(m)].given for m in [b.module for b in anatomy.blocks] + [anatomy.final_norm]]
    inputs = [r.to(anatomy.readout.dtype)[0] for r in residuals if r is not None]
    tolerance = 1e-4 if model.dtype in (torch.float32, torch.float64) else 2e-2

    def differ(a: torch.Tensor, b: torch.Tensor, *summed: torch.Tensor) -> bool:
        # Token by token: the first one's residual is often larger by far. And by the largest of what was
        # summed, since an FFN may take back what earlier ones added.
        largest = torch.stack([t.abs().amax(-1) for t in (b, *summed)]).amax(0)
        return bool(((a - b).abs().amax(-1) > tolerance * largest).any())

    for number, block in enumerate(anatomy.blocks):
        added = [calls[id(s.adds)].returned for s in (block.attention, block.ffn)]
        parts = [
            inputs[number],
            *(a.reshape(inputs[number].shape).to(inputs[number]) for a in added if a is not None),
        ]
        if differ(torch.stack(parts).sum(0), inputs[number + 1], *parts):
            what = (
                f"what layer {number} adds to the residual stream beside attention and FFN, or scales them by"
            )
            raise missing(model, what)
        for sublayer in (block.attention, block.ffn):
            if sublayer.norm is not None and differ(*_through(sublayer, sublayer.norm, calls)):
                what = f"how layer {number}'s own norms change what attention and FFN add"
                raise missing(model, what)
    read = anatomy.readout.logits(inputs[-1].to(anatomy.readout.gain.device)).cpu()
    if differ(read, probe.logits[0].to(read)):
        what = "how its logits come from the last residual: norm and unembedding do not give them"
        raise missing(model, what)


def _through(sublayer: Sublayer, norm: Norm, calls: dict[int, Call]) -> tuple[torch.Tensor, torch.Tensor]:
    """What a sublayer adds by its folded norm, and what it added in the probe, [tokens, hidden] each.

    Folding is linear, so that the products of the probe stand for the matrix that made them.
    """
    products, added = calls[id(sublayer.output)].returned, calls[id(sublayer.adds)].returned
    if products is None or added is None:
        raise ValueError("The probe keeps what has the residual stream's width.")
    products = products.flatten(0, -2).to(norm.gain)
    made = norm.folded((products / norm.scale(products)[:, None]).T).T
    made = (made if norm.shift is None else made + norm.shift).cpu()
    return made, added.flatten(0, -2).to(made)

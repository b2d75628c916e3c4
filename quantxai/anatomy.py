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

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from quantxai.checkpoints import effective_weight
from quantxai.errors import ModelError
from quantxai.readout import Norm, Readout, working_dtype

__all__ = ["Anatomy", "Block", "Sublayer", "find_anatomy", "hooked", "output_matrix"]

PROBE = (1, 2, 3, 4)
"""Tokens of the probe; every vocabulary has these, and what they mean does not matter."""


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


@dataclass
class _Call:
    """One call of a module in the probe: its name, what went in and what came out."""

    name: str
    module: Any
    given: torch.Tensor
    returned: torch.Tensor


def find_anatomy(model: Any) -> Anatomy:
    """Find the parts of a transformers causal language model.

    Args:
        model: the model, in evaluation mode; its weights may be packed.

    Raises:
        ModelError: a part is missing, or the model computes something that these parts do not explain.
    """
    config = model.config.get_text_config()
    layers = _layers(model, int(config.num_hidden_layers))
    calls, logits = _probe(model)
    head = model.get_output_embeddings()
    if head is None:
        raise _missing(model, "the unembedding: the model has no output embeddings")
    final_norm = _final_norm(model, calls, head, layers)
    readout = _readout(model, final_norm, head)
    names = {id(m): n for n, m in model.named_modules()}
    blocks = tuple(_block(model, layer, f"{names[id(layer)]}.", calls) for layer in layers)
    heads, width = _heads(model, config, blocks)
    ffn_widths = {_width(block.ffn.output) for block in blocks}
    if len(ffn_widths) > 1:
        raise _missing(model, f"one FFN width: the layers have {sorted(ffn_widths)} neurons")
    anatomy = Anatomy(blocks, final_norm, readout, heads, width, ffn_widths.pop())
    _check(model, anatomy, calls, logits)
    return anatomy


@contextmanager
def hooked(hooks: list[tuple[Any, Callable[..., Any], bool]]) -> Iterator[None]:
    """Attach hooks for a while.

    Args:
        hooks: (module, hook, before). Before the call the hook is given (module, args, kwargs) and may
            return other ones; after it (module, args, kwargs, output), and may return another output.
    """
    handles = [
        m.register_forward_pre_hook(hook, with_kwargs=True)
        if before
        else m.register_forward_hook(hook, with_kwargs=True)
        for m, hook, before in hooks
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the hidden states a module was called with."""
    return args[0] if args else kwargs.get("hidden_states")


def output_matrix(module: Any) -> torch.Tensor:
    """Return the matrix [outputs, inputs] a projection multiplies with, in working precision.

    Packed weights never matter: see quantxai.checkpoints.effective_weight.
    """
    weight = getattr(module, "weight", None)
    if not hasattr(module, "in_features"):  # GPT-2's Conv1D holds the transposed matrix
        assert weight is not None
        return weight.detach().T.to(working_dtype(weight.dtype), copy=True)
    bias = getattr(module, "bias", None)
    kind = next((t.dtype for t in (weight, bias) if t is not None and t.is_floating_point()), None)
    kind = kind or next((p.dtype for p in module.buffers() if p.is_floating_point()), torch.float32)
    return effective_weight(module, kind).to(working_dtype(kind))


def _missing(model: Any, what: str) -> ModelError:
    return ModelError(
        f"architecture '{model.config.model_type}' cannot be looked into: not found: {what}. Explainers that need "
        "no more than texts and their probabilities work all the same."
    )


def _layers(model: Any, number: int) -> list[Any]:
    found = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == number]
    # The outermost one: experts or heads of a layer may come in lists of the same length.
    if not found:
        raise _missing(model, f"the {number} layers that its configuration tells of")
    return list(found[0])


def _probe(model: Any) -> tuple[list[_Call], torch.Tensor]:
    """Run the probe; return the calls of all modules in the order in which they ended, and the logits."""
    calls: list[_Call] = []

    def record(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            into, out = given(args, kwargs), output[0] if isinstance(output, tuple) else output
            if isinstance(into, torch.Tensor) and isinstance(out, torch.Tensor):
                calls.append(_Call(name, module, into.detach(), out.detach()))

        return hook

    hooks: list[tuple[Any, Callable[..., Any], bool]] = [
        (m, record(n), False) for n, m in model.named_modules() if n
    ]
    device = next(model.parameters()).device
    with torch.no_grad(), hooked(hooks):
        out = model(input_ids=torch.tensor([PROBE], device=device), use_cache=False)
    return calls, out.logits


def _is_projection(module: Any) -> bool:
    """Whether a module multiplies with a matrix, packed or not: Linear and its kin, or GPT-2's Conv1D."""
    return hasattr(module, "in_features") or (hasattr(module, "nf") and hasattr(module, "nx"))


def _width(projection: Any) -> int:
    return int(getattr(projection, "in_features", None) or projection.nx)


def _outputs(projection: Any) -> int:
    return int(getattr(projection, "out_features", None) or projection.nf)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))


def _final_norm(model: Any, calls: list[_Call], head: Any, layers: list[Any]) -> Any:
    into = next((c.given for c in calls if c.module is head), None)
    inside = {id(m) for layer in layers for m in layer.modules()}
    found = [
        c.module
        for c in calls
        if into is not None
        and id(c.module) not in inside
        and not list(c.module.children())
        and not _is_projection(c.module)
        and _same(c.returned, into)
    ]
    if not found:
        raise _missing(model, "the final norm: what the unembedding reads is not a norm's output")
    return found[-1]


def _readout(model: Any, final_norm: Any, head: Any) -> Readout:
    config = model.config.get_text_config()
    weight = head.weight if _is_plain(head) else effective_weight(head, model.dtype)
    norm = _read_norm(model, final_norm, int(weight.shape[1]))
    bias = getattr(head, "bias", None)
    scaling = getattr(config, "logits_scaling", None)
    return Readout(
        **vars(norm),
        unembedding=weight.detach(),
        bias=None if bias is None else bias.detach(),
        multiplier=float(getattr(config, "logit_scale", None) or (1 / scaling if scaling else 1.0)),
        softcap=getattr(config, "final_logit_softcapping", None),
    )


def _is_plain(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.nn.Parameter) and weight.is_floating_point() and weight.dim() == 2


def _read_norm(model: Any, module: Any, width: int) -> Norm:
    """Read a norm off what it makes of vectors whose mean and mean square are known.

    Some families store the gain less one, some store none: what is stored does not matter so.
    """
    weight = getattr(module, "weight", None)
    kind = weight.dtype if weight is not None else torch.float32
    work = working_dtype(model.dtype)
    device = next(model.parameters()).device
    signs = torch.ones(width, dtype=kind, device=device)
    signs[1::2] = -1

    def apply(vector: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = module(vector[None, None].to(kind))[0, 0].to(work)
        return found

    shift = apply(torch.zeros_like(signs))
    # Signs have mean 0 where the width is even, and mean square 1: centring does not change them.
    eps = _eps(module, apply, signs, shift)
    gain = (apply(signs) - shift) * signs.to(work) * (1 + eps) ** 0.5
    shifted = apply(signs * 2 + 4)
    centred = torch.allclose(shifted, apply(signs * 2), rtol=0.05, atol=1e-3 * float(gain.abs().max()))
    if width % 2 or not (torch.isfinite(gain).all() and torch.isfinite(shift).all()):
        raise _missing(model, f"a norm of an even width: '{type(module).__name__}' has {width}")
    return Norm(gain=gain, shift=shift if shift.any() else None, centred=centred, eps=eps)


def _eps(module: Any, apply: Callable[[torch.Tensor], torch.Tensor], signs: Any, shift: Any) -> float:
    """What a norm adds to the mean square: as it says, else from how much it shrinks small vectors."""
    for name in ("eps", "variance_epsilon", "norm_eps", "epsilon"):
        if isinstance(getattr(module, name, None), float):
            return float(getattr(module, name))
    small = 2.0**-9
    ratio = ((apply(signs) - shift) / (apply(signs * small) - shift)).abs().median().double().item()
    # With y(t) = gain t / sqrt(t^2 + eps): ratio^2 = (t^2 + eps) / (t^2 (1 + eps)), t = small.
    square = (ratio * small) ** 2
    return max(float((square - small**2) / (1 - square)), 0.0)


def _block(model: Any, layer: Any, prefix: str, calls: list[_Call]) -> Block:
    inside = [c for c in calls if c.name.startswith(prefix)]
    attentions = [m for m in layer.children() if hasattr(m, "layer_idx") or hasattr(m, "head_dim")]
    if len(attentions) != 1:
        raise _missing(
            model, f"one attention sublayer in each layer: '{type(layer).__name__}' has {len(attentions)}"
        )
    in_attention = {id(m) for m in attentions[0].modules()}
    projections = [c for c in inside if _is_projection(c.module) and not list(c.module.children())]
    attention = [c for c in projections if id(c.module) in in_attention]
    ffn = [c for c in projections if id(c.module) not in in_attention]
    hidden = int(model.config.get_text_config().hidden_size)
    for what, found in (("attention", attention), ("FFN", ffn)):
        if not found or _outputs(found[-1].module) != hidden:
            raise _missing(model, f"the output projection of the {what} ('{type(layer).__name__}')")
    if len(ffn) > 3:
        raise _missing(model, f"one FFN in each layer: '{type(layer).__name__}' runs {len(ffn)} projections")
    return Block(layer, *(_sublayer(model, found[-1], inside) for found in (attention, ffn)))


def _sublayer(model: Any, projection: _Call, inside: list[_Call]) -> Sublayer:
    """A sublayer by its last projection: a module that is given this one's output is the block's own norm."""
    after = inside[inside.index(projection) + 1 :]
    for call in after:
        changes = not list(call.module.children()) and not _same(call.returned, call.given)
        if changes and _same(call.given, projection.returned):
            norm = _read_norm(model, call.module, int(call.given.shape[-1]))
            return Sublayer(projection.module, norm, call.module)
    return Sublayer(projection.module)


def _heads(model: Any, config: Any, blocks: tuple[Block, ...]) -> tuple[int, int]:
    heads = int(config.num_attention_heads)
    widths = {_width(block.attention.output) for block in blocks}
    if len(widths) > 1 or next(iter(widths)) % heads:
        raise _missing(model, f"{heads} heads of one width: the output projections read {sorted(widths)}")
    return heads, widths.pop() // heads


def _check(model: Any, anatomy: Anatomy, calls: list[_Call], logits: torch.Tensor) -> None:
    """Refuse a model that does something else with these parts."""
    returned = {id(c.module): c.returned for c in calls}
    given_to = {id(c.module): c.given for c in calls}
    inputs = [given_to[id(b.module)] for b in anatomy.blocks] + [given_to[id(anatomy.final_norm)]]
    tolerance = 1e-4 if model.dtype in (torch.float32, torch.float64) else 2e-2
    for number, block in enumerate(anatomy.blocks):
        added = sum(returned[id(s.adds)].float() for s in (block.attention, block.ffn))
        left = inputs[number + 1].float() - inputs[number].float() - added
        if left.abs().max() > tolerance * max(1.0, float(inputs[number + 1].abs().max())):
            raise _missing(
                model,
                f"what layer {number} adds to the residual stream beside attention and FFN, or scales them by",
            )
    read = anatomy.readout.logits(inputs[-1])
    if (read - logits.to(read.dtype)).abs().max() > tolerance * max(1.0, float(logits.abs().max())):
        raise _missing(
            model, "how its logits come from the last residual: norm and unembedding do not give them"
        )

"""Watching a model from outside: hooks for a while, and a short probe that tells who calls whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

__all__ = ["Call", "Hook", "Probe", "given", "hooked", "returned", "run_probe"]

TOKENS = (1, 2, 3, 4)
"""Tokens of the probe; every vocabulary has these, and what they mean does not matter."""
Hook: TypeAlias = "tuple[Any, Callable[..., Any], bool]"
"""A module, what is called, and whether before the module rather than after it.

Before, it is given (module, args, kwargs) and may return other arguments; after, (module, args, kwargs,
output), and may return another output.
"""


@contextmanager
def hooked(hooks: Sequence[Hook]) -> Iterator[None]:
    """Attach hooks for a while."""
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


def returned(output: Any) -> Any:
    """Return the hidden states among what a module returned."""
    return output[0] if isinstance(output, tuple) else output


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module in the probe; the same only as itself, since tensors have no one equality.

    Attributes:
        name: the module's.
        module: which was called.
        given: what went in, null where that is not of the residual stream's width.
        returned: what came out, likewise.
    """

    name: str
    module: Any
    given: torch.Tensor | None
    returned: torch.Tensor | None


@dataclass(frozen=True)
class Probe:
    """What was seen when a few tokens were run through a model.

    Attributes:
        calls: of all modules, in the order in which they ended.
        logits: [1, tokens, vocabulary].
        values: what each layer put into the cache as values, [key/value heads, tokens, width]; null for a
            layer that puts nothing there.
    """

    calls: list[Call]
    logits: torch.Tensor
    values: list[torch.Tensor | None]


def run_probe(model: Any, hidden: int) -> Probe:
    """Run a few tokens through a model and note who calls whom.

    Args:
        model: a transformers causal language model.
        hidden: width of its residual stream.
    """
    calls: list[Call] = []

    def kept(states: Any) -> torch.Tensor | None:
        # Copied: Falcon adds in place. Wider ones (neurons, logits) would only take memory.
        wanted = isinstance(states, torch.Tensor) and states.dim() and states.shape[-1] == hidden
        return states.detach().to("cpu", copy=True) if wanted else None

    def record(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            calls.append(Call(name, module, kept(given(args, kwargs)), kept(returned(output))))

        return hook

    ids = torch.tensor([TOKENS], device=next(model.parameters()).device)
    with torch.no_grad(), hooked([(m, record(n), False) for n, m in model.named_modules() if n]):
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
    values = [
        getattr(layer, "values", None)
        for layer in getattr(getattr(out, "past_key_values", None), "layers", ())
    ]
    return Probe(calls, out.logits.cpu(), [None if v is None else v[0].cpu() for v in values])

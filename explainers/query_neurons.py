"""Which earlier neurons feed the attention heads that a fact's log-probability comes from.

Yu & Ananiadou 2024 (arXiv 2312.12141) call query neurons those that activate value neurons, and rank them by
inner products with the value neurons' keys. Here is this project's reading of it, in nats like all other scores:
the path from a neuron, at any position of the prompt, through the value and output matrices of a head to log p(w),
with attention weights and norms as they were. Linear in what the neuron adds, for heads j of layers l_j:

```
score(l, k) = sum over j with l_j > l, and over positions p, of
              alpha_jp (g_j . O_j V_j v_k) m_kp / (s_jp t_j)      g_j = gradient of log p(w | r) at r before j's layer
```

m_kp v_k is what the neuron adds at position p, alpha_jp what the last token attends to, s_jp what the norm before
the values divides by, t_j what the block's own norm of the attention's output does (1 where there is none), and V_j
and O_j are the head's value and output matrices, gains and centring folded in.
What a neuron does to queries, keys and later neurons is left out: see docs/attribution.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from explainers.added_directions import AddedDirections
from explainers.attribution import Attribution, Best

if TYPE_CHECKING:
    from quantxai.internals import Internals, Trace
    from quantxai.paths import Paths

__all__ = ["query_neurons"]


def query_neurons(
    internals: Internals,
    prompts: Sequence[str],
    traces: Sequence[Trace],
    targets: Sequence[int],
    attributions: Sequence[Attribution],
    *,
    heads: int = 10,
    kept: int = 300,
    memory: int = 2**30,
) -> list[Attribution]:
    """Return attributions with their query neurons filled in.

    Args:
        internals: the model.
        prompts: of each fact.
        traces: what the model held at each prompt's last token.
        targets: w, the token that is explained, of each.
        attributions: what `attribute` found for them.
        heads: how many of the heads with the highest scores are followed back; only those that raise log p(w).
        kept: how many of the best neurons are returned.
        memory: most bytes of working tensors, beside the model and one layer's output matrix. At least one
            prompt's activations are held.

    Raises:
        ModelError: the attention weights, or where the values come from, cannot be told.
    """
    found: list[Attribution] = []
    with torch.no_grad():
        adding = AddedDirections(internals.readout, memory // 2)
        for batch in _batches(internals, prompts, memory // 2):
            some = slice(len(found), len(found) + len(batch))
            facts = zip(batch, traces[some], targets[some], attributions[some], strict=True)
            ends = [_ends(internals, adding, internals.paths(p), t, w, a, heads) for p, t, w, a in facts]
            best = [Best(kept) for _ in ends]
            for layer in range(internals.layers):
                reached = [(e, b) for e, b in zip(ends, best, strict=True) if bool((e.layers > layer).any())]
                if not reached:
                    continue
                matrix = internals.ffn_output(layer).to(internals.readout.dtype)
                for end, of_fact in reached:
                    of_fact.add(_scores(end, layer, matrix)[None], layer * internals.ffn_width)
            width = internals.ffn_width
            found += [_filled(a, b, width) for a, b in zip(attributions[some], best, strict=True)]
    return found


@dataclass(frozen=True)
class _Ends:
    """The heads that are followed back from one fact.

    Attributes:
        paths: what the prompt's forward pass held.
        layers: of the heads, [heads].
        directions: g O V of each, [heads, hidden], nats per unit of a residual over its norm's scale.
        weights: attention weights over those scales, [heads, tokens].
    """

    paths: Paths
    layers: torch.Tensor
    directions: torch.Tensor
    weights: torch.Tensor


def _batches(internals: Internals, prompts: Sequence[str], memory: int) -> Iterator[list[str]]:
    """Group prompts whose activations fit together."""
    numbers = internals.layers * (internals.ffn_width + internals.hidden + internals.heads + 2)
    batch: list[str] = []
    held = 0
    for prompt in prompts:
        size = len(internals.tokens(prompt)) * numbers * int(internals.readout.dtype.itemsize)
        if batch and held + size > memory:
            yield batch
            batch, held = [], 0
        batch.append(prompt)
        held += size
    if batch:
        yield batch


def _ends(
    internals: Internals,
    adding: AddedDirections,
    paths: Paths,
    trace: Trace,
    target: int,
    attribution: Attribution,
    number: int,
) -> _Ends:
    """Follow the best heads of one fact back to the residuals they read."""
    readout, width = internals.readout, internals.head_width
    best = attribution.heads.flatten().topk(min(number, attribution.heads.numel()))
    places = best.indices[best.values > 0]
    layers, heads = (places // internals.heads).tolist(), (places % internals.heads).tolist()
    weights = paths.attention_weights[layers, heads] / paths.input_scale[layers]
    directions = weights.new_zeros(len(layers), internals.hidden)
    if layers:
        scales = readout.scale(trace.residuals[-1]).expand(len(layers))
        tokens = torch.full((len(layers),), target, device=scales.device)
        residuals = trace.residuals[layers].to(readout.dtype)
        gradients = adding.facts(residuals, scales, tokens).gradients / trace.attention_scale[layers, None]
    for layer in sorted(set(layers)):
        output = internals.attention_output(layer).to(readout.dtype)
        values = internals.value_matrix(layer).to(readout.dtype)
        for i in [i for i, of in enumerate(layers) if of == layer]:
            own = slice(heads[i] * width, (heads[i] + 1) * width)
            directions[i] = gradients[i] @ output[:, own] @ values[own]
    return _Ends(paths, torch.tensor(layers, device=weights.device), directions, weights)


def _scores(ends: _Ends, layer: int, matrix: torch.Tensor) -> torch.Tensor:
    """Return the scores of all neurons of a layer, [neurons], nats."""
    later = ends.layers > layer
    added = ends.paths.neurons[layer] / ends.paths.ffn_scale[layer][:, None]
    return ((ends.directions[later] @ matrix) * (ends.weights[later] @ added)).sum(0)


def _filled(attribution: Attribution, best: Best, width: int) -> Attribution:
    if best.values is None:  # no head raises the fact's log-probability, or only ones of the first layer
        return attribution
    scores, places = (t[0].cpu() for t in best.found())
    return replace(
        attribution, query_layers=places // width, query_neurons=places % width, query_scores=scores
    )

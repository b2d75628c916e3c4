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
            ends = [_start(internals, adding, internals.paths(p), t, w, a, heads) for p, t, w, a in facts]
            ends = _through_heads(internals, ends)
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
        heads: their places in the layer.
        directions: [heads, hidden]. At the start g / t of each, nats per unit of a residual; through the heads
            g O V / t, nats per unit of a residual over its norm's scale.
        weights: attention weights over those scales, [heads, tokens].
    """

    paths: Paths
    layers: torch.Tensor
    heads: list[int]
    directions: torch.Tensor
    weights: torch.Tensor


def _batches(internals: Internals, prompts: Sequence[str], memory: int) -> Iterator[list[str]]:
    """Group prompts whose activations fit together.

    While a prompt runs, its own are there twice: as they were noted, and stacked.
    """
    batch: list[str] = []
    held = largest = 0
    for prompt in prompts:
        size = _size(internals, len(internals.tokens(prompt)))
        if batch and held + size + max(largest, size) > memory:
            yield batch
            batch, held, largest = [], 0, 0
        batch.append(prompt)
        held, largest = held + size, max(largest, size)
    if batch:
        yield batch


def _size(internals: Internals, tokens: int) -> int:
    """Bytes of a prompt's `Paths`."""
    by_layer = internals.ffn_width + internals.hidden + internals.heads + 2
    numbers = internals.layers * by_layer + internals.hidden
    return tokens * numbers * int(internals.readout.dtype.itemsize)


def _start(
    internals: Internals,
    adding: AddedDirections,
    paths: Paths,
    trace: Trace,
    target: int,
    attribution: Attribution,
    number: int,
) -> _Ends:
    """Return the best heads of one fact, and how log p(w) depends on what they write."""
    readout = internals.readout
    best = attribution.heads.flatten().topk(min(number, attribution.heads.numel()))
    places = best.indices[best.values > 0]
    layers, heads = (places // internals.heads).tolist(), (places % internals.heads).tolist()
    weights = paths.attention_weights[layers, heads] / paths.input_scale[layers]
    directions = weights.new_zeros(len(layers), internals.hidden)
    if layers:
        scales = readout.scale(trace.residuals[-1]).expand(len(layers))
        tokens = torch.full((len(layers),), target, device=scales.device)
        residuals = trace.residuals[layers].to(readout.dtype)
        directions = adding.facts(residuals, scales, tokens).gradients / trace.attention_scale[layers, None]
    return _Ends(paths, torch.tensor(layers, device=weights.device), heads, directions, weights)


def _through_heads(internals: Internals, starts: Sequence[_Ends]) -> list[_Ends]:
    """Follow the heads of several facts back to the residuals they read; a layer's matrices are made once."""
    width, dtype = internals.head_width, internals.readout.dtype
    of_layers = [start.layers.tolist() for start in starts]
    found = [torch.zeros_like(start.directions) for start in starts]
    for layer in sorted(set().union(*of_layers)):
        output, values = internals.attention_output(layer).to(dtype), internals.value_matrix(layer).to(dtype)
        for start, layers, directions in zip(starts, of_layers, found, strict=True):
            for i in [i for i, of in enumerate(layers) if of == layer]:
                own = slice(start.heads[i] * width, (start.heads[i] + 1) * width)
                directions[i] = start.directions[i] @ output[:, own] @ values[own]
    return [replace(start, directions=d) for start, d in zip(starts, found, strict=True)]


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

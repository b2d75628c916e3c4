"""Attribution, slowly: one fact, one changed residual after the other, float64, nothing shared between them."""

from __future__ import annotations

from typing import Any

import torch


def scale(readout: Any, residual: Any) -> Any:
    """What the final norm divides by."""
    h = residual.double()
    h = h - h.mean() if readout.centred else h
    return torch.sqrt((h * h).mean() + readout.eps)


def log_prob(readout: Any, residual: Any, s: Any, token: int) -> Any:
    """log p(token | residual): norm, unembedding, cap and softmax as a model does them, its scale held at s."""
    h = residual.double()
    h = (h - h.mean() if readout.centred else h) / s * readout.gain.double()
    h = h if readout.shift is None else h + readout.shift.double()
    logits = readout.unembedding.double() @ h
    logits = logits if readout.bias is None else logits + readout.bias.double()
    logits = logits * readout.multiplier
    if readout.softcap is not None:
        logits = readout.softcap * torch.tanh(logits / readout.softcap)
    return torch.log_softmax(logits, 0)[token]


def change(readout: Any, trace: Any, residual: Any, added: Any, token: int) -> float:
    """What adding a vector to a residual does to log p(token)."""
    s = scale(readout, trace.residuals[-1])
    before = log_prob(readout, residual, s, token)
    return float(log_prob(readout, residual.double() + added.double(), s, token) - before)


def neuron_scores(internals: Any, trace: Any, token: int) -> dict[tuple[int, int], float]:
    """The score of every value neuron, nats."""
    found = {}
    for layer in range(internals.layers):
        matrix = internals.ffn_output(layer).double()
        before_ffn = trace.residuals[layer].double() + trace.attention[layer].double()
        for neuron in range(matrix.shape[1]):
            m = trace.neurons[layer, neuron].double() / trace.ffn_scale[layer].double()
            found[layer, neuron] = change(internals.readout, trace, before_ffn, m * matrix[:, neuron], token)
    return found


def sublayer_scores(internals: Any, trace: Any, token: int) -> dict[str, list[Any]]:
    """The scores of FFNs, attentions, and their heads (a list for each layer), nats."""
    found: dict[str, list[Any]] = {"ffn": [], "attention": [], "heads": []}
    width = internals.head_width
    for layer in range(internals.layers):
        before_attention, attention = trace.residuals[layer].double(), trace.attention[layer].double()
        before_ffn = before_attention + attention
        found["ffn"].append(change(internals.readout, trace, before_ffn, trace.ffn[layer], token))
        found["attention"].append(change(internals.readout, trace, before_attention, attention, token))
        matrix, inputs = internals.attention_output(layer).double(), trace.heads[layer].double()
        heads = []
        for head in range(internals.heads):
            own = slice(head * width, (head + 1) * width)
            added = matrix[:, own] @ inputs[own] / trace.attention_scale[layer].double()
            heads.append(change(internals.readout, trace, before_attention, added, token))
        found["heads"].append(heads)
    return found


def query_scores(
    internals: Any, paths: Any, trace: Any, token: int, heads: int
) -> dict[tuple[int, int], float]:
    """The score of every query neuron, nats: a vector at a position, through a head, along log p's slope."""
    of_heads = sublayer_scores(internals, trace, token)["heads"]
    places = [(layer, head) for layer in range(internals.layers) for head in range(internals.heads)]
    best = sorted(places, key=lambda place: -of_heads[place[0]][place[1]])[:heads]
    found: dict[tuple[int, int], float] = {}
    width = internals.head_width
    for layer, head in best:
        if of_heads[layer][head] <= 0:
            continue
        own = slice(head * width, (head + 1) * width)
        residual = trace.residuals[layer].double().clone().requires_grad_()
        with torch.enable_grad():
            s = scale(internals.readout, trace.residuals[-1])
            log_prob(internals.readout, residual, s, token).backward()
        through = (
            internals.attention_output(layer).double()[:, own] @ internals.value_matrix(layer).double()[own]
        )
        for earlier in range(layer):
            matrix = internals.ffn_output(earlier).double()
            for neuron in range(matrix.shape[1]):
                for position in range(len(paths.tokens)):
                    m = paths.neurons[earlier, position, neuron] / paths.ffn_scale[earlier, position]
                    weight = (
                        paths.attention_weights[layer, head, position] / paths.input_scale[layer, position]
                    )
                    moved = weight * (through @ (m * matrix[:, neuron])) / trace.attention_scale[layer]
                    effect = float(residual.grad @ moved)
                    found[earlier, neuron] = found.get((earlier, neuron), 0.0) + effect
    return found

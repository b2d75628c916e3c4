"""Which neurons, heads and layers a fact's log-probability comes from.

Yu & Ananiadou 2024 (arXiv 2312.12141). With v_k the k-th column of layer l's FFN output matrix, m_k its
activation at the prompt's last token, and r_l the residual stream there before the FFN's contribution,

```
score(l, k) = log p(w | r_l + m_k v_k) - log p(w | r_l)        p(. | h) = softmax(cap(A h / s + c))
```

where w is the fact's first token, and s, what the final norm divides by, is held at its value of the full
forward pass. An FFN's own score has its whole output in place of m_k v_k; so has an attention sublayer's, and
each of its heads', where r_l is the residual stream before the attention. See docs/attribution.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from explainers.added_directions import AddedDirections, Facts

if TYPE_CHECKING:
    from quantxai.internals import Internals, Trace

__all__ = ["Attribution", "Best", "attribute"]

Mode: TypeAlias = 'Literal["exact", "fast"]'

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
"""How far a score from moments may be off, nats, before rounding; beyond it is made directly."""
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-13}
"""How far rounding may put a score or a bound off, for each nat of the largest number it is made of."""
LEAST_SIZE = 10.0
"""That number is taken to be no smaller than this, nats."""


@dataclass(frozen=True)
class Attribution:
    """What one fact's log-probability comes from; all scores in nats, all tensors on the CPU.

    Attributes:
        logprob: log p(w) of the full forward pass, nats.
        layers: of the best value neurons, the best first.
        neurons: their places in the layer.
        scores: their exact scores, descending.
        certain: how many of the first are proven to be the best of all neurons, beyond rounding.
        ffn: scores of the FFNs, [layers].
        attention: scores of the attention sublayers, [layers].
        heads: scores of their heads, [layers, heads].
        query_layers: of the best query neurons.
        query_neurons: their places in the layer.
        query_scores: their scores, descending.
        mode: what was done: "exact" scored every neuron, also where "fast" was asked for and logits are capped.
    """

    logprob: float
    layers: torch.Tensor
    neurons: torch.Tensor
    scores: torch.Tensor
    certain: int
    ffn: torch.Tensor
    attention: torch.Tensor
    heads: torch.Tensor
    query_layers: torch.Tensor
    query_neurons: torch.Tensor
    query_scores: torch.Tensor
    mode: Mode = "exact"


def attribute(
    internals: Internals,
    traces: Sequence[Trace],
    targets: Sequence[int],
    *,
    mode: Mode = "fast",
    survivors: int = 600,
    kept: int = 600,
    memory: int = 2**30,
) -> list[Attribution]:
    """Attribute facts to value neurons, heads and layers.

    Args:
        internals: the model.
        traces: what it held at each prompt's last token.
        targets: w, the token that is explained, of each.
        mode: "exact" scores every neuron; "fast" those with the largest first-order scores. Where the readout has
            a soft cap, these bound nothing and miss much, so that "fast" scores every neuron as well.
        survivors: how many these are for each fact, over all layers.
        kept: how many of the best neurons are returned.
        memory: most bytes of working tensors, beside the model, the traces, one layer's output matrix and
            what is returned.
    """
    if mode == "fast" and kept > survivors:
        raise ValueError(f"kept = {kept} of survivors = {survivors} neurons: raise survivors, or lower kept")
    if not traces:
        return []
    screens = mode == "fast" and internals.readout.softcap is None
    found: list[Attribution] = []
    with torch.no_grad():
        adding = AddedDirections(internals.readout, memory // 2)
        size = _facts_at_once(internals, adding, memory // 2)
        for start in range(0, len(traces), size):
            some = slice(start, start + size)
            batch = _Batch(internals, adding, traces[some], targets[some])
            screened = batch.screened(survivors) if screens else None
            found += batch.results(kept, screened, survivors)
    return found


def _facts_at_once(internals: Internals, adding: AddedDirections, memory: int) -> int:
    """How many facts' working tensors fit: a layer's of all neurons, residuals of all, and a block of logits.

    Residuals are there nine times for each layer while `Facts` are joined from their parts; later five times,
    and three times for each head of a layer: what it adds, the residual with that, and these stacked.
    """
    copies = max(9 * internals.layers, 5 * internals.layers + 3 * internals.heads)
    numbers = 12 * internals.ffn_width + copies * internals.hidden + 2 * adding.tokens
    return max(1, memory // (adding.item * numbers))


class Best:
    """The largest values over all layers, fact by fact.

    Args:
        number: how many are kept.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.values: torch.Tensor | None = None
        self.places: torch.Tensor | None = None

    def add(self, values: torch.Tensor, start: int) -> None:
        """Take values [facts, n] in, whose places count from `start`."""
        places = torch.arange(start, start + values.shape[1], device=values.device).expand_as(values)
        if self.values is not None and self.places is not None:
            values, places = torch.cat([self.values, values], 1), torch.cat([self.places, places], 1)
        self.values, order = values.topk(min(self.number, values.shape[1]), 1)
        self.places = places.gather(1, order)

    def found(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the values, descending, and their places, [facts, number]."""
        assert self.values is not None
        assert self.places is not None
        return self.values, self.places


class _Batch:
    """Facts that are worked on together.

    Args:
        internals: the model.
        adding: reads changed residuals out.
        traces: of each fact.
        targets: token of each fact.
    """

    def __init__(
        self, internals: Internals, adding: AddedDirections, traces: Sequence[Trace], targets: Sequence[int]
    ) -> None:
        self.internals, self.adding, self.traces = internals, adding, traces
        residuals = torch.stack([t.residuals for t in traces]).to(internals.readout.dtype)
        self.tokens = torch.tensor(targets, device=residuals.device)
        self.scales = internals.readout.scale(residuals[:, -1])
        self.logprobs = adding.log_probs(residuals[:, -1], self.scales, self.tokens)
        self.residuals = residuals[:, :-1].transpose(0, 1)  # [layers, facts, hidden]
        self.attention = self._of_all("attention")
        self.facts = adding.facts(*self._repeated(self.residuals + self.attention))

    def _of_all(self, name: str, layer: int | None = None) -> torch.Tensor:
        """Return something traced, [layers, facts, ...], or of one layer [facts, ...]."""
        parts = [getattr(t, name) if layer is None else getattr(t, name)[layer] for t in self.traces]
        return torch.stack(parts, int(layer is None)).to(self.internals.readout.dtype)

    def _repeated(self, residuals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Flatten residuals [..., facts, hidden], and repeat the facts' scales and tokens."""
        times = residuals.shape[:-2].numel()
        return residuals.flatten(0, -2), self.scales.repeat(times), self.tokens.repeat(times)

    def _layers(self) -> Iterator[tuple[int, Facts, torch.Tensor, torch.Tensor]]:
        """Yield of each layer: its number, residuals, output matrix, and factors m_k [facts, neurons]."""
        number = len(self.traces)
        for layer in range(self.internals.layers):
            facts = self.facts.some(slice(layer * number, (layer + 1) * number))
            matrix = self.internals.ffn_output(layer).to(self.internals.readout.dtype)
            factors = self._of_all("neurons", layer) / self._of_all("ffn_scale", layer)[:, None]
            yield layer, facts, matrix, factors

    def screened(self, survivors: int) -> Best:
        """Return the neurons with the largest first-order scores, and the first one after them."""
        best = Best(survivors + 1)
        for layer, facts, matrix, factors in self._layers():
            best.add(self.adding.first_order(facts, matrix, factors), layer * factors.shape[1])
        return best

    def results(self, kept: int, screened: Best | None, survivors: int) -> list[Attribution]:
        """Score neurons exactly and return the best, beside sublayers and heads.

        Args:
            kept: how many neurons.
            screened: which are scored, and the first-order score of the first that is not; all where left out.
            survivors: how many of those screened are scored.
        """
        best = Best(kept)
        for layer, facts, matrix, factors in self._layers():
            start = layer * factors.shape[1]
            if screened is None:
                best.add(self._every(facts, matrix, factors), start)
                continue
            places = screened.found()[1][:, :survivors] - start
            chosen = torch.zeros_like(factors, dtype=torch.bool)
            facts_of, columns = ((places >= 0) & (places < factors.shape[1])).nonzero(as_tuple=True)
            chosen[facts_of, places[facts_of, columns]] = True
            scores = self.adding.directly(facts, matrix, factors, chosen)
            best.add(scores.where(chosen, -torch.inf), start)
        mode: Mode = "exact" if screened is None else "fast"
        return self._put_together(*best.found(), self._certain(best, screened, survivors), mode)

    def _every(self, facts: Facts, matrix: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Return the scores of all neurons of a layer, [facts, neurons]."""
        if self.internals.readout.softcap is not None or not self.adding.cpu:
            return self.adding.directly(facts, matrix, factors, torch.ones_like(factors, dtype=torch.bool))
        scores, errors = self.adding.by_moments(facts, matrix, factors)
        doubtful = ~(errors <= TOLERANCE[scores.dtype])
        return self.adding.directly(facts, matrix, factors, doubtful).where(doubtful, scores)

    def _certain(self, best: Best, screened: Best | None, survivors: int) -> list[int]:
        """How many of the best are the best of all: no neuron's score is above its first-order score.

        Both are rounded, so that a score counts only where it is above by more than that.
        """
        scores = best.found()[0]
        if screened is None or screened.found()[0].shape[1] <= survivors:
            return [scores.shape[1]] * len(scores)
        sizes = torch.maximum(self.facts.logits.abs(), self.facts.log_totals.abs()).view(-1, len(scores))
        slack = ROUNDING[scores.dtype] * sizes.amax(0).clamp(min=LEAST_SIZE)
        return list((scores - slack[:, None] >= screened.found()[0][:, survivors, None]).sum(1).tolist())

    def _sublayers(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return scores of FFNs and attentions, [facts, layers], and of heads, [facts, layers, heads]."""
        readout, before = self.internals.readout, self.facts
        at_ffn = (readout.cap(before.logits) - before.log_totals).view(len(self.residuals), -1)
        found = []
        for layer, residuals in enumerate(self.residuals):
            after = residuals + self.attention[layer] + self._of_all("ffn", layer)
            points = torch.stack([residuals, after, *(residuals + h for h in self._heads(layer))])
            at = self.adding.log_probs(*self._repeated(points)).view(len(points), -1)
            ffn, attention = at[1] - at_ffn[layer], at_ffn[layer] - at[0]
            found.append(torch.stack([ffn, attention, *(at[2:] - at[0])], 1))
        scores = torch.stack(found, 1)
        return scores[..., 0], scores[..., 1], scores[..., 2:]

    def _heads(self, layer: int) -> torch.Tensor:
        """Return what each head of a layer adds to the residual stream, [heads, facts, hidden]."""
        heads = self.internals.heads
        matrix = (
            self.internals.attention_output(layer).to(self.internals.readout.dtype).unflatten(1, (heads, -1))
        )
        inputs = self._of_all("heads", layer) / self._of_all("attention_scale", layer)[:, None]
        return torch.einsum("dhw,fhw->hfd", matrix, inputs.unflatten(1, (heads, -1)))

    def _put_together(
        self, scores: torch.Tensor, places: torch.Tensor, certain: list[int], mode: Mode
    ) -> list[Attribution]:
        ffn, attention, heads = (t.cpu() for t in self._sublayers())
        width = self.internals.ffn_width
        layers, neurons, scores = (t.cpu() for t in (places // width, places % width, scores))
        return [
            Attribution(
                logprob=logprob,
                layers=layers[i],
                neurons=neurons[i],
                scores=scores[i],
                certain=certain[i],
                ffn=ffn[i],
                attention=attention[i],
                heads=heads[i],
                query_layers=layers[i, :0],
                query_neurons=neurons[i, :0],
                query_scores=scores[i, :0],
                mode=mode,
            )
            for i, logprob in enumerate(self.logprobs.tolist())
        ]

"""Inside a forward pass: residual streams, what sublayers add, activations, and patched passes.

The other half of the seam to a model, for engines that run one (`LanguageModel.internals`). What is
observed is gathered by hooks at one position of each prompt, so batches cost little more than plain ones.
Weights are read through the modules, layer by layer, so packed ones never matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

from quantxai.anatomy import Anatomy, Sublayer
from quantxai.errors import InputError
from quantxai.hooks import Hook, hooked
from quantxai.paths import Paths, eager, path_hooks
from quantxai.projections import output_matrix
from quantxai.readout import Readout
from quantxai.traces import Seen, Trace, ablation_hooks, patch_hooks, trace_hooks
from quantxai.values import Values, find_values

if TYPE_CHECKING:
    from quantxai.engine import TransformersModel
    from quantxai.prefixes import Row

__all__ = ["Internals", "Paths", "Trace"]


class Internals:
    """A model's inside, behind its engine.

    Args:
        engine: it forms the batches.
        anatomy: the model's parts.
    """

    def __init__(self, engine: TransformersModel, anatomy: Anatomy) -> None:
        self._engine = engine
        self.anatomy = anatomy
        self.tokenizer = engine.tokenizer
        self.layers = len(anatomy.blocks)
        self.hidden = anatomy.readout.hidden
        self.ffn_width = anatomy.ffn_width
        self.heads = anatomy.heads
        self.head_width = anatomy.head_width
        self._values: tuple[Values, ...] | None = None

    @property
    def readout(self) -> Readout:
        """Final norm and unembedding."""
        return self.anatomy.readout

    def tokens(self, prompt: str) -> list[int]:
        """Return a prompt's token ids, with what the tokenizer puts in front."""
        return self._engine.encode(prompt)

    def position_of(self, prompt: str, end: int) -> int:
        """Return the place of the token that holds a prompt's character `end` - 1 (of several, the last).

        Raises:
            InputError: no token holds it, or the tokenizer does not tell where its tokens stand.
        """
        if not getattr(self.tokenizer, "is_fast", False):
            raise InputError("this model's tokenizer does not tell where in a text its tokens stand")
        spans = self.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        found = [i for i, (start, stop) in enumerate(spans) if start < end <= stop]
        if not 0 < end <= len(prompt) or not found:
            raise InputError(f"no token of the prompt holds its character {end - 1}")
        # A beginning-of-text token that the prompt brings itself is there once: count from the end.
        return found[-1] - len(spans) + len(self.tokens(prompt))

    def trace(self, prompts: Sequence[str], positions: Sequence[int] | None = None) -> list[Trace]:
        """Run prompts and return what was observed at one position of each, in order.

        Args:
            prompts: what is run.
            positions: which token of each prompt; the last one where left out.

        Raises:
            InputError: a prompt is empty or too long, or a position is none of its tokens.
        """
        tokens, places = self._placed(prompts, positions)
        found: dict[int, Trace] = {}
        seen: Seen = {}

        def watch(batch: list[Row]) -> AbstractContextManager[None]:
            seen.clear()
            return hooked(trace_hooks(self.anatomy, seen, self._from_end(batch, tokens, places)))

        def use(batch: list[Row], logits: torch.Tensor) -> None:
            stacked = {k: torch.stack([v[i] for i in sorted(v)], 1) for k, v in seen.items()}
            for row, r in enumerate(batch):
                parts = {k: v[row] for k, v in stacked.items()}
                found[r.index] = self._trace(tuple(tokens[r.index]), places[r.index], parts)

        self._engine.watched(tokens, [len(t) - p for t, p in zip(tokens, places, strict=True)], watch, use)
        return [found[i] for i in range(len(prompts))]

    def next_tokens(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return the log-probabilities of every next token, [prompts, vocabulary], nats."""
        nothing = torch.zeros((len(prompts), self.hidden), dtype=self.readout.dtype)
        return self.patched(prompts, [0] * len(prompts), None, nothing)

    def patched(
        self,
        prompts: Sequence[str],
        layers: Sequence[int],
        positions: Sequence[int] | None,
        vectors: torch.Tensor,
    ) -> torch.Tensor:
        """Return next-token log-probabilities [prompts, vocabulary], nats, after patching the residual stream.

        Args:
            prompts: what is run.
            layers: for each prompt the layer whose input is patched; `self.layers` is the final norm's.
            positions: which of its tokens; the last one where left out.
            vectors: what is added there, [prompts, hidden].

        Raises:
            InputError: a prompt is empty or too long, or a position or a layer does not exist.
        """
        if any(not 0 <= layer <= self.layers for layer in layers):
            raise InputError(f"layers to patch go from 0 to {self.layers} (the final norm's input)")
        places = self._placed(prompts, positions)
        vectors = vectors.to(self._engine.device)

        def hooks(at: list[int], ends: torch.Tensor) -> list[Hook]:
            return patch_hooks(self.anatomy, [layers[i] for i in at], ends, vectors[at])

        return self._disturbed(*places, hooks)

    def ablated(self, prompts: Sequence[str], neurons: Sequence[Sequence[tuple[int, int]]]) -> torch.Tensor:
        """Return next-token log-probabilities [prompts, vocabulary], nats, with some FFN neurons ablated.

        Args:
            prompts: what is run.
            neurons: for each prompt (layer, place in the layer) of those whose activation is 0 at its last token.

        Raises:
            InputError: a prompt is empty or too long, or a neuron does not exist.
        """
        for layer, place in (pair for chosen in neurons for pair in chosen):
            if not (0 <= layer < self.layers and 0 <= place < self.ffn_width):
                raise InputError(
                    f"neuron {place} of layer {layer}: there are {self.layers} layers of {self.ffn_width} neurons"
                )

        def hooks(at: list[int], ends: torch.Tensor) -> list[Hook]:
            return ablation_hooks(self.anatomy, [neurons[i] for i in at], ends)

        return self._disturbed(*self._placed(prompts, None), hooks)

    def ffn_output(self, layer: int) -> torch.Tensor:
        """Return the FFN's output matrix [hidden, ffn width]: neuron k writes m_k / ffn_scale times column k.

        The gain of the block's own norm, where it has one, is folded in.
        """
        return _folded(self.anatomy.blocks[layer].ffn, self.readout.unembedding.dtype)

    def attention_output(self, layer: int) -> torch.Tensor:
        """Return the attention's output matrix [hidden, heads * head width], likewise."""
        return _folded(self.anatomy.blocks[layer].attention, self.readout.unembedding.dtype)

    def paths(self, prompt: str) -> Paths:
        """Run a prompt and return what was observed at all its positions, and what its last token attends to.

        Raises:
            InputError: the prompt is empty or too long.
            ModelError: the attention weights, or where the values come from, cannot be told.
        """
        tokens = self.tokens(prompt)
        seen: Seen = {}
        values, model = self._value_sources(), self._engine.model

        def watch(batch: list[Row]) -> AbstractContextManager[None]:
            return hooked(path_hooks(model, self.anatomy, seen))

        with eager(model):
            self._engine.watched([tokens], [len(tokens)], watch, lambda batch, logits: None)
        parts = {k: torch.stack([v[i] for i in sorted(v)]) for k, v in seen.items()}
        scales = [v.scale(r) for v, r in zip(values, parts["residuals"][:-1], strict=True)]
        return Paths(tuple(tokens), input_scale=torch.stack(scales), **parts)

    def value_matrix(self, layer: int) -> torch.Tensor:
        """Return the matrix [heads * head width, hidden] from a residual over its input scale to its values.

        The gain and the centring of the norm before it are folded in; a value that query heads share is there
        for each of them.
        """
        return self._value_sources()[layer].matrix()

    def value_constant(self, layer: int) -> torch.Tensor:
        """Return what is added to every value whatever the residual: [heads * head width]."""
        return self._value_sources()[layer].constant()

    def _value_sources(self) -> tuple[Values, ...]:
        if self._values is None:
            self._values = find_values(self._engine.model, self.anatomy)
        return self._values

    # -- hooks -----------------------------------------------------------------------------------

    def _placed(
        self, prompts: Sequence[str], positions: Sequence[int] | None
    ) -> tuple[list[list[int]], list[int]]:
        tokens = [self.tokens(p) for p in prompts]
        places = [len(t) - 1 for t in tokens] if positions is None else list(positions)
        for t, place in zip(tokens, places, strict=True):
            if not 0 <= place < len(t):
                raise InputError(f"position {place} is none of a prompt's {len(t)} tokens")
        return tokens, places

    def _disturbed(
        self,
        tokens: list[list[int]],
        places: list[int],
        hooks: Callable[[list[int], torch.Tensor], list[Hook]],
    ) -> torch.Tensor:
        """Next-token log-probabilities [prompts, vocabulary] under hooks, made for some prompts and their places."""
        found: dict[int, torch.Tensor] = {}

        def watch(batch: list[Row]) -> AbstractContextManager[None]:
            return hooked(hooks([r.index for r in batch], self._from_end(batch, tokens, places)))

        def use(batch: list[Row], logits: torch.Tensor) -> None:
            values = logits.to(self.readout.dtype).log_softmax(-1)
            found.update((r.index, v) for r, v in zip(batch, values, strict=True))

        self._engine.watched(tokens, [len(t) - p for t, p in zip(tokens, places, strict=True)], watch, use)
        if not found:
            return torch.zeros((0, self.readout.vocabulary), dtype=self.readout.dtype)
        return torch.stack([found[i] for i in range(len(tokens))])

    def _from_end(self, batch: list[Row], tokens: list[list[int]], places: list[int]) -> torch.Tensor:
        """Each row's position, counted from the end: -1 is the last; batches are padded on the left."""
        return torch.tensor(
            [places[r.index] - len(tokens[r.index]) for r in batch], device=self._engine.device
        )

    def _scales(self, name: str, raw: torch.Tensor) -> torch.Tensor:
        """What the blocks' own norms divide by, [layers], for what they are given, [layers, hidden]."""
        norms = [getattr(block, name).norm for block in self.anatomy.blocks]
        ones = raw.new_ones(())
        return torch.stack([n.scale(r) if n else ones for n, r in zip(norms, raw, strict=True)])

    def _trace(self, tokens: tuple[int, ...], place: int, parts: dict[str, torch.Tensor]) -> Trace:
        scales = {
            f"{name}_scale": self._scales(name, parts.pop(f"{name}_raw")) for name in ("attention", "ffn")
        }
        return Trace(tokens, place, **parts, **scales)


def _folded(sublayer: Sublayer, dtype: torch.dtype) -> torch.Tensor:
    matrix = output_matrix(sublayer.output, dtype)
    return matrix if sublayer.norm is None else sublayer.norm.folded(matrix)

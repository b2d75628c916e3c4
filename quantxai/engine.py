"""The transformers engine: batched, left-padded, with every shared prompt prefix computed once.

Prompts of one call usually begin alike (instructions, demonstrations). They are sorted by their
tokens; a run of prompts that share at least `MIN_PREFIX` leading tokens is a group, its prefix is
run through the model once, and the cached keys and values are handed to every row of the group. A
batch may hold rows of several groups:

```
row:  [ padding | prefix, cached ] [ padding | rest of the prompt ] [ generated ... ]
```

Padding is masked and positions count real tokens only, so results do not depend on how prompts were
batched beyond floating-point tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from quantxai.caches import continued, growing_cache, layers_of
from quantxai.errors import InputError, ModelError
from quantxai.generation import Batch, Ending, Sampling
from quantxai.lm import Continuation, Generation
from quantxai.prefixes import LOGIT_BYTES, Prefixes, Row, States, fitting, in_batch_order, shared_prefixes
from quantxai.tokenized import TokenizedModel, end_ids

if TYPE_CHECKING:
    from quantxai.anatomy import Anatomy
    from quantxai.internals import Internals

__all__ = ["TransformersModel", "check_causal", "longest"]

Observe: TypeAlias = "Callable[[list[Row], torch.Tensor, Any, torch.Tensor], None]"
"""What is told of a group of prompts that was run: rows, last logits, cache and mask."""

REFILL = 0.5
"""Prompts join a running batch once there is room for this share of it.

Each joining copies the batch: one by one took a tenth longer on a CPU than never. In halves, edits of like
lengths are as fast as without joining, and sentences of 1 to 96 tokens 1.4 times as fast
(benchmarks/generation.py).
"""


class TransformersModel(TokenizedModel):
    """A transformers causal language model behind the LanguageModel interface.

    Args:
        model: the model, in evaluation mode.
        tokenizer: its tokenizer.
        batch_tokens: tokens (padding and tokens to come included) a batch may hold; on
            out-of-memory it halves and the batch is repeated.
        tick: called with the number of items finished, for progress.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_tokens: int = 8192,
        tick: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(tokenizer, longest(model.config))
        self.model = model
        self.batch_tokens = batch_tokens
        self.tick = tick
        self.device = next(model.parameters()).device
        self._full_attention = _full_attention(model.config)
        self._known = Prefixes()
        self._anatomy: Anatomy | None = None
        self._end_ids = end_ids(getattr(model.generation_config, "eos_token_id", None), tokenizer)

    def anew(self) -> TransformersModel:
        """Return an engine on the same model that remembers nothing of the calls before."""
        new = TransformersModel(self.model, self.tokenizer, batch_tokens=self.batch_tokens, tick=self.tick)
        new._anatomy = self._anatomy
        return new

    # -- the interface ---------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> list[Generation]:
        """See LanguageModel.generate.

        Raises:
            InputError: no token is to be generated, a prompt is empty or too long, the temperature is below
                0 or comes without a seed for each prompt.
        """
        sampling = Sampling(prompts, temperature, seeds)
        tokens = [self._encode(p) for p in prompts]
        self._check_lengths(tokens, max_new_tokens)
        results = self._generate(tokens, self._ending(max_new_tokens, stop), sampling)
        return [results[i] for i in range(len(prompts))]

    def generate_and_score(
        self,
        prompts: Sequence[str],
        continuations: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
    ) -> list[tuple[Generation, Continuation]]:
        """See LanguageModel.generate_and_score; every prompt is run once for both."""
        tokens = [self._encode(p) for p in prompts]
        scored = [self._encode_added(c) for c in continuations]
        if not all(scored):
            raise InputError("a continuation to score has no tokens; give it at least one character")
        self._check_lengths(tokens, max([max_new_tokens, *map(len, scored)]))
        continued: dict[int, Continuation] = {}

        def score(rows: list[Row], logits: torch.Tensor, cache: Any, mask: torch.Tensor) -> None:
            found = self._score_next(logits, cache, mask, [scored[r.index] for r in rows])
            continued.update((r.index, c) for r, c in zip(rows, found, strict=True))

        longest = max(map(len, scored), default=1)
        ending = self._ending(max_new_tokens, stop)
        generations = self._generate(tokens, ending, Sampling(), longest, score)
        return [(generations[i], continued[i]) for i in range(len(prompts))]

    def logprobs(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Continuation]:
        """See LanguageModel.logprobs."""
        pairs = [self._encode_pair(p, c) for p, c in zip(prompts, continuations, strict=True)]
        self._check_lengths([full for full, _ in pairs], 0)
        results: dict[int, Continuation] = {
            i: Continuation((), ()) for i, (_, scored) in enumerate(pairs) if scored == 0
        }
        wanted = [i for i in range(len(pairs)) if i not in results]
        # The token before the first scored one predicts it and so must be in the rest.
        rows = self._rows([pairs[i][0] for i in wanted], [pairs[i][1] + 1 for i in wanted])

        def run(batch: list[Row]) -> None:
            keep = max(pairs[wanted[r.index]][1] for r in batch) + 1
            logits, _, _ = self._forward(batch, keep)
            for row, row_logits in zip(batch, logits, strict=True):
                scored = pairs[wanted[row.index]][1]
                results[wanted[row.index]] = _continuation(row_logits[-scored - 1 : -1], row.rest[-scored:])

        self._run(rows, max((s for _, s in pairs), default=0) + 1, run)
        return [results[i] for i in range(len(pairs))]

    def choices(self, prompts: Sequence[str], choices: Sequence[str]) -> NDArray[np.float64]:
        """See LanguageModel.choices."""
        tokens = [self._encode(p) for p in prompts]
        self._check_lengths(tokens, 0)
        firsts = self._first_tokens(choices)
        out = np.full((len(prompts), len(choices)), np.nan)

        def run(batch: list[Row]) -> None:
            logits, _, _ = self._forward(batch, 1)
            picked = logits[:, -1].float().log_softmax(-1)[:, firsts].cpu().double().numpy()
            for row, values in zip(batch, picked, strict=True):
                out[row.index] = values

        self._run(self._rows(tokens, [1] * len(tokens)), 1, run)
        return out

    def internals(self) -> Internals:
        """See LanguageModel.internals."""
        from quantxai.anatomy import find_anatomy
        from quantxai.internals import Internals

        if self._anatomy is None:
            self._anatomy = find_anatomy(self.model)
        return Internals(self, self._anatomy)

    def encode(self, prompt: str) -> list[int]:
        """Return a prompt's token ids, with what the tokenizer puts in front."""
        return self._encode(prompt)

    def watched(
        self,
        tokens: Sequence[Sequence[int]],
        reserve: Sequence[int],
        watch: Callable[[list[Row]], AbstractContextManager[None]],
        use: Callable[[list[Row], torch.Tensor], None],
    ) -> None:
        """Run prompts in batches, inside a context that may hook the model.

        Args:
            tokens: of each prompt.
            reserve: how many last tokens of each prompt must be run inside the context; what comes before may
                be taken from a shared prefix.
            watch: gives the context of a batch.
            use: called with each batch and its last logits [rows, vocabulary], the context closed.
        """
        self._check_lengths(tokens, 0)

        def run(batch: list[Row]) -> None:
            logits, _, _ = self._forward(batch, 1, watch(batch))
            use(batch, logits[:, -1])

        self._run(self._rows(tokens, reserve), 1, run)

    # -- batches ---------------------------------------------------------------------------------

    def _rows(self, tokens: Sequence[Sequence[int]], reserve: Sequence[int]) -> list[Row]:
        if self._full_attention:
            rows = [self._known.fit(r, reserve[r.index]) for r in shared_prefixes(tokens, reserve)]
            return sorted(rows, key=in_batch_order)
        rows = [Row(i, (), tuple(t)) for i, t in enumerate(tokens)]
        return sorted(rows, key=lambda r: (r.length, r.index))

    def _run(self, rows: list[Row], logits: int, run: Callable[[list[Row]], None]) -> None:
        """Call `run` on batches within the budget, halving it whenever memory runs out."""
        with torch.inference_mode():
            while rows:
                batch = rows[: min(self._most(logits), fitting(rows, self.batch_tokens, 0))]
                fits = True
                try:
                    run(batch)
                except torch.OutOfMemoryError:
                    if len(batch) == 1:
                        raise
                    fits = False
                if not fits:  # outside the handler, which holds on to what did not fit
                    self._halve()
                    continue
                rows = rows[len(batch) :]
                if self.tick:
                    self.tick(len(batch))

    def _most(self, logits: int) -> int:
        """Rows of which that many logits each may be held."""
        return max(1, LOGIT_BYTES // (4 * int(self.model.config.get_text_config().vocab_size) * logits))

    def _halve(self) -> None:
        """Free what can be computed again, and halve the budget."""
        self._known = Prefixes()
        torch.cuda.empty_cache()
        self.batch_tokens = max(self.batch_tokens // 2, 1)

    def _forward(
        self, batch: list[Row], keep: int, within: AbstractContextManager[None] | None = None
    ) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Run a batch; return logits [rows, keep, vocabulary], the cache and the mask so far.

        The context is open while the rows themselves are run, not while prefixes are.
        """
        cache, prefix_mask = self._prefixes(batch)
        ids, rest_mask = self._pad([r.rest for r in batch])
        mask = torch.cat([prefix_mask, rest_mask], dim=1)
        keep = min(keep, ids.shape[1])
        with within or nullcontext():
            out = self._call(ids, mask, cache, keep)
        return out.logits, out.past_key_values, mask

    def _call(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any, keep: int) -> Any:
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        if getattr(out, "past_key_values", None) is None:
            raise ModelError(
                f"architecture '{self.model.config.model_type}' keeps no keys and values of earlier tokens (it is no "
                "transformer, or not only one), and this engine continues texts from these; choose another model"
            )
        return out

    def _pad(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(s) for s in sequences)
        ids = torch.zeros((len(sequences), width), dtype=torch.long)
        mask = torch.zeros((len(sequences), width), dtype=torch.long)
        for row, s in enumerate(sequences):
            if s:
                ids[row, -len(s) :] = torch.tensor(s)
                mask[row, -len(s) :] = 1
        return ids.to(self.device), mask.to(self.device)

    def _prefixes(self, batch: list[Row]) -> tuple[Any, torch.Tensor]:
        """The batch's cached prefixes, one row each, and their mask."""
        distinct = tuple(dict.fromkeys(r.prefix for r in batch))
        cache = growing_cache(self.model.config)
        if not any(distinct):
            return cache, torch.zeros((len(batch), 0), dtype=torch.long, device=self.device)
        known = self._known.look_up(distinct, self._run_prefixes)
        states = [known[p] for p in distinct]
        place = {p: i for i, p in enumerate(distinct)}
        select = torch.tensor([place[r.prefix] for r in batch], device=self.device)
        _, mask = self._pad(distinct)
        for index, layer in enumerate(layers_of(cache, len(states[0]))):
            keys, values = (_stack([s[index][kind] for s in states]) for kind in (0, 1))
            layer.update(keys[select], values[select])
        return cache, mask[select]

    def _run_prefixes(self, prefixes: Sequence[tuple[int, ...]]) -> list[States]:
        """Run prefixes through the model; return each one's keys and values, layer by layer."""
        ids, mask = self._pad(prefixes)
        cache = self._call(ids, mask, growing_cache(self.model.config), 1).past_key_values
        return [
            [
                (k.keys[i : i + 1, :, -len(p) :].clone(), k.values[i : i + 1, :, -len(p) :].clone())
                for k in cache.layers
            ]
            for i, p in enumerate(prefixes)
        ]

    # -- generation ------------------------------------------------------------------------------

    def _score_next(
        self, logits: torch.Tensor, cache: Any, mask: torch.Tensor, tokens: Sequence[Sequence[int]]
    ) -> list[Continuation]:
        """Score tokens[row] after each row's prompt, whose last logits and cache are given."""
        first = logits[:, -1:]
        longer = max(map(len, tokens)) - 1
        if longer < 1:
            return [_continuation(row, t) for row, t in zip(first, tokens, strict=True)]
        ids, more = self._pad([t[:-1] for t in tokens])
        after = self._call(ids, torch.cat([mask, more], dim=1), continued(cache, self.model.config), longer)
        return [
            _continuation(torch.cat([start, rest[len(rest) - len(t) + 1 :]]), t)
            for start, rest, t in zip(first, after.logits, tokens, strict=True)
        ]

    def _generate(
        self,
        tokens: Sequence[Sequence[int]],
        ending: Ending,
        sampling: Sampling,
        scored: int = 1,
        observe: Observe | None = None,
    ) -> dict[int, Generation]:
        """Continue all prompts; whoever is waiting takes the places of those that end.

        Args:
            tokens: of each prompt.
            ending: what ends a text.
            sampling: how tokens are chosen.
            scored: most tokens of a prompt that `observe` scores.
            observe: called with each group of prompts that was run, its last logits, cache and mask.
        """
        extra = max(ending.max_new_tokens, scored)
        waiting = self._rows(tokens, [1] * len(tokens))
        done: dict[int, Generation] = {}
        batch = Batch(self._step, self.model.config, ending, sampling)
        with torch.inference_mode():
            while waiting or batch:
                joining = self._joining(waiting, batch, extra, scored)
                waiting = waiting[len(joining) :]
                try:
                    ended = self._join(batch, joining, observe) if joining else batch.step()
                except torch.OutOfMemoryError:
                    if len({*joining, *batch.rows}) == 1:
                        raise
                    ended = None
                if ended is None:
                    waiting = sorted({*joining, *batch.rows, *waiting}, key=in_batch_order)
                    batch = Batch(self._step, self.model.config, ending, sampling)
                    self._halve()
                    continue
                done |= ended
                if self.tick and ended:
                    self.tick(len(ended))
        return done

    def _join(self, batch: Batch, joining: list[Row], observe: Observe | None) -> dict[int, Generation]:
        """Run prompts and let them join; on return nothing but the batch holds their keys and values."""
        logits, cache, mask = self._forward(joining, 1)
        if observe:
            observe(joining, logits, cache, mask)
        return batch.join(joining, logits[:, -1], cache, mask)

    def _joining(self, waiting: list[Row], batch: Batch, extra: int, scored: int) -> list[Row]:
        """The first of those waiting that are to join the batch now."""
        if batch and not self._full_attention:
            return []
        room = fitting(waiting, self.batch_tokens, extra, len(batch), batch.width)
        if room < min(len(waiting), len(batch) * REFILL):
            return []
        return waiting[: max(min(room, self._most(scored), self._most(1) - len(batch)), not batch)]

    def _step(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> Any:
        return self._call(ids, mask, cache, 1)

    def _ending(self, max_new_tokens: int, stop: Sequence[str]) -> Ending:
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens = {max_new_tokens}: at least 1 token has to be generated")
        return Ending(max_new_tokens, tuple(stop), self._end_ids, self._decode)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _stack(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack [1, heads, tokens, dimension] tensors, padded on the left to the longest."""
    width = max(p.shape[2] for p in parts)
    return torch.cat([torch.nn.functional.pad(p, (0, 0, width - p.shape[2], 0)) for p in parts])


def _continuation(logits: torch.Tensor, tokens: Sequence[int]) -> Continuation:
    values = logits.float().log_softmax(-1)
    gold = values.gather(1, torch.tensor(tokens, device=values.device)[:, None])
    ranks = (values > gold).sum(-1) + 1
    return Continuation(tuple(gold[:, 0].tolist()), tuple(ranks.tolist()))


def _full_attention(config: Any) -> bool:
    """Whether cached keys and values can be handed to other rows and columns."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds is not None:
        return all(kind == "full_attention" for kind in kinds)
    return not getattr(text, "sliding_window", None)


def longest(config: Any) -> int:
    """Return the longest sequence a configuration allows, tokens; 2^30 where it sets no limit."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 2**30)


def check_causal(config: Any, source: str) -> None:
    """Raise ModelError unless transformers has a causal language model for this config."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            f"{source}: architecture '{config.model_type}' is not a causal language model that transformers "
            "can load; choose a decoder-only model (Llama, Qwen, Mistral, Gemma, Phi, OLMo, GPT-NeoX, GPT-2 ...)"
        )

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

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import DynamicCache, DynamicLayer

from quantxai.errors import InputError, ModelError
from quantxai.lm import Continuation, Generation, LanguageModel

__all__ = ["TransformersModel"]

MIN_PREFIX = 16
"""Shorter shared prefixes cost more bookkeeping than they save."""
KEPT_TOKENS = 4096
"""Tokens of computed prefixes kept for later calls."""
BUSY_TOKENS = 512
"""A batch of this many tokens runs matrix products at full speed on a CPU."""
ROOM = 32
"""Tokens that cached keys and values can grow by before they are moved."""
LOGIT_BYTES = 2**28
"""Most memory a batch's scored logits may take, bytes (float32)."""


@dataclass(frozen=True)
class _Row:
    """One prompt of a batch: its place in the call, its shared prefix and what follows it."""

    index: int
    prefix: tuple[int, ...]
    rest: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.prefix) + len(self.rest)


def shared_prefixes(prompts: Sequence[Sequence[int]], reserve: Sequence[int]) -> list[_Row]:
    """Split every prompt into a prefix shared with its neighbours and the rest.

    Args:
        prompts: token ids.
        reserve: for each prompt, the number of last tokens that must stay in the rest (>= 1).

    Returns:
        Rows ordered so that equal prefixes, then similar lengths, stand together.
    """
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    rows: list[_Row] = []
    start = 0
    while start < len(order):
        first = prompts[order[start]]
        size = len(first) - reserve[order[start]]
        end = start + 1
        while end < len(order):
            other = prompts[order[end]]
            common = _common(first, other, min(size, len(other) - reserve[order[end]]))
            if common < MIN_PREFIX:
                break
            size, end = common, end + 1
        cut = size if end - start > 1 else 0
        rows += [_Row(i, tuple(prompts[i][:cut]), tuple(prompts[i][cut:])) for i in order[start:end]]
        start = end
    return sorted(rows, key=_order)


def _order(row: _Row) -> tuple[bool, int, tuple[int, ...], int]:
    # By what has to be computed: padding before a prefix costs attention only, padding the rest costs all.
    return bool(row.prefix), len(row.rest), row.prefix, row.index


def _common(a: Sequence[int], b: Sequence[int], limit: int) -> int:
    for i in range(max(limit, 0)):
        if a[i] != b[i]:
            return i
    return max(limit, 0)


_States = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values [1, heads, tokens, dimension] of one prefix, layer by layer."""


class _Prefixes:
    """The prefixes computed last, so that later calls with the same instructions find them."""

    def __init__(self) -> None:
        self._states: OrderedDict[tuple[int, ...], _States] = OrderedDict()

    def find(self, prefix: tuple[int, ...]) -> _States | None:
        """Return a prefix's states: a leading part of known states serves as well."""
        for known, states in self._states.items():
            if known[: len(prefix)] == prefix:
                self._states.move_to_end(known)
                return [(k[:, :, : len(prefix)], v[:, :, : len(prefix)]) for k, v in states]
        return None

    def fit(self, row: _Row, reserve: int) -> _Row:
        """Cut a row where a known prefix ends, if that keeps most of what it shares."""
        tokens = row.prefix + row.rest
        limit = len(row.prefix) or len(tokens) - reserve
        cut = max((_common(tokens, known, min(limit, len(known))) for known in self._states), default=0)
        if cut < max(MIN_PREFIX, 0.75 * len(row.prefix)):
            return row
        return _Row(row.index, tokens[:cut], tokens[cut:])

    def compute(
        self,
        prefixes: Sequence[tuple[int, ...]],
        run: Callable[[Sequence[tuple[int, ...]]], list[_States]],
    ) -> None:
        """Compute prefixes and keep them, forgetting the ones longest unused beyond KEPT_TOKENS."""
        if not prefixes:
            return
        self._states.update(zip(prefixes, run(prefixes), strict=True))
        while len(self._states) > len(prefixes) and sum(map(len, self._states)) > KEPT_TOKENS:
            self._states.popitem(last=False)


class TransformersModel(LanguageModel):
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
        self.model = model
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens
        self.tick = tick
        self.device = next(model.parameters()).device
        self.context = int(getattr(model.config, "max_position_embeddings", 0) or 2**30)
        self._shares_prefixes = _shares_prefixes(model.config)
        self._known = _Prefixes()
        end = getattr(model.generation_config, "eos_token_id", None)
        end = tokenizer.eos_token_id if end is None else end
        self._end_ids = set(end) if isinstance(end, list | tuple) else {end}

    def anew(self) -> TransformersModel:
        """Return an engine on the same model that remembers nothing of the calls before."""
        return TransformersModel(self.model, self.tokenizer, batch_tokens=self.batch_tokens, tick=self.tick)

    # -- the interface ---------------------------------------------------------------------------

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[Generation]:
        """See LanguageModel.generate."""
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens = {max_new_tokens}: at least 1 token has to be generated")
        tokens = [self._encode(p) for p in prompts]
        self._check_lengths(tokens, max_new_tokens)
        results: dict[int, Generation] = {}

        def run(rows: list[_Row]) -> None:
            results.update(self._continue(rows, self._forward(rows, 1), max_new_tokens, tuple(stop)))

        self._run(self._rows(tokens, [1] * len(tokens)), max_new_tokens, 1, run)
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
        scored = [list(self.tokenizer(c, add_special_tokens=False).input_ids) for c in continuations]
        if not all(scored):
            raise InputError("a continuation to score has no tokens; give it at least one character")
        extra = max([max_new_tokens, *map(len, scored)])
        self._check_lengths(tokens, extra)
        generations: dict[int, Generation] = {}
        continued: dict[int, Continuation] = {}

        def run(rows: list[_Row]) -> None:
            state = self._forward(rows, 1)
            found = self._score_next(*state, [scored[r.index] for r in rows])
            continued.update((r.index, c) for r, c in zip(rows, found, strict=True))
            generations.update(self._continue(rows, state, max_new_tokens, tuple(stop)))

        self._run(self._rows(tokens, [1] * len(tokens)), extra, max(map(len, scored), default=1), run)
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

        def run(batch: list[_Row]) -> None:
            keep = max(pairs[wanted[r.index]][1] for r in batch) + 1
            logits, _, _ = self._forward(batch, keep)
            for row, row_logits in zip(batch, logits, strict=True):
                scored = pairs[wanted[row.index]][1]
                results[wanted[row.index]] = _continuation(row_logits[-scored - 1 : -1], row.rest[-scored:])

        self._run(rows, 0, max((s for _, s in pairs), default=0) + 1, run)
        return [results[i] for i in range(len(pairs))]

    def choices(self, prompts: Sequence[str], choices: Sequence[str]) -> NDArray[np.float64]:
        """See LanguageModel.choices."""
        tokens = [self._encode(p) for p in prompts]
        self._check_lengths(tokens, 0)
        firsts = [self._first_token(prompts[0] if prompts else "", c) for c in choices]
        if len(set(firsts)) < len(firsts):
            raise InputError(
                f"the choices {', '.join(map(repr, choices))} do not all begin with different tokens "
                "for this tokenizer; use labels that differ in their first token"
            )
        out = np.full((len(prompts), len(choices)), np.nan)

        def run(batch: list[_Row]) -> None:
            logits, _, _ = self._forward(batch, 1)
            picked = logits[:, -1].float().log_softmax(-1)[:, firsts].cpu().double().numpy()
            for row, values in zip(batch, picked, strict=True):
                out[row.index] = values

        self._run(self._rows(tokens, [1] * len(tokens)), 0, 1, run)
        return out

    # -- tokens ----------------------------------------------------------------------------------

    def _encode(self, text: str) -> list[int]:
        ids = list(self.tokenizer(text).input_ids)
        if ids:
            return ids
        raise InputError("an empty prompt has no tokens with this tokenizer; give it at least one character")

    def _encode_pair(self, prompt: str, continuation: str) -> tuple[list[int], int]:
        """Token ids of prompt + continuation, and how many of the last ones are scored."""
        before = list(self.tokenizer(prompt).input_ids) if prompt else self._empty()
        added = list(self.tokenizer(continuation, add_special_tokens=False).input_ids)
        full = before + added
        return full, len(added) if before else max(len(added) - 1, 0)

    def _empty(self) -> list[int]:
        return list(self.tokenizer("").input_ids)

    def _first_token(self, prompt: str, choice: str) -> int:
        ids = self.tokenizer(choice, add_special_tokens=False).input_ids
        if not ids:
            raise InputError(f"the choice {choice!r} has no tokens")
        return int(ids[0])

    def _check_lengths(self, tokens: Sequence[Sequence[int]], extra: int) -> None:
        longest = max((len(t) for t in tokens), default=0) + extra
        if longest > self.context:
            raise InputError(
                f"a prompt of {longest - extra} tokens with {extra} to generate is longer than the model's "
                f"context of {self.context} tokens; shorten the texts or choose another model"
            )

    # -- batches ---------------------------------------------------------------------------------

    def _rows(self, tokens: Sequence[Sequence[int]], reserve: Sequence[int]) -> list[_Row]:
        if self._shares_prefixes:
            rows = [self._known.fit(r, reserve[r.index]) for r in shared_prefixes(tokens, reserve)]
            return sorted(rows, key=_order)
        rows = [_Row(i, (), tuple(t)) for i, t in enumerate(tokens)]
        return sorted(rows, key=lambda r: (r.length, r.index))

    def _run(self, rows: list[_Row], extra: int, logits: int, run: Callable[[list[_Row]], None]) -> None:
        """Call `run` on batches within the budget, halving it whenever memory runs out."""
        vocabulary = int(self.model.config.get_text_config().vocab_size)
        with torch.inference_mode():
            while rows:
                most = max(1, LOGIT_BYTES // (4 * vocabulary * logits))
                batch = rows[: min(most, _fitting(rows, self.batch_tokens, extra))]
                try:
                    run(batch)
                except torch.OutOfMemoryError:
                    if len(batch) == 1:
                        raise
                    self._known = _Prefixes()
                    torch.cuda.empty_cache()
                    self.batch_tokens = max(self.batch_tokens // 2, 1)
                    continue
                rows = rows[len(batch) :]
                if self.tick:
                    self.tick(len(batch))

    def _forward(self, batch: list[_Row], keep: int) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Run a batch; return logits [rows, keep, vocabulary], the cache and the mask so far."""
        cache, prefix_mask = self._prefixes(batch)
        ids, rest_mask = self._pad([r.rest for r in batch])
        mask = torch.cat([prefix_mask, rest_mask], dim=1)
        keep = min(keep, ids.shape[1])
        out = self._call(ids, mask, cache, keep)
        return out.logits, out.past_key_values, mask

    def _call(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any, keep: int) -> Any:
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )

    def _pad(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(s) for s in sequences)
        ids = torch.zeros((len(sequences), width), dtype=torch.long)
        mask = torch.zeros((len(sequences), width), dtype=torch.long)
        for row, s in enumerate(sequences):
            if s:
                ids[row, -len(s) :] = torch.tensor(s)
                mask[row, -len(s) :] = 1
        return ids.to(self.device), mask.to(self.device)

    def _prefixes(self, batch: list[_Row]) -> tuple[Any, torch.Tensor]:
        """The batch's cached prefixes, one row each, and their mask."""
        distinct = tuple(dict.fromkeys(r.prefix for r in batch))
        cache = _cache(self.model.config)
        if not any(distinct):
            return cache, torch.zeros((len(batch), 0), dtype=torch.long, device=self.device)
        self._known.compute([p for p in distinct if self._known.find(p) is None], self._run_prefixes)
        states = [self._known.find(p) for p in distinct]
        place = {p: i for i, p in enumerate(distinct)}
        select = torch.tensor([place[r.prefix] for r in batch], device=self.device)
        _, mask = self._pad(distinct)
        for index, layer in enumerate(_layers(cache, len(states[0] or ()))):
            keys, values = (_stack([s[index][kind] for s in states if s]) for kind in (0, 1))
            layer.update(keys[select], values[select])
        return cache, mask[select]

    def _run_prefixes(self, prefixes: Sequence[tuple[int, ...]]) -> list[_States]:
        """Run prefixes through the model; return each one's keys and values, layer by layer."""
        ids, mask = self._pad(prefixes)
        cache = self._call(ids, mask, _cache(self.model.config), 1).past_key_values
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
        after = self._call(
            ids, torch.cat([mask, more], dim=1), _shallow_copy(cache, self.model.config), longer
        )
        return [
            _continuation(torch.cat([start, rest[len(rest) - len(t) + 1 :]]), t)
            for start, rest, t in zip(first, after.logits, tokens, strict=True)
        ]

    def _continue(
        self,
        batch: list[_Row],
        state: tuple[torch.Tensor, Any, torch.Tensor],
        max_new_tokens: int,
        stop: tuple[str, ...],
    ) -> Iterator[tuple[int, Generation]]:
        """Generate from prompts whose last logits, cache and mask are given."""
        logits, cache, mask = state
        live = list(range(len(batch)))
        made: list[list[int]] = [[] for _ in batch]
        done: dict[int, Generation] = {}
        for step in itertools.count(1):
            following = logits[:, -1].argmax(-1)
            keep: list[int] = []
            for place, (row, token) in enumerate(zip(live, following.tolist(), strict=True)):
                result = self._advance(made[row], token, step == max_new_tokens, stop)
                if result is None:
                    keep.append(place)
                else:
                    done[row] = result
            if not keep:
                break
            if len(keep) < len(live):
                select = torch.tensor(keep, device=self.device)
                cache.batch_select_indices(select)
                mask, following = mask[select], following[select]
                live = [live[p] for p in keep]
            mask = torch.cat([mask, mask.new_ones((len(live), 1))], dim=1)
            out = self._call(following[:, None], mask, cache, 1)
            logits, cache = out.logits, out.past_key_values
        return iter([(batch[row].index, done[row]) for row in range(len(batch))])

    def _advance(self, made: list[int], token: int, last: bool, stop: tuple[str, ...]) -> Generation | None:
        """Add a token to a sequence; return the finished generation once it has ended."""
        if token in self._end_ids:
            return Generation(self._decode(made), len(made), "end")
        made.append(token)
        text = self._decode(made)
        at = min((p for s in stop if (p := text.find(s)) >= 0), default=-1)
        if at >= 0:
            return Generation(text[:at], len(made), "stop")
        return Generation(text, len(made), "length") if last else None

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _stack(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack [1, heads, tokens, dimension] tensors, padded on the left to the longest."""
    width = max(p.shape[2] for p in parts)
    return torch.cat([torch.nn.functional.pad(p, (0, 0, width - p.shape[2], 0)) for p in parts])


def _cache(config: Any) -> DynamicCache:
    """An empty cache, which grows in place wherever it would grow by concatenation."""
    cache = DynamicCache(config=config)
    cache.layers = [_GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = _GrowingLayer
    return cache


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not followed by mypy
    """Keys and values with room for ROOM more tokens.

    Concatenation copies every key and value of every row once per generated token, 8 % of the time
    that edits take on a CPU.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See DynamicLayer.update. What it was first given is never written to."""
        start = self.get_seq_length()
        if start == 0:
            super().update(key_states, value_states)
            return self.keys, self.values
        end = start + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < end:
            self._room = (_widened(self.keys, end + ROOM), _widened(self.values, end + ROOM))
        keys, values = self._room
        keys[..., start:end, :] = key_states
        values[..., start:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """See DynamicLayer.batch_select_indices."""
        super().batch_select_indices(indices)
        self._room = None


def _widened(states: torch.Tensor, width: int) -> torch.Tensor:
    """A copy of [rows, heads, tokens, dimension] with `width` tokens; those added are not initialised."""
    wide = states.new_empty((*states.shape[:2], width, states.shape[3]))
    wide[..., : states.shape[2], :] = states
    return wide


def _shallow_copy(cache: Any, config: Any) -> Any:
    """A cache that continues from the same keys and values and leaves them as they are."""
    copy = _cache(config)
    for source, target in zip(cache.layers, _layers(copy, len(cache.layers)), strict=True):
        target.update(source.keys, source.values)
    return copy


def _layers(cache: Any, count: int) -> list[Any]:
    """The cache's layers, created where the cache makes them lazily."""
    while len(cache.layers) < count:
        cache.layers.append(cache.layer_class_to_replicate())
    return list(cache.layers)


def _continuation(logits: torch.Tensor, tokens: Sequence[int]) -> Continuation:
    values = logits.float().log_softmax(-1)
    gold = values.gather(1, torch.tensor(tokens, device=values.device)[:, None])
    ranks = (values > gold).sum(-1) + 1
    return Continuation(tuple(gold[:, 0].tolist()), tuple(ranks.tolist()))


def _fitting(rows: Sequence[_Row], budget: int, extra: int) -> int:
    """How many of the first rows make the next batch; at least one.

    Within the token budget, padded to the longest; without mixing rows with and without a prefix, since
    the latter would only be padding there; and, when nothing is to be generated, only until padding
    would exceed a fifth of a batch that is large enough to keep the processor busy.
    """
    prefix = rest = count = 0
    for row in rows:
        prefix, rest = max(prefix, len(row.prefix)), max(rest, len(row.rest))
        over = (count + 1) * (prefix + rest + extra) > budget
        wasteful = not extra and count * rest >= BUSY_TOKENS and len(rows[0].rest) < 0.8 * rest
        if count and (over or wasteful or bool(row.prefix) != bool(rows[0].prefix)):
            break
        count += 1
    return count


def _shares_prefixes(config: Any) -> bool:
    """Whether cached keys and values of a prefix can be handed to other rows: full attention only."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds is not None:
        return all(kind == "full_attention" for kind in kinds)
    return not getattr(text, "sliding_window", None)


def check_causal(config: Any, source: str) -> None:
    """Raise ModelError unless transformers has a causal language model for this config."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            f"{source}: architecture '{config.model_type}' is not a causal language model that transformers "
            "can load; choose a decoder-only model (Llama, Qwen, Mistral, Gemma, Phi, OLMo, GPT-NeoX, GPT-2 ...)"
        )

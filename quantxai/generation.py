"""Texts that are generated together: how each goes on, when it ends, and who takes its place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from quantxai.caches import merged
from quantxai.lm import Generation
from quantxai.prefixes import Row
from quantxai.tokenized import check_sampling

__all__ = ["Batch", "Ending", "Sampling"]


@dataclass(frozen=True)
class Ending:
    """What ends a text.

    Attributes:
        max_new_tokens: the limit, tokens.
        stop: strings that end a text.
        end_ids: tokens that end a text.
        decode: token ids -> text.
    """

    max_new_tokens: int
    stop: tuple[str, ...]
    end_ids: frozenset[int]
    decode: Callable[[Sequence[int]], str]

    def advance(self, made: list[int], token: int) -> Generation | None:
        """Add a token to a sequence; return the finished generation once it has ended."""
        if token in self.end_ids:
            return Generation(self.decode(made), len(made), "end")
        made.append(token)
        last = len(made) == self.max_new_tokens
        if not (last or self.stop):
            return None
        text = self.decode(made)
        at = min((p for s in self.stop if (p := text.find(s)) >= 0), default=-1)
        if at >= 0:
            return Generation(text[:at], len(made), "stop")
        return Generation(text, len(made), "length") if last else None


class Sampling:
    """How tokens are chosen: the most likely one, or drawn with a generator of each prompt's own.

    Drawing is by the Gumbel-max trick (Gumbel 1954; Maddison et al. 2014, arXiv 1411.0030): the largest
    of logits / temperature + standard Gumbel noise. With the same noise, two models whose distributions
    are alike mostly draw the same token, which keeps their texts comparable item by item.

    Args:
        prompts: what is continued.
        temperature: 0 for the most likely token.
        seeds: one for each prompt, where the temperature is above 0.

    Raises:
        InputError: a temperature below 0, or above it without a seed for each prompt.
    """

    def __init__(
        self, prompts: Sequence[str] = (), temperature: float = 0.0, seeds: Sequence[int] | None = None
    ) -> None:
        check_sampling(prompts, temperature, seeds)
        self._temperature = temperature
        self._keys = (
            [f"{seed}:{p}" for seed, p in zip(seeds or (), prompts, strict=True)] if temperature else []
        )

    def start(self, index: int) -> np.random.Generator | None:
        """Return the generator of a prompt's noise, which depends on its seed and text alone."""
        if not self._temperature:
            return None
        return np.random.default_rng(int(hashlib.sha256(self._keys[index].encode()).hexdigest(), 16))

    def choose(self, logits: torch.Tensor, noise: Sequence[np.random.Generator | None]) -> list[int]:
        """Return the next token of each row of logits [rows, vocabulary]."""
        if self._temperature:
            # The negative logarithm of exponential noise is Gumbel noise, and the quicker way to it.
            drawn = [-np.log(g.standard_exponential(logits.shape[1])) for g in noise if g is not None]
            gumbel = torch.from_numpy(np.stack(drawn)).to(logits.device, torch.float32)
            logits = logits.float() / self._temperature + gumbel
        found: list[int] = logits.argmax(-1).tolist()
        return found


@dataclass
class _Text:
    """One text in the making."""

    row: Row
    made: list[int]
    noise: np.random.Generator | None


class Batch:
    """The texts that are being generated now, one row of the cache each.

    Args:
        call: token ids [rows, 1], mask and cache -> the model's output.
        config: the model's.
        ending: what ends a text.
        sampling: how tokens are chosen.
    """

    def __init__(
        self,
        call: Callable[[torch.Tensor, torch.Tensor, Any], Any],
        config: Any,
        ending: Ending,
        sampling: Sampling,
    ) -> None:
        self._call = call
        self._config = config
        self._ending = ending
        self._sampling = sampling
        self._texts: list[_Text] = []
        self._last: list[int] = []
        self._cache: Any = None
        self._mask: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def rows(self) -> list[Row]:
        """Their prompts."""
        return [text.row for text in self._texts]

    @property
    def width(self) -> int:
        """Tokens of a row, padding included."""
        return 0 if self._mask is None else self._mask.shape[1]

    def join(
        self, rows: Sequence[Row], logits: torch.Tensor, cache: Any, mask: torch.Tensor
    ) -> dict[int, Generation]:
        """Take in prompts whose last logits [rows, vocabulary], cache and mask are given.

        Returns:
            Those that end with their first token, by the row's index.
        """
        new = [_Text(row, [], self._sampling.start(row.index)) for row in rows]
        tokens = self._sampling.choose(logits, [t.noise for t in new])
        keep, done = self._advance(new, tokens)
        if keep:
            parts = [(cache, mask, keep)]
            if self._texts:
                parts.insert(0, (self._cache, self._mask, list(range(len(self)))))
            self._cache, self._mask = merged(parts, self._config)
            self._texts += [new[i] for i in keep]
            self._last += [tokens[i] for i in keep]
        return done

    def step(self) -> dict[int, Generation]:
        """Run the model on every text's last token and choose the next one; return what has ended."""
        assert self._mask is not None
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(self), 1))], dim=1)
        ids = torch.tensor(self._last, device=self._mask.device)[:, None]
        out = self._call(ids, self._mask, self._cache)
        self._cache = out.past_key_values
        tokens = self._sampling.choose(out.logits[:, -1], [t.noise for t in self._texts])
        keep, done = self._advance(self._texts, tokens)
        if done:
            # First what may run out of memory: until then the batch still has the rows that have ended.
            kept = merged([(self._cache, self._mask, keep)], self._config) if keep else (None, None)
            self._cache, self._mask = kept
            self._texts = [self._texts[i] for i in keep]
        self._last = [tokens[i] for i in keep]
        return done

    def _advance(
        self, texts: Sequence[_Text], tokens: Sequence[int]
    ) -> tuple[list[int], dict[int, Generation]]:
        """Add a token to each text; return the places of those that go on, and what has ended."""
        keep: list[int] = []
        done: dict[int, Generation] = {}
        for place, (text, token) in enumerate(zip(texts, tokens, strict=True)):
            result = self._ending.advance(text.made, token)
            if result is None:
                keep.append(place)
            else:
                done[text.row.index] = result
        return keep, done

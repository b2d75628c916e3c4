"""The logit lens: what a model would say next, read off after every layer.

nostalgebraist 2020, "interpreting GPT: the logit lens". With h_l the residual that enters layer l at one
position of the prompt (h_L, for a model of L layers, enters the final norm):

```
p_l = softmax(readout(h_l))                readout: final norm, unembedding, soft cap (quantxai.readout)
entropy(l)  = - sum_t p_l(t) ln p_l(t)
to_final(l) = sum_t p_L(t) ln (p_L(t) / p_l(t))        how far the model still is from what it will say
kl(l)       = sum_t p_l(t) ln (p_l(t) / q_l(t))        p the parent, q the variant, at the same layer
```

all in nats. p_L is the model's own next-token distribution; the earlier ones are a way to look at it.
Early layers were not trained to be read this way, and what they seem to say can be an artefact of the
basis they compute in (the tuned lens, Belrose et al. 2023, arXiv 2303.08112, learns a translation for
each layer). So compare parent and variant at the same layer, and trust late layers more than early ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from quantxai.errors import InputError
from quantxai.records import Record

if TYPE_CHECKING:
    from quantxai.internals import Internals

__all__ = [
    "Candidate",
    "Lens",
    "LensLayer",
    "Reading",
    "Token",
    "agrees_from",
    "differs",
    "first_token",
    "layer_log_probs",
    "make_reading",
    "place",
    "token_text",
]

LogProbs = NDArray[np.floating[Any]]


class Token(Record):
    """A token of the vocabulary."""

    token: int = Field(description="Its id.")
    text: str = Field(description="What it stands for; bytes that are no character alone as \\xNN.")


class Candidate(Token):
    """A token among the most likely ones."""

    probability: float = Field(description="Its probability, 0 to 1.")


class LensLayer(Record):
    """What one boundary between layers says; values are null where it is not finite (a broken variant)."""

    layer: int = Field(description="l: the layer whose input is read; the number of layers at the end.")
    top: tuple[Candidate, ...] = Field(description="The most likely tokens, the most likely first.")
    entropy: float | None = Field(description="Of the distribution, nats.")
    to_final: float | None = Field(description="KL divergence from it to the last boundary's, nats.")
    logprob: float | None = Field(description="Log-probability of the followed token, nats.")
    rank: int | None = Field(description="Rank of the followed token, 1 = most likely.")
    kl: float | None = Field(
        description="KL divergence from the parent's distribution at this boundary, nats; null for the parent."
    )


class Reading(Record):
    """One variant's layers."""

    variant: str = Field(description="Its name.")
    digest: str = Field(description="SHA-256 of everything its outputs depend on, as a sweep has it.")
    dtype: str = Field(description="Compute type.")
    device: str = Field(description="Where it ran.")
    execution: str = Field(description="dequantized or kernel.")
    warnings: tuple[str, ...] = Field(description="What its receipt warns of.")
    layers: tuple[LensLayer, ...] = Field(description="From the embeddings to what enters the final norm.")

    @property
    def last(self) -> LensLayer:
        """The model's own prediction."""
        return self.layers[-1]


class Lens(Record):
    """The same prompt read off a parent and its variants."""

    model: str = Field(description="Name of the parent model.")
    prompt: str
    tokens: tuple[Token, ...] = Field(description="The prompt, with what the tokenizer puts in front.")
    position: int = Field(description="Which of the tokens is read: the prediction of what follows it.")
    followed: Token = Field(description="The token whose rank and log-probability are given at every layer.")
    readings: tuple[Reading, ...] = Field(description="The parent, then its variants.")
    notes: tuple[str, ...] = Field((), description="What a reader should know about this reading.")

    @property
    def parent(self) -> Reading:
        """The parent's reading."""
        return self.readings[0]

    @property
    def variants(self) -> tuple[Reading, ...]:
        """The variants' readings."""
        return self.readings[1:]


def layer_log_probs(internals: Internals, prompt: str, position: int | None = None) -> LogProbs:
    """Return what every boundary between layers says: log-probabilities [layers + 1, vocabulary], nats.

    Args:
        internals: of a loaded model (`lm.internals()`).
        prompt: the text.
        position: which of its tokens is read; the last where left out.
    """
    (trace,) = internals.trace([prompt], None if position is None else [position])
    found: LogProbs = internals.readout.log_probs(trace.residuals).cpu().numpy()
    return found


def make_reading(
    log_probs: LogProbs,
    followed: int,
    text_of: Callable[[int], str],
    *,
    parent: LogProbs | None = None,
    top: int = 3,
    **facts: Any,
) -> Reading:
    """Return a variant's reading from its log-probabilities.

    Args:
        log_probs: [layers + 1, vocabulary], nats.
        followed: the token whose rank and log-probability are kept.
        text_of: a token's text.
        parent: the parent's log-probabilities, of the same shape; left out for the parent itself.
        top: how many tokens are kept of each boundary.
        facts: the other fields of Reading.
    """
    layers = []
    for layer, own in enumerate(log_probs):
        finite = not np.isnan(own).any()
        kept = _largest(own, top) if finite else []
        layers.append(
            LensLayer(
                layer=layer,
                top=tuple(Candidate(token=t, text=text_of(t), probability=math.exp(own[t])) for t in kept),
                entropy=_known(_entropy(own)),
                to_final=_known(_divergence(log_probs[-1], own)),
                logprob=_known(float(own[followed])),
                rank=int((own > own[followed]).sum()) + 1 if finite else None,
                kl=None if parent is None else _known(_divergence(parent[layer], own)),
            )
        )
    return Reading(layers=tuple(layers), **facts)


def _largest(values: LogProbs, count: int) -> list[int]:
    """Indices of the largest values, the largest first; of equal ones, the lower index."""
    count = min(count, len(values))
    least = np.partition(values, -count)[-count]
    found = np.flatnonzero(values >= least)
    return [int(i) for i in found[np.argsort(-values[found], kind="stable")][:count]]


def _entropy(p: LogProbs) -> float:
    """Return the entropy of a distribution given as log-probabilities, nats."""
    kept = p[p != -math.inf].astype(np.float64)
    return float(-(np.exp(kept) * kept).sum())


def _divergence(p: LogProbs, q: LogProbs) -> float:
    """Return KL(p || q), nats; never below 0, which rounding could otherwise make it."""
    kept = p != -math.inf
    found = float((np.exp(p[kept].astype(np.float64)) * (p[kept].astype(np.float64) - q[kept])).sum())
    return found if math.isnan(found) else max(found, 0.0)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def differs(one: LensLayer, other: LensLayer) -> bool:
    """Return whether two boundaries have another most likely token; true where either has none."""
    return not (one.top and other.top and one.top[0].token == other.top[0].token)


def agrees_from(parent: Reading, variant: Reading) -> int | None:
    """Return the first layer from which on both have the same most likely token; null where the last differs."""
    found = None
    for one, other in zip(reversed(parent.layers), reversed(variant.layers), strict=True):
        if differs(one, other):
            break
        found = one.layer
    return found


def place(position: int, length: int) -> int:
    """Return a position as an index from 0; negative ones count from the end.

    Raises:
        InputError: the prompt has no such token.
    """
    if -length <= position < length:
        return position % length
    raise InputError(
        f"position {position}: the prompt has one token, so give 0 or -1, or leave it out"
        if length == 1
        else f"position {position}: the prompt has {length} tokens, so give 0 to {length - 1}, "
        f"or -1 (the last) to -{length}"
    )


def first_token(tokenizer: Any, text: str, prompt: str) -> tuple[int, list[str]]:
    """Return the token to follow for a text, and what its reader should know.

    Args:
        tokenizer: a transformers tokenizer.
        text: what was asked for.
        prompt: what it is to follow.

    Raises:
        InputError: the text has no tokens.
    """
    ids = list(tokenizer(text, add_special_tokens=False).input_ids)
    if not ids:
        raise InputError(
            f"the token {text!r} to follow is empty for this tokenizer; give at least one character"
        )
    notes = []
    if len(ids) > 1:
        parts = ", ".join(repr(token_text(tokenizer, i)) for i in ids[:6]) + (", ..." if len(ids) > 6 else "")
        notes.append(f"{text!r} is {len(ids)} tokens here ({parts}); the first of them is followed.")
    if text[:1].isalnum() and prompt[-1:].strip():
        notes.append(
            f"{text!r} is followed as it is written, without a space in front; a new word after this prompt "
            f"is {' ' + text!r}."
        )
    if not text.strip():
        notes.append(f"{text!r} is white space alone: the token followed is that, not the start of a word.")
    return ids[0], notes


_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_text(tokenizer: Any, token: int) -> str:
    r"""Return what a token stands for, its leading space included, and lone bytes as \xNN."""
    piece = tokenizer.convert_ids_to_tokens(token) if token < len(tokenizer) else None
    if piece is None:  # unembeddings are often padded with rows that no token has
        return f"<unused {token}>"
    if token in tokenizer.all_special_ids:
        return str(piece)
    if byte := _BYTE_PIECE.fullmatch(piece):
        return _bytes_text(bytes([int(byte[1], 16)]))
    if "▁" in piece:  # SentencePiece; decoding one token alone would take its space away
        return str(piece.replace("▁", " "))
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    if "\N{REPLACEMENT CHARACTER}" not in text:
        return text
    known = _byte_alphabet()
    if all(character in known for character in piece):
        return _bytes_text(bytes(known[character] for character in piece))
    return str(piece)


def _bytes_text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level tokenizers (GPT-2, Radford et al. 2019) write bytes as."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}

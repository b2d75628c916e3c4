"""The one seam between quantxai and a language model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Architecture", "Continuation", "Generation", "LanguageModel"]


@dataclass(frozen=True)
class Architecture:
    """What a checkpoint's config says about its shape.

    Attributes:
        model_type: transformers' model type ("llama").
        linear_widths: input width of every linear layer inside the blocks, by name suffix.
        parameters: number of parameters, tied ones once.
        context: longest sequence, tokens.
    """

    model_type: str
    linear_widths: dict[str, int]
    parameters: int
    context: int


@dataclass(frozen=True)
class Generation:
    """One generated text.

    Attributes:
        text: what was generated, without the stop string and special tokens.
        tokens: number of generated tokens.
        stopped: why it ended: a stop string, the end-of-text token, or the length limit.
    """

    text: str
    tokens: int
    stopped: Literal["stop", "end", "length"]


@dataclass(frozen=True)
class Continuation:
    """How likely a given continuation is after a prompt.

    Attributes:
        logprobs: natural log-probability of each continuation token, nats.
        ranks: rank of each token in its next-token distribution, 1 = most likely.
    """

    logprobs: tuple[float, ...]
    ranks: tuple[int, ...]


class LanguageModel(ABC):
    """The text-only half: what every engine offers."""

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
    ) -> list[Generation]:
        """Continue each prompt greedily until a stop string, the end-of-text token or the limit."""

    @abstractmethod
    def logprobs(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Continuation]:
        """Score continuations[i] (as is, so give it its leading space) after prompts[i].

        After an empty prompt and without a beginning-of-text token, the first token has no
        distribution and is left out.
        """

    def generate_and_score(
        self,
        prompts: Sequence[str],
        continuations: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
    ) -> list[tuple[Generation, Continuation]]:
        """Do `generate` and `logprobs` for the same prompts; an engine may share their computation."""
        generated = self.generate(prompts, max_new_tokens=max_new_tokens, stop=stop)
        return list(zip(generated, self.logprobs(prompts, continuations), strict=True))

    @abstractmethod
    def choices(self, prompts: Sequence[str], choices: Sequence[str]) -> NDArray[np.float64]:
        """Log-probabilities in nats [prompts, choices] of the choices' first tokens after each prompt.

        Raises:
            InputError: two choices begin with the same token.
        """

"""The one seam between quantxai and a language model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantxai.errors import ModelError

if TYPE_CHECKING:
    from quantxai.internals import Internals

__all__ = ["Architecture", "Continuation", "Dialogue", "Exchange", "Generation", "LanguageModel"]


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


class Exchange(NamedTuple):
    """A question and its answer."""

    user: str
    assistant: str


@dataclass(frozen=True)
class Dialogue:
    """What a model is asked, apart from how its prompt is written.

    Attributes:
        user: the question.
        opening: how the answer begins, which the model goes on with; without white space at its end.
        exchanges: what was asked and answered before, in the same dialogue.
        examples: worked dialogues, shown before it.
        instruction: one for all of them; may be empty.
    """

    user: str
    opening: str = ""
    exchanges: tuple[Exchange, ...] = ()
    examples: tuple[tuple[Exchange, ...], ...] = ()
    instruction: str = ""

    def plain(self) -> str:
        """Return the prompt for a model without a chat format: each answer follows its question."""
        blocks = ["\n".join(f"{e.user} {e.assistant}" for e in example) for example in self.examples]
        asked = [f"{e.user} {e.assistant}" for e in self.exchanges]
        last = "\n".join([*asked, f"{self.user} {self.opening}".rstrip()])
        return "\n\n".join([*filter(None, [self.instruction]), *blocks, last])


class LanguageModel(ABC):
    """What explainers ask of a model: texts and their probabilities; of some engines also its internals."""

    def prompt(self, dialogue: Dialogue, *, chat: bool = True) -> str:
        """Return the prompt of a dialogue, which ends where the model is to go on.

        Args:
            dialogue: what is asked.
            chat: use the model's own chat format, where it has one.
        """
        return dialogue.plain()

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> list[Generation]:
        """Continue each prompt until a stop string, the end-of-text token or the limit.

        Args:
            prompts: what is continued.
            max_new_tokens: the limit, tokens.
            stop: strings that end a text; they are no part of it.
            temperature: 0 takes the most likely token; above it, tokens are drawn from the softmax of the
                logits divided by it.
            seeds: one for each prompt, where the temperature is above 0: what is drawn depends on seed and
                prompt alone, not on the batch.
        """

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
        """Do a greedy `generate` and `logprobs` for the same prompts; an engine may share their computation."""
        generated = self.generate(prompts, max_new_tokens=max_new_tokens, stop=stop)
        return list(zip(generated, self.logprobs(prompts, continuations), strict=True))

    @abstractmethod
    def choices(self, prompts: Sequence[str], choices: Sequence[str]) -> NDArray[np.float64]:
        """Log-probabilities in nats [prompts, choices] of the choices' first tokens after each prompt.

        Raises:
            InputError: two choices begin with the same token.
        """

    def internals(self) -> Internals:
        """Return the model's inside: residual streams, activations, patched passes.

        Raises:
            ModelError: the engine offers texts and their probabilities alone, or the model has parts that
                cannot be told apart.
        """
        raise ModelError(
            f"{type(self).__name__} offers texts and their probabilities, not what is inside the model. Use "
            'engine = "transformers".'
        )

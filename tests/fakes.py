"""Stand-ins for the one seam to language models, and for what scorers ask for.

`FakeLanguageModel` is deterministic: what it says and how likely it finds a text depend on the texts
alone, so whatever differs between two calls was made different by the code under test.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantxai.lm import Continuation, Generation, LanguageModel
from quantxai.methods import ScoringContext

TOKEN = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")


def unit(*parts: str) -> float:
    """Return a number in [0, 1) that depends on the texts."""
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:6], "big") / 2**48


def query(prompt: str) -> str:
    """Return the last block of a few-shot prompt: what is asked, without the demonstrations."""
    return prompt.rsplit("\n\n", 1)[-1]


def _babble(prompt: str) -> str:
    return f" word{int(unit(prompt) * 1000)} and more.\n"


def _chance(prompt: str, choice: str) -> float:
    return -8 * unit(prompt, choice)


class FakeLanguageModel(LanguageModel):
    """A scripted language model; tokens are words and punctuation marks with the space before them.

    Args:
        reply: prompt -> what it would say if nothing stopped it.
        choose: prompt, choice -> log-probability, nats.
        score: prompt with the text so far, token -> log-probability, nats.
    """

    def __init__(
        self,
        reply: Callable[[str], str] = _babble,
        choose: Callable[[str, str], float] = _chance,
        score: Callable[[str, str], float] = _chance,
    ) -> None:
        self.reply = reply
        self.choose = choose
        self.score = score
        self.calls: list[tuple[str, list[str]]] = []
        """What was asked: method name and prompts (for `logprobs` prompt + continuation)."""

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> list[Generation]:
        self.calls.append(("generate", list(prompts)))
        drawn = [f"\0{seed}" for seed in seeds] if temperature and seeds else [""] * len(prompts)
        return [
            self._generate(self.reply(prompt + draw), max_new_tokens, stop)
            for prompt, draw in zip(prompts, drawn, strict=True)
        ]

    def logprobs(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Continuation]:
        pairs = list(zip(prompts, continuations, strict=True))
        self.calls.append(("logprobs", [prompt + text for prompt, text in pairs]))
        return [self._score(prompt, text) for prompt, text in pairs]

    def choices(self, prompts: Sequence[str], choices: Sequence[str]) -> NDArray[np.float64]:
        self.calls.append(("choices", list(prompts)))
        return np.array([[self.choose(p, c) for c in choices] for p in prompts]).reshape(-1, len(choices))

    def asked(self, method: str) -> list[str]:
        """Return every prompt a method was asked, in order."""
        return [prompt for name, prompts in self.calls if name == method for prompt in prompts]

    def _generate(self, said: str, limit: int, stop: Sequence[str]) -> Generation:
        text = ""
        tokens = TOKEN.findall(said)
        for number, token in enumerate(tokens, 1):
            text += token
            found = [at for s in stop if (at := text.find(s)) >= 0]
            if found:
                return Generation(text[: min(found)], number, "stop")
            if number == limit:
                return Generation(text, number, "length")
        return Generation(text, len(tokens), "end")

    def _score(self, prompt: str, text: str) -> Continuation:
        tokens = TOKEN.findall(text)
        # Nothing comes before the first token of an empty prompt.
        first = 0 if prompt else 1
        values = [self.score(prompt + "".join(tokens[:at]), tokens[at]) for at in range(first, len(tokens))]
        return Continuation(tuple(values), tuple(1 + int(-v) for v in values))


class FakeContext(ScoringContext):
    """A scoring context around any models; a sentence's embedding counts its letters."""

    device = "cpu"

    def __init__(
        self,
        parent: LanguageModel | None = None,
        variant: LanguageModel | None = None,
        **models: LanguageModel,
    ) -> None:
        super().__init__()
        self.lm = parent or FakeLanguageModel()
        self.judge = variant or FakeLanguageModel()
        self.models = models

    def parent(self) -> LanguageModel:
        return self.lm

    def variant(self) -> LanguageModel:
        return self.judge

    def model(self, name: str) -> LanguageModel:
        return self.models[Path(name).name]

    def checkpoint(self, name: str) -> Path:
        return Path(name)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        counts = np.array([[t.count(c) for c in "abcdefghijklmnopqrstuvwxyz "] for t in texts], np.float32)
        lengths = np.linalg.norm(counts, axis=1, keepdims=True)
        return np.asarray(counts / np.where(lengths, lengths, 1), np.float32)

    def encode_tokens(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        return [self.encode(text.split()) for text in texts]


def validated(row: Any) -> Any:
    """Return a row after a round trip through JSON and its own validation."""
    return type(row).model_validate_json(row.model_dump_json())

"""The vLLM engine: the text-only half of a language model, through vLLM's offline interface.

vLLM forms its own batches and keeps common beginnings itself (Kwon et al. 2023, arXiv 2309.06180). It is
given tokens, never texts, so that both engines see the same prompts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantxai.errors import InputError, MissingExtra, ModelError
from quantxai.lm import Continuation, Generation
from quantxai.tokenized import TokenizedModel, check_sampling, end_ids

__all__ = ["OFFERED", "VllmModel"]

OFFERED = frozenset({"generate", "logprobs"})
"""What explainers may need of a model on this engine."""


class VllmModel(TokenizedModel):
    """A checkpoint that vLLM runs.

    Args:
        checkpoint: its directory.
        tokenizer: the tokenizer, of transformers.
        tokenizer_path: directory the tokenizer is in, for vLLM's own.
        context: longest sequence, tokens.
        dtype: compute type.

    Raises:
        MissingExtra: vLLM is not installed.
    """

    def __init__(
        self, checkpoint: Path, tokenizer: Any, tokenizer_path: Path, *, context: int, dtype: str
    ) -> None:
        super().__init__(tokenizer, context)
        try:
            import vllm
        except ImportError:
            raise MissingExtra("vllm", "vllm", 'engine = "vllm"') from None
        self._parameters = vllm.SamplingParams
        self._end_ids = end_ids(_configured_end(checkpoint), tokenizer)
        self._llm = vllm.LLM(model=str(checkpoint), tokenizer=str(tokenizer_path), dtype=dtype, seed=0)

    def anew(self) -> VllmModel:
        """Return an engine that remembers nothing of the calls before."""
        self._llm.reset_prefix_cache()
        return self

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> list[Generation]:
        """See LanguageModel.generate. With the same seeds, it draws other texts than transformers does."""
        check_sampling(prompts, temperature, seeds)
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens = {max_new_tokens}: at least 1 token has to be generated")
        tokens = [self._encode(p) for p in prompts]
        self._check_lengths(tokens, max_new_tokens)
        parameters = [
            self._parameters(
                temperature=temperature,
                max_tokens=max_new_tokens,
                stop=list(stop),
                seed=seeds[i] if temperature and seeds else None,
            )
            for i in range(len(prompts))
        ]
        return [self._generation(out.outputs[0], stop) for out in self._run(tokens, parameters)]

    def logprobs(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Continuation]:
        """See LanguageModel.logprobs."""
        pairs = [self._encode_pair(p, c) for p, c in zip(prompts, continuations, strict=True)]
        wanted = [i for i, (_, scored) in enumerate(pairs) if scored]
        found = [Continuation((), ())] * len(pairs)
        for i, scores in zip(wanted, self._score([pairs[i][0] for i in wanted]), strict=True):
            last = scores[-pairs[i][1] :]
            found[i] = Continuation(tuple(s.logprob for s in last), tuple(s.rank for s in last))
        return found

    def choices(self, prompts: Sequence[str], choices: Sequence[str]) -> NDArray[np.float64]:
        """See LanguageModel.choices. Each choice is scored as part of a prompt of its own."""
        firsts = self._first_tokens(choices)
        scored = self._score([[*self._encode(p), first] for p in prompts for first in firsts])
        return np.array([s[-1].logprob for s in scored], dtype=np.float64).reshape(len(prompts), len(firsts))

    def _score(self, tokens: Sequence[list[int]]) -> list[list[Any]]:
        """What vLLM says of each sequence's tokens after the first: log-probability and rank."""
        self._check_lengths(tokens, 1)  # it generates one, wanted or not
        parameters = [self._parameters(temperature=0.0, max_tokens=1, prompt_logprobs=0)] * len(tokens)
        return [
            [at[token] for at, token in zip(out.prompt_logprobs[1:], ids[1:], strict=True)]
            for out, ids in zip(self._run(tokens, parameters), tokens, strict=True)
        ]

    def _run(self, tokens: Sequence[list[int]], parameters: Sequence[Any]) -> list[Any]:
        if not tokens:
            return []
        asked = [{"prompt_token_ids": ids} for ids in tokens]
        return list(self._llm.generate(asked, list(parameters), use_tqdm=False))

    def _generation(self, output: Any, stop: Sequence[str]) -> Generation:
        ids = list(output.token_ids)
        if output.finish_reason not in ("stop", "length"):
            raise ModelError(f"vLLM ended a text for the reason '{output.finish_reason}'; see its log")
        if isinstance(output.stop_reason, str):
            # Of two stop strings in one token, vLLM takes the first it was given, not the first in the text.
            at = min([p for s in stop if (p := output.text.find(s)) >= 0], default=None)
            return Generation(output.text[:at], len(ids), "stop")
        # An end token that is also the last one allowed is told as the length limit, and it is told by its
        # number where the model has several.
        ended = bool(ids) and (ids[-1] in self._end_ids or ids[-1] == output.stop_reason)
        if ended or output.finish_reason == "stop":
            return Generation(output.text, len(ids) - ended, "end")
        return Generation(output.text, len(ids), "length")


def _configured_end(checkpoint: Path) -> int | list[int] | None:
    """The end token, or tokens, that a checkpoint's generation configuration names."""
    file = checkpoint / "generation_config.json"
    found: int | list[int] | None = (
        json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
    )
    return found

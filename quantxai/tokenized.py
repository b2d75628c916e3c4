"""What engines with a transformers tokenizer share: from dialogues to prompts, from texts to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantxai.errors import InputError, ModelError
from quantxai.lm import Dialogue, LanguageModel

__all__ = ["TokenizedModel", "check_sampling", "end_ids"]

DATE = "26 Jul 2024"
"""What a chat template that writes the day into its prompt is told (Llama 3.2's own default)."""


class TokenizedModel(LanguageModel):
    """A language model with its tokenizer.

    Args:
        tokenizer: a transformers tokenizer.
        context: longest sequence, tokens.
    """

    def __init__(self, tokenizer: Any, context: int) -> None:
        self.tokenizer = tokenizer
        self.context = context

    def prompt(self, dialogue: Dialogue, *, chat: bool = True) -> str:
        """See LanguageModel.prompt.

        The instruction stands in front of the first question: many templates know no system message, or
        put in one of their own.

        Raises:
            ModelError: the chat template does not take such a dialogue.
        """
        if not (chat and getattr(self.tokenizer, "chat_template", None)):
            return dialogue.plain()
        earlier = [e for example in dialogue.examples for e in example] + list(dialogue.exchanges)
        messages = [
            message
            for e in earlier
            for message in (
                {"role": "user", "content": e.user},
                {"role": "assistant", "content": e.assistant},
            )
        ]
        messages.append({"role": "user", "content": dialogue.user})
        first = messages[0]
        first["content"] = "\n\n".join(filter(None, [dialogue.instruction, first["content"]]))
        try:
            # The day and a thinking phase would change what a sweep asks, each for reasons of its own.
            written = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
                date_string=DATE,
            )
        except Exception as error:  # a template is a program of the model's, and may raise anything
            raise ModelError(
                f"the model's chat template does not take a dialogue of {len(messages)} messages by user and "
                f"assistant in turn ({error}). Ask without the chat format, or choose another model."
            ) from None
        return str(written) + dialogue.opening

    def _encode(self, text: str) -> list[int]:
        ids = self._with_special_tokens(text)
        if ids:
            return ids
        raise InputError("an empty prompt has no tokens with this tokenizer; give it at least one character")

    def _encode_pair(self, prompt: str, continuation: str) -> tuple[list[int], int]:
        """Token ids of prompt + continuation, and how many of the last ones are scored."""
        before = self._with_special_tokens(prompt)
        added = self._encode_added(continuation)
        return before + added, len(added) if before else max(len(added) - 1, 0)

    def _with_special_tokens(self, text: str) -> list[int]:
        """The tokens of a text, with what the tokenizer puts in front of every text there once.

        A chat template writes the beginning-of-text token, too.
        """
        ids = list(self.tokenizer(text).input_ids)
        front = list(self.tokenizer("").input_ids)
        return ids[len(front) :] if front and ids[: 2 * len(front)] == 2 * front else ids

    def _encode_added(self, text: str) -> list[int]:
        """The tokens of a text that continues another."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _first_tokens(self, choices: Sequence[str]) -> list[int]:
        tokens = {choice: self._encode_added(choice) for choice in choices}
        for choice, ids in tokens.items():
            if not ids:
                raise InputError(f"the choice {choice!r} has no tokens")
        firsts = [tokens[choice][0] for choice in choices]
        if len(set(firsts)) < len(firsts):
            raise InputError(
                f"the choices {', '.join(map(repr, choices))} do not all begin with different tokens "
                "for this tokenizer; use labels that differ in their first token"
            )
        return firsts

    def _check_lengths(self, tokens: Sequence[Sequence[int]], extra: int) -> None:
        longest = max((len(t) for t in tokens), default=0) + extra
        if longest > self.context:
            raise InputError(
                f"a prompt of {longest - extra} tokens with {extra} to generate is longer than the model's "
                f"context of {self.context} tokens; shorten the texts or choose another model"
            )


def check_sampling(prompts: Sequence[str], temperature: float, seeds: Sequence[int] | None) -> None:
    """Raise InputError for a temperature below 0, or above it without a seed for each prompt."""
    if not temperature >= 0:
        raise InputError(f"temperature = {temperature}: it is 0 for the most likely tokens, or larger")
    if temperature and len(seeds or ()) != len(prompts):
        raise InputError(
            f"temperature = {temperature} with {len(seeds or ())} seeds for {len(prompts)} prompts: give each "
            "prompt a seed, or the temperature 0"
        )


def end_ids(configured: int | Sequence[int] | None, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a text: those the generation configuration names, else the tokenizer's."""
    end = tokenizer.eos_token_id if configured is None else configured
    return frozenset(end if isinstance(end, list | tuple) else [end])

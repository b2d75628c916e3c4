"""Takes out of a text what would give away which model or variant wrote it.

Removed are what a page cannot show (control and format characters, which include bidirectional
overrides and invisible watermarks), tags and special tokens of prompts, who-speaks markers of chats, and the names of
models and quantizers. What a variant writes badly stays: that is what is rated. A name that is also in
the text that all variants were given stays too, since it tells nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Blinded", "blinded", "names_pattern"]

_GAP = "[…]"
"""Stands where a name was, so that the sentence can still be read."""

_INVISIBLE = {"Cc", "Cf", "Co", "Cs"}
"""Unicode categories: control, format, private use, half a surrogate pair."""
_JOINERS = {"\u200c", "\u200d"}
"""Format characters that Persian, Indic scripts and emoji need."""
_LINES = re.compile(r"\r\n?|[\u2028\u2029\u0085\v\f]")

_MARKUP = (
    ("special token", re.compile(r"<\|[^|<>\n]{1,40}\|>|</?(?:s|unk|pad|bos|eos|mask)>|<<\s*/?\s*SYS\s*>>", re.I)),
    ("special token", re.compile(r"<(?:start|end)_of_turn>(?:user|model)?|\[/?(?:INST|CLS|SEP|PAD|MASK|UNK)\]")),
    ("special token", re.compile("\u2581")),
    ("tag", re.compile(r"<[/\\][^<>\n]{0,60}>|<[A-Za-z][\w:-]{0,30}(?:\s+[\w:-]+\s*=[^<>\n]{0,60})?\s*/?>")),
    ("tag", re.compile(r"<(?:[/\\]\s*[A-Za-z]{0,12}|[A-Za-z]{1,12})\s*\Z")),
    ("code fence", re.compile(r"```\w*")),
    (
        "chat marker",
        re.compile(r"(?im)^[ \t]*(?:#+[ \t]*)?(?:user|assistant|system|human|AI|bot|response|instruction)[ \t]*:"),
    ),
)  # fmt: skip

# Names that are words of their own (a llama, a falcon, Claude) count with a version only.
_FAMILIES = (
    r"ChatGPT(?:[- ]?\d[\w.]*)?|GPT[- ]?(?:J|Neo(?:X)?|[1-9][\w.]*)(?:[- ](?:turbo|mini|nano))*|OpenAI|Anthropic"
    r"|(?:Tiny|Code|Open)Llama\S*\w|Llama[- ]?\d[\w.]*(?:[- ]\d+B)?|Claude[- ]\d[\w.]*|Gemini[- ]\d[\w.]*"
    r"|Gemma[- ]?\d[\w.]*|Mi[sx]tral[- ](?:\d[\w.]*|AI\b)|Qwen[\w.-]*\w|DeepSeek[\w.-]*|SmolLM[\w.-]*|Phi[- ]?\d[\w.]*"
    r"|Falcon[- ]?\d[\w.]*|Pythia[- ]\d[\w.]*|OLMo[\w.-]*|StableLM[\w.-]*|Vicuna[\w.-]*"
    r"|OPT[- ]\d[\w.]*|BLOOMZ?[- ]\d[\w.]*|Granite[- ]\d[\w.]*|Hugging ?Face"
)
_QUANTIZERS = (
    r"(?:Auto)?(?:GPTQ|AWQ)(?:Model)?(?:[- ]?\d(?:[- ]?bit)?)?|RTN[- ]?\d|NF[34]|[FM]P[48]|INT[348]|bitsandbytes|BNB"
    r"|GGUF|GGML|Q[2-8]_[0-9K](?:_[SML])?|llama\.cpp|W\dA\d{1,2}"
)


class Blinded(NamedTuple):
    """A text and what was taken out of it."""

    text: str
    removed: tuple[str, ...]
    """What it was and how it read, such as `tag: </edit>`; white space is not listed."""


def blinded(text: str, names: re.Pattern[str] | None = None, given: str = "") -> Blinded:
    """Return a text without what gives away who wrote it.

    Args:
        text: as a model wrote it.
        names: what else to remove, from `names_pattern`; None to remove no names, of the text all were given.
        given: the text all variants were given: a name that is in it stays.

    Example:
        >>> blinded("The dog runs.</edit>").text
        'The dog runs.'
    """
    removed: list[str] = []
    before = ""
    text = _visible(text, removed)
    # Once more after every removal: what stood around a tag may be one.
    while before != text:
        before = text
        for what, pattern in _MARKUP if names is not None else ():
            text = pattern.sub(lambda match, what=what: _noted(removed, what, match[0], " "), text)  # type: ignore[misc]
        if names is not None:
            text = names.sub(lambda match: _name(removed, match[0], given), text)
        text = _tidy(text)
    return Blinded(text, tuple(dict.fromkeys(removed)))


def names_pattern(own: Iterable[str]) -> re.Pattern[str]:
    """Return what matches names of models and quantizers.

    Args:
        own: the run's: its model, its variants. Of a name without a digit (`full`) nothing is made:
            it is a word as well. A model's name also matches with parts left out and joined otherwise:
            `smollm2-135m` also matches "SmolLM2 135M" and "SmolLM2".
    """
    found = []
    for name in own:
        parts = [re.escape(part) for part in re.split(r"[-_ ./:]+", name.rpartition("/")[2]) if part]
        if not any(character.isdigit() for character in name) or not parts:
            continue
        head, *rest = parts
        # Without a digit of its own the first part is a word (Llama): one more part has to follow.
        word = not any(character.isdigit() for character in head)
        found.append(head + (rf"(?=[-_ .]?(?:{'|'.join(rest)}))" if word else ""))
        found[-1] += "".join(f"(?:[-_ .]?{part})?" for part in rest)
    return re.compile(rf"(?<!\w)(?:{'|'.join([*found, _FAMILIES, _QUANTIZERS])})(?!\w)", re.IGNORECASE)


def _visible(text: str, removed: list[str]) -> str:
    kept = []
    for character in unicodedata.normalize("NFC", _LINES.sub("\n", text)):
        if character in "\n\t" or character in _JOINERS or unicodedata.category(character) not in _INVISIBLE:
            kept.append(character)
        else:
            removed.append(f"character: U+{ord(character):04X}")
    return "".join(kept)


def _noted(removed: list[str], what: str, found: str, instead: str) -> str:
    removed.append(f"{what}: {found.strip()}")
    return instead


def _name(removed: list[str], found: str, given: str) -> str:
    return found if found.casefold() in given.casefold() else _noted(removed, "name", found, _GAP)


def _tidy(text: str) -> str:
    """One space for several, at most one empty line, none around; and none before a full stop left alone."""
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()

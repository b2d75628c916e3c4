"""What differs between two texts, marked word by word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from markupsafe import Markup, escape

__all__ = ["marked"]

_TOKEN = re.compile(r"(?:\w+(?:['’-]\w+)*|[^\w\s])\s*")


def marked(before: str, after: str) -> Markup:
    """Return `after` as HTML with what differs from `before` in <del> and <ins>, word by word.

    Example:
        >>> print(marked("the red house", "the blue house"))
        the <del>red</del> <ins>blue</ins> house
    """
    old, new = (_TOKEN.findall(text.strip()) for text in (before, after))
    matcher = difflib.SequenceMatcher(
        None, [token.strip() for token in old], [token.strip() for token in new], autojunk=False
    )
    parts: list[str] = []
    for operation, i, j, k, m in matcher.get_opcodes():
        if operation == "equal":
            parts.append(escape("".join(new[k:m])))
            continue
        if i and k and _spaced(old[i - 1]) and not _spaced(new[k - 1]):
            parts.append(" ")
        # The space between words stays outside the marks, so that it is not underlined.
        if i < j:
            parts.append(_tagged("del", old[i:j], spaced=k < m))
        if k < m:
            parts.append(_tagged("ins", new[k:m]))
    return Markup("".join(parts))


def _tagged(tag: str, tokens: Sequence[str], *, spaced: bool = False) -> str:
    space = " " if spaced or _spaced(tokens[-1]) else ""
    return f"<{tag}>{escape(''.join(tokens).strip())}</{tag}>{space}"


def _spaced(token: str) -> bool:
    return token[-1].isspace()

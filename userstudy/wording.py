"""The words of the interface, language by language.

English and German come with the package, in `userstudy/texts`; a study adds or replaces languages with
files `texts/XX.toml` of its own. Every language says everything: a key that is missing, or one too many,
is an error when the study is served, not a hole in a participant's page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from quantxai.errors import ConfigError, InputError, nearest
from quantxai.validation import read_toml
from userstudy.study import Study

__all__ = ["Wording", "wordings"]

_PLACE = re.compile(r"\{(\w+)\}")
_ORIGINAL = "en"


class Wording:
    """All words in one language.

    Args:
        code: the language, such as `de` or `pt-BR`.
        words: text by dotted key.

    Example:
        >>> words = Wording("en", {"language": "English", "direction": "ltr", "nav.next": "Page {page}"})
        >>> words("nav.next", page=3)
        'Page 3'
    """

    def __init__(self, code: str, words: Mapping[str, str]) -> None:
        self.code = code
        self.words = dict(words)

    @property
    def name(self) -> str:
        """What the language calls itself."""
        return self.words["language"]

    @property
    def direction(self) -> str:
        """`ltr` or `rtl`."""
        return self.words["direction"]

    def __call__(self, key: str, **values: object) -> str:
        """Return a text, its places filled in; texts put in are never searched for places themselves."""
        return _PLACE.sub(lambda match: str(values.get(match[1], match[0])), self.words[key])

    def part(self, name: str) -> str:
        """Return what participants call a part of a stimulus; a name nobody translated stands for itself."""
        return self.words.get(f"parts.{name}", name.replace("_", " ").capitalize())

    @property
    def names(self) -> list[str]:
        """All that texts are called on a page."""
        parts = [text for key, text in self.words.items() if key.startswith("parts.")]
        return [*parts, self.words["rating.first"], self.words["rating.second"]]

    def knows(self, key: str) -> bool:
        """Whether there is such a text."""
        return key in self.words


def wordings(study: Study) -> dict[str, Wording]:
    """Return the words of every language of a study, in its order.

    Raises:
        ConfigError: a language has no file, or its file lacks keys, has unknown ones or other places.
    """
    original = _shipped(_ORIGINAL)
    if original is None:
        raise InputError("the package lacks its own texts: install quantxai again")
    found: dict[str, Wording] = {}
    for code in study.settings.languages:
        own = study.path / "texts" / f"{code}.toml"
        words = _flat(read_toml(own, "")) if own.is_file() else _shipped(code)
        if words is None:
            raise ConfigError(
                f"{study.path / 'study.toml'}: languages: there are no texts in '{code}'. Write them to {own}, "
                "beginning with a copy of userstudy/texts/en.toml, or take the language out."
            )
        _compare(words, original, str(own))
        found[code] = Wording(code, words)
    return found


def _shipped(code: str) -> dict[str, str] | None:
    if not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", code):
        return None
    with as_file(files("userstudy") / "texts" / f"{code}.toml") as file:
        return _flat(read_toml(Path(file), "")) if Path(file).is_file() else None


def _flat(table: Mapping[str, Any], before: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = str(value)
    return found


def _compare(words: Mapping[str, str], original: Mapping[str, str], where: str) -> None:
    """Refuse a language that does not say what the original says; names of further parts are welcome."""
    missing = sorted(original.keys() - words.keys())
    unknown = sorted(key for key in words.keys() - original.keys() if not key.startswith("parts."))
    problems = [f"{where}: the key '{key}' is missing." for key in missing]
    problems += [f"{where}: unknown key '{key}'.{nearest(key, original)}" for key in unknown]
    for key in original.keys() & words.keys():
        if set(_PLACE.findall(words[key])) - set(_PLACE.findall(original[key])):
            problems.append(f"{where}: {key}: only these places are filled in: {_places(original[key])}.")
    if words.get("direction") not in ("ltr", "rtl"):
        problems.append(f'{where}: direction must be "ltr" or "rtl".')
    if problems:
        raise ConfigError("\n".join(problems))


def _places(text: str) -> str:
    return ", ".join(f"{{{name}}}" for name in _PLACE.findall(text)) or "none"

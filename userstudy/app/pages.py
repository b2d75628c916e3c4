"""What a participant sees, rendered on the server: one page of HTML for each stage.

Texts from models are escaped by jinja and shown as plain text; nothing on a page says which variant wrote
them, what kind of page it is, or what the design looks like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from quantxai.errors import QuantxaiError
from quantxai.report.marking import marked
from userstudy.pages import View
from userstudy.records import Part
from userstudy.settings import Localized, Question, in_language
from userstudy.study import Study
from userstudy.wording import Wording, wordings

__all__ = ["Pages", "Shown", "environment"]


_COMPARED = ("edited", "explanation")
"""Parts that stand side by side even where they are the same."""
_OVER = frozenset({"released", "screened_out", "study_closed"})
"""Kinds after which answers are kept and nobody goes on."""
_LEAST_ALIKE = 0.25
"""Share of words two texts have in common, from which on their difference is marked."""


@dataclass(frozen=True)
class Shown:
    """One page, ready to be put before a participant.

    Args:
        stage: consent, instructions, check, rating, debrief or notice.
        html: the page without its document.
        title: of the browser's tab.
        language: code of its language.
        direction: ltr or rtl.
        position: which page of ratings, from 0; 0 elsewhere.
    """

    stage: str
    html: str
    title: str
    language: str
    direction: str
    position: int = 0


class Pages:
    """Renders the pages of one study.

    Args:
        study: its texts and questions.
        preview: whether every page says that nothing is kept.

    Raises:
        ConfigError: a language of the study lacks words.
    """

    def __init__(self, study: Study, *, preview: bool = False) -> None:
        self.settings = study.settings
        self.preview = preview
        self.words = wordings(study)
        self.default = study.settings.languages[0]

    def language(self, *wanted: str) -> str:
        """Return the first wanted language the study has, else its own first."""
        known = {code.lower(): code for code in self.words}
        for code in wanted:
            for name in (code.lower(), code.lower().partition("-")[0]):
                if name in known:
                    return known[name]
        return self.default

    def consent(self, language: str) -> Shown:
        """The page before anything is stored."""
        return self._page("consent", self._word(language))

    def notice(self, kind: str, language: str, *, begun: bool = False) -> Shown:
        """A page that says kindly why it does not go on.

        Args:
            kind: why.
            language: of the page.
            begun: whether the participant has a session; where it is over they can still withdraw.
        """
        words = self._word(language)
        known = kind if words.knows(f"errors.{kind}.heading") else "unexpected"
        return self._page("notice", words, kind=known, leaving=begun and known in _OVER)

    def sentence(self, kind: str, language: str) -> str:
        """The same in one sentence, for what does not end the page."""
        words = self._word(language)
        return words(
            f"errors.{kind}.text" if words.knows(f"errors.{kind}.text") else "errors.unexpected.text"
        )

    def view(self, view: View, *, failed: bool = False) -> Shown:
        """The page a participant is on.

        Args:
            view: what the service says.
            failed: whether the comprehension check has just been answered wrongly.
        """
        words = self._word(view.language)
        told = self._context(view, words, failed)
        return self._page(view.stage, words, running=True, leaving=True, view=view, **told)

    def _context(self, view: View, words: Wording, failed: bool) -> dict[str, Any]:
        if view.stage == "check":
            return {"failed": failed}
        if view.stage == "debrief":
            return {"code": view.code, "url": view.url}
        return self._rating(view, words) if view.stage == "rating" else {}

    def _rating(self, view: View, words: Wording) -> dict[str, Any]:
        page = view.page
        if page is None:
            raise QuantxaiError("the service says that ratings are due, and gives no page")
        common, stimuli = _arranged(page.parts)
        asked = [self.settings.question(name) for name in page.questions]
        questions = [(question, _choices(question, page.labels, words)) for question in asked]
        return {
            "page": page,
            "questions": questions,
            "common": common,
            "stimuli": stimuli,
            "marking": any(stimulus["original"] is not None for stimulus in stimuli),
            "done": sum(view.answered),
            "keys": max((len(choices) for _, choices in questions), default=0),
        }

    def _page(self, stage: str, words: Wording, **context: Any) -> Shown:
        def say(text: Localized) -> str:
            return in_language(text, words.code, self.default).strip()

        title = say(self.settings.texts.title)
        shared = {
            "stage": stage,
            "t": words,
            "say": say,
            "settings": self.settings,
            "languages": list(self.words.values()),
            "preview": self.preview,
            "running": False,
            "leaving": False,
        }
        html = environment().get_template(f"{stage}.html.j2").render(shared | context)
        view = context.get("view")
        if stage == "rating" and view is not None:
            title = f"{words('rating.heading', page=view.position + 1, pages=view.pages)} – {title}"
        position = view.position if view is not None else 0
        return Shown(stage, html, title, words.code, words.direction, position)

    def _word(self, language: str) -> Wording:
        return self.words[self.language(language)]


@cache
def environment() -> Environment:
    """Jinja, with escaping always on."""
    made = Environment(
        loader=PackageLoader("userstudy", "pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters.update(blocks=_blocks, changes=marked)
    return made


@dataclass(frozen=True)
class _Block:
    """A paragraph's lines, a list's entries, or a text with its name, as pages of ratings show it."""

    kind: str
    lines: tuple[str, ...]
    name: str = ""


def _blocks(text: str, names: Sequence[str] = ()) -> list[_Block]:
    """Return what study.toml says in blocks: blank lines part paragraphs, lines that begin with "- " are lists.

    Args:
        text: plain text.
        names: what texts are called; a paragraph `NAME: TEXT` is such a text.
    """
    found = []
    for paragraph in text.replace("\r\n", "\n").split("\n\n"):
        name, _, rest = paragraph.strip().partition(": ")
        if name in names:
            found.append(_Block("part", (rest,), name))
            continue
        lines = [line.strip() for line in paragraph.strip().splitlines()]
        for listed, group in groupby(lines, key=lambda line: line.startswith("- ")):
            entries = tuple(line[2:].strip() if listed else line for line in group)
            found.append(_Block("list" if listed else "paragraph", entries))
    return found


def _arranged(stimuli: Sequence[Sequence[Part]]) -> tuple[list[Part], list[dict[str, Any]]]:
    """Return the parts that two stimuli share, and of each stimulus its own ones and the text it changes."""
    first, *others = stimuli or [()]
    common = [
        part
        for part in first
        if others and part.name not in _COMPARED and all(part in other for other in others)
    ]
    shown: list[dict[str, Any]] = []
    for parts in stimuli:
        by_name: Mapping[str, str] = {part.name: part.text for part in parts}
        original = by_name.get("original")
        if not _alike(original, by_name.get("edited")):
            original = None
        shown.append({"parts": [part for part in parts if part not in common], "original": original})
    return common, shown


def _alike(before: str | None, after: str | None) -> bool:
    """Whether marking what was changed helps: of a text written anew, marks would leave nothing to be read."""
    if before is None or after is None:
        return False
    words = (before.split(), after.split())
    return SequenceMatcher(None, *words, autojunk=False).ratio() >= _LEAST_ALIKE


def _choices(question: Question, labels: Sequence[str], words: Wording) -> list[tuple[str, str]]:
    """Answers to choose from: as stored, and as shown; none for a free text."""
    if question.kind == "likert":
        return [(str(point), str(point)) for point in range(1, question.points + 1)]
    if question.kind == "pairwise":
        return [
            ("left", words("rating.left")),
            ("same", words("rating.same")),
            ("right", words("rating.right")),
        ]
    return [(label, label) for label in labels] if question.kind == "label" else []

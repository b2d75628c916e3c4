"""study.toml: what is asked, of whom, in which words.

Everything a participant reads can be given in several languages: a plain string, or a table
`{en = "...", de = "..."}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from quantxai.records import Record

__all__ = [
    "AnalysisSettings",
    "Check",
    "DesignSettings",
    "Exclusion",
    "Localized",
    "Question",
    "Recruitment",
    "StudySettings",
    "Texts",
    "in_language",
]

Localized = str | dict[str, str]
"""One text for all languages, or one for each language code."""


def in_language(text: Localized, language: str, fallback: str = "en") -> str:
    """Return a text in a language, else in the fallback, else in whichever there is."""
    if isinstance(text, str):
        return text
    return text.get(language) or text.get(fallback) or next(iter(text.values()), "")


def _identifier(value: str) -> str:
    if not value.isidentifier() or not value.isascii():
        raise ValueError("must be letters, digits and underscores, not beginning with a digit")
    return value


class Question(Record):
    """One question asked about each stimulus."""

    id: Annotated[str, AfterValidator(_identifier)] = Field(description="Its name in exports and analysis.")
    kind: Literal["likert", "pairwise", "label", "text"] = Field(
        description="likert: a scale; pairwise: which of two is better; label: guess the model's label; text: free."
    )
    text: Localized = Field(description="The question as participants read it.")
    help: Localized = Field("", description="One more sentence of explanation.")
    points: Literal[5, 7] = Field(7, description="likert: how many points the scale has.")
    low: Localized = Field("", description="likert: what the lowest point means.")
    high: Localized = Field("", description="likert: what the highest point means.")
    required: bool = Field(True, description="Whether the page can be left without an answer.")
    higher_is_better: bool = Field(
        True, description="likert: whether more points are better; decides between degraded and improved."
    )

    @property
    def numeric(self) -> bool:
        """Whether its answers are numbers to be analysed."""
        return self.kind != "text"


class DesignSettings(Record):
    """How material is drawn and given to participants."""

    seed: int = Field(0, description="Of every draw.")
    items: int = Field(20, ge=2, description="Source items in the study, at most.")
    per_participant: int = Field(
        20, ge=2, description="Source items each participant sees, at most; repeats and checks come on top."
    )
    repeats: int = Field(2, ge=0, description="Pages shown a second time, for intra-rater agreement.")
    attention_checks: int = Field(2, ge=0, description="Pages whose right answer is said in the text.")
    variants: tuple[str, ...] | None = Field(None, description="Which variants; all where left out.")
    explainers: tuple[str, ...] | None = Field(
        None, description="Which explainers' texts; those of the preset where left out."
    )
    show: Literal["one", "pair"] = Field(
        "one",
        description="Whether a page shows one variant's text, or the reference's and another's side by side.",
    )


class Recruitment(Record):
    """Who takes part, how often, how long."""

    participants: int = Field(48, ge=1, description="Completed sessions wanted.")
    abandoned_after_minutes: float = Field(
        120, gt=0, description="A session without an answer for so long gives its place to someone else."
    )
    link_valid_days: float = Field(30, gt=0, description="How long a participant's own link works.")
    completion_code: str = Field(
        "", description="Shown at the end; drawn at random for each one where empty."
    )
    completion_url: str = Field("", description="Where the end leads, such as Prolific's completion address.")
    check_attempts: int = Field(2, ge=1, description="Tries at the comprehension check.")


class Exclusion(Record):
    """Whose ratings the analysis leaves out: decided beforehand, applied and listed by the analysis."""

    max_attention_failures: int = Field(0, ge=0, description="More failed checks than this exclude.")
    min_seconds_per_page: float = Field(2.0, ge=0, description="A median time per page below this excludes.")
    straight_lining: bool = Field(True, description="Whether the same answer to everything excludes.")
    incomplete: bool = Field(True, description="Whether unfinished sessions are left out.")


class AnalysisSettings(Record):
    """How the ratings are compared."""

    alpha: float = Field(0.05, gt=0, lt=0.5, description="Error rate of the family of comparisons.")
    confirmatory: tuple[str, ...] | None = Field(
        None, description="Questions the study is to decide; all scales where left out."
    )
    correction: Literal["holm", "bonferroni", "none"] = Field(
        "holm", description="How p-values are corrected for the number of comparisons."
    )
    margin: float = Field(
        0.5,
        gt=0,
        description="Largest change in the mean rating still called equivalent, in points of the scale.",
    )
    margin_share: float = Field(
        0.1, gt=0, lt=1, description="The same for shares: label guesses and pairwise choices."
    )
    reference: str = Field("full", description="The variant the others are compared with.")


class Check(Record):
    """One question of the comprehension check."""

    question: Localized = Field(description="What is asked about the instructions.")
    options: tuple[Localized, ...] = Field(min_length=2, description="The answers to choose from.")
    answer: int = Field(ge=0, description="Which option is right, counted from 0.")

    @model_validator(mode="after")
    def _answer_exists(self) -> Check:
        if self.answer >= len(self.options):
            raise ValueError(f"answer = {self.answer}: there are {len(self.options)} options, counted from 0")
        return self


class Texts(Record):
    """What participants read around the ratings."""

    title: Localized = Field(description="Of every page.")
    consent: Localized = Field(
        description="Read before anything is stored. Blank lines separate paragraphs; '- ' begins an entry of a list."
    )
    instructions: Localized = Field(description="What is to be done, and how; the check asks about it.")
    example: Localized = Field("", description="A worked example.")
    debrief: Localized = Field("", description="Read at the end: what the study is about.")
    contact: Localized = Field("", description="Whom to write to.")


class StudySettings(Record):
    """A whole study.toml."""

    name: str = Field(description="Short name, for files.")
    languages: tuple[str, ...] = Field(
        ("en", "de"),
        min_length=1,
        description="Languages participants can choose from; the first is the default.",
    )
    questions: tuple[Question, ...] = Field(min_length=1)
    check: tuple[Check, ...] = Field((), description="The comprehension check.")
    texts: Texts
    design: DesignSettings = DesignSettings()
    recruitment: Recruitment = Recruitment()
    exclusion: Exclusion = Exclusion()
    analysis: AnalysisSettings = AnalysisSettings()

    @model_validator(mode="after")
    def _consistent(self) -> StudySettings:
        ids = [question.id for question in self.questions]
        if len(set(ids)) < len(ids):
            raise ValueError(f"questions: ids must differ, there are {', '.join(ids)}")
        pairwise = any(question.kind == "pairwise" for question in self.questions)
        if pairwise != (self.design.show == "pair"):
            raise ValueError(
                'pairwise questions need design.show = "pair", and a pair needs a pairwise question'
            )
        if pairwise and any(question.kind in ("likert", "label") for question in self.questions):
            raise ValueError("where two texts are shown, questions are pairwise or text")
        unknown = set(self.analysis.confirmatory or ()) - {q.id for q in self.questions if q.numeric}
        if unknown:
            raise ValueError(
                f"analysis.confirmatory: no such question that has numbers: {', '.join(sorted(unknown))}"
            )
        return self

    @property
    def hidden(self) -> frozenset[str]:
        """Names of parts that no page shows, since a question has participants guess what they say."""
        guessed = any(question.kind == "label" for question in self.questions)
        return frozenset({"label", "target"}) if guessed else frozenset()

    def question(self, name: str) -> Question:
        """Return the question of that id (KeyError where there is none)."""
        found: Mapping[str, Question] = {question.id: question for question in self.questions}
        return found[name]

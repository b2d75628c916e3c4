"""Raters with a known truth go through the served study, over HTTP, as people do.

What a rater thinks of a text depends on which variant wrote it. That is read from the study directory, by
the words that the page shows; the server is never asked, since it never says.
"""

from __future__ import annotations

import asyncio
import copy
import secrets
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from quantxai.errors import InputError
from userstudy.client import Acknowledged, Client, Refused, texts
from userstudy.pages import Pages
from userstudy.raters import Population, Shown, Truth
from userstudy.records import Stimulus, rated_stimulus
from userstudy.settings import Question
from userstudy.study import Study

__all__ = ["Crowd", "Outcome", "Reader", "connected", "simulate"]

_BACK = 0.05
"""Share of pages after which a rater goes back one, gives an answer anew, and returns."""
_AT_FIRST = 3.0
"""Seconds within which the server has to answer the first time; later it may be away for longer."""
_CONNECTIONS = 500
"""At once; those beyond wait for their turn."""


@dataclass
class Outcome:
    """What became of one simulated rater.

    Attributes:
        ended: completed; left: dropped out; else why the server sent them away, such as study_full.
        code: the completion code.
        acknowledged: the answers the server said it has.
    """

    ended: str = "left"
    code: str = ""
    acknowledged: list[Acknowledged] = field(default_factory=list)


class Reader:
    """Tells from the words on a page which stimuli it shows.

    Args:
        study: its material.

    Attributes:
        alike: pages whose words another page's share, so that no reader can tell their variants apart.
    """

    def __init__(self, study: Study) -> None:
        pages = Pages(study)
        self._by_words: dict[frozenset[str], dict[tuple[str, ...], _Sides]] = defaultdict(dict)
        shown = {trial.stimuli for form in study.design.forms for trial in form.trials}
        for stimuli in sorted(shown | {one[::-1] for one in shown}):
            for language in study.settings.languages:
                parts = pages.page(stimuli, {}, language).parts
                words = [{_plain(part.text) for part in side} for side in parts]
                same = self._by_words[frozenset().union(*words)]
                same[stimuli] = (words[0] - words[-1], words[-1] - words[0])
        alike = [{frozenset(one) for one in same} for same in self._by_words.values()]
        self.alike = len(frozenset().union(*(one for one in alike if len(one) > 1)))

    def stimuli(self, html: str, rng: np.random.Generator) -> tuple[str, ...]:
        """Return the ids of what a page shows, left to right; any of those that look the same.

        Raises:
            InputError: the study has no such texts.
        """
        read = [_plain(text) for text in texts(html)]
        place = {text: number for number, text in enumerate(read)}
        found = [
            stimuli
            for stimuli, (left, right) in self._by_words.get(frozenset(read), {}).items()
            if all(place[one] < place[other] for one in left for other in right)
        ]
        if not found:
            raise InputError("the server shows texts that are not the study's: give the study that it serves")
        return found[int(rng.integers(len(found)))]


_Sides = tuple[set[str], set[str]]
"""Of two texts side by side, the words that are the left one's alone, and the right one's."""


class Crowd:
    """What simulated raters of one study have in common: their truth, and how they read and answer.

    Args:
        study: its material says whose text is which.
        truth: what is true of the raters.
        participants: how many there are.
        seed: of everything drawn.
    """

    def __init__(self, study: Study, truth: Truth, participants: int, seed: int) -> None:
        self.study, self.participants, self.seed = study, participants, seed
        design = study.design
        self._variants = [design.reference, *(v for v in design.variants if v != design.reference)]
        self._items = sorted({stimulus.item for stimulus in study.stimuli.values()})
        self._checks = {check.id: check for check in design.attention}
        self.reader = Reader(study)
        numeric = [question for question in study.settings.questions if question.numeric]
        rng = np.random.default_rng(seed)
        self._population = Population(truth, numeric, self._variants, participants, len(self._items), rng)

    def rater(self, number: int) -> tuple[Population, np.random.Generator]:
        """Return the population as one rater draws from it: by a stream of their own."""
        one = copy.copy(self._population)
        one.rng = np.random.default_rng([self.seed, number])
        return one, one.rng

    def answers(self, number: int, rater: Population, page: dict[str, Any]) -> list[tuple[str, str]]:
        """Return questions and a rater's answers to them, as stored, in the order of the page."""
        ids = self.reader.stimuli(page["html"], rater.rng)
        check = self._checks.get(ids[0])
        shown = [self.study.stimuli[check.stimulus if check else one] for one in ids]
        about = rated_stimulus(shown, self.study.design.reference)
        found = rater.answers(
            Shown(
                participant=np.array([number]),
                item=np.array([self._items.index(about.item)]),
                variant=np.array([self._variants.index(about.variant)]),
                progress=np.array([page["position"] / page["pages"]]),
                chance=np.array([1 / max(2, len(about.labels))]),
            )
        )
        numbers = dict(zip((q.id for q in rater.questions), found[0], strict=True))
        told = check and check.question if check and rater.attention(np.array([number]))[0] else None
        return [
            (
                q.id,
                check.answer
                if check and q.id == told
                else _spoken(q, numbers.get(q.id), about, shown, rater.rng),
            )
            for q in self.study.settings.questions
            if (q.numeric or q.required) and (q.kind != "label" or about.labels)
        ]


class _Rater:
    """One simulated participant before the page."""

    def __init__(self, crowd: Crowd, number: int, client: Client, pause: float) -> None:
        self.crowd, self.number, self.client, self.pause = crowd, number, client, pause
        self.rater, self.rng = crowd.rater(number)
        self.outcome = Outcome(acknowledged=client.acknowledged)

    async def take_part(self) -> Outcome:
        """Go from consent to the end, or as far as this rater stays."""
        settings = self.crowd.study.settings
        await self.client.open()
        try:
            language = settings.languages[int(self.rng.integers(len(settings.languages)))]
            device = "phone" if self.rng.random() < 0.3 else "desktop"
            await self.client.enrol(language, device)
            await self.client.call("start")
            if self.client.page["stage"] == "check":
                answers = [check.answer for check in settings.check]
                await self.client.call("check", answers=answers, key=secrets.token_hex(16))
            await self._rate()
        except Refused as refused:
            self.outcome.ended = refused.kind
        return self.outcome

    async def _rate(self) -> None:
        page = self.client.page
        while page["stage"] == "rating":
            position, pages = page["position"], page["pages"]
            if (position + 1) / pages > self.rater.stay[self.number]:
                return
            answers = self.crowd.answers(self.number, self.rater, page)
            for question, value in answers:
                await self._think(len(answers))
                await self.client.answer(question, value)
            # What the truth says, however little the rater really waits: rules on times can then be tried.
            seconds = float(self.rater.seconds(np.array([self.number]))[0])
            if position and self.rng.random() < _BACK:
                await self._look_back(position)
            page = await (
                self.client.turn(position, position + 1, seconds)
                if position + 1 < pages
                else self.client.call("finish", seconds=seconds)
            )
        self.outcome.ended, self.outcome.code = "completed", page.get("code") or ""

    async def _look_back(self, position: int) -> None:
        page = await self.client.turn(position, position - 1, 0.0)
        for question, value in list(page["answers"].items())[:1]:
            await self.client.answer(question, value)
        await self.client.turn(position - 1, position, 0.0)

    async def _think(self, answers: int) -> None:
        await asyncio.sleep(self.pause / answers * float(np.exp(0.5 * self.rng.standard_normal())))


def connected(url: str) -> httpx.AsyncClient:
    """Return what clients of a server share, for the address people would open."""
    limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
    return httpx.AsyncClient(base_url=url.rstrip("/"), limits=limits, timeout=60)


async def simulate(
    crowd: Crowd,
    http: httpx.AsyncClient,
    think_seconds: float = 0.0,
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Let raters take part in a served study, all at once.

    Args:
        crowd: the raters.
        http: of `connected`; closed at the end.
        think_seconds: median time each spends on a page.
        done: told of each rater who has ended.

    Raises:
        InputError: there is no study at the address, or another one.
        QuantxaiError: the server was away for too long.
    """

    async def one(number: int) -> Outcome:
        outcome = await _Rater(crowd, number, Client(http), think_seconds).take_part()
        done(outcome)
        return outcome

    async with http:
        await Client(http, patience=_AT_FIRST).open()  # is anything there?
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(number)) for number in range(crowd.participants)]
        except ExceptionGroup as failed:  # of the same server: one says it for all
            raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def _plain(text: str) -> str:
    return " ".join(text.split())


def _spoken(
    question: Question, value: float | None, about: Stimulus, shown: list[Stimulus], rng: np.random.Generator
) -> str:
    """Return an answer as the page would send it."""
    if value is None:
        return "Simulated."
    if question.kind == "likert":
        return str(int(value))
    if question.kind == "pairwise":
        sides = ["left", "right"] if shown[0].id == about.id else ["right", "left"]
        return "same" if value == 0 else sides[0] if value > 0 else sides[1]
    if value and about.answer is not None:
        return about.answer
    others = [label for label in about.labels if label != about.answer]
    return others[int(rng.integers(len(others)))]

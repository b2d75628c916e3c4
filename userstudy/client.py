"""A program that uses the participant's page as the page's own script does.

It opens the page, reads from it how the server wants to be called, and calls it the same way: one answer
after another, each under a key of its own, sent again under the same key until the server has said that
it has it. See userstudy/app/server.py for what is said.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import secrets
import time
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any, NamedTuple

import httpx

from quantxai.errors import InputError, QuantxaiError

__all__ = ["Acknowledged", "Client", "Refused", "texts"]

_CONFIG = re.compile(r"window\.gradio_config\s*=\s*(?={)")
_TIMEOUT = 20.0  # seconds the page waits for one call
_PAUSE = 0.5  # seconds before a call is repeated, twice as long each time, 15 at most


class Refused(QuantxaiError):
    """The server said kindly why something cannot be done.

    Args:
        kind: which of `userstudy.errors.KINDS`.
        message: what a participant would read.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind = kind


class Acknowledged(NamedTuple):
    """An answer that the server said it has."""

    token: str
    position: int
    question: str
    value: str
    key: str


class Client:
    """One participant's browser.

    Args:
        http: shared by all clients of a server, its `base_url` the study's address.
        patience: seconds for which a call is repeated before the client gives up.
        observe: told of each successful call its name and seconds, the repetitions included.

    Attributes:
        token: the participant's, empty before consent.
        page: what the server said last: see userstudy/app/server.py.
        acknowledged: the answers the server has.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        patience: float = 120.0,
        observe: Callable[[str, float], None] = lambda what, seconds: None,
    ) -> None:
        self._http, self._patience, self._observe = http, patience, observe
        self._functions: dict[str, int] = {}
        self._address = ""
        self.token = ""
        self.page: dict[str, Any] = {}
        self.acknowledged: list[Acknowledged] = []

    async def open(self) -> None:
        """Load the page, and learn from it how the server wants to be called.

        Raises:
            InputError: no study's page is at the address.
        """
        begun = time.perf_counter()
        response = await self._insist(
            lambda: self._http.get("/", params={"t": self.token} if self.token else {})
        )
        config = _CONFIG.search(response.text)
        try:
            told, _ = json.JSONDecoder().raw_decode(response.text, config.end() if config else 0)
            self._functions = {entry["api_name"]: entry["id"] for entry in told["dependencies"]}
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{self._http.base_url} is no study's page: start one with quantxai study serve"
            ) from None
        self._address = f"{told.get('api_prefix', '/gradio_api')}/run/predict"
        self._observe("open", time.perf_counter() - begun)

    async def call(self, what: str, **request: Any) -> dict[str, Any]:
        """Call the server until it answers; the page it says comes next is kept.

        Args:
            what: a handler, such as enrol or turn.
            request: what is sent.

        Raises:
            Refused: it cannot be done.
            QuantxaiError: the server did not answer for too long.
        """
        begun = time.perf_counter()
        body = {
            "fn_index": self._functions[what],
            "data": [self.token, {"language": self.page.get("language", ""), **request}],
        }
        response = await self._insist(lambda: self._http.post(self._address, json=body, timeout=_TIMEOUT))
        if response.status_code >= 400:
            raise Refused("invalid_answer", f"{what} was answered with status {response.status_code}")
        reply: dict[str, Any] = response.json()["data"][0]
        if not reply["ok"]:
            raise Refused(reply["kind"], reply.get("message", ""))
        self._observe(what, time.perf_counter() - begun)
        self.token = reply.get("token", self.token)
        if "stage" in reply:
            self.page = reply
        return reply

    async def enrol(self, language: str, device: str) -> dict[str, Any]:
        """Give consent, and return the first page."""
        return await self.call("enrol", language=language, device=device, key=secrets.token_hex(16))

    async def answer(self, question: str, value: str) -> None:
        """Give an answer on the page shown, under a key of its own."""
        position, key = self.page["position"], secrets.token_hex(16)
        await self.call("answer", position=position, question=question, value=value, key=key)
        self.acknowledged.append(Acknowledged(self.token, position, question, value, key))

    async def turn(self, position: int, to: int, seconds: float) -> dict[str, Any]:
        """Leave a page for another after so many seconds, and return that one."""
        return await self.call("turn", **{"from": position, "to": to, "seconds": seconds})

    async def _insist(self, send: Callable[[], Any]) -> httpx.Response:
        """Send until the server answers anything but "later", waiting longer each time as the page does."""
        until, attempt = time.monotonic() + self._patience, 0
        while True:
            try:
                response: httpx.Response = await send()
                if not _later(response):
                    return response
                why = f"status {response.status_code}"
            except httpx.TransportError as error:
                why = str(error) or type(error).__name__
            if time.monotonic() > until:
                raise QuantxaiError(f"{self._http.base_url} did not answer for {self._patience:.0f} s: {why}")
            await asyncio.sleep(min(15.0, _PAUSE * 2**attempt) * random.uniform(0.75, 1.25))
            attempt += 1


def texts(html: str) -> list[str]:
    """Return the texts to be rated that a page shows, in their order; of marked changes the bare text."""
    reader = _Texts()
    reader.feed(html)
    return reader.found


class _Texts(HTMLParser):
    """Collects the texts of `[data-part] .text`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """A text begins, unless it is the marked copy of one."""
        classes = (dict(attributes).get("class") or "").split()
        if "text" in classes and "marked" not in classes:
            self._inside = tag
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        """A text ends with its own element: model's texts hold no elements."""
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        """Belongs to the text that is open."""
        if self._inside:
            self.found[-1] += data


def _later(response: httpx.Response) -> bool:
    """Whether the same request may succeed later."""
    if response.status_code >= 400:
        return response.status_code == 429 or response.status_code >= 500
    told = response.json() if "json" in response.headers.get("content-type", "") else {}
    return bool("data" in told and told["data"][0].get("retry"))

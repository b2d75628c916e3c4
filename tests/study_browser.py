"""A participant in a real browser: what the tests of the study's page do there."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Server", "Visitor"]

ALLOWED = re.compile(r"/|/(assets|static)/.*|/theme\.css|/favicon\.ico|/gradio_api/run/predict")
"""Paths the page may ask for."""
SAVED = "document.querySelector('.saved').dataset.state === 'saved'"


class Server:
    """`quantxai study serve` as a process of its own, all that it says to stderr kept in `log`."""

    def __init__(self, study: Path, *options: str) -> None:
        self.study = study
        self.log = study.parent / "server.log"
        self.options = options
        self.port = 0
        self.url = ""
        self.start()

    def start(self) -> None:
        """Start, at the same port as before."""
        command = [sys.executable, "-m", "quantxai", "study", "serve", str(self.study)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), *self.options],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("participants"):
                self.url = line.split()[1]
                self.port = urlsplit(self.url).port or 0
            if line.startswith("admin"):
                return
        raise AssertionError(f"the server did not start: {self.log.read_text()}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop, and wait until it has."""
        self.process.send_signal(how)
        self.process.wait(30)
        if self.process.stdout:
            self.process.stdout.close()

    def stored(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the database holds."""
        connection = sqlite3.connect(self.study / "study.sqlite", timeout=30)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()


class Visitor:
    """One browser window with one participant in it.

    Whatever the page asks for beyond its own host and paths, and whatever it complains of, is in
    `complaints`.
    """

    def __init__(self, browser: Any, server: Server, **options: Any) -> None:
        self.server = server
        self.complaints: list[str] = []
        options = {"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", **options}
        self.context = browser.new_context(**options)
        self.page = self.window()

    def window(self) -> Any:
        """Open another window or tab."""
        page = self.context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda asked: self._asked(asked.url))
        page.on("console", lambda said: self.complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        return page

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme == "data":
            return
        if parts.port != self.server.port or not ALLOWED.fullmatch(parts.path):
            self.complaints.append(url)

    def open(self, query: str = "", page: Any = None) -> Any:
        """Open the page and wait until it has moved into Gradio's component."""
        page = page or self.page
        page.goto(self.server.url + query)
        page.wait_for_selector("gradio-app #study #heading")
        return page

    @property
    def heading(self) -> str:
        """What the page's heading says."""
        return str(self.page.inner_text("#heading"))

    @property
    def token(self) -> str:
        """The participant's, from the address."""
        return str(self.page.url).partition("?t=")[2]

    def turned(self, before: str) -> None:
        """Wait until another page is shown."""
        self.page.wait_for_function("old => document.querySelector('#heading').innerText !== old", arg=before)

    def begin(self, query: str = "") -> None:
        """Agree, and pass the check."""
        self.open(query)
        self.page.click("[data-do=enrol]")
        self.page.click("[data-do=start]")
        self.page.check("[name=check-0][value='0']")
        self.page.click("[type=submit]")
        self.page.wait_for_selector("[data-form=rating]")

    def rate(self, value: int = 4) -> None:
        """Answer every scale of the page."""
        for scale in self.page.query_selector_all("fieldset.likert"):
            scale.query_selector(f"input[value='{value}']").check(force=True)

    def saved(self) -> None:
        """Wait until the page says that all is saved."""
        self.page.wait_for_function(SAVED)

    def go_on(self) -> None:
        """Turn the page, or finish."""
        before = self.heading
        self.page.click("[type=submit]")
        self.turned(before)

    def close(self) -> None:
        """Leave."""
        self.context.close()

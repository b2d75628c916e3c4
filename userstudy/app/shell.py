"""The document around the page: Gradio's own, with the study's words, style and script in its head.

Gradio's document speaks of Gradio: its title, pictures and addresses on other hosts, a fixed language. What
is needed of it is its configuration and the names of its files; the rest is `pages/shell.html.j2`. The
document holds the participant's page already, so that it can be read before Gradio's front end has
started; then the page moves into Gradio's component (see `pages/study.js`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from starlette.types import ASGIApp, Message, Scope

from quantxai.errors import QuantxaiError
from userstudy.app.pages import Pages, Shown, environment

__all__ = ["document", "read_page"]

_CONFIG = re.compile(r"<script>window\.gradio_config = (.*?);</script>", re.DOTALL)
_MODULE = re.compile(r'<script[^>]*type="module"[^>]*src="([^"]+)"')
_SHEET = re.compile(r'<link[^>]*rel="stylesheet"[^>]*href="([^"]+)"')


@dataclass(frozen=True)
class _Gradio:
    """What the page needs of Gradio's document."""

    config: str
    modules: tuple[str, ...]
    sheets: tuple[str, ...]


async def document(gradio: ASGIApp, scope: Scope, shown: Shown, pages: Pages) -> str:
    """Return the whole document of a page.

    Args:
        gradio: Gradio's application.
        scope: the request for the page.
        shown: the page.
        pages: the words around it.
    """
    parts = read_page(await _captured(gradio, scope))
    words = pages.words[shown.language]
    return (
        environment()
        .get_template("shell.html.j2")
        .render(
            shown=shown,
            gradio=parts,
            style=_resource("study.css"),
            script=_resource("study.js"),
            description=words("page.description"),
            noscript=words("page.noscript"),
        )
    )


@cache
def _resource(name: str) -> str:
    return (files("userstudy") / "pages" / name).read_text(encoding="utf-8")


def read_page(page: str) -> _Gradio:
    """Return what is needed of Gradio's own document.

    Raises:
        QuantxaiError: it does not look like one.
    """
    config = _CONFIG.search(page)
    modules, sheets = _MODULE.findall(page), _SHEET.findall(page)
    if config is None or not modules:
        raise QuantxaiError(
            "this Gradio writes a page that quantxai does not know; install gradio 6.31 or near it"
        )
    return _Gradio(config[1], tuple(modules), tuple(sheets))


async def _captured(app: ASGIApp, scope: Scope) -> str:
    """Return what an application answers to a GET of its first page."""
    sent: list[bytes] = []
    headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    inner = {**scope, "method": "GET", "path": "/", "query_string": b"", "headers": headers}
    await app(inner, receive, send)
    return b"".join(sent).decode("utf-8")

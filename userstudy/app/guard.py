"""What stands before Gradio: lets through what the participant's page needs, and nothing else.

Gradio serves its API's description, its queue, files, uploads and more on the same port. The page needs
none of it, so the guard knows the few paths that are needed and answers 404 to all others, whatever a
later Gradio may add.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from userstudy.app.calls import BadCall, Call, read_call
from userstudy.app.headers import Headed, content_security_policy, inline_scripts
from userstudy.app.limits import Limit, Limiter, address_group

__all__ = ["CALL", "Guard", "Rules"]

CALL = "/gradio_api/run/predict"
"""Where the page's calls go."""
_FILES = frozenset({"/theme.css", "/favicon.ico", "/healthz"})
_FOLDERS = ("/assets/", "/static/")
_PATH = re.compile(r"(/[A-Za-z0-9_@-][A-Za-z0-9._@-]*)*/?")
_QUERY = frozenset({"t", "lang", "PROLIFIC_PID", "STUDY_ID", "SESSION_ID", "__theme"})
"""Parameters of the page's address; Gradio would read more from it, such as `deep_link`."""
_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:\d{1,5})?")
_MAX_BODY = 64 * 1024
_BODY_SECONDS = 20.0

_log = logging.getLogger("userstudy")


@dataclass(frozen=True)
class Rules:
    """What a deployment decides.

    Args:
        hosts: names the server answers to, in lower case and without port; any where empty.
        frame_ancestors: who may embed the page, as in Content-Security-Policy.
        behind_proxy: whether a proxy in front sets X-Forwarded-Host and X-Forwarded-Proto. Where there is
            none these are a visitor's invention and ignored.
        address: calls and pages of one address; a whole room may share one.
        link: calls with one participant's link.
        enrolment: sessions begun from one address.
    """

    hosts: tuple[str, ...] = ()
    frame_ancestors: str = "'none'"
    behind_proxy: bool = False
    address: Limit = field(default_factory=lambda: Limit(per_second=300, burst=6000))
    link: Limit = field(default_factory=lambda: Limit(per_second=20, burst=200))
    enrolment: Limit = field(default_factory=lambda: Limit(per_second=1000 / 3600, burst=1000))


class Guard:
    """ASGI middleware around the study's whole app.

    Args:
        app: what it guards.
        functions: number of inputs of each of the page's event handlers, by its index in Gradio.
        enrolling: which of them enrols someone.
        rules: what the deployment decides.
    """

    def __init__(self, app: ASGIApp, functions: Mapping[int, int], enrolling: int, rules: Rules) -> None:
        self.app = app
        self.functions = functions
        self.enrolling = enrolling
        self.rules = rules
        self._address = Limiter(rules.address)
        self._link = Limiter(rules.link)
        self._enrolment = Limiter(rules.enrolment)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._http(scope, receive, Headed(send, lasting=scope["path"].startswith(_FOLDERS)))

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        answer = self._refusal(scope) or self._limited(scope)
        if answer is None and path == CALL:
            answer = await self._call(scope, receive)
        elif answer is None and path == "/":
            answer = await self._page(scope)
        if answer is not None:
            await answer(scope, receive, send)
            return
        try:
            await self.app(self._inner(scope), receive, send)
        except Exception:
            _log.exception("%s %s failed", scope["method"], path)
            await _failure(500)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, methods = Headers(scope=scope), _methods(scope["path"])
        host = headers.get("host", "").lower()
        if not _HOST.fullmatch(host) or (self.rules.hosts and _name(host) not in self.rules.hosts):
            return PlainTextResponse("This server does not go by that name.", 400)
        if not methods:
            return PlainTextResponse("There is nothing here.", 404)
        if scope["method"] not in methods:
            return PlainTextResponse("Not in this way.", 405, {"Allow": ", ".join(methods)})
        if scope["method"] == "POST" and _cross_site(headers, host):
            return PlainTextResponse("Sent from another site.", 403)
        return None

    def _limited(self, scope: Scope) -> Response | None:
        if scope["path"] in _FILES or scope["path"].startswith(_FOLDERS):
            return None
        return _too_many(self._address.wait(_address(scope)))

    async def _call(self, scope: Scope, receive: Receive) -> Response:
        """Pass on a call of the page, in its fixed shape."""
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdigit() or len(declared) > 12 or int(declared) > _MAX_BODY:
            return _failure(413)
        try:
            body = await asyncio.wait_for(_read(receive), _BODY_SECONDS)
            call = read_call(body, self.functions) if len(body) <= _MAX_BODY else None
        except (BadCall, TimeoutError):
            return _failure(400)
        if call is None:
            return _failure(413)
        limited = self._limited_call(scope, call)
        if limited is not None:
            return limited
        length = str(len(call.body)).encode()
        inner = self._inner(scope, (b"content-type", b"application/json"), (b"content-length", length))
        answer = await self._collected(inner, call.body)
        # Gradio answers what it does not understand with the exception's words or the input.
        return answer if answer.status_code < 400 else _failure(answer.status_code)

    def _limited_call(self, scope: Scope, call: Call) -> Response | None:
        seconds = self._link.wait(call.token[:200]) if call.token else 0.0
        if not seconds and call.function == self.enrolling:
            seconds = self._enrolment.wait(_address(scope))
        return _too_many(seconds)

    async def _page(self, scope: Scope) -> Response:
        """Pass on the page, with a policy under which only its own scripts run."""
        answer = await self._collected(self._inner(scope, (b"accept-encoding", b"identity")), b"")
        if answer.status_code >= 400:
            return _failure(answer.status_code)
        # The policy forbids to set the page's base; this one is the default anyway.
        page = bytes(answer.body).replace(b'<base href="./" />', b"")
        policy = content_security_policy(inline_scripts(page), self.rules.frame_ancestors)
        return Response(page, 200, {"Content-Security-Policy": policy}, "text/html")

    def _inner(self, scope: Scope, *replaced: tuple[bytes, bytes]) -> Scope:
        """Return a request as the app is to see it: nothing in it that could steer Gradio."""
        dropped = {name for name, _ in replaced}
        admin = _is_admin(scope["path"])
        if not admin:
            dropped |= {b"cookie", b"authorization"}
        headers = [(name, value) for name, value in scope["headers"] if name not in dropped]
        if not self.rules.behind_proxy:
            headers = [pair for pair in headers if not pair[0].startswith((b"x-forwarded-", b"forwarded"))]
        query = scope["query_string"] if admin else _known(scope)
        return {**scope, "headers": [*headers, *replaced], "query_string": query}

    async def _collected(self, scope: Scope, body: bytes) -> Response:
        """Return the app's whole answer, 500 where it raised."""
        sent: list[Message] = []
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return waiting.pop() if waiting else await asyncio.get_running_loop().create_future()

        async def send(message: Message) -> None:
            sent.append(message)

        try:
            await self.app(scope, receive, send)
        except Exception:
            _log.exception("%s %s failed", scope["method"], scope["path"])
            return _failure(500)
        answer = Response(b"".join(message.get("body", b"") for message in sent[1:]), sent[0]["status"])
        answer.raw_headers = [*sent[0]["headers"]]
        return answer


def _methods(path: str) -> tuple[str, ...]:
    if not _PATH.fullmatch(path):
        return ()
    if path == CALL:
        return ("POST",)
    if path == "/" or path in _FILES or (path.startswith(_FOLDERS) and not path.endswith("/")):
        return ("GET", "HEAD")
    return ("GET", "HEAD", "POST") if _is_admin(path) else ()


def _is_admin(path: str) -> bool:
    return path == "/admin" or path.startswith("/admin/")


def _name(host: str) -> str:
    return re.sub(r":\d+$", "", host)


def _cross_site(headers: Headers, host: str) -> bool:
    """Whether a browser says that another site sent this; what is no browser says nothing."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site != "same-origin"
    origin = headers.get("origin")
    return origin is not None and origin.lower().partition("://")[2] != host


def _address(scope: Scope) -> str:
    return address_group(scope["client"][0]) if scope.get("client") else ""


def _known(scope: Scope) -> bytes:
    pairs = parse_qsl(scope["query_string"].decode("latin-1")[:4096], max_num_fields=50)
    return urlencode([pair for pair in pairs if pair[0] in _QUERY]).encode()


async def _read(receive: Receive) -> bytes:
    """Return a request's body, cut where it is longer than allowed."""
    body = b""
    while len(body) <= _MAX_BODY:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            break
    return body


def _failure(status: int) -> Response:
    return JSONResponse({"error": _SENTENCES.get(status, _SENTENCES[500])}, status)


_SENTENCES = {
    400: "The page sent something that cannot be read. Please reload it.",
    413: "That text is too long.",
    429: "Too many requests at once. Please wait a moment.",
    500: "Something went wrong on our side. What you answered before is kept; please try again in a minute.",
}


def _too_many(seconds: float) -> Response | None:
    if not seconds:
        return None
    answer = _failure(429)
    answer.headers["Retry-After"] = str(math.ceil(seconds))
    return answer

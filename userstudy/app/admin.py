"""The admin page, under /admin: how the study goes, who is let in, whose ratings are set aside.

Plain pages without a script. Nothing of it goes through Gradio.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from quantxai.errors import InputError, QuantxaiError
from quantxai.files import safe_name
from userstudy import operation, password
from userstudy.app.archive import archive
from userstudy.app.headers import NO_SCRIPT
from userstudy.app.logins import WINDOW, Logins, TooManyTries, Visit
from userstudy.app.overview import overview
from userstudy.app.pages import environment
from userstudy.errors import StudyError
from userstudy.settings import in_language
from userstudy.study import Study

__all__ = ["admin_routes"]

_LONGEST_FORM = 16 * 1024  # bytes
_AWAY = "The study's database cannot be reached just now. Nothing stored is lost; please reload in a minute."
_DONE = {
    "open": "The study is open.",
    "paused": "The study is paused: nobody new comes in, those who have begun go on.",
    "closed": "The study is closed: nobody comes in or goes on.",
    "excluded": "The participant is set aside, and their place is free.",
    "included": "The participant's ratings count again.",
}
"""What the page says after a change, by what the address tells it."""

_log = logging.getLogger("userstudy")
_Fields = dict[str, str]


def admin_routes(study: Study, engine: Engine, root_path: str = "") -> APIRouter:
    """Return the admin pages, the health check beside them.

    Args:
        study: whose.
        engine: its database.
        root_path: what the public address has before the page.
    """
    admin, router = _Admin(study, engine, root_path), APIRouter()
    handlers: tuple[tuple[str, str, _Handler], ...] = (
        ("GET", "", admin.overview),
        ("GET", "/login", admin.login),
        ("POST", "/login", admin.sign_in),
        ("POST", "/logout", admin.sign_out),
        ("POST", "/admission", admin.admit),
        ("POST", "/exclude", admin.exclude),
        ("POST", "/include", admin.include),
        ("GET", "/export.zip", admin.export),
    )
    for method, path, handler in handlers:
        router.add_api_route(f"/admin{path}", admin.endpoint(handler), methods=[method])
    router.add_api_route("/admin/admin.css", _style, methods=["GET"])
    router.add_api_route("/healthz", admin.health, methods=["GET"])
    return router


class _Admin:
    """The pages of one study."""

    def __init__(self, study: Study, engine: Engine, root_path: str) -> None:
        self._study = study
        self._engine = engine
        self._root = root_path
        self._logins = Logins(study, engine)
        self._cookie = f"quantxai-admin-{study.digest[:8]}"

    def endpoint(self, handler: _Handler) -> Callable[[Request], Awaitable[Response]]:
        """Return a handler as a route: who asks is known, what they send is read, errors are told."""

        async def answer(request: Request) -> Response:
            fields = await _fields(request) if request.method == "POST" else dict(request.query_params)
            return await run_in_threadpool(self._answer, handler, request, fields)

        return answer

    def _answer(self, handler: _Handler, request: Request, fields: _Fields) -> Response:
        try:
            if password.version(self._study) is None:
                return self._page("closed", None, 403)
            visit = self._logins.visit(request.cookies.get(self._cookie, ""))
            if handler not in (self.login, self.sign_in) and not visit.signed_in:
                return self._to("/login")
            sent = fields.get("form", "").encode("utf-8", "replace")
            if request.method == "POST" and not hmac.compare_digest(sent, visit.form.encode()):
                return self._page("login", visit, 403, problem="This form is too old. Please try again.")
            answer = handler(request, visit, fields)
            if "set-cookie" not in answer.headers:
                self._keep(answer, request, visit.cookie)
            return answer
        except StudyError:
            return self._page("away", None, 503, problem=_AWAY)
        except QuantxaiError as error:
            _log.error("%s: %s", request.url.path, error)
            return self._page("away", None, 500, problem="The server's log says what is wrong.")
        except Exception:
            _log.exception("%s failed", request.url.path)
            return self._page("away", None, 500, problem="The server's log says what is wrong.")

    def overview(self, request: Request, visit: Visit, fields: _Fields) -> Response:
        """How the study goes."""
        return self._overview(visit, done=_DONE.get(fields.get("done", ""), ""))

    def login(self, request: Request, visit: Visit, fields: _Fields) -> Response:
        """The form that asks for the password."""
        return self._to("") if visit.signed_in else self._page("login", visit)

    def sign_in(self, request: Request, visit: Visit, fields: _Fields) -> Response:
        """Open a session for whoever knows the password."""
        address = request.client.host if request.client else ""
        try:
            session = self._logins.sign_in(fields.get("password", ""), address)
        except TooManyTries:
            minutes = int(WINDOW.total_seconds() / 60)
            problem = (
                f"There were too many wrong passwords. Please wait {minutes} minutes before you try again."
            )
            return self._page("login", visit, 429, problem=problem)
        if session is None:
            return self._page("login", visit, 403, problem="That is not the password.")
        return self._keep(self._to(""), request, session.cookie)

    def sign_out(self, request: Request, visit: Visit, fields: _Fields) -> Response:
        """End the session."""
        self._logins.sign_out(visit)
        return self._keep(self._to("/login"), request, "")

    def admit(self, request: Request, visit: Visit, fields: _Fields) -> Response:
        """Open, pause or close the study."""
        status = fields.get("status", "")
        if status not in operation.ADMISSIONS:
            return self._overview(visit, 400, problem="There is no such choice.")
        operation.set_admission(self._study, self._engine, status)  # type: ignore[arg-type]
        return self._to(f"?done={status}")

    def exclude(self, request: Request, visit: Visit, fields: _Fields) -> Response:
        """Set a participant aside."""
        return self._changed(visit, "excluded", operation.exclude, _number(fields), fields.get("reason", ""))

    def include(self, request: Request, visit: Visit, fields: _Fields) -> Response:
        """Let a participant's ratings count again."""
        return self._changed(visit, "included", operation.include, _number(fields))

    def export(self, request: Request, visit: Visit, fields: _Fields) -> Response:
        """All tables, as they are now."""
        name = f"{safe_name(self._study.settings.name)}-export.zip"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(archive(self._study, self._engine), 200, headers, "application/zip")

    def health(self) -> Response:
        """Whether the study can be served, for whoever watches over it."""
        try:
            operation.admission_status(self._engine)
        except StudyError:
            return PlainTextResponse("no database", 503)
        return PlainTextResponse("ok")

    def _changed(self, visit: Visit, done: str, change: Callable[..., None], *values: Any) -> Response:
        try:
            change(self._engine, *values)
        except InputError as error:
            return self._overview(visit, 400, problem=f"{error}.".replace("..", "."))
        return self._to(f"?done={done}#participants")

    def _overview(self, visit: Visit, code: int = 200, *, done: str = "", problem: str = "") -> Response:
        found = overview(self._study, self._engine)
        return self._page("overview", visit, code, done=done, problem=problem, **found)

    def _page(self, name: str, visit: Visit | None, code: int = 200, **context: Any) -> Response:
        told = {
            "done": "",
            "problem": "",
            "title": self._title(),
            "visit": visit,
            "root": self._root,
        } | context
        html = environment().get_template(f"admin_{name}.html.j2").render(told)
        # Other than participants' pages: without it, forms would be sent without saying from where.
        headers = {"Content-Security-Policy": NO_SCRIPT, "Referrer-Policy": "same-origin"}
        return HTMLResponse(html, code, headers)

    def _to(self, rest: str) -> Response:
        return RedirectResponse(f"{self._root}/admin{rest}", 303)

    def _title(self) -> str:
        settings = self._study.settings
        return in_language(settings.texts.title, settings.languages[0])

    def _keep(self, answer: Response, request: Request, cookie: str) -> Response:
        """Let the browser keep a session, or forget it where the cookie is empty."""
        answer.set_cookie(
            self._cookie,
            cookie,
            max_age=None if cookie else 0,
            path=f"{self._root}/admin",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return answer


_Handler = Callable[[Request, Visit, _Fields], Response]


async def _fields(request: Request) -> _Fields:
    """Return what a form sent, nothing where it is longer than the page's forms can be."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LONGEST_FORM:
            return {}
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=20))
    except ValueError:
        return {}


def _number(fields: _Fields) -> int:
    given = fields.get("participant", "")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 10 else 0


def _style() -> Response:
    return Response(_sheet(), media_type="text/css")


@cache
def _sheet() -> bytes:
    return (files("userstudy") / "pages" / "admin.css").read_bytes()

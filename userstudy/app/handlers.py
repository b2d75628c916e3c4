"""What each call of the page does: read it with care, ask the service, answer with a page."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from userstudy.app.pages import Pages, Shown
from userstudy.errors import StudyError
from userstudy.sessions import Prolific, Sessions, View

__all__ = ["HANDLERS", "Handlers"]

HANDLERS = ("show", "enrol", "start", "check", "answer", "turn", "finish", "withdraw", "language")
"""The handlers, in the order of Gradio's `fn_index`."""
Reply = dict[str, Any]

_LATER = frozenset({"unavailable"})
"""Kinds after which the same call may succeed."""
_STAYS = frozenset({"unavailable", "invalid_answer"})
"""Kinds that do not take the participant away from their page."""
_LONGEST = 10_000  # characters of a text

_log = logging.getLogger("userstudy")


class Handlers:
    """The handlers of one study.

    Args:
        sessions: the service behind them.
        pages: what is shown.
        kind: of everyone who enrols here: human, simulated or preview.
    """

    def __init__(self, sessions: Sessions, pages: Pages, kind: str = "human") -> None:
        self.sessions = sessions
        self.pages = pages
        self.kind = kind

    def named(self, name: str) -> Callable[[Any, Any], Reply]:
        """Return a handler that always answers: with a page, or with what to tell the participant."""
        handler: Callable[[str, Reply], Reply] = getattr(self, f"_{name}")

        def handle(token: Any, sent: Any) -> Reply:
            sent = sent if isinstance(sent, dict) else {}
            language = self.pages.language(str(sent.get("language", ""))[:20])
            try:
                return {"ok": True, **handler(str(token or ""), sent)}
            except StudyError as error:
                return self._refused(error.kind, language, begun=bool(token))
            except Exception:
                _log.exception("%s failed", name)
                return self._refused("unexpected", language)

        return handle

    def first(self, token: str, language: str) -> Shown:
        """Return the page a participant finds who opens the address."""
        try:
            return self.pages.view(self.sessions.view(token)) if token else self.pages.consent(language)
        except StudyError as error:
            return self.pages.notice(error.kind, language, begun=bool(token))
        except Exception:
            _log.exception("opening the page failed")
            return self.pages.notice("unexpected", language)

    def _refused(self, kind: str, language: str, *, begun: bool = False) -> Reply:
        told = {
            "ok": False,
            "kind": kind,
            "message": self.pages.sentence(kind, language),
            "retry": kind in _LATER,
        }
        return told if kind in _STAYS else told | _page(self.pages.notice(kind, language, begun=begun))

    def _show(self, token: str, sent: Reply) -> Reply:
        if not token:
            return _page(self.pages.consent(str(sent.get("language", ""))))
        return self._view(self.sessions.view(token))

    def _enrol(self, token: str, sent: Reply) -> Reply:
        device = "phone" if sent.get("device") == "phone" else "desktop"
        language = self.pages.language(_text(sent, "language"))
        key = _text(sent, "key") if "key" in sent else ""
        new = self.sessions.enrol(language, device, _prolific(sent), self.kind, key)
        return {**self._view(self.sessions.view(new)), "token": new}

    def _start(self, token: str, sent: Reply) -> Reply:
        return self._view(self.sessions.start_check(token))

    def _check(self, token: str, sent: Reply) -> Reply:
        answers = sent.get("answers")
        if not isinstance(answers, list) or any(type(answer) is not int for answer in answers):
            raise StudyError("invalid_answer")
        key = _text(sent, "key") if "key" in sent else ""
        passed = self.sessions.check(token, answers, key)
        return {**self._view(self.sessions.view(token), failed=not passed), "passed": passed}

    def _answer(self, token: str, sent: Reply) -> Reply:
        position, key = _number(sent, "position"), _text(sent, "key")
        self.sessions.answer(token, position, _text(sent, "question"), _text(sent, "value"), key)
        return {"key": key}

    def _turn(self, token: str, sent: Reply) -> Reply:
        view = self.sessions.turn(token, _number(sent, "from"), _number(sent, "to"), _seconds(sent))
        return self._view(view)

    def _finish(self, token: str, sent: Reply) -> Reply:
        return self._view(self.sessions.finish(token, _seconds(sent)))

    def _withdraw(self, token: str, sent: Reply) -> Reply:
        self.sessions.withdraw(token)
        return _page(self.pages.notice("withdrawn", str(sent.get("language", ""))))

    def _language(self, token: str, sent: Reply) -> Reply:
        language = self.pages.language(_text(sent, "language"))
        if not token:
            return _page(self.pages.consent(language))
        return self._view(self.sessions.language(token, language))

    def _view(self, view: View, *, failed: bool = False) -> Reply:
        reply = _page(self.pages.view(view, failed=failed))
        reply |= {"pages": view.pages, "answers": view.page.answers if view.page else {}}
        return reply | ({"code": view.code, "url": view.url} if view.stage == "debrief" else {})


def _page(shown: Shown) -> Reply:
    return {
        "stage": shown.stage,
        "position": shown.position,
        "html": shown.html,
        "title": shown.title,
        "language": shown.language,
        "direction": shown.direction,
    }


def _text(sent: Reply, key: str) -> str:
    value = sent.get(key)
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise StudyError("invalid_answer")
    return value


def _number(sent: Reply, key: str) -> int:
    value = sent.get(key)
    if type(value) is not int:
        raise StudyError("invalid_answer")
    return value


def _seconds(sent: Reply) -> float:
    value = sent.get("seconds", 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise StudyError("invalid_answer")
    return value


def _prolific(sent: Reply) -> Prolific | None:
    """Return who a participant is to Prolific, None for everyone else."""
    given = sent.get("prolific")
    if not isinstance(given, dict):
        return None
    names = ("PROLIFIC_PID", "STUDY_ID", "SESSION_ID")
    person, study, session = (str(given.get(name) or "")[:200] for name in names)
    return Prolific(person, study, session) if person else None

"""Attacks on the participant's app, each tried through HTTP."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from study_support import make_study

pytest.importorskip("gradio")
pytest.importorskip("argon2")

from sqlalchemy import Engine, event, func, select
from starlette.routing import Mount
from starlette.testclient import TestClient

from quantxai.records import digest
from userstudy.app import create_app
from userstudy.app.guard import CALL
from userstudy.app.server import HANDLERS
from userstudy.database.engine import open_database, transaction
from userstudy.database.models import Answer, Participant, Trial
from userstudy.records import Part
from userstudy.sessions import Sessions
from userstudy.study import Study
from userstudy.tokens import sign

VARIANTS = ("original-weights", "gptq-3", "nf4", "awq-zeta")
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> **bold** [l](javascript:alert(3)) "
    "{{ 7 * 7 }} {% raw %} ${7*7} </textarea></p>"
)
OPEN = {"/", "/theme.css", "/favicon.ico", "/assets/{path:path}", "/static/{path:path}", "/healthz"}
"""Routes of the app that anybody may get, besides /admin."""
Say = Callable[..., dict[str, Any]]


Change = Callable[[tuple[Part, ...]], tuple[Part, ...]]


def _rewritten(study: Study, change: Change) -> Study:
    """The study with other texts."""
    changed = (s.model_copy(update={"parts": change(s.parts)}) for s in study.stimuli.values())
    study.write(tuple(changed), study.design, study.origin)
    return Study.open(study.path)


def _without_ids(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Texts that differ, as those of make_study do, but not by the stimulus's id."""
    return tuple(
        Part(name=p.name, text=re.sub(r"[0-9a-f]{12}", lambda m: digest(m[0])[:8], p.text)) for p in parts
    )


class Served:
    """A study being served in this process."""

    def __init__(self, path: Path, parts: Change = lambda parts: parts, **changes: Any) -> None:
        self.study = _rewritten(make_study(path, **changes), parts)
        self.engine = open_database(self.study)
        # Power cuts are not what is tested here, and waiting for the disk takes most of the time.
        event.listen(self.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))
        self.engine.dispose()
        self.app = create_app(self.study, self.engine)
        self.client = TestClient(self.app, "http://study.example", raise_server_exceptions=False)
        self.client.__enter__()  # one event loop for all requests
        self.seen: list[str] = []

    def close(self) -> None:
        self.client.__exit__()
        self.engine.dispose()

    def post(self, what: str, token: Any, sent: Any) -> Any:
        answer = self.client.post(CALL, json={"fn_index": HANDLERS.index(what), "data": [token, sent]})
        self.seen.append(f"{answer.headers}\n{answer.text}")
        return answer

    def say(self, what: str, token: str = "", **sent: Any) -> dict[str, Any]:
        answer = self.post(what, token, sent)
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["data"][0])

    def rating(self) -> str:
        """A new participant's token, who is at the first page."""
        token = str(self.say("enrol", language="en", device="phone")["token"])
        self.say("start", token)
        assert self.say("check", token, answers=[0])["passed"]
        return token

    def stored(self) -> list[tuple[int, int, str, str]]:
        with transaction(self.engine, write=False) as session:
            columns = select(Answer.participant_id, Trial.position, Answer.question, Answer.value)
            return [tuple(row) for row in session.execute(columns.join(Trial).order_by(Answer.id))]  # type: ignore[misc]

    def participants(self) -> list[Participant]:
        with transaction(self.engine, write=False) as session:
            return list(session.scalars(select(Participant).order_by(Participant.id)))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One study for all tests; hostile texts wherever someone else writes texts."""
    found = Served(
        tmp_path_factory.mktemp("security") / "study",
        _without_ids,
        variants=VARIANTS,
        items=4,
        analysis={"reference": VARIANTS[0]},
        design={"items": 4, "per_participant": 4, "repeats": 1, "attention_checks": 1},
        recruitment={"participants": 1000},
    )
    yield found
    found.close()


def routes(app: Any, under: str = "") -> Iterator[tuple[str, set[str]]]:
    for route in app.routes:
        included = getattr(route, "original_router", None)  # FastAPI keeps an included router as it is
        if isinstance(route, Mount) or included is not None:
            yield from routes(included or route.app, under + getattr(route, "path", "").rstrip("/"))
        else:
            yield under + route.path, set(getattr(route, "methods", None) or {"GET"})


def test_whatever_gradio_serves_beyond_the_page_s_needs_is_not_there(served: Served) -> None:
    """Walks the routes of the Gradio that is installed, so that a later one opens nothing unnoticed."""
    found = {(path, method) for path, methods in routes(served.app) for method in methods}

    assert len(found) > 60
    assert {"/config", "/gradio_api/info", "/gradio_api/queue/data", "/gradio_api/upload"} <= {
        p for p, _ in found
    }
    for path, method in sorted(found):
        if (path in OPEN and method in ("GET", "HEAD")) or path.startswith("/admin"):
            continue
        address = re.sub(r"\{[^}]*\}", "x", path)
        assert served.client.request(method, address).status_code in (404, 405), (method, path)
        assert served.client.request(method, address.rstrip("/") + "/").status_code in (404, 405), (
            method,
            path,
        )


@pytest.mark.parametrize(
    "path",
    [
        "/assets/..%2f..%2f..%2f..%2f..%2fetc/passwd",
        "/assets/%252e%252e/%252e%252e/package.json",
        "/static/../../../../../etc/passwd",
        "/static//etc/passwd",
        "/assets/",
        "/gradio_api/file=/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1/",
    ],
)
def test_no_file_of_the_machine_is_served(served: Served, path: str) -> None:
    answer = served.client.get(path)

    assert answer.status_code in (403, 404)
    assert "root:" not in answer.text


def test_a_session_never_says_what_the_design_is(served: Served) -> None:
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.addFilter(lambda record: not record.name.startswith("httpx"))  # the test's own client
    logging.getLogger().addHandler(handler)
    served.seen.clear()
    for query in ("", "?lang=de", "?PROLIFIC_PID=x&STUDY_ID=y&SESSION_ID=z"):
        page = served.client.get(f"/{query}")
        served.seen.append(f"{page.headers}\n{page.text}")
    served.say("show")
    token = str(served.say("enrol", language="de", device="phone")["token"])
    pages = served.say("start", token)["pages"]
    served.say("check", token, answers=[1])
    served.say("check", token, answers=[0])
    for position in range(pages):
        for question, value in (("understandability", "3"), ("overall", "4"), ("remark", "fine")):
            served.say(
                "answer",
                token,
                position=position,
                question=question,
                value=value,
                key=f"{position}{question}",
            )
        if position + 1 < pages:
            served.say("turn", token, **{"from": position, "to": position + 1, "seconds": 3})
    shown = served.client.get("/", params={"t": token}).text
    end = served.say("finish", token)
    served.say("show", token)
    served.say("withdraw", token)

    logging.getLogger().removeHandler(handler)
    assert end["stage"] == "debrief"
    assert "Seite 6 von 6" in shown
    told = "\n".join([*served.seen, shown])
    assert "The dog number 1" in told
    for secret in secrets(served.study):
        assert not re.search(rf"(?<![A-Za-z0-9]){re.escape(secret)}", told, re.IGNORECASE), secret
    assert token not in log.getvalue()


def test_repeats_and_checks_look_like_other_pages(served: Served) -> None:
    """What frames the texts is the same on all pages about one kind of text: edits, or explanations."""
    token, frames = served.rating(), []
    for position in range(6):
        page = served.say("turn", token, **{"from": max(position - 1, 0), "to": position, "seconds": 3})
        # Edits that change nearly everything are shown without marks, and so is a check in an edit's place.
        html = re.sub(r'<div class="marks">.*?</div>', "", page["html"], flags=re.DOTALL)
        tags = re.findall(r"<(?:form|section|fieldset|div|label|input|p|button) [^>]*>", html)
        frame = "".join(tag.replace("text marked", "text") for tag in tags if "text plain" not in tag)
        frames.append(re.sub(r'data-position="\d"| disabled', "", frame).partition('class="bar"')[0])
        for question in ("understandability", "overall"):
            served.say(
                "answer", token, position=position, question=question, value="3", key=f"{position}{question}"
            )

    assert len(frames) == 6
    assert len(set(frames)) == 2


def secrets(study: Study) -> set[str]:
    """Words that would give away which variant wrote a text, or what kind of page this is."""
    design = json.loads((study.path / "design.json").read_text())
    stimuli = json.loads((study.path / "material.json").read_text())
    ids = {stimulus["id"] for stimulus in stimuli} | {check["id"] for check in design["attention"]}
    named = {stimulus[key] for stimulus in stimuli for key in ("item", "group", "explainer", "variant")}
    methods = {"gptq", "awq", "nf4", "hqq", "bitsandbytes", "int8", "quantiz", "smollm", "4-bit"}
    return (
        ids
        | named
        | methods
        | {design["kind"], "square", '"forms"', '"repeat"', "attention_check", "stimuli"}
    )


def broken_tokens(served: Served, good: str, tmp_path: Path) -> Iterator[str]:
    payload, stamp, signature = good.split(".")
    yield from ("", " ", "x", ".", "..", "a.b.c", "null", "0", good + " ", " " + good, good + ".", good[1:])
    yield from (good[:-1], good[: len(good) // 2], payload, f"{payload}.{stamp}", f"{payload}..{signature}")
    yield f"{payload}.{stamp}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    yield f"{payload}.{stamp}.{'A' * len(signature)}"
    yield f"{payload[:-2]}AA.{stamp}.{signature}"
    yield good.swapcase()
    yield good.replace("a", "\u0430").replace("e", "\u0435") + "\u200b"  # Cyrillic look-alikes
    yield sign(served.study.secret, "admin-session", "x")
    yield sign(served.study.secret, "participant", "not-a-participant")
    key = served.participants()[0].key
    yield sign(served.study.secret, "admin-visit", key)
    yield sign(b"0" * 64, "participant", key)
    yield sign(b"", "participant", key)
    yield "A" * 20_000


def test_a_link_that_was_not_given_out_opens_nothing(served: Served, tmp_path: Path) -> None:
    good = served.rating()
    before = served.stored()

    for token in broken_tokens(served, good, tmp_path):
        reply = served.say("answer", token, position=0, question="overall", value="1", key="k")
        assert (reply["ok"], reply["kind"]) == (False, "link_invalid"), token
    for what in HANDLERS:
        if what not in ("enrol", "answer"):
            assert not served.say(what, good[:-2])["ok"], what
    assert served.client.get("/", params={"t": good[:-1]}).text.count("This link does not work") == 1
    assert served.stored() == before
    assert served.say("show", good)["stage"] == "rating"


def test_links_run_out_and_are_of_one_study(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_study(tmp_path / "other")
    engine = open_database(other)
    foreign, own = Sessions(other, engine).enrol("en", "desktop"), served.rating()
    engine.dispose()

    assert served.say("show", foreign)["kind"] == "link_invalid"
    days = served.study.settings.recruitment.link_valid_days
    then = time.time() + (days + 1) * 24 * 3600
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: then)
    assert served.say("show", own)["kind"] == "link_expired"
    assert served.say("withdraw", own)["kind"] == "link_expired"
    assert served.client.get("/", params={"t": own}).text.count("This link has expired") == 1


def test_no_participant_reads_or_writes_another_s_data(served: Served) -> None:
    anna, ben = served.rating(), served.rating()
    served.say("answer", ben, position=0, question="remark", value="a secret of Ben", key="same-key")
    number = {p.id for p in served.participants()}
    before = [row for row in served.stored() if row[0] == max(number)]
    served.seen.clear()

    for position in (-1, 0, 1, 6, 7, 100, 2**31, 2**53):
        key = "same-key" if position == 0 else f"k{position}"  # Ben's key, for an answer of Anna
        reply = served.say("answer", anna, position=position, question="remark", value="of Anna", key=key)
        assert reply["ok"] == (position == 0), position  # the page before her, no other
    for extra in ({"participant": max(number)}, {"participant_id": 1}, {"id": 1}, {"token": ben}, {"t": ben}):
        answer = {"position": 0, "question": "overall", "value": "2", "key": "k-" + "-".join(extra)}
        for what, sent in (("answer", answer), ("show", {}), ("turn", {"from": 0, "to": 0, "seconds": 1})):
            assert served.post(what, anna, sent | extra).json()["data"][0]["ok"]
    assert "secret of Ben" not in "".join(served.seen)
    assert [row for row in served.stored() if row[0] == max(number)] == before
    assert served.say("withdraw", anna)["stage"] == "notice"
    assert [row for row in served.stored() if row[0] == max(number)] == before
    assert served.say("show", ben)["answers"] == {"remark": "a secret of Ben"}
    assert served.say("show", anna)["kind"] == "withdrawn"


def test_nobody_chooses_to_be_simulated_or_which_form(served: Served) -> None:
    sent = {"kind": "simulated", "form": 2, "seed": 1, "status": "completed", "key": "mine", "position": 5}
    served.say("enrol", language="en", device="robot", **sent)
    served.client.get("/?kind=simulated&preview=1")

    newest = served.participants()[-1]
    assert (newest.kind, newest.status, newest.device) == ("human", "active", "desktop")
    assert newest.key != "mine"


def test_injected_sql_and_markup_are_words(served: Served) -> None:
    token = served.rating()
    words = "'; DROP TABLE answers; -- " + HOSTILE
    number = len(served.participants())

    served.say("answer", token, position=0, question="remark", value=words, key="k1")
    served.say(
        "enrol", language="en", prolific={"PROLIFIC_PID": words, "STUDY_ID": words, "SESSION_ID": words}
    )

    assert served.stored()[-1][3] == words
    assert len(served.participants()) == number + 1
    shown = served.say("show", token)
    assert shown["answers"] == {"remark": words}
    assert harmless(shown["html"])
    assert harmless(served.client.get("/", params={"t": token}).text)


def harmless(html: str) -> bool:
    """Whether what was written as markup is shown as words."""
    return "&lt;script&gt;alert" in html and not re.search(
        r"<script>alert|<img src=x|<b>bold|>49<|\b49\b", html
    )


def test_texts_of_models_and_of_study_toml_are_shown_as_words(tmp_path: Path) -> None:
    parts = (Part(name="original", text=HOSTILE), Part(name="edited", text=HOSTILE + " more"))
    hostile = Served(
        tmp_path / "study",
        lambda _: parts,
        texts={
            "title": HOSTILE,
            "consent": HOSTILE,
            "instructions": HOSTILE,
            "debrief": HOSTILE,
            "contact": HOSTILE,
        },
        questions=[{"id": "q", "kind": "likert", "text": HOSTILE, "help": HOSTILE, "low": HOSTILE}],
        check=[],
    )
    assert harmless(hostile.client.get("/").text)
    assert harmless(hostile.say("show")["html"])
    enrolled = hostile.say("enrol", language="en")
    assert harmless(enrolled["html"])
    rating = hostile.say("start", enrolled["token"])
    assert rating["stage"] == "rating"
    assert harmless(rating["html"])
    assert harmless(hostile.client.get("/", params={"t": enrolled["token"]}).text)
    hostile.close()


def test_a_link_leaves_neither_by_referrer_nor_by_cache(served: Served) -> None:
    answer = served.client.get("/", params={"t": served.rating()})

    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', answer.text)


def test_errors_in_the_app_are_told_without_their_words(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a secret in /srv/study")

    token, log = served.rating(), io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger("userstudy").addHandler(handler)
    monkeypatch.setattr("userstudy.sessions.Sessions.view", broken)
    reply = served.say("show", token)
    page = served.client.get("/", params={"t": token})
    logging.getLogger("userstudy").removeHandler(handler)

    assert reply["kind"] == "unexpected"
    assert log.getvalue().count("RuntimeError: a secret") == 2  # whoever runs the server reads what happened
    assert token not in log.getvalue()
    assert "srv" not in json.dumps(reply) + page.text


def test_nothing_was_lost_or_doubled(served: Served) -> None:
    """After all of the above: the tables are there, and no answer is stored twice under one key."""
    with transaction(served.engine, write=False) as session:
        doubled = select(Answer.participant_id, Answer.key).group_by(Answer.participant_id, Answer.key)
        assert not session.execute(doubled.having(func.count() > 1)).all()
    assert isinstance(served.engine, Engine)

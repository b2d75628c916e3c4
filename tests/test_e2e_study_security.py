"""Attacks on the served study that need a real server, a real browser, or many tries."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from study_browser import Server, Visitor
from study_support import make_study

pytest.importorskip("gradio")
pytest.importorskip("argon2")

from starlette.testclient import TestClient

from userstudy.app import create_app
from userstudy.app.guard import CALL, Rules
from userstudy.app.limits import Limit
from userstudy.app.server import HANDLERS
from userstudy.database.engine import open_database
from userstudy.errors import KINDS
from userstudy.password import set_password
from userstudy.records import Part
from userstudy.study import Study

pytestmark = pytest.mark.e2e

PASSWORD = "a horse and a staple"
HOSTILE = (
    "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
    "<svg onload=\"document.title='run'\"><a href=\"javascript:document.title='run'\">a</a>"
    "<iframe src=\"javascript:parent.document.title='run'\"></iframe>"
    "<style>#study { display: none }</style></textarea></p><base href=http://evil.example/>"
    " ${document.title='run'} {{ 7 * 7 }} **bold** [x](javascript:alert(1)) ![x](http://evil.example/x.png)"
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    2**31,
    2**53,
    -(2**53),
    1e300,
    "",
    "0",
    "8",
    "1 ",
    "\u0661",  # an Arabic one
    "\uff11",  # a wide one
    "'; DROP TABLE answers; --",
    '" OR 1=1 --',
    "x" * 20_000,
    "\u202e\u200b\x07\x00\ud800",
    "../../etc/passwd",
    [],
    ["overall"],
    {},
    {"$ne": 1},
    [[[[1]]]],
)
FIELDS = {
    "show": ("language",),
    "enrol": ("language", "device", "prolific"),
    "check": ("answers",),
    "answer": ("position", "question", "value", "key"),
    "turn": ("from", "to", "seconds"),
    "finish": ("seconds",),
    "language": ("language",),
}
RIGHT = {
    "answer": {"position": 0, "question": "overall", "value": "3", "key": "fuzz"},
    "turn": {"from": 0, "to": 0, "seconds": 1},
    "enrol": {"language": "en", "device": "phone"},
}


def test_whatever_is_sent_is_answered_with_a_known_sentence(tmp_path: Path) -> None:
    """Every field of every call, with every value; then the session goes on as if nothing had been."""
    study = make_study(tmp_path / "study", recruitment={"participants": 1000})
    engine = open_database(study)
    app = create_app(study, engine, rules=Rules(link=Limit(per_second=1000, burst=1000)))
    client = TestClient(app, "http://study.example", raise_server_exceptions=False)

    def call(what: str, token: Any, sent: Any) -> Any:
        body = json.dumps({"fn_index": HANDLERS.index(what), "data": [token, sent]})
        return client.post(CALL, content=body.encode("utf-8", "surrogatepass"))

    token = call("enrol", "", {"language": "en"}).json()["data"][0]["token"]
    call("start", token, {})
    assert call("check", token, {"answers": [0]}).json()["data"][0]["passed"]
    tries = [
        (what, "" if what == "enrol" else token, {**RIGHT.get(what, {}), field: value})
        for what, fields in FIELDS.items()
        for field, value in itertools.product(fields, VALUES)
        if not (what == "answer" and field == "value" and value == "3")
    ]
    tries += [(what, value, value) for what, value in itertools.product(HANDLERS, VALUES)]
    for what, by, sent in tries:
        answer = call(what, by, sent)
        assert answer.status_code in (200, 400), (what, sent, answer.text)
        assert "Traceback" not in answer.text
        reply = answer.json()["data"][0] if answer.status_code == 200 else {"ok": True}
        assert reply["ok"] or reply["kind"] in KINDS, (what, sent, reply)
    shown = call("show", token, {}).json()["data"][0]
    assert shown["stage"] == "rating"
    assert set(shown["answers"].items()) <= {("overall", "3")}
    engine.dispose()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study in which every text that someone else writes is hostile."""
    made = make_study(
        tmp_path_factory.mktemp("security") / "study",
        texts=dict.fromkeys(("title", "consent", "instructions", "example", "debrief", "contact"), HOSTILE),
        questions=[
            {"id": "q", "kind": "likert", "text": HOSTILE, "help": HOSTILE, "low": HOSTILE, "high": HOSTILE},
            {"id": "guess", "kind": "label", "text": "Which?", "required": False},
            {"id": "remark", "kind": "text", "text": HOSTILE, "required": False},
        ],
        check=[{"question": HOSTILE, "options": [HOSTILE, "b"], "answer": 0}],
    )
    parts = (Part(name="original", text=HOSTILE), Part(name="edited", text="A word. " + HOSTILE))
    changed = (s.model_copy(update={"parts": parts, "labels": (HOSTILE, "b")}) for s in made.stimuli.values())
    made.write(tuple(changed), made.design, made.origin)
    set_password(made, PASSWORD)
    return Study.open(made.path)


@pytest.fixture(scope="module")
def server(study: Study) -> Iterator[Server]:
    started = Server(study.path)
    yield started
    started.stop()


def harmless(page: Any) -> None:
    """Nothing of the hostile texts ran, loaded or became markup, and all of it can be read."""
    assert page.title() != "run"
    assert page.evaluate("document.title") != "run"
    assert not page.query_selector_all(
        "img[src=x], #study svg[onload], iframe, base, #study script, main script"
    )
    assert not page.query_selector_all("a[href^=javascript], img[src*=evil]")
    assert "<script>document.title" in page.inner_text("body")


def test_hostile_texts_are_words_from_consent_to_debrief_and_in_admin(browser: Any, server: Server) -> None:
    visitor = Visitor(browser, server)
    page = visitor.open()
    harmless(page)
    page.click("[data-do=enrol]")
    page.wait_for_selector("[data-do=start]")
    harmless(page)
    page.click("[data-do=start]")
    page.wait_for_selector("[name=check-0]")
    harmless(page)
    page.check("[name=check-0][value='0']")
    page.click("[type=submit]")
    page.wait_for_selector("[data-form=rating]")
    while True:
        harmless(page)
        page.check("[name=q][value='3']", force=True)
        page.locator("[name=guess]").first.check(force=True)
        page.fill("textarea", "=1+1 " + HOSTILE)
        page.locator("textarea").blur()
        visitor.saved()
        last = page.locator(".bar .main").inner_text() == "Finish"
        before = visitor.heading
        page.click("[type=submit]")
        if last:
            break
        visitor.turned(before)
    page.wait_for_selector("output")
    harmless(page)
    token = visitor.token
    assert [c for c in visitor.complaints if "evil" in c or "Content Security" in c or c == "1"] == []
    visitor.close()
    assert server.stored("SELECT value FROM answers WHERE question = 'remark'")[0][0] == "=1+1 " + HOSTILE
    assert token not in server.log.read_text()

    admin = browser.new_context(viewport={"width": 390, "height": 844})
    page = admin.new_page()
    page.goto(f"{server.url}admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("#participants")
    harmless(page)
    page.locator("summary", has_text="Set aside").first.click()
    page.get_by_label("Reason").fill(HOSTILE[:480])
    page.keyboard.press("Enter")
    page.wait_for_selector(".reason")
    harmless(page)
    admin.close()


def test_the_admin_page_works_by_keyboard_on_a_phone_and_axe_finds_nothing(
    browser: Any, server: Server
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda said, to=complaints: to.append(said.text) if said.type == "error" else None)

        def check(page: Any = page) -> None:
            page.wait_for_load_state()  # without its styles the page is wider
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert [v["id"] for v in Axe().run(page).response["violations"]] == []

        page.goto(f"{server.url}admin")
        check()
        page.keyboard.type(PASSWORD)  # the field has the focus
        page.keyboard.press("Enter")
        page.wait_for_selector("#participants")
        check()
        page.locator("summary", has_text="Close").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        check()
        assert page.evaluate("document.activeElement.textContent") == "Close the study"
        page.get_by_role("button", name="Pause").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector(".told")
        assert page.inner_text(".badge") == "paused"
        check()
        page.get_by_role("button", name="Open the study").click()
        page.wait_for_selector(".badge.open")
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_selector("#password")
        assert complaints == []
        context.close()


def test_no_page_of_another_site_frames_or_drives_this_one(
    browser: Any, server: Server, tmp_path: Path
) -> None:
    call = json.dumps({"fn_index": HANDLERS.index("enrol"), "data": ["", {"language": "en"}]})
    evil = f"""<title>evil</title><iframe id=f src="{server.url}"></iframe>
<form id=a method=post action="{server.url}admin/admission"><input name=status value=closed></form>
<form id=b method=post enctype="text/plain" action="{server.url}gradio_api/run/predict">
<input name='{call[:-1].replace("'", "&#39;")}, "x": "' value='"}}'></form>"""
    context = browser.new_context()
    page = context.new_page()
    page.route("http://evil.example/**", lambda route: route.fulfill(body=evil, content_type="text/html"))
    before = server.stored("SELECT count(*) FROM participants")

    page.goto("http://evil.example/")
    assert not any(frame.query_selector("#study") for frame in page.frames)
    fetched = page.evaluate(
        "([url, body]) => fetch(url, {method: 'POST', mode: 'no-cors', body}).then(() => 'sent', () => 'refused')",
        [f"{server.url}gradio_api/run/predict", call],
    )
    assert fetched in ("sent", "refused")
    for name in ("a", "b"):
        page.goto("http://evil.example/")
        with page.expect_navigation() as gone:
            page.evaluate(f"document.getElementById('{name}').submit()")
        assert gone.value.status == 403, name
    context.close()
    assert server.stored("SELECT count(*) FROM participants") == before
    assert server.stored("SELECT count(*) FROM admissions WHERE status = 'closed'") == [(0,)]


RAW = (
    "GET /../../../../etc/passwd HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "GET /assets/..%2f..%2f..%2f..%2fetc/passwd HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "GET //etc/passwd HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "GET http://evil.example/gradio_api/info HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "GET /config HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Host: evil.example\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: evil.example/x\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "POST /gradio_api/run/predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99999999\r\n\r\n{{}}",
    "POST /gradio_api/run/predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: -1\r\n\r\n",
    "POST /gradio_api/run/predict HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "GET /gradio_api/heartbeat/x HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "\x00\x01\x02\r\n\r\n",
)


@pytest.mark.parametrize("number", range(len(RAW)))
def test_requests_no_browser_sends(server: Server, number: int) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(RAW[number].format(host=f"127.0.0.1:{server.port}").encode("latin-1"))
        answer = connection.recv(65536)
    status = int(answer.split(b" ")[1]) if answer else 400
    assert status in (400, 403, 404, 405, 413), answer
    assert b"root:" not in answer
    assert b"evil" not in answer


def test_a_body_is_not_awaited_for_ever(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", CALL)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    for _ in range(3):
        connection.send(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
    assert connection.getresponse().status == 413
    connection.close()
    assert "Traceback" not in server.log.read_text()

"""The admin page: who gets in, and what it does; and attacks on it, each tried through HTTP."""

from __future__ import annotations

import csv
import io
import json
import re
import time
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from study_support import make_study
from typer.testing import CliRunner

pytest.importorskip("argon2")

pytest.importorskip("fastapi")

import argon2
from fastapi import FastAPI
from httpx import Response
from sqlalchemy import event, select
from starlette.testclient import TestClient

from quantxai.cli import app as command
from quantxai.errors import ConfigError, InputError
from userstudy import password
from userstudy.app.admin import admin_routes
from userstudy.app.guard import Guard, Rules
from userstudy.app.logins import Logins, TooManyTries
from userstudy.clock import now
from userstudy.database.engine import open_database, transaction
from userstudy.database.models import Attempt
from userstudy.errors import StudyError
from userstudy.operation import admission_status
from userstudy.password import matches, set_password, version
from userstudy.sessions import Sessions
from userstudy.status import status
from userstudy.tokens import sign

PASSWORD = "a horse and a staple"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes and intervals that are fast to make; one test looks at what real hashes take."""
    quick = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    monkeypatch.setattr("userstudy.password._hasher", lambda: quick)
    monkeypatch.setattr("userstudy.status.RESAMPLES", 5)


def test_a_password_is_kept_as_its_hash_for_the_owner_alone(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    assert version(study) is None
    assert not matches(study, "")

    set_password(study, PASSWORD)

    kept = tmp_path / "study" / "admin.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert json.loads(kept.read_text())["password"].startswith("$argon2id$v=19$m=64,t=1,p=1$")
    assert PASSWORD not in kept.read_text()
    assert matches(study, PASSWORD)
    assert not matches(study, PASSWORD + " ")
    first = version(study)
    set_password(study, "stra\u00dfe, ohm \u2126 und e\u0301")
    assert matches(study, "stra\u00dfe, ohm \u03a9 und \u00e9")  # the same as other keyboards write it
    assert version(study) not in (None, first)


def test_hashes_are_as_slow_as_they_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    hasher = password._hasher()

    # RFC 9106, section 4, second recommended option.
    assert (hasher.type, hasher.time_cost, hasher.memory_cost, hasher.parallelism) == (
        argon2.Type.ID,
        3,
        2**16,
        4,
    )


def test_a_password_that_cannot_be_is_refused(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")

    for wrong in ("", "too short", "x" * 1025):
        with pytest.raises(InputError, match="10 to 1024 characters"):
            set_password(study, wrong)
    assert not (tmp_path / "study" / "admin.json").exists()
    for content in ("", "{}", "[]", '{"password": "plain"}'):
        (tmp_path / "study" / "admin.json").write_text(content)
        with pytest.raises(ConfigError, match="quantxai study password"):
            matches(study, PASSWORD)


def test_the_command_sets_it_from_a_pipe_and_says_what_is_wrong(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    where = str(tmp_path / "study")

    done = CliRunner().invoke(command, ["study", "password", where, "--stdin"], input=PASSWORD + "\r\n")

    assert done.exit_code == 0
    assert PASSWORD not in done.output
    assert matches(study, PASSWORD)
    refused = CliRunner().invoke(command, ["study", "password", where, "--stdin"], input="short\n")
    assert refused.exit_code == 2
    assert "10 to 1024" in refused.output
    assert CliRunner().invoke(command, ["study", "password", where]).exit_code == 2  # no keyboard
    assert CliRunner().invoke(command, ["study", "password", str(tmp_path)]).exit_code == 2
    assert matches(study, PASSWORD)


SITE = "http://study.example"


class Admin:
    """A study with one session half way, and browsers at its admin page."""

    def __init__(self, path: Path) -> None:
        self.study = make_study(path)
        set_password(self.study, PASSWORD)
        self.engine = open_database(self.study)
        event.listen(self.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))
        self.engine.dispose()
        self.app = self.process()
        sessions = Sessions(self.study, self.engine)
        self.token = sessions.enrol("en", "desktop")
        sessions.start_check(self.token)
        sessions.check(self.token, [0])
        sessions.answer(self.token, 0, "remark", HOSTILE, "k")

    def process(self, root_path: str = "") -> FastAPI:
        """One more process that serves the study: the admin pages behind the guard, without Gradio."""
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.include_router(admin_routes(self.study, self.engine, root_path))
        app.add_middleware(Guard, functions={}, enrolling=0, rules=Rules())
        return app

    def browser(self, app: FastAPI | None = None, address: str = "192.0.2.1") -> TestClient:
        return TestClient(app or self.app, SITE, follow_redirects=False, client=(address, 1))

    def signed_in(self, browser: TestClient | None = None) -> TestClient:
        browser = browser or self.browser()
        assert sign_in(browser).status_code == 303
        FORMS[cookie(browser)] = form(browser, "/admin")
        return browser


HOSTILE = "=cmd|' /C calc'!A0 <script>alert(1)</script>"


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    made = Admin(tmp_path / "study")
    yield made
    made.engine.dispose()


def form(browser: TestClient, at: str = "/admin/login") -> str:
    """What a page's forms send along."""
    return re.findall(r'name="form" value="([0-9a-f]{64})"', browser.get(at).text)[0]


def sign_in(browser: TestClient, password: str = PASSWORD) -> Response:
    return browser.post("/admin/login", data={"form": form(browser), "password": password})


def act(browser: TestClient, what: str, **fields: str) -> Response:
    return browser.post(f"/admin/{what}", data={"form": FORMS[cookie(browser)], **fields})


FORMS: dict[str, str] = {}
"""What the forms of a session send along, by its cookie."""


def cookie(browser: TestClient) -> str:
    return next(iter(browser.cookies.jar)).value or ""


def put(browser: TestClient, value: str) -> None:
    name = next(iter(browser.cookies.jar)).name
    browser.cookies.clear()
    browser.cookies.set(name, value, domain="study.example", path="/admin")


def test_without_a_password_nobody_is_let_in_and_the_page_says_so(admin: Admin) -> None:
    (admin.study.path / "admin.json").unlink()

    for answer in (
        admin.browser().get("/admin"),
        admin.browser().post("/admin/login", data={"password": ""}),
    ):
        assert answer.status_code == 403
        assert "quantxai study password STUDY" in answer.text
        assert str(admin.study.path) not in answer.text


def test_nothing_is_seen_or_done_without_signing_in(admin: Admin) -> None:
    browser = admin.browser()
    sent = {"form": form(browser), "status": "closed", "participant": "1", "reason": "x"}

    for answer in (
        *(browser.get(f"/admin{path}") for path in ("", "/export.zip")),
        *(
            browser.post(f"/admin/{path}", data=sent)
            for path in ("admission", "exclude", "include", "logout")
        ),
    ):
        assert answer.status_code == 303
        assert answer.headers["location"] == "/admin/login"
        assert not answer.content
    found = status(admin.study, admin.engine)
    assert (found.admission, found.excluded) == ("open", 0)


def test_who_signs_in_gets_a_cookie_no_script_and_no_other_site_has(admin: Admin) -> None:
    browser = admin.browser()
    before = cookie(browser) if form(browser) else ""
    wrong = sign_in(browser, "not the password")
    assert (wrong.status_code, "That is not the password." in wrong.text) == (403, True)

    answer = sign_in(browser)

    assert answer.headers["location"] == "/admin"
    kept = answer.headers["set-cookie"].lower()
    assert all(word in kept for word in ("httponly", "samesite=strict", "path=/admin"))
    assert "secure" not in kept  # over http there would be no way in
    assert cookie(browser) != before  # an id that was planted beforehand opens nothing
    page = browser.get("/admin")
    assert page.status_code == 200
    assert page.headers["cache-control"] == "no-store"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src" not in policy
    assert "<script" not in page.text
    over_https = TestClient(admin.app, "https://study.example", follow_redirects=False)
    assert "secure" in sign_in(over_https).headers["set-cookie"].lower()


def test_a_cookie_that_was_not_given_opens_nothing(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = admin.signed_in()
    good, secret, now = cookie(browser), admin.study.secret, password.version(admin.study)
    payload, stamp, signature = good.split(".")

    for forged in (
        "",
        good[:-2],
        f"{payload}.{stamp}.{signature[::-1]}",
        sign(b"0" * 64, "admin-session", f"abc:{now}"),
        sign(secret, "admin-visit", f"abc:{now}"),
        sign(secret, "participant", f"abc:{now}"),
        sign(secret, "admin-session", "abc"),
        sign(secret, "admin-session", "abc:"),
        sign(secret, "admin-session", "abc:None"),
        admin.token,
    ):
        put(browser, forged)
        assert browser.get("/admin").status_code == 303, forged
    put(browser, good)
    assert browser.get("/admin").status_code == 200
    then = time.time() + 9 * 3600
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: then)
    assert browser.get("/admin").status_code == 303


def test_signing_out_ends_the_session_for_copies_of_the_cookie_too(admin: Admin) -> None:
    browser, thief = admin.signed_in(), admin.signed_in(admin.browser(admin.process()))
    put(thief, cookie(browser))
    assert thief.get("/admin").status_code == 200

    assert act(browser, "logout").headers["location"] == "/admin/login"

    assert browser.get("/admin").status_code == 303
    assert thief.get("/admin").status_code == 303
    again = admin.signed_in(browser)
    set_password(admin.study, "another horse, another staple")
    assert again.get("/admin").status_code == 303


def test_no_other_site_can_send_a_form(admin: Admin) -> None:
    browser, other = admin.signed_in(), admin.signed_in(admin.browser(address="192.0.2.7"))
    own = form(browser, "/admin")

    for sent in (None, "", "0" * 64, own[:-1], form(other, "/admin"), "\u00e9"):
        fields = {"status": "closed"} | ({} if sent is None else {"form": sent})
        assert browser.post("/admin/admission", data=fields).status_code == 403
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        fields = {"form": own, "status": "closed"}
        assert browser.post("/admin/admission", data=fields, headers=headers).status_code == 403
    assert browser.get("/admin/admission?status=closed").status_code == 405
    assert browser.post("/admin/login", data={"form": own * 2, "password": PASSWORD}).status_code == 403
    assert admission_status(admin.engine) == "open"


def test_guessing_passwords_is_stopped_in_all_processes(admin: Admin) -> None:
    processes = [admin.browser(), admin.browser(admin.process())]

    answers = [sign_in(processes[i % 2], f"guess number {i}").status_code for i in range(8)]

    assert answers == [403] * 5 + [429] * 3
    late = sign_in(processes[0])
    assert late.status_code == 429  # even with the right one
    assert "Please wait 15 minutes" in late.text
    admin.signed_in(admin.browser(address="198.51.100.9"))  # others are not shut out
    later = now() + timedelta(minutes=15)
    logins = Logins(admin.study, admin.engine, lambda: later)
    assert logins.sign_in(PASSWORD, "192.0.2.1") is not None


def test_right_passwords_are_not_counted_and_many_addresses_are(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("userstudy.app.logins._TRIES_OF_ALL", 20)
    logins = Logins(admin.study, admin.engine)

    for _ in range(7):
        assert logins.sign_in(PASSWORD, "192.0.2.1") is not None
    for i in range(20):
        assert logins.sign_in("a wrong password", f"2001:db8:0:{i // 5:x}::1") is None
    with pytest.raises(TooManyTries):
        logins.sign_in(PASSWORD, "203.0.113.5")
    with transaction(admin.engine) as session:
        assert not [a for a in session.scalars(select(Attempt)) if "2001" in a.what or "192.0" in a.what]


def test_the_study_is_paused_opened_and_closed(admin: Admin) -> None:
    browser = admin.signed_in()

    for value, word in (("paused", "The study is paused"), ("open", "is open"), ("closed", "is closed")):
        answer = act(browser, "admission", status=value)
        assert answer.headers["location"] == f"/admin?done={value}"
        assert word in browser.get(answer.headers["location"]).text
        assert admission_status(admin.engine) == value
    for wrong in ("", "'; DROP TABLE admissions; --"):
        assert act(browser, "admission", status=wrong).status_code == 400
    assert admission_status(admin.engine) == "closed"
    assert "<script" not in browser.get("/admin?done=<script>alert(1)</script>").text


def test_participants_are_set_aside_and_back_with_what_was_written_shown_as_words(admin: Admin) -> None:
    browser = admin.signed_in()

    assert act(browser, "exclude", participant="1", reason=HOSTILE).status_code == 303
    shown = browser.get("/admin").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "<script" not in shown
    assert status(admin.study, admin.engine).excluded == 1
    refused = act(browser, "exclude", participant="1", reason="again")
    assert (refused.status_code, "set aside already" in refused.text) == (400, True)
    assert act(browser, "include", participant="1").status_code == 303
    assert status(admin.study, admin.engine).excluded == 0
    for number in ("", "-1", "2", "1 OR 1=1", "\u0661", "9" * 30):
        assert act(browser, "exclude", participant=number, reason="x").status_code == 400, number
    assert act(browser, "include", participant="1").status_code == 400
    assert act(browser, "exclude", participant="1", reason=" ").status_code == 400
    assert (
        act(browser, "exclude", participant="1", reason="x" * 20_000).status_code == 403
    )  # no form is so long
    assert status(admin.study, admin.engine).excluded == 0


def test_the_download_has_all_tables_and_no_formula(admin: Admin) -> None:
    answer = admin.signed_in().get("/admin/export.zip")

    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="small-export.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        assert {"ratings.csv", "participants.csv", "history.csv", "codebook.json"} <= set(packed.namelist())
        rows = list(csv.reader(io.StringIO(packed.read("ratings.csv").decode())))
        everything = "".join(packed.read(name).decode() for name in packed.namelist())
    assert "'" + HOSTILE in rows[1]
    assert not [cell for row in rows for cell in row if cell[:1] in ("=", "+", "@")]
    assert admin.token not in everything


def test_what_cannot_be_answered_is_said_kindly_and_without_paths(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StudyError("unavailable", f"{admin.study.path} is away")

    browser = admin.signed_in()
    assert browser.get("/healthz").text == "ok"
    with monkeypatch.context() as patched:
        patched.setattr("userstudy.app.overview.status", away)
        patched.setattr("userstudy.operation.admission_status", away)
        answer = browser.get("/admin")
        assert (answer.status_code, "cannot be reached just now" in answer.text) == (503, True)
        assert str(admin.study.path) not in answer.text
        assert browser.get("/healthz").status_code == 503
    (admin.study.path / "admin.json").write_text("{}")
    answer = browser.get("/admin")
    assert (answer.status_code, str(admin.study.path) in answer.text) == (500, False)


def test_the_page_can_lie_under_a_path(admin: Admin) -> None:
    browser = admin.browser(admin.process("/study"))
    answer = browser.get("/admin/login")

    assert re.findall(r'(?:action|href)="(/[^"]*)"', answer.text) == [
        "/study/admin/admin.css",
        "/study/admin/login",
    ]
    assert "Path=/study/admin" in answer.headers["set-cookie"]
    assert browser.get("/admin").headers["location"] == "/study/admin/login"

"""The participant's page in a real browser, from consent to completion code."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from study_browser import Server, Visitor
from study_support import make_study

from userstudy.records import Part
from userstudy.study import Study

pytestmark = pytest.mark.e2e

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
BLOCKING = ("serious", "critical")
HOSTILE = (
    "<img src=x onerror=alert(1)><script>alert(2)</script> ${alert(3)} {{7*7}} {% raw %} **bold** "
    "[a](javascript:alert(4)) </textarea></p> &amp; \u202egnp.exe"
)
Visit = Callable[..., Visitor]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Server]:
    pytest.importorskip("gradio")
    started = Server(_study(tmp_path_factory.mktemp("browser") / "study"))
    yield started
    started.stop()


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Visit]:
    """Opens browsers; whatever a page complains of, or asks another host for, fails the test."""
    visitors: list[Visitor] = []

    def new(**options: Any) -> Visitor:
        visitors.append(Visitor(browser, server, **options))
        return visitors[-1]

    yield new
    for visitor in visitors:
        visitor.close()
    assert [complaint for visitor in visitors for complaint in visitor.complaints] == []


def _study(path: Path) -> Path:
    """A study of one scale, edits and explanations, in three languages; every text ends with hostile markup."""
    study = make_study(
        path,
        languages=["en", "de", "ar"],
        design={"per_participant": 4, "items": 4, "attention_checks": 1, "repeats": 0},
        items=4,
        recruitment={"participants": 100, "completion_code": "QX-2026"},
    )
    stimuli = tuple(
        stimulus.model_copy(
            update={"parts": tuple(Part(name=p.name, text=f"{p.text} {HOSTILE}") for p in stimulus.parts)}
        )
        for stimulus in study.stimuli.values()
    )
    study.write(stimuli, study.design, study.origin)
    (path / "texts").mkdir()
    (path / "texts" / "ar.toml").write_text(_arabic(), encoding="utf-8")
    return Study.open(path).path


def _arabic() -> str:
    """English words, the direction and what is looked at in Arabic."""
    text = (files("userstudy") / "texts" / "en.toml").read_text(encoding="utf-8")
    for english, arabic in {
        'language = "English"': 'language = "العربية"',
        'direction = "ltr"': 'direction = "rtl"',
        'heading = "Before you begin"': 'heading = "قبل أن تبدأ"',
        'heading = "Page {page} of {pages}"': 'heading = "صفحة {page} من {pages}"',
        'next = "Next"': 'next = "التالي"',
        'back = "Back"': 'back = "السابق"',
    }.items():
        assert english in text
        text = text.replace(english, arabic, 1)
    assert tomllib.loads(text)["direction"] == "rtl"
    return text


def test_from_consent_to_code(visit: Visit, server: Server) -> None:
    visitor = visit()
    page = visitor.open("?lang=en")
    assert page.title() == "Rating texts"
    assert server.stored("SELECT count(*) FROM participants") == [(0,)]  # nothing before consent
    page.click("[data-do=enrol]")
    page.wait_for_selector("text=What you will do")
    assert "?t=" in page.url
    page.click("[data-do=start]")
    page.click("[type=submit]")
    assert page.locator(".missing").first.is_visible()
    page.check("[name=check-0][value='1']")
    page.click("[type=submit]")
    page.wait_for_selector("text=Not quite")
    page.check("[name=check-0][value='0']")
    page.click("[type=submit]")
    page.wait_for_selector("text=Page 1 of 5")
    visitor.rate(2)
    page.fill("textarea", "Lovely. <b>&")
    page.locator("textarea").blur()
    visitor.saved()
    visitor.go_on()
    page.click("[type=submit]")
    assert page.locator(".missing").first.is_visible()  # an answer is missing
    visitor.rate(6)
    page.click("[data-do=back]")
    page.wait_for_selector("text=Page 1 of 5")
    assert page.locator("[name=overall][value='2']").is_checked()
    assert page.input_value("textarea") == "Lovely. <b>&"
    while "Page" in visitor.heading:
        visitor.rate(5)
        visitor.go_on()
    assert page.inner_text("#code") == "QX-2026"
    page.click("text=Copy the code")
    page.wait_for_selector("text=Copied")
    answers = server.stored(
        "SELECT count(*), count(DISTINCT trial_id || question) FROM answers JOIN participants "
        "ON participants.id = participant_id WHERE status = 'completed'"
    )
    # 5 pages of two scales and one remark; the first two pages' scales were changed once.
    assert answers == [(15, 11)]
    (seconds,) = server.stored("SELECT min(seconds) FROM trials")[0]
    assert seconds > 0


def test_by_keyboard_alone(visit: Visit) -> None:
    visitor = visit()
    page = visitor.open()

    def reach(selector: str) -> None:
        for _ in range(40):
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{selector} is not reached")

    reach("[data-do=enrol]")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-do=start]")
    assert page.evaluate("document.activeElement.id") == "heading"
    reach("[data-do=start]")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-form=check]")
    reach("[name=check-0]")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-form=rating]")
    number = 0
    while "Page" in visitor.heading:
        before = visitor.heading
        page.keyboard.press("3")  # goes to the first scale
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.keyboard.press("7")
        page.keyboard.press("Enter")
        page.keyboard.type(f"remark {number}")
        assert page.locator("[name=understandability]:checked").input_value() == "4"
        assert page.locator("[name=overall]:checked").input_value() == "7"
        reach("[type=submit]")
        page.keyboard.press("Enter")
        visitor.turned(before)
        assert page.evaluate("document.activeElement.id") == "heading"
        number += 1
    assert page.inner_text("#code") == "QX-2026"


def test_on_a_phone(visit: Visit) -> None:
    visitor = visit(**PHONE, locale="de-DE")
    page = visitor.open()

    def fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        small = page.locator("#study button:visible, #study .scale label").evaluate_all(
            "all => all.filter(e => e.getBoundingClientRect().height < 24).map(e => e.outerHTML)"
        )
        assert small == []

    assert page.locator("html").get_attribute("lang") == "de"
    fits()
    assert page.locator("[data-do=enrol]").evaluate("e => e.getBoundingClientRect().bottom <= innerHeight")
    page.tap("[data-do=enrol]")
    page.wait_for_selector("[data-do=start]")
    fits()
    page.tap("[data-do=start]")
    page.wait_for_selector("[data-form=check]")
    fits()
    page.locator("text=Texte").last.tap()
    page.tap("[type=submit]")
    page.wait_for_selector("text=Seite 1 von 5")
    fits()
    visitor.rate()
    visitor.saved()
    visitor.go_on()
    page.tap("[data-do=open][data-dialog=leave]")
    fits()


def test_one_goes_on_where_one_stopped(visit: Visit, server: Server) -> None:
    visitor = visit()
    visitor.begin()
    visitor.rate(6)
    visitor.go_on()
    visitor.rate(3)
    visitor.page.fill("textarea", "half a thou")
    visitor.page.reload()  # in the middle of a word
    visitor.page.wait_for_selector("gradio-app #study")
    assert visitor.heading == "Page 2 of 5"
    assert visitor.page.locator("[name=overall][value='3']").is_checked()
    visitor.page.wait_for_function("document.querySelector('textarea').value === 'half a thou'")
    other = visit(**PHONE)
    other.open(f"?t={visitor.token}")
    assert other.heading == "Page 2 of 5"
    assert other.page.locator("[name=overall][value='3']").is_checked()
    server.stop()
    visitor.page.check("[name=overall][value='5']", force=True)
    visitor.page.wait_for_selector("text=Not saved yet")
    server.start()
    visitor.saved()
    visitor.page.wait_for_selector("text=Everything is saved")
    visitor.go_on()
    other.open(f"?t={visitor.token}")
    assert other.heading == "Page 3 of 5"
    other.page.click("[data-do=back]")
    other.turned("Page 3 of 5")
    assert other.page.locator("[name=overall][value='5']").is_checked()
    _expect_only(visitor, "ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET")


def test_two_tabs_show_the_same_and_the_later_answer_counts(visit: Visit, server: Server) -> None:
    visitor = visit()
    visitor.begin()
    second = visitor.open(f"?t={visitor.token}", visitor.window())
    second.check("[name=overall][value='2']", force=True)
    second.wait_for_function("document.querySelector('.saved').dataset.state === 'saved'")
    visitor.page.bring_to_front()
    visitor.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    visitor.page.wait_for_selector("[name=overall][value='2']:checked", state="attached")
    visitor.page.check("[name=overall][value='7']", force=True)
    visitor.saved()
    latest = server.stored("SELECT value FROM answers WHERE question = 'overall' ORDER BY id DESC LIMIT 2")
    assert latest == [("7",), ("2",)]


def test_what_is_answered_offline_is_not_lost(visit: Visit, server: Server) -> None:
    visitor = visit()
    visitor.begin()
    visitor.context.set_offline(True)
    visitor.rate(2)
    visitor.page.wait_for_selector("text=Not saved yet")
    visitor.page.check("[name=overall][value='1']", force=True)
    token = visitor.token
    (before,) = server.stored("SELECT count(*) FROM answers")[0]
    visitor.page.close()  # the laptop is closed
    visitor.context.set_offline(False)
    visitor.page = visitor.window()
    visitor.open(f"?t={token}")
    assert visitor.page.locator("[name=overall][value='1']").is_checked()
    visitor.saved()
    assert server.stored("SELECT count(*) FROM answers") == [(before + 3,)]
    assert server.stored("SELECT value FROM answers ORDER BY id DESC LIMIT 1") == [("1",)]
    assert visitor.page.evaluate("Object.keys(localStorage)") == []
    _expect_only(visitor, "ERR_INTERNET_DISCONNECTED")


def test_what_is_sent_twice_is_stored_once(visit: Visit, server: Server) -> None:
    visitor = visit()
    lost = 0

    def lose(route: Any) -> None:
        """The server does what it is told, and its reply is lost; once its database is away."""
        nonlocal lost
        if lost == 1:
            away = {"ok": False, "kind": "unavailable", "message": "", "retry": True}
            route.fulfill(json={"data": [away]})
        elif lost % 2 == 0:
            route.fetch()
            route.abort("connectionreset")
        else:
            route.continue_()
        lost += 1

    counted = [server.stored(f"SELECT count(*) FROM {table}")[0][0] for table in ("participants", "answers")]
    visitor.page.route("**/run/predict", lose)
    visitor.begin()
    visitor.rate(3)
    visitor.go_on()
    assert lost >= 12  # consent, instructions, check, two answers, the page turned: each twice
    now = [server.stored(f"SELECT count(*) FROM {table}")[0][0] for table in ("participants", "answers")]
    assert [after - before for before, after in zip(counted, now, strict=True)] == [1, 2]
    assert visitor.heading == "Page 2 of 5"
    _expect_only(visitor, "ERR_CONNECTION_RESET")


def test_withdrawing_deletes_everything(visit: Visit, server: Server) -> None:
    visitor = visit()
    visitor.begin()
    visitor.rate(4)
    visitor.saved()
    visitor.page.click("text=Withdraw from the study")
    visitor.page.click("text=Go on with the study")
    assert visitor.heading == "Page 1 of 5"
    visitor.page.click("text=Withdraw from the study")
    token = visitor.token
    visitor.page.click("text=Delete my answers")
    visitor.page.wait_for_selector("text=You have withdrawn")
    (participant,) = server.stored("SELECT max(id) FROM participants")[0]
    assert server.stored("SELECT count(*) FROM answers WHERE participant_id = ?", participant) == [(0,)]
    visitor.open(f"?t={token}")
    assert visitor.heading == "You have withdrawn"


def test_what_is_written_while_a_page_turns_belongs_to_that_page(visit: Visit, server: Server) -> None:
    visitor = visit()
    held: list[Any] = []
    visitor.begin()
    visitor.rate(4)
    visitor.saved()
    visitor.page.route("**/run/predict", lambda route: route.continue_() if held else held.append(route))
    visitor.page.click("[type=submit]")
    # Not by keyboard: Chromium says "change" when it takes a focused field away, other browsers do not.
    visitor.page.eval_on_selector(
        "textarea",
        "field => { field.value = 'of the first page'; field.dispatchEvent(new Event('input', {bubbles: true})); }",
    )
    held[0].continue_()
    visitor.page.wait_for_selector("text=Page 2 of 5")
    visitor.page.wait_for_timeout(1500)  # longer than writing waits to be saved
    visitor.saved()
    query = (
        "SELECT position FROM answers JOIN trials ON trials.id = trial_id WHERE value = 'of the first page'"
    )
    assert server.stored(query) == [(0,)]
    assert visitor.page.input_value("textarea") == ""


def test_withdrawing_is_possible_once_the_session_is_over(visit: Visit, server: Server) -> None:
    """Also while a page still waits for the server."""
    visitor = visit()
    visitor.begin()
    visitor.rate(4)
    visitor.saved()
    visitor.page.route("**/run/predict", lambda route: route.abort("connectionreset"))
    visitor.page.click("[type=submit]")
    visitor.page.wait_for_selector(".away:visible")
    visitor.page.unroute("**/run/predict")
    visitor.page.route("**/run/predict", lambda route: route.continue_())
    visitor.page.click("text=Withdraw from the study")
    visitor.page.click("text=Delete my answers")
    visitor.page.wait_for_selector("text=You have withdrawn")
    (status,) = server.stored("SELECT status FROM participants ORDER BY id DESC LIMIT 1")[0]
    assert status == "withdrawn"
    _expect_only(visitor, "ERR_CONNECTION_RESET")

    visitor = visit()
    page = visitor.open()
    page.click("[data-do=enrol]")
    page.click("[data-do=start]")
    for told in ("text=Not quite", "text=Thank you for your interest"):
        page.check("[name=check-0][value='1']")
        page.click("[type=submit]")
        page.wait_for_selector(told)
    (participant,) = server.stored("SELECT max(id) FROM participants")[0]
    visitor.page.click("text=Withdraw from the study")
    visitor.page.click("text=Delete my answers")
    visitor.page.wait_for_selector("text=You have withdrawn")
    assert server.stored("SELECT count(*) FROM trials WHERE participant_id = ?", participant) == [(0,)]


def test_two_browsers_at_once(visit: Visit) -> None:
    first, second = visit(), visit(locale="de-DE")
    first.begin()
    second.begin()
    first.rate(1)
    second.rate(7)
    first.go_on()
    assert (first.heading, second.heading) == ("Page 2 of 5", "Seite 1 von 5")
    second.go_on()
    first.page.click("[data-do=back]")
    first.turned("Page 2 of 5")
    assert first.page.locator("[name=overall][value='1']").is_checked()
    assert first.token != second.token


def test_right_to_left(visit: Visit) -> None:
    visitor = visit()
    visitor.begin("?lang=ar")
    page = visitor.page
    assert page.locator("html").get_attribute("dir") == "rtl"
    boxes = [page.locator(f"label:has([name=overall][value='{n}'])").bounding_box() for n in (1, 7)]
    assert boxes[0]["x"] > boxes[1]["x"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    text = page.locator("[data-part] .text:visible").first  # an English text stays what it is
    assert text.evaluate("e => getComputedStyle(e).unicodeBidi") == "plaintext"
    page.select_option("[data-do=language]", "en")
    page.wait_for_selector("text=Page 1 of 5")
    assert page.locator("html").get_attribute("dir") == "ltr"
    assert page.evaluate("document.activeElement.dataset.do") == "language"


def test_texts_of_models_are_texts(visit: Visit) -> None:
    visitor = visit()
    visitor.begin()
    while "Page" in visitor.heading:
        shown = visitor.page.locator("[data-part] .text:not(.marked)").all_text_contents()
        assert sum(HOSTILE in text for text in shown) >= 2
        inside = visitor.page.locator("[data-part] .text").evaluate_all(
            "all => all.flatMap(e => [...e.querySelectorAll('*')].map(x => x.localName))"
        )
        assert set(inside) <= {"ins", "del"}
        visitor.rate()
        visitor.go_on()


def test_axe_finds_nothing_serious_on_any_page(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page
    script = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    found: list[str] = []

    def look(where: str) -> None:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.evaluate(script)
            result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            assert len(result["passes"]) > 15  # it did look
            found.extend(
                f"{where}, {scheme}: {violation['id']}: {node['html'][:160]} {node['failureSummary']}"
                for violation in result["violations"]
                if violation["impact"] in BLOCKING
                for node in violation["nodes"]
            )

    visitor.open()
    look("consent")
    page.click("[data-do=enrol]")
    page.wait_for_selector("[data-do=start]")
    look("instructions")
    page.click("[data-do=start]")
    page.check("[name=check-0][value='1']")
    page.click("[type=submit]")
    page.wait_for_selector(".feedback")
    look("check")
    page.check("[name=check-0][value='0']")
    page.click("[type=submit]")
    page.wait_for_selector("[data-form=rating]")
    page.click("[type=submit]")
    look("an answer is missing")
    page.click("[data-dialog=link]")
    look("link")
    page.keyboard.press("Escape")
    page.click("[data-dialog=leave]")
    look("withdrawing")
    page.keyboard.press("Escape")
    while "Page" in visitor.heading:
        visitor.rate(7)
        look(visitor.heading) if visitor.heading == "Page 2 of 5" else None
        visitor.go_on()
    look("debrief")
    visitor.open("?t=nonsense")
    look("notice")
    assert found == []


def _expect_only(visitor: Visitor, *errors: str) -> None:
    """Take out the complaints that a server that is away causes."""
    visitor.complaints[:] = [c for c in visitor.complaints if not any(error in c for error in errors)]

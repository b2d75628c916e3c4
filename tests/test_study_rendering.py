"""What the app makes of the service's answers: pages, words and replies."""

from __future__ import annotations

import importlib.util
import socket
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from study_support import make_study

from quantxai.errors import ConfigError, InputError, QuantxaiError
from userstudy.app.handlers import HANDLERS, Handlers
from userstudy.app.pages import Pages, Shown
from userstudy.app.shell import read_page
from userstudy.errors import KINDS, StudyError
from userstudy.pages import Page, View
from userstudy.place import Place
from userstudy.records import Part
from userstudy.study import Study
from userstudy.wording import Wording, wordings

HOSTILE = "<img src=x onerror=alert(1)> {{7*7}} ${x} </textarea></p> &amp; \u202etxt"
VOID = {"br", "circle", "input", "meta", "path", "link", "progress"}


class Tree(HTMLParser):
    """Elements with their attributes and texts, and whether every one that is opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, str] = {}
        self._inside: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self._inside.append(dict(attrs).get("class") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        for name in self._inside:
            self.texts[name] = self.texts.get(name, "") + data

    def attributes(self, tag: str, name: str) -> list[str | None]:
        """One attribute of all elements of a kind."""
        return [attributes[name] for kind, attributes in self.elements if kind == tag and name in attributes]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("rendering") / "study")


@pytest.fixture(scope="module")
def pages(study: Study) -> Pages:
    return Pages(study)


def view(*stimuli: tuple[Part, ...], **changes: Any) -> View:
    """A page of ratings of a study of three pages."""
    asked = changes.pop("questions", ("understandability", "overall", "remark"))
    page = Page(parts=stimuli, labels=("a", "b"), questions=asked, answers=changes.pop("answers", {}))
    return View(
        **{
            "stage": "rating",
            "language": "en",
            "position": 1,
            "pages": 3,
            "page": page,
            "answered": (True, False, False),
            **changes,
        }
    )


def edit(before: str, after: str) -> tuple[Part, ...]:
    return (Part(name="original", text=before), Part(name="edited", text=after))


def test_every_language_has_every_word(study: Study) -> None:
    english, german = wordings(study).values()
    assert english.words.keys() == german.words.keys()
    assert (english.name, german.name) == ("English", "Deutsch")
    for kind in (*KINDS, "too_fast", "unexpected"):
        assert english.knows(f"errors.{kind}.heading")
        assert english.knows(f"errors.{kind}.text")
    assert english("attention.likert", answer="{question}", question="Why?").endswith(
        "{question} for “Why?”."
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('next = "Next"\n', "", "the key 'nav.next' is missing"),
        ('next = "Next"\n', 'nexd = "Next"\n', "unknown key 'nav.nexd'. Did you mean 'nav.next'?"),
        (
            '"Page {page} of {pages}"',
            '"Page {side}"',
            "rating.heading: only these places are filled in: {page}",
        ),
        ('direction = "ltr"', 'direction = "up"', 'direction must be "ltr" or "rtl"'),
    ],
)
def test_a_language_with_a_hole_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    study = make_study(tmp_path / "study", languages=["en", "fr"])
    text = (files("userstudy") / "texts" / "en.toml").read_text(encoding="utf-8")
    (study.path / "texts").mkdir()
    (study.path / "texts" / "fr.toml").write_text(text, encoding="utf-8")
    assert set(wordings(study)) == {"en", "fr"}
    assert old in text
    (study.path / "texts" / "fr.toml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        wordings(study)
    assert said in str(caught.value)


def test_a_language_nobody_wrote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no texts in 'fr'.*texts/fr\.toml"):
        wordings(make_study(tmp_path / "study", languages=["en", "fr"]))


def test_the_page_speaks_what_the_browser_asks_for(pages: Pages) -> None:
    assert pages.language("fr", "de-AT", "en") == "de"
    assert pages.language("EN-us") == "en"
    assert pages.language("fr", "*", "") == "en"


def test_consent_is_plain_and_offers_nothing_else(tmp_path: Path) -> None:
    texts = {"consent": "Stop <b>any</b> time.\n\nWe store:\n- answers\n- times", "contact": "a@b.c"}
    shown = Pages(make_study(tmp_path / "study", texts=texts)).consent("de")
    tree = Tree(shown.html)
    assert (shown.language, shown.direction, shown.title) == ("de", "ltr", "Texte bewerten")
    assert "Stop &lt;b&gt;any&lt;/b&gt; time." in shown.html
    assert "<li>answers</li>" in shown.html
    assert [kind for kind, _ in tree.elements].count("dialog") == 0
    assert tree.attributes("button", "data-do") == ["theme", "enrol"]


def test_texts_of_models_are_escaped(pages: Pages) -> None:
    before, after = f"The red house stands here. {HOSTILE}", f"The blue house stands here. {HOSTILE}"
    shown = pages.view(view(edit(before, after)))
    tree = Tree(shown.html)
    assert "img" not in {kind for kind, _ in tree.elements}
    assert tree.texts["text plain"] == after
    assert tree.texts["text"] == before
    assert "<del>red</del> <ins>blue</ins>" in shown.html
    assert set(tree.attributes("p", "translate")) == {"no"}


def test_a_text_written_anew_is_not_marked(pages: Pages) -> None:
    shown = pages.view(view(edit("The red house stands here.", "Ferries cross Lake Geneva daily now")))
    assert "<ins>" not in shown.html
    assert 'data-do="marks"' not in shown.html


def test_answers_are_shown_as_given(pages: Pages) -> None:
    given = {"understandability": "6", "remark": "\n</textarea><b>"}
    html = pages.view(view(edit("a", "b"), answers=given)).html
    checked = [a for kind, a in Tree(html).elements if kind == "input" and "checked" in a and "name" in a]
    assert [(a["name"], a["value"]) for a in checked] == [("understandability", "6")]
    assert ">\n\n&lt;/textarea&gt;&lt;b&gt;</textarea>" in html
    assert Tree(html).attributes("progress", "value") == ["1"]


def test_scales_have_as_many_points_as_study_toml_says(tmp_path: Path) -> None:
    question = {"id": "good", "kind": "likert", "text": "Good?", "points": 5, "low": "no", "high": "yes"}
    study = make_study(tmp_path / "study", questions=[question], analysis={"margin": 0.5})
    html = Pages(study).view(view(edit("a", "b"), questions=("good",))).html
    assert [a for a in Tree(html).attributes("input", "value") if a] == ["1", "2", "3", "4", "5"]
    assert "Keys 1 to 5 choose" in html
    assert html.count('<span class="unseen">no</span>') == html.count('<span class="unseen">yes</span>') == 1


def test_two_texts_stand_side_by_side_even_where_they_are_the_same(tmp_path: Path) -> None:
    question = {"id": "better", "kind": "pairwise", "text": "Which is better?"}
    study = make_study(tmp_path / "study", questions=[question], design={"show": "pair", "repeats": 0})
    explained = (Part(name="text", text="A dog sleeps."), Part(name="explanation", text="Because."))
    html = Pages(study).view(view(explained, explained, questions=("better",))).html
    assert (html.count("A dog sleeps."), html.count("Because.")) == (1, 2)
    tree = Tree(html)
    assert tree.attributes("section", "data-stimulus") == ["0", "1"]
    assert [a for a in tree.attributes("input", "value") if a] == ["left", "same", "right"]


def test_an_example_looks_like_a_page(tmp_path: Path) -> None:
    texts = {"example": "Original text: A red house.\n\nText B is better: it says why."}
    study = make_study(tmp_path / "study", texts=texts)
    html = Pages(study).view(view(stage="instructions", page=None)).html
    assert '<h3>Original text</h3>\n<p class="text" dir="auto">A red house.</p>' in html
    assert "<p>Text B is better: it says why.</p>" in html


@pytest.mark.parametrize("stage", ["instructions", "check", "debrief"])
def test_pages_around_the_ratings_are_whole(pages: Pages, stage: str) -> None:
    shown = pages.view(
        view(stage=stage, page=None, code="<7>", url="https://example.org/?a=1&b=2"), failed=True
    )
    tree = Tree(shown.html)
    assert tree.attributes("h1", "id") == ["heading"]
    assert shown.html.count("<main") == 1
    if stage == "debrief":
        assert "&lt;7&gt;" in shown.html
        assert "https://example.org/?a=1&b=2" in tree.attributes("a", "href")


def test_a_page_whose_text_has_vanished_says_so(pages: Pages) -> None:
    gone = Page(parts=(), labels=(), questions=(), answers={}, gone=True)
    assert "Something in the study has changed" in pages.view(view(page=gone)).html


class Service:
    """Stands for the service: raises what it is told to."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any) -> Any:
            raise self.error

        return call


@pytest.mark.parametrize("kind", KINDS)
def test_every_refusal_is_told_kindly(pages: Pages, kind: Any) -> None:
    reply = Handlers(Service(StudyError(kind)), pages).named("show")("token", {"language": "de"})  # type: ignore[arg-type]
    assert (reply["ok"], reply["kind"]) == (False, kind)
    assert reply["message"] == pages.words["de"](f"errors.{kind}.text")
    assert reply["retry"] == (kind == "unavailable")
    assert ("html" in reply) == (kind not in ("unavailable", "invalid_answer"))


@pytest.mark.parametrize("kind", KINDS)
def test_whose_session_is_over_can_still_withdraw(pages: Pages, kind: Any) -> None:
    handlers = Handlers(Service(StudyError(kind)), pages)  # type: ignore[arg-type]
    for html in (handlers.named("show")("token", {}).get("html", ""), handlers.first("token", "en").html):
        offered = 'data-do="withdraw"' in html
        assert offered == (bool(html) and kind in ("released", "screened_out", "study_closed"))
        assert 'data-dialog="link"' not in html
    assert 'data-do="withdraw"' not in handlers.named("enrol")("", {"language": "en"}).get("html", "")


def test_a_defect_is_told_without_its_words(pages: Pages, caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers(Service(ValueError("variant nf4")), pages)  # type: ignore[arg-type]
    replies = [handlers.named(name)("token", {"language": "en"}) for name in HANDLERS]
    assert {reply["kind"] for reply in replies} <= {"unexpected", "invalid_answer"}
    assert "nf4" not in str(replies)
    assert "nf4" not in handlers.first("token", "en").html


@pytest.mark.parametrize(
    ("what", "sent"),
    [
        ("answer", {"position": "0", "question": "a", "value": "1", "key": "k"}),
        ("answer", {"position": 0, "question": "a", "value": 1, "key": "k"}),
        ("answer", {"position": 0, "question": "a", "value": "x" * 20_000, "key": "k"}),
        ("turn", {"from": 0, "to": True, "seconds": 1}),
        ("turn", {"from": 0, "to": 1, "seconds": "1"}),
        ("check", {"answers": "0"}),
        ("enrol", {}),
        ("language", {"language": ["de"]}),
        ("answer", "text"),
    ],
)
def test_what_no_page_sends_is_refused(pages: Pages, what: str, sent: Any) -> None:
    handlers = Handlers(Service(AssertionError("reached the service")), pages)  # type: ignore[arg-type]
    assert handlers.named(what)("token", sent)["kind"] == "invalid_answer"


def test_a_word_that_is_not_there_is_a_defect() -> None:
    with pytest.raises(KeyError):
        Wording("en", {})("nav.next")
    assert Wording("en", {}).part("chain_of_thought") == "Chain of thought"


def test_a_place_that_cannot_be_is_told_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} is taken"):
            Place(port=port).listen()
    with pytest.raises(InputError, match="not an address of this machine"):
        Place("192.0.2.1").listen()
    with pytest.raises(ConfigError, match="begins with a slash"):
        Place(root_path="study")
    assert Place(root_path="/study/").root_path == "/study"
    with Place(port=0).listen() as listening:
        assert listening.getsockname()[1] > 0


def test_the_notice_of_an_unknown_kind_is_the_general_one(pages: Pages) -> None:
    shown: Shown = pages.notice("surprise", "en")
    assert "Something went wrong on our side" in shown.html


def test_gradios_page_has_what_the_document_needs() -> None:
    spec = importlib.util.find_spec("gradio")
    if spec is None or spec.origin is None:
        pytest.skip("gradio is not installed")
    template = Path(spec.origin).parent / "templates" / "frontend" / "index.html"
    found = read_page(template.read_text(encoding="utf-8"))
    assert "config" in found.config
    assert [name.startswith("./assets/index-") for name in (*found.modules, *found.sheets)] == [True, True]
    with pytest.raises(QuantxaiError, match="a page that quantxai does not know"):
        read_page("<html></html>")


def test_no_word_is_left_over(study: Study) -> None:
    folder = Path(str(files("userstudy")))
    sources = [*folder.rglob("*.py"), *(folder / "pages").glob("*")]
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    by_name = ("parts.", "errors.", "attention.")
    keys = [key for key in wordings(study)["en"].words if not key.startswith(by_name)]
    assert [key for key in keys if f'"{key}"' not in text and f'["{key}"]' not in text] == []

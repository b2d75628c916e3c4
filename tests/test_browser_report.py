"""The report in a real browser, opened from disk with the network off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import pytest
import synthetic_inside
from synthetic import SHOWN, make_run

from quantxai.report import build_report
from quantxai.store import Store

pytestmark = pytest.mark.e2e

WIDTHS = (390, 1280)
"""A phone and a laptop, CSS pixels."""
PAPER, LANDSCAPE = 688, 950
"""What A4 upright, and US letter lying, leave between margins of 1.4 cm, at 96 pixels an inch."""
BLOCKING = ("serious", "critical")
SECTION = "counterfactual on news"

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = make_run(
        tmp_path_factory.mktemp("browser") / "run", SHOWN, items=12, facts=9, pairs=3, failing=True
    )
    build_report(store)
    return store


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run that looks inside the models."""
    store = synthetic_inside.make_run(tmp_path_factory.mktemp("browser") / "inside")
    build_report(store)
    return store


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Opens a run's report; whatever it asks for but itself, and whatever it complains of, fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_report(run: Store, width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(offline=True, viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        report = (run.path / "report.html").as_uri()
        page.on(
            "request", lambda asked: asked.url.partition("#")[0] == report or complaints.append(asked.url)
        )
        page.on("console", lambda said: complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(report)
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert complaints == []


def visible_items(page: Any) -> Any:
    return page.get_by_role("article").filter(visible=True)


def section(page: Any, name: str = SECTION) -> Any:
    """The items of one explainer on one data set."""
    return page.get_by_role("group").filter(has=page.get_by_role("heading", name=name, exact=True))


def unfold(page: Any) -> None:
    """Open what is folded, and lay out what is below the screen, which the browser puts off."""
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    page.evaluate(
        "document.querySelectorAll('article, tr').forEach(part => { part.style.contentVisibility = 'visible'; })"
    )


def tab_to(page: Any, wanted: Any, key: str = "Tab") -> None:
    """Press a key until something has the focus."""
    for _ in range(80):
        if wanted.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{wanted} is not reached by {key}")


def to_the_items(page: Any) -> Any:
    """Go by keyboard from the page's top to the items; return the first section."""
    tab_to(page, page.get_by_role("navigation").get_by_role("link", name="Item by item"))
    page.keyboard.press("Enter")
    return section(page)


def flipped(store: Store, variant: str, metric: str) -> int:
    """Items for which a variant's outcome is another than the parent's."""
    table = store.measurements()
    wide = table[table.metric == metric].pivot(index=["dataset", "item"], columns="variant", values="value")
    return int((wide["full"] != wide[variant]).sum())


def test_it_opens_from_disk_and_stays_small(opened: Open, store: Store) -> None:
    assert (store.path / "report.html").stat().st_size < 5_000_000
    page = opened(store)
    assert "smollm2-135m" in page.title()
    for variant in SHOWN:
        assert page.get_by_text(variant, exact=True).count()


def test_text_is_searched_by_keyboard(opened: Open, store: Store) -> None:
    page = opened(store)
    part = to_the_items(page)
    search = part.get_by_role("searchbox", name="Text")
    tab_to(page, search)
    page.keyboard.type("goalkeeper")
    texts = visible_items(part).all_text_contents()
    rows = store.rows()
    wanted = rows[(rows.variant == "full") & rows.original.str.contains("Goalkeeper")]
    assert len(texts) == len(wanted) == 2
    assert all("Goalkeeper" in text for text in texts)
    assert part.get_by_role("status").inner_text() == "2 of 2 shown"
    tab_to(page, part.get_by_role("button", name="Reset"))
    page.keyboard.press("Enter")
    assert search.input_value() == ""
    assert part.get_by_role("status").inner_text().endswith("of 12 shown")


def test_items_are_filtered_by_keyboard(opened: Open, store: Store) -> None:
    page = opened(store)
    part = to_the_items(page)
    show = part.get_by_role("combobox", name="Show")
    tab_to(page, show)
    page.keyboard.press("End")
    assert show.evaluate("select => select.selectedOptions[0].label") == "failed generation"
    rows = store.rows()
    failed = rows[(rows.explainer == "counterfactual") & rows.failure.notna()].item.nunique()
    assert part.get_by_role("status").inner_text().endswith(f" of {failed} shown")
    assert 0 < visible_items(part).count() <= failed
    for item in visible_items(part).all():
        assert item.get_by_text("failed generation").count()


def test_arrow_keys_go_from_item_to_item(opened: Open, store: Store) -> None:
    page = opened(store)
    part = to_the_items(page)
    tab_to(page, part.get_by_role("checkbox", name="one at a time"))
    page.keyboard.press("Space")
    assert part.get_by_role("status").inner_text() == "1 of 12"
    first = visible_items(part).text_content()
    page.keyboard.press("ArrowRight")
    assert part.get_by_role("status").inner_text() == "2 of 12"
    assert visible_items(part).text_content() != first
    page.keyboard.press("ArrowLeft")
    assert visible_items(part).text_content() == first


def test_a_result_leads_to_its_items_and_back(opened: Open, store: Store) -> None:
    page = opened(store)
    number = flipped(store, "gptq-3", "parent_soft_flip")
    assert number
    link = page.locator(
        'a[href^="#items/"][href*="gptq-3"][href*="parent_soft_flip"]:not([href*="seed"])'
    ).first
    link.scroll_into_view_if_needed()
    link.focus()
    before = page.evaluate("scrollY")
    page.keyboard.press("Enter")
    part = section(page)
    shown = part.get_by_role("status").inner_text()
    assert shown.endswith(f" of {number} shown")
    assert part.get_by_role("combobox", name="Right").evaluate("e => e.selectedOptions[0].label") == "gptq-3"
    assert visible_items(part).first.is_visible()
    part.get_by_role("searchbox", name="Text").fill("goalkeeper")  # a choice on the way is no step back
    narrowed = part.get_by_role("status").inner_text()
    assert narrowed != shown
    page.go_back()
    page.wait_for_function("y => Math.abs(scrollY - y) < 900", arg=before)
    assert link.is_visible()
    page.go_forward()
    page.wait_for_function("() => location.hash.includes('text=goalkeeper') && "
                           "document.activeElement.localName === 'summary'")  # fmt: skip
    assert part.get_by_role("searchbox", name="Text").input_value() == "goalkeeper"
    assert part.get_by_role("status").inner_text() == narrowed


def test_a_glance_leads_to_the_numbers_and_back(opened: Open, store: Store) -> None:
    page = opened(store)
    link = page.get_by_role("region", name="Outcomes by variants").get_by_role("link").first
    link.click()
    target = page.locator(":target")
    assert target.count() == 1
    page.wait_for_function("() => { const r = document.querySelector(':target').getBoundingClientRect(); "
                           "return r.top >= 0 && r.top < innerHeight; }")  # fmt: skip
    assert target.is_visible()
    page.go_back()
    assert page.url.endswith("report.html")


def test_every_link_leads_to_something_visible(opened: Open, store: Store) -> None:
    from playwright.sync_api import Error as PlaywrightError

    page = opened(store)
    links = set(page.locator("a").evaluate_all("links => links.map(a => a.getAttribute('href'))"))
    assert len(links) > 50
    lost = []
    for href in sorted(links):
        page.evaluate("href => { location.hash = href; }", href)
        name = href.removeprefix("#").partition("&")[0]
        try:
            page.wait_for_function(
                "name => document.getElementById(name)?.checkVisibility()", arg=name, timeout=2000
            )
        except PlaywrightError:
            lost.append(href)
    assert lost == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["store", "inside"])
def test_no_page_is_wider_than_the_screen(
    opened: Open, request: pytest.FixtureRequest, which: str, width: int, scheme: str
) -> None:
    page = opened(request.getfixturevalue(which), width, color_scheme=scheme)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in ground.strip("rgb()").split(",")) / 3
    assert (brightness < 60) == (scheme == "dark")


@pytest.mark.parametrize("which", ["store", "inside"])
def test_it_fits_on_paper(opened: Open, request: pytest.FixtureRequest, which: str) -> None:
    page = opened(request.getfixturevalue(which), PAPER, color_scheme="dark")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    wide = page.evaluate(
        """([upright, lying]) => {
          const lies = (part) => part && (getComputedStyle(part).page === 'wide' || lies(part.parentElement));
          const limit = (part) => lies(part) ? lying : upright;
          return [...document.querySelectorAll('main *, header *')]
            .filter(part => part.checkVisibility() && part.getBoundingClientRect().right > limit(part) + 1)
            .map(part => part.outerHTML.slice(0, 120)).slice(0, 5);
        }""",
        [PAPER, LANDSCAPE],
    )
    assert wide == []
    assert not page.get_by_role("navigation").is_visible()


ONE_OF_EACH = """() => {
  const look = element => [element.tagName, ...['class', 'style', 'fill'].map(key => element.getAttribute(key))].join();
  const all = element => [element, ...element.querySelectorAll('*')];
  for (const parent of all(document.body)) {
    const seen = new Set();
    for (const child of [...parent.children]) {
      const looks = [...new Set(all(child).map(look))].sort().join();
      if (seen.has(looks)) child.remove();
      seen.add(looks);
    }
  }
}"""
"""Of rows, items and marks of the same elements and classes beside each other, leave the first."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["store", "inside"])
def test_axe_finds_nothing_serious(
    opened: Open, request: pytest.FixtureRequest, which: str, scheme: str
) -> None:
    page = opened(request.getfixturevalue(which), color_scheme=scheme)
    unfold(page)
    page.evaluate(ONE_OF_EACH)
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert len(found["passes"]) > 20  # it did look
    assert [
        f"{violation['id']}: {violation['help']}: {node['html'][:200]} {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in BLOCKING
        for node in violation["nodes"]
    ] == []

"""The report: complete, self-contained, safe, and honest about what is missing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic import MANY, QUALITY, SCRIPT, made_finding, make_run, rebuilt

from quantxai.errors import CorruptCell, RunError
from quantxai.records import Finding, Measurement, Row
from quantxai.report import build_report, items, marking, plots, text
from quantxai.store import CellKey, Store, rows_to_table

pytestmark = pytest.mark.bare

TEXTS = ("original", "edited", "completion", "text", "reference", "explanation")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = make_run(tmp_path_factory.mktemp("report") / "run", items=40)
    build_report(store)
    return store


@pytest.fixture(scope="module")
def page(store: Store) -> str:
    return (store.path / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def copy(store: Store, tmp_path: Path) -> Store:
    return Store.open(shutil.copytree(store.path, tmp_path / "copy"))


class Page(HTMLParser):
    """Collects tags and checks that they are closed in order."""

    VOID = frozenset({"meta", "input", "line", "rect", "circle", "polygon", "br"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


# The page as a file


def test_the_page_loads_nothing(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    for tag, attributes in parsed.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "audio", "video", "source"}
        assert not {"src", "srcset", "style", "action", "data", "poster"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert "@import" not in page
    assert "url(" not in page
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|import\(", page)


def test_the_policy_allows_the_pages_own_style_and_script_alone(page: str) -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    hashes = {
        name: base64.b64encode(
            hashlib.sha256(re.findall(pattern, page, re.DOTALL)[-1].encode()).digest()
        ).decode()
        for name, pattern in {"style": "<style>(.*?)</style>", "script": "<script>(.*?)</script>"}.items()
    }
    assert html.unescape(policy) == (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'"
    )


def test_generated_texts_stay_texts(store: Store, page: str) -> None:
    assert page.count("<script") == 1
    assert "alert(" in page
    assert SCRIPT not in page
    assert SCRIPT not in (store.path / "report.md").read_text(encoding="utf-8")


def test_links_lead_somewhere_and_ids_are_unique(page: str) -> None:
    parsed = Page(page)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(attributes["href"])[1:] for tag, attributes in parsed.tags if tag == "a"]
    assert all(link.startswith(("result/", "items/")) for link in links if "/" in link)
    assert set(links) <= set(ids)
    assert len(links) > 8


def test_tables_can_be_read_without_seeing_them(page: str) -> None:
    for table in re.findall(r"<table.*?</table>", page, re.DOTALL):
        assert "<caption>" in table
        assert 'scope="col"' in table
        assert "<th>" not in table
    for picture in re.findall(r"<svg [^>]*>", page):
        assert 'role="img" aria-label=' in picture or "aria-hidden" in picture


def test_the_page_of_a_default_run_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_run(tmp_path / "run", MANY, items=20, facts=20)
    large = len(rebuilt(store))
    monkeypatch.setattr(items, "MOST_ITEMS", 10)
    per_item = (large - len(rebuilt(store))) / 20
    assert large + per_item * (800 - 40) < 5_000_000


def test_a_moved_run_builds_the_same_report(store: Store, copy: Store, page: str) -> None:
    assert rebuilt(copy) == page
    assert str(store.path) not in page


# What it says


def test_every_item_and_every_variants_text_is_there(store: Store, page: str) -> None:
    plain = html.unescape(re.sub(r"<del>.*?</del>|<[^>]+>", "", page))
    words = " ".join(plain.split())
    for row in store.rows().to_dict("records"):
        assert row["item"] in page
        for name in (*TEXTS, "failure", "raw"):
            value = row.get(name)
            # What was generated is shown where no text could be read out of it.
            read = name == "raw" and not isinstance(row["failure"], str)
            if isinstance(value, str) and "script" not in value and not read:
                assert " ".join(value.split()) in words


def test_verdicts_are_words_and_symbols_with_numbers_beside_them(store: Store, page: str) -> None:
    plain = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())
    verdicts = {finding.verdict for finding in store.findings()}
    assert verdicts == {"degraded", "equivalent", "unresolved", None}
    for finding in store.findings():
        symbol, word = text.SYMBOLS[finding.verdict]
        told = f"{text.estimate(finding)} {text.interval(finding)}"
        ratio = text.perplexity_ratio(finding)
        assert " ".join(f"{told} {ratio} {symbol} {word}".split()) in plain


def test_the_page_says_what_was_compared_and_with_what(page: str) -> None:
    for fact in (
        "The reference is a dequantized Q4_1 file.",
        "ran dequantized",
        "fewer than three were tried",
        "quantxai sweep --n 12",
        "does not beat round-to-nearest",
        "torch 2.9.0",
        "CC0-1.0",
        "max_new_tokens = 40",
        "Holm 1979",
        "arXiv 2505.13963",
    ):
        assert fact in page


def test_the_answer_names_the_variants_that_changed(store: Store, page: str) -> None:
    changed = {finding.variant for finding in store.findings() if finding.verdict == "degraded"}
    (headline,) = re.findall(r'class="headline">(.*?)<', page)
    assert headline.startswith("Yes: ")
    assert {name for name in QUALITY if name in headline} == changed


def test_failed_generations_are_counted(store: Store, page: str) -> None:
    rows = store.rows("counterfactual")
    counts = rows[rows.failure.notna()].groupby("variant").size()
    (line,) = re.findall(r'<th scope="row">unparsed</th>(.*?)</tr>', page)
    assert re.findall(r">(\d+)<", line) == [str(counts.get(name, 0)) for name in QUALITY]


def test_markdown_has_the_same_substance(store: Store) -> None:
    plain = (store.path / "report.md").read_text(encoding="utf-8")
    for finding in store.findings():
        assert text.estimate(finding) in plain
    assert plain.count("degraded") > 2
    tables = re.findall(r"(?:^\|.*\n)+", plain, re.MULTILINE)
    # The glance, three of results with all their numbers, two of generators and judges, knowledge, receipts.
    assert len(tables) == 11
    for table in tables:
        assert len({re.sub(r"\\.", "", line).count("|") for line in table.splitlines()}) == 1


# Incomplete and foreign runs


def test_an_incomplete_run_says_so_on_top(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", items=40, failing=True)
    page = rebuilt(store)
    assert page.index("This run is incomplete") < page.index("Yes: ")
    assert "2 of 44 cells are not done" in page
    assert "out of memory &lt;script&gt;" in page
    assert "Traceback (most recent call last)" in page
    assert "not run" in page
    plain = (store.path / "report.md").read_text(encoding="utf-8")
    assert "out of memory &lt;script&gt;" in plain
    assert "<script" not in plain
    assert Page(page).open == []


def test_a_run_without_findings_or_rows_still_has_a_report(copy: Store) -> None:
    (copy.path / "findings.parquet").unlink()
    page = rebuilt(copy)
    assert "There is no answer yet" in page
    assert "quantxai report RUN" in page
    assert "news-000" in page
    for folder in ("rows", "scores", "variants"):
        shutil.rmtree(copy.path / folder)
    page = rebuilt(copy)
    assert "No rows are stored yet" in page
    assert "quantxai report RUN" not in page  # there is nothing to compare
    assert ": Nothing could be compared." in (copy.path / "report.md").read_text(encoding="utf-8")
    assert Page(page).open == []


def test_a_parent_that_failed_leaves_the_others_readable(copy: Store) -> None:
    for key in copy.manifest.cells:
        if key.variant == "full":
            copy.discard(key)
    copy.write_results(Finding, [])
    page = rebuilt(copy)
    assert "news-003" in page
    assert Page(page).open == []


class ProbeRow(Row):
    """A row of an explainer the report knows nothing about."""

    layers: list[float]
    verdict: str
    confident: bool


def test_an_unknown_explainer_is_shown_as_it_is(copy: Store) -> None:
    manifest = copy.manifest
    keys = [
        CellKey(kind="rows", variant=name, explainer="probe", dataset="x", shard=0, digest="0" * 8)
        for name in QUALITY
    ]
    entry = {
        **manifest.explainers[0],
        "explainer": "probe",
        "method": "probe",
        "dataset": "x",
        "options": None,
    }
    copy.write_manifest(
        manifest.model_copy(
            update={"cells": [*manifest.cells, *keys], "explainers": [*manifest.explainers, entry]}
        )
    )
    for key in keys:
        row = ProbeRow(item="p1", group="p1", layers=[0.25, 1 / 3], verdict="<b>bold</b>", confident=True)
        copy.write(key, rows_to_table([row], ProbeRow))
    page = rebuilt(copy)
    assert "probe on x" in page
    assert "0.250, 0.333" in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "Nothing has been compared here" in page


def test_an_item_some_variant_lacks_keeps_the_columns_aligned(copy: Store) -> None:
    (key,) = [
        k for k in copy.manifest.cells if (k.kind, k.variant, k.dataset) == ("rows", "nf4", "relations")
    ]
    copy.write(key, copy.read(key).slice(1))
    lines = re.findall(r'<tr class="item".*?</tr>', rebuilt(copy), re.DOTALL)
    assert {line.count("<td data-v=") for line in lines} == {len(QUALITY)}


def test_many_items_are_thinned_out_and_said_so(copy: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "MOST_ITEMS", 4)
    page = rebuilt(copy)
    assert "4 of 40 items" in page
    assert [number for number in range(40) if f"news-{number:03d}" in page] == [0, 10, 20, 30]


def test_what_is_broken_is_refused_by_name(copy: Store, tmp_path: Path) -> None:
    (copy.path / (copy.manifest.cells[0].id + ".parquet")).write_bytes(b"")
    with pytest.raises(CorruptCell, match="checksum"):
        build_report(copy)
    with pytest.raises(RunError):
        build_report(tmp_path / "none")


# Parts


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("the red house", "the blue house", "the <del>red</del> <ins>blue</ins> house"),
        ("a b", "a b", "a b"),
        ("a b", "", "<del>a b</del>"),
        ("", "a b", "<ins>a b</ins>"),
        ("He won.", "He lost!", "He <del>won.</del> <ins>lost!</ins>"),
        ("x", "x <b>", "x <ins>&lt;b&gt;</ins>"),
        ("don't go", "don't", "don&#39;t <del>go</del>"),
        ("a bee.", "a cat.", "a <del>bee</del> <ins>cat</ins>."),
        ("a big bee", "a bee", "a <del>big</del> bee"),
    ],
)
def test_edits_are_marked_word_by_word(before: str, after: str, expected: str) -> None:
    assert str(marking.marked(before, after)) == expected


def test_numbers_are_as_precise_as_their_interval() -> None:
    wide = made_finding(unit="nats", kind="continuous", estimate=0.1234, ci_low=-0.5, ci_high=0.75)
    assert (text.estimate(wide), text.interval(wide)) == ("+0.1", "[−0.5, +0.8]")
    narrow = wide.model_copy(update={"ci_low": 0.1201, "ci_high": 0.1267})
    assert (text.estimate(narrow), text.interval(narrow)) == ("+0.1234", "[+0.1201, +0.1267]")
    share = made_finding(estimate=-0.125, ci_low=-0.2, ci_high=0.0001)
    assert (text.estimate(share), text.interval(share)) == ("−12.5\u00a0pp", "[−20.0, 0.0]")
    assert text.estimate(made_finding(estimate=None)) == "–"
    assert text.interval(made_finding()) == "no interval"
    assert text.detectable(made_finding(minimum_detectable=0.0812)) == "±8.1\u00a0pp"
    assert text.detectable(made_finding(minimum_detectable=1.2)) == "nothing"
    assert text.level(0.525, "proportion") == "52.5\u00a0%"
    assert text.level(None, "nats") == "–"
    assert [text.p_value(p) for p in (None, 0.0004, 0.0412)] == ["–", "< 0.001", "0.041"]
    assert [text.significant(x) for x in (0, 1234567.0, 0.00012345, -1.5e-9)] == [
        "0",
        "1,234,567",
        "0.000123",
        "−1.50e−09",
    ]


def test_perplexity_is_the_exponential_of_nats() -> None:
    assert (
        text.perplexity_ratio(made_finding(metric="nll", unit="nats", estimate=math.log(2)))
        == "perplexity × 2.00"
    )
    assert text.perplexity_ratio(made_finding()) == ""


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (-3, 7, [-5, -2.5, 0, 2.5, 5, 7.5]), (2, 2, [1.5, 1.75, 2, 2.25, 2.5])],
)
def test_ticks_are_round_and_span_the_range(low: float, high: float, expected: list[float]) -> None:
    assert plots.ticks(low, high) == expected


def test_a_marker_is_where_its_value_is() -> None:
    points = [plots.Point("q", 4.0, "gptq", 0)]
    drawn = str(
        plots.panel(points, [made_finding(estimate=0.25, reference_mean=0.5, ci_low=0.0, ci_high=0.9)], "t")
    )
    height = {share: float(y) - 3.5 for y, share in re.findall(r'y="([\d.]+)">(\d+) %<', drawn)}
    (circle,) = re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', drawn)
    # From 40 % to 100 %: 75 % is 35 of 60 on the way, 50 % is 10 of 60.
    between = (25 * height["40"] + 35 * height["100"]) / 60
    assert float(circle) == pytest.approx(between, abs=0.11)
    ((low, high),) = re.findall(r'class="whisker" x1="[\d.]+" x2="[\d.]+" y1="([\d.]+)" y2="([\d.]+)"', drawn)
    assert float(low) == pytest.approx((5 * height["40"] + height["100"]) / 6, abs=0.11)
    assert float(high) == pytest.approx(height["100"], abs=0.11)  # a share cannot pass 100 %
    assert "q: recall" in drawn


def test_nothing_to_draw_draws_nothing() -> None:
    assert plots.panel([plots.Point("q", None, "gptq", 0)], [made_finding(estimate=None)], "t") == ""


def test_unknown_metrics_are_plotted_all_the_same(copy: Store) -> None:
    manifest = json.loads((copy.path / "manifest.json").read_text())
    for scorer in manifest["scorers"]:
        for metric in scorer["metrics"]:
            metric["name"] = f"new_{metric['name']}"
    (copy.path / "manifest.json").write_text(json.dumps(manifest))
    renamed = [f.model_copy(update={"metric": f"new_{f.metric}"}) for f in copy.findings()]
    copy.write_results(Finding, renamed)
    assert Measurement.COLUMNS[-1] == "value"
    assert rebuilt(copy).count("<figure>") == 10


# Controls


def controlled(store: Store) -> Store:
    """The run with nf4 as a control of gptq-3, and int8 as one of the parent."""
    manifest = store.manifest
    of = {"nf4": "gptq-3", "int8": None}
    variants = [
        {**v, "control": True, "beside": of[v["name"]]} if v["name"] in of else v for v in manifest.variants
    ]
    store.write_manifest(manifest.model_copy(update={"variants": variants}))
    return store


def test_each_effect_stands_beside_its_controls(copy: Store) -> None:
    page = rebuilt(controlled(copy))

    table = page[page.index('<table class="results">') :]
    head = table[: table.index("</thead>")]
    assert '<th scope="col">gptq-3</th>' in head
    assert '<th scope="col">nf4</th>' not in head
    assert '<th scope="col">int8</th>' not in head
    start = table.index('<tr><th scope="row">')
    row = table[start : table.index("</tr>", start)]
    columns = dict(
        zip(re.findall(r'<th scope="col">([^<]+)</th>', head)[1:], row.split("<td")[1:], strict=True)
    )
    shown = {name: re.findall(r'class="more control">([\w-]+):', cell) for name, cell in columns.items()}
    assert shown["gptq-3"] == ["nf4", "int8"]
    finding = next(f for f in copy.findings() if (f.variant, f.metric) == ("nf4", "parent_soft_flip"))
    assert f"nf4: {text.estimate(finding)}" in columns["gptq-3"]
    assert re.search(r"<h3>nf4 <span[^>]*>[^<]*a control</span></h3>", page)


def test_controls_are_not_part_of_the_answer(copy: Store) -> None:
    page = rebuilt(controlled(copy))

    headline = page[page.index('class="headline"') : page.index("<nav")]
    assert "nf4" not in headline
    assert "int8" not in headline
    judged = [f for f in copy.findings() if f.confirmatory and f.variant not in ("nf4", "int8")]
    assert f"Of {len(judged)} comparisons" in headline

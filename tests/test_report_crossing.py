"""Generators and judges, flips against the size of edits, and what scorers note: numbers and pictures."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pytest
from synthetic import JUDGE, QUALITY, made_finding, make_run, rebuilt

from quantxai.manifest import CellKey
from quantxai.records import Metric
from quantxai.report import build_report, headlines
from quantxai.report.caveats import truncation
from quantxai.report.crossing import FLIPS, Rate, crossing
from quantxai.report.notes import notes
from quantxai.report.plots import Point
from quantxai.report.tradeoff import places, tradeoff
from quantxai.store import Store

pytestmark = pytest.mark.bare


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = make_run(tmp_path_factory.mktemp("crossing") / "run", items=40)
    build_report(store)
    return store


@pytest.fixture(scope="module")
def page(store: Store) -> str:
    return (store.path / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def copy(store: Store, tmp_path: Path) -> Store:
    return Store.open(shutil.copytree(store.path, tmp_path / "copy"))


def cells(table: str) -> list[list[str]]:
    """The texts of a table's body, line by line."""
    body = table[table.index("<tbody>") :]
    lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in body.split("<tr>")[1:]]
    return [[html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in line] for line in lines]


def tables(page: str, kind: str) -> list[str]:
    return re.findall(rf'<table class="{kind}">.*?</table>', page, re.DOTALL)


def measured(values: Iterable[tuple[str, str, str, float]], group: str = "") -> pd.DataFrame:
    """Measurements of (variant, metric, item, value)."""
    frame = pd.DataFrame(values, columns=["variant", "metric", "item", "value"])
    return frame.assign(group=group or frame["item"], scorer="s")


# Generators and judges


def test_the_tables_numbers_are_those_of_the_measurements(store: Store, page: str) -> None:
    found = store.measurements()
    (table,) = tables(page, "crossing")
    lines = cells(table)
    assert [line[0].split()[0] for line in lines] == list(QUALITY)
    for name, *rates in lines:
        for metric, shown in zip(FLIPS[:6], rates, strict=True):
            own = found[(found.variant == name.split()[0]) & (found.metric == metric)]
            assert (
                shown == f"{100 * own.value.mean():.1f}\u00a0% {int(own.value.sum())} of {own.value.count()}"
            )


def test_each_corner_has_generator_and_judge_in_both_roles(store: Store, page: str) -> None:
    found = store.measurements()

    def share(variant: str, metric: str) -> str:
        return f"{100 * found[(found.variant == variant) & (found.metric == metric)].value.mean():.1f}\u00a0%"

    corners = tables(page, "corner")
    assert len(corners) == len(QUALITY) - 1
    for variant, table in zip(list(QUALITY)[1:], corners, strict=True):
        assert cells(table) == [
            ["full", share("full", "own_soft_flip"), share(variant, "variant_soft_flip_of_parent_edits"),
             share("full", "own_hard_flip"), share(variant, "variant_hard_flip_of_parent_edits")],
            [variant, share(variant, "parent_soft_flip"), share(variant, "own_soft_flip"),
             share(variant, "parent_hard_flip"), share(variant, "own_hard_flip")],
        ]  # fmt: skip
    assert len({table[table.index("<tbody>") :] for table in corners}) == len(corners)


def test_the_table_says_how_to_read_it_and_what_the_judge_is_worth(page: str) -> None:
    plain = " ".join(page.split())
    assert "along a row the edits stay the same, so a difference is the judge's doing" in plain
    (note,) = re.findall(r'<p class="note"><b>flips</b> (Independent judge.*?)</p>', plain)
    assert JUDGE["judge"] in note
    assert "75.0 % of 12 texts (95 % interval 50.0 % to 90.0 %); guessing gives 25.0 %" in note


def test_judges_that_were_not_asked_have_no_column() -> None:
    found = crossing(
        measured([("full", "parent_hard_flip", "a", 1), ("full", "parent_hard_flip", "b", 0)]), ["full", "q"]
    )
    assert found is not None
    assert found.judges == [("full, the parent", ["hard"])]
    assert found.lines == {"full": [Rate(1, 2)]}
    assert found.corners == []


def test_without_flips_there_is_no_crossing() -> None:
    assert crossing(measured([("full", "recall", "a", 1)]), ["full"]) is None


def test_items_without_a_value_are_not_counted() -> None:
    found = crossing(
        measured(
            [
                *(("full", "own_soft_flip", item, 1) for item in "abc"),
                ("full", "independent_soft_flip", "a", 0),
                ("q", "own_soft_flip", "a", 1),
            ]
        ),
        ["full", "q"],
    )
    assert found is not None
    assert found.lines == {"full": [Rate(3, 3), Rate(0, 1)], "q": [Rate(1, 1), None]}


def test_a_corner_rests_on_the_items_all_four_share() -> None:
    found = crossing(
        measured(
            [
                *(
                    ("full", "own_soft_flip", item, value)
                    for item, value in zip("abcd", (1, 0, 1, 1), strict=True)
                ),
                *(("q", "variant_soft_flip_of_parent_edits", item, 1) for item in "abc"),
                *(("q", "parent_soft_flip", item, 0) for item in "abcd"),
                *(("q", "own_soft_flip", item, value) for item, value in zip("bcd", (0, 1, 1), strict=True)),
            ]
        ),
        ["full", "q"],
    )
    assert found is not None
    ((corner),) = found.corners
    assert corner.n == 2
    # Only b and c.
    assert corner.rates == {"soft": [[Rate(1, 2), Rate(2, 2)], [Rate(0, 2), Rate(1, 2)]]}


def test_a_run_without_crossed_judges_shows_the_rest(copy: Store) -> None:
    for key in copy.manifest.cells:
        if key.kind == "scores" and key.scorer == "crossing":
            copy.discard(key)
    page = rebuilt(copy)
    assert len(tables(page, "crossing")) == 1
    assert tables(page, "corner") == []
    for key in copy.manifest.cells:
        if key.kind == "scores" and key.scorer in ("flips", "edits"):
            copy.discard(key)
    page = rebuilt(copy)
    assert 'id="crossing"' not in page
    assert 'href="#crossing"' not in page


def test_markdown_has_the_crossing_table(store: Store) -> None:
    plain = (store.path / "report.md").read_text(encoding="utf-8")
    found = store.measurements()
    part = found[(found.variant == "nf4") & (found.metric == "independent_hard_flip")].value
    (line,) = re.findall(r"^\| nf4 \|(?:[^|]*of 40\) \|){6}$", plain, re.MULTILINE)
    assert line.endswith(f" {100 * part.mean():.1f}\u00a0% ({int(part.sum())} of 40) |")
    assert "a made-up judge" in plain


# Notes of scorers


def key(variant: str) -> CellKey:
    return CellKey(
        kind="scores", variant=variant, explainer="e", dataset="d", scorer="s", shard=0, digest="0" * 8
    )


def test_a_note_that_all_variants_share_is_said_once_and_others_by_variant() -> None:
    found = notes(
        [
            (key("full"), {"model": "tiny", "seconds": {"mean": 1.25}, "leaking": None}),
            (key("q"), {"model": "tiny", "seconds": {"mean": 2.5}, "leaking": 3}),
        ]
    )
    (note,) = found["e", "d"]
    assert (note.scorer, note.shared, note.columns) == ("s", ["Model: tiny."], ["seconds", "leaking"])
    assert note.lines == {"full": ["mean 1.25", "–"], "q": ["mean 2.50", "3"]}


def test_what_only_some_variants_note_is_shown_by_variant() -> None:
    ((note,),) = notes([(key("full"), {}), (key("q"), {"model": "<b>"})]).values()
    assert note.shared == []
    assert note.lines == {"full": ["–"], "q": ["<b>"]}


# Flips against the size of edits


def metric(name: str, kind: str = "continuous", unit: str = "proportion") -> Metric:
    return Metric.model_validate(
        {"name": name, "kind": kind, "unit": unit, "higher_is_better": None, "margin": 0.1, "description": ""}
    )


FLIP, SIZE = metric("parent_soft_flip", "binary"), metric("edit_distance_normalized")


def test_places_are_means_with_intervals_of_their_own() -> None:
    found = places(measured([("q", FLIP.name, str(i), 0) for i in range(10)]), FLIP)["q"]
    # Clopper and Pearson: 1 - 0.025^(1/10).
    assert (found.value, found.low, found.n) == (0, 0, 10)
    assert found.high == pytest.approx(0.30850, abs=1e-5)
    alone = places(measured([("q", SIZE.name, "a", 0.2), ("q", SIZE.name, "b", 0.4)], group="one"), SIZE)["q"]
    assert (alone.low, alone.high) == (alone.value, alone.value) == pytest.approx((0.3, 0.3))
    two = places(measured([("q", SIZE.name, "a", 0.2), ("q", SIZE.name, "b", 0.4)]), SIZE)["q"]
    # Student's t with one degree of freedom: 12.706 standard errors of 0.1.
    assert two.high - two.value == pytest.approx(1.2706, abs=1e-4)


def drawn(values: Iterable[tuple[str, str, str, float]], *names: str) -> str:
    points = [Point(name, 4.0, "rtn", 0) for name in names]
    return str(tradeoff(measured(values), [FLIP, SIZE], points, "full", {"resamples": 1000}))


VALUES = [
    *(("full", SIZE.name, i, 0.2) for i in "ab"),
    *(("full", FLIP.name, i, 1) for i in "ab"),
    *(("q", SIZE.name, i, 0.6) for i in "ab"),
    *(("q", FLIP.name, i, v) for i, v in (("a", 0), ("b", 1))),
]


def test_a_point_is_where_its_means_are() -> None:
    picture = drawn(VALUES, "q")
    across = {
        share: float(x) for x, share in re.findall(r'class="bits" x="([\d.]+)" y="[\d.]+">(\d+) %<', picture)
    }
    upward = {
        share: float(y) - 3.5
        for y, share in re.findall(r'class="num" x="[\d.]+" y="([\d.]+)">(\d+) %<', picture)
    }
    ((x, y),) = re.findall(r'class="s0 shown">.*?<circle cx="([\d.]+)" cy="([\d.]+)" r="4.5"/>', picture)
    assert float(x) == pytest.approx(across["60"], abs=0.11)
    assert float(y) == pytest.approx((upward["0"] + upward["100"]) / 2, abs=0.11)
    ((x, y),) = re.findall(r'class="parent">.*?<circle cx="([\d.]+)" cy="([\d.]+)" r="7"/>', picture)
    assert float(x) == pytest.approx(across["20"], abs=0.11)
    assert float(y) == pytest.approx(upward["100"], abs=0.11)
    assert re.findall(r'class="label"[^>]*>([^<]+)<', picture) == ["full", "q"]
    assert "q: parent soft flip 50.0\u00a0%" in picture


def test_names_of_points_do_not_cover_each_other() -> None:
    close = [(name, m, i, v) for name in ("q1", "q2", "q3") for _, m, i, v in VALUES[:4]]
    spots = re.findall(r'class="label" x="([\d.]+)" y="([\d.]+)"', drawn([*VALUES, *close], "q1", "q2", "q3"))
    assert len(spots) == len(set(spots)) == 4


def test_without_both_measures_or_any_variant_there_is_no_picture() -> None:
    assert drawn([v for v in VALUES if v[1] == FLIP.name], "q") == ""
    assert drawn([v for v in VALUES if v[0] == "full"], "q") == ""
    assert "<svg" in drawn(VALUES, "q", "absent")


def test_the_page_has_one_picture_for_each_data_set_with_edits(page: str) -> None:
    assert page.count('<figure class="tradeoff">') == 1
    assert "only a common judge makes them comparable" in page


# The table of results


def row(scorer: str, name: str, verdict: str | None = "unresolved") -> headlines.Row:
    found = made_finding(scorer=scorer, metric=name, n=5, groups=5, verdict=verdict)
    return headlines.Row(scorer, metric(name, "binary"), 0.5, {"q": found})


def test_few_metrics_are_all_shown_scorers_with_headlines_first() -> None:
    rows = [row("misc", "a"), row("flips", "failure"), row("flips", "own_soft_flip"), row("misc", "b")]
    first, folded = headlines.by_interest(rows, {"q"})
    assert [r.metric.name for r in first] == ["failure", "own_soft_flip", "a", "b"]
    assert folded == []


def test_of_many_metrics_only_what_did_not_change_is_folded_away() -> None:
    rows = [
        *(row("misc", f"m{i}") for i in range(9)),
        row("misc", "worse", "degraded"),
        row("misc", "better", "improved"),
        row("flips", "failure"),
        row("flips", "own_soft_flip"),
    ]
    first, folded = headlines.by_interest(rows, {"q"})
    assert [r.metric.name for r in first] == ["failure", "own_soft_flip", "worse", "better"]
    assert [r.metric.name for r in folded] == [f"m{i}" for i in range(9)]
    # What a control alone shows is no reason.
    assert "worse" in [r.metric.name for r in headlines.by_interest(rows, {"other"})[1]]


def test_folded_metrics_are_in_the_page_and_counted(store: Store, page: str) -> None:
    (number,) = re.findall(r"<summary>(\d+) further metrics of counterfactual on news", page)
    folded = page[
        page.index('<details class="folded">') : page.index(
            "</details>", page.index('<details class="folded">')
        )
    ]
    assert folded.count('<span class="metric">') == int(number) > 0
    for name in {f.metric for f in store.findings()}:
        assert f'<span class="metric">{name.replace("_", " ")}' in page


# Texts that were cut


def test_texts_that_were_cut_are_counted_and_marked(store: Store, page: str) -> None:
    assert "Texts too long for the model were cut: 1 of 6 items of natural_language on inference." in page
    (heading,) = re.findall(r"<h4>(?:(?!</h4>).)*text cut.*?</h4>", page)
    assert "pair-001" in heading
    assert truncation(store.manifest, {}) == []

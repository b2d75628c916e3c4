"""Item by item: original and edit, the variants side by side, and every judge's word."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import pytest
from synthetic import QUALITY, make_run

from quantxai.records import Metric
from quantxai.report import build_report
from quantxai.report.cells import Cell, Word
from quantxai.report.crossing import FLIPS
from quantxai.report.fields import value
from quantxai.report.items import Section, item_texts, section
from quantxai.report.results import Compared
from quantxai.store import Store

pytestmark = pytest.mark.bare

PLACE = ("counterfactual", "news")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = make_run(tmp_path_factory.mktemp("items") / "run")
    build_report(store)
    return store


@pytest.fixture(scope="module")
def page(store: Store) -> str:
    return (store.path / "report.html").read_text(encoding="utf-8")


def edit(variant: str, **fields: Any) -> dict[str, Any]:
    known = {
        "variant": variant, "explainer": "counterfactual", "dataset": "news", "item": "a", "group": "a",
        "original": "the red house", "edited": "the blue house", "context": "", "gold": "art",
        "predicted": "art", "target": "sea", "failure": None, "raw": "", "labels": ["art", "sea", "sky"],
        "original_scores": [math.log(0.7), math.log(0.2), math.log(0.1)],
        "edited_scores": [math.log(0.3), math.log(0.6), math.log(0.1)],
    }  # fmt: skip
    return {**known, **fields}


def shown(
    rows: Iterable[Mapping[str, Any]],
    values: Mapping[tuple[str, str], float] | None = None,
    texts: Mapping[tuple[str, str], dict[str, Any]] | None = None,
) -> Section:
    """The section of some rows, with values by variant and metric of the item a."""
    metrics = {
        ("s", name): Metric(
            name=name, kind="binary" if "flip" in name else "continuous", higher_is_better=True,
            margin=0.1, unit="proportion" if "flip" in name else "nats", description="",
        )
        for name in (*FLIPS, "nll")
    }  # fmt: skip
    frame = pd.DataFrame(
        [(v, "a", "a", "s", m, of) for (v, m), of in (values or {}).items()],
        columns=["variant", "item", "group", "scorer", "metric", "value"],
    )
    run = Compared(["full", "q", "r"], [], metrics, {})
    return section(run, PLACE, list(rows), frame, texts or {}, ())


def cell(section: Section, variant: str) -> Cell:
    return section.items[0].by_variant[variant]


# Edits


def test_both_variants_stand_beside_the_original_with_their_edits_marked() -> None:
    found = shown([edit("q", edited="the green house"), edit("full")])
    assert (found.layout, found.variants) == ("edits", ["full", "q"])
    (item,) = found.items
    assert (item.prompt, item.gold) == ("the red house", "art")
    assert [c.variant for c in item.cells] == ["full", "q"]
    assert str(cell(found, "full").html) == "<p>the <del>red</del> <ins>blue</ins> house</p>"
    assert str(cell(found, "q").html) == "<p>the <del>red</del> <ins>green</ins> house</p>"
    assert cell(found, "q").note == "art → sea"


def test_every_judge_has_a_word() -> None:
    found = shown(
        [edit("full"), edit("q"), edit("r")],
        {
            ("q", "own_soft_flip"): 1, ("q", "own_hard_flip"): 1,
            ("q", "parent_soft_flip"): 1, ("q", "parent_hard_flip"): 0,
            ("q", "independent_soft_flip"): 0, ("q", "independent_hard_flip"): 0,
            ("full", "own_soft_flip"): 0, ("full", "own_hard_flip"): 0,
            ("full", "parent_soft_flip"): 0, ("full", "parent_hard_flip"): 0,
            ("full", "variant_soft_flip_of_parent_edits"): 0, ("full", "variant_hard_flip_of_parent_edits"): 0,
            ("q", "variant_soft_flip_of_parent_edits"): 1, ("q", "variant_hard_flip_of_parent_edits"): 1,
            ("r", "variant_soft_flip_of_parent_edits"): 0, ("r", "variant_hard_flip_of_parent_edits"): 1,
        },
    )  # fmt: skip
    assert cell(found, "q").words == [
        Word("itself", True, "art 70\u00a0% → sea 60\u00a0%"),
        Word("full", True, "another label, not sea"),
        Word("independent judge", False, "same label"),
    ]
    # The parent speaks once of its own edit; then every variant speaks of it.
    assert cell(found, "full").words == [
        Word("itself", False, "art 70\u00a0% → sea 60\u00a0%"),
        Word("q", True, "sea, as asked", "q"),
        Word("r", False, "sea before and after", "r"),
    ]


def test_judges_that_were_not_asked_say_nothing() -> None:
    found = shown(
        [edit("full"), edit("q")], {("q", "independent_hard_flip"): 1, ("q", "parent_soft_flip"): 1}
    )
    assert cell(found, "q").words == [
        Word("full", True, "another label"),
        Word("independent judge", True, "sea"),
    ]
    assert cell(found, "full").words == []


def test_a_failed_edit_shows_what_was_generated_and_no_judge() -> None:
    failed = edit("q", edited=None, edited_scores=None, failure="unparsed", raw="<edit>half a")
    found = cell(
        shown([edit("full"), failed], {("q", "own_soft_flip"): 0, ("q", "parent_soft_flip"): 0}), "q"
    )
    assert str(found.html) == "<p><q>&lt;edit&gt;half a</q></p>"
    assert (found.outcome, found.failure, found.words) == ("failed", "unparsed", [])


def test_an_item_a_variant_lacks_is_shown_for_the_others() -> None:
    found = shown([edit("full"), edit("q"), edit("full", item="b")])
    assert [list(item.by_variant) for item in found.items] == [["full", "q"], ["full"]]


def test_steps_before_the_edit_are_kept() -> None:
    assert cell(shown([edit("full", steps=["red, house"])]), "full").steps == [
        ("1 step before the edit", ["red, house"])
    ]
    assert cell(shown([edit("full", steps=[])]), "full").steps == []


def test_outcomes_and_other_measurements_are_told_apart() -> None:
    found = cell(shown([edit("full")], {("full", "own_soft_flip"): 1, ("full", "nll"): 4.25}), "full")
    assert (found.outcome, found.chips, found.scores) == ("yes", [], [("nll", "4.25")])


# Explanations, and whatever else an explainer stores


def explanation(variant: str, **fields: Any) -> dict[str, Any]:
    known = {
        "variant": variant, "item": "a", "group": "a", "text": "Premise: p\nHypothesis: h", "gold": "yes",
        "reference": "Because.", "order": "explain-then-predict", "labels": ["yes", "no"],
        "scores": [math.log(0.25), math.log(0.75)], "predicted": "no", "said": "yes",
        "explanation": "It <is> so.", "raw": " It", "failure": None,
        "samples": ["One.", ""], "sample_labels": ["yes", "no"],
    }  # fmt: skip
    return {**known, **fields}


def test_explanations_go_with_item_prediction_and_what_is_said_freely() -> None:
    found = shown([explanation("full"), explanation("q", predicted="yes"), explanation("q", item="b")])
    assert found.layout == "explanations"
    item = found.items[0]
    assert (item.prompt, item.gold, item.reference) == ("Premise: p\nHypothesis: h", "yes", "Because.")
    assert cell(found, "full").note == "no 75\u00a0% ✗ · said: yes"
    assert cell(found, "q").note == "yes 25\u00a0% ✓"
    assert str(cell(found, "full").html).startswith("<p>It &lt;is&gt; so.</p>")
    assert cell(found, "full").steps == [("2 sampled explanations", ["yes: One.", "no: (none)"])]


def test_other_fields_are_listed_once_where_they_are_the_same() -> None:
    rows = [
        {"variant": v, "item": i, "group": i, "rule": "always", "of_item": f"of {i}", "own": f"{v}{i}"}
        for v in ("full", "q")
        for i in ("a", "b")
    ]
    found = shown(rows)
    assert found.layout == "other"
    assert found.constants == [("rule", "always")]
    assert str(found.items[0].facts) == "<dl><dt>of item</dt><dd>of a</dd></dl>"
    assert str(cell(found, "q").html) == "<dl><dt>own</dt><dd>qa</dd></dl>"
    # Of a single variant nothing is known to be the same for all.
    assert str(cell(shown(rows[:1]), "full").html).count("<dt>") == 3


def test_long_values_are_compact() -> None:
    assert value([0.5] * 40) == ", ".join(["0.500"] * 12) + ", … (40 in all)"
    assert value(["a", "b"]) == "a, b"
    assert value(["one <b>", "x" * 90]) == f"<ol><li>one &lt;b&gt;</li><li>{'x' * 90}</li></ol>"
    assert len(str(value("y" * 1000))) == 400
    assert value(True) == "True"
    labelled = {"labels": ["yes", "no"], "scores": [math.log(0.5), math.log(0.25)]}
    assert value(labelled["scores"], labelled, "scores") == "yes 50\u00a0%, no 25\u00a0%"


def test_contributions_stand_beside_their_words_the_largest_first() -> None:
    row = {"players": [f"w{i}" for i in range(8)], "to_prediction": [0.1, -2.5, 0, 0.5, 0.2, 0.3, 0.4, 0.05]}
    assert value(row["to_prediction"], row, "to_prediction") == (
        "w1 −2.50, w3 +0.50, w6 +0.40, w5 +0.30, w4 +0.20, w0 +0.10"
    )
    assert value([], row, "to_prediction") == ""


def test_an_item_whose_text_an_explainer_does_not_store_has_it_from_another() -> None:
    texts = item_texts({("nle", "news"): [explanation("full")], ("cot", "news"): []})
    found = shown([{"variant": "full", "item": "a", "group": "a", "sentences": ["S."]}], texts=texts)
    assert (found.items[0].prompt, found.items[0].reference) == ("Premise: p\nHypothesis: h", "Because.")
    part = shown([edit("full", original="h", context=None)], texts=texts)
    assert (part.items[0].prompt, part.items[0].context) == ("h", "Premise: p\nHypothesis: h")
    assert item_texts({("nle", "news"): [explanation("full", reference=None)]}) == {
        ("news", "a"): {"text": "Premise: p\nHypothesis: h"}
    }


def test_metrics_of_one_name_are_told_apart_by_their_scorers() -> None:
    metric = Metric(
        name="same", kind="continuous", higher_is_better=True, margin=1, unit="nats", description=""
    )
    frame = pd.DataFrame(
        [("full", "a", "a", "s", "same", 1.0), ("full", "a", "a", "t", "same", 2.0)],
        columns=["variant", "item", "group", "scorer", "metric", "value"],
    )
    run = Compared(["full"], [], {("s", "same"): metric, ("t", "same"): metric}, {})
    found = section(run, PLACE, [edit("full")], frame, {}, ())
    assert cell(found, "full").scores == [("s: same", "1.00"), ("t: same", "2.00")]


# The page


def test_the_page_shows_each_judges_word_and_variant(store: Store, page: str) -> None:
    measured = store.measurements()

    def says(metric: str, variant: str, item: str) -> str:
        one = measured[(measured.metric == metric) & (measured.variant == variant) & (measured.item == item)]
        return "✓" if one.value.item() else "✗"

    rows = store.rows("counterfactual")
    edited = rows[(rows.variant == "full") & rows.edited.notna()].item
    for item in edited:
        article = next(a for a in page.split("<article")[1:] if f">{item}</a>" in a).split("</article>")[0]
        full = re.split(r'<div class="cell[ "]', article)[1]
        found = {judge: mark for mark, judge in re.findall(r"<li[^>]*>(✓|✗) <b>([^<]+):</b>", full)}
        assert found == {
            "itself": says("own_soft_flip", "full", item),
            "independent judge": says("independent_soft_flip", "full", item),
            **{v: says("variant_soft_flip_of_parent_edits", v, item) for v in list(QUALITY)[1:]},
        }


def test_items_have_anchors_that_lead_to_them(page: str) -> None:
    links = re.findall(r'<article class="item" id="([^"]+)"><h4><a href="#([^"]+)">', page)
    assert len(links) == 12 + 6
    assert all(anchor == target for anchor, target in links)


def test_any_two_variants_can_be_put_side_by_side(page: str) -> None:
    for name in ("left", "right"):
        choices = re.findall(rf'<select name="{name}">(.*?)</select>', page)
        assert len(choices) == 3
        for choice in choices:
            assert [v for v in QUALITY if f">{v}</option>" in choice] == list(QUALITY)


def test_without_the_script_nothing_is_hidden(page: str) -> None:
    body = page[page.index("<body>") : page.index("<script>")]
    hidden = re.findall(r"<(\w+)[^>]* hidden[ >]", body)
    assert set(hidden) == {"form", "p"}  # filters and paging, which need it


def test_generated_explanations_stay_texts(store: Store, page: str) -> None:
    said = store.rows("natural_language").explanation.dropna()
    assert all("<i>" in text for text in said)
    assert "<i>" not in page
    assert all(html.escape(text) in page for text in said)

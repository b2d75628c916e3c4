"""Knowledge over relations, profiles of the layers, two hops: numbers, pictures, and what is missing."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_inside import (
    EACH,
    LAYERS,
    PARENT,
    PLACES,
    RELATIONS,
    SCORERS,
    VARIANTS,
    AttributionRow,
    made_rows,
    make_run,
    write_run,
)

from quantxai.manifest import CellKey
from quantxai.records import Metric
from quantxai.report import build_report
from quantxai.report.curves import Curve, axis, curves
from quantxai.report.fields import inside
from quantxai.report.hops import hops
from quantxai.report.knowledge import knowledge
from quantxai.report.layered import by_layer, layer_means, problems
from quantxai.report.means import Resampling, macro_change, macro_mean, mean, mean_change
from quantxai.report.notes import notes
from quantxai.report.profiles import profiles
from quantxai.report.results import Compared, Control
from quantxai.report.text import error_kind
from quantxai.store import Store

pytestmark = pytest.mark.bare

HOW = Resampling(resamples=1000)
METRICS = {(s, m["name"]): Metric.model_validate(m) for s, found in SCORERS.items() for m in found}
SPACE = "\N{NO-BREAK SPACE}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = make_run(tmp_path_factory.mktemp("profiles") / "run")
    build_report(store)
    return store


@pytest.fixture(scope="module")
def page(store: Store) -> str:
    return text_of(store)


def text_of(store: Store) -> str:
    return (store.path / "report.html").read_text(encoding="utf-8")


def rebuilt(store: Store) -> str:
    build_report(store)
    return text_of(store)


def table(page: str, caption: str) -> list[list[str]]:
    """The texts of the body of the table with a caption that begins so, line by line."""
    (found,) = [t for t in re.findall(r"<table.*?</table>", page, re.DOTALL) if f"<caption>{caption}" in t]
    body = found[found.index("<tbody>") :]
    lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL) for line in body.split("<tr")[1:]]
    return [
        [" ".join(html.unescape(re.sub(r"<[^>]+>", " ", c)).split(" ")).strip() for c in line]
        for line in lines
    ]


def lines_by_name(page: str, caption: str) -> dict[str, list[str]]:
    return {line[0].split()[0]: line[1:] for line in table(page, caption)}


def frame(values: Iterable[tuple[str, float]]) -> pd.DataFrame:
    """Values of (group, value), an item each."""
    found = pd.DataFrame(values, columns=["group", "value"])
    return found.set_index(found.index.map(str))


def measured(values: Iterable[tuple[str, str, str, str, float]], scorer: str) -> pd.DataFrame:
    """Measurements of (variant, metric, item, group, value)."""
    names = ["variant", "metric", "item", "group", "value"]
    return pd.DataFrame(values, columns=names).assign(scorer=scorer)


def asked(*variants: str, controls: Sequence[Control] = ()) -> Compared:
    names = [*variants, *(c.name for c in controls)]
    return Compared(names, [], METRICS, {"alpha": 0.05, "resamples": 1000}, controls)


def entry(name: str, **options: Any) -> dict[str, Any]:
    return {"explainer": name, "method": PLACES[name][0], "dataset": PLACES[name][1], "options": options}


# Means


def test_the_macro_mean_counts_relations_the_micro_mean_facts() -> None:
    values = frame([("a", 1), ("a", 1), ("a", 1), ("b", 0)])
    macro, micro = macro_mean(values, "proportion", HOW), mean(values, "proportion", HOW)
    assert (macro.value, micro.value) == (0.5, 0.75)
    assert (macro.n, macro.groups) == (4, 2)
    # Student's t with one degree of freedom on an error of 0.5, cut to what a share can be.
    assert macro.ends == (0, 1)
    assert (macro.text, macro.interval) == (f"50.0{SPACE}%", f"[0.0{SPACE}%, 100.0{SPACE}%]")


def test_the_macro_interval_is_over_relations_and_not_over_facts() -> None:
    few = frame([("a", 0.2), ("b", 0.4)])
    many = frame([(group, value) for group, value in (("a", 0.2), ("b", 0.4)) for _ in range(50)])
    ends = [macro_mean(values, "nats", HOW).ends for values in (few, many)]
    assert ends[0] == pytest.approx(ends[1])
    # 12.706 standard errors of 0.1.
    assert ends[0] == pytest.approx((0.3 - 1.2706, 0.3 + 1.2706), abs=1e-4)


def test_a_change_is_over_the_items_of_both() -> None:
    own, other = frame([("a", 1.0), ("a", 3.0), ("b", 5.0)]), frame([("a", 0.0), ("a", 1.0)])
    found = macro_change(own, other, "nats", HOW)
    assert (found.value, found.n, found.groups) == (1.5, 2, 1)
    assert (found.text, found.interval) == ("+1.50", "no interval")
    found = mean_change(own, frame([]), "nats", HOW)
    assert (found.value, found.n, found.text) == (None, 0, "–")


def test_without_spread_no_interval_is_made_up() -> None:
    alike = frame([(group, 0.1 + 0.2) for group in "abc"] + [("d", 0.3)])
    found = macro_mean(alike, "nats", HOW)
    assert (found.ends, found.interval) == (None, "all alike")
    # Clopper and Pearson: 0.025^(1/10).
    (low, high) = mean(frame([(f"g{i}", 1) for i in range(10)]), "proportion", HOW).ends or (0, 0)
    assert (low, high) == pytest.approx((0.69150, 1), abs=1e-5)


def test_bands_are_the_intervals_column_by_column() -> None:
    source = np.random.default_rng(0)
    values, groups = source.standard_normal((40, 3)), [f"g{i % 10}" for i in range(40)]
    low, high = HOW.bands(values, groups)
    for column in range(3):
        one = HOW.interval(values[:, column], np.array(groups))
        assert one is not None
        assert (low[column], high[column]) == pytest.approx((one.low, one.high), abs=0.06)
        assert low[column] < values[:, column].mean() < high[column]


# Knowledge


def test_the_table_of_knowledge_has_macro_and_micro_averages_of_every_variant(
    store: Store, page: str
) -> None:
    found = store.measurements()
    own = found[(found.explainer == "knowledge") & (found.metric == "logprob")]
    lines = lines_by_name(page, "knowledge on relations, 3-shot")
    assert list(lines) == list(VARIANTS)
    for name, cells in lines.items():
        part = own[own.variant == name]
        macro, micro = part.groupby("group").value.mean().mean(), part.value.mean()
        assert cells[2].startswith(f"{macro:.2f}".replace("-", "−"))
        assert f"micro {micro:.2f}".replace("-", "−") in cells[2]
        assert ("change" in cells[2]) == (name != PARENT)
        assert cells[-1].split() == [str(RELATIONS * EACH), "of", str(RELATIONS), "relations"]


def test_both_match_rules_are_stated(page: str) -> None:
    plain = " ".join(re.sub(r"<[^>]+>", "", page).split())
    assert "Whole object: the greedy completion starts with the right answer" in plain
    assert "First token: the first token of the right answer is the likeliest next token." in plain


def test_relations_of_unequal_size_and_facts_that_one_variant_lacks() -> None:
    values = [
        *(("full", "recall", f"a{i}", "a", 1) for i in range(3)), ("full", "recall", "b", "b", 0),
        ("q", "recall", "a0", "a", 0), ("q", "recall", "b", "b", 0), ("q", "recall", "c", "c", 1),
    ]  # fmt: skip
    found = knowledge(asked("full", "q", "absent"), entry("knowledge", shots=0), measured(values, "recall"))
    assert found is not None
    assert (found.shots, list(found.columns)) == ("zero-shot", ["recall"])
    assert list(found.lines) == ["full", "q"]
    (full,), (q,) = found.lines.values()
    assert full is not None and q is not None and q.change is not None  # noqa: PT018
    assert (full.macro.value, full.micro.value, full.change) == (0.5, 0.75, None)
    assert q.macro.value == pytest.approx(1 / 3)
    assert (q.change.value, q.change.n) == (-0.5, 2)
    assert found.sizes["q"].n == 3


def test_a_metric_that_a_variant_lacks_is_no_data() -> None:
    values = [("full", "recall", "a", "a", 1.0), ("q", "logprob", "a", "a", -1.0)]
    found = knowledge(asked("full", "q"), entry("knowledge"), measured(values, "recall"))
    assert found is not None
    assert [[cell is None for cell in line] for line in found.lines.values()] == [
        [False, True],
        [True, False],
    ]
    assert found.shots == ""
    assert knowledge(asked("full"), entry("knowledge"), measured([], "recall")) is None


# Profiles of the layers


def attribution(variant: str, item: str, ffn: Sequence[float], problem: str | None = None) -> dict[str, Any]:
    return {
        "variant": variant, "item": item, "group": item, "ffn_scores": list(ffn),
        "attention_scores": [-v for v in ffn], "problem": problem,
    }  # fmt: skip


def told(picture: str) -> dict[int, dict[str, str]]:
    """What the strips over the layers tell, by layer and curve."""
    found = {}
    for layer, text in re.findall(r"<title>layer (\d+): (.*?)</title>", picture):
        found[int(layer)] = dict(part.rsplit(" ", 1) for part in html.unescape(text).split(", "))
    return found


def test_a_profile_is_the_mean_over_the_facts_of_parent_and_variant() -> None:
    rows = [
        attribution("full", "a", [1, 2, 3]), attribution("full", "b", [3, 4, 5]), attribution("full", "c", [90] * 3),
        attribution("q", "a", [0, 0, 1]), attribution("q", "b", [0, 4, 1]), attribution("q", "d", [90] * 3),
    ]  # fmt: skip
    found = profiles(asked("full", "q"), entry("inside"), rows, measured([], "neuron_attribution"))
    assert found is not None
    panels = found.pictures["q"]
    assert [(title, note) for title, note, _ in panels] == [
        ("FFN", "2 facts"), ("FFN, change", "2 facts"), ("attention", "2 facts"), ("attention, change", "2 facts"),
    ]  # fmt: skip
    own, change = told(str(panels[0][2])), told(str(panels[1][2]))
    assert {layer: (c["full"], c["q"]) for layer, c in own.items()} == {
        0: ("2.00", "0"), 1: ("3.00", "2.00"), 2: ("4.00", "1.00"),
    }  # fmt: skip
    assert [change[layer]["q"] for layer in range(3)] == ["−2.00", "−1.00", "−3.00"]


def test_the_strongest_layers_come_first() -> None:
    rows = [attribution("full", item, [0.1, 0.9, -2, 0.5, 0.3, 0.2]) for item in "ab"]
    found = profiles(asked("full"), entry("inside"), rows, measured([], "neuron_attribution"))
    assert found is not None
    assert found.parts[0].strongest["full"] == [
        (1, "+0.90"),
        (3, "+0.50"),
        (4, "+0.30"),
        (5, "+0.20"),
        (0, "+0.10"),
    ]
    # The parent alone has a picture, and nothing to differ from.
    assert {name: [t for t, _, _ in panels] for name, panels in found.pictures.items()} == {
        "full": ["FFN", "attention"]
    }


def test_a_curve_is_where_its_values_are_and_gaps_stay_gaps() -> None:
    one = Curve("q", "own", [0.0, 1.0, float("nan"), 2.0])
    marks = axis([one])
    picture = str(curves([one], marks, "t", 4))
    ticks = {m: float(y) for y, m in re.findall(r'class="num" x="[\d.]+" y="([\d.]+)">([\d.]+)<', picture)}
    (path,) = re.findall(r'<path d="([^"]+)"', picture)
    assert path.count("M") == 2
    points = [tuple(map(float, p.split())) for p in re.findall(r"[ML]([\d. ]+)", path)]
    assert [y for _, y in points] == pytest.approx([ticks[m] - 3.5 for m in ("0", "1", "2")], abs=0.11)
    assert points[1][0] - points[0][0] == pytest.approx((points[2][0] - points[1][0]) / 2, abs=0.11)
    assert picture.count("<circle") == 3
    assert list(told(picture)) == [0, 1, 3]


def test_kinds_of_curves_differ_in_line_or_marker() -> None:
    kinds = ("parent", "control", "own", "entity", "relation")
    values = [0.0, 1.0]
    picture = {k: str(curves([Curve(k, k, values)], [0, 1], "t", 2)) for k in kinds}
    style = (Path(__file__).parents[1] / "quantxai/report/templates/report.css").read_text(encoding="utf-8")
    dashes = {
        k: m[0] for k in kinds if (m := re.findall(rf"{k} path {{[^}}]*stroke-dasharray: ([\d. ]+)", style))
    }
    assert "<circle" in picture["own"]
    assert "<polygon" in picture["relation"]
    assert 'width="5"' in picture["entity"]
    assert set(dashes) == {"control", "entity", "relation"}
    assert len(set(dashes.values())) == 3


def test_lists_of_another_length_and_items_with_a_problem_are_left_out() -> None:
    rows = [
        attribution("full", "a", [1, 2]), attribution("full", "b", [1, 2, 3]), attribution("full", "c", [1, 2, 3]),
        attribution("q", "b", [1, 2, 3]), attribution("q", "c", [], "no token"), attribution("q", "d", [], "no token"),
    ]  # fmt: skip
    assert {v: sorted(t) for v, t in by_layer(rows, "ffn_scores").items()} == {"full": ["b", "c"], "q": ["b"]}
    assert problems(rows, ["full", "q"]) == [(2, 3, ["q"])]
    assert by_layer(rows, "absent") == {}
    assert by_layer([{**rows[0], "ffn_scores": None}], "ffn_scores") == {}
    found = profiles(asked("full", "q"), entry("inside"), rows, measured([], "neuron_attribution"))
    assert found is not None
    assert [note for _, note, _ in found.pictures["q"]] == ["1 fact"] * 4


def test_nothing_attributed_anywhere_is_said_and_draws_nothing() -> None:
    rows = [attribution(v, "a", [], "no token") for v in ("full", "q")]
    found = profiles(asked("full", "q"), entry("inside"), rows, measured([], "neuron_attribution"))
    assert found is not None
    assert (found.pictures, found.parts, found.overlaps, found.alone) == ({}, [], [], [])
    assert found.problems == [(1, 1, ["full", "q"])]


OVERLAP = "neuron_overlap"


def overlap(values: Mapping[str, Sequence[float]], *controls: Control) -> Any:
    scores = [
        (variant, OVERLAP, f"i{n}", f"g{n}", value)
        for variant, own in values.items()
        for n, value in enumerate(own)
    ]
    variants = [v for v in values if v not in {c.name for c in controls}]
    rows = [attribution(variant, "i0", [1.0]) for variant in values]
    return profiles(
        asked(*variants, controls=controls), entry("inside"), rows, measured(scores, "neuron_attribution")
    )


def test_each_variant_stands_beside_its_own_noise_and_the_parent_beside_its_controls() -> None:
    found = overlap(
        {"full": [1, 1], "p": [0.5, 0.7], "q": [0.2, 0.4], "rerun": [1, 1], "noise-q": [0.4, 0.5]},
        Control("rerun", None, "rerun"),
        Control("noise-q", "q", "noise"),
    )
    assert [(line.variant, line.of, line.noise) for line in found.overlaps] == [
        ("full", "", ""), ("rerun", "rerun, beside full", ""), ("p", "", ""),
        ("q", "", "noise-q"), ("noise-q", "noise, beside q", ""),
    ]  # fmt: skip
    against = found.overlaps[3].against[OVERLAP]
    assert against.value == pytest.approx(-0.15)
    # 12.706 standard errors of 0.05.
    assert against.ends == pytest.approx((-0.15 - 0.6353, -0.15 + 0.6353), abs=1e-4)
    assert found.alone == ["p"]
    # No rerun says how much noise of that size would change.
    assert not found.overlaps[2].against


def test_another_seed_of_a_variant_is_no_baseline() -> None:
    found = overlap({"full": [1], "q": [0.5], "q-seed-1": [0.6]}, Control("q-seed-1", "q", "gptq"))
    assert [line.variant for line in found.overlaps] == ["full", "q", "q-seed-1"]
    assert found.alone == ["q"]


def test_the_page_has_a_row_of_pictures_per_variant_and_the_overlaps_of_all(store: Store, page: str) -> None:
    section = page[page.index('<section id="profiles">') : page.index('<section id="hops">')]
    assert section.count('<svg class="curves"') == 2 * 4
    found = store.measurements()
    lines = lines_by_name(section, "Neurons, heads and layers shared with full")
    assert list(lines) == ["full", "full-rerun", "rtn-4", "rtn-4-noise", "gptq-3"]
    own = found[found.metric == OVERLAP].groupby("variant").value.mean()
    for name, cells in lines.items():
        assert cells[1].startswith(f"{own[name]:.3g}")
    assert "against noise" in lines["rtn-4"][1]
    assert "against noise" not in lines["gptq-3"][1]
    assert "gptq-3 has no noise control in this run: without one, the overlap has no baseline" in section
    assert "rtn-4 has no" not in section
    words = " ".join(re.sub(r"<[^>]+>", "", section).split())
    assert "1 of 36 facts of full, rtn-4, gptq-3, rtn-4-noise and full-rerun" in words


# Two hops


def hop(variant: str, item: str, **fields: Any) -> dict[str, Any]:
    known = {
        "variant": variant, "item": item, "group": item, "problem": None,
        "entrec": [-9.0, -5.0, -3.0], "entrec_entity": [-9.0, -6.0, -2.0], "entrec_relation": [],
        "causal_layers": [1], "causal_derivatives": [0.5],
    }  # fmt: skip
    return {**known, **fields}


def test_entrec_is_drawn_without_the_embedding_and_compared_layer_by_layer() -> None:
    rows = [
        hop("full", "a"), hop("full", "b"), hop("full", "c", entrec=[], entrec_entity=[], problem="no mention"),
        hop("q", "a", entrec=[-9.0, -7.0, -1.0]), hop("q", "b"),
    ]  # fmt: skip
    found = hops(asked("full", "q"), entry("hops"), rows, measured([], "multi_hop"))
    assert found is not None
    assert [(name, note) for name, note, _ in found.recall] == [("full", "2 questions"), ("q", "2 questions")]
    own = told(str(found.recall[1][2]))
    assert list(own) == [1, 2]
    assert own[1] == {"full": "−5.00", "another subject": "−6.00", "own": "−6.00"}
    shares = told(str(found.shares[1][2]))
    assert shares == {
        1: {"another subject in full": f"100{SPACE}%", "another subject": f"50{SPACE}%"},
        2: {"another subject in full": f"0{SPACE}%", "another subject": f"50{SPACE}%"},
    }
    best = found.recalled["q"]
    assert (best.layer, best.value, best.n) == ("final norm", "−2.00", 2)
    assert best.shares == {"entity": f"50.0{SPACE}%"}
    elsewhere = [*rows, hop("r", "a", entrec=[-9.0, -1.0, -4.0])]
    found = hops(asked("full", "q", "r"), entry("hops"), elsewhere, measured([], "multi_hop"))
    assert found is not None
    assert {name: b.layer for name, b in found.recalled.items()} == dict.fromkeys(
        ["full", "q", "r"], "final norm"
    )
    assert found.recalled["r"].value == "−4.00", "at the parent's best layer, not at its own"
    assert found.problems == [(1, 3, ["full"])]
    assert "relation" not in str(found.legend)


def test_the_causal_link_is_the_share_of_positive_derivatives_at_each_layer() -> None:
    rows = [
        hop("full", "a", causal_layers=[1, 2], causal_derivatives=[0.5, -0.1]),
        hop("full", "b", causal_layers=[1, 2], causal_derivatives=[0.1, float("nan")]),
        hop("q", "a", causal_layers=[2], causal_derivatives=[0.0]),
        hop("q", "b", causal_layers=None, causal_derivatives=None),
    ]
    found = hops(asked("full", "q"), entry("hops"), rows, measured([], "multi_hop"))
    assert found is not None
    assert found.layers == [1, 2]
    values = {name: [(m.value, m.n) for m in cells] for name, cells in found.causal.items()}
    assert values == {"full": [(1, 2), (0, 1)], "q": [(None, 0), (0, 1)]}


def test_a_parent_without_rows_leaves_the_variants() -> None:
    found = hops(asked("full", "q"), entry("hops"), [hop("q", "a")], measured([], "multi_hop"))
    assert found is not None
    assert [name for name, _, _ in found.recall] == ["q"]
    assert (found.accuracies, list(found.causal)) == ({}, ["q"])
    assert found.recalled == {}, "there is no layer to compare at"
    assert hops(asked("full"), entry("hops"), [], measured([], "multi_hop")) is None


def test_the_page_has_the_accuracies_with_interval_and_number(store: Store, page: str) -> None:
    found = store.measurements().dropna(subset=["value"])
    lines = lines_by_name(page, "hops on two_hop: right answers")
    assert list(lines) == list(VARIANTS)
    metrics = [m["name"] for m in SCORERS["multi_hop"]]
    for name, cells in lines.items():
        for metric, cell in zip(metrics, cells, strict=True):
            part = found[(found.variant == name) & (found.metric == metric)].value
            assert cell.startswith(f"{100 * part.mean():.1f}{SPACE}%")
            assert "[" in cell
            assert cell.endswith(f"n {len(part)}")


# Runs that are not whole


def test_sections_are_there_only_where_there_are_rows(tmp_path: Path) -> None:
    rows = {v: {"knowledge": made_rows("knowledge", v)} for v in (PARENT, "rtn-4")}
    page = rebuilt(write_run(tmp_path / "one", rows))
    assert 'id="knowledge"' in page
    for name in ("profiles", "hops"):
        assert f'id="{name}"' not in page
        assert f'href="#{name}"' not in page
    empty = rebuilt(write_run(tmp_path / "none", {PARENT: {}}))
    assert 'id="knowledge"' not in empty


def test_the_parent_alone(tmp_path: Path) -> None:
    page = rebuilt(make_run(tmp_path / "run", [PARENT]))
    section = page[page.index('<section id="profiles">') : page.index('<section id="hops">')]
    assert section.count('<svg class="curves"') == 2
    assert "no noise control" not in section
    assert "shared with" not in section


def test_a_half_finished_run_shows_what_there_is(tmp_path: Path) -> None:
    rows = {v: {name: made_rows(name, v) for name in PLACES} for v in (PARENT, "rtn-4")}
    for name in PLACES:
        rows["rtn-4"][name] = rows["rtn-4"][name][:7]
    page = rebuilt(write_run(tmp_path / "half", rows, scores={}))
    assert "<strong>FFN</strong> 6 facts" in page
    assert 'id="knowledge"' not in page
    (tmp_path / "half" / "report.html").unlink()
    rows["rtn-4"] = {}
    assert "<strong>FFN</strong> 35 facts" not in rebuilt(write_run(tmp_path / "none", rows))


def test_a_large_run_stays_small(tmp_path: Path) -> None:
    assert len(rebuilt(make_run(tmp_path / "run", layers=126))) < 2_000_000


def test_pages_are_safe_and_tables_have_captions(page: str) -> None:
    assert page.count("<script") == 1
    assert "land of <b>" not in page
    for found in re.findall(r"<table.*?</table>", page, re.DOTALL):
        assert "<caption>" in found
        assert "<th>" not in found
    for picture in re.findall(r"<svg [^>]*>", page):
        assert 'role="img" aria-label=' in picture or "aria-hidden" in picture


# Item by item, and in words


def test_items_show_the_strongest_and_why_nothing_was_measured(page: str) -> None:
    items = page[page.index('<section id="items">') :]
    words = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", items)).split())
    first = made_rows("inside", PARENT)[0]
    assert isinstance(first, AttributionRow)
    score = f"{first.neuron_scores[0]:.2f}"
    assert f"{first.neuron_layers[0]}.{first.neuron_indices[0]}{SPACE}+{score}" in items
    assert "✗ nothing measured: the object's first token is white space" in words
    assert "✗ nothing measured: the description cannot be located" in words
    assert "A is B." not in items
    assert "The capital of the land of <b>0</b> is" in words


def test_what_could_not_be_measured_is_among_the_failures(page: str) -> None:
    failures = page[page.index('<section id="failures">') : page.index('<section id="receipts">')]
    assert "the object's first token is white space" in html.unescape(failures)


def test_markdown_has_the_same_tables(store: Store) -> None:
    plain = (store.path / "report.md").read_text(encoding="utf-8")
    for heading in ("## Knowledge", "## Where knowledge sits", "## Two hops"):
        assert heading in plain
    for found in re.findall(r"(?:^\|.*\n)+", plain, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in found.splitlines()}) == 1
        assert "---" in found
    assert len(re.findall(r"^\| rtn-4-noise", plain, re.MULTILINE)) >= 4
    assert f"layer {LAYERS - 7}" in plain


def test_the_bridge_is_told_where_it_is_the_likeliest_the_embedding_aside() -> None:
    assert "<dd>layer\u00a01, −2.00</dd>" in inside({"entrec": [-1.0, -2.0, -3.0]})
    assert "<dd>final norm, −2.00</dd>" in inside({"entrec": [-1.0, -3.0, -2.0]})
    assert inside({"entrec": [], "neuron_layers": None}) == ""


def test_values_that_are_not_finite_leave_the_other_items_their_mean() -> None:
    table = {"a": np.array([1.0, np.nan, np.nan]), "b": np.array([3.0, 4.0, np.inf])}
    assert layer_means(table, table)[:2] == [2.0, 4.0]
    assert np.isnan(layer_means(table, table)[2])


def test_notes_that_list_items_are_sentences() -> None:
    key = CellKey(
        kind="scores",
        explainer="e",
        dataset="d",
        variant="q",
        scorer="neuron_attribution",
        shard=0,
        digest="00000000",
    )
    noted = {"top_not_proven": ["a", "b"], "nothing_attributed": {"the object is empty": ["c"]}}
    (note,) = notes([(key, noted)])["e", "d"]
    assert note.shared == [
        'The top 300 are not proven to be the best for 2 items (raise survivors, or mode = "exact") (a, b).',
        "Nothing could be attributed for 1 item (the object is empty: c).",
    ]


def test_only_quantxais_own_errors_are_expected() -> None:
    assert error_kind("no FFN", "Traceback\nquantxai.errors.ModelError: no FFN\n") == "ModelError"
    assert not error_kind("KeyError: 'x'", "quantxai.errors.ModelError: no\n\nKeyError: 'x'\n")

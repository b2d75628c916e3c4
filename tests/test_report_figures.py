"""Pictures and the table at a glance: every mark is where its number is, and nothing rests on colour alone."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from synthetic import SHOWN, made_finding, make_run, rebuilt

from quantxai.records import Trend
from quantxai.report import heat, phrases, plots, text
from quantxai.report.forest import forest
from quantxai.store import Store

pytestmark = pytest.mark.bare


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_run(tmp_path_factory.mktemp("figures") / "run", SHOWN, items=20)


@pytest.fixture(scope="module")
def page(store: Store) -> str:
    return rebuilt(store)


# At a glance


@pytest.mark.parametrize(
    ("estimate", "higher_is_better", "tone"),
    [
        (0.0, True, "even"),
        (0.04, True, "even"),
        (0.06, True, "better-1"),
        (-0.06, True, "worse-1"),
        (0.06, False, "worse-1"),
        (-0.2, True, "worse-2"),
        (-0.9, False, "better-3"),
    ],
)
def test_the_tone_counts_margins_in_the_direction_of_quality(
    estimate: float, higher_is_better: bool, tone: str
) -> None:
    assert heat.tone(made_finding(estimate=estimate, higher_is_better=higher_is_better, margin=0.1)) == tone


def test_the_glance_shows_planned_outcomes_first_and_leads_to_their_numbers(store: Store, page: str) -> None:
    table = page[page.index('<table class="heat">') :]
    table = table[: table.index("</table>")]
    confirmatory, exploratory = table.split('<tr class="scorer">')[1:]
    asked = [f for f in store.findings() if f.confirmatory and f.reference == "full"]
    for finding in asked:
        symbol, word = text.SYMBOLS[finding.verdict]
        (cell,) = re.findall(
            rf'<td class="([^"]*)"><a href="#(result/[^"]*/{finding.metric}/{finding.variant})"[^>]*>(.*?)</a>',
            confirmatory,
        )
        assert cell[0] == f"{heat.tone(finding)} {word}"
        assert f'id="{cell[1]}"' in page
        assert symbol in cell[2]
        assert f">, {word}<" in cell[2]
    assert confirmatory.count("<a href") == len(asked) + 2  # the rerun of the parent
    assert "counterfactual flips in the variant" in exploratory


# Forest plots


def test_a_forest_plot_puts_every_mark_where_its_number_is() -> None:
    drawn = str(forest([made_finding(estimate=0.25, ci_low=-0.1, ci_high=0.4, margin=0.2)], (), "t"))
    places = {
        int(mark.replace("−", "-")): float(x)
        for x, mark in re.findall(r'class="bits" x="([\d.]+)" y="[\d.]+">([+−]?\d+)<', drawn)
    }

    def x(percent: float) -> float:
        (low, at), (high, to) = min(places.items()), max(places.items())
        return at + (percent - low) / (high - low) * (to - at)

    ((left, right),) = re.findall(r'class="whisker" x1="([\d.]+)" x2="([\d.]+)"', drawn)
    assert float(left) == pytest.approx(x(-10), abs=0.11)
    assert float(right) == pytest.approx(x(40), abs=0.11)
    (square,) = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="8"', drawn)
    assert float(square) + 4 == pytest.approx(x(25), abs=0.11)
    ((band, width),) = re.findall(r'class="band" x="([\d.]+)" y="\d+" width="([\d.]+)"', drawn)
    assert float(band) == pytest.approx(x(-20), abs=0.11)
    assert float(band) + float(width) == pytest.approx(x(20), abs=0.22)
    (zero,) = re.findall(r'class="ref" x1="([\d.]+)"', drawn)
    assert float(zero) == pytest.approx(x(0), abs=0.11)


def test_a_forest_plot_can_be_read_without_seeing_it() -> None:
    found = [
        made_finding(estimate=0.25, ci_low=-0.1, ci_high=0.4, verdict="unresolved"),
        made_finding(estimate=None),
    ]
    (label,) = re.findall(r'role="img" aria-label="([^"]*)"', str(forest(found, (), "recall")))
    assert html.unescape(label) == "recall: q +25.0\u00a0pp [−10.0, +40.0] unresolved"
    assert forest([made_finding(estimate=None)], (), "recall") == ""


def test_controls_look_different_and_directions_are_named() -> None:
    found = [made_finding(verdict="degraded"), made_finding(variant="c", verdict="degraded")]
    drawn = str(forest(found, {"c"}, "t"))
    assert drawn.count('<g class="line control">') == 1
    assert drawn.count('<g class="line degraded">') == 1
    assert drawn.count("<circle") == 1
    assert re.findall(r">(← \w+|\w+ →)<", drawn) == ["← worse", "better →"]
    lower = str(forest([made_finding(higher_is_better=False)], (), "t"))
    assert re.findall(r">(← \w+|\w+ →)<", lower) == ["← better", "worse →"]


# Over bits


def test_controls_stand_beside_their_variants_over_bits() -> None:
    points = [plots.Point("q", 4.0, "gptq", 0), plots.Point("r", 8.0, "gptq", 0)]
    found = [made_finding(variant=name, estimate=-0.1) for name in ("q", "r", "q-seed", "rerun")]
    drawn = str(plots.panel(points, found, "t", {"q": ["q-seed"], None: ["rerun"]}))
    marked = {
        name: float(x)
        for name, x in re.findall(
            r"<title>([\w-]+)(?:: |, a control)[^<]*</title><circle cx=\"([\d.]+)\"", drawn
        )
    }
    assert marked["q"] < marked["q-seed"] < marked["r"] < marked["rerun"]
    assert drawn.count('<g class="null">') == 2
    assert ">controls</text>" in drawn
    assert "controls" not in str(plots.panel(points, found, "t"))


def trend(**fields: object) -> Trend:
    known = {
        "explainer": "e", "dataset": "d", "scorer": "s", "metric": "m", "kind": "binary", "higher_is_better": True,
        "unit": "proportion", "method": "gptq", "bits": [3, 4, 16], "variants": ["a", "b", "full"], "n": 9,
        "groups": 9, "tau": 0.41, "ci_low": 0.2, "ci_high": 0.6, "p": 0.001, "p_adjusted": 0.004,
    }  # fmt: skip
    return Trend.model_validate({**known, **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "better with more bits (τ +0.41, 95\u00a0% CI +0.20 to +0.60, adjusted p 0.004)"),
        ({"higher_is_better": False}, "worse with more bits"),
        ({"tau": -0.4}, "worse with more bits (τ −0.40"),
        ({"tau": -0.4, "higher_is_better": False}, "better with more bits"),
        ({"p_adjusted": 0.2}, "no trend over bits beyond chance"),
        ({"tau": None}, "too little data"),
    ],
)
def test_a_trend_is_told_in_the_direction_of_quality(fields: dict[str, object], said: str) -> None:
    assert phrases.trend_sentence(trend(**fields), 0.05).startswith(f"gptq: {said}")


def test_trends_stand_below_their_plots(store: Store, page: str) -> None:
    plotted = page[page.index('<section id="plots"') :]
    found = [t for t in store.trends() if t.outcome == "recall.recall"]
    assert {t.method for t in found} == {"gptq", "bnb"}
    for one in found:
        assert f'<p class="trend">{html.escape(phrases.trend_sentence(one, 0.05))}</p>' in plotted


def test_the_page_stays_one_file_with_controls(page: str, tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text(page, encoding="utf-8")
    assert page.count("<script") == 1
    assert len(page) < 2_000_000

"""Every number, links to the items behind, caveats and methods: what those who check a finding look for."""

from __future__ import annotations

import re

import pytest
from synthetic import MANY, SHOWN, made_finding, make_run, rebuilt

from quantxai.analysis_plan import FILE, PlanStatus
from quantxai.records import Finding
from quantxai.report import anchors, numbers, prose, text
from quantxai.report.caveats import caveats
from quantxai.report.headlines import Row
from quantxai.store import Store

pytestmark = pytest.mark.bare


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_run(tmp_path_factory.mktemp("numbers") / "run", SHOWN, items=20)


@pytest.fixture(scope="module")
def page(store: Store) -> str:
    return rebuilt(store)


# Every number


def cells(found: Finding) -> dict[str, str]:
    row = Row("s", None, 0.5, {"q": found})  # type: ignore[arg-type]
    (line,) = numbers.lines([row], ["q"], "full")
    return dict(zip(numbers.COLUMNS, line.cells, strict=True))


def test_a_line_has_every_number_of_its_finding() -> None:
    found = cells(
        made_finding(
            n=40, n_missing=3, groups=12, bound_low=-0.2, bound_high=0.1, effect_size=-0.42, cliffs_delta=0.0,
            test="sign-flip-permutation", p=0.0004, p_adjusted=0.012, p_rank=0.5, correction="holm", family=6,
            p_equivalence=0.9, p_equivalence_adjusted=1.0, flips=0.25, minimum_detectable=0.0812, n_to_resolve=1250,
        )
    )  # fmt: skip
    assert found == {
        "items": "40", "missing": "3", "change if missing were worst": "−20.0 to +10.0", "groups": "12",
        "effect size": "−0.42", "Cliff's delta": "0.00", "test": "sign flips", "p": "< 0.001", "adjusted p": "0.012",
        "corrected by": "Holm over 6", "p of ranks": "0.500", "p of equivalence": "0.900", "adjusted": "1.000",
        "flipped": "25.0\u00a0%", "detectable": "±8.1\u00a0pp", "would settle it": "1,250 items",
    }  # fmt: skip


def test_what_is_not_known_is_a_dash_and_never_a_number() -> None:
    found = cells(made_finding(n=0, estimate=None))
    assert {value for name, value in found.items() if name not in ("items", "missing", "groups")} == {"–"}


def test_every_finding_has_a_line_on_the_page(store: Store, page: str) -> None:
    lines = [
        line
        for table in re.findall(r'<table class="numbers">(.*?)</table>', page, re.DOTALL)
        for line in re.findall(r'<tr[^>]*><th scope="row">.*?</tr>', table)
    ]
    assert len(lines) == len(store.findings()) + len(store.replicated())


def test_contrasts_and_methods_over_seeds_have_tables_of_their_own(store: Store, page: str) -> None:
    contrasts = page[page.index('id="contrasts"') : page.index('id="replicated"')]
    between = [f for f in store.findings() if f.reference != "full"]
    assert between
    assert {(f.variant, f.reference) for f in between} == {("gptq-4", "rtn-4")}
    for finding in between:
        assert f"<td>{text.estimate(finding)}</td><td>{text.interval(finding)}</td>" in contrasts
    seeds = page[page.index('id="replicated"') : page.index('<section id="crossing"')]
    for found in store.replicated():
        assert f"<td>{found.variant}</td>" in seeds
    assert len(re.findall(r'<tr><th scope="row"', seeds)) == len(store.replicated()) > 0


def test_a_contrast_is_no_change_against_the_parent(store: Store, page: str) -> None:
    results = page[page.index('<section id="results"') : page.index('id="contrasts"')]
    table = results[results.index("<table") : results.index("</table>")]
    against_parent = next(
        f
        for f in store.findings()
        if (f.variant, f.metric, f.reference) == ("gptq-4", "parent_soft_flip", "full")
    )
    (cell,) = re.findall(rf'<td id="{anchors.result_anchor(against_parent)}">(.*?)</td>', table, re.DOTALL)
    assert text.estimate(against_parent) in cell


# Links


def test_every_result_leads_to_the_items_behind_it(store: Store, page: str) -> None:
    for finding in store.findings():
        choice = anchors.items_anchor(finding, "full").replace("&", "&amp;")
        assert (f'<span id="{choice}"></span>' in page) == (finding.n > 0)
        if finding.n and finding.reference == "full" and finding.variant in MANY:
            assert f'href="#{choice}">{finding.n} item' in page


def test_no_link_of_a_run_with_controls_leads_nowhere(page: str) -> None:
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    links = re.findall(r'href="#([^"]+)"', page)
    assert set(links) <= set(ids)
    assert any("gptq-3-seed1" in link for link in links)


def test_links_name_what_they_choose() -> None:
    finding = made_finding(variant="my variant", dataset="a/b", flips=0.1)
    assert anchors.items_anchor(finding, "full") == "items/e/a~2f.b&right=my~20.variant"
    chosen = anchors.items_anchor(finding, "other", changed=True)
    assert chosen == "items/e/a~2f.b&left=full&right=my~20.variant&outcome=s.recall"
    assert anchors.safe_id("a b") != anchors.safe_id("a~20.b")
    none = made_finding(flips=0.0)
    assert anchors.item_anchors([none, none], "full", ("e", "d")) == ["items/e/d&right=q"]
    assert anchors.item_anchors([none], "full", ("e", "other")) == []


def test_items_say_which_outcomes_they_have(page: str) -> None:
    start = page.index('<details class="section" id="items/counterfactual/news"')
    section = page[start : page.index("</details>", start)]
    options = re.findall(r'<select name="outcome">(.*?)</select>', section)[0]
    names = re.findall(r'value="([^"]+)"', options)
    assert names[0] == "flips.own_soft_flip"
    assert names[-1] == "flips.failure"
    assert {len(marks.rstrip("f")) for marks in re.findall(r'data-o="([^"]*)"', section)} == {len(names)}


# Caveats and methods


def told(store: Store, *findings: Finding, plan: PlanStatus | None = None) -> str:
    return " ".join(caveats(store.manifest, findings, {}, plan))


def test_too_few_groups_are_a_caveat(store: Store) -> None:
    few = made_finding(test="sign-flip-permutation", p=0.25, groups=5)
    assert "so few independent groups of items (d: 5)" in told(store, few)
    # 2^(1 - 8) = 0.0078 is below 0.05, and not below 0.05 / 7.
    eight = few.model_copy(update={"groups": 8, "correction": "holm"})
    assert "groups" not in told(store, eight.model_copy(update={"family": 6}))
    assert "(d: 8)" in told(store, eight.model_copy(update={"family": 7}))
    exact = made_finding(test="mcnemar-exact", groups=7)
    assert "fewer than 8 independent groups of items (d: 7)" in told(store, exact)
    assert "groups" not in told(store, few.model_copy(update={"groups": 20}))


def test_missing_values_that_could_turn_a_verdict_are_a_caveat(store: Store) -> None:
    known = {"n_missing": 5, "margin": 0.1}
    within = made_finding(verdict="equivalent", bound_low=-0.09, bound_high=0.1, **known)
    assert "whatever the missing" not in told(store, within)
    beyond = within.model_copy(update={"bound_low": -0.2})
    assert "1 verdict would not hold whatever the missing values are" in told(store, beyond)
    assert (
        "q on d, equivalent: with the worst values seen in their place the change lies anywhere from −20.0 to"
        in (told(store, beyond))
    )
    degraded = made_finding(verdict="degraded", bound_low=-0.4, bound_high=0.05, **known)
    assert "whatever the missing" in told(store, degraded)
    assert "whatever the missing" not in told(store, degraded.model_copy(update={"bound_high": -0.05}))


def test_what_was_not_planned_is_a_caveat_and_tagged(store: Store) -> None:
    late = PlanStatus(False, "Exploratory: the plan is younger.", None, None)
    assert "the plan is younger. No verdict here decides anything" in told(store, plan=late)
    assert "decides" not in told(store, plan=PlanStatus(True, "Planned.", None, None))


def test_a_run_without_a_plan_says_so_on_top(store: Store, page: str) -> None:
    assert '<span class="tag asked">planned</span> Planned before the first result' in page
    plan = (store.path / FILE).read_bytes()
    (store.path / FILE).unlink()
    try:
        unplanned = rebuilt(store)
    finally:
        (store.path / FILE).write_bytes(plan)
    top = unplanned[: unplanned.index("<nav")]
    assert '<span class="tag">not planned</span> Exploratory: no analysis plan' in top


def test_methods_say_what_was_done(store: Store) -> None:
    findings = store.findings()
    said = " ".join(prose.methods(store.manifest, findings, trends=True, replicated=True))
    (family,) = {f.family for f in findings if f.confirmatory}
    assert f"over the {family} confirmatory comparisons by Holm's method (Holm 1979)" in said
    assert "1,000 resamples" in said
    listed = prose.references([said])
    assert len(listed) == len(set(listed))
    for name in (
        "Jonckheere 1954",
        "Searle et al. 1992",
        "Schuirmann 1987",
        "Rosner et al. 2006",
        "Julious 2004",
    ):
        assert any(line.startswith(name) for line in listed)
    assert "Jonckheere" not in " ".join(prose.methods(store.manifest, findings))
    unplanned = [f.model_copy(update={"confirmatory": False}) for f in findings]
    assert "Holm" not in " ".join(prose.methods(store.manifest, unplanned))
    assert "those of controls" in said
    alone = [v for v in store.manifest.variants if not v.get("control")]
    uncontrolled = store.manifest.model_copy(update={"variants": alone})
    assert "those of controls" not in " ".join(prose.methods(uncontrolled, findings))


def test_margins_are_those_of_the_analysis(store: Store) -> None:
    manifest = store.manifest
    analysis = {**manifest.analysis, "margins": {"recall.recall": 0.123}}
    try:
        store.write_manifest(manifest.model_copy(update={"analysis": analysis}))
        assert "margin ±12.3" in rebuilt(store)
    finally:
        store.write_manifest(manifest)

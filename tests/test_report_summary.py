"""The answer and each variant in plain words: what was planned first, told apart from hints."""

from __future__ import annotations

import pytest
from synthetic import made_finding

from quantxai.records import Finding
from quantxai.report import phrases, summary

pytestmark = pytest.mark.bare

SPACE = "\N{NO-BREAK SPACE}"


def flips(**fields: object) -> Finding:
    known = {"scorer": "flips", "metric": "parent_soft_flip", "confirmatory": True, "dataset": "news"}
    return made_finding(**{**known, **fields})


@pytest.mark.parametrize(
    ("verdicts", "start"),
    [
        (["equivalent", "equivalent"], "No: every confirmatory outcome stayed within its margin."),
        (["equivalent", "unresolved"], "No change could be shown"),
        (["improved", "unresolved"], "Yes: q did better"),
        (["degraded", "improved"], "Yes: q did worse"),
        ([], "There is no answer yet"),
    ],
)
def test_the_answer_follows_the_confirmatory_verdicts(verdicts: list[str], start: str) -> None:
    headline, basis = summary.answer([flips(verdict=verdict) for verdict in verdicts], ["q"])
    assert headline.startswith(start)
    assert ("not that there is none" in basis) == ("unresolved" in verdicts)


def test_exploratory_findings_alone_answer_nothing() -> None:
    hint = made_finding(verdict="degraded", variant="r")
    headline, basis = summary.answer([hint], ["q", "r"])
    assert headline.startswith("Undecided: ")
    assert headline.endswith("Exploratory outcomes hint at changes in r.")
    assert "1 exploratory comparison, 1 degraded: hints to be confirmed on new items." in basis
    headline, basis = summary.answer([flips(verdict="equivalent"), hint], ["q", "r"])
    assert headline.startswith("No: ")
    assert headline.endswith("hint at changes in r.")
    assert basis.startswith("Of 1 comparison in 1 confirmatory outcome, 1 equivalent.")


def told(*findings: Finding) -> summary.VariantSummary:
    return summary.variant_summary("q", "GPTQ", findings, summary.places(findings), 0.05)


def test_a_variant_is_told_in_the_words_of_its_outcomes() -> None:
    found = told(
        flips(verdict="degraded", estimate=-0.11, ci_low=-0.18, ci_high=-0.04),
        made_finding(
            scorer="recall", confirmatory=True, verdict="unresolved",
            estimate=-0.02, ci_low=-0.12, ci_high=0.08, n_to_resolve=290,
        ),
    )  # fmt: skip
    assert found.sentence == (
        f"Degraded: counterfactuals flip 11{SPACE}points less often (95{SPACE}% CI 4 to 18). Unresolved: recall of "
        "facts (about 240 more items needed)."
    )
    assert found.lines[0].clauses[0].anchor == "result/e/news/flips/parent_soft_flip/q"


def test_an_interval_is_turned_the_way_of_the_change() -> None:
    fall = flips(estimate=-0.05, ci_low=-0.15, ci_high=0.03)
    assert phrases.changed(fall).endswith(f"5{SPACE}points less often (95{SPACE}% CI −3 to 15)")
    rise = flips(estimate=0.05, ci_low=-0.03, ci_high=0.15)
    assert phrases.changed(rise).endswith(f"5{SPACE}points more often (95{SPACE}% CI −3 to 15)")
    assert phrases.changed(flips(estimate=0.1)) == f"counterfactuals flip 10{SPACE}points more often"


def test_small_changes_keep_a_decimal_and_other_units_their_precision() -> None:
    small = flips(estimate=-0.012, ci_low=-0.02, ci_high=-0.004)
    assert phrases.changed(small).endswith(f"1.2{SPACE}points less often (95{SPACE}% CI 0.4 to 2.0)")
    nats = made_finding(
        scorer="recall", metric="logprob", unit="nats", kind="continuous",
        estimate=-0.4321, ci_low=-0.6, ci_high=-0.21,
    )  # fmt: skip
    assert phrases.changed(nats) == (
        f"the right answer's log-probability is lower by 0.43{SPACE}nats (95{SPACE}% CI 0.21 to 0.60)"
    )


def test_an_outcome_without_a_phrase_is_called_by_its_name() -> None:
    other = made_finding(metric="new_thing", estimate=0.2, ci_low=0.1, ci_high=0.3)
    assert phrases.changed(other) == f"new thing is 20{SPACE}points higher (95{SPACE}% CI 10 to 30)"


def test_places_are_named_where_there_are_several() -> None:
    news, pairs = ("a", "news"), ("a", "pairs")
    assert phrases.place_of(flips(explainer="a"), {news}) == ""
    assert phrases.place_of(flips(explainer="a"), {news, pairs}) == " on news"
    assert phrases.place_of(flips(explainer="a"), {news, ("b_c", "news")}) == " on news (a)"


def test_exploratory_changes_are_hints_beside_the_rest() -> None:
    found = told(
        made_finding(verdict="degraded", estimate=-0.2, metric="small"),
        made_finding(verdict="degraded", estimate=-0.4, metric="large"),
        made_finding(verdict="unresolved"),
    )
    assert found.lines == []
    assert found.sentence == ""
    assert found.exploratory == "2 degraded and 1 unresolved of 3 exploratory comparisons"
    assert [hint.text.split(" is ")[0] for hint in found.hints] == ["large", "small"]
    assert told(flips(variant="other", verdict="degraded")).exploratory == ""


def test_what_would_resolve_a_finding_is_how_many_more_items() -> None:
    assert phrases.more_items(flips(n=50, n_to_resolve=1250)) == "about 1,200 more items needed"
    assert phrases.more_items(flips(n=50, n_to_resolve=1251)) == "about 1,300 more items needed"
    assert phrases.more_items(flips(n=50, n_to_resolve=51)) == "about 1 more item needed"
    assert "cannot be said" in phrases.more_items(flips(n=50))

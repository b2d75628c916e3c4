"""Measured numbers in docs/user-study.md are those kept in benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = " ".join((ROOT / "docs" / "user-study.md").read_text(encoding="utf-8").split())


def kept(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def test_load() -> None:
    load = kept("study_load")
    answers = {part: load[part]["milliseconds"]["answer"] for part in ("in_peace", "killed")}
    assert f"half of the answers stored within {answers['in_peace']['p50']:.0f} ms, 95 % within" in PAGE
    assert f"95 % within {answers['in_peace']['p95']:.0f} ms, none of" in PAGE
    assert f"killed in between 95 % within {answers['killed']['p95']:.0f} ms" in PAGE
    for part in ("in_peace", "killed"):
        audit = load[part]["audit"]
        assert f"none of {audit['answers_stored']:,} lost or doubled" in PAGE
        assert audit["answers_acknowledged"] == audit["answers_stored"]
        assert not audit["acknowledged_but_lost"]
        assert not audit["stored_twice"]
    assert "priority" in load["conditions"]
    assert load["seconds_a_page"] * 1.5 == 25


def test_how_often_it_is_right() -> None:
    validity = kept("study_validity")
    rows = validity["single"]
    assert {row["studies"] for row in rows if row["effect"] != "largest"} == {300}
    assert {row["studies"] for row in rows if row["effect"] == "largest"} == {150}
    usual = [row for row in rows if row["raters"] == "as by default"]
    for question, name in (
        ("likert", "where there is nothing: scales"), ("label", "label guesses"), ("pairwise", "preferences"),
    ):  # fmt: skip
        found = [row["found"] for row in usual if row["question"] == question and row["effect"] == "none"]
        assert f"{name} | {percent(min(found))} to {percent(max(found))} % | 5 % |" in PAGE
    covered = [row["covered"] for row in rows]
    assert f"hold the truth | {100 * min(covered):.0f} to {100 * max(covered):.0f} % |" in PAGE
    equivalent = max(row["equivalent"] for row in rows if row["effect"] == "margin")
    assert f"at the margin | at most {percent(equivalent)} % |" in PAGE
    power = [
        f"{100 * row['found']:.0f}"
        for row in usual
        if row["effect"] == "largest" and row["in_group"] == 1 and row["question"] == "likert"
    ]
    assert "power for a change of -0.4 points of 7, 150 studies each" in PAGE
    for value, size in zip(power, ("12 x 10", "24 x 10", "24 x 20", "48 x 20"), strict=True):
        assert f"{value} ({size})" in PAGE.replace(" % (", " (")


def test_why_the_others_do_not_decide() -> None:
    for row in kept("study_validity")["checks"]:
        assert row["studies"] == 75
        told = [percent(row[name]) for name in ("p", "p_ordinal", "p_gee", "p_wilcoxon", "p_mixed")]
        if row["raters"] != "no slopes":
            assert " % | ".join(told) + " % |" in PAGE

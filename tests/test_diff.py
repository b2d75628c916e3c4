"""Two runs, and two variants, against each other: the right items are paired, and what differs is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from synthetic import QUALITY, make_run
from typer.testing import CliRunner, Result

from quantxai.cli import app
from quantxai.commands.present import signed
from quantxai.contrast import contrast
from quantxai.diff import RunDiff, diff_runs
from quantxai.errors import InputError, RunError, UnknownName
from quantxai.manifest import CellKey
from quantxai.records import digest
from quantxai.store import Store

pytestmark = pytest.mark.bare


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_run(tmp_path_factory.mktemp("a") / "run", items=20, facts=90, pairs=12)


@pytest.fixture
def second(first: Store, tmp_path: Path) -> Store:
    return Store.open(shutil.copytree(first.path, tmp_path / "second"))


@pytest.fixture
def call() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def changed(store: Store, **entries: Any) -> Store:
    """Change a run's manifest."""
    store.write_manifest(store.manifest.model_copy(update=entries))
    return store


def cell(store: Store, kind: str, variant: str, dataset: str, scorer: str = "") -> CellKey:
    (key,) = [
        k
        for k in store.manifest.cells
        if (k.kind, k.variant, k.dataset, k.scorer) == (kind, variant, dataset, scorer)
    ]
    return key


def rewrite(store: Store, key: CellKey, edit: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Change, or leave out, the rows of a stored cell."""
    table = store.read(key)
    rows = [row for row in map(edit, table.to_pylist()) if row is not None]
    store.write(key, pa.Table.from_pylist(rows, table.schema), store.meta(key))


def found(a: Store, b: Store, **options: Any) -> RunDiff:
    return diff_runs(a, b, **options)


# Two runs


def test_the_same_run_twice_differs_in_nothing(first: Store, second: Store) -> None:
    same = found(first, second)
    assert same.settings == []
    assert same.only == []
    assert same.text_changes == []
    assert {t.different for t in same.texts} == {0}
    assert len(same.measured) == len(QUALITY) * 19
    for one in same.measured:
        assert one.changed == 0
        assert one.finding.estimate in (0, None)
        assert one.finding.p in (1, None)


def test_values_are_paired_by_item_b_minus_a(first: Store, second: Store) -> None:
    rng = np.random.default_rng(0)
    shift = {f"fact-{i:03d}": float(rng.normal(0.5, 0.1)) for i in range(90)}

    def worse(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "value": row["value"] - shift[row["item"]]} if row["metric"] == "logprob" else row

    rewrite(second, cell(second, "scores", "nf4", "relations", "recall"), worse)
    moved = [m for m in found(first, second).measured if m.changed]
    (one,) = moved
    finding = one.finding
    assert (finding.variant, finding.reference, finding.outcome) == ("nf4", "nf4", "recall.logprob")
    assert (one.changed, finding.n) == (90, 90)
    assert finding.estimate == pytest.approx(-np.mean(list(shift.values())))
    assert finding.ci_low < finding.estimate < finding.ci_high < 0
    assert finding.family == len(QUALITY) * 16  # all directional metrics of all variants
    assert not finding.confirmatory
    (back,) = [m for m in found(second, first).measured if m.changed]
    assert back.finding.estimate == pytest.approx(-finding.estimate)


def test_a_value_that_went_missing_is_a_change(first: Store, second: Store) -> None:
    key = cell(second, "scores", "int8", "relations", "recall")
    rewrite(second, key, lambda row: {**row, "value": None} if row["item"] == "fact-001" else row)
    moved = [m for m in found(first, second).measured if m.changed]
    assert {m.finding.metric for m in moved} == {"recall", "logprob", "reciprocal_rank"}
    assert {(m.changed, m.finding.n, m.finding.n_missing) for m in moved} == {(1, 89, 1)}


def test_texts_are_compared_to_the_character(first: Store, second: Store) -> None:
    def edit(row: dict[str, Any]) -> dict[str, Any]:
        return (
            {**row, "completion": row["completion"] + " ", "rank": 99} if row["item"] == "fact-002" else row
        )

    rewrite(second, cell(second, "rows", "nf4", "relations"), edit)
    result = found(first, second)
    assert [(t.variant, t.dataset, t.items) for t in result.texts if t.different] == [
        ("nf4", "relations", 90)
    ]
    (change,) = result.text_changes
    assert (change.item, change.column, change.b) == ("fact-002", "completion", f"{change.a} ")


def test_what_only_one_run_has_is_told(first: Store, tmp_path: Path) -> None:
    qualities = {**{k: v for k, v in QUALITY.items() if k != "gptq-3"}, "awq-4": 0.9}
    other = make_run(tmp_path / "other", qualities, items=20, facts=80, pairs=12)
    rewrite(other, cell(other, "scores", "nf4", "news", "edits"), lambda row: None)
    manifest = other.manifest
    rest = [s for s in manifest.scorers if s["scorer"] != "rouge"]
    changed(other, scorers=rest, cells=[k for k in manifest.cells if k.scorer != "rouge"])
    result = found(first, other)
    told = {(d.run, d.what, d.name) for d in result.only}
    assert told == {
        ("A", "variant", "gptq-3"),
        ("B", "variant", "awq-4"),
        ("A", "items", "10 of memorization on relations (full, int8, nf4)"),
        ("A", "metric", "rouge.rouge_l"),
    }
    recall = [m.finding for m in result.measured if m.finding.metric == "recall"]
    assert {(f.variant, f.n, f.n_missing) for f in recall} == {
        ("full", 80, 0),
        ("int8", 80, 0),
        ("nf4", 80, 0),
    }
    assert not [m for m in result.measured if (m.finding.variant, m.finding.scorer) == ("nf4", "edits")]


def test_a_margin_of_what_only_one_run_has_is_no_hindrance(
    first: Store, second: Store, tmp_path: Path
) -> None:
    one = Store.open(shutil.copytree(first.path, tmp_path / "first"))
    analysis = {**one.manifest.analysis, "margins": {"rouge.rouge_l": 0.1, "recall.recall": 0.2}}
    changed(one, analysis=analysis)
    manifest = second.manifest
    changed(
        second,
        scorers=[s for s in manifest.scorers if s["scorer"] != "rouge"],
        cells=[k for k in manifest.cells if k.scorer != "rouge"],
    )
    margins = {
        m.finding.margin for m in diff_runs(one, second).measured if m.finding.outcome == "recall.recall"
    }
    assert margins == {0.2}


def test_the_context_names_what_the_manifests_say_differently(first: Store, second: Store) -> None:
    manifest = second.manifest
    versions = {**{k: v for k, v in manifest.versions.items() if k != "python"}, "torch": "3.0"}
    variants = [dict(v) for v in reversed(manifest.variants)]
    variants[0]["options"] = {"group_size": 128}
    changed(second, versions=versions, device="cuda", variants=variants, created="2030-01-01", commands=["x"])
    told = {(s.name, s.a, s.b) for s in found(first, second).settings}
    assert told == {
        ("versions.torch", "2.9.0", "3.0"),
        ("versions.python", "3.11.7", None),
        ("device", "cpu", "cuda"),
        ("variants.gptq-3.options.group_size", "64", "128"),
    }


def test_other_parents_are_refused_unless_asked_for(first: Store, second: Store) -> None:
    changed(second, model={**second.manifest.model, "name": "other", "digest": digest("other")})
    with pytest.raises(
        InputError, match=r"different parents: A of smollm2-135m .*, B of other .*--pool parent"
    ):
        found(first, second)
    assert found(first, second, pool=["parent"]).measured


def test_other_data_is_refused_unless_asked_for(first: Store, second: Store) -> None:
    explainers = [
        {**e, "digest": digest("new")} if e["dataset"] == "news" else e for e in second.manifest.explainers
    ]
    changed(second, explainers=explainers)
    with pytest.raises(InputError, match=r"other versions of the data: news\..*--pool data"):
        found(first, second, pool=["parent"])
    assert found(first, second, pool=["data"]).measured
    with pytest.raises(InputError, match=r"--pool dat: unknown\. Available: parent, data"):
        found(first, second, pool=["dat"])


def test_an_empty_run_has_nothing_to_compare(first: Store, second: Store) -> None:
    for key in second.manifest.cells:
        second.discard(key)
    for pair in ((first, second), (second, first)):
        with pytest.raises(RunError, match=r"second' holds no measurements.*sweep command"):
            found(*pair)


def test_runs_with_nothing_in_common_are_refused(tmp_path: Path, first: Store) -> None:
    other = make_run(tmp_path / "other", {"base": 1.0, "mine": 0.9}, items=8, facts=9, pairs=6)
    with pytest.raises(InputError, match="no variant, explainer and data set in common"):
        found(first, other)


def test_a_half_finished_run_is_compared_as_far_as_it_is(first: Store, second: Store) -> None:
    missing = [k for k in second.manifest.cells if k.dataset == "relations" and k.variant != "full"]
    for key in missing:
        second.discard(key)
    result = found(first, second)
    assert result.incomplete == {"A": 0, "B": len(missing)}
    assert {m.finding.variant for m in result.measured if m.finding.dataset == "relations"} == {"full"}
    assert ("A", "items", "90 of memorization on relations (gptq-3, int8, nf4)") in {
        (d.run, d.what, d.name) for d in result.only
    }


def test_one_item_is_unresolved(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, items=1, facts=1, pairs=1) for name in ("a", "b")]
    result = found(*runs)
    assert result.measured
    assert {m.finding.verdict for m in result.measured} <= {"unresolved", None}
    assert {m.finding.ci_low for m in result.measured} == {None}


def test_the_command_prints_what_differs(first: Store, second: Store, call: Callable[..., Result]) -> None:
    same = call("diff", first.path, second.path)
    assert same.exit_code == 0
    assert "Versions, machine and settings are the same" in same.stdout
    assert f"{4 * 19} of {4 * 19} comparisons (variant, metric, data set) have the same value" in same.stdout
    rewrite(
        second, cell(second, "rows", "nf4", "relations"), lambda row: {**row, "completion": "\x1b[31mred\n"}
    )
    changed(second, device="cuda")
    done = call("diff", first.path, second.path, "--items")
    assert done.exit_code == 0
    assert "device   cpu  cuda" in done.stdout
    assert "nf4, memorization on relations, fact-000: completion" in done.stdout
    assert "  B \\x1b[31mred\\n" in done.stdout
    assert "\x1b" not in done.stdout
    plain = json.loads(call("diff", first.path, second.path, "--json").stdout)
    assert "text_changes" not in plain
    assert plain["settings"] == [{"name": "device", "a": "cpu", "b": "cuda"}]
    assert (
        len(json.loads(call("diff", first.path, second.path, "--json", "--items").stdout)["text_changes"])
        == 90
    )


def test_the_command_refuses_with_one_message(
    first: Store, second: Store, call: Callable[..., Result]
) -> None:
    changed(second, model={**second.manifest.model, "digest": digest("other")})
    done = call("diff", first.path, second.path)
    assert done.exit_code == 2
    assert done.stderr.startswith("quantxai: error: the runs are of different parents")
    assert call("diff", first.path, second.path / "nowhere").exit_code == 2


# Two variants


def test_any_two_variants_are_compared(first: Store) -> None:
    values = first.measurements()
    values = values[values["metric"] == "logprob"].pivot(index="item", columns="variant", values="value")
    findings = contrast(first, "gptq-3", "nf4")
    assert {(f.variant, f.reference) for f in findings} == {("gptq-3", "nf4")}
    (one,) = [f for f in findings if f.metric == "logprob"]
    assert one.estimate == pytest.approx((values["gptq-3"] - values["nf4"]).mean())
    assert {f.confirmatory for f in findings} == {False}
    assert {f.correction for f in findings if f.family} == {"benjamini-hochberg"}
    assert {f.family for f in findings} == {0, 16}


@pytest.mark.parametrize(
    ("pair", "error", "message"),
    [
        (("nf5", "full"), UnknownName, "Did you mean 'nf4'"),
        (("nf4", "ful"), UnknownName, "Did you mean 'full'"),
        (("nf4", "nf4"), InputError, "compared with itself"),
    ],
)
def test_two_variants_of_the_run_are_asked_for(
    pair: tuple[str, str], error: type[Exception], message: str, first: Store
) -> None:
    with pytest.raises(error, match=message):
        contrast(first, *pair)


def test_a_variant_that_was_not_measured_is_named(second: Store) -> None:
    for key in second.manifest.cells:
        if key.variant == "nf4":
            second.discard(key)
    with pytest.raises(RunError, match="no measurements of 'nf4'"):
        contrast(second, "nf4", "int8")


def test_the_command_compares(first: Store, call: Callable[..., Result]) -> None:
    done = call("compare", first.path, "gptq-3", "nf4")
    assert done.exit_code == 0
    assert "Exploratory" in done.stdout
    assert "over the 16 tests" in done.stdout
    listed = json.loads(call("compare", first.path, "gptq-3", "nf4", "--json").stdout)
    assert len(listed) == 19
    lines = call("compare", first.path, "gptq-3", "nf4", "--format", "csv").stdout.splitlines()
    assert len(lines) == 20
    assert "estimate" in lines[0]
    assert call("compare", first.path, "gptq-3", "nf4", "--format", "cvs").exit_code == 2
    assert not [f for f in first.findings() if f.reference == "nf4"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, ""), (0, "+0.000"), (-0.0832, "-0.083"), (0.00042, "+0.00042"), (-123.456, "-123.5")],
)
def test_differences_are_shown_with_their_sign(value: float | None, shown: str) -> None:
    assert signed(value) == shown

"""SQL over a run: the views, their isolation, and the three formats."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from synthetic import QUALITY, make_run

from quantxai.errors import InputError, RunError
from quantxai.query import query, render

pytestmark = pytest.mark.bare


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run").path


def answer(run: Path, sql: str) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in query(run, sql).to_pylist()]


def test_rows_of_all_explainers_share_one_view(run: Path) -> None:
    assert answer(
        run, "select explainer, dataset, count(*), count(gold) from rows group by all order by 1"
    ) == [
        ("counterfactual", "news", 48, 48),
        ("memorization", "relations", 72, 72),
        ("natural_language", "inference", 24, 24),
    ]
    assert answer(
        run, "select count(rank), count(edited) > 0 from rows where explainer = 'counterfactual'"
    ) == [(0, True)]


def test_measurements_can_be_averaged_and_skip_what_is_missing(run: Path) -> None:
    sql = """select count(*), count(value), avg(value) is not null and not isnan(avg(value))
             from measurements where metric = 'edit_distance' and variant = 'gptq-3'"""
    ((n, known, finite),) = answer(run, sql)
    assert n == 12 > known > 0
    assert finite


def test_findings_hold_what_compare_wrote(run: Path) -> None:
    ((n,),) = answer(run, "select count(*) from findings where reference = 'full' and variant <> 'full'")
    assert n == 3 * 19


def test_variants_join_the_manifest_and_the_receipt(run: Path) -> None:
    found = answer(
        run, "select name, weight_bits, json_extract(options, '$.group_size'), warnings from variants"
    )
    assert [row[0] for row in found] == list(QUALITY)
    assert found[3][1:] == (3.0, "64", '["does not beat round-to-nearest on the same grid"]')
    assert answer(run, "select typeof(perplexity), typeof(options) from variants limit 1") == [
        ("DOUBLE", "VARCHAR")
    ]


def test_views_can_be_joined(run: Path) -> None:
    sql = """select v.weight_bits, avg(m.value) from measurements m join variants v on v.name = m.variant
             where metric = 'recall' group by 1 order by 1"""
    averages = [value for _, value in answer(run, sql)]
    assert averages == sorted(averages)


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_text('{file}')",
        "select * from '{file}'",
        "select * from read_csv('{file}')",
        "copy rows to '{file}'",
        "attach '{file}' as other",
        "set enable_external_access = true",
        "install httpfs",
        "select * from secret",
        'select * from "table"',
        "set threads = 1",
    ],
)
def test_a_query_reaches_nothing_but_the_views(run: Path, tmp_path: Path, sql: str) -> None:
    secret = pa.table({"value": [42]})
    file = tmp_path / "secret.csv"
    file.write_text("value\n42\n")
    with pytest.raises(InputError):
        query(run, sql.format(file=file))
    assert file.read_text() == "value\n42\n"
    assert secret.num_rows == 1


def test_a_query_changes_nothing(run: Path) -> None:
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    query(run, "create table mine as select * from rows; drop view findings; select 1")
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    assert answer(run, "select count(*) > 0 from findings") == [(True,)]


def test_a_wrong_query_is_explained_with_what_there_is(run: Path) -> None:
    with pytest.raises(InputError) as raised:
        query(run, "select valu from measurements")
    message = str(raised.value)
    assert "valu" in message
    assert "measurements: variant, explainer, dataset, item, group, scorer, metric, value" in message
    assert "variants: name," in message
    assert raised.value.exit_code == 2


def test_a_run_with_nothing_in_it_yet_has_its_views(run: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "manifest.json").write_bytes((run / "manifest.json").read_bytes())
    for view, count in {"rows": 0, "measurements": 0, "findings": 0, "variants": 4}.items():
        assert answer(empty, f"select count(*) from {view}") == [(count,)]
    with pytest.raises(RunError, match="does not exist"):
        query(tmp_path / "none", "select 1")


def test_no_statement_gives_no_rows(run: Path) -> None:
    assert query(run, " ").num_rows == 0
    assert render(query(run, "-- nothing")) == "(0 rows)"


def test_a_column_name_given_twice_is_kept_twice(run: Path) -> None:
    table = query(run, "select 1 as a, 2 as a, 3 as a_2")
    assert table.to_pylist() == [{"a": 1, "a_2": 2, "a_2_2": 3}]


TABLE = pa.table(
    {
        "name": ["a", None, "long " * 30],
        "value": [1.5, float("nan"), -20.25],
        "layers": [[1.0, 2.0], None, []],
        "big": [Decimal(10), None, Decimal("1.5")],
    }
)


def test_table_aligns_numbers_to_the_right_and_cuts_long_texts() -> None:
    lines = render(TABLE).splitlines()
    assert [line[60:68] for line in lines[:5]] == ["   value", "  ------", "     1.5", "", "  -20.25"]
    assert lines[4].startswith(("long " * 30)[:59] + "…")
    assert lines[-1] == "(3 rows)"


def test_control_characters_do_not_reach_the_terminal() -> None:
    text = render(pa.table({"text": ["a\nb\x1b[31m"]}))
    assert "a\\nb\\x1b[31m" in text
    assert "(1 row)" in text


def test_json_keeps_everything_and_has_no_nan() -> None:
    assert json.loads(render(TABLE, "json")) == [
        {"name": "a", "value": 1.5, "layers": [1.0, 2.0], "big": 10},
        {"name": None, "value": None, "layers": None, "big": None},
        {"name": "long " * 30, "value": -20.25, "layers": [], "big": 1.5},
    ]


def test_csv_can_be_read_back() -> None:
    table = pa.table({"text": ['say "hi",\nyou', None], "n": [1, 2]})
    assert list(csv.reader(io.StringIO(render(table, "csv")))) == [
        ["text", "n"],
        ['say "hi",\nyou', "1"],
        ["", "2"],
    ]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(InputError, match="table, json, csv"):
        render(TABLE, "xml")  # type: ignore[arg-type]

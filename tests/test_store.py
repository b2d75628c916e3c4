"""The run directory: what is written is there in full, verified, movable, and never mistaken."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pytest

from quantxai.errors import CorruptCell, InputError, OutOfSpace, RunError
from quantxai.records import Finding, Measurement, ReplicatedFinding, Row, Trend
from quantxai.store import CellKey, Manifest, Store, row_schema, rows_to_table, table_to_rows

pytestmark = pytest.mark.bare


class Edit(Row):
    """A row with every kind of column."""

    edited: str | None
    rank: int
    logprob: float | None
    done: bool
    layers: tuple[float, ...]
    words: list[str] | None = None
    outcome: Literal["a", "b"] = "a"


def key(variant: str = "gptq-4", shard: int = 0, **fields: str) -> CellKey:
    values: dict[str, str] = {"kind": "rows", "explainer": "cf", "dataset": "news", "digest": "1a2b3c4d5e6f"}
    return CellKey.model_validate({**values, "variant": variant, "shard": shard, **fields})


def edit(item: str = "n1", **fields: object) -> Edit:
    values = {"group": "g", "edited": "text", "rank": 3, "logprob": -0.5, "done": True, "layers": (1.0, 2.0)}
    return Edit.model_validate({**values, "item": item, **fields})


def manifest(*cells: CellKey) -> Manifest:
    variants = [{"name": name} for name in ("full", "gptq-4")]
    return Manifest(
        quantxai="0.1", seed=0, model={}, dtype="float32", device="cpu", variants=variants, cells=list(cells)
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run with two planned cells, the first of them done."""
    store = Store(tmp_path / "run")
    first, second = key(), key(shard=1)
    store.write_manifest(manifest(first, second))
    store.write(first, rows_to_table([edit("n1"), edit("n2", edited=None)], Edit), {"seconds": 1.5})
    return store


def test_the_id_of_a_cell_is_a_readable_path() -> None:
    assert key().id == "rows/gptq-4/cf-news/000-1a2b3c4d"
    assert key(kind="scores", scorer="flips").id == "scores/gptq-4/cf-news/flips-000-1a2b3c4d"


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..", ".hidden", "a\\b", "nül l", "a\0b"])
def test_no_name_leads_out_of_the_run(name: str) -> None:
    parts = Path(key(variant=name, dataset=name).id).parts
    assert len(parts) == 4
    assert not any(part.startswith(".") or "\0" in part for part in parts)


def test_different_names_never_share_a_path() -> None:
    assert key(variant="a/b").id != key(variant="a%2Fb").id


def test_a_cell_comes_back_as_it_was_written(store: Store) -> None:
    table = store.read(key())
    assert table.schema.equals(row_schema(Edit))
    assert table_to_rows(table, Edit) == [edit("n1"), edit("n2", edited=None)]
    assert store.meta(key()) == {"seconds": 1.5}


def test_a_cell_is_done_exactly_when_its_sidecar_exists(store: Store) -> None:
    assert store.has(key())
    assert not store.has(key(shard=1))
    (store.path / (key().id + ".json")).unlink()
    assert not store.has(key())
    with pytest.raises(RunError, match="is not done"):
        store.read(key())


def test_discard_makes_a_cell_undone(store: Store) -> None:
    store.discard(key())
    assert not store.has(key())
    assert store.rows().empty


def test_a_changed_byte_is_found_and_named(store: Store) -> None:
    assert store.corrupt() == []
    file = store.path / (key().id + ".parquet")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert store.corrupt() == [key()]
    for call in (lambda: store.read(key()), store.rows):
        with pytest.raises(CorruptCell, match=r"000-1a2b3c4d\.parquet.*checksum.*--recompute-corrupt"):
            call()


@pytest.mark.parametrize("damage", ["missing", "truncated sidecar", "foreign sidecar"])
def test_other_damage_is_corruption_too(store: Store, damage: str) -> None:
    sidecar = store.path / (key().id + ".json")
    if damage == "missing":
        sidecar.with_suffix(".parquet").unlink()
    else:
        sidecar.write_text(sidecar.read_text()[:20] if damage == "truncated sidecar" else "{}")
    assert store.corrupt() == [key()]


def test_the_same_content_gives_the_same_bytes(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    other.write(key(), store.read(key()), {"seconds": 1.5})
    for suffix in (".parquet", ".json"):
        name = key().id + suffix
        assert (other.path / name).read_bytes() == (store.path / name).read_bytes()


def test_a_moved_run_works(store: Store, tmp_path: Path) -> None:
    moved = tmp_path / "else" / "where"
    shutil.copytree(store.path, moved)
    shutil.rmtree(store.path)
    assert len(Store.open(moved).rows()) == 2
    assert not any(str(store.path) in file.read_text() for file in moved.rglob("*.json"))


def test_rows_carry_where_they_come_from_and_keep_what_is_missing(store: Store) -> None:
    store.write(key(shard=1), rows_to_table([edit("n3", logprob=None)], Edit))
    rows = store.rows()
    assert list(rows.columns[:5]) == ["variant", "explainer", "dataset", "item", "group"]
    assert list(rows["item"]) == ["n1", "n2", "n3"]
    assert set(rows["variant"]) == {"gptq-4"}
    assert rows["edited"].isna().tolist() == [False, True, False]
    assert pd.isna(rows["logprob"].iloc[2])
    assert str(rows["rank"].dtype) == "Int64"
    assert store.rows(variant="full").empty
    assert len(store.rows(explainer="cf", dataset="news", variant="gptq-4")) == 3


def test_rows_of_different_explainers_are_joined_by_name(store: Store) -> None:
    other = key(shard=0, explainer="memory")
    table = pa.table({"item": ["m1"], "group": ["r"], "rank": ["first"], "gold": ["Paris"]})
    store.write_manifest(manifest(key(), other))
    store.write(other, table)
    rows = store.rows().set_index("item")
    assert rows.loc["m1", "gold"] == "Paris"
    assert pd.isna(rows.loc["n1", "gold"])
    assert rows["rank"].tolist() == ["3", "3", "first"]


def test_what_is_no_longer_planned_is_not_read(store: Store) -> None:
    store.write_manifest(manifest(key(shard=1)))
    assert store.rows().empty


def test_measurements_have_their_columns_even_when_there_are_none(store: Store) -> None:
    assert list(store.measurements().columns) == list(Measurement.COLUMNS)
    scores = key(kind="scores", scorer="flips", variant="full")
    store.write_manifest(manifest(scores))
    table = {"item": list("abc"), "group": list("aab"), "metric": ["flip"] * 3}
    store.write(scores, pa.table({**table, "value": [1.0, None, float("nan")]}))
    found = store.measurements()
    assert found[["variant", "scorer", "metric"]].drop_duplicates().to_numpy().tolist() == [
        ["full", "flips", "flip"]
    ]
    assert found["value"].isna().tolist() == [False, True, True]
    assert store.measurement_table()["value"].null_count == 2


def test_failures_are_kept_until_the_cell_is_done(store: Store) -> None:
    store.fail(key(shard=1), "out of memory", "Traceback ...")
    store.fail("full", "no such checkpoint")
    variant, cell = store.failures()
    assert (variant.variant, variant.cell, variant.message) == ("full", None, "no such checkpoint")
    assert (cell.cell, cell.traceback) == (key(shard=1), "Traceback ...")
    store.write(key(shard=1), rows_to_table([], Edit))
    store.clear_failure("full")
    assert store.failures() == []


def test_failures_of_what_is_no_longer_planned_are_not_shown(store: Store) -> None:
    store.fail(key(shard=7), "old")
    store.fail("awq-4", "old")
    assert store.failures() == []


def test_receipts_come_in_the_order_of_the_manifest(store: Store) -> None:
    store.write_receipt("gptq-4", {"bits": 4})
    store.write_receipt("full", {"bits": None})
    assert list(store.receipts().items()) == [("full", {"bits": None}), ("gptq-4", {"bits": 4})]


def test_findings_come_back(store: Store) -> None:
    finding = Finding.model_validate(
        {
            **dict.fromkeys(Finding.model_fields),
            **dict.fromkeys(["variant", "reference", "explainer", "dataset", "scorer", "metric", "unit"], "x"),
            "kind": "binary", "n": 3, "n_missing": 0, "groups": 3, "test": "none", "margin": 0.1,
            "verdict": "degraded", "confirmatory": True, "correction": "holm", "family": 4,
        }
    )  # fmt: skip
    assert store.findings() == []
    store.write_results(Finding, [finding])
    assert store.findings() == [finding]
    (store.path / "findings.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptCell, match="quantxai report"):
        store.findings()


def test_trends_and_replicated_findings_come_back(store: Store) -> None:
    text = dict.fromkeys(["explainer", "dataset", "scorer", "metric", "unit"], "x")
    head = {**text, "kind": "binary", "higher_is_better": True, "n": 3, "groups": 3, "p": 0.5}
    widths = {"method": "gptq", "bits": [3, 4, 16], "variants": ["a", "b", "c"]}
    trend = Trend.model_validate({**dict.fromkeys(Trend.model_fields), **head, **widths})
    seeds = {"variant": "a", "reference": "b", "seeds": 3, "n_missing": 0, "margin": 0.1, "note": ""}
    found = ReplicatedFinding.model_validate(
        {**dict.fromkeys(ReplicatedFinding.model_fields), **head, **seeds}
    )
    assert (store.trends(), store.replicated()) == ([], [])
    store.write_results(Trend, [trend])
    store.write_results(ReplicatedFinding, [found])
    assert (store.trends(), store.replicated()) == ([trend], [found])


def test_the_manifest_comes_back_and_remembers_every_command(store: Store) -> None:
    issued = store.manifest.issued("quantxai sweep").issued("quantxai sweep --n 5")
    store.write_manifest(issued)
    assert Store.open(store.path).manifest == issued
    assert issued.commands == ["quantxai sweep", "quantxai sweep --n 5"]
    assert issued.created.endswith("+00:00")


def test_what_is_not_a_run_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"does not exist.*quantxai sweep --out"):
        Store.open(tmp_path / "none")
    with pytest.raises(RunError, match=r"no manifest\.json"):
        Store.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"future": 1}, "future"), ({"format": 2}, "format"), ({"seed": None}, "seed")],
)
def test_a_manifest_of_another_version_is_refused(
    store: Store, change: dict[str, object], complaint: str
) -> None:
    file = store.path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(RunError, match=f"{complaint}.*another version"):
        Store.open(store.path)


def test_one_writer_at_a_time(store: Store) -> None:
    with (
        store.lock(),
        pytest.raises(RunError, match="another quantxai process is writing to this run"),
        Store(store.path).lock(),
    ):
        pass
    with store.lock():
        pass


def test_a_full_disk_leaves_nothing_behind(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(store.path.rglob("*"))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutOfSpace, match=r"001-1a2b3c4d\.parquet.*bytes are free"):
        store.write(key(shard=1), rows_to_table([edit()], Edit))
    assert sorted(store.path.rglob("*")) == before


def test_a_writer_killed_half_way_leaves_the_cell_undone(store: Store) -> None:
    program = f"""
import os, signal, quantxai.store as s
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
import pyarrow as pa
s.Store({str(store.path)!r}).write(
    s.CellKey(kind="rows", variant="gptq-4", explainer="cf", dataset="news", shard=1, digest="1a2b3c4d5e6f"),
    pa.table({{"item": ["n9"]}}))
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == -9
    assert not store.has(key(shard=1))
    assert list(store.path.rglob("*.tmp"))
    with store.lock():
        assert not list(store.path.rglob("*.tmp"))
    assert store.corrupt() == []


def test_a_column_that_cannot_be_stored_is_named() -> None:
    class Bad(Row):
        when: dict[str, int]

    with pytest.raises(InputError, match="'when' of Bad"):
        row_schema(Bad)


def test_no_rows_still_have_columns() -> None:
    assert rows_to_table([], Edit).schema.equals(row_schema(Edit))
    assert row_schema(Edit).field("edited").nullable
    assert not row_schema(Edit).field("rank").nullable

"""The run directory: the whole truth about one run, written cell by cell.

```
RUN/
├── manifest.json                  what was asked for, with what, on what: `Manifest`
├── rows/VARIANT/EXPLAINER-DATASET/SHARD-DIGEST.parquet       what an explainer saw
├── scores/VARIANT/EXPLAINER-DATASET/SCORER-SHARD-DIGEST.parquet
│                                  each with a .json beside it: its checksum, and that it is done
├── failures/                      the same tree: message and traceback of what failed
├── variants/VARIANT/receipt.json  what a quantizer did
├── analysis-plan.json             what is to be decided, written before the first cell
├── findings.parquet               the comparison with the parent; beside it trends and replicated
├── report.html, report.md
└── exports/                       the findings as CSV, JSON, LaTeX, BibTeX and sections of model cards
```

Every file is written under another name, flushed to the disk and renamed, so a file that exists is
complete; a cell is done exactly when its sidecar exists. No path is stored, so a copy works anywhere.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import filelock
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from quantxai.errors import CorruptCell, RunError
from quantxai.files import remove_leftovers, safe_name, write_atomically
from quantxai.manifest import CellKey, Failure, Manifest
from quantxai.records import Finding, Measurement, Record, ReplicatedFinding, Trend
from quantxai.tables import row_schema, rows_to_table, stack, table_to_rows, to_frame

__all__ = [
    "CellKey",
    "Failure",
    "Manifest",
    "Store",
    "row_schema",
    "rows_to_table",
    "table_to_rows",
]

_Result = TypeVar("_Result", bound=Record)
_RESULTS: dict[type[Record], str] = {Finding: "findings", Trend: "trends", ReplicatedFinding: "replicated"}


class Store:
    """Reads and writes one run directory.

    Args:
        path: the directory; it is created by the first write.

    Example:
        store = Store.open("runs/default")
        store.measurements().groupby(["variant", "metric"])["value"].mean()
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Return the store of an existing run directory.

        Raises:
            RunError: the path is missing or is no run directory, or its manifest cannot be read.
        """
        store = cls(path)
        if not (store.path / "manifest.json").is_file():
            what = (
                "is not a run directory: it has no manifest.json" if store.path.exists() else "does not exist"
            )
            raise RunError(f"'{path}' {what}. Start a run there with: quantxai sweep --out {path}")
        _ = store.manifest
        return store

    @property
    def manifest(self) -> Manifest:
        """The manifest, read anew each time.

        Raises:
            RunError: there is none, or it is not one this version can read.
        """
        file = self.path / "manifest.json"
        try:
            return Manifest.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            raise RunError(f"'{self.path}' is not a run directory (it has no manifest.json).") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise RunError(
                f"'{file}' cannot be read: {where}: {first['msg']}. It may come from another version of "
                "quantxai; read it with that version or start a new run with: quantxai sweep --out DIR"
            ) from None

    def write_manifest(self, manifest: Manifest) -> None:
        """Write or replace the manifest."""
        write_atomically(self.path / "manifest.json", manifest.model_dump_json(indent=1).encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing; also removes what a killed writer left half written.

        Raises:
            RunError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise RunError(
                f"another quantxai process is writing to this run: '{self.path}'. "
                "Wait for it to end, or give another directory with --out."
            ) from None
        try:
            remove_leftovers(self.path)
            yield
        finally:
            lock.release()

    # Cells

    def write(self, key: CellKey, table: pa.Table, meta: dict[str, Any] | None = None) -> None:
        """Store a cell: first its table, then the sidecar that makes it done.

        Args:
            key: its name.
            table: its content.
            meta: anything worth knowing about it that JSON can hold (seconds, versions, counts).

        Raises:
            OutOfSpace: the disk is full; nothing half written is left behind.
        """
        content = _parquet(table)
        sidecar = {
            "key": key.model_dump(),
            "sha256": hashlib.sha256(content).hexdigest(),
            "rows": table.num_rows,
            "meta": meta or {},
        }
        write_atomically(self._file(key, ".parquet"), content)
        write_atomically(self._file(key, ".json"), json.dumps(sidecar, indent=1).encode())
        self.clear_failure(key)

    def has(self, key: CellKey) -> bool:
        """Return whether the cell is done."""
        return self._file(key, ".json").is_file()

    def read(self, key: CellKey) -> pa.Table:
        """Return a cell's table.

        Raises:
            CorruptCell: it does not match its checksum.
            RunError: it is not done.
        """
        expected = self._sidecar(key)["sha256"]
        file = self._file(key, ".parquet")
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            raise self._corrupt(file, "is missing") from None
        if hashlib.sha256(content).hexdigest() != expected:
            raise self._corrupt(file, "does not match its checksum")
        # Without threads and data sets of files: most cells are small, and a run has hundreds.
        return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)

    def meta(self, key: CellKey) -> dict[str, Any]:
        """Return what was stored about a cell beside its table."""
        meta: dict[str, Any] = self._sidecar(key)["meta"]
        return meta

    def conditions(self) -> list[tuple[str, dict[str, Any]]]:
        """Return variant and conditions of every stored cell of rows; see quantxai.conditions."""
        return [(key.variant, self.meta(key).get("conditions") or {}) for key in self._done("rows")]

    def notes(self) -> list[tuple[CellKey, dict[str, Any]]]:
        """Return what scorers said about themselves, by stored cell of scores, in planned order.

        Such as the accuracy of a judge; see ScoringContext.note and the scorer's documentation.
        """
        found = [(key, self.meta(key).get("notes") or {}) for key in self._done("scores")]
        return [(key, notes) for key, notes in found if notes]

    def discard(self, key: CellKey) -> None:
        """Forget a cell, so that the next sweep computes it again."""
        self._file(key, ".json").unlink(missing_ok=True)
        self._file(key, ".parquet").unlink(missing_ok=True)

    def corrupt(self) -> list[CellKey]:
        """Return the planned cells that are done but do not match their checksum."""
        found = []
        for key in self._done():
            try:
                self.read(key)
            except CorruptCell:
                found.append(key)
        return found

    def _done(self, kind: str | None = None) -> list[CellKey]:
        return [key for key in self.manifest.cells if kind in (None, key.kind) and self.has(key)]

    def _sidecar(self, key: CellKey) -> dict[str, Any]:
        file = self._file(key, ".json")
        try:
            sidecar: dict[str, Any] = json.loads(file.read_bytes())
            if not {"sha256", "meta"} <= sidecar.keys():
                raise ValueError
        except FileNotFoundError:
            raise RunError(
                f"the cell '{key.id}' of '{self.path}' is not done: run the sweep again."
            ) from None
        except ValueError:
            raise self._corrupt(file, "cannot be read") from None
        return sidecar

    def _file(self, key: CellKey, suffix: str) -> Path:
        return self.path / (key.id + suffix)

    def _corrupt(self, file: Path, what: str) -> CorruptCell:
        return CorruptCell(
            f"the stored cell '{file}' {what}; everything else in the run is untouched. Compute it again "
            "with the command that made the run and one more option: quantxai sweep ... --recompute-corrupt"
        )

    # Failures and receipts

    def fail(self, what: CellKey | str, message: str, traceback: str = "") -> None:
        """Record that a cell, or a variant named by a string, failed."""
        cell, variant = (what, what.variant) if isinstance(what, CellKey) else (None, what)
        failure = Failure(variant=variant, cell=cell, message=message, traceback=traceback)
        write_atomically(self._failure(what), failure.model_dump_json(indent=1).encode())

    def clear_failure(self, what: CellKey | str) -> None:
        """Forget a recorded failure, if there is one."""
        self._failure(what).unlink(missing_ok=True)

    def failures(self) -> list[Failure]:
        """Return the recorded failures of what is planned, whole variants first."""
        manifest = self.manifest
        planned = [str(variant["name"]) for variant in manifest.variants] + list(manifest.cells)
        files = [self._failure(what) for what in planned]
        return [Failure.model_validate_json(file.read_bytes()) for file in files if file.is_file()]

    def _failure(self, what: CellKey | str) -> Path:
        name = what.id if isinstance(what, CellKey) else f"variants/{safe_name(what)}"
        return self.path / "failures" / f"{name}.json"

    def write_receipt(self, variant: str, receipt: dict[str, Any]) -> None:
        """Store what a quantizer did: bits, group size, perplexity, execution, kernel, warnings."""
        file = self.path / "variants" / safe_name(variant) / "receipt.json"
        write_atomically(file, json.dumps(receipt, indent=1, allow_nan=False).encode())

    def receipts(self) -> dict[str, dict[str, Any]]:
        """Return the receipts by variant, in the manifest's order."""
        found = {}
        for variant in self.manifest.variants:
            file = self.path / "variants" / safe_name(variant["name"]) / "receipt.json"
            if file.is_file():
                found[str(variant["name"])] = json.loads(file.read_bytes())
        return found

    # Results

    def write_results(self, kind: type[_Result], results: Sequence[_Result]) -> None:
        """Store all results of one kind, replacing earlier ones."""
        write_atomically(self.path / f"{_RESULTS[kind]}.parquet", _parquet(rows_to_table(results, kind)))

    def results(self, kind: type[_Result]) -> list[_Result]:
        """Return the stored results of one kind; none before the first comparison.

        Args:
            kind: Finding, Trend or ReplicatedFinding.

        Raises:
            CorruptCell: the file cannot be read.
        """
        file = self.path / f"{_RESULTS[kind]}.parquet"
        if not file.is_file():
            return []
        try:
            return table_to_rows(pq.read_table(file), kind)
        except (pa.ArrowException, OSError, ValidationError):
            raise CorruptCell(
                f"'{file}' cannot be read. It is derived from the cells; make it again with: "
                f"quantxai report {self.path}"
            ) from None

    def findings(self) -> list[Finding]:
        """Return the stored comparisons of variants; see `results`."""
        return self.results(Finding)

    def trends(self) -> list[Trend]:
        """Return the stored trends over bits; see `results`."""
        return self.results(Trend)

    def replicated(self) -> list[ReplicatedFinding]:
        """Return the stored comparisons over calibration seeds; see `results`."""
        return self.results(ReplicatedFinding)

    def row_table(
        self, explainer: str | None = None, dataset: str | None = None, variant: str | None = None
    ) -> pa.Table:
        """Return the rows of all planned cells that are done, in planned order.

        The columns variant, explainer and dataset come first; then every column any of the
        explainers stores, null for the others.

        Args:
            explainer: only this one's.
            dataset: only this one's.
            variant: only this one's.

        Raises:
            CorruptCell: a cell does not match its checksum.
        """
        wanted = {"explainer": explainer, "dataset": dataset, "variant": variant}
        keys = [
            key
            for key in self._done("rows")
            if all(value in (None, getattr(key, name)) for name, value in wanted.items())
        ]
        columns = ["variant", "explainer", "dataset"]
        empty = pa.table({name: pa.array([], pa.string()) for name in [*columns, "item", "group"]})
        return stack([empty, *(_with_key(self.read(key), key, columns) for key in keys)])

    def rows(
        self, explainer: str | None = None, dataset: str | None = None, variant: str | None = None
    ) -> pd.DataFrame:
        """Return `row_table` as a DataFrame."""
        return to_frame(self.row_table(explainer, dataset, variant))

    def measurement_table(self) -> pa.Table:
        """Return the scores of all planned cells that are done: `Measurement.COLUMNS`.

        Raises:
            CorruptCell: a cell does not match its checksum.
        """
        columns = ["variant", "explainer", "dataset", "scorer"]
        schema = row_schema(Measurement)
        tables = [_with_key(self.read(key), key, columns) for key in self._done("scores")]
        selected = [table.select(schema.names).cast(schema) for table in tables]
        table = pa.concat_tables([schema.empty_table(), *selected])
        # nan is no value either, and DuckDB would not skip it in a mean.
        value = pc.if_else(pc.is_nan(table["value"]), None, table["value"])
        return table.set_column(schema.get_field_index("value"), schema.field("value"), value)

    def measurements(self) -> pd.DataFrame:
        """Return `measurement_table` as a DataFrame; a missing value is nan."""
        return to_frame(self.measurement_table())


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _with_key(table: pa.Table, key: CellKey, columns: list[str]) -> pa.Table:
    """Return the table led by columns that hold the key's fields, replacing such columns it has."""
    kept = table.drop_columns([name for name in columns if name in table.column_names])
    values = [pa.array([getattr(key, name)] * table.num_rows, pa.string()) for name in columns]
    return pa.table([*values, *kept.columns], names=[*columns, *kept.column_names])

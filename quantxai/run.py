"""The sweep itself: fetch, quantize, explain, score, compare, report; resumable at every cell."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from quantxai import conditions, machine
from quantxai.analysis_plan import (
    AnalysisPlan,
    changes,
    keep_plan,
    plan_of,
    plan_status,
    read_plan,
    refuse_results,
    write_plan,
)
from quantxai.compare import compare
from quantxai.config import SweepConfig, parse_config
from quantxai.errors import CorruptCell, IncompleteRun, ModelError, OutOfSpace, RunError
from quantxai.exports import write_exports
from quantxai.footprint import cost_per_item
from quantxai.jobs import FetchParent, RunVariant, ScoreRows
from quantxai.manifest import CellKey
from quantxai.plan import Plan, RowCell, ScoreCell, check_place, make_plan
from quantxai.records import Finding, ReplicatedFinding, Trend
from quantxai.replicates import families, replicated
from quantxai.report import build_report
from quantxai.report.text import count, error_kind
from quantxai.store import Store
from quantxai.trends import methods_by_bits, trends
from quantxai.variants import Variant, check_packages
from quantxai.workers import Job, Message, run_jobs

__all__ = ["Progress", "Silent", "compare_run", "plan_analysis", "sweep"]

_MOST_REASONS = 8
"""Failures told at the end of an incomplete run."""


class Progress(Protocol):
    """Who is told how a sweep is going."""

    def line(self, text: str) -> None:
        """Something worth a line happened."""

    def start(self, what: str, total: int) -> None:
        """A stage of `total` units begins."""

    def advance(self, units: int) -> None:
        """Units of the stage were finished."""

    def stop(self) -> None:
        """The stage is over."""


class Silent:
    """A Progress that says nothing."""

    def line(self, text: str) -> None:
        """Say nothing."""

    def start(self, what: str, total: int) -> None:
        """Say nothing."""

    def advance(self, units: int) -> None:
        """Say nothing."""

    def stop(self) -> None:
        """Say nothing."""


def sweep(
    config: SweepConfig | Mapping[str, Any] | None = None,
    out: str | Path = "runs/default",
    *,
    progress: Progress | None = None,
    recompute_corrupt: bool = False,
) -> Store:
    """Run a sweep, or finish one that was interrupted, and return its store.

    Cells that are stored are not computed again. Call it under `if __name__ == "__main__":` in a
    script, because its worker processes import the script.

    Args:
        config: a configuration, or its tables as a TOML file would hold them; the default sweep where
            left out.
        out: the run directory.
        progress: told how it goes; nothing is printed where left out.
        recompute_corrupt: compute cells again that do not match their checksum.

    Raises:
        InputError: what is asked for cannot be done; nothing was computed.
        CorruptCell: a stored cell is damaged and `recompute_corrupt` is off.
        IncompleteRun: some cells failed; the rest is stored, compared and reported.

    Example:
        ```python
        from quantxai.run import sweep

        if __name__ == "__main__":
            store = sweep({"variants": [{"quantizer": "full"}, {"quantizer": "rtn", "bits": 3}]}, "runs/rtn")
            for finding in store.findings():
                print(finding.variant, finding.metric, finding.estimate, finding.verdict)
        ```
    """
    if not isinstance(config, SweepConfig):
        config = parse_config(config or {})
    plan = make_plan(config)
    check_packages(list(plan.variants))
    store = Store(out)
    check_place(plan, store)
    with store.lock():
        return _Sweep(plan, store, progress or Silent(), recompute_corrupt).run()


def plan_analysis(config: SweepConfig, out: str | Path) -> AnalysisPlan:
    """Write the analysis plan of a sweep into its run directory, before it has a result, and return it.

    Raises:
        InputError: what is asked for cannot be done, or the run has results already.
    """
    plan, store = make_plan(config), Store(out)
    check_place(plan, store)
    refuse_results(store)
    with store.lock():
        _write_manifest(plan, store)
        written = plan_of(store.manifest)
        write_plan(store, written)
    return written


def _write_manifest(plan: Plan, store: Store) -> None:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    try:
        earlier = store.manifest
    except RunError:
        if (store.path / "manifest.json").is_file():
            raise
        store.write_manifest(plan.manifest([command]))
        return
    store.write_manifest(plan.manifest([*earlier.commands, command], earlier.created))


class _Sweep:
    """One issue of the command on one run directory."""

    def __init__(self, plan: Plan, store: Store, progress: Progress, recompute_corrupt: bool) -> None:
        self.plan, self.store, self.progress = plan, store, progress
        self.recompute_corrupt = recompute_corrupt
        self.failed: list[tuple[str, str]] = []
        self.full = ""
        self.value: Any = None

    def run(self) -> Store:
        parent = self._fetch()  # refuses what cannot work, before anything is replaced
        _write_manifest(self.plan, self.store)
        self._keep_plan()
        self._check_stored()
        self._explain(parent)
        self._score(parent)
        self.progress.line("comparing variants and writing the report")
        compare_run(self.store)
        build_report(self.store)
        write_exports(self.store)
        missing = [c.key for c in self.plan.cells if not self.store.has(c.key)]
        if self.failed or missing:
            reasons = _grouped(self.failed)
            more = len(reasons) - _MOST_REASONS
            if more > 0:
                reasons[_MOST_REASONS:] = [f"and {more} more; all are in {self.store.path / 'failures'}"]
            raise IncompleteRun(
                f"{len(missing)} of {len(self.plan.cells)} cells are missing"
                + "".join(f"\n  {reason}" for reason in reasons)
                + f"\nAll others are stored and reported in {self.store.path / 'report.html'}. "
                f"{self._advice()}"
            )
        return self.store

    def _advice(self) -> str:
        """What to do about what failed: what a model cannot do, it cannot do the next time either."""
        failures = self.store.failures()
        hopeless = [f for f in failures if f.cell and error_kind(f.message, f.traceback) == "ModelError"]
        found = []
        if hopeless:
            found.append("Remove these explainers from the configuration, or choose another model.")
        if len(hopeless) < len(failures) or not failures:
            found.append("Give the same command again to retry.")
        return " ".join(found)

    def _keep_plan(self) -> None:
        """Write down what is to be decided, before there is a result."""
        earlier = read_plan(self.store)
        plan = keep_plan(self.store)
        if plan is None:
            return
        told = f"analysis plan {plan.digest[:12]} written: {count(len(plan.confirmatory), 'confirmatory outcome')}"
        if earlier is not None:
            told += f", in place of {earlier.digest[:12]}: {'; '.join(changes(earlier, plan))}"
        self.progress.line(told)

    def _check_stored(self) -> None:
        corrupt = self.store.corrupt()
        if corrupt and not self.recompute_corrupt:
            names = "".join(f"\n  {self.store.path / key.id}" for key in corrupt)
            raise CorruptCell(
                f"{len(corrupt)} stored cell(s) do not match their checksum:{names}\nNothing else is affected. "
                "Give the same command with --recompute-corrupt to compute them again."
            )
        self._check_conditions()
        for key in corrupt:
            self.progress.line(f"discarding the corrupt cell {key.id}")
            self.store.discard(key)

    def _check_conditions(self) -> None:
        """Refuse to add to stored cells what could not be compared with them, before it is computed."""
        stored = self.store.conditions()
        missing = [c.key.variant for c in self.plan.rows if not self.store.has(c.key)]
        now = [
            (name, {"engine": conditions.engine(self.plan.config.engine)}) for name in dict.fromkeys(missing)
        ]
        conditions.check([*stored, *now], self.plan.parent.name, self.plan.config.analysis.pool)

    def _fetch(self) -> Path:
        if self.plan.model.path is None or any(not v.prepared for v in self.plan.variants):
            job = FetchParent("model", machine.cores(), self.plan.model, self.plan.variants)
            self._run([job], 1)
            if self.full:
                raise OutOfSpace(self.full)
            if self.failed:
                raise ModelError(self.failed[0][1])
            return Path(self.value)
        return self.plan.model.path

    def _explain(self, parent: Path) -> None:
        missing = [c for c in self.plan.rows if not self.store.has(c.key)]
        receipts = self.store.receipts()
        jobs = [
            RunVariant(
                name=variant.name,
                threads=self.plan.threads,
                variant=variant,
                parent=parent,
                run=self.store.path,
                cells=[c for c in missing if c.variant is variant],
                batch_tokens=self.plan.config.batch_tokens,
                seed=self.plan.config.seed,
                run_broken=self.plan.config.run_broken,
            )
            for variant in self.plan.variants
        ]
        jobs = [j for j in jobs if j.cells or j.variant.name not in receipts]
        # Longest first: what has to be calibrated, then what has to be made, then int8's slower kernel.
        jobs.sort(
            key=lambda j: (
                j.variant.prepared,
                not j.variant.quantizer.calibrated,
                j.variant.quantizer.has_twin,
            )
        )
        for job in jobs:
            self.store.clear_failure(job.variant.name)
        self.progress.start("explaining", sum(len(c.items) for c in missing))
        self._run(_shared_out(jobs, self.plan.workers), self.plan.workers)
        self.progress.stop()

    def _score(self, parent: Path) -> None:
        ready = [c for c in self.plan.scores if not self.store.has(c.key) and self._explained(c)]
        if not ready:
            return
        # The parent's judgement of its own edits is in its rows.
        crossed = [c for c in ready if c.judge is not None and c.judge is not self.plan.parent]
        # As many processes as may run at a time, so that models are loaded seldom; each gets some scorers
        # on one data set and the others on the next, so that the costly ones are spread.
        others = [c for c in ready if c.judge is None or c.judge is self.plan.parent]
        entries = list(dict.fromkeys((c.key.explainer, c.key.dataset) for c in others))
        scorers = sorted({c.key.scorer for c in others})
        groups: list[list[ScoreCell]] = [[] for _ in range(self.plan.workers)]
        # In each, first what needs the parent alone, so that it is not loaded again after another model.
        for cell in sorted(others, key=lambda c: c.scorer.models):
            turn = entries.index((cell.key.explainer, cell.key.dataset)) + scorers.index(cell.key.scorer)
            groups[turn % self.plan.workers].append(cell)
        jobs = [
            self._scoring(f"scoring {number}", self.plan.parent, parent, group)
            for number, group in enumerate(groups, 1)
            if group
        ]
        # Then each variant as a judge, in a process of its own.
        jobs += [
            self._scoring(f"{variant.name} as judge", variant, parent, cells)
            for variant in self.plan.variants
            if (cells := [c for c in crossed if c.judge is variant])
        ]
        self.progress.start("scoring", len(ready))
        self._run(jobs, self.plan.workers)
        self.progress.stop()

    def _explained(self, cell: ScoreCell) -> bool:
        """Whether the rows it reads are stored, and its variant's: one that failed is no judge either."""
        own = [c.key for c in self.plan.rows if c.entry is cell.entry and c.key.variant == cell.key.variant]
        return all(self.store.has(key) for key in [*cell.rows, *cell.parent_rows, *own])

    def _scoring(self, name: str, judge: Variant, parent: Path, cells: Sequence[ScoreCell]) -> ScoreRows:
        return ScoreRows(
            name=name,
            threads=self.plan.threads,
            parent_variant=self.plan.parent,
            judge=judge,
            parent=parent,
            run=self.store.path,
            cells=cells,
            batch_tokens=self.plan.config.batch_tokens,
        )

    def _run(self, jobs: list[Any], workers: int) -> None:
        if jobs:
            run_jobs(jobs, workers, self._handle, self.store.path / "log.txt")

    def _handle(self, job: Job, message: Message) -> None:
        kind, value = message
        if kind == "line":
            self.progress.line(value)
        elif kind == "value":
            self.value = value
        elif kind == "full":
            self.full = value
        elif kind == "done":
            _, items, _ = value
            self.progress.advance(items or 1)
        elif kind in ("failed", "died"):
            what, reason = value
            if isinstance(job, FetchParent):
                self.failed.append(("model", reason))
                return
            if kind == "died" and isinstance(job, RunVariant):  # others have recorded it themselves
                self.store.fail(job.variant.name, reason)
            name = what.id if isinstance(what, CellKey) else what
            self.failed.append((name, reason))
            self.progress.line(f"failed: {name}: {reason}")


def _grouped(failed: Sequence[tuple[str, str]]) -> list[str]:
    """Return each reason once, with what it stopped."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in dict.fromkeys(failed):
        by_reason.setdefault(reason, []).append(name)
    return [
        f"{names[0] if len(names) == 1 else f'{len(names)} cells'}: {reason}"
        for reason, names in by_reason.items()
    ]


def _shared_out(jobs: list[RunVariant], workers: int) -> list[RunVariant]:
    """Split the last jobs into their cells where they would leave workers idle.

    Seven variants on two workers then take 3.5 turns, not 4.
    """
    alone = len(jobs) % workers
    if not alone:
        return jobs
    parts = [replace(job, cells=[cell]) for job in jobs[-alone:] for cell in job.cells]
    parts.sort(key=lambda job: -_tokens(job.cells[0]))
    return [*jobs[:-alone], *(parts or jobs[-alone:])]


def _tokens(cell: RowCell) -> float:
    return len(cell.items) * cost_per_item(cell.entry)


def compare_run(store: Store) -> None:
    """Compare every variant of a run with its parent, and store findings, trends and replicated findings.

    Without a plan made beforehand, or with another one, nothing is confirmatory.
    """
    manifest = store.manifest
    metrics, analysis = manifest.metrics, manifest.planned_analysis
    conditions.check(store.conditions(), manifest.parent, analysis.pool)
    if not plan_status(store).planned:
        analysis = analysis.model_copy(update={"confirmatory": ()})
    seed = int(manifest.analysis.get("seed", 0))
    measurements = store.measurements()
    seeds = families(manifest.variants)
    # Further seeds and noise change the weights: among reruns they would make the correction of these milder.
    further = {name for names in seeds.values() for name in names[1:]}
    noise = {v["name"] for v in manifest.variants if v.get("method") == "noise"}
    null = {v["name"] for v in manifest.variants if v.get("control")} - further - noise
    findings = compare(measurements, metrics, manifest.parent, analysis, seed, [null, noise, further])
    store.write_results(Finding, findings)
    widths = methods_by_bits(manifest.variants, store.receipts(), manifest.parent)
    store.write_results(Trend, trends(measurements, metrics, widths, analysis, seed))
    store.write_results(
        ReplicatedFinding, replicated(measurements, metrics, seeds, manifest.parent, analysis)
    )

"""`quantxai sweep`: run it, or say what it would do."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantxai.commands.present import columns, complain, presented, print_json, size, wrapped

if TYPE_CHECKING:
    from quantxai.config import SweepConfig
    from quantxai.estimate import Estimate
    from quantxai.manifest import CellKey
    from quantxai.plan import Plan
    from quantxai.store import Store
    from quantxai.summary import RunSummary

__all__ = ["sweep"]


@presented
def sweep(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG.toml", help="What to compare; the default sweep where left out."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="A registered model, a local directory or a Hub id.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run directory.")] = Path("runs/default"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done and stop.")] = False,
    recompute_corrupt: Annotated[
        bool,
        typer.Option("--recompute-corrupt", help="Compute cells again that do not match their checksum."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Variants run at the same time.")
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n", min=1, metavar="N", help="At most so many items per explainer, for a quick look."
        ),
    ] = None,
    run_broken: Annotated[
        bool, typer.Option("--run-broken", help="Explain variants that fail the sanity gate, too.")
    ] = False,
    pool: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help="Compare although this differs between stored cells."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Quantize, explain, score, compare, report.

    Runs the default sweep, or the one CONFIG.toml describes (see: quantxai init). Whatever is stored
    in the run directory already is not computed again: giving the same command again resumes an
    interrupted sweep.

    Ends with exit code 0 when everything is there, 3 when some cells failed, 2 on bad input.

    Example: quantxai sweep --model path/to/model --out runs/mine
    """
    settings = _configuration(config, model, n, workers)
    if pool:
        settings = _pooling(settings, pool)
    if run_broken:
        settings = settings.model_copy(update={"run_broken": True})
    with _naming(config):
        if dry_run:
            _print_plan(settings, out, as_json)
        else:
            _run(settings, out, recompute_corrupt, as_json)


@contextmanager
def _naming(path: Path | None) -> Iterator[None]:
    """Let errors about what a file asks for begin with its name."""
    from quantxai.errors import ConfigError, DataError, ModelError, UnknownName

    try:
        yield
    except (ConfigError, DataError, ModelError, UnknownName) as error:
        if path is None:
            raise
        raise ConfigError(f"{path}: {error}") from None


def _configuration(path: Path | None, model: str | None, n: int | None, workers: int | None) -> SweepConfig:
    from quantxai.config import load_config, parse_config

    config = parse_config({}) if path is None else load_config(path)
    changes: dict[str, Any] = {}
    if model is not None:
        changes["model"] = config.model.model_copy(update={"name": model, "revision": None})
    if workers is not None:
        changes["workers"] = workers
    if n is not None:
        changes["explainers"] = tuple(e.model_copy(update={"n": min(n, e.n or n)}) for e in config.explainers)
    return config.model_copy(update=changes)


def _pooling(config: SweepConfig, pool: list[str]) -> SweepConfig:
    from quantxai.analysis import Analysis
    from quantxai.validation import validate

    analysis = validate(Analysis, {**config.analysis.model_dump(), "pool": pool}, "--pool")
    return config.model_copy(update={"analysis": analysis})


def _run(config: SweepConfig, out: Path, recompute_corrupt: bool, as_json: bool) -> None:
    from quantxai import run
    from quantxai.errors import IncompleteRun
    from quantxai.progress import duration, for_stream
    from quantxai.store import Store
    from quantxai.summary import summarize

    start = time.monotonic()
    incomplete = None
    try:
        with for_stream() as progress:
            run.sweep(config, out, progress=progress, recompute_corrupt=recompute_corrupt)
    except IncompleteRun as error:
        incomplete = error
    summary = summarize(Store(out))
    seconds = time.monotonic() - start
    if as_json:
        print_json({**summary.model_dump(), "seconds": round(seconds, 1), "complete": incomplete is None})
    else:
        typer.echo(_table(summary))
        typer.echo(f"\nReport: {summary.report}\nTime:   {duration(seconds)}")
    if incomplete is not None:
        raise incomplete


def _table(summary: RunSummary) -> str:
    from quantxai.summary import HEADLINES, LEGEND

    shown = list(dict.fromkeys(m for v in summary.variants for m in v.metrics))
    verdicts = ("degraded", "equivalent", "improved", "unresolved")
    rows = [["variant", "bits", "perplexity", *(HEADLINES[m] for m in shown), *verdicts]]
    for variant in summary.variants:
        compared = variant.name != summary.parent and bool(variant.verdicts)
        rows.append(
            [
                variant.name,
                "-" if variant.weight_bits is None else f"{variant.weight_bits:g}",
                "-" if variant.perplexity is None else f"{variant.perplexity:.1f}",
                *(_percent(variant.metrics[m]) for m in shown),
                *(str(variant.verdicts.get(v, 0)) if compared else "" for v in verdicts),
            ]
        )
    legend = "; ".join(["perplexity on the built-in news", *(LEGEND[m] for m in shown)])
    parts = [
        "",
        columns(rows, right=range(1, len(rows[0]))),
        wrapped(f"({legend})", 0),
        "",
        wrapped(summary.answer, 0),
    ]
    parts += [wrapped(text, 2, "! ") for v in summary.variants for text in _remarks(v.name, v.warnings)]
    return "\n".join(parts)


def _remarks(name: str, warnings: list[str]) -> list[str]:
    return [f"{name}: {warning}" for warning in warnings]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _print_plan(config: SweepConfig, out: Path, as_json: bool) -> None:
    from quantxai.errors import MissingExtra
    from quantxai.estimate import estimate
    from quantxai.plan import check_place, done, make_plan
    from quantxai.store import Store
    from quantxai.variants import check_packages

    plan, store = make_plan(config), Store(out)
    check_place(plan, store)
    stored = done(plan, store)
    cost = estimate(plan, store, stored)
    missing = None
    try:
        check_packages(list(plan.variants))
    except MissingExtra as error:
        missing = str(error)
    variants = [_planned(plan, name, stored) for name in [v.name for v in plan.variants]]
    if as_json:
        model = plan.model.model_dump(mode="json")
        entries = [_entry(e.config.name, e.config.dataset, e.items, len(e.shards)) for e in plan.entries]
        facts = {"run": str(out), "model": model, "explainers": entries, "variants": variants}
        print_json({**facts, "estimate": cost.model_dump(), "cannot_run": missing})
        return
    typer.echo(_plan_text(plan, store, variants, cost))
    if missing:
        complain(f"this sweep cannot run here yet: {missing}", kind="note")


def _entry(explainer: str, dataset: str, items: int, shards: int) -> dict[str, Any]:
    return {"explainer": explainer, "dataset": dataset, "items": items, "cells": shards}


def _planned(plan: Plan, name: str, stored: set[CellKey]) -> dict[str, Any]:
    variant = next(v for v in plan.variants if v.name == name)
    keys = [c.key for c in plan.cells if c.key.variant == name]
    finished = sum(key in stored for key in keys)
    return {
        "name": name,
        "cells": len(keys),
        "done": finished,
        "to_do": len(keys) - finished,
        "prepared": variant.prepared,
        "quantized": variant.quantizer.weight_bits is not None,
        "execution": variant.execution,
        "dtype": variant.dtype,
        "digest": variant.digest,
    }


def _plan_text(plan: Plan, store: Store, variants: list[dict[str, Any]], cost: Estimate) -> str:
    from quantxai.models import cache_directory, nearest_existing
    from quantxai.progress import duration

    here = plan.model.path is not None
    rows = [["variant", "cells", "done", "to do", "runs", "weights"]]
    for v in variants:
        work = "to be quantized" if v["quantized"] else "to be measured"
        runs = v["execution"] if v["quantized"] else "as trained"
        counts = [str(v[key]) for key in ("cells", "done", "to_do")]
        rows.append([v["name"], *counts, runs, "ready" if v["prepared"] else work])
    total = [str(sum(v[key] for v in variants)) for key in ("cells", "done", "to_do")]
    rows.append(["all", *total, "", ""])
    free = shutil.disk_usage(nearest_existing(cache_directory())).free
    of_gpu = "" if plan.parent.device == "cpu" else " on the GPU"
    memory = "unknown" if cost.memory_bytes is None else f"{size(cost.memory_bytes)}{of_gpu} at its peak"
    seconds = "unknown"
    if cost.seconds is not None:
        seconds = f"about {duration(cost.seconds)}, good to a factor of two at best"
    lines = [
        f"model  {plan.model.name} ({plan.model.source}), {'already here' if here else 'to be fetched'}; "
        f"{plan.parent.dtype} on {plan.parent.device}",
        f"run    {store.path}{'' if store.path.exists() else ' (new)'}",
        "",
        *(
            f"{e.config.name} on {e.config.dataset}: {e.items} items, cells per variant: {len(e.shards)}"
            for e in plan.entries
        ),
        f"scored by {', '.join(s.scorer for s in plan.config.scorers)}",
        "",
        columns(rows, right=(1, 2, 3)),
        "",
        "Still to spend, an estimate:",
        f"  download  {size(cost.download_bytes) if cost.download_bytes else 'nothing'}",
        f"  disk      {size(cost.disk_bytes)} of {size(free)} free for {cache_directory()}",
        f"  memory    {memory}",
        f"  time      {seconds} ({cost.basis})",
    ]
    return "\n".join(lines)

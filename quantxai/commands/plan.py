"""`quantxai plan`: before a sweep: what it is to decide, and what each variant would need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantxai.commands.present import columns, presented, print_json, size, wrapped
from quantxai.errors import ConfigError

if TYPE_CHECKING:
    from quantxai.devices import Device
    from quantxai.footprint import Footprint
    from quantxai.plan import Plan
    from quantxai.shapes import Shape

__all__ = ["plan"]


@presented
def plan(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[CONFIG.toml|MODEL]",
            help="A sweep's configuration, the default sweep where left out; or a registered model, a Hub id, or a "
            "directory or config.json.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run directory that gets the plan.")] = Path(
        "runs/default"
    ),
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of a model: h100, a100, rtx4090, ...; this machine's processor where left out.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="CONFIG.toml", help="Of a model: variants and items; the default sweep's where left out."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fix what a sweep is to decide, or say what a model needs.

    Given a configuration, writes the analysis plan, hashed and time-stamped, into the run directory: the
    confirmatory outcomes, margins, level and correction. It must be there before the first result (a sweep
    without one writes it when it starts), and the report says whether it was kept.

    Given a model, says what each variant needs, and whether it fits: memory and time from the model's
    config.json alone. No weights are fetched, and no GPU is needed.

    Example: quantxai plan sweep.toml --out runs/mine
    """
    if target is None or target.endswith(".toml"):
        if gpu is not None or config is not None:
            raise ConfigError(
                "--gpu and --config say what a model needs: name the model, quantxai plan MODEL --gpu"
            )
        _fix_analysis(None if target is None else Path(target), out, as_json)
    else:
        _footprint(target, gpu, config, as_json)


def _fix_analysis(path: Path | None, out: Path, as_json: bool) -> None:
    from quantxai.analysis_plan import FILE
    from quantxai.config import load_config, parse_config
    from quantxai.run import plan_analysis

    written = plan_analysis(parse_config({}) if path is None else load_config(path), out)
    if as_json:
        print_json({"file": str(out / FILE), **written.model_dump()})
        return
    rows = [["confirmatory outcome", "better", "margin", "unit"]]
    rows += [
        [o.outcome, "more" if o.higher_is_better else "less", f"{o.margin:g}", o.unit]
        for o in written.confirmatory
    ]
    correction = {"none": "not corrected for their number"}.get(
        written.correction, f"corrected by {written.correction.capitalize()}"
    )
    others = f"All {len(written.margins)} other outcomes that have a direction are exploratory (Benjamini-Hochberg)."
    contrasts = "".join(f" Also {one} against {other}." for one, other in written.contrasts)
    lines = [
        columns(rows, right=(2,)),
        "",
        wrapped(
            f"Of {len(written.variants) - 1} variants against {written.parent}, on {len(written.data)} explainers and "
            f"data sets; alpha {written.alpha:g}, {correction}.{contrasts} {others}",
            0,
        ),
        "",
        f"written {out / FILE}",
        f"time    {written.created}",
        f"digest  {written.digest}",
    ]
    typer.echo("\n".join(lines))


def _footprint(model: str, gpu: str | None, config: Path | None, as_json: bool) -> None:
    from quantxai.footprint import footprint_of

    found, shape, device, needed = footprint_of(model, gpu, config)
    if as_json:
        print_json(
            {
                "model": found.model.name,
                "parameters": shape.parameters,
                "device": device._asdict(),
                "batch_tokens": found.config.batch_tokens,
                "variants": [f.model_dump() for f in needed],
            }
        )
        return
    typer.echo(_text(found, shape, device, needed))


def _text(plan: Plan, shape: Shape, device: Device, needed: list[Footprint]) -> str:
    from quantxai.progress import duration

    rows = [["variant", "runs", "weights", "KV cache", "calibration", "peak", "fits", "quantize", "explain"]]
    for f in needed:
        rows.append(
            [
                f.variant,
                "as it is" if f.quantized_bits is None else f.execution,
                size(f.weights_bytes),
                size(f.kv_cache_bytes),
                "-" if f.calibration_bytes is None else size(f.calibration_bytes),
                size(f.peak_bytes),
                {True: "yes", False: "NO", None: "?"}[f.fits],
                "-" if f.quantization_seconds is None else duration(f.quantization_seconds),
                duration(f.explaining_seconds),
            ]
        )
    items = sum(e.items for e in plan.entries)
    lines = [
        f"model   {plan.model.name}: {shape.model_type}, {shape.parameters / 1e6:,.0f} M parameters, {device.dtype}",
        f"device  {device.name}, {device.memory_bytes / 1e9:.0f} GB",
        "",
        columns(rows, right=range(2, 9)),
        "",
        *(wrapped(f"{f.variant}: {f.problem}", 2, "! ") for f in needed if f.problem),
        wrapped(
            f"KV cache: of {plan.config.batch_tokens} tokens, a full batch. Calibration: peak while quantizing. Peak: "
            "the largest of quantizing, explaining, and the self-tests, which hold a variant beside its parent. "
            f"Explain: {items} items.",
            0,
        ),
        wrapped(f"Times: {device.basis}.", 0),
    ]
    return "\n".join(lines)
